"""A scripted expert that picks: the right action from what the simulator knows now.

It has no timers and no memory, so it can be asked in any state, such as after a push in the middle
of an episode, and always says how to go on from there:

    above the cube -> down a funnel -> close -> lift
           ^______________|____________|        (slipped, pushed away, or closed on air)

Next: `envs/cube_experts.py` (experts that go on to stack and place), `envs/collect.py` (episodes).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

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
TURN_SLOPE = 0.12
"""Metres of height per rad that the hand is still to be turned."""
GRASP_TOLERANCE_M = (0.013, 0.015, 0.013)
"""Near enough to close: along the fingers' width, along their way, and in height."""
GRASP_DEPTH_M = 0.004
"""How far below the cube's centre the fingers close."""
LIFT_M = 0.11
"""Height above the table where a lifted cube is held."""
HOME_HEADING = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation of a tool that points straight down; the fingers close along its x."""
ACROSS_HEADING = np.diag([1.0, -1.0, -1.0])
"""A quarter turn from it: the fingers close along the base's x."""


@dataclass(frozen=True)
class CubeExpert:
    """Picks the cube that the instruction names."""

    lead_s: float = 0.0
    """How far ahead of a moving cube the hand aims: as long as the arm lags behind its goal."""
    hover_m: float = HOVER_M
    across: bool = False
    """Fingers closing along the base's x: across a belt that moves along y."""

    def action(self, env: RobosuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        return self.pick(env, env.named_cube(), ACROSS_HEADING if self.across else None)

    def pick(
        self, env: RobosuiteEnv, cube: int, heading: Float[np.ndarray, "3 3"] | None = None
    ) -> Float[np.ndarray, "7"]:
        """On the way to a cube in the air; `heading` None: the home one."""
        between = between_fingers if heading is None else between_turned_fingers
        if between(env, cube) and held(env, cube):
            position, rotation = env.tool_pose()
            goal = np.array([*position[:2], env.table_height_m() + LIFT_M])
            desired = HOME_HEADING if heading is None else heading
            return towards(position, rotation, goal, desired, 1.0)
        return self.grasp(env, cube, heading)

    def grasp(
        self, env: RobosuiteEnv, cube: int, heading: Float[np.ndarray, "3 3"] | None = None
    ) -> Float[np.ndarray, "7"]:
        """On the way to a cube, and closing around it; `heading` None: the home one."""
        between = between_fingers if heading is None else between_turned_fingers
        position, rotation = env.tool_pose()
        target = env.cube_pose(cube)[0] + self.lead_s * env.cube_velocity_m_s(cube)
        opening = env.finger_opening_m()
        offset = target - position
        distance = float(np.linalg.norm(offset[:2]))
        goal = target.copy()
        goal[2] -= GRASP_DEPTH_M
        gripper = -1.0
        if between(env, cube):
            gripper = 1.0
        else:
            # Fingers that are beside the cube already may slide along it without rising.
            radius = FUNNEL_RADIUS_M * (1.8 if abs(offset[2]) < 0.03 else 1.0)
            above = min(self.hover_m, max(0.0, distance - radius) * FUNNEL_SLOPE)
            if opening < 0.06 and abs(offset[2]) < 0.05:
                # Half-closed fingers would push the cube: open above it first.
                above = max(above, 0.05)
            if heading is not None:
                # Not down yet while the fingers would come down on the cube.
                unturned = float(np.linalg.norm(rotation_error(heading, rotation)))
                above = max(above, min(self.hover_m, TURN_SLOPE * (unturned - 0.1)))
            goal[2] += above
            # Too low for this distance: up first, sideways later.
            too_low = goal[2] - position[2]
            slow = np.clip(1.5 - too_low / 0.02, 0.0, 1.0)
            goal[:2] = position[:2] + slow * offset[:2]
        desired = HOME_HEADING if heading is None else heading
        return towards(position, rotation, goal, desired, gripper)


def towards(
    position: Float[np.ndarray, "3"],
    rotation: Float[np.ndarray, "3 3"],
    goal: Float[np.ndarray, "3"],
    desired: Float[np.ndarray, "3 3"],
    gripper: float,
) -> Float[np.ndarray, "7"]:
    """The action that moves the tool from its pose towards another one."""
    turn = rotation_error(desired, rotation)
    action = np.empty(7)
    action[:3] = POSITION_GAIN * (goal - position) / POSITION_SCALE_M
    action[3:6] = ROTATION_GAIN * turn / ROTATION_SCALE_RAD
    action[6] = gripper
    return np.clip(action, -1.0, 1.0)


def between_fingers(env: RobosuiteEnv, cube: int) -> bool:
    """Whether the cube is where closing fingers of the home heading would take it."""
    return _within_grasp(env, env.cube_pose(cube)[0] - env.tool_pose()[0])


def between_turned_fingers(env: RobosuiteEnv, cube: int) -> bool:
    """The same for fingers of any heading."""
    position, rotation = env.tool_pose()
    across, along, down = rotation.T @ (env.cube_pose(cube)[0] - position)
    return _within_grasp(env, np.array([along, across, down]))


def _within_grasp(env: RobosuiteEnv, offset: Float[np.ndarray, "3"]) -> bool:
    # Wider while the fingers close: they take the cube along.
    margin = 1.0 if env.finger_opening_m() > 0.075 else 1.6
    return bool(np.all(np.abs(offset) < margin * np.array(GRASP_TOLERANCE_M)))


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


def rotation_error(
    desired: Float[np.ndarray, "3 3"], current: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3"]:
    """Axis-angle (rad), in the base frame, that turns `current` into `desired`."""
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, (desired @ current.T).ravel())
    vector = np.zeros(3)
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector
