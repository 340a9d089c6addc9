"""Kills, full disks, several writers and flipped bits: whole episodes or none, and verify sees."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets import durable
from ulna.datasets.chunks import DamagedData
from ulna.datasets.episode_table import load_checkpoint
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.image_codec import Lossless
from ulna.datasets.pack import pack
from ulna.datasets.recorder import Recorder
from ulna.datasets.recorder_form import Rows
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.verify import describe, verify
from ulna.datasets.writer import Writer, checkpoint

ROBOT = synthetic_embodiment()

RECORD_FOR_EVER = """
import itertools, sys
from ulna.datasets.image_codec import Lossless
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer
path, first = sys.argv[1], int(sys.argv[2])
robot = synthetic_embodiment()
with Writer(path, Lossless()) as writer:
    print("ready", flush=True)
    for seed in itertools.count(first):
        print(seed, writer.add_episode(synthetic_episode(robot, seed)), flush=True)
"""


def start(path: Path, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RECORD_FOR_EVER, str(path), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], episodes: int, seconds: float) -> list[str]:
    """Kill a recorder some time after it acknowledged its first episodes, however slow the machine;
    all that it had acknowledged by then."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    lines = [process.stdout.readline() for _ in range(episodes)]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines(keepends=True)
    process.wait()
    return [line.split()[1] for line in lines if line.endswith("\n")]


def assert_whole(store: Store) -> None:
    assert [problem for problem in verify(store) if problem.severity != "note"] == []
    for index, record in enumerate(store.episodes):
        expected = synthetic_episode(ROBOT, record.seed)
        found = store.read_episode(index)
        for name in expected.images:
            np.testing.assert_array_equal(found.images[name], expected.images[name])
        for name in expected.streams:
            np.testing.assert_array_equal(found.streams[name], expected.streams[name])


def test_killed_writers_lose_nothing_and_leave_nothing_half(tmp_path: Path):
    """Two writers at once, both killed with -9 at random moments, twice over."""
    path = tmp_path / "s.zarr"
    Store.create(path, ROBOT)
    random = np.random.default_rng(int.from_bytes(os.urandom(4)))
    acknowledged: list[str] = []
    asked = 0
    store = Store.open(path)
    for trial in range(2):
        recorders = [start(path, 10_000 * (2 * trial + half)) for half in range(2)]
        for recorder in recorders:
            episodes, seconds = int(random.integers(0, 8)), float(random.uniform(0.0, 0.05))
            acknowledged += kill_after(recorder, episodes, seconds)
            asked += episodes
        store = Store.open(path)
        present = {record.uid for record in store.episodes}
        assert set(acknowledged) <= present
        # A commit may have come just before the kill, too late to be printed: one per writer.
        assert len(present) <= len(acknowledged) + 2 * (trial + 1)
    assert len(acknowledged) >= asked
    assert_whole(store)


def test_two_writers_at_once_and_a_reader_beside_them(tmp_path: Path):
    path = tmp_path / "s.zarr"
    store = Store.create(path, ROBOT)
    recorders = [start(path, 0), start(path, 10_000)]
    deadline = time.monotonic() + 30
    try:
        while len({record.segment for record in store.episodes}) < 2 or len(store.episodes) < 40:
            assert time.monotonic() < deadline
            store.refresh()
            for index in range(max(0, len(store.episodes) - 2), len(store.episodes)):
                store.read_episode(index)  # raises if anything is half written
    finally:
        counts = [len(kill_after(recorder, 0, 0.0)) for recorder in recorders]
    store.refresh()
    assert sum(counts) <= len(store.episodes) <= sum(counts) + 2
    assert_whole(store)


@pytest.mark.parametrize("after_bytes", [0, 100, 2_000, 4_500])
def test_a_full_disk_loses_only_the_present_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_bytes: int
):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, Lossless()) as writer:
        for seed in range(2):
            writer.add_episode(synthetic_episode(ROBOT, seed))
        before = set(store.path.rglob("c.*"))
        left = after_bytes

        def write_until_full(descriptor: int, data: bytes) -> None:
            nonlocal left
            os.write(descriptor, data[:left])
            left -= min(left, len(data))
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(durable, "_write_all", write_until_full)
            with pytest.raises(
                OSError, match="seed 2 could not.*No space.*2 episodes.*safe"
            ) as full:
                writer.add_episode(synthetic_episode(ROBOT, 2))
            assert full.value.errno == errno.ENOSPC
        assert set(store.path.rglob("c.*")) == before, "the space was not given back"
        assert list(store.path.rglob(".tmp-*")) == []
        store.refresh()
        assert [record.seed for record in store.episodes] == [0, 1]
        writer.add_episode(synthetic_episode(ROBOT, 3))
    store.refresh()
    assert [record.seed for record in store.episodes] == [0, 1, 3]
    assert_whole(store)


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store.create(tmp_path / "s.zarr", ROBOT)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Writer(store.path, Lossless()) as writer:
        writer.add_episode(synthetic_episode(ROBOT, 0))
        monkeypatch.setattr(durable.os, "rename", interrupt)
        writer.add_episode(synthetic_episode(ROBOT, 1))
    store.refresh()
    assert [record.seed for record in store.episodes] == [0]
    assert verify(store) == []


def small_store(path: Path) -> Store:
    store = Store.create(path, ROBOT)
    with Writer(path, Lossless()) as writer:
        for seed in range(3):
            writer.add_episode(synthetic_episode(ROBOT, seed, 30))
    store.refresh()
    return store


@pytest.mark.parametrize("stream", ["images/front", "state", "simulator_state"])
def test_any_flipped_bit_is_found_and_named(tmp_path: Path, stream: str):
    store = small_store(tmp_path / "s.zarr")
    assert verify(store) == []
    path = store.path / store.stream_files(stream, store.episodes[1])[0]
    intact = path.read_bytes()
    for place in np.linspace(0, len(intact) - 1, 12).astype(int):
        flipped = bytearray(intact)
        flipped[place] ^= 1 << int(place) % 8
        path.write_bytes(flipped)
        (problem,) = verify(store)
        assert (problem.severity, problem.episode, problem.stream) == ("error", 1, stream)
        assert problem.uid == store.episodes[1].uid
        with pytest.raises(ValueError, match=f"episode .*seed 1.*{stream}"):
            store.read(stream, 1)
    path.write_bytes(intact[: len(intact) // 2])
    assert [problem.stream for problem in verify(store)] == [stream]
    path.unlink()
    assert [problem.stream for problem in verify(store)] == [stream]


def test_a_flipped_bit_of_metadata_is_found_and_named(tmp_path: Path):
    """Also where our own reader does not look: other readers do."""
    store = small_store(tmp_path / "s.zarr")
    segment = f"segments/{store.episodes[0].segment}"
    shared = [
        "zarr.json",
        "segments/zarr.json",
        f"{segment}/zarr.json",
        f"{segment}/images/zarr.json",
    ]
    for name in [*shared, f"{segment}/state/zarr.json"]:
        path = store.path / name
        intact = path.read_bytes()
        for place in np.linspace(0, len(intact) - 1, 8).astype(int):
            flipped = bytearray(intact)
            flipped[place] ^= 1 << int(place) % 8
            path.write_bytes(flipped)
            errors = [problem for problem in verify(store) if problem.severity == "error"]
            assert errors and all(name in str(error) for error in errors)
            if name not in shared:
                assert {(e.episode, e.stream) for e in errors} == {(k, "state") for k in range(3)}
        path.write_bytes(intact)
    header = store.path / "zarr.json"
    header.write_bytes(header.read_bytes().replace(b'"control_hz": 20.0', b'"control_hz": 28.0'))
    with pytest.raises(ValueError, match="zarr.json.*checksum"):
        Store.open(store.path)


def test_a_flipped_bit_of_a_checkpoint_is_found_or_changes_nothing(tmp_path: Path):
    """Arrow trusts much of what a file says; no bit may end the process or give other episodes."""
    store = small_store(tmp_path / "s.zarr")
    checkpoint(store.storage, always=True)
    number = store.last_commit
    (path,) = (store.path / "checkpoints").iterdir()
    intact, known = path.read_bytes(), list(store.episodes)
    found = 0
    for bit in range(0, 8 * len(intact), 8 * len(intact) // 300):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert list(load_checkpoint(store.storage, number)) == known
        except DamagedData:
            found += 1
    assert found > 200


def test_a_damaged_record_behind_a_checkpoint_is_not_blamed_on_the_checkpoint(tmp_path: Path):
    """To delete the checkpoint would be to lose the episode."""
    store = small_store(tmp_path / "s.zarr")
    checkpoint(store.storage, always=True)
    path = store.path / "commits" / "000000000001.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 1', b'"seed": 9'))
    store = Store.open(store.path)
    assert [record.seed for record in store.episodes] == [0, 1, 2]
    (problem,) = verify(store)
    assert "000000000001.json" in str(problem) and "keep the folder checkpoints" in str(problem)


def test_recording_goes_on_after_its_segment_was_packed_and_removed(tmp_path: Path):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    streams = {"simulator_state": Rows("float64", (9,))}
    with Writer(store.path, Lossless()) as writer, Recorder(writer, streams) as recorder:
        for seed in (0, 1):
            writer.add_episode(synthetic_episode(ROBOT, 2 * seed))
            episode = synthetic_episode(ROBOT, 2 * seed + 1)
            recorder.begin(episode.instruction, episode.task, episode.seed)
            for step in range(episode.steps):
                images = {name: frames[step] for name, frames in episode.images.items()}
                rows = {name: rows[step] for name, rows in episode.streams.items()}
                assert recorder.add_step(images, rows)
            recorder.end(success=episode.success).result()
            store.refresh()
            pack(writer, store)
            assert collect_garbage(writer, store, grace_s=0.0).files > 0
    store.refresh()
    assert len(store.episodes) == 4
    assert_whole(store)


def test_a_file_of_another_episode_is_found(tmp_path: Path):
    """Its own checksums are right; only the commit record knows better."""
    store = small_store(tmp_path / "s.zarr")
    here, there = (store.path / store.stream_files("action", store.episodes[i])[0] for i in (0, 2))
    here.write_bytes(there.read_bytes())
    (problem,) = verify(store)
    assert (problem.episode, problem.stream) == (0, "action")
    assert "commit record" in problem.message


def test_a_damaged_record_costs_its_own_episode_and_is_said(tmp_path: Path):
    store = small_store(tmp_path / "s.zarr")
    path = store.path / "commits" / "000000000001.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 1', b'"seed": 9'))
    with pytest.warns(UserWarning, match=r"1 damaged commit.*000000000001\.json"):
        store = Store.open(store.path)
    assert [record.seed for record in store.episodes] == [0, 2]
    errors = [str(problem) for problem in verify(store) if problem.severity == "error"]
    assert len(errors) == 1 and "000000000001.json" in errors[0]
    path.unlink()
    errors = [str(p) for p in verify(Store.open(store.path)) if p.severity == "error"]
    assert len(errors) == 1 and "[1] are missing" in errors[0]


def test_left_over_files_and_wild_actions_are_reported_but_are_no_errors(tmp_path: Path):
    store = small_store(tmp_path / "s.zarr")
    wild = synthetic_episode(ROBOT, 3, 30)
    wild.streams["action"][7, 2] = 1.5
    with Writer(store.path, Lossless()) as writer:
        writer.add_episode(wild)
    stray = store.path.joinpath(store.stream_files("state", store.episodes[0])[0]).parent / "c.99.0"
    stray.write_bytes(b"half an episode")
    store.refresh()
    warning, note = verify(store)
    assert (warning.severity, warning.episode, warning.stream) == ("warning", 3, "action")
    assert "gripper = 1.5 at step 7 (limits -1 to 1)" in str(warning)
    assert note.severity == "note" and "1 files (15 bytes)" in note.message


def test_describe(tmp_path: Path):
    facts = describe(small_store(tmp_path / "s.zarr"))
    assert (facts["episodes"], facts["steps"], facts["mean_steps"]) == (3, 90, 30.0)
    assert facts["duration_s"] == 90 / 20
    assert facts["tasks"] == {"synthetic": 3}
    assert facts["instructions"]["pick up the blue cube"] == 1
    assert facts["success"] == {"successes": 3, "labelled": 3, "rate": 1.0}
    assert facts["streams"]["images/wrist"] == {
        "dtype": "uint8",
        "shape": [16, 16, 3],
        "episodes": 3,
    }
    assert facts["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "s.zarr").rglob("*") if path.is_file()
    )
