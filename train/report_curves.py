"""Drawings of evaluations and comparisons: success over delay, two runs side by side, the lead of
one over the other, the actions of an episode. Colours come from the style sheet by class.

Next: `train/report_plots.py` (the drawings every page has).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .report_plots import BOTTOM, LEFT, RIGHT, TOP, Interval, bottom_axis, rule, scale, text
from .report_text import percent


@dataclass(frozen=True)
class CurvePoint:
    at: float
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    name: str
    points: tuple[CurvePoint, ...]


def delay_curves(curves: Sequence[Curve], width: int, height: int = 300) -> tuple[str, int]:
    """Rates over delay, one line per mode, with their intervals."""
    last = max([p.at for curve in curves for p in curve.points] + [1])
    across = scale(-0.04 * last, 1.04 * last, LEFT, width - RIGHT)
    up = scale(0, 1, height - BOTTOM, TOP)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        parts.append(rule(LEFT, up(tick), width - RIGHT, up(tick), "grid"))
        parts.append(text(LEFT - 7, up(tick) + 4, f"{100 * tick:.0f} %", "end"))
    ticks = sorted({p.at for curve in curves for p in curve.points})
    parts += bottom_axis(
        across, height, width, [(t, f"{t:g}") for t in ticks], "delay in control ticks"
    )
    for index, curve in enumerate(curves):
        name = f"s{index % 6}"
        # Side by side, so that intervals at the same delay do not hide each other.
        shift = (index - (len(curves) - 1) / 2) * 5
        places = [(across(p.at) + shift, p) for p in curve.points]
        ends = [(x, up(p.rate)) for x, p in places]
        if len(curve.points) == 1 and len(ticks) > 1:
            # Where the world waits for the policy no delay is ever seen: a level to compare with.
            ends = [(LEFT, ends[0][1]), (width - RIGHT, ends[0][1])]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in ends)
        parts.append(f'<polyline class="line series {name}" points="{line}"/>')
        for x, p in places:
            parts.append(rule(x, up(p.low), x, up(p.high), f"whisker series {name}"))
            parts.append(f'<circle class="dot {name}" cx="{x:.1f}" cy="{up(p.rate):.1f}" r="4"/>')
    return "".join(parts), height


def side_by_side(rows: Sequence[tuple[str, Interval, Interval]], width: int) -> tuple[str, int]:
    """For each row the rate of A above that of B, both with their intervals."""
    step = 62
    height = step * len(rows) + 44
    across = scale(0, 1, 30, width - 22)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        parts.append(rule(across(tick), 6, across(tick), height - 38, "grid"))
        parts.append(text(across(tick), height - 22, f"{100 * tick:.0f} %", "middle"))
    parts.append(text(across(0.5), height - 4, "success rate, 95 % interval", "middle"))
    for index, (name, a, b) in enumerate(rows):
        y = step * index + 20
        words = f"{name}: {percent(a.rate)} and {percent(b.rate)}"
        parts.append(text(across(0), y, words, "start", "strong halo"))
        for label, place, row, color in (("A", y + 16, a, "s0"), ("B", y + 34, b, "s1")):
            parts += [
                text(6, place + 4, label, "start", "strong"),
                rule(across(row.low), place, across(row.high), place, f"interval {color}"),
                f'<circle class="dot {color}" cx="{across(row.rate):.1f}" cy="{place}" r="6"/>',
            ]
    return "".join(parts), height


def lead_walk(
    lead: Sequence[int], frontier: Sequence[int], width: int, height: int = 240
) -> tuple[str, int]:
    """Scenes won by B minus those won by A, scene after scene, between the frontiers."""
    reach = max([3, *[abs(v) for v in lead], *[min(v, 12) for v in frontier[-1:]]]) + 2
    across = scale(0, max(1, len(lead)), LEFT, width - RIGHT)
    up = scale(-reach, reach, height - BOTTOM, TOP)
    parts = [text(LEFT - 45, 14, "B's lead in scenes won", "start")]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000, 10000) if reach / s <= 4)
    for value in range(-(reach // step) * step, reach + 1, step):
        parts.append(rule(LEFT, up(value), width - RIGHT, up(value), "grid" if value else "axis"))
        parts.append(text(LEFT - 7, up(value) + 4, f"{value:+d}" if value else "0", "end"))
    last = len(lead)
    ticks = sorted({0, last // 2, last})
    parts += bottom_axis(across, height, width, [(t, str(t)) for t in ticks], "scenes")
    for sign in (1, -1):
        # Drawn where it can be seen and reached.
        shown = [(n, sign * v) for n, v in enumerate(frontier, 1) if v <= reach]
        places = " ".join(f"{across(n):.1f},{up(v):.1f}" for n, v in shown)
        if len(shown) > 1:
            parts.append(f'<polyline class="line frontier" points="{places}"/>')
    walk = [(0, 0), *enumerate(lead, 1)]
    places = " ".join(f"{across(n):.1f},{up(v):.1f}" for n, v in walk)
    parts.append(f'<polyline class="line series s0" points="{places}"/>')
    return "".join(parts), height


def action_traces(
    actions: Float[np.ndarray, "steps action_dim"], names: Sequence[str], control_hz: float,
    width: int = 340,
) -> tuple[str, int]:  # fmt: skip
    """Each action over the episode, one strip below the other, each on its own scale."""
    steps, dims = actions.shape
    strip, left = 26, 96
    height = strip * dims + 30
    across = scale(0, max(1, steps - 1), left, width - 8)
    parts = []
    for index in range(dims):
        values = actions[:, index]
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        # A constant stays a line in the middle, and noise of nothing is not blown up.
        middle, reach = (low + high) / 2, max((high - low) / 2, 1e-3)
        base = strip * index + strip / 2 + 2
        up = scale(middle - reach, middle + reach, base + strip / 2 - 4, base - strip / 2 + 4)
        label = names[index] if index < len(names) else str(index)
        parts.append(text(left - 8, base + 4, label[:13], "end"))
        parts.append(rule(left, base + strip / 2, width - 8, base + strip / 2, "grid"))
        places = " ".join(
            f"{across(t):.1f},{up(float(v)):.1f}" for t, v in enumerate(values) if math.isfinite(v)
        )
        parts.append(f'<polyline class="line trace" points="{places}"/>')
    parts.append(text(left, height - 6, "0 s", "start"))
    parts.append(text(width - 8, height - 6, f"{steps / control_hz:.1f} s", "end"))
    return "".join(parts), height
