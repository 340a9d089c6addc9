"""One side of `simulation.py`, in a process of its own: stock robosuite, or Ulna's own path.

    python simulation_arms.py stock '{"size": 84, "cameras": true}'
    python simulation_arms.py ours '{"size": 84}'

Reads one JSON order per line (`{"steps": 20, "profile": "fast"}`) and answers with one line. Two
sides never share a process: robosuite renders into whatever GL context is current.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from safetensors.numpy import load_file, save_file

CAMERAS = ("agentview", "robot0_eye_in_hand")
CONTROL_HZ = 20
HOLD_STEPS = 5
"""An action is kept this long and then taken back, so that the arm gets somewhere and stays where
the task is; anywhere else the hand's camera sees more of the room and less of the table."""
FULL_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def actions(seed: int, steps: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(-1, 1, (steps // (2 * HOLD_STEPS) + 1, 7))
    there_and_back = np.stack([drawn, -drawn], axis=1).reshape(-1, 7)
    return np.repeat(there_and_back, HOLD_STEPS, axis=0)[:steps]


def timed(steps: int, step: Callable[[np.ndarray], None], seed: int) -> dict[str, float]:
    todo = actions(seed, steps)
    wall, cpu = time.perf_counter(), time.process_time()
    for action in todo:
        step(action)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


class Stock:
    """robosuite as its users run it: `suite.make("Lift", ...)`, soft resets, no window."""

    def __init__(self, size: int, cameras: bool) -> None:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        import robosuite

        np.random.seed(0)
        self.env: Any = robosuite.make(
            "Lift",
            robots="Panda",
            use_camera_obs=cameras,
            has_renderer=False,
            has_offscreen_renderer=cameras,
            renderer="mujoco",
            camera_names=list(CAMERAS),
            camera_heights=size,
            camera_widths=size,
            control_freq=CONTROL_HZ,
            hard_reset=False,
            ignore_done=True,
        )
        self.env.reset()

    def run(self, steps: int, seed: int) -> dict[str, float]:
        self.env.reset()
        return timed(steps, self.env.step, seed)

    def record(self, path: str, states: int, sizes: list[int]) -> dict[str, float]:
        """The model, a trajectory and pictures, for the other side to compare with."""
        env = self.env
        model, data = env.sim.model._model, env.sim.data._data
        mujoco.mj_saveModel(model, str(Path(path).with_suffix(".mjb")), None)
        env.reset()
        # The first control period after a reset starts from the mass matrix of the pose before it.
        env.step(np.zeros(7))
        robot = env.robots[0]
        saved: dict[str, np.ndarray] = {
            "start": state_of(model, data),
            "gripper": np.array(robot.gripper["right"].current_action, np.float64),
            "home": np.array(robot.part_controllers["right"].initial_joint, np.float64),
        }
        qpos = []
        for action in actions(3, 10):
            env.step(action)
            qpos.append(data.qpos.copy())
        saved["qpos"] = np.stack(qpos)
        shown, pictures = [], {(camera, size): [] for camera in CAMERAS for size in sizes}
        drawn = np.random.default_rng(5)
        low, high = model.jnt_range[:7].T
        for state in range(states):
            if state % 8 == 0:
                env.reset()
            else:  # half of them far from where a task takes the arm
                data.qpos[:7] = drawn.uniform(low, high) if state % 2 else data.qpos[:7]
                env.step(drawn.uniform(-1, 1, 7))
            env.sim.forward()
            shown.append(state_of(model, data))
            for (camera, size), frames in pictures.items():
                frames.append(env.sim.render(size, size, camera_name=camera)[::-1])
        saved["shown"] = np.stack(shown)
        for (camera, size), frames in pictures.items():
            saved[f"{camera}.{size}"] = np.stack(frames)
        save_file(saved, path)
        return {"states": states}


class Ours:
    """`robosuite/lift` of Ulna's tasks."""

    def __init__(self, size: int) -> None:
        from ulna.envs.robosuite_suite import RobosuiteSuiteEnv
        from ulna.envs.robosuite_tasks import ROBOSUITE_TASKS

        self.size = size
        self.env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"], image_size=size)

    def run(self, steps: int, seed: int, profile: str = "") -> dict[str, float]:
        """`profile` empty: no pictures."""
        env, size = self.env, self.size
        env.reset(seed)

        def step(action: np.ndarray) -> None:
            env.step(action)
            env.state()
            if profile:
                for camera in ("front", "wrist"):
                    env.render(camera, size, size, profile)

        if profile:  # the first picture of a profile prepares it
            env.render("front", size, size, profile)
        return timed(steps, step, seed)

    def compare(self, path: str, sizes: list[int], profiles: list[str]) -> dict[str, Any]:
        """What the other side recorded, stepped and drawn by our path."""
        from ulna.envs.renderer import Renderer
        from ulna.envs.robosuite_suite import HomingController

        saved = load_file(path)
        model = mujoco.MjModel.from_binary_path(str(Path(path).with_suffix(".mjb")))
        data = mujoco.MjData(model)
        controller = HomingController(model, data)
        mujoco.mj_setState(model, data, saved["start"], FULL_STATE)
        controller.begin(saved["gripper"], saved["home"])
        apart = []
        for action, qpos in zip(actions(3, 10), saved["qpos"], strict=True):
            controller.step(action)
            apart.append(float(np.abs(data.qpos - qpos).max()))
        found: dict[str, Any] = {"qpos_apart": max(apart)}
        renderer = Renderer(model)
        for profile in profiles:
            for size in sizes:
                means, largest, equal = [], 0, 0
                for index, state in enumerate(saved["shown"]):
                    mujoco.mj_setState(model, data, state, FULL_STATE)
                    mujoco.mj_forward(model, data)
                    for camera in CAMERAS:
                        mine = renderer.render(data, camera, size, size, profile).astype(int)
                        apart_255 = np.abs(mine - saved[f"{camera}.{size}"][index])
                        means.append(float(apart_255.mean()))
                        largest = max(largest, int(apart_255.max()))
                        equal += int(apart_255.max() == 0)
                found[f"{profile}_{size}px"] = {
                    "pictures": len(means),
                    "bit_equal": equal,
                    "mean_of_255": float(np.mean(means)),
                    "worst_picture_mean": max(means),
                    "largest": largest,
                }
        renderer.close()
        return found


def state_of(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    state = np.empty(mujoco.mj_stateSize(model, FULL_STATE))
    mujoco.mj_getState(model, data, state, FULL_STATE)
    return state


def serve(side: Any) -> None:
    """Answer orders until the line closes."""
    print(json.dumps({"ready": True, "threads": os.environ.get("LP_NUM_THREADS", "")}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(side, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve({"stock": Stock, "ours": Ours}[sys.argv[1]](**json.loads(sys.argv[2])))
