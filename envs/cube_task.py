"""What a table task consists of, before anything is simulated: things, sentences, goals, events.

Next: `envs/cube_tasks.py` (the tasks), `envs/cube_goals.py` (when a goal is reached),
`envs/robosuite_furniture.py` (how the things are built).
"""

from dataclasses import dataclass
from typing import Literal

from .cube_goals import Goal, Then

CUBE_HALF_M = 0.02
TABLE_HEIGHT_M = 0.8
"""Of the table's top in the world."""


@dataclass(frozen=True)
class Cube:
    """One object on the table."""

    name: str
    """The word an outcome uses, such as `red`."""
    rgba: tuple[float, float, float, float]


@dataclass(frozen=True)
class Distractor:
    """A free object that no sentence names; every seed gives it another colour."""

    name: str
    shape: Literal["ball", "cylinder", "box"]
    size_m: tuple[float, ...]
    """Radius; radius and half height; or half sides."""

    @property
    def half_height_m(self) -> float:
        return self.size_m[-1]


@dataclass(frozen=True)
class Pad:
    """A square painted on the table, placed by the seed; nothing collides with it."""

    name: str
    rgba: tuple[float, float, float, float]
    half_m: float = 0.035


@dataclass(frozen=True)
class Belt:
    """A plate that slides across the table (towards -y, into a tunnel) and carries the cubes."""

    speed_m_s: tuple[float, float] = (0.03, 0.06)
    """Slowest and fastest; drawn by the seed."""
    top_m: float = 0.012
    """Height of its surface above the table."""
    half_width_m: float = 0.11
    tunnel_y_m: tuple[float, float] = (-0.29, -0.17)
    """Where the tunnel is, in which no cube can be taken."""


@dataclass(frozen=True)
class Kick:
    """The named cube is given a velocity at one control tick: drawn by the seed, as the rest."""

    tick: tuple[int, int]
    """Earliest and latest."""
    distance_m: tuple[float, float] = (0.03, 0.05)
    """How far it slides, if nothing is in its way."""
    clearance_m: float = 0.065
    """Between the centre of the sliding cube and the other cubes, where a way so free exists."""


@dataclass(frozen=True)
class CubeTask:
    """What lies on the table, what is asked, and where things may be placed."""

    name: str
    cubes: tuple[Cube, ...]
    instructions: tuple[str, ...]
    goals: tuple[Goal, ...]
    """What each instruction asks, in the same order; cubes and pads by index."""
    max_steps: int
    suite: str = "language"
    region_half_m: tuple[float, float] = (0.12, 0.15)
    """Centres lie within this of the region's middle, along x (away from the arm) and y."""
    region_middle_m: tuple[float, float] = (0.0, 0.0)
    """Relative to the table's middle."""
    spacing_m: float = 0.085
    """Smallest distance between centres: the open gripper fits in between."""
    lift_m: float = 0.04
    """A cube counts as lifted when its lowest corner is higher than this above the table."""
    arm_noise_rad: float = 0.02
    """Standard deviation of the initial joint angles around the home pose."""
    distractors: tuple[Distractor, ...] = ()
    distractor_count: tuple[int, int] = (0, 0)
    """Fewest and most that lie on the table; the others lie on the floor below it."""
    pads: tuple[Pad, ...] = ()
    belt: Belt | None = None
    kick: Kick | None = None
    table_friction: float | None = None
    """Of everything that slides on the table; None: robosuite's own, 1."""

    @property
    def memory(self) -> dict[str, int]:
        """What an episode remembers besides physics, and how many numbers each takes."""
        sizes = {
            "pads": 2 * len(self.pads),  # their places
            "colours": 3 * len(self.distractors),
            "kick": 1 + 2 * len(self.cubes) if self.kick else 0,  # tick, velocity of each cube
            "order": 3 if any(isinstance(goal, Then) for goal in self.goals) else 0,
        }
        return {name: size for name, size in sizes.items() if size}
