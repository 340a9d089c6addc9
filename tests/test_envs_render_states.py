"""States drawn anew equal what the simulator itself draws."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ulna.cli import main
from ulna.datasets.schema import Camera
from ulna.datasets.store import Store
from ulna.envs.render_states import render_states, with_own_assets

# A reset leaves a simulation behind in a reference cycle. Whenever Python collects it, its GL names
# are deleted in the context that is current, the new one's, and frames become what lay in memory.
RECORD = """
import gc
import sys
import numpy as np
import robosuite

gc.disable()
env = robosuite.make(
    "Lift", "Panda", has_renderer=False, camera_names="agentview", camera_heights=64,
    camera_widths=64,
)
env.reset()
states, frames = [], []
for step in range(4):
    observed, *_ = env.step(np.sin(np.arange(env.action_dim) + step))
    states.append(env.sim.get_state().flatten())
    frames.append(observed["agentview_image"][::-1])
np.savez(sys.argv[1], model=env.sim.model.get_xml(), states=states, frames=frames)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, np.ndarray, np.ndarray]:
    """Model, states and frames of a few steps of stock robosuite, in a process of its own: it and
    our renderer each make a GL context current and know nothing of the other's."""
    path = tmp_path_factory.mktemp("recorded") / "steps.npz"
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    subprocess.run([sys.executable, "-c", RECORD, str(path)], env=environment, check=True)
    with np.load(path) as found:
        return str(found["model"]), found["states"], found["frames"]


def test_frames_are_those_of_the_simulator(recorded: tuple[str, np.ndarray, np.ndarray]):
    model, states, frames = recorded
    drawn = render_states(states, model, {}, [Camera("agentview", 64, 64)])["agentview"]
    difference = np.abs(drawn.astype(int) - frames)
    assert difference.mean() < 1.0, "another picture"
    assert np.abs(drawn[0].astype(int) - frames[3]).mean() > difference[0].mean()


def test_assets_of_another_machine_are_found(recorded: tuple[str, np.ndarray, np.ndarray]):
    import robosuite

    home = str(Path(robosuite.__file__).parent)
    foreign = recorded[0].replace(home, "/somewhere/robosuite/else/robosuite")
    assert foreign != recorded[0] and "/somewhere" not in with_own_assets(foreign)
    broken = foreign.replace("/else/robosuite/models/assets", "/else/robosuite/models/assetz")
    with pytest.raises(ValueError, match="recorded with another version"):
        with_own_assets(broken)


def test_what_does_not_fit_is_said(recorded: tuple[str, np.ndarray, np.ndarray]):
    model, states, _ = recorded
    with pytest.raises(ValueError, match="Did you mean 'agentview'"):
        render_states(states, model, {}, [Camera("agentveiw", 64, 64)])
    with pytest.raises(ValueError, match="this model has rows of"):
        render_states(states[:, :9], model, {}, [Camera("agentview", 64, 64)])


def test_a_robomimic_file_is_drawn_anew(
    recorded: tuple[str, np.ndarray, np.ndarray], tmp_path: Path
):
    model, states, frames = recorded
    with h5py.File(tmp_path / "low_dim.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo.attrs["model_file"] = model
        demo["actions"] = np.zeros((4, 7))
        demo["states"] = states
        for name, columns in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)):
            demo[f"obs/robot0_{name}"] = np.zeros((4, columns))
    main(
        ["data", "import", str(tmp_path / "low_dim.hdf5"), "--out", str(tmp_path / "s.zarr"),
         "--render", "agentview:64x64", "--codec", "lossless", "--instruction", "lift",
         "--control-hz", "20", "--robot", "panda", "--success", "unknown"]
    )  # fmt: skip
    images = Store.open(tmp_path / "s.zarr").read("images/agentview", 0)
    assert np.abs(images.astype(int) - frames).mean() < 1.0
