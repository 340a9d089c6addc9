"""The store: what goes in comes out, other readers agree, mistakes are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from ulna.datasets.image_codec import ImageCodec, Lossless
from ulna.datasets.schema import Episode
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

ROBOT = synthetic_embodiment()
LOSSLESS = Lossless()


def make_store(
    path: Path, seeds: range, steps: int | None = None, codec: ImageCodec = LOSSLESS
) -> Store:
    store = Store.create(path, ROBOT)
    with Writer(path, codec) as writer:
        for seed in seeds:
            writer.add_episode(synthetic_episode(ROBOT, seed, steps))
    store.refresh()
    return store


def assert_equal(one: Episode, two: Episode) -> None:
    assert (one.task, one.instruction, one.seed, one.success, one.info) == (
        two.task,
        two.instruction,
        two.seed,
        two.success,
        two.info,
    )
    for got, expected in ((one.images, two.images), (one.streams, two.streams)):
        assert set(got) == set(expected)
        for name in expected:
            assert got[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 256, 257, 600])
def test_round_trip_is_bit_equal(tmp_path: Path, steps: int):
    store = make_store(tmp_path / "s.zarr", range(2), steps)
    for index in range(2):
        assert_equal(store.read_episode(index), synthetic_episode(ROBOT, index, steps))


def test_a_part_equals_the_part_of_the_whole(tmp_path: Path):
    store = make_store(tmp_path / "s.zarr", range(2), 530)
    for stream in ("images/wrist", "state", "time_ns"):
        whole = store.read(stream, 1)
        for start, stop in ((0, 0), (0, 1), (3, 20), (16, 32), (250, 260), (255, 530), (512, 513)):
            np.testing.assert_array_equal(store.read(stream, 1, start, stop), whole[start:stop])


def test_plain_zarr_reads_the_same_numbers(tmp_path: Path):
    store = make_store(tmp_path / "s.zarr", range(3), 270)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for index, record in enumerate(store.episodes):
        segment = group[f"segments/{record.segment}"]
        assert isinstance(segment, zarr.Group)
        for name in record.streams:
            array = segment[name]
            assert isinstance(array, zarr.Array)
            rows = array[record.start : record.start + record.steps]
            np.testing.assert_array_equal(rows, store.read(name, index))
        assert isinstance(segment.attrs["embodiment"], dict)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int16", "int64", "float16", "float64"])
def test_any_numeric_type_is_kept_and_zarr_reads_it(tmp_path: Path, kind: str):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    episode = synthetic_episode(ROBOT, 0)
    extra = (np.arange(episode.steps * 2) % 2).reshape(-1, 2).astype(kind)
    with Writer(store.path, LOSSLESS) as writer:
        writer.add_episode(replace(episode, streams=episode.streams | {"contact": extra}))
    store.refresh()
    assert store.read("contact", 0).dtype == extra.dtype
    np.testing.assert_array_equal(store.read("contact", 0), extra)
    array = zarr.open_array(store.path / "segments" / store.episodes[0].segment / "contact")
    np.testing.assert_array_equal(array[: episode.steps], extra)


def test_order_does_not_depend_on_who_wrote_first(tmp_path: Path):
    one = make_store(tmp_path / "one.zarr", range(6))
    two = Store.create(tmp_path / "two.zarr", ROBOT)
    with Writer(two.path, LOSSLESS) as first, Writer(two.path, LOSSLESS) as second:
        for seed in (5, 2, 0):
            first.add_episode(synthetic_episode(ROBOT, seed))
            second.add_episode(synthetic_episode(ROBOT, {5: 1, 2: 4, 0: 3}[seed]))
    two.refresh()
    assert [record.seed for record in two.episodes] == list(range(6))
    assert len({record.segment for record in two.episodes}) == 2
    for index in range(6):
        assert_equal(one.read_episode(index), two.read_episode(index))


def test_episodes_of_one_seed_are_ordered_by_content(tmp_path: Path):
    orders = []
    for name, instructions in (("one", ("a", "b", "c")), ("two", ("c", "a", "b"))):
        store = Store.create(tmp_path / name, ROBOT)
        with Writer(store.path, LOSSLESS) as writer:
            for text in instructions:
                writer.add_episode(replace(synthetic_episode(ROBOT, 0), instruction=text))
        store.refresh()
        orders.append([record.instruction for record in store.episodes])
    assert orders[0] == orders[1]


def test_streams_of_other_dimensions_get_their_own_segment(tmp_path: Path):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    episodes = []
    for seed in range(4):
        episode = synthetic_episode(ROBOT, seed)
        wide = np.ones((episode.steps, 9 + seed % 2))
        episodes.append(replace(episode, streams=episode.streams | {"simulator_state": wide}))
    with Writer(store.path, LOSSLESS) as writer:
        for episode in episodes:
            writer.add_episode(episode)
    store.refresh()
    assert len({record.segment for record in store.episodes}) == 2
    for index, episode in enumerate(episodes):
        assert_equal(store.read_episode(index), episode)


def test_an_open_store_sees_new_episodes_after_refresh(tmp_path: Path):
    store = make_store(tmp_path / "s.zarr", range(1))
    with Writer(store.path, LOSSLESS) as writer:
        uid = writer.add_episode(synthetic_episode(ROBOT, 7))
    assert len(store.episodes) == 1
    store.refresh()
    assert [record.uid for record in store.episodes][1:] == [uid]


def test_embodiment_survives(tmp_path: Path):
    make_store(tmp_path / "s.zarr", range(0))
    assert Store.open(tmp_path / "s.zarr").embodiment == ROBOT


def test_create_never_overwrites(tmp_path: Path):
    make_store(tmp_path / "s.zarr", range(2))
    with pytest.raises(ValueError, match=r"2 episodes.*--append.*--out"):
        Store.create(tmp_path / "s.zarr", ROBOT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not a store"):
        Store.create(tmp_path / "other", ROBOT)
    assert len(Store.open(tmp_path / "s.zarr").episodes) == 2


def test_an_interrupted_create_can_be_repeated(tmp_path: Path):
    (tmp_path / "s.zarr" / "commits").mkdir(parents=True)
    (tmp_path / "s.zarr" / ".tmp-0123").write_text("")
    assert len(make_store(tmp_path / "s.zarr", range(1)).episodes) == 1


def test_open_says_what_is_wrong(tmp_path: Path):
    make_store(tmp_path / "lift.zarr", range(0))
    with pytest.raises(ValueError, match=r"no store at .*lfit.*lift\.zarr.*ulna collect"):
        Store.open(tmp_path / "lfit.zarr")
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="not an Ulna store"):
        Store.open(tmp_path / "photos")
    header = tmp_path / "lift.zarr" / "zarr.json"
    text = header.read_text()
    header.write_text(text.replace('"version": 2', '"version": 3'))
    with pytest.raises(ValueError, match="version 3.*reads version 2.*Update"):
        Store.open(tmp_path / "lift.zarr")
    header.write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(ValueError, match="version 1.*import it again"):
        Store.open(tmp_path / "lift.zarr")


def test_reading_what_does_not_exist_names_what_does(tmp_path: Path):
    store = make_store(tmp_path / "s.zarr", range(2), 10)
    with pytest.raises(ValueError, match="Did you mean 'images/wrist'"):
        store.read("images/wirst", 0)
    with pytest.raises(ValueError, match="episode 2 does not exist.*2 episodes"):
        store.read("state", 2)
    with pytest.raises(ValueError, match=r"rows 0:11 of state in episode .*seed 1.*, which has 10"):
        store.read("state", 1, 0, 11)


def changed(**streams: np.ndarray | None) -> Episode:
    episode = synthetic_episode(ROBOT, 0, 10)
    kept = {name: rows for name, rows in (episode.streams | streams).items() if rows is not None}
    return replace(episode, streams=kept)


NAN_STATE = np.ones((10, 5), np.float32)
NAN_STATE[4, 2] = np.nan


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (changed(state=None), "no stream 'state'"),
        (changed(state=np.ones((10, 5))), r"float64\(10, 5\).*expects float32\(10, 5\)"),
        (changed(action=np.ones((10, 4), np.float32)), r"float32\(10, 4\).*expects.*\(10, 3\)"),
        (changed(state=NAN_STATE), "'state' holds NaN or infinity, first at step 4"),
        (changed(force=np.ones((9, 6))), r"'force' has shape \(9, 6\).*10 rows"),
        (changed(label=np.array(["a"] * 10)), "only numbers"),
        (changed(**{"Bad Name": np.ones(10)}), "stream name"),
        (changed(time_ns=np.array([0, 2, 1] + [3] * 7)), "runs backwards at step 2"),
        (changed(time_ns=np.ones(10)), "time_ns.*expected int64"),
        (
            replace(changed(), images={"wrist": changed().images["wrist"]}),
            "lacks the frames of front; it has wrist",
        ),
        (
            replace(changed(), images=changed().images | {"frnot": changed().images["front"]}),
            "Did you mean 'front'",
        ),
        (
            replace(changed(), images={n: f[:, :8] for n, f in changed().images.items()}),
            r"camera .*uint8\(10, 8, 16, 3\).*expects uint8\(10, 16, 16, 3\)",
        ),
        (replace(changed(), info={"score": float("nan")}), "info 'score'"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path: Path, episode: Episode, message: str):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, LOSSLESS) as writer:
        with pytest.raises(ValueError, match=message):
            writer.add_episode(episode)
        writer.add_episode(changed())  # the writer stays usable
    store.refresh()
    assert len(store.episodes) == 1
