"""Batches against plain zarr: every mode, codec and feature gives exactly what is stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ulna.datasets import edit
from ulna.datasets.gather import WindowGather, WindowSpec
from ulna.datasets.image_codec import Clip, ImageCodec, Jpeg, Lossless
from ulna.datasets.loader import WindowLoader
from ulna.datasets.mixture import Mixture, Source
from ulna.datasets.pack import pack
from ulna.datasets.schema import Batch, Camera, Subgoal
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer
from ulna.datasets.zarr_codecs import register

ROBOT = replace(
    synthetic_embodiment(16),
    # Cameras of different sizes, one with depth.
    cameras=(Camera("front", 16, 24), Camera("wrist", 24, 16, depth_unit_m=0.001)),
)


def make_store(path: Path, codec: ImageCodec, seeds: range, robot=ROBOT) -> Store:  # noqa: ANN001
    """Episodes of uneven length, one of them split, one packed."""
    store = Store.create(path, robot)
    with Writer(path, codec) as writer:
        for seed in seeds:
            episode = synthetic_episode(robot, seed, 20 + seed % 5 if seed != seeds[0] else 300)
            steps = episode.steps
            depth = np.random.default_rng(seed).integers(0, 3000, (steps, 24, 16), np.uint16)
            writer.add_episode(
                replace(
                    episode,
                    depth={"wrist": depth} if robot is ROBOT else {},
                    paraphrases=(f"say {seed}", f"also {seed}"),
                    subgoals=(Subgoal(2, 5, "reach"),),
                )
            )
        store.refresh()
        edit.split(writer, store, 1, [7])
        store.refresh()
        pack(writer, store, [len(store.episodes) - 1])
    store.refresh()
    return store


@pytest.fixture(scope="module", params=[Lossless(), Jpeg(), Clip()], ids=lambda codec: codec.type)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    register()
    folder = tmp_path_factory.mktemp("gather")
    return make_store(folder / "s.zarr", request.param, range(5))


@pytest.fixture(scope="module")
def rows(store: Store) -> list[dict[str, np.ndarray]]:
    """All streams of all episodes as plain zarr reads them."""
    group = zarr.open_group(store.path, mode="r")
    found = []
    for record in store.episodes:
        streams = {}
        for name in record.streams:
            array = group[f"segments/{record.segment}/{name}"]
            assert isinstance(array, zarr.Array)
            streams[name] = np.asarray(array[record.start : record.start + record.steps])
        found.append(streams)
    return found


def assert_window(
    batch: Batch, place: int, rows: dict[str, np.ndarray], step: int, spec: WindowSpec
):
    steps = len(rows["action"])
    past = [max(0, step + offset) for offset in range(1 - spec.history, 1)]
    for name, frames in batch.images.items():
        expected = rows[f"images/{name}"][past]
        got = frames[place] if spec.history > 1 else frames[place][None]
        np.testing.assert_array_equal(got, expected)
    for name, frames in batch.depth.items():
        got = frames[place] if spec.history > 1 else frames[place][None]
        np.testing.assert_array_equal(got, rows[f"depth/{name}"][past])
    assert set(batch.future_images) == (set(batch.images) if spec.future else set())
    for name, frames in batch.future_images.items():
        expected = rows[f"images/{name}"][min(step + spec.future, steps - 1)]
        np.testing.assert_array_equal(frames[place], expected)
    state = batch.state[place] if spec.history > 1 else batch.state[place][None]
    np.testing.assert_array_equal(state, rows["state"][past])
    future = np.arange(step, step + spec.horizon)
    np.testing.assert_array_equal(
        batch.action_chunk[place], rows["action"][np.minimum(future, steps - 1)]
    )
    np.testing.assert_array_equal(batch.action_is_pad[place], future >= steps)
    for name, values in batch.streams.items():
        np.testing.assert_array_equal(values[place], rows[name][step])


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize(("history", "future"), [(1, 0), (3, 0), (1, 4), (2, 7)])
def test_every_window_equals_plain_zarr(store, rows, cache, history, future):  # noqa: ANN001
    streams = ("simulator_state", "time_ns")
    spec = WindowSpec(6, history, streams=streams, depth=("wrist",), future=future)
    gather = WindowGather(store, spec, cache=cache, threads=2)
    every = np.random.default_rng(0).permutation(len(gather.windows))
    owner = [(e, s) for e, streams in enumerate(rows) for s in range(len(streams["action"]))]
    for part in np.array_split(every, 6):
        batch = gather.gather(part, gather.buffers(len(part)))
        for place, window in enumerate(part):
            episode, step = owner[window]
            assert_window(batch, place, rows[episode], step, spec)
    gather.close()


@pytest.mark.parametrize("mode", ["random", "clip", "stream"])
def test_every_mode_visits_each_window_once_and_resumes(store, rows, mode):  # noqa: ANN001
    spec = WindowSpec(4, streams=("time_ns", "simulator_state"))

    def loader() -> WindowLoader:
        return WindowLoader(store, spec, 16, seed=1, mode=mode, cache="none", pool=3, threads=2)

    one = loader()
    seen = []
    for _ in range(2 * len(one)):
        batch = next(one)
        seen.append(batch.streams["simulator_state"].copy())
        for place in range(3):
            fits = [
                (e, int(np.flatnonzero(match)[0]))
                for e, streams in enumerate(rows)
                if (match := (streams["simulator_state"] == seen[-1][place]).all(1)).any()
            ]
            ((episode, step),) = fits
            assert_window(batch, place, rows[episode], step, spec)
    for epoch in (seen[: len(one)], seen[len(one) :]):
        assert len(np.unique(np.concatenate(epoch), axis=0)) == 16 * len(one)
    assert not np.array_equal(seen[0], seen[len(one)])
    two = loader()
    for _ in range(len(one) + 3):
        next(two)
    state = two.state_dict()
    three = loader()
    three.load_state_dict(state)
    for number in range(len(one) + 3, 2 * len(one)):
        np.testing.assert_array_equal(next(three).streams["simulator_state"], seen[number])
    for made in (one, two, three):
        made.close()


def test_blocks_stay_together_in_clip_mode(store: Store):
    loader = WindowLoader(store, 1, 8, seed=0, mode="clip", cache="none", pool=1, prefetch=0)
    order = loader._order_of(0).at(0, len(loader.windows))
    episodes = loader.windows.episodes(order)
    steps = order - loader.windows.first_rows(episodes)
    blocks = np.stack([episodes, steps // 8])
    changes = (np.diff(blocks, axis=1) != 0).any(0).sum()
    assert changes + 1 == len(np.unique(blocks, axis=1).T), "a block is left and entered again"
    loader.close()


def test_language(store: Store):
    loader = WindowLoader(store, WindowSpec(1, language="subgoals", cameras=()), 4, seed=0)
    record = store.episodes[0]
    texts = loader.batch_at(np.arange(8)).instructions
    assert texts == tuple("reach" if 2 <= step < 5 else record.instruction for step in range(8))
    loader.close()
    spec = WindowSpec(1, language="paraphrases", cameras=())
    first, again = (WindowLoader(store, spec, 64, seed=0, episodes=[0]) for _ in range(2))
    said = [text for _ in range(4) for text in next(first).instructions]
    assert set(said) == {record.instruction, *record.paraphrases}
    assert said == [text for _ in range(4) for text in next(again).instructions]
    first.close()
    again.close()


def test_a_damaged_frame_is_named(tmp_path: Path):
    store = make_store(tmp_path / "s.zarr", Jpeg(), range(3))
    index = len(store.episodes) - 1
    path = store.path / store.stream_files("images/front", store.record(index))[0]
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    loader = WindowLoader(store, 4, 4, seed=0, episodes=[index], cache="none")
    with pytest.raises(ValueError, match=f"episode {index} .*images/front.*checksum"):
        for _ in range(len(loader)):
            next(loader)
    loader.close()


def test_a_mixture_keeps_its_shares_and_resumes(tmp_path: Path):
    other = synthetic_embodiment(8, ("top",))
    stores = [
        make_store(tmp_path / "a.zarr", Lossless(), range(4)),
        make_store(tmp_path / "b.zarr", Jpeg(), range(10, 13), other),
    ]
    sources = [
        Source(stores[0], WindowSpec(4, streams=("simulator_state",)), 3.0),
        Source(stores[1], WindowSpec(9, history=2, streams=("simulator_state",)), 1.0),
    ]

    def mixture(**changes: Any) -> Mixture:
        settings: dict[str, Any] = {"batch_size": 12, "seed": 5, "threads": 2} | changes
        return Mixture(sources, **settings)

    def content(parts) -> list[np.ndarray]:  # noqa: ANN001
        return [part.batch.streams["simulator_state"].copy() for part in parts]

    one = mixture()
    counts = np.zeros(2, int)
    seen = []
    for _ in range(40):
        parts = next(one)
        assert sum(len(part.batch.state) for part in parts) == 12
        for part in parts:
            counts[part.source] += len(part.batch.state)
        seen.append(content(parts))
        assert {part.batch.state.shape[1:] for part in parts} <= {(5,), (2, 5)}
    assert abs(counts[0] - 360) <= 2
    # Every window of the small store before any comes again.
    small = np.concatenate([batch[-1] for batch in seen])[: store_steps(stores[1])]
    assert len(np.unique(small, axis=0)) == len(small) > 50
    two = mixture(prefetch=0)
    for _ in range(17):
        next(two)
    three = mixture(seed=99)
    three.load_state_dict(two.state_dict())
    for number in range(17, 22):
        for got, expected in zip(content(next(three)), seen[number], strict=True):
            np.testing.assert_array_equal(got, expected)
    ranks = [mixture(batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    for number in range(5):
        together = [content(next(rank)) for rank in ranks]
        rows = np.concatenate([array for parts in together for array in parts])
        expected = np.concatenate(seen[number])
        np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
    with pytest.raises(ValueError, match="global_batch_size 12, this mixture 8"):
        mixture(batch_size=8).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="weight positive"):
        Mixture([replace(sources[0], weight=0.0)], 4, 0)
    for made in (one, two, three, *ranks):
        made.close()


def store_steps(store: Store) -> int:
    return int(store.episodes.steps.sum())
