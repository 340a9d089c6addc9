"""LIBERO's tasks as scenes, under an interpreter of their own: they need robosuite 1.4.

Runs on the far side of `envs/remote_scene.py`; needs hf-libero with its meshes, imports nothing of
Ulna but `remote_replay.py`, and stays within the syntax of Python 3.8. What is published on LIBERO
is kept: the 50 stored placements of a task (seed 0 is the first, and round again), ten ticks in
which things come to rest, images turned by 180 degrees (so left is right), the eight numbers of the
state.

Next: `envs/libero_tasks.py` (the table of tasks).
"""

# LIBERO is never installed beside Ulna.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
import os
import tempfile
from typing import Any

import numpy as np

from .remote_replay import ReplayedScene

CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our word for a camera -> its name in the model."""
REST_TICKS = 10
REST_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
CONTROL_HZ = 20.0
MOST_STEPS = 600
"""The longest episode that can be remembered; LIBERO-10 allows 520."""
INITIAL_PIXELS = 64
"""Of a buffer that grows with what is asked for."""


def make(task: str) -> LiberoScene:
    """The scene of a task such as `spatial/0`."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("libero is not installed here: pip install hf-libero==0.1.4")
    folder = os.path.join(list(spec.submodule_search_locations)[0], "libero")
    assets = os.environ.get("ULNA_LIBERO_ASSETS") or os.path.join(folder, "assets")
    if not os.path.isdir(assets):
        raise ValueError(
            f"LIBERO's meshes are not in {assets}; its package does not bring them. Get them with: "
            f"hf download lerobot/libero-assets --repo-type dataset --local-dir {assets} "
            "(or name a folder that has them in ULNA_LIBERO_ASSETS)"
        )
    write_config(folder, assets)
    suite, _, index = task.partition("/")
    return LiberoScene(suite, int(index), assets)


def write_config(folder: str, assets: str) -> None:
    """LIBERO asks questions when it is first imported, unless this file exists."""
    home = os.environ.get("LIBERO_CONFIG_PATH") or tempfile.mkdtemp(prefix="libero-config-")
    os.environ["LIBERO_CONFIG_PATH"] = home
    path = os.path.join(home, "config.yaml")
    if os.path.exists(path):
        return
    os.makedirs(home, exist_ok=True)
    places = {
        "benchmark_root": folder,
        "bddl_files": os.path.join(folder, "bddl_files"),
        "init_states": os.path.join(folder, "init_files"),
        "datasets": os.path.join(folder, "datasets"),
        "assets": assets,
    }
    with open(path, "w") as file:
        file.writelines(f'{name}: "{place}"\n' for name, place in places.items())


class LiberoScene(ReplayedScene):
    """One task of one suite."""

    def __init__(self, suite: str, index: int, assets: str) -> None:
        super().__init__(len(REST_ACTION), CONTROL_HZ, MOST_STEPS)
        import libero.libero
        from libero.libero.benchmark import get_benchmark
        from libero.libero.envs import OffScreenRenderEnv

        libero.libero._assets_path_cache = assets  # else it would ask the network
        tasks = get_benchmark(f"libero_{suite}")()
        # A file of the package that is imported anyway; read by its own code.
        self._placements = np.asarray(tasks.get_task_init_states(index), np.float64)
        self._env: Any = OffScreenRenderEnv(
            bddl_file_name=tasks.get_task_bddl_file_path(index),
            camera_heights=INITIAL_PIXELS,
            camera_widths=INITIAL_PIXELS,
            use_camera_obs=False,
            ignore_done=True,
            # The model is the same in every episode; everything that moves is in the placement.
            hard_reset=False,
        )
        self._seen: Any = {}
        self.reset(0)

    def begin(self, seed: int) -> None:
        self._env.seed(0)
        # Not its wrapper's `reset`, which tries for ever whatever goes wrong.
        self._env.env.reset()
        self._env.set_init_state(self._placements[seed % len(self._placements)])
        for _ in range(REST_TICKS):
            self._seen, _, _, _ = self._env.step(np.array(REST_ACTION))

    def advance(self, action: np.ndarray) -> None:
        self._seen, _, _, _ = self._env.step(action)

    def poses(self) -> np.ndarray:
        return np.asarray(self._env.get_sim_state(), np.float64)

    def state(self) -> np.ndarray:
        seen = self._seen
        turn = axis_angle(np.asarray(seen["robot0_eef_quat"], np.float64))
        return np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]])

    def joints(self) -> np.ndarray:
        return np.asarray(self._env.sim.data.qpos[self._env.robots[0]._ref_joint_pos_indexes])

    def success(self) -> bool:
        return bool(self._env.check_success())

    def outcome(self) -> str:
        return "done" if self.success() else "none"

    def render(self, camera: str, height: int, width: int, profile: str) -> np.ndarray:
        if profile != "exact":
            raise ValueError(f"unknown render profile {profile!r}; known: exact")
        frame = self._env.sim.render(camera_name=CAMERAS[camera], height=height, width=width)
        # Rows come bottom first, and what is published is turned by 180 degrees from there.
        return np.ascontiguousarray(frame[::-1, ::-1])

    def expert_action(self) -> np.ndarray:
        raise ValueError("LIBERO has no scripted expert")

    def close(self) -> None:
        self._env.close()


def axis_angle(quat_xyzw: np.ndarray) -> np.ndarray:
    """Axis times angle (rad), the angle from 0 to 2 pi: the sign of the quaternion is kept, as
    in what is published."""
    w = np.clip(quat_xyzw[3], -1.0, 1.0)
    length = np.sqrt(1.0 - w * w)
    if np.isclose(length, 0.0):
        return np.zeros(3)
    return quat_xyzw[:3] * 2.0 * np.arccos(w) / length
