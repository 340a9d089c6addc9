"""robosuite's checks of success, on the bare model: the same verdict without robosuite.

Tests hold each to robosuite's own `_check_success` along demonstrations.

Next: `envs/robosuite_suite.py` (who asks).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float

from .robosuite_stock import Facts

LIFT_M = 0.04
PEG_TOLERANCE_M = 0.03
LET_GO = 0.6
"""robosuite's measure of nearness, 1 - tanh(10 d), above which the hand still has the object."""


@runtime_checkable
class Judged(Protocol):
    """What a judge looks at."""

    facts: Facts
    model: mujoco.MjModel
    data: mujoco.MjData

    def tool_world_pose(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]: ...

    def markers_wiped(self) -> np.ndarray: ...


def lifted(env: Judged) -> bool:
    return bool(body_position(env, "cube_main")[2] > env.facts.numbers["table_m"][2] + LIFT_M)


def stacked(env: Judged) -> bool:
    """The small cube on the large one, and in no hand."""
    if body_position(env, "cubeA_main")[2] <= env.facts.numbers["table_m"][2] + LIFT_M:
        return False
    return touching(env, "cubeA", "cubeB") and not grasped(env, "cubeA")


def opened(env: Judged) -> bool:
    return float(env.data.joint("Door_hinge").qpos[0]) > 0.3


def in_bin(env: Judged) -> bool:
    """The object in its quarter of the second bin, and let go."""
    (index,) = env.facts.numbers["object"]
    position = body_position(env, f"{('Milk', 'Bread', 'Cereal', 'Can')[int(index)]}_main")
    low, high = bin_corners(env, int(index))
    inside = np.all(low < position[:2]) and np.all(position[:2] < high)
    floor = env.facts.numbers["bin_m"][2]
    return bool(inside and floor < position[2] < floor + 0.1 and let_go(env, position))


def bin_corners(env: Judged, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x and y (m) of one quarter of the second bin."""
    low = np.array(env.facts.numbers["bin_m"][:2])
    half = np.array(env.facts.numbers["bin_size_m"][:2]) / 2
    if index in (0, 2):
        low[0] -= half[0]
    if index < 2:
        low[1] -= half[1]
    return low, low + half


def on_peg(env: Judged) -> bool:
    (index,) = env.facts.numbers["object"]
    nut = body_position(env, ("SquareNut_main", "RoundNut_main")[int(index)])
    peg = body_position(env, ("peg1", "peg2")[int(index)])
    near = np.all(np.abs(nut[:2] - peg[:2]) < PEG_TOLERANCE_M)
    low = nut[2] < env.facts.numbers["table_m"][2] + 0.05
    return bool(near and low and let_go(env, nut))


def wiped(env: Judged) -> bool:
    return bool(env.markers_wiped().all())


def body_position(env: Judged, body: str) -> np.ndarray:
    return env.data.xpos[env.model.body(body).id]


def let_go(env: Judged, position: np.ndarray) -> bool:
    distance = np.linalg.norm(env.tool_world_pose()[0] - position)
    return bool(1 - np.tanh(10.0 * distance) < LET_GO)


def grasped(env: Judged, name: str) -> bool:
    """Whether both finger pads touch the object."""
    return all(touching(env, pad, name) for pad in ("left_fingerpad", "right_fingerpad"))


def touching(env: Judged, one: str, other: str) -> bool:
    """Whether any geom of the one touches any geom of the other, by the names of `Facts.geoms`."""
    first, second = (geom_ids(env, env.facts.geoms[name]) for name in (one, other))
    pairs = env.data.contact.geom[: env.data.ncon]
    a, b = pairs[:, 0], pairs[:, 1]
    straight = np.isin(a, first) & np.isin(b, second)
    return bool(np.any(straight | (np.isin(b, first) & np.isin(a, second))))


def geom_ids(env: Judged, names: Sequence[str]) -> list[int]:
    return [env.model.geom(name).id for name in names]


JUDGES: dict[str, Callable[[Judged], bool]] = {
    "lifted": lifted,
    "stacked": stacked,
    "opened": opened,
    "in_bin": in_bin,
    "on_peg": on_peg,
    "wiped": wiped,
}
