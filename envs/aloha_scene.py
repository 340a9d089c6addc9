"""Two ViperX arms over a table (gym-aloha's models and rules), without its pictures per step.

gym-aloha draws three frames of 480 x 640 in every step, and its dm_control binds to single versions
of MuJoCo. This steps the same models in the same order of calls and knows when a task is done, from
the package's files alone.

Next: `envs/gymnasium_tasks.py` (the table), `envs/remote_painter.py` (the pictures).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from .remote_painter import Painter

SUBSTEPS = 10
"""Physics steps of 2 ms per control tick of 20 ms."""
FINGER_CLOSED_M, FINGER_OPEN_M = 0.01844, 0.058
"""Positions of a left finger that a gripper command of 0 and 1 stand for."""
LEFT_FINGER = "vx300s_left/10_left_gripper_finger"
RIGHT_FINGER = "vx300s_right/10_right_gripper_finger"
SOCKET = tuple(f"socket-{i}" for i in range(1, 5))


class AlohaScene:
    """`transfer_cube` or `insertion`, placed as gym-aloha places it under the same seed."""

    def __init__(self, task: str) -> None:
        from gym_aloha.constants import ASSETS_DIR, START_ARM_POSE

        self._task = task
        path = ASSETS_DIR / f"bimanual_viperx_{task}.xml"
        self._model = mujoco.MjModel.from_xml_path(str(path))
        self._data = mujoco.MjData(self._model)
        self._start = np.array(START_ARM_POSE)
        self._spec = mujoco.mjtState.mjSTATE_INTEGRATION
        self._size = mujoco.mj_stateSize(self._model, self._spec)
        self._painter: Painter | None = None
        self.reset(0)

    def reset(self, seed: int) -> None:
        from gym_aloha.utils import sample_box_pose, sample_insertion_pose

        if self._task == "transfer_cube":
            placement = sample_box_pose(seed)
        else:
            placement = np.concatenate(sample_insertion_pose(seed))
        mujoco.mj_resetData(self._model, self._data)
        self._forward_without_actuation()
        self._data.qpos[: len(self._start)] = self._start
        self._data.qpos[-len(placement) :] = placement
        self._data.ctrl[:] = self._start
        self._forward_without_actuation()

    def _forward_without_actuation(self) -> None:
        flags = self._model.opt.disableflags
        self._model.opt.disableflags = flags | mujoco.mjtDisableBit.mjDSBL_ACTUATION
        mujoco.mj_forward(self._model, self._data)
        self._model.opt.disableflags = flags

    def step(self, action: Float[np.ndarray, "14"]) -> None:
        control = []
        for arm in np.split(np.asarray(action), 2):
            finger = FINGER_CLOSED_M + arm[6] * (FINGER_OPEN_M - FINGER_CLOSED_M)
            control.append([*arm[:6], finger, -finger])
        self._data.ctrl[:] = np.concatenate(control)
        # The second half of a step first, the first half last: what is read in between (contacts,
        # pictures) then belongs to the present positions.
        mujoco.mj_step2(self._model, self._data)
        mujoco.mj_step(self._model, self._data, SUBSTEPS - 1)
        mujoco.mj_step1(self._model, self._data)

    def state(self) -> Float[np.ndarray, "14"]:
        arms = []
        for arm in np.split(self._data.qpos[:16], 2):
            opening = (arm[6] - FINGER_CLOSED_M) / (FINGER_OPEN_M - FINGER_CLOSED_M)
            arms.append([*arm[:6], opening])
        return np.concatenate(arms)

    def joints(self) -> Float[np.ndarray, "12"]:
        return np.concatenate([self._data.qpos[:6], self._data.qpos[8:14]])

    def time_s(self) -> float:
        return float(self._data.time)

    def outcome(self) -> str:
        """The furthest stage that holds now, in gym-aloha's order of rewards."""
        touching = self._touching()

        def touch(one: str, other: str) -> bool:
            return frozenset((one, other)) in touching

        if self._task == "transfer_cube":
            lifted = not touch("red_box", "table")
            if touch("red_box", LEFT_FINGER):
                return "transferred" if lifted else "touched by the left arm"
            if touch("red_box", RIGHT_FINGER):
                return "lifted by the right arm" if lifted else "touched by the right arm"
            return "none"
        if touch("red_peg", "pin"):
            return "inserted"
        held = touch("red_peg", RIGHT_FINGER) and any(touch(s, LEFT_FINGER) for s in SOCKET)
        lifted = not touch("red_peg", "table") and not any(touch(s, "table") for s in SOCKET)
        if lifted and any(touch("red_peg", s) for s in SOCKET):
            return "peg at the socket"
        return ("both lifted" if lifted else "both touched") if held else "none"

    def _touching(self) -> set[frozenset[str]]:
        pairs = {(c.geom1, c.geom2) for c in self._data.contact[: self._data.ncon]}
        return {frozenset(self._model.geom(int(g)).name for g in pair) for pair in pairs}

    def success(self) -> bool:
        return self.outcome() in ("transferred", "inserted")

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        state = np.empty(self._size)
        mujoco.mj_getState(self._model, self._data, state, self._spec)
        return state

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"]) -> None:
        mujoco.mj_setState(self._model, self._data, state, self._spec)
        mujoco.mj_forward(self._model, self._data)
        mujoco.mj_setState(self._model, self._data, state, self._spec)

    def render(
        self, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self._painter is None:
            self._painter = Painter(self._model)
        return self._painter.draw(self._data, camera, height, width, profile)

    def expert_action(self) -> np.ndarray:
        raise ValueError("gym-aloha has no scripted expert")

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()
            self._painter = None
