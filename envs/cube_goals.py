"""When a sentence about cubes has been fulfilled: functions of the present poses.

Contacts are not asked, because those of the simulator lag one physics step behind the poses and a
restored scene would be judged differently. A sequence of two skills needs memory: `advance`.

Next: `envs/cube_tasks.py` (who asks what), `envs/robosuite_env.py` (the scene that is asked).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

REST_M = 0.004
"""How far a resting cube may be from the height at which it would rest."""
CLEAR_M = 0.0005
"""A cube is released when every part of the gripper is further away than this."""
ORDER_TICKS = 3
"""Control ticks a skill of a sequence must last before the next one counts."""


@dataclass(frozen=True)
class Lift:
    """A cube in the air, and nothing else."""

    cube: int


@dataclass(frozen=True)
class Stack:
    """A cube rests on another one, released."""

    cube: int
    base: int


@dataclass(frozen=True)
class Place:
    """A cube rests on the table with its centre on a pad, released."""

    cube: int
    pad: int


@dataclass(frozen=True)
class Then:
    """Two skills in this order; doing the second one first fails for good."""

    first: Stack
    second: Lift

    @property
    def cube(self) -> int:
        """The cube that is taken first."""
        return self.first.cube


Goal = Lift | Stack | Place | Then


@runtime_checkable
class CubeScene(Protocol):
    """What a judge may look at; poses are in the robot base."""

    cube_half_m: float

    def cube_pose(self, cube: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]: ...

    def cube_names(self) -> tuple[str, ...]: ...

    def pads(self) -> list[tuple[str, Float[np.ndarray, "2"], float]]:
        """Name, place and half side of each pad."""
        ...

    def table_height_m(self) -> float: ...

    def airborne(self) -> list[str]:
        """Names of the things whose lowest point is high above the table, cubes first."""
        ...

    def gripper_gap_m(self, cube: int) -> float:
        """Distance from the nearest part of the gripper to a cube, cut off at a centimetre."""
        ...


def lifted(scene: CubeScene) -> list[str]:
    """Names of what is in the air; a cube that rests on another one is not."""
    names = scene.cube_names()
    resting = {names[top] for top, _ in stacked(scene)}
    return [name for name in scene.airborne() if name not in resting]


def rests_on(scene: CubeScene, cube: int, base: int) -> bool:
    """Whether a cube lies flat on another one that stands on the table."""
    top, top_rotation = scene.cube_pose(cube)
    below, _ = scene.cube_pose(base)
    half = scene.cube_half_m
    return (
        bool(np.linalg.norm(top[:2] - below[:2]) < half)
        and bool(abs(top[2] - below[2] - 2 * half) < REST_M)
        and bool(np.abs(top_rotation[2]).max() > 0.98)
        and abs(float(below[2]) - scene.table_height_m() - half) < REST_M
    )


def stacked(scene: CubeScene) -> list[tuple[int, int]]:
    """Pairs (cube, the one it rests on)."""
    count = len(scene.cube_names())
    if count < 2:
        return []
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    return [pair for pair in pairs if rests_on(scene, *pair)]


def on_pad(scene: CubeScene, cube: int, pad: int) -> bool:
    """Whether a cube stands on the table with its centre on the pad."""
    place, rotation = scene.cube_pose(cube)
    _, middle, half_m = scene.pads()[pad]
    return (
        bool(np.all(np.abs(place[:2] - middle) < half_m))
        and abs(float(place[2]) - scene.table_height_m() - scene.cube_half_m) < REST_M
        and bool(np.abs(rotation[2]).max() > 0.98)
    )


def released(scene: CubeScene, cube: int) -> bool:
    """Whether the gripper no longer touches the cube."""
    return scene.gripper_gap_m(cube) > CLEAR_M


def reached(goal: Goal, scene: CubeScene, order: Float[np.ndarray, "3"] | None = None) -> bool:
    """Whether the goal is fulfilled now; `order` is the memory of `advance`, for a `Then`."""
    match goal:
        case Lift(cube):
            return lifted(scene) == [scene.cube_names()[cube]]
        case Stack(cube, base):
            return rests_on(scene, cube, base) and released(scene, cube)
        case Place(cube, pad):
            return on_pad(scene, cube, pad) and released(scene, cube)
        case Then(first, second):
            assert order is not None
            return (
                bool(order[0] == 1)
                and rests_on(scene, first.cube, first.base)
                and reached(second, scene)
            )


def advance(goal: Goal, scene: CubeScene, order: Float[np.ndarray, "3"]) -> None:
    """Bring the memory of a sequence up to date, in place, once per control tick.

    It holds the stage (0: nothing done, 1: the first skill was done, -1: the second one came
    first) and for how many ticks each skill has lasted.
    """
    if not isinstance(goal, Then) or order[0] != 0:
        return
    for skill, part in ((1, goal.first), (2, goal.second)):
        order[skill] = order[skill] + 1 if reached(part, scene) else 0
    if order[1] >= ORDER_TICKS:
        order[0] = 1
    elif order[2] >= ORDER_TICKS:
        order[0] = -1


def outcome(
    goals: tuple[Goal, ...], scene: CubeScene, order: Float[np.ndarray, "3"] | None = None
) -> str:
    """What has been done, in the words of `goals`: `red on green`, else what is in the air.

    `red on green then blue` in a sequence, where `wrong order` says that it cannot succeed any
    more; `none` if nothing.
    """
    names = scene.cube_names()
    done = [
        f"{name} on {word}"
        for cube, name in enumerate(names)
        for pad, (word, _, _) in enumerate(scene.pads())
        if on_pad(scene, cube, pad)
    ]
    if any(isinstance(goal, Stack | Then) for goal in goals):
        done += [f"{names[top]} on {names[base]}" for top, base in stacked(scene)]
    air = "+".join(lifted(scene))
    if order is None:
        return "+".join(done) or air or "none"
    if order[0] == -1:
        return "wrong order"
    return " then ".join(part for part in ("+".join(done), air) if part) or "none"
