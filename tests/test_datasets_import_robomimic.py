"""robomimic files made to its layout come in whole."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ulna.datasets.episode_check import check_episode
from ulna.datasets.image_codec import Lossless
from ulna.datasets.import_episodes import import_episodes
from ulna.datasets.import_fields import Facts
from ulna.datasets.import_robomimic import RobomimicSource, recognise
from ulna.datasets.import_texts import sensor_text
from ulna.datasets.schema import Camera
from ulna.datasets.store import Store

XML = "<mujoco>" + "é<body/>" * 400 + "</mujoco>"


def env_args(**kwargs: Any) -> str:
    controller = {"type": "OSC_POSE", "input_min": -1, "input_max": 1, "control_delta": True}
    arguments = {
        "robots": ["Panda"],
        "control_freq": 20,
        "controller_configs": controller,
        "reward_shaping": False,
        "camera_names": ["agentview", "robot0_eye_in_hand"],
        "camera_heights": [12, 8],
        "camera_widths": [10, 8],
    }
    return json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {**arguments, **kwargs}})


def write(path: Path, demos: int = 11, flat: bool = False, **kwargs: Any) -> dict[str, np.ndarray]:
    """A file as robomimic writes it; gives the arrays of demo_10, the last one."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = env_args(**kwargs)
        data.attrs["total"] = demos * 9
        for number in range(demos):
            steps = 9 + number
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = XML
            arrays = {
                "actions": random.uniform(-1, 1, (steps, 7)),
                "states": random.normal(size=(steps, 32)),
                "rewards": (np.arange(steps) >= steps - (number % 2)).astype(np.float64),
                "dones": np.zeros(steps, np.int64),
                "obs/robot0_eef_pos": random.normal(size=(steps, 3)),
                "obs/robot0_eef_quat": random.normal(size=(steps, 4)).astype(np.float32),
                "obs/robot0_gripper_qpos": random.normal(size=(steps, 2)),
                "obs/object": random.normal(size=(steps, 10)),
                "obs/agentview_depth": random.random((steps, 12, 10, 1), np.float32),
                "obs/agentview_image": random.integers(0, 256, (steps, 12, 10, 3), np.uint8),
                "obs/robot0_eye_in_hand_image": random.integers(0, 256, (steps, 8, 8, 3), np.uint8),
                "next_obs/object": random.normal(size=(steps, 10)),
                "next_obs/agentview_image": random.integers(0, 256, (steps, 12, 10, 3), np.uint8),
                "datagen_info/subtask_term_signals/grasp": np.arange(steps) > 3,
            }
            for name, rows in arrays.items():
                demo[name] = rows.reshape(steps, -1) if flat and "_image" in name else rows
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/20_percent"] = np.array([b"demo_10"])
    return arrays


def test_everything_of_a_demo_is_in_the_episode(tmp_path: Path):
    arrays = write(tmp_path / "low.hdf5")
    assert recognise(tmp_path / "low.hdf5")
    source = RobomimicSource(tmp_path / "low.hdf5", Facts(instruction="lift the cube"))
    assert list(source.keys())[-2:] == ["demo_9", "demo_10"]  # by number, not by letter
    episode, encoded = source.episode("demo_10")
    check_episode(episode, source.embodiment, encoded)
    state = [f"obs/robot0_{name}" for name in ("eef_pos", "eef_quat", "gripper_qpos")]
    joined = np.concatenate([arrays[name] for name in state], axis=1)
    np.testing.assert_array_equal(episode.streams["state"], joined.astype(np.float32))
    np.testing.assert_array_equal(episode.streams["action"], arrays["actions"].astype(np.float32))
    # Bit for bit, float64 included; eef_quat is float32 and wholly in `state`.
    kept = {
        "simulator_state": "states",
        "reward": "rewards",
        "done": "dones",
        "actions": "actions",
        "object": "obs/object",
        "robot0_eef_pos": "obs/robot0_eef_pos",
        "robot0_gripper_qpos": "obs/robot0_gripper_qpos",
        "agentview_depth": "obs/agentview_depth",
        "next_obs_object": "next_obs/object",
        "datagen_info_subtask_term_signals_grasp": "datagen_info/subtask_term_signals/grasp",
    }
    assert set(episode.streams) == {"state", "action", *kept}
    for stream, name in kept.items():
        assert episode.streams[stream].dtype == arrays[name].dtype
        np.testing.assert_array_equal(episode.streams[stream], arrays[name])
    np.testing.assert_array_equal(episode.images["agentview"], arrays["obs/agentview_image"])
    assert sensor_text(episode.sensors["model_xml"]) == XML
    assert json.loads(sensor_text(episode.sensors["env_args"])) == json.loads(env_args())
    assert episode.info["filter_keys"] == "20_percent,train"
    names = json.loads(str(episode.info["source_names"]))
    assert names["next_obs_object"] == "next_obs/object"
    assert (episode.task, episode.instruction) == ("Lift", "lift the cube")
    assert len(source.losses) == 1 and "images of next_obs" in source.losses[0]


def test_through_the_engine_the_store_holds_it_all(tmp_path: Path):
    arrays = write(tmp_path / "low.hdf5")
    summary = import_episodes(tmp_path / "low.hdf5", tmp_path / "s.zarr", image_codec=Lossless())
    assert (summary.format, summary.imported, summary.complete) == ("robomimic", 11, True)
    assert any("no instruction" in loss for loss in summary.losses)
    episode = Store.open(tmp_path / "s.zarr").read_episode(10)
    assert episode.info["source_key"] == "demo_10"
    assert sensor_text(episode.sensors["model_xml"]) == XML
    np.testing.assert_array_equal(episode.streams["simulator_state"], arrays["states"])
    np.testing.assert_array_equal(episode.images["agentview"], arrays["obs/agentview_image"])


def test_what_the_file_says_of_the_robot(tmp_path: Path):
    write(tmp_path / "low.hdf5", demos=2)
    robot = RobomimicSource(tmp_path / "low.hdf5").embodiment
    assert (robot.name, robot.control_hz, robot.quaternion_order) == ("panda_osc_pose", 20, "xyzw")
    assert robot.state_names[3:7] == tuple(
        f"robot0_eef_quat_{axis}" for axis in ("qx", "qy", "qz", "qw")
    )
    assert robot.action_names == ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
    assert (robot.action_low, robot.action_high) == ((-1.0,) * 7, (1.0,) * 7)
    assert robot.cameras == (Camera("agentview", 12, 10), Camera("robot0_eye_in_hand", 8, 8))


def test_limits_of_an_unknown_controller_are_those_of_the_data_and_say_so(tmp_path: Path):
    write(tmp_path / "low.hdf5", demos=3, controller_configs={"type": "JOINT"})
    robot = RobomimicSource(tmp_path / "low.hdf5").embodiment
    with h5py.File(tmp_path / "low.hdf5") as file:
        data: Any = file["data"]
        actions = np.concatenate([data[name]["actions"][()] for name in data])
    np.testing.assert_array_equal(robot.action_high, actions.astype(np.float32).max(axis=0))
    assert "range seen in the data" in robot.action_meaning


def test_success_is_the_sparse_reward_and_otherwise_unknown(tmp_path: Path):
    write(tmp_path / "sparse.hdf5", demos=2)
    write(tmp_path / "shaped.hdf5", demos=2, reward_shaping=True)
    sparse, shaped = (RobomimicSource(tmp_path / f"{n}.hdf5") for n in ("sparse", "shaped"))
    assert [sparse.episode(key)[0].success for key in sparse.keys()] == [False, True]
    assert [shaped.episode(key)[0].success for key in shaped.keys()] == [None, None]


def test_flat_images_get_the_size_env_args_says(tmp_path: Path):
    arrays = write(tmp_path / "flat.hdf5", demos=1, flat=True)
    episode, _ = RobomimicSource(tmp_path / "flat.hdf5").episode("demo_0")
    np.testing.assert_array_equal(episode.images["agentview"], arrays["obs/agentview_image"])
    write(tmp_path / "wrong.hdf5", demos=1, flat=True, camera_heights=[13, 8])
    with pytest.raises(ValueError, match="360 bytes; env_args says 13 x 10"):
        RobomimicSource(tmp_path / "wrong.hdf5")


def draw(
    states: np.ndarray, model_xml: str, env_args: dict[str, Any], cameras: Any
) -> dict[str, np.ndarray]:
    assert model_xml == XML and env_args["env_name"] == "Lift"
    shade = (states[:, 0] * 40).astype(np.uint8)
    return {c.name: np.tile(shade[:, None, None, None], (1, c.height, c.width, 3)) for c in cameras}


def test_frames_are_drawn_anew_from_the_states(tmp_path: Path):
    arrays = write(tmp_path / "low.hdf5", demos=1)
    source = RobomimicSource(
        tmp_path / "low.hdf5", render=draw, cameras=(Camera("agentview", 24, 32),)
    )
    episode, encoded = source.episode("demo_0")
    check_episode(episode, source.embodiment, encoded)
    assert episode.images["agentview"].shape == (9, 24, 32, 3)
    shade = (arrays["states"][:, 0] * 40).astype(np.uint8)
    np.testing.assert_array_equal(episode.images["agentview"][:, 0, 0, 0], shade)
    assert any("replaced by drawn ones" in loss for loss in source.losses)


def test_a_demo_that_does_not_fit_the_first_is_refused_or_told(tmp_path: Path):
    write(tmp_path / "low.hdf5", demos=3)
    with h5py.File(tmp_path / "low.hdf5", "a") as file:
        del file["data/demo_1/obs/object"]
        file["data/demo_2/obs/force"] = np.zeros((11, 3))
    source = RobomimicSource(tmp_path / "low.hdf5")
    with pytest.raises(ValueError, match="demo_1 lacks obs/object"):
        source.episode("demo_1")
    source.episode("demo_2")
    assert any("obs/force" in loss for loss in source.losses)


def test_unknown_states_are_chosen_by_name(tmp_path: Path):
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 2))
        file["data/demo_0/obs/tip"] = np.arange(12.0).reshape(4, 3)
    with pytest.raises(ValueError, match=r"--state-keys. Known: actions, tip"):
        RobomimicSource(tmp_path / "own.hdf5")
    with pytest.raises(ValueError, match="Did you mean 'tip'"):
        RobomimicSource(tmp_path / "own.hdf5", Facts(state_keys=("tips",)))
    source = RobomimicSource(tmp_path / "own.hdf5", Facts(state_keys=("tip[1:3]",)))
    np.testing.assert_array_equal(source.episode("demo_0")[0].streams["state"][1], [4, 5])
    with pytest.raises(ValueError, match="--control-hz"):
        _ = source.embodiment
