"""Where an arm told tool displacements would come to rest: its speed, and what is left to an end.

Joints and tool are measured as positions; their speed is the difference of two measurements. While
they speed up that is late by half a tick, so beside it stands what the last command has made of it
if the controller is a critically damped spring towards its goal:

        speed after one period h = (1 - wh) e^-wh speed + w^2 h e^-wh goal,  w = 2 / displacement_s

Of the two the one that leads farther counts, for each direction by itself.

Next: `safety_tool.py` (who judges by it).
"""

import math
from collections.abc import Sequence

_SAME_S = 1e-3
"""Measurements this near in time are one and the same."""


class Speeds:
    """How fast some measured places move, at least and at most."""

    def __init__(self, count: int, displacement_s: float, period_s: float) -> None:
        rate = 2.0 / displacement_s
        fading = math.exp(-rate * period_s)
        self._keeps, self._gains = (1 - rate * period_s) * fading, rate * rate * period_s * fading
        self._zero = [0.0] * count
        self.forget()

    def forget(self) -> None:
        self._places: Sequence[float] | None = None
        self._measured = self._expected = self._zero
        self._since_s = 0.0

    def see(self, places: Sequence[float], elapsed_s: float, age_s: float, fresh: bool) -> None:
        """New measurements, captured `age_s` ago; `elapsed_s` since the last call."""
        self._since_s += elapsed_s
        if not fresh:
            return
        # From capture to capture.
        between_s = self._since_s - age_s
        if self._places is None:
            self._places, self._since_s = places, age_s
        elif between_s > _SAME_S:
            self._measured = [
                (now - before) / between_s for now, before in zip(places, self._places, strict=True)
            ]
            self._places, self._since_s = places, age_s

    def expect(self, goals: Sequence[float]) -> None:
        """The command of this tick: how far from here each place is told to go."""
        self._expected = [
            self._keeps * speed + self._gains * goal
            for speed, goal in zip(self._measured, goals, strict=True)
        ]

    def ends(self, place: int) -> tuple[float, float]:
        """Slowest and fastest that the place may move now, per second."""
        measured, expected = self._measured[place], self._expected[place]
        return (measured, expected) if measured < expected else (expected, measured)


def wall_share(room_m: float, zone_m: float) -> float:
    """How much of a motion is left `room_m` before a wall: all outside the zone, none at it."""
    return min(1.0, max(0.0, room_m / zone_m))


def room_share(
    place_rad: Sequence[float],
    leads_rad: Sequence[tuple[float, float]],
    turn_rad: Sequence[float],
    low_rad: Sequence[float],
    high_rad: Sequence[float],
) -> float:
    """Largest share (0 to 1) of `turn_rad` that leads no joint outwards past its end, once it has
    gone on by its leads (downwards, upwards)."""
    share = 1.0
    for place, (down, up), turn, low, high in zip(
        place_rad, leads_rad, turn_rad, low_rad, high_rad, strict=True
    ):
        if abs(turn) <= 1e-9:
            continue
        # A joint that is past its end has no room outwards and any inwards.
        room = high - place - up if turn > 0 else place + down - low
        share = min(share, max(room, 0.0) / abs(turn))
    return share
