"""MetaWorld's fifty tasks as scenes: a Sawyer arm that moves its hand and gripper, one table.

Runs here or, through `remote_worker.py`, under an interpreter of its own; it needs metaworld,
mujoco and numpy, no more of Ulna than `remote_painter.py`, and stays within the syntax of Python
3.8.
Target marks are drawn, as MetaWorld does: in `reach` nothing else shows where to go.

Next: `envs/metaworld_tasks.py` (the table of tasks).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from .remote_painter import Painter

CAMERAS = {"front": "corner2"}
"""Our word for a camera -> its name in the model."""
FRONT_CAMERA_POS = (0.75, 0.075, 0.7)
"""Nearer than the model has it: what is published on MetaWorld with pixels looks from here."""


def make(task: str) -> MetaWorldScene:
    """The scene of a task such as `reach-v3`."""
    if task not in ALL_V3_ENVIRONMENTS:
        raise ValueError(f"MetaWorld has no task {task!r}; it has {sorted(ALL_V3_ENVIRONMENTS)}")
    return MetaWorldScene(task)


class MetaWorldScene:
    """One task; the placement is drawn by us, since MetaWorld's own `reset(seed=)` ignores it."""

    def __init__(self, task: str) -> None:
        self._env: Any = ALL_V3_ENVIRONMENTS[task]()
        # The scripted expert may see the goal; `state` gives only what the arm senses.
        self._env._partially_observable = False
        # Observations are clipped to this space; it was cached when the goal was hidden.
        vars(self._env).pop("sawyer_observation_space", None)
        self._env._set_task_called = True
        self._env.max_path_length = 1 << 30  # the caller counts
        self._seed = 0
        self._rng = np.random.default_rng(0)
        self._reset_model = self._env.reset_model
        self._env.reset_model = self._place
        self._env._get_state_rand_vec = self._draw
        self._expert = ENV_POLICY_MAP[task]()
        self._model, self._data = self._env.model, self._env.data
        self._model.cam_pos[self._model.camera("corner2").id] = FRONT_CAMERA_POS
        self._spec = mujoco.mjtState.mjSTATE_INTEGRATION
        self._size = mujoco.mj_stateSize(self._model, self._spec)
        self._joints = [self._model.joint(f"right_j{i}").qposadr[0] for i in range(7)]
        self._success = False
        self._observation = np.zeros(39)
        self._painter: Painter | None = None
        self.reset(0)

    def _place(self) -> np.ndarray:
        """MetaWorld's `reset_model`, which its `reset` calls twice: the same draws both times."""
        self._rng = np.random.default_rng(self._seed)
        return self._reset_model()

    def _draw(self) -> np.ndarray:
        """A placement; some tasks ask again until goal and object are far enough apart."""
        space = self._env._random_reset_space
        self._env._last_rand_vec = self._rng.uniform(space.low, space.high)
        return self._env._last_rand_vec

    def reset(self, seed: int) -> None:
        self._seed = seed
        self._observation, _ = self._env.reset()
        self._success = False
        physics = np.empty(self._size)
        mujoco.mj_getState(self._model, self._data, physics, self._spec)
        self._write(physics)

    def step(self, action: np.ndarray) -> None:
        self._observation, _, _, _, info = self._env.step(action)
        self._success = bool(info["success"])

    def state(self) -> np.ndarray:
        return self._env._get_curr_obs_combined_no_goal()[:4]

    def joints(self) -> np.ndarray:
        return self._data.qpos[self._joints].copy()

    def time_s(self) -> float:
        return self._env.curr_path_length * self._env.dt

    def success(self) -> bool:
        return self._success

    def outcome(self) -> str:
        return "done" if self._success else "none"

    def simulator_state(self) -> np.ndarray:
        physics = np.empty(self._size)
        mujoco.mj_getState(self._model, self._data, physics, self._spec)
        head = [self._seed, self._env.curr_path_length, self._success]
        return np.concatenate([head, self._env._prev_obs, self._observation, physics])

    def restore(self, state: np.ndarray) -> None:
        head, previous, seen, physics = np.split(state, np.cumsum([3, 18, 39]))
        if int(head[0]) != self._seed:
            # A placement also moves bodies of the model and what the reward remembers.
            self.reset(int(head[0]))
        self._env.curr_path_length, self._success = int(head[1]), bool(head[2])
        self._write(physics)
        self._env._prev_obs, self._observation = previous, seen

    def _write(self, physics: np.ndarray) -> None:
        """Put physics into a state and bring poses up to date, as MetaWorld does after a step."""
        mujoco.mj_setState(self._model, self._data, physics, self._spec)
        mujoco.mj_forward(self._model, self._data)
        mujoco.mj_setState(self._model, self._data, physics, self._spec)

    def expert_action(self) -> np.ndarray:
        return np.asarray(self._expert.get_action(self._observation), np.float64)

    def render(self, camera: str, height: int, width: int, profile: str) -> np.ndarray:
        if self._painter is None:
            self._painter = Painter(self._model)
        # The camera hangs upside down in the model.
        return self._painter.draw(self._data, CAMERAS[camera], height, width, profile)[::-1, ::-1]

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()
            self._painter = None
