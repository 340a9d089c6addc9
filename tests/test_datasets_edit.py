"""Edits, merging, packing and giving back space: what must change does, nothing else."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from ulna.datasets import edit
from ulna.datasets.edit import join, relabel, split, undo
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.image_codec import Clip, ImageCodec, Jpeg, Lossless
from ulna.datasets.merge import merge
from ulna.datasets.pack import pack, packed_share
from ulna.datasets.schema import Camera, Episode, Sensor, Subgoal
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer
from ulna.datasets.zarr_codecs import register

ROBOT = replace(
    synthetic_embodiment(32),
    cameras=(Camera("front", 32, 32, depth_unit_m=0.001), Camera("wrist", 32, 32)),
)
STEPS = 40


def full_episode(seed: int, steps: int = STEPS) -> Episode:
    """Everything an episode can hold."""
    random = np.random.default_rng(seed)
    episode = synthetic_episode(ROBOT, seed, steps)
    times = np.arange(steps) * 50_000_000 + seed * 10**11
    fast = np.arange(steps * 25) * 2_000_000 + seed * 10**11
    return replace(
        episode,
        streams=episode.streams | {"time_ns": times},
        depth={"front": random.integers(0, 2000, (steps, 32, 32), np.uint16)},
        sensors={"torque": Sensor(fast, random.normal(size=(len(fast), 7)).astype(np.float32))},
        paraphrases=("grasp it", "take it"),
        subgoals=(Subgoal(0, 10, "reach"), Subgoal(10, steps, "lift")),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "s.zarr", range(4))


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    with Writer(store.storage) as writer:
        yield writer


def filled(path: Path, seeds: range, codec: ImageCodec = Lossless()) -> Store:  # noqa: B008
    store = Store.create(path, ROBOT)
    with Writer(path, codec) as writer:
        for seed in seeds:
            writer.add_episode(full_episode(seed))
    store.refresh()
    return store


def whole(store: Store) -> None:
    assert [str(problem) for problem in verify(store) if problem.severity == "error"] == []


def same(one: Episode, two: Episode, start: int = 0, stop: int | None = None) -> None:
    """`one` equals the steps `start:stop` of `two`."""
    for name, rows in two.streams.items():
        np.testing.assert_array_equal(one.streams[name], rows[start:stop])
    for name, frames in two.images.items():
        np.testing.assert_array_equal(one.images[name], frames[start:stop])
    for name, frames in two.depth.items():
        np.testing.assert_array_equal(one.depth[name], frames[start:stop])


@pytest.mark.parametrize("codec", [Lossless(), Jpeg(), Clip()], ids=lambda codec: codec.type)
def test_everything_an_episode_holds_comes_back(tmp_path: Path, codec: ImageCodec):
    register()
    store = filled(tmp_path / "c.zarr", range(2), codec)
    whole(store)
    episode, expected = store.read_episode(1), full_episode(1)
    assert episode.paraphrases == expected.paraphrases and episode.subgoals == expected.subgoals
    np.testing.assert_array_equal(episode.depth["front"], expected.depth["front"])
    torque = episode.sensors["torque"]
    np.testing.assert_array_equal(torque.values, expected.sensors["torque"].values)
    np.testing.assert_array_equal(torque.time_ns, expected.sensors["torque"].time_ns)
    for name, frames in expected.images.items():
        error = np.abs(episode.images[name].astype(int) - frames)
        assert error.max() == 0 if codec == Lossless() else error.mean() < 12
    # Plain zarr gives the same pixels, and the encoded frames decode to them.
    record = store.episodes[1]
    group = zarr.open_group(store.path / "segments" / record.segment, mode="r")
    for name in record.streams:
        array = group[name]
        assert isinstance(array, zarr.Array)
        start, rows = record.extent(name)
        np.testing.assert_array_equal(array[start : start + rows], store.read(name, 1))
    frames = store.read_encoded("wrist", 1)
    assert frames.codec == codec
    np.testing.assert_array_equal(frames.decode(), episode.images["wrist"])


def test_frames_that_are_coded_already_are_stored_as_they_are(store: Store, tmp_path: Path):
    source = filled(tmp_path / "jpeg.zarr", range(1), Jpeg(80))
    frames = {name: source.read_encoded(name, 0) for name in ("front", "wrist")}
    with Writer(store.storage) as writer:
        uid = writer.add_episode(replace(full_episode(9), images={}), frames)
    store.refresh()
    index = store.episodes.index_of(uid)
    assert index is not None
    assert store.read_encoded("front", index).chunks == frames["front"].chunks


def test_delete_and_undo_and_undo_of_the_undo(store: Store, writer: Writer):
    before = list(store.episodes)
    number = edit.delete(writer, store, [1, 2])
    store.refresh()
    assert [record.seed for record in store.episodes] == [0, 3]
    taken_back = undo(writer, store)
    store.refresh()
    assert list(store.episodes) == before
    undo(writer, store, taken_back)
    store.refresh()
    assert [record.seed for record in store.episodes] == [0, 3]
    assert [r.seed for r in Store.open(store.path, version=number - 1).episodes] == [0, 1, 2, 3]
    whole(store)


def test_relabel_and_select(store: Store, writer: Writer):
    relabel(writer, store, [0, 2], instruction="stack them", success=False, info={"by": "me"})
    store.refresh()
    changed = [r for r in store.episodes if r.instruction == "stack them"]
    assert [(r.seed, r.success, r.info["by"], r.info["source"]) for r in changed] == [
        (0, False, "me", "synthetic"),
        (2, False, "me", "synthetic"),
    ]
    edit.select(writer, store, lambda record: record.success is True)
    store.refresh()
    assert [record.seed for record in store.episodes] == [1]
    with pytest.raises(ValueError, match="no new label.*instruction, task"):
        relabel(writer, store, [0])
    with pytest.raises(ValueError, match="twice"):
        edit.delete(writer, store, [0, 0])


@pytest.mark.parametrize("codec", [Lossless(), Jpeg(), Clip()], ids=lambda codec: codec.type)
def test_split_is_a_view_and_join_makes_it_whole(tmp_path: Path, codec: ImageCodec):
    store = filled(tmp_path / "c.zarr", range(2), codec)
    original = store.read_episode(1)
    files = {path: path.stat().st_mtime_ns for path in store.path.rglob("c.*")}
    with Writer(store.storage) as writer:
        split(writer, store, 1, [24, 7])
        store.refresh()
        parts = [i for i, r in enumerate(store.episodes) if "split_from" in r.info]
        parts.sort(key=lambda index: store.record(index).start)
        assert [store.record(index).steps for index in parts] == [7, 17, 16]
        for index, (start, stop) in zip(parts, ((0, 7), (7, 24), (24, 40)), strict=True):
            same(store.read_episode(index), original, start, stop)
            torque = store.read_episode(index).sensors["torque"].values
            expected = original.sensors["torque"].values[start * 25 : stop * 25]
            np.testing.assert_array_equal(torque, expected)
        middle = store.record(parts[1])
        assert middle.subgoals == (Subgoal(0, 3, "reach"), Subgoal(3, 17, "lift"))
        whole(store)
        join(writer, store, parts)
    store.refresh()
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("c.*")} == files
    joined = store.read_episode(1)
    same(joined, original)
    np.testing.assert_array_equal(
        joined.sensors["torque"].values, original.sensors["torque"].values
    )
    whole(store)


def test_join_of_strangers_copies_their_coded_frames(tmp_path: Path):
    store = filled(tmp_path / "c.zarr", range(2), Jpeg())
    one, two = store.read_episode(0), store.read_episode(1)
    with Writer(store.storage) as writer:
        join(writer, store, [0, 1])
        store.refresh()
        (record,) = store.episodes
        assert (record.steps, record.instruction) == (2 * STEPS, one.instruction)
        same(one, store.read_episode(0), 0, STEPS)
        same(two, store.read_episode(0), STEPS, 2 * STEPS)
        assert record.subgoals[2] == Subgoal(STEPS, STEPS + 10, "reach")
        whole(store)
        undo(writer, store)
        store.refresh()
        with pytest.raises(ValueError, match="time_ns' runs backwards"):
            join(writer, store, [1, 0])


def test_split_says_what_is_possible(store: Store, writer: Writer):
    for at in ([0], [STEPS], [], [3, 99]):
        with pytest.raises(ValueError, match="give steps from 1 to 39"):
            split(writer, store, 0, at)


def test_merge_copies_and_can_be_repeated(store: Store, tmp_path: Path):
    other = filled(tmp_path / "other.zarr", range(10, 13), Jpeg())
    with Writer(other.storage) as writer:
        edit.delete(writer, other, [0])
        relabel(writer, other, [1], instruction="relabelled before")
    other.refresh()
    # What an interrupted merge leaves: files that no record names yet.
    target = tmp_path / "all.zarr"
    assert merge([store, other], target) == 6
    assert merge([store, other], target) == 0
    out = Store.open(target)
    assert [record.seed for record in out.episodes] == [0, 1, 2, 3, 11, 12]
    assert "relabelled before" in {record.instruction for record in out.episodes}
    for index in range(4):
        same(out.read_episode(index), store.read_episode(index))
    assert out.read_encoded("wrist", 4).chunks == other.read_encoded("wrist", 0).chunks
    whole(out)
    stranger = Store.create(tmp_path / "x.zarr", replace(ROBOT, control_hz=10.0))
    with pytest.raises(ValueError, match="control_hz is 10.0"):
        merge([store, stranger], tmp_path / "y.zarr")


def test_pack_moves_numbers_together_and_changes_nothing(store: Store, writer: Writer):
    split(writer, store, 2, [11])
    store.refresh()
    before = {record.uid: store.read_episode(i) for i, record in enumerate(store.episodes)}
    old_version = store.last_commit
    assert packed_share(store) == 0
    assert pack(writer, store) == 5
    store.refresh()
    assert packed_share(store) == 1 and pack(writer, store) == 0
    assert len(store.stream_files("state", store.record(0))) == 1
    assert store.stream_files("state", store.record(0)) == store.stream_files(
        "state", store.record(1)
    )
    whole(store)
    undo(writer, store)  # the split, for packing is no edit
    store.refresh()
    assert len(store.episodes) == 4
    undo(writer, store, store.last_commit)
    collect_garbage(writer, store, grace_s=0.0)
    for opened in (Store.open(store.path), Store.open(store.path, version=old_version)):
        assert len(opened.episodes) == 5
        for index, record in enumerate(opened.episodes):
            same(opened.read_episode(index), before[record.uid])
        whole(opened)
    group = zarr.open_group(store.path / "segments" / store.record(0).segment, mode="r")
    array = group["state"]
    assert isinstance(array, zarr.Array)
    start, rows = Store.open(store.path).record(0).extent("state")
    opened = Store.open(store.path)
    np.testing.assert_array_equal(array[start : start + rows], opened.read("state", 0))


def test_gc_keeps_what_can_be_undone_and_what_is_young(store: Store, writer: Writer):
    stray = store.path.joinpath(store.stream_files("state", store.record(0))[0]).parent / "c.99.0"
    stray.write_bytes(b"half an episode")
    edit.delete(writer, store, [0])
    assert collect_garbage(writer, store).files == 0, "it may be of an episode being recorded"
    freed = collect_garbage(writer, store, grace_s=0.0, dry_run=True)
    assert (freed.files, freed.bytes) == (1, 15) and stray.exists()
    collect_garbage(writer, store, grace_s=0.0)
    assert not stray.exists()
    undo(writer, store)
    store.refresh()
    assert len(store.episodes) == 4
    whole(store)
    edit.delete(writer, store, [0, 1, 2, 3])
    freed = collect_garbage(writer, store, forget_deleted=True, grace_s=0.0)
    assert freed.forgotten == 4 and list(store.path.rglob("c.*")) == []
    assert os.listdir(store.path / "segments") == ["zarr.json"]
    with pytest.raises(ValueError, match="cannot be undone any more.*4 episodes.*given up"):
        undo(writer, store)
    assert len(Store.open(store.path).episodes) == 0, "what was forgotten stays away"
    writer.add_episode(full_episode(50))  # the writer makes itself a new segment if it must
    store.refresh()
    whole(store)


def test_undo_takes_nothing_away_for_an_episode_that_is_forgotten(store: Store, writer: Writer):
    split(writer, store, 0, [12])
    collect_garbage(writer, store, forget_deleted=True, grace_s=0.0)
    store.refresh()
    assert len(store.episodes) == 5
    with pytest.raises(ValueError, match="1 episodes it would bring back"):
        undo(writer, store)  # the parts would go, and the whole has no record any more
    relabel(writer, store, [0], task="other")
    undo(writer, store)  # later edits have nothing to do with it
    store.refresh()
    assert len(store.episodes) == 5
    whole(store)


def test_gc_refuses_a_log_with_holes(store: Store, writer: Writer):
    (store.path / "commits" / "000000000001.json").unlink()
    with pytest.raises(ValueError, match="not whole.*verify"):
        collect_garbage(writer, store, grace_s=0.0)
