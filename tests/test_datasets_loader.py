"""Batches: the right rows, the same order again, nothing lost on resume."""

import numpy as np
import pytest

from ulna.datasets import gather as gather_file
from ulna.datasets.gather import WindowSpec
from ulna.datasets.image_codec import Lossless
from ulna.datasets.loader import WindowLoader
from ulna.datasets.schema import Batch, Episode
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

ROBOT = synthetic_embodiment()
EPISODES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("loader") / "s.zarr", ROBOT)
    with Writer(store.path, Lossless()) as writer:
        for seed in range(EPISODES):
            writer.add_episode(synthetic_episode(ROBOT, seed))
    return Store.open(store.path)


@pytest.fixture
def episodes() -> list[Episode]:
    return [synthetic_episode(ROBOT, seed) for seed in range(EPISODES)]


def copied(batch: Batch) -> list[np.ndarray]:
    arrays = [batch.state, batch.action_chunk, batch.action_is_pad, *batch.images.values()]
    return [array.copy() for array in arrays] + [np.array(batch.instructions)]


def assert_same(one: list[np.ndarray], two: list[np.ndarray]) -> None:
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


def test_every_window_holds_what_the_episode_says(store: Store, episodes: list[Episode]):
    chosen, horizon = [4, 1], 7
    loader = WindowLoader(store, horizon, 8, seed=0, episodes=chosen)
    batch = loader.batch_at(np.arange(len(loader.windows)))
    window = 0
    for index in chosen:
        episode = episodes[index]
        for step in range(episode.steps):
            for camera in ("front", "wrist"):
                image = batch.images[camera][window]
                np.testing.assert_array_equal(image, episode.images[camera][step])
            np.testing.assert_array_equal(batch.state[window], episode.streams["state"][step])
            for ahead in range(horizon):
                due = min(step + ahead, episode.steps - 1)
                action = batch.action_chunk[window, ahead]
                np.testing.assert_array_equal(action, episode.streams["action"][due])
                assert batch.action_is_pad[window, ahead] == (step + ahead >= episode.steps)
            assert batch.instructions[window] == episode.instruction
            window += 1
    assert window == len(loader.windows)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_epoch_is_every_window_at_most_once(store: Store, prefetch: int):
    loader = WindowLoader(store, WindowSpec(4, cameras=("wrist",)), 16, seed=3, prefetch=prefetch)
    assert len(loader) == len(loader.windows) // 16
    assert set(next(loader).images) == {"wrist"}
    loader = WindowLoader(store, WindowSpec(4, cameras=()), 16, seed=3, prefetch=prefetch)
    for _ in range(2):
        states = np.concatenate([next(loader).state.copy() for _ in range(len(loader))])
        assert len(np.unique(states, axis=0)) == 16 * len(loader)


def test_order_follows_the_seed_and_is_shuffled_anew_each_epoch(store: Store):
    def two_epochs(seed: int, prefetch: int) -> list[list[np.ndarray]]:
        loader = WindowLoader(store, 4, 16, seed=seed, prefetch=prefetch)
        return [copied(next(loader)) for _ in range(2 * len(loader))]

    first = two_epochs(0, prefetch=0)
    for one, two in zip(first, two_epochs(0, prefetch=2), strict=True):
        assert_same(one, two)
    half = len(first) // 2
    assert not np.array_equal(first[0][0], first[half][0])
    assert not np.array_equal(first[0][0], two_epochs(1, prefetch=0)[0][0])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume_gives_the_batch_that_would_have_followed(store: Store, prefetch: int):
    loader = WindowLoader(store, 4, 16, seed=5, prefetch=prefetch)
    stop = len(loader) + 2  # in the middle of the second epoch
    for _ in range(stop):
        next(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 2)
    expected = [copied(next(loader)) for _ in range(5)]
    fresh = WindowLoader(store, 4, 16, seed=99, prefetch=prefetch)
    next(fresh)
    fresh.load_state_dict(state)
    for batch in expected:
        assert_same(copied(next(fresh)), batch)
    with pytest.raises(ValueError, match="global_batch_size 16, this loader 8"):
        WindowLoader(store, 4, 8, seed=5).load_state_dict(state)


def test_ranks_together_see_what_one_loader_sees(store: Store):
    whole = WindowLoader(store, 4, 12, seed=1)
    ranks = [WindowLoader(store, 4, 4, seed=1, rank=r, world_size=3) for r in range(3)]
    for _ in range(len(whole)):
        parts = [next(rank).state for rank in ranks]
        np.testing.assert_array_equal(np.stack(parts, 1).reshape(12, -1), next(whole).state)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_batch_stays_until_the_second_next(store: Store, prefetch: int):
    loader = WindowLoader(store, 4, 16, seed=2, prefetch=prefetch)
    buffers = set()
    for _ in range(3 * len(loader)):
        batch = next(loader)
        kept = copied(batch)
        buffers.add(batch.state.ctypes.data)
        next(loader)
        for prepared in loader._pending:
            prepared.result()  # everything prepared ahead has been written
        assert_same(copied(batch), kept)
    assert len(buffers) <= prefetch + 2


def test_refusals(store: Store, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="do not fill one batch of 10000 x 1; use a smaller"):
        WindowLoader(store, 4, 10000, seed=0)
    with pytest.raises(ValueError, match="Did you mean 'wrist'"):
        WindowLoader(store, WindowSpec(4, cameras=("wirst",)), 8, seed=0)
    with pytest.raises(ValueError, match="episode 6 does not exist"):
        WindowLoader(store, 4, 8, seed=0, episodes=[0, 6])
    with pytest.raises(ValueError, match="no episodes"):
        WindowLoader(store, 4, 8, seed=0, episodes=[])
    monkeypatch.setattr(gather_file, "available_memory", lambda: 1000)
    with pytest.raises(ValueError, match="GB of memory.*fewer episodes"):
        WindowLoader(store, 4, 8, seed=0, cache="ram")
