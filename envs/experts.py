"""A scripted expert: the right action from what the simulator knows now.

It has no timers and no memory, so it can be asked in any state, such as after a push in the middle
of an episode, and always says how to go on from there:

    above the cube -> down a funnel -> close -> lift
           ^______________|____________|        (slipped, pushed away, or closed on air)

Next: `envs/collect.py` (episodes from it).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import mujoco
import numpy as np
from jaxtyping import Float

from .robosuite_env import RobosuiteEnv

POSITION_SCALE_M = 0.05
"""Metres of goal displacement per unit of action."""
ROTATION_SCALE_RAD = 0.5
POSITION_GAIN = 2.2
"""Goal displacement per metre of error; the controller's own spring and damper make it smooth."""
ROTATION_GAIN = 1.5
HOVER_M = 0.09
"""Height above the grasp at which the hand travels, clear of every cube."""
FUNNEL_RADIUS_M = 0.012
"""Within this horizontal distance the hand may be all the way down."""
FUNNEL_SLOPE = 3.0
GRASP_TOLERANCE_M = (0.013, 0.015, 0.013)
"""Near enough to close: along the fingers' width, along their way, and in height."""
GRASP_DEPTH_M = 0.004
"""How far below the cube's centre the fingers close."""
LIFT_M = 0.11
"""Height above the table where a lifted cube is held."""


class CubeExpert:
    """Picks the cube that the instruction names."""

    def action(self, env: RobosuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        cube = env.named_cube()
        position, rotation = env.tool_pose()
        target, target_rotation = env.cube_pose(cube)
        opening = env.finger_opening_m()
        offset = target - position
        distance = float(np.linalg.norm(offset[:2]))
        # Wider while the fingers close: they take the cube along.
        margin = 1.0 if opening > 0.075 else 1.6
        between = bool(np.all(np.abs(offset) < margin * np.array(GRASP_TOLERANCE_M)))
        goal = target.copy()
        goal[2] -= GRASP_DEPTH_M
        gripper = -1.0
        if between:
            gripper = 1.0
            if held(env, cube):
                goal[:2] = position[:2]
                goal[2] = env.table_height_m() + LIFT_M
        else:
            # Fingers that are beside the cube already may slide along it without rising.
            radius = FUNNEL_RADIUS_M * (1.8 if abs(offset[2]) < 0.03 else 1.0)
            above = min(HOVER_M, max(0.0, distance - radius) * FUNNEL_SLOPE)
            if opening < 0.06 and abs(offset[2]) < 0.05:
                # Half-closed fingers would push the cube: open above it first.
                above = max(above, 0.05)
            goal[2] += above
            # Too low for this distance: up first, sideways later.
            too_low = goal[2] - position[2]
            slow = np.clip(1.5 - too_low / 0.02, 0.0, 1.0)
            goal[:2] = position[:2] + slow * offset[:2]
        turn = rotation_error(upright(rotation), rotation)
        action = np.empty(7)
        action[:3] = POSITION_GAIN * (goal - position) / POSITION_SCALE_M
        action[3:6] = ROTATION_GAIN * turn / ROTATION_SCALE_RAD
        action[6] = gripper
        return np.clip(action, -1.0, 1.0)


def held(env: RobosuiteEnv, cube: int) -> bool:
    """Whether both fingers press on the cube."""
    model, data = env.model, env.data
    body = model.body(f"{env.cube_task.cubes[cube].name}_main").id
    touching = set()
    for contact in data.contact[: data.ncon]:
        bodies = model.geom_bodyid[contact.geom1], model.geom_bodyid[contact.geom2]
        if body in bodies:
            other = bodies[0] if bodies[1] == body else bodies[1]
            name = model.body(other).name
            if "finger" in name:
                touching.add("left" if "left" in name or "joint1" in name else "right")
    return len(touching) == 2


def upright(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The tool pointing straight down at the home heading."""
    return np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


def rotation_error(
    desired: Float[np.ndarray, "3 3"], current: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3"]:
    """Axis-angle (rad), in the base frame, that turns `current` into `desired`."""
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, (desired @ current.T).ravel())
    vector = np.zeros(3)
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector
