"""Replay buffers made to diffusion_policy's and UMI's layout come in whole."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from numcodecs import Blosc
from zarr.storage import LocalStore, ZipStore

from ulna.datasets.episode_check import check_episode
from ulna.datasets.import_diffusion_policy import DiffusionPolicySource, recognise
from ulna.datasets.import_fields import Facts

ENDS = [7, 8, 20]
RANDOM = np.random.default_rng(0)
BLOSC = Blosc("zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)


def write(
    path: Path, arrays: dict[str, np.ndarray], frames: Any = BLOSC, ends: list[int] = ENDS
) -> None:
    """Arrays in chunks of time only, as ReplayBuffer writes them; a zip if the name says so."""
    mode: Literal["w"] = "w"
    store = ZipStore(path, mode=mode) if path.suffix == ".zip" else LocalStore(path)
    root = zarr.open_group(store, mode=mode, zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name, rows in arrays.items():
        image = rows.ndim == 4
        array = data.create_array(
            name,
            shape=rows.shape,
            chunks=((1 if image else 5), *rows.shape[1:]),
            dtype=rows.dtype,
            compressors=frames if image else BLOSC,
        )
        array[:] = rows
    meta.create_array("episode_ends", data=np.array(ends, np.int64), compressors=None)
    store.close()


def pusht() -> dict[str, np.ndarray]:
    return {
        "img": RANDOM.integers(0, 256, (20, 16, 16, 3)).astype(np.float32),
        "state": RANDOM.uniform(0, 512, (20, 5)).astype(np.float32),
        "action": RANDOM.uniform(0, 512, (20, 2)).astype(np.float32),
        "keypoint": RANDOM.uniform(0, 512, (20, 9, 2)).astype(np.float32),
        "n_contacts": RANDOM.integers(0, 3, (20, 1)).astype(np.float32),
    }


def umi(steps: int = 20) -> dict[str, np.ndarray]:
    return {
        "camera0_rgb": RANDOM.integers(0, 256, (steps, 16, 24, 3), np.uint8),
        "robot0_eef_pos": RANDOM.normal(size=(steps, 3)).astype(np.float32),
        "robot0_eef_rot_axis_angle": RANDOM.normal(size=(steps, 3)).astype(np.float32),
        "robot0_gripper_width": RANDOM.uniform(0, 0.08, (steps, 1)).astype(np.float32),
        "robot0_demo_start_pose": RANDOM.normal(size=(steps, 6)),
        "robot0_demo_end_pose": RANDOM.normal(size=(steps, 6)),
    }


def test_pusht(tmp_path: Path):
    arrays = pusht()
    write(tmp_path / "pusht_cchi_v7_replay.zarr", arrays)
    assert recognise(tmp_path / "pusht_cchi_v7_replay.zarr")
    source = DiffusionPolicySource(tmp_path / "pusht_cchi_v7_replay.zarr")
    robot = source.embodiment
    assert (robot.name, robot.control_hz) == ("pusht", 10)
    assert robot.state_names == ("agent_x_px", "agent_y_px")
    np.testing.assert_array_equal(robot.action_low, arrays["action"].min(axis=0))
    for key, rows in zip(source.keys(), (slice(0, 7), slice(7, 8), slice(8, 20)), strict=True):
        episode, encoded = source.episode(key)
        check_episode(episode, robot, encoded)
        np.testing.assert_array_equal(episode.images["img"], arrays["img"][rows].astype(np.uint8))
        np.testing.assert_array_equal(episode.streams["state"], arrays["state"][rows, :2])
        for stream, name in (
            ("action", "action"),
            ("source_state", "state"),
            ("keypoint", "keypoint"),
            ("n_contacts", "n_contacts"),
        ):
            np.testing.assert_array_equal(episode.streams[stream], arrays[name][rows])
        assert len(episode.streams) == 5
    assert "instruction" in source.losses[0]


def test_umi_frames_in_jpeg_xl_in_a_zip_and_actions_from_poses(tmp_path: Path):
    codecs = pytest.importorskip("imagecodecs.numcodecs")
    codecs.register_codecs(verbose=False)
    arrays = umi()
    coded = codecs.Jpegxl(level=99, numthreads=1)
    write(tmp_path / "cup.zarr.zip", arrays, frames=coded)
    assert recognise(tmp_path / "cup.zarr.zip")
    with pytest.raises(ValueError, match="'control_hz'; give it with --control-hz"):
        _ = DiffusionPolicySource(tmp_path / "cup.zarr.zip").embodiment
    source = DiffusionPolicySource(
        tmp_path / "cup.zarr.zip", Facts(control_hz=60.0, instruction="put the cup on the saucer")
    )
    assert source.losses == ()
    episode, encoded = source.episode("2")
    check_episode(episode, source.embodiment, encoded)
    pose = [arrays[f"robot0_{n}"] for n in ("eef_pos", "eef_rot_axis_angle", "gripper_width")]
    np.testing.assert_array_equal(episode.streams["action"], np.concatenate(pose, axis=1)[8:20])
    np.testing.assert_array_equal(episode.streams["state"], episode.streams["action"])
    np.testing.assert_array_equal(
        episode.streams["robot0_demo_start_pose"], arrays["robot0_demo_start_pose"][8:20]
    )
    expected = np.stack([coded.decode(coded.encode(frame)) for frame in arrays["camera0_rgb"]])
    np.testing.assert_array_equal(episode.images["camera0"], expected[8:20])
    assert "as UMI does" in source.embodiment.action_meaning
    assert "as in UMI" in str(episode.info["action_from"])


def test_without_imagecodecs_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    codecs = pytest.importorskip("imagecodecs.numcodecs")
    codecs.register_codecs(verbose=False)
    write(tmp_path / "cup.zarr", umi(), frames=codecs.Jpegxl(level=99))
    import sys

    from numcodecs.registry import codec_registry

    monkeypatch.delitem(codec_registry, "imagecodecs_jpegxl")
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    with pytest.raises(ValueError, match=r"pip install 'ulna\[umi\]'"):
        DiffusionPolicySource(tmp_path / "cup.zarr")


def test_what_an_interrupted_recording_leaves(tmp_path: Path):
    arrays = umi(25)
    write(tmp_path / "longer.zarr", arrays)
    source = DiffusionPolicySource(tmp_path / "longer.zarr", Facts(control_hz=60.0))
    assert source.episode("2")[0].steps == 12
    assert any("5 of robot0_eef_pos" in loss for loss in source.losses)
    write(tmp_path / "shorter.zarr", umi(15))
    source = DiffusionPolicySource(tmp_path / "shorter.zarr", Facts(control_hz=60.0))
    assert source.episode("1")[0].steps == 1
    with pytest.raises(ValueError, match="ends at row 15; episode 2 is rows 8 to 20"):
        source.episode("2")


def test_float_frames_are_never_guessed(tmp_path: Path):
    arrays = pusht()
    write(tmp_path / "unit.zarr", {**arrays, "img": arrays["img"] / 255})
    with pytest.raises(ValueError, match="--pixel-scale 255"):
        DiffusionPolicySource(tmp_path / "unit.zarr").episode("0")
    scaled = DiffusionPolicySource(tmp_path / "unit.zarr", pixel_scale=255.0)
    np.testing.assert_array_equal(
        scaled.episode("0")[0].images["img"], arrays["img"][:7].astype(np.uint8)
    )
    write(tmp_path / "half.zarr", {**arrays, "img": np.minimum(arrays["img"] + 0.25, 255)})
    source = DiffusionPolicySource(tmp_path / "half.zarr")
    source.episode("0")
    assert any("rounded" in loss for loss in source.losses)
    write(tmp_path / "far.zarr", {**arrays, "img": arrays["img"] * 2})
    with pytest.raises(ValueError, match="expected 0 to 255"):
        DiffusionPolicySource(tmp_path / "far.zarr").episode("0")


def test_robot_data_keep_their_clock(tmp_path: Path):
    arrays = {
        "action": RANDOM.normal(size=(20, 2)),
        "robot_eef_pose": RANDOM.normal(size=(20, 6)),
        "timestamp": 1.7e9 + np.arange(20) / 10,
    }
    write(tmp_path / "replay_buffer.zarr", arrays)
    (tmp_path / "videos").mkdir()
    source = DiffusionPolicySource(tmp_path / "replay_buffer.zarr", Facts(control_hz=10.0))
    episode, encoded = source.episode("2")
    check_episode(episode, source.embodiment, encoded)
    assert episode.streams["time_ns"].dtype == np.int64
    np.testing.assert_allclose(episode.streams["time_ns"] / 1e9, arrays["timestamp"][8:])
    np.testing.assert_array_equal(episode.streams["timestamp"], arrays["timestamp"][8:])
    np.testing.assert_array_equal(episode.streams["source_action"], arrays["action"][8:])
    assert any("videos beside" in loss for loss in source.losses)
