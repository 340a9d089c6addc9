"""LeRobotDataset in and out, with LeRobot itself at the other end."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import ulna.datasets.export_lerobot as export_module
import ulna.datasets.lerobot_write as write_module
from ulna.datasets.export_lerobot import ExportReport, export_lerobot
from ulna.datasets.image_codec import Clip, Jpeg, Lossless
from ulna.datasets.import_fields import Facts
from ulna.datasets.import_lerobot import LeRobotSource, recognise
from ulna.datasets.lerobot_format import key_of, stream_of
from ulna.datasets.schema import Camera, Embodiment, Episode, Sensor, Subgoal
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer

FPS = 20
STEPS = (9, 11, 17)
CAMERAS = {"front": "observation.images.front", "wrist": "observation.images.wrist"}


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """LeRobot's dataset class; its caches go into a temporary folder, nothing is looked up."""
    cache = tmp_path_factory.mktemp("huggingface")
    patch = pytest.MonkeyPatch()
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "HF_LEROBOT_HOME"):
        patch.setenv(name, str(cache / name.lower()))
    patch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    yield LeRobotDataset
    patch.undo()


def picture(episode: int, step: int) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    waves = 128 + 64 * np.sin((x + y + step) / 9)
    return np.stack([x * 3 + step * 2, y * 3 + episode, waves], -1).clip(0, 255).astype(np.uint8)


def make(lerobot: Any, root: Path, kind: str) -> Path:
    """Three episodes as a user of LeRobot records them; the last one has two tasks."""
    seen = {"dtype": kind, "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b", "c"]},
        "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["x", "y"]}},
        "observation.environment_state": {"dtype": "float64", "shape": (2, 3), "names": None},
        "observation.Force": {"dtype": "float32", "shape": (2,), "names": ["left", "right"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        "note": {"dtype": "string", "shape": (1,), "names": None},
        **{key: dict(seen) for key in CAMERAS.values()},
    }
    dataset = lerobot.create(
        "test/made", FPS, features, root=root, robot_type="so100", use_videos=kind == "video"
    )
    rng = np.random.default_rng(0)
    for episode, steps in enumerate(STEPS):
        for step in range(steps):
            pixels = picture(episode, step)
            dataset.add_frame(
                {
                    "observation.state": rng.normal(size=3).astype(np.float32),
                    "action": rng.normal(size=2).astype(np.float32),
                    "observation.environment_state": rng.normal(size=(2, 3)),
                    "observation.Force": rng.normal(size=2).astype(np.float32),
                    "next.reward": np.array([episode + step / 10], np.float32),
                    "next.success": np.array([episode > 0 and step > 7]),
                    "note": f"note {step // 5}",
                    CAMERAS["front"]: pixels,
                    CAMERAS["wrist"]: pixels[::-1].copy(),
                    "task": "pick" if episode == 1 else "place" if step < 5 else "rest",
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return root


@pytest.fixture(scope="module")
def video(lerobot: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(lerobot, tmp_path_factory.mktemp("video") / "made", "video")


@pytest.fixture(scope="module")
def pictures(lerobot: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(lerobot, tmp_path_factory.mktemp("pictures") / "made", "image")


def copy(source: Path, path: Path) -> Path:
    return Path(shutil.copytree(source, path))


def into_store(source: LeRobotSource, path: Path) -> Store:
    Store.create(path, source.embodiment)
    with Writer(path) as writer:
        writer.add_episodes(source.episode(key) for key in source.keys())
    return Store.open(path)


def items(lerobot: Any, root: Path, windows: bool = True) -> list[dict[str, Any]]:
    """Everything LeRobot's own reader gives."""
    reader = lerobot("test/read", root=root, video_backend="pyav")
    cameras = reader.meta.camera_keys
    deltas = {"action": [step / reader.fps for step in range(4)], "observation.state": [-0.05, 0.0]}
    deltas |= {key: [-1 / reader.fps, 0.0] for key in cameras}
    if windows:
        reader = lerobot("test/read", root, delta_timestamps=deltas, video_backend="pyav")
    return [reader[index] for index in range(len(reader))]


def assert_equal_items(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for index, (mine, original) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.keys() == original.keys()
        for key, value in original.items():
            if isinstance(value, str):
                assert mine[key] == value, (index, key)
            else:
                assert mine[key].dtype == value.dtype and torch.equal(mine[key], value), (
                    index,
                    key,
                )


def test_video_goes_in_and_out_without_a_changed_bit(
    lerobot: Any, video: Path, tmp_path: Path
) -> None:
    store = into_store(LeRobotSource(video), tmp_path / "store")
    report = export_lerobot(store, tmp_path / "out")
    assert report.cameras == {"front": "kept", "wrist": "kept"}
    assert (report.episodes, report.frames) == (3, sum(STEPS))
    # Video too: its packets are never decoded.
    assert_equal_items(items(lerobot, tmp_path / "out"), items(lerobot, video))


def test_pictures_go_in_and_out_without_a_changed_bit(
    lerobot: Any, pictures: Path, tmp_path: Path
) -> None:
    store = into_store(LeRobotSource(pictures), tmp_path / "store")
    assert export_lerobot(store, tmp_path / "out").cameras == dict.fromkeys(CAMERAS, "pictures")
    assert_equal_items(items(lerobot, tmp_path / "out"), items(lerobot, pictures))
    front = store.read("images/front", 1)
    assert (front == np.stack([picture(1, step) for step in range(STEPS[1])])).all()


def test_what_lerobot_writes_about_a_dataset_comes_back(
    lerobot: Any, pictures: Path, tmp_path: Path
) -> None:
    store = into_store(LeRobotSource(pictures), tmp_path / "store")
    export_lerobot(store, tmp_path / "out")
    ours, theirs = (lerobot("t/t", root=root).meta for root in (tmp_path / "out", pictures))
    assert ours.info == theirs.info
    assert ours.tasks.equals(theirs.tasks) and ours.tasks.index.name == "task"
    assert set(ours.episodes.column_names) == set(theirs.episodes.column_names)
    assert ours.stats.keys() == theirs.stats.keys()
    for key, said in theirs.stats.items():
        for name, value in said.items():
            assert ours.stats[key][name].shape == value.shape, (key, name)
        if key not in CAMERAS.values():  # of those, both look at some frames only
            for name in ("min", "max", "mean", "std", "count"):
                assert ours.stats[key][name] == pytest.approx(said[name], abs=1e-5), (key, name)


def test_statistics_are_of_all_rows_together(pictures: Path, tmp_path: Path) -> None:
    export_lerobot(into_store(LeRobotSource(pictures), tmp_path / "store"), tmp_path / "out")
    said = json.loads((tmp_path / "out/meta/stats.json").read_text())
    rows = np.stack(read_data(pictures)["action"].to_pylist())
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert said["action"][name] == pytest.approx(np.quantile(rows, share, axis=0), rel=2e-3)
    shown = np.stack([picture(e, s) for e, steps in enumerate(STEPS) for s in range(steps)])
    mean = np.ravel(said[CAMERAS["front"]]["mean"])
    assert mean == pytest.approx(shown.mean((0, 1, 2)) / 255, abs=0.01)


def read_data(root: Path) -> pa.Table:
    return pq.read_table(root / "data/chunk-000/file-000.parquet")


def change_column(root: Path, name: str, values: Any) -> None:
    """Put other values into the data file, in one row group as converters write it."""
    table = read_data(root)
    field = table.schema.field(name)
    at = table.schema.names.index(name)
    changed = table.set_column(at, field, pa.array(values, field.type))
    pq.write_table(changed, root / "data/chunk-000/file-000.parquet")


def test_embodiment_labels_and_streams(pictures: Path) -> None:
    source = LeRobotSource(pictures)
    robot = source.embodiment
    assert (robot.name, robot.control_hz) == ("so100", 20.0)
    assert (robot.state_names, robot.action_names) == (("a.pos", "b", "c"), ("x", "y"))
    assert robot.cameras == (Camera("front", 64, 64), Camera("wrist", 64, 64))
    rows = np.stack(read_data(pictures)["action"].to_pylist())
    assert robot.action_low == pytest.approx(rows.min(0))
    assert "units" in robot.action_meaning and "range seen" in robot.action_meaning
    assert source.keys() == ["000000", "000001", "000002"]
    first, encoded = source.episode("000000")
    assert (first.instruction, first.success, first.seed) == ("place", False, 0)
    assert first.subgoals == (Subgoal(0, 5, "place"), Subgoal(5, 9, "rest"))
    assert first.streams["observation__environment_state"].shape == (9, 2, 3)
    assert first.streams["next__success"].dtype == np.bool_
    assert (first.streams["time_ns"] == np.arange(9) * 50_000_000).all()
    assert {name: frames.codec for name, frames in encoded.items()} == {
        "front": Lossless(),
        "wrist": Lossless(),
    }
    second, _ = source.episode("000001")
    assert (second.instruction, second.success, second.subgoals) == ("pick", True, ())


def test_video_is_decoded_when_asked(lerobot: Any, video: Path) -> None:
    source = LeRobotSource(video, video="jpeg")
    assert any("encoded anew as jpeg" in loss for loss in source.losses)
    _, encoded = source.episode("000001")
    assert encoded["front"].codec == Jpeg()
    theirs = lerobot("t/t", root=video, episodes=[1], video_backend="pyav", return_uint8=True)
    shown = np.stack([theirs[step][CAMERAS["front"]].permute(1, 2, 0) for step in range(11)])
    error = encoded["front"].decode().astype(np.float64) - shown
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40
    assert abs(error.mean((0, 1, 2))).max() < 0.5  # no shift of colour


def reencode(path: Path, codec: str, gop: int) -> None:
    """The same frames with keyframes elsewhere."""
    made = av.open(str(path))
    frames = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    made.close()
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, FPS, options={"crf": "20", "g": str(gop), "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode())


def test_video_with_few_keyframes_is_encoded_anew_and_said(video: Path, tmp_path: Path) -> None:
    root = copy(video, tmp_path / "made")
    path = root / f"videos/{CAMERAS['front']}/chunk-000/file-000.mp4"
    reencode(path, "libx264", 50)
    source = LeRobotSource(root)
    _, encoded = source.episode("000001")
    assert isinstance(encoded["wrist"].codec, Clip) and encoded["front"].codec == Jpeg()
    assert any("observation.images.front" in loss and "keyframe" in loss for loss in source.losses)
    file = av.open(str(path))  # what the video shows; how good it is the encoder decides
    frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    file.close()
    shown = np.stack(frames[STEPS[0] : STEPS[0] + STEPS[1]]).astype(int)
    assert np.abs(encoded["front"].decode().astype(int) - shown).mean() < 4


def test_jpeg_columns_stay_byte_for_byte(lerobot: Any, pictures: Path, tmp_path: Path) -> None:
    root = copy(pictures, tmp_path / "made")
    files = []
    for episode, steps in enumerate(STEPS):
        for step in range(steps):
            buffer = io.BytesIO()
            Image.fromarray(picture(episode, step)).save(buffer, "jpeg", quality=80)
            files.append({"bytes": buffer.getvalue(), "path": "x.jpg"})
    change_column(root, CAMERAS["front"], files)
    store = into_store(LeRobotSource(root), tmp_path / "store")
    assert store.read_encoded("front", 0).chunks == tuple(f["bytes"] for f in files[: STEPS[0]])
    export_lerobot(store, tmp_path / "out")
    again = [cell["bytes"] for cell in read_data(tmp_path / "out")[CAMERAS["front"]].to_pylist()]
    assert again == [file["bytes"] for file in files]
    assert_equal_items(items(lerobot, tmp_path / "out", False), items(lerobot, root, False))


def test_times_that_are_not_invented_are_kept(lerobot: Any, pictures: Path, tmp_path: Path) -> None:
    root = copy(pictures, tmp_path / "made")
    times = np.sort(np.random.default_rng(1).uniform(0, 5, sum(STEPS))).astype(np.float32)
    change_column(root, "timestamp", times)
    store = into_store(LeRobotSource(root), tmp_path / "store")
    expected = np.rint(times[: STEPS[0]].astype(np.float64) * 1e9)
    assert (store.read("time_ns", 0) == expected).all()
    export_lerobot(store, tmp_path / "out")
    assert "time_ns" not in read_data(tmp_path / "out").column_names
    assert_equal_items(items(lerobot, tmp_path / "out", False), items(lerobot, root, False))


def test_state_and_action_of_other_features(lerobot: Any, pictures: Path, tmp_path: Path) -> None:
    """float64, and entries of several features: all of it comes back as it was."""
    facts = Facts(
        state_keys=("observation.environment_state", "observation.state[1:3]"),
        action_keys=("observation.Force",),
        instruction="tidy up",
        robot="mine",
    )
    source = LeRobotSource(pictures, facts)
    assert source.embodiment.name == "mine" and source.embodiment.state_dim == 8
    assert source.embodiment.state_names[-2:] == ("b", "c")
    episode, _ = source.episode("000001")
    whole = episode.streams["observation__environment_state"]
    assert (episode.streams["state"][:, :6] == whole.reshape(-1, 6).astype(np.float32)).all()
    assert episode.instruction == "tidy up"
    export_lerobot(
        into_store(
            LeRobotSource(
                pictures, Facts(state_keys=facts.state_keys, action_keys=facts.action_keys)
            ),
            tmp_path / "store",
        ),
        tmp_path / "out",
    )
    assert_equal_items(items(lerobot, tmp_path / "out", False), items(lerobot, pictures, False))


def test_some_episodes(lerobot: Any, video: Path, tmp_path: Path) -> None:
    store = into_store(LeRobotSource(video), tmp_path / "store")
    report = export_lerobot(store, tmp_path / "out", episodes=[2, 1])
    assert any("counted anew" in loss for loss in report.losses) == (tasks_of(video)[0] == "pick")
    ours, theirs = items(lerobot, tmp_path / "out", False), items(lerobot, video, False)
    expected = theirs[STEPS[0] + STEPS[1] :] + theirs[STEPS[0] : STEPS[0] + STEPS[1]]
    assert [item["task"] for item in ours] == [item["task"] for item in expected]
    for index, (mine, original) in enumerate(zip(ours, expected, strict=True)):
        assert int(mine["index"]) == index and torch.equal(mine["action"], original["action"])
        assert torch.equal(mine[CAMERAS["front"]], original[CAMERAS["front"]])


def test_many_files(
    lerobot: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every episode in a file of its own, two files to a folder."""
    for module in (export_module, write_module):
        monkeypatch.setattr(module, "CHUNK_FILES", 2)  # LeRobot only looks at the paths
    store = into_store(LeRobotSource(video), tmp_path / "store")
    with monkeypatch.context() as small:
        small.setattr(export_module, "VIDEO_FILE_MB", 2**-20)
        small.setattr(write_module, "DATA_FILE_MB", 0)
        export_lerobot(store, tmp_path / "out")
    places = ["chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000"]
    for folder, ending in (("data", "parquet"), (f"videos/{CAMERAS['wrist']}", "mp4")):
        expected = [tmp_path / f"out/{folder}/{place}.{ending}" for place in places]
        assert sorted((tmp_path / "out" / folder).glob("*/*")) == expected
    ours = items(lerobot, tmp_path / "out", False)
    assert_equal_items(ours, items(lerobot, video, False))
    # And back in: rows are counted over all files.
    again = LeRobotSource(tmp_path / "out").episode("000002")[0]
    assert (again.streams["action"] == [item["action"].numpy() for item in ours[-STEPS[2] :]]).all()


def tasks_of(root: Path) -> list[str]:
    return pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist()


def own_store(path: Path, size: int = 64, hz: float = 25.0) -> Store:
    """Episodes as Ulna records them: what LeRobot has words for and what not."""
    robot = Embodiment(
        name="arm",
        control_hz=hz,
        state_names=("x_m", "y_m"),
        action_names=("dx_m",),
        action_low=(-1.0,),
        action_high=(1.0,),
        action_meaning="displacement",
        cameras=(Camera("jpeg", size, size), Camera("clip", 64, 96, depth_unit_m=0.001)),
    )
    Store.create(path, robot)
    rng = np.random.default_rng(2)
    with Writer(path, {"jpeg": Jpeg(), "clip": Clip()}) as writer:
        for number, steps in enumerate((9, 20)):
            pixels = np.stack([picture(number, step) for step in range(steps)])
            streams = {
                "state": rng.normal(size=(steps, 2)).astype(np.float32),
                "action": rng.normal(size=(steps, 1)).astype(np.float32),
                "action_sent": rng.normal(size=(steps, 1)).astype(np.float32),
                "time_ns": np.cumsum(rng.integers(38_000_000, 42_000_000, steps)),
            }
            depth = rng.integers(0, 60_000, (steps, 64, 96)).astype(np.uint16)
            streams |= {"extra": np.arange(steps)} if number else {}
            writer.add_episode(
                Episode(
                    images={
                        "jpeg": pixels[:, :size, :size],
                        "clip": np.concatenate([pixels, pixels[:, :, :32]], 2),
                    },
                    streams=streams,
                    instruction="push",
                    task="push_task",
                    seed=number,
                    success=bool(number),
                    info={"operator": "me"},
                    depth={"clip": depth},
                    sensors={"torque": Sensor(np.arange(50), np.ones((50, 2), np.float32))},
                    paraphrases=("shove",),
                    subgoals=(Subgoal(2, 5, "approach"),),
                )
            )
    return Store.open(path)


def test_an_episode_of_ours_is_read_by_lerobot(lerobot: Any, tmp_path: Path) -> None:
    store = own_store(tmp_path / "store")
    report = export_lerobot(store, tmp_path / "out")
    assert report.cameras == {"jpeg": "encoded", "clip": "kept"}
    for lost in ("torque", "wordings", "operator", "extra", "seed", "limits", "capture times"):
        assert any(lost in loss for loss in report.losses), lost
        assert lost in str(report)
    found = items(lerobot, tmp_path / "out", False)
    second = found[9:]
    for name, key in (("state", "observation.state"), ("action_sent", "action_sent")):
        ours = torch.stack([item[key] for item in second]).reshape(20, -1)
        assert torch.equal(ours, torch.from_numpy(store.read(name, 1)))
    assert [int(item["time_ns"]) for item in second] == store.read("time_ns", 1).tolist()
    expected = ["push"] * 2 + ["approach"] * 3 + ["push"] * 15
    assert [item["task"] for item in second] == expected
    assert [bool(item["next.success"]) for item in found] == [False] * 28 + [True]
    for camera, closest in (("clip", 45), ("jpeg", 30)):
        key = f"observation.images.{camera}"
        shown = np.stack([(item[key] * 255).permute(1, 2, 0).numpy() for item in second])
        error = shown - store.read(f"images/{camera}", 1)
        assert np.sqrt((error**2).mean()) < 255 / 10 ** (closest / 20), camera
    depth = np.stack([item["observation.images.clip_depth"][0].numpy() for item in second])
    assert (depth == store.read("depth/clip", 1)).all()


def test_what_lerobot_took_comes_back(tmp_path: Path) -> None:
    store = own_store(tmp_path / "store")
    export_lerobot(store, tmp_path / "out")
    again = into_store(LeRobotSource(tmp_path / "out"), tmp_path / "again")
    for number in range(2):
        for name in ("state", "action", "action_sent", "time_ns", "depth/clip"):
            ours, theirs = again.read(name, number), store.read(name, number)
            assert ours.dtype == theirs.dtype and (ours.reshape(theirs.shape) == theirs).all(), name
        assert (again.read("images/clip", number) == store.read("images/clip", number)).all()
        assert again.episodes[number].success == store.episodes[number].success


def test_odd_frames_become_pictures(lerobot: Any, tmp_path: Path) -> None:
    """AV1 takes neither odd nor small frames."""
    report = export_lerobot(own_store(tmp_path / "store", size=33), tmp_path / "out")
    assert report.cameras["jpeg"] == "pictures"
    assert items(lerobot, tmp_path / "out", False)[3]["observation.images.jpeg"].shape == (
        3,
        33,
        33,
    )


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    store = own_store(tmp_path / "store")

    def stop(done: int, total: int) -> None:
        assert total == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lerobot(store, tmp_path / "out", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_export_refuses_what_lerobot_cannot_say(tmp_path: Path) -> None:
    store = own_store(tmp_path / "store", hz=12.5)
    with pytest.raises(ValueError, match="12.5 Hz; say with --fps"):
        export_lerobot(store, tmp_path / "out")
    assert isinstance(export_lerobot(store, tmp_path / "out", [0], fps=12), ExportReport)
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["fps"] == 12
    with pytest.raises(ValueError, match="exists already"):
        export_lerobot(store, tmp_path / "out", fps=12)
    with pytest.raises(ValueError, match="-1 frames per second"):
        export_lerobot(store, tmp_path / "new", fps=-1)


def test_refusals_name_what_is_wrong(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="download it first"):
        LeRobotSource(tmp_path / "lerobot" / "pusht")
    assert recognise(pictures) and not recognise(tmp_path)
    old = copy(pictures, tmp_path / "old")
    info = json.loads((old / "meta/info.json").read_text())
    (old / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    assert recognise(old)
    with pytest.raises(ValueError, match="v2.1.*convert_dataset_v21_to_v30"):
        LeRobotSource(old)
    with pytest.raises(ValueError, match="Did you mean 'observation.state'"):
        LeRobotSource(pictures, Facts(state_keys=("observation.stat",)))
    with pytest.raises(ValueError, match="no episode 7"):
        LeRobotSource(pictures).episode("000007")
    unfinished = copy(pictures, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "meta/episodes")
    with pytest.raises(ValueError, match="not finished"):
        LeRobotSource(unfinished)


@pytest.mark.parametrize("column", ["index", "episode_index", "frame_index", "task_index"])
def test_tables_that_do_not_fit_together_are_refused(
    column: str, pictures: Path, tmp_path: Path
) -> None:
    root = copy(pictures, tmp_path / "made")
    values = read_data(root)[column].to_numpy().copy()
    values[STEPS[0] + 3] += 40  # in the second episode
    change_column(root, column, values)
    source = LeRobotSource(root)
    source.episode("000000")
    with pytest.raises(ValueError, match="episode 1|episode 000001"):
        source.episode("000001")


def test_missing_numbers_are_refused(pictures: Path, tmp_path: Path) -> None:
    root = copy(pictures, tmp_path / "made")
    values = read_data(root)["next.reward"].to_pylist()
    values[STEPS[0] + 2] = None
    change_column(root, "next.reward", values)
    with pytest.raises(ValueError, match="'next.reward' has 1 missing"):
        LeRobotSource(root).episode("000001")


@pytest.mark.parametrize("key", ["next.reward", "observation.environment_state", "plain", "a.b.c"])
def test_names_of_streams_turn_back(key: str) -> None:
    assert key_of(stream_of(key, set())) == key


def test_names_of_streams_do_not_collide() -> None:
    first = stream_of("Observation.Force", set())
    assert first == "observation__force"
    assert stream_of("observation.force", {first}) != first
