"""Recording step by step: equal to writing whole episodes, never waiting, never silent."""

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.image_codec import Clip, EncodedFrames, ImageCodec, Jpeg, Lossless
from ulna.datasets.recorder import Recorder, RecorderConfig
from ulna.datasets.recorder_form import Rows
from ulna.datasets.schema import Camera, Episode, Sensor, Subgoal
from ulna.datasets.storage import LocalFolder
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer

ROBOT = synthetic_embodiment()
LOSSLESS = Lossless()
STREAMS = {"simulator_state": Rows("float64", (9,))}


def record(recorder: Recorder, episode: Episode, success: bool | None = None):
    """Play an episode into a recorder as fast as it goes."""
    recorder.begin(episode.instruction, episode.task, episode.seed, episode.info)
    for step in range(episode.steps):
        add(recorder, episode, step)
    return recorder.end(episode.success if success is None else success)


def add(recorder: Recorder, episode: Episode, step: int) -> bool:
    images = {name: frames[step] for name, frames in episode.images.items()}
    depth = {name: frames[step] for name, frames in episode.depth.items()}
    return recorder.add_step(
        images, {name: rows[step] for name, rows in episode.streams.items()}, depth
    )


def whole(episode: Episode) -> Episode:
    """As the recorder marks it."""
    return replace(episode, info={**episode.info, "dropped_steps": 0})


def assert_equal(one: Episode, two: Episode) -> None:
    for folder in ("images", "streams", "depth"):
        got, expected = getattr(one, folder), getattr(two, folder)
        assert got.keys() == expected.keys()
        for name in got:
            assert got[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(got[name], expected[name])
    for labels in ("instruction", "task", "seed", "success", "info", "subgoals"):
        assert getattr(one, labels) == getattr(two, labels)


def assert_no_problem(store: Store) -> None:
    assert [problem for problem in verify(store) if problem.severity == "error"] == []


def data_files(path: Path) -> list[Path]:
    return [file for file in path.glob("segments/*/**/c.*") if file.is_file()]


class GatedStorage(LocalFolder):
    """A disk that keeps everybody waiting, or is full, on demand."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open = threading.Event()
        self.open.set()
        self.full = False

    def write(self, name: str, data: bytes) -> None:
        self.open.wait(20)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(name, data)


@pytest.fixture
def storage(tmp_path: Path) -> GatedStorage:
    Store.create(tmp_path / "s.zarr", ROBOT)
    return GatedStorage(tmp_path / "s.zarr")


@contextmanager
def recording(
    storage: LocalFolder, codec: ImageCodec = LOSSLESS, queue_s: float = 50.0
) -> Iterator[Recorder]:
    with Writer(storage, codec) as writer:
        config = RecorderConfig(queue_s=queue_s)
        with Recorder(writer, STREAMS, config=config) as recorder:
            yield recorder


@pytest.mark.parametrize("codec", [Lossless(), Jpeg(), Clip()], ids=lambda codec: codec.type)
def test_a_recorded_episode_is_the_one_that_is_written_whole(
    storage: GatedStorage, codec: ImageCodec
):
    """Of lengths around the boundaries of blocks, chunks and files."""
    lengths = (1, 13, 264) if isinstance(codec, Clip) else (1, 13, 256, 530)
    episodes = [synthetic_episode(ROBOT, seed, steps) for seed, steps in enumerate(lengths)]
    with recording(storage, codec) as recorder:
        endings = [record(recorder, episode) for episode in episodes]
        recorded = [ending.result() for ending in endings]
        for episode in episodes:
            recorder.writer.add_episode(whole(episode))
    assert tuple(r.steps for r in recorded) == lengths
    assert all(r.dropped_steps == 0 for r in recorded)
    store = Store.open(storage.path)
    records = list(store.episodes)
    assert_no_problem(store)
    for seed, episode in enumerate(episodes):
        pair = [index for index, r in enumerate(records) if r.seed == seed]
        one, two = (records[index] for index in pair)
        if not isinstance(codec, Clip):  # x264 does not always give the same bytes again
            # The same content gives the same checksums and the same first half of the uid.
            assert one.uid.split("-")[0] == two.uid.split("-")[0] and one.uid != two.uid
            assert one.streams == two.streams
        for index in pair:
            found = store.read_episode(index)
            frames = {
                name: EncodedFrames.of(codec, frames).decode()
                for name, frames in episode.images.items()
            }
            if isinstance(codec, Clip):
                for name, expected in frames.items():
                    assert np.abs(found.images[name].astype(int) - expected).mean() < 1.0
                frames = found.images
            assert_equal(found, replace(whole(episode), images=frames))


def test_cameras_depth_and_a_fast_sensor_from_its_own_thread(tmp_path: Path):
    cameras = tuple(Camera(f"c{k}", 24, 32, depth_unit_m=0.001 * (k < 2)) for k in range(4))
    robot = replace(synthetic_embodiment(), control_hz=30.0, cameras=cameras)
    Store.create(tmp_path / "s.zarr", robot)
    random = np.random.default_rng(0)
    frames = {c.name: random.integers(0, 256, (40, 24, 32, 3), np.uint8) for c in cameras}
    depth = {c.name: random.integers(0, 9999, (40, 24, 32), np.uint16) for c in cameras[:2]}
    sent: list[tuple[int, np.ndarray]] = []
    stopping = threading.Event()
    beginning = threading.Event()

    def sense(recorder: Recorder) -> None:
        beginning.wait()
        while not stopping.wait(0.001):
            sample = time.monotonic_ns(), random.normal(size=3)
            sent.append(sample)
            assert recorder.add_sample("torque", *sample)

    with Writer(tmp_path / "s.zarr", Jpeg()) as writer:
        sensors = {"torque": Rows("float64", (3,)), "unplugged": Rows("uint8")}
        with Recorder(writer, sensors=sensors) as recorder:
            assert recorder.add_sample("torque", 0, np.zeros(3))  # nobody records yet
            thread = threading.Thread(target=sense, args=(recorder,))
            thread.start()
            recorder.begin("look", "look", 0, paraphrases=["watch"])
            beginning.set()
            for step in range(40):
                row = {
                    "state": np.zeros(5, np.float32),
                    "action": np.full(3, 0.5, np.float32),
                    "time_ns": time.monotonic_ns(),
                }
                images = {name: rows[step] for name, rows in frames.items()}
                images["c3"] = images["c3"][..., ::-1]  # a view that is not contiguous
                assert recorder.add_step(images, row, {n: rows[step] for n, rows in depth.items()})
                time.sleep(0.004)
            stopping.set()
            thread.join()
            goal = Subgoal(3, 40, "look left")
            ending = recorder.end(None, {"operator": "ada"}, [goal])
            recorded = ending.result()
    store = Store.open(tmp_path / "s.zarr")
    assert_no_problem(store)
    episode = store.read_episode(0)
    assert recorded.samples == {"torque": len(sent), "unplugged": 0} and len(sent) > 20
    assert episode.sensors.keys() == {"torque"}
    expected = Sensor(np.array([t for t, _ in sent]), np.array([values for _, values in sent]))
    np.testing.assert_array_equal(episode.sensors["torque"].time_ns, expected.time_ns)
    np.testing.assert_array_equal(episode.sensors["torque"].values, expected.values)
    for name, rows in depth.items():
        np.testing.assert_array_equal(episode.depth[name], rows)
    frames["c3"] = frames["c3"][..., ::-1]
    for name, rows in frames.items():
        np.testing.assert_array_equal(episode.images[name], EncodedFrames.of(Jpeg(), rows).decode())
    assert episode.success is None and episode.subgoals == (goal,)
    assert episode.paraphrases == ("watch",)
    assert episode.info == {
        "operator": "ada",
        "dropped_steps": 0,
        "dropped_samples_torque": 0,
        "dropped_samples_unplugged": 0,
    }


def test_long_sensor_streams_of_several_episodes_follow_each_other(tmp_path: Path):
    Store.create(tmp_path / "s.zarr", ROBOT)
    lengths = {0: 700, 1: 0, 2: 257}
    with (
        Writer(tmp_path / "s.zarr", Lossless()) as writer,
        Recorder(writer, STREAMS, {"force": Rows("int16")}) as recorder,
    ):
        for seed, samples in lengths.items():
            episode = synthetic_episode(ROBOT, seed, 9)
            recorder.begin("go", "go", seed)
            for sample in range(samples):
                recorder.add_sample("force", sample, np.int16(sample + seed))
            for step in range(9):
                add(recorder, episode, step)
            recorder.end()
    store = Store.open(tmp_path / "s.zarr")
    assert_no_problem(store)
    for seed, samples in lengths.items():
        sensors = store.read_episode(seed).sensors
        if samples:
            expected = np.arange(samples, dtype=np.int16) + np.int16(seed)
            np.testing.assert_array_equal(sensors["force"].values, expected)
        else:
            assert sensors == {}


def test_a_full_queue_is_told_at_once_and_marks_the_episode(storage: GatedStorage):
    """Memory is bounded: what a disk that stands still takes is two files and the queue."""
    episode = synthetic_episode(ROBOT, 0, 256)
    with recording(storage, Jpeg(), queue_s=2.4) as recorder:
        first = record(recorder, synthetic_episode(ROBOT, 7, 8))
        first.result()
        recorder.begin("go", "go", 0)
        storage.open.clear()
        kept: list[bool] = []
        slowest_s = 0.0
        while len(kept) < 1200:
            streams = {name: rows[len(kept) % 256] for name, rows in episode.streams.items()}
            streams["time_ns"] = np.int64(len(kept))
            images = {name: rows[0] for name, rows in episode.images.items()}
            before = time.perf_counter()
            kept.append(recorder.add_step(images, streams))
            slowest_s = max(slowest_s, time.perf_counter() - before)
            if not kept[-1]:
                time.sleep(0.001)
        assert slowest_s < 5.0  # the disk stands still for 20
        assert False in kept and True not in kept[-100:]
        assert 256 <= sum(kept) <= 2 * 256 + 48 + 8
        storage.open.set()
        deadline = time.monotonic() + 10
        while not kept[-1] and time.monotonic() < deadline:  # it goes on by itself
            time.sleep(0.001)
            kept.append(
                recorder.add_step(images, {**streams, "time_ns": np.int64(len(kept))})  # pyright: ignore
            )
        recorded = recorder.end().result()
    assert kept[-1]
    assert recorded.steps == sum(kept) and recorded.dropped_steps == kept.count(False)
    assert recorded.fullest_queue == 1.0
    store = Store.open(storage.path)
    index = [r.seed for r in store.episodes].index(0)
    assert store.episodes[index].info["dropped_steps"] == kept.count(False)
    # The times show which steps are missing.
    np.testing.assert_array_equal(store.read("time_ns", index), np.flatnonzero(kept))
    assert_no_problem(store)


def test_the_queue_is_all_there_ever_is(storage: GatedStorage):
    episode = synthetic_episode(ROBOT, 0, 40)
    with recording(storage, queue_s=2.0) as recorder:
        queue = recorder._queue
        blocks = {id(block) for block in queue.free}
        # 40 steps in blocks of the 16 frames that lossless coding takes together
        step = 2 * 16 * 16 * 3 + 4 * (5 + 3) + 8 * 9 + 8
        assert recorder.queue_bytes == 48 * step and len(blocks) == 3
        for _ in range(3):
            record(recorder, episode).result()
        assert {id(block) for block in queue.free} == blocks


def test_a_full_disk_is_told_and_recording_goes_on_later(storage: GatedStorage):
    episode = synthetic_episode(ROBOT, 1, 600)
    with recording(storage, Jpeg()) as recorder:
        record(recorder, synthetic_episode(ROBOT, 0, 300)).result()
        files = sorted(data_files(storage.path))
        recorder.begin("go", "go", 1)
        for step in range(300):
            add(recorder, episode, step)
        storage.full = True
        with pytest.raises(OSError, match="seed 1 could not be stored.*No space left.*1 episodes"):
            for step in range(300, 600):
                add(recorder, episode, step)
                time.sleep(0.002)
        with pytest.raises(ValueError, match="no episode is being recorded"):
            recorder.end()
        # In the background, after `end`: told by the ending.
        ending = record(recorder, synthetic_episode(ROBOT, 2, 5))
        with pytest.raises(OSError, match="seed 2 could not be stored"):
            ending.result()
        storage.full = False
        assert sorted(data_files(storage.path)) == files
        record(recorder, synthetic_episode(ROBOT, 3, 300)).result()
        record(recorder, synthetic_episode(ROBOT, 4, 3)).result()
    store = Store.open(storage.path)
    assert [r.seed for r in store.episodes] == [0, 3, 4]
    for index, (seed, steps) in enumerate(((0, 300), (3, 300), (4, 3))):
        np.testing.assert_array_equal(
            store.read("state", index), synthetic_episode(ROBOT, seed, steps).streams["state"]
        )
    assert_no_problem(store)


def test_a_failure_nobody_asked_about_is_raised_when_the_recorder_closes(storage: GatedStorage):
    with pytest.raises(OSError, match="seed 5 could not be stored"), recording(storage) as recorder:
        storage.full = True
        record(recorder, synthetic_episode(ROBOT, 5, 5))
    storage.full = False
    with pytest.raises(KeyError) as raised, recording(storage) as recorder:
        storage.full = True
        record(recorder, synthetic_episode(ROBOT, 6, 5))
        raise KeyError("the user's own")
    assert "seed 6 could not be stored" in raised.value.__notes__[0]


def test_an_aborted_episode_leaves_nothing(storage: GatedStorage):
    with recording(storage, Jpeg()) as recorder:
        recorder.abort()  # nothing runs: nothing happens
        recorder.begin("go", "go", 0)
        for step in range(300):
            add(recorder, synthetic_episode(ROBOT, 0, 300), step)
        recorder.abort()
        record(recorder, synthetic_episode(ROBOT, 1, 20)).result()
    store = Store.open(storage.path)
    assert [r.seed for r in store.episodes] == [1]
    assert len(data_files(storage.path)) == 6  # two cameras and four streams of 20 steps
    assert_no_problem(store)


def test_closing_in_the_middle_of_an_episode_is_refused_loudly(storage: GatedStorage):
    with (
        pytest.raises(ValueError, match="in the middle of the episode of seed 3, whose 2 steps"),
        recording(storage) as recorder,
    ):
        recorder.begin("go", "go", 3)
        for step in range(2):
            add(recorder, synthetic_episode(ROBOT, 3, 2), step)
    assert len(Store.open(storage.path).episodes) == 0
    with pytest.raises(ValueError, match="closed"):
        recorder.begin("go", "go", 4)


def test_two_recorders_of_one_writer_do_not_meet(storage: GatedStorage):
    with Writer(storage, Jpeg()) as writer:
        roomy = RecorderConfig(queue_s=50.0)
        with (
            Recorder(writer, STREAMS, config=roomy) as one,
            Recorder(writer, STREAMS, config=roomy) as two,
        ):
            for pair in range(3):
                episodes = [synthetic_episode(ROBOT, 2 * pair + k, 30) for k in range(2)]
                for recorder, episode in zip((one, two), episodes, strict=True):
                    recorder.begin(episode.instruction, episode.task, episode.seed)
                for step in range(30):
                    for recorder, episode in zip((one, two), episodes, strict=True):
                        assert add(recorder, episode, step)
                one.end()
                two.end()
    store = Store.open(storage.path)
    assert_no_problem(store)
    assert [r.seed for r in store.episodes] == list(range(6))
    for seed in range(6):
        expected = synthetic_episode(ROBOT, seed, 30).streams
        for name, rows in expected.items():
            np.testing.assert_array_equal(store.read(name, seed), rows)


def broken(step: dict[str, dict]) -> Iterator[tuple[dict, dict, str]]:
    images, streams = step["images"], step["streams"]
    yield {"front": images["front"]}, streams, "no frame of camera wrist"
    yield {**images, "fornt": images["front"]}, streams, "Did you mean 'front'"
    yield {**images, "front": images["front"][:8]}, streams, r"uint8\(8, 16, 3\), expected"
    yield images, {**streams, "state": streams["state"].astype(np.float64)}, "float64.*expected"
    yield images, {**streams, "state": streams["state"] * np.float32(np.nan)}, "NaN"
    yield images, {**streams, "time_ns": np.int64(-1)}, "backwards"
    yield images, {n: r for n, r in streams.items() if n != "action"}, "no row of stream action"


def test_a_step_that_cannot_be_stored_is_refused_and_the_episode_goes_on(storage: GatedStorage):
    episode = synthetic_episode(ROBOT, 0, 3)
    with recording(storage) as recorder:
        recorder.begin("go", "go", 0)
        assert add(recorder, episode, 0)
        step = {
            "images": {name: rows[1] for name, rows in episode.images.items()},
            "streams": {name: rows[1] for name, rows in episode.streams.items()},
        }
        for images, streams, message in broken(step):
            with pytest.raises(ValueError, match=message):
                recorder.add_step(images, streams)
        with pytest.raises(ValueError, match="is being recorded"):
            recorder.begin("go", "go", 1)
        with pytest.raises(ValueError, match="info 'x'"):
            recorder.end(True, {"x": float("inf")})
        assert add(recorder, episode, 2)
        assert recorder.end(True).result().dropped_steps == 7
        with pytest.raises(ValueError, match="Known: none"):
            recorder.add_sample("torque", 0, 0.0)
        with pytest.raises(ValueError, match="call begin first"):
            add(recorder, episode, 0)
    state = Store.open(storage.path).read("state", 0)
    np.testing.assert_array_equal(state, episode.streams["state"][[0, 2]])


def test_declarations_are_checked(storage: GatedStorage):
    with Writer(storage) as writer:
        for streams, message in (
            ({"state": Rows("float64", (5,))}, "always recorded"),
            ({"front_time_ns": Rows("float64")}, "declare it as Rows"),
            ({"Torque": Rows()}, "small letters"),
            ({"words": Rows("U8")}, "only numbers"),
            ({"force": Rows(">f4")}, "say 'float32'"),
            ({"force": Rows("flaot32")}, "say it as numpy does"),
        ):
            with pytest.raises(ValueError, match=message):
                Recorder(writer, streams)


RECORD_FOR_EVER = """
import itertools, sys
from ulna.datasets.image_codec import Lossless
from ulna.datasets.recorder import Recorder
from ulna.datasets.recorder_form import Rows
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer
robot = synthetic_embodiment()
with Writer(sys.argv[1], Lossless()) as writer:
    with Recorder(writer, {"simulator_state": Rows("float64", (9,))}) as recorder:
        print("ready", flush=True)
        endings = []
        for seed in itertools.count():
            episode = synthetic_episode(robot, seed)
            recorder.begin(episode.instruction, episode.task, seed)
            for step in range(episode.steps):
                images = {name: rows[step] for name, rows in episode.images.items()}
                streams = {name: rows[step] for name, rows in episode.streams.items()}
                while not recorder.add_step(images, streams):
                    pass
            endings.append(recorder.end(episode.success))
            if len(endings) > 2:
                print(endings.pop(0).result().uid, flush=True)
"""


def test_a_kill_while_recording_leaves_earlier_episodes_whole(tmp_path: Path):
    Store.create(tmp_path / "s.zarr", ROBOT)
    command = [sys.executable, "-c", RECORD_FOR_EVER, str(tmp_path / "s.zarr")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = {process.stdout.readline().strip() for _ in range(12)} - {"ready"}
    time.sleep(np.random.default_rng().uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().splitlines(keepends=True)
    acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
    process.wait()
    store = Store.open(tmp_path / "s.zarr")
    assert_no_problem(store)
    present = {r.uid for r in store.episodes}
    assert acknowledged <= present and len(acknowledged) >= 11
    for index, found in enumerate(store.episodes):
        expected = synthetic_episode(ROBOT, found.seed)
        dropped = found.info["dropped_steps"]
        assert isinstance(dropped, int)
        expected = replace(expected, info={"dropped_steps": dropped})
        assert_equal(store.read_episode(index), expected)
    with Writer(tmp_path / "s.zarr", Lossless()) as writer:
        writer.add_episode(synthetic_episode(ROBOT, 10**6))
    assert_no_problem(Store.open(tmp_path / "s.zarr"))
