"""Scripted experts for robosuite's tasks: lift, stack, pick and place, nuts.

Next: `envs/robosuite_skills.py` (what they are made of), `envs/robosuite_door_expert.py` (door and
table), `envs/collect.py` (episodes from them).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from .robosuite_door_expert import DoorExpert, WipeExpert
from .robosuite_judges import bin_corners, grasped, touching
from .robosuite_skills import (
    FINGER_ROOM_M,
    Wish,
    carry,
    easiest,
    finger_direction,
    heading,
    headings,
    let_go_and_rise,
    pursue,
    take,
    yaw_of,
)
from .robosuite_suite import RobosuiteSuiteEnv
from .task import Expert

QUARTER = np.pi / 2
PALM_HALF_M = 0.105
"""Half the width of the hand, along the fingers' way."""
PALM_ABOVE_M = 0.031
"""How far the tip of the tool may be below the top of what it takes."""


class LiftExpert:
    """Takes the cube and holds it up."""

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        cube = env.data.body("cube_main").xpos.copy()
        turn = easiest(headings(yaw_of(env, "cube_main"), QUARTER), env)
        if not grasped(env, "cube"):
            return pursue(env, take(env, cube - (0, 0, 0.004), turn))
        position, rotation = env.tool_world_pose()
        position[2] = env.facts.numbers["table_m"][2] + 0.13
        return pursue(env, Wish(position, heading(rotation), 1.0))


class StackExpert:
    """Takes the small cube, puts it on the large one, lets go."""

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        small = env.data.body("cubeA_main").xpos.copy()
        large = env.data.body("cubeB_main").xpos.copy()
        on_top = large + (0, 0, 0.045)
        offset = np.abs(small - on_top)
        held = grasped(env, "cubeA")
        resting = touching(env, "cubeA", "cubeB") and offset[2] < 0.006
        if resting and max(offset[:2]) < (0.009 if held else 0.022):
            return pursue(env, let_go_and_rise(env, "cubeA", small[2] + 0.12))
        _, rotation = env.tool_world_pose()
        if held:
            below = on_top - (0, 0, 0.004)
            return pursue(env, carry(env, small, below, heading(rotation), 0.055))
        options = headings(yaw_of(env, "cubeA_main"), QUARTER)
        free = [turn for turn in options if finger_gap(small, large, turn) > 0.045]
        turn = easiest(free or options, env)
        return pursue(env, take(env, small - (0, 0, 0.004), turn))


def finger_gap(
    target: Float[np.ndarray, "3"], other: Float[np.ndarray, "3"], heading_rad: float
) -> float:
    """Horizontal distance from another object to the nearer of two open fingers."""
    reach = FINGER_ROOM_M * finger_direction(heading_rad)
    return min(float(np.linalg.norm(target[:2] + way * reach - other[:2])) for way in (1, -1))


class PickPlaceExpert:
    """Takes the one object of the first bin and puts it into its quarter of the second."""

    HALF_M = {
        "Milk": (0.02, 0.02, 0.08),
        "Bread": (0.024, 0.02, 0.025),
        "Cereal": (0.05, 0.015, 0.075),
        "Can": (0.025, 0.025, 0.04),
    }
    """Half sizes along the object's own axes."""
    REST_M = {"Milk": 0.061, "Bread": 0.024, "Cereal": 0.075, "Can": 0.041}
    """Height of the origin above the bin's floor, standing."""
    FLOOR_M = 0.02
    """Upper side of the bin's floor, above the bin's origin."""

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        (index,) = (int(number) for number in env.facts.numbers["object"])
        name = ("Milk", "Bread", "Cereal", "Can")[index]
        place = env.data.body(f"{name}_main").xpos.copy()
        low, high = bin_corners(env, index)
        floor = env.facts.numbers["bin_m"][2] + self.FLOOR_M
        held = grasped(env, name)
        standing = floor + self.REST_M[name]
        inside = np.all(low + 0.03 < place[:2]) and np.all(place[:2] < high - 0.03)
        if inside and place[2] < standing + (0.03 if held else 0.04):
            return pursue(env, let_go_and_rise(env, name, standing + 0.17, 0.07))
        _, rotation = env.tool_world_pose()
        if held:
            # A little nearer than the middle: the far quarters are at the end of the arm's reach.
            target = np.array([*(0.7 * low + 0.3 * high), standing])
            wish = carry(env, place, target, heading(rotation), 0.105, radius_m=0.03)
            if place[2] > standing + 0.01:
                # The walls between here and there are across y only.
                wish.position[0] = env.tool_world_pose()[0][0] + target[0] - place[0]
            return pursue(env, wish)
        grip, turn = self._grip(env, name, place)
        return pursue(env, take(env, grip, turn, hover_m=0.1))

    def _grip(
        self, env: RobosuiteSuiteEnv, name: str, place: Float[np.ndarray, "3"]
    ) -> tuple[Float[np.ndarray, "3"], float]:
        """Where and from which heading to take the object, standing or fallen over: across one of
        its level, narrow sides, and no deeper than the palm allows."""
        axes, half = env.data.body(f"{name}_main").xmat.reshape(3, 3), np.array(self.HALF_M[name])
        options: list[float] = []
        for axis, width in zip(axes.T, half, strict=True):
            if abs(axis[2]) < 0.5 and width < 0.035:
                options += headings(float(np.arctan2(axis[1], axis[0])) - QUARTER, np.pi)
        if name == "Can":
            axis = axes[:, 2]
            fallen = abs(axis[2]) < 0.7
            # Round: across its axis when it lies, from anywhere when it stands.
            options = headings(float(np.arctan2(axis[1], axis[0])), np.pi) if fallen else [0.0]
        free = [turn for turn in options if self._clear_of_walls(env, place, turn)]
        grip = place.copy()
        grip[2] += max(0.004 if free else 0.016, float(np.abs(axes[2]) @ half) - PALM_ABOVE_M)
        return grip, easiest(free or options or [0.0], env)

    def _clear_of_walls(
        self, env: RobosuiteSuiteEnv, place: Float[np.ndarray, "3"], turn: float
    ) -> bool:
        """Whether the palm, wider than the fingers, fits between the walls of the first bin."""
        middle = env.data.body("bin1").xpos[:2]
        reach = PALM_HALF_M * np.abs(finger_direction(turn))
        room = np.array([0.19, 0.24]) - np.abs(place[:2] - middle)
        return bool(np.all(reach < room))


class NutExpert:
    """Takes the nut by its handle, turns the handle towards the arm and lowers it over the peg.

    The pegs stand at the end of the arm's reach: with the handle on the far side it could not go
    there pointing down.
    """

    PEG_M = 0.13
    """Height of the pegs above the table."""
    STILL_MPS = 0.06
    """The nut is lowered when it swings no faster than this."""

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        (index,) = (int(number) for number in env.facts.numbers["object"])
        name, peg_name = (("SquareNut", "peg1"), ("RoundNut", "peg2"))[index]
        nut = env.data.body(f"{name}_main").xpos.copy()
        handle = env.data.site(f"{name}_handle_site").xpos.copy()
        peg = env.data.body(peg_name).xpos
        table = env.facts.numbers["table_m"][2]
        offset = float(np.linalg.norm(nut[:2] - peg[:2]))
        held = grasped(env, name)
        if offset < 0.02 and nut[2] < table + self.PEG_M - 0.002:
            # Around the peg: it can only fall down it.
            return pursue(env, let_go_and_rise(env, name, table + self.PEG_M + 0.06))
        yaw = yaw_of(env, f"{name}_main")
        _, rotation = env.tool_world_pose()
        if not held:
            # The hand turns with the nut: from yaw to pi on the way, and should end near home.
            turn = min(headings(yaw, np.pi), key=lambda angle: final_turn(angle, yaw))
            return pursue(env, take(env, handle, turn, (0.02, 0.013, 0.012)))
        now = heading(rotation)
        turn = now + to_handle_near(yaw, now)
        swing = float(np.linalg.norm(env.data.joint(f"{name}_joint0").qvel[:2]))
        height = table + self.PEG_M
        if offset < 0.008 and swing < self.STILL_MPS and abs(turn - now) < 0.25:
            target = np.array([peg[0], peg[1], height - 0.07])
        elif nut[2] < height + 0.02:
            target = np.array([nut[0], nut[1], height + 0.03])
        else:
            target = np.array([peg[0], peg[1], height + 0.03])
        position, _ = env.tool_world_pose()
        return pursue(env, Wish(position + target - nut, turn, 1.0))


def final_turn(heading_rad: float, yaw: float) -> float:
    """How far from home the hand is once it has brought the handle to the near side."""
    final = heading_rad + to_handle_near(yaw, heading_rad)
    return abs(final) + 0.01 * abs(heading_rad)


def to_handle_near(yaw: float, heading_rad: float) -> float:
    """Turn that makes a nut of this yaw point its handle at the arm, if the hand can."""
    short = float((np.pi - yaw + np.pi) % (2 * np.pi) - np.pi)
    options = [short, short - 2 * np.pi, short + 2 * np.pi]
    possible = [turn for turn in options if -1.9 <= heading_rad + turn <= 3.4]
    return min(possible or options, key=abs)


EXPERTS: dict[str, Callable[[], Expert]] = {
    "lift": LiftExpert,
    "stack": StackExpert,
    "pick_place": PickPlaceExpert,
    "nut": NutExpert,
    "door": DoorExpert,
    "wipe": WipeExpert,
}
"""By the names of `RobosuiteTask.expert`."""
