"""What every scripted expert of robosuite's tasks is made of: go there, take it, carry it.

A wish is a place for the tool, a heading and a gripper; `pursue` makes an action of it. Like all
experts here the skills have no timers and no memory: asked in any state, they go on from there.

Next: `envs/robosuite_experts.py` (tasks made of these).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from .experts import rotation_error
from .robosuite_judges import grasped
from .robosuite_suite import RobosuiteSuiteEnv

POSITION_SCALE_M = 0.05
"""Metres of goal displacement per unit of action."""
ROTATION_SCALE_RAD = 0.5
POSITION_GAIN = 2.2
"""Goal displacement per metre of error; the controller's own spring and damper make it smooth."""
ROTATION_GAIN = 1.5
OPEN, CLOSED = -1.0, 1.0
HEADING_RANGE_RAD = (-1.9, 3.4)
"""How far the last joint can turn the hand from its home heading; the rest of the circle is
behind its stops."""
FINGER_ROOM_M = 0.055
"""From the tool's middle to the outside of an open finger."""

SHOULDER_M = 0.333
"""Height of the shoulder above the base."""
WRIST_UP_M, WRIST_IN_M = 0.21, 0.088
"""Where the wrist is, seen from the tip of a hand that points down: above it, nearer the base."""
EASY_REACH_M = 0.655
"""From shoulder to wrist; 0.7 is straight."""


@dataclass(frozen=True)
class Wish:
    """Where the tool should be."""

    position: Float[np.ndarray, "3"]
    """World, metres."""
    heading_rad: float
    """About the vertical; 0 is home, where the fingers close along y."""
    gripper: float
    lean_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation vector, in the world, by which the hand is turned from pointing straight down."""


def pursue(env: RobosuiteSuiteEnv, wish: Wish) -> Float[np.ndarray, " action_dim"]:
    """The action towards a wish."""
    position, rotation = env.tool_world_pose()
    lean = rotation_of(np.array(wish.lean_rad) + lean_back(env, position))
    rotation = lean.T @ rotation
    # In steps of less than half a turn, so that the hand never takes the short way through a stop.
    now = heading(rotation)
    turned = now + np.clip(wish.heading_rad - now, -1.0, 1.0)
    c, s = np.cos(turned), np.sin(turned)
    wanted = np.array([[-s, c, 0.0], [c, s, 0.0], [0.0, 0.0, -1.0]])
    action = np.empty(env.embodiment.action_dim)
    action[:3] = POSITION_GAIN * (wish.position - position) / POSITION_SCALE_M
    turn = lean @ rotation_error(wanted, rotation)
    action[3:6] = ROTATION_GAIN * turn / ROTATION_SCALE_RAD
    action[6:] = wish.gripper
    return np.clip(action, -1.0, 1.0)


def lean_back(env: RobosuiteSuiteEnv, tool: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """How the hand must lean towards the arm to be far out with a bent elbow: an arm that is
    straight is caught there, since the controller cannot pull it in."""
    base = env.data.body("robot0_base").xpos
    outward = tool[:2] - base[:2]
    distance = float(np.linalg.norm(outward))
    # Wrist of a hand that points down, from the shoulder.
    reach = np.hypot(distance - WRIST_IN_M, tool[2] + WRIST_UP_M - base[2] - SHOULDER_M)
    angle = np.clip((reach - EASY_REACH_M) / WRIST_UP_M, 0.0, 0.5)
    return angle * np.array([outward[1], -outward[0], 0.0]) / distance


def rotation_of(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The matrix of a rotation vector (rad)."""
    quat, matrix = np.zeros(4), np.zeros(9)
    angle = float(np.linalg.norm(vector))
    mujoco.mju_axisAngle2Quat(quat, vector / angle if angle else np.array([0.0, 0.0, 1.0]), angle)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def heading(rotation: Float[np.ndarray, "3 3"]) -> float:
    """Turn of a tool that points down, within `HEADING_RANGE_RAD` and a little beyond."""
    angle = float(np.arctan2(-rotation[0, 0], rotation[1, 0]))
    middle = sum(HEADING_RANGE_RAD) / 2
    return middle + float((angle - middle + np.pi) % (2 * np.pi) - np.pi)


def headings(direction_rad: float, every_rad: float) -> list[float]:
    """Headings the hand can take among `direction_rad` and its turns by `every_rad`."""
    low, high = HEADING_RANGE_RAD
    first = direction_rad + np.ceil((low - direction_rad) / every_rad) * every_rad
    return [float(angle) for angle in np.arange(first, high, every_rad)]


def easiest(options: Iterable[float], env: RobosuiteSuiteEnv) -> float:
    """The heading nearest to home, with a leaning to the present one, so that it stays chosen."""
    now = heading(env.tool_world_pose()[1])
    return min(options, key=lambda angle: abs(angle) + 0.5 * abs(angle - now))


def finger_direction(heading_rad: float) -> Float[np.ndarray, "2"]:
    """Horizontal unit vector along which the fingers close."""
    return np.array([-np.sin(heading_rad), np.cos(heading_rad)])


def yaw_of(env: RobosuiteSuiteEnv, body: str) -> float:
    """Direction of a body's own x axis in the horizontal plane."""
    matrix = env.data.body(body).xmat.reshape(3, 3)
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def funnel(
    position: Float[np.ndarray, "3"],
    destination: Float[np.ndarray, "3"],
    hover_m: float,
    radius_m: float = 0.012,
    slope: float = 3.0,
) -> Float[np.ndarray, "3"]:
    """A goal on the way to `destination`: at `hover_m` above it while far aside, down a funnel
    when near, and up before sideways when too low."""
    offset = destination - position
    distance = float(np.linalg.norm(offset[:2]))
    goal = destination.copy()
    goal[2] += min(hover_m, max(0.0, distance - radius_m) * slope)
    too_low = goal[2] - position[2]
    goal[:2] = position[:2] + np.clip(1.5 - too_low / 0.02, 0.0, 1.0) * offset[:2]
    return goal


def take(
    env: RobosuiteSuiteEnv,
    grip_point: Float[np.ndarray, "3"],
    heading_rad: float,
    tolerance_m: tuple[float, float, float] = (0.015, 0.013, 0.013),
    hover_m: float = 0.09,
    lean_rad: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Wish:
    """Go above the grip point, down, and close there.

    `tolerance_m`: near enough to close, along the fingers' way, across it and in height.
    """
    position, rotation = env.tool_world_pose()
    opening = env.finger_opening_m()
    along = finger_direction(heading_rad)
    offset = grip_point - position
    aside = np.array([offset[:2] @ along, offset[0] * along[1] - offset[1] * along[0], offset[2]])
    turned = abs(heading(rotation_of(np.array(lean_rad)).T @ rotation) - heading_rad)
    # Wider while the fingers close: they take the object along.
    margin = 1.0 if opening > 0.075 else 1.6
    if np.all(np.abs(aside) < margin * np.array(tolerance_m)) and turned < 0.15 * margin:
        return Wish(grip_point, heading_rad, CLOSED, lean_rad)
    near = abs(offset[2]) < 0.03
    goal = funnel(position, grip_point, hover_m, 0.012 * (1.8 if near else 1.0))
    if turned > 0.2 and not near:
        # Turned askew, the fingers would land on the object.
        goal[2] = max(goal[2], grip_point[2] + 0.05)
    if opening < 0.06 and abs(offset[2]) < 0.05:
        # Half-closed fingers would push it: open above it first.
        goal[2] = max(goal[2], grip_point[2] + 0.05)
    return Wish(goal, heading_rad, OPEN, lean_rad)


def carry(
    env: RobosuiteSuiteEnv,
    held_point: Float[np.ndarray, "3"],
    destination: Float[np.ndarray, "3"],
    heading_rad: float,
    hover_m: float,
    radius_m: float = 0.006,
) -> Wish:
    """Bring a point of what is in the hand to `destination`, over everything in between."""
    position, _ = env.tool_world_pose()
    goal = funnel(held_point, destination, hover_m, radius_m)
    return Wish(position + goal - held_point, heading_rad, CLOSED)


def let_go_and_rise(env: RobosuiteSuiteEnv, name: str, top_m: float, free_m: float = 0.055) -> Wish:
    """Open where the hand is, then go up to the height `top_m`, clear of the object."""
    position, rotation = env.tool_world_pose()
    goal = position.copy()
    if env.finger_opening_m() > free_m and not grasped(env, name):
        goal[2] = top_m
    return Wish(goal, heading(rotation), OPEN)
