"""Experts that go on after the grasp: stack, place, and two skills in one sentence.

Like `CubeExpert` they have no memory: where the cube is says what comes next.

    not held, not there -> grasp -> carry over -> down -> let go -> up
            ^________________|__________|_________|  (slipped, pushed away)

Next: `envs/experts.py` (the grasp), `envs/cube_goals.py` (what counts as done).
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from .cube_goals import CLEAR_M, Lift, Place, Stack, Then, on_pad, rests_on
from .cube_task import CubeTask
from .experts import HOME_HEADING, CubeExpert, held, towards
from .robosuite_env import RobosuiteEnv
from .task import Expert

CARRY_M = 0.055
"""Height above its destination at which a cube travels, clear of the others."""
OVER_M = 0.01
"""Within this horizontal distance a cube is over its destination, and may go all the way down."""
CARRY_SLOPE = 2.0
CLOSE_M = 0.03
"""Within this one it may move sideways at any height: nothing else stands so near."""
SEATED_M = (0.014, 0.005)
"""A cube this near to its destination, horizontally and in height, is let go."""
LOOSE_M = (0.018, 0.012)
"""The same once the fingers have begun to open: no second thoughts then."""
LOOSE_OPENING_M = 0.044
OPEN_M = 0.065
"""Fingers this far apart rise even where they still touch one side."""
HELD_M = 0.035
"""A cube that both fingers touch is carried if it is this near to the point between them."""
RISE_M = 0.16
"""Height of the empty hand above the table after its work."""
HAND_M = (0.13, 0.06)
"""Half length of the hand along the fingers' way and half its width, with half a cube."""
BELT_LEAD_S = 0.08
"""The arm lags this far behind a goal that moves."""


@dataclass(frozen=True)
class StackExpert:
    """Puts the named cube on another one or on a pad."""

    picker: CubeExpert = field(default_factory=CubeExpert)

    def action(self, env: RobosuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        goal = env.goal
        assert isinstance(goal, Stack | Place)
        return self.put(env, goal)

    def put(self, env: RobosuiteEnv, goal: Stack | Place) -> Float[np.ndarray, "7"]:
        """On the way to `goal`; once it is reached, up and away."""
        cube, half = goal.cube, env.cube_half_m
        match goal:
            case Stack(_, base):
                middle = env.cube_pose(base)[0]
                target = np.array([*middle[:2], middle[2] + 2 * half])
                there = rests_on(env, cube, base)
            case Place(_, pad):
                target = np.array([*env.pads()[pad][1], env.table_height_m() + half])
                there = on_pad(env, cube, pad)
        position, rotation = env.tool_pose()
        present, cube_rotation = env.cube_pose(cube)
        way = target - present
        distance, drop = float(np.linalg.norm(way[:2])), abs(float(way[2]))
        carried = held(env, cube) and float(np.linalg.norm(present - position)) < HELD_M
        over_m, high_m = LOOSE_M if env.finger_opening_m() > LOOSE_OPENING_M else SEATED_M
        if (distance < over_m and drop < high_m) or (there and not carried):
            return _let_go(env, cube, way)
        if carried:
            above = np.clip((distance - OVER_M) * CARRY_SLOPE, 0.0, CARRY_M)
            # Too low for this distance: up first, sideways later.
            too_low = target[2] + above - present[2]
            slow = np.clip(1.5 - too_low / 0.02, 0.0, 1.0) if distance > CLOSE_M else 1.0
            move = np.array([*(slow * way[:2]), too_low])
            return towards(position, rotation, position + move, straight_down(rotation), 1.0)
        return self.picker.grasp(env, cube, aligned(cube_rotation, rotation))


def _let_go(env: RobosuiteEnv, cube: int, way: Float[np.ndarray, "3"]) -> Float[np.ndarray, "7"]:
    """Open, keeping the cube where it belongs, and rise when the fingers have left it."""
    position, rotation = env.tool_pose()
    goal, opening = position.copy(), env.finger_opening_m()
    if opening < LOOSE_OPENING_M:
        goal[:2] += way[:2]
    if opening > OPEN_M or env.gripper_gap_m(cube) > 2 * CLEAR_M:
        goal = np.array([*position[:2], env.table_height_m() + RISE_M])
    return towards(position, rotation, goal, straight_down(rotation), -1.0)


@dataclass(frozen=True)
class TwoSkillExpert:
    """Stacks, then lifts the third cube, in a hand that stays above the stack on its way."""

    stacker: StackExpert = field(default_factory=StackExpert)
    picker: CubeExpert = field(default_factory=lambda: CubeExpert(hover_m=0.14))

    def action(self, env: RobosuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        goal, order = env.goal, env.order
        assert isinstance(goal, Then) and order is not None
        first, cube = goal.first, goal.second.cube
        if order[0] != 1 or not rests_on(env, first.cube, first.base):
            return self.stacker.put(env, first)
        hand = env.tool_pose()[1]
        place, rotation = env.cube_pose(cube)
        stack = env.cube_pose(first.base)[0] - place
        return self.picker.pick(env, cube, aligned(rotation, hand, avoid=stack[:2]))


def expert_of(task: CubeTask) -> Expert:
    """Who demonstrates a task; the kind of its goals decides."""
    match task.goals[0]:
        case Lift():
            return CubeExpert(BELT_LEAD_S, across=True) if task.belt else CubeExpert()
        case Stack() | Place():
            return StackExpert()
        case Then():
            return TwoSkillExpert()


def aligned(
    cube_rotation: Float[np.ndarray, "3 3"],
    hand: Float[np.ndarray, "3 3"],
    avoid: Float[np.ndarray, "2"] | None = None,
) -> Float[np.ndarray, "3 3"]:
    """The heading in which the fingers close on two sides of the cube.

    The nearest to home and to the present heading of the `hand`; but the hand, long as it is, shall
    not reach over the place `avoid` (relative to the cube), where something tall stands.
    """
    level = cube_rotation[:, np.argsort(np.abs(cube_rotation[2]))[0]]
    side = np.arctan2(level[1], level[0])
    present = np.arctan2(*(hand @ HOME_HEADING.T)[1::-1, 0])
    best, least = HOME_HEADING, np.inf
    for quarter in range(-3, 4):
        yaw = side + quarter * np.pi / 2
        if abs(yaw) > np.radians(100):
            continue  # the wrist's reach
        cosine, sine = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        heading = turn @ HOME_HEADING
        cost = abs(yaw) + abs(yaw - present)
        if avoid is not None:
            along = abs(float(avoid @ heading[:2, 0]))
            across = abs(float(avoid @ heading[:2, 1]))
            if along < HAND_M[0] and across < HAND_M[1]:
                cost += 10.0 - 10.0 * across
        if cost < least:
            best, least = heading, cost
    return best


def straight_down(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The present heading, pointing straight down."""
    x = np.array([rotation[0, 0], rotation[1, 0], 0.0])
    x /= np.linalg.norm(x)
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([x, np.cross(down, x), down], axis=1)
