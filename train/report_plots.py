"""The report's drawings, as SVG text: loss curves, rates with their intervals, a histogram.

Colours come from the page's style sheet by class, so that one drawing serves light and dark. Text
inside an SVG shrinks with it; each drawing is therefore made twice, for a wide and for a narrow
page, and the style sheet shows one of them.

Next: `train/report.py` (the page).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from .report_text import Number, percent

WIDE, NARROW = 720, 350
"""Widths in pixels at which text has its own size."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 44
"""Room around a drawing for axis labels."""

Points = Sequence[tuple[Number, Number]]


@dataclass(frozen=True)
class Interval:
    """A rate and how sure it is, all in [0, 1]."""

    name: str
    rate: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class Mark:
    """A named place on the horizontal axis."""

    name: str
    at: Number


def both_widths(draw: Callable[[int], tuple[str, int]], label: str) -> str:
    """`draw(width) -> (content, height)` for a wide and for a narrow page; `label` says the
    drawing in words to a screen reader."""
    figures = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        content, height = draw(width)
        figures.append(
            f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(label)}">{content}</svg>'
        )
    return "".join(figures)


def smoothed(points: Points) -> list[tuple[Number, Number]]:
    """Geometric mean over neighbours on both sides, so that a falling curve is not shown late."""
    reach = max(1, len(points) // 40)
    logs = [math.log(y) for _, y in points]
    result = []
    for index, (x, _) in enumerate(points):
        # The same number on both sides, also near the ends.
        side = min(reach, index, len(points) - 1 - index)
        near = logs[index - side : index + side + 1]
        result.append((x, math.exp(sum(near) / len(near))))
    return result


def loss_curves(train: Points, held_out: Points, width: int, height: int = 300) -> tuple[str, int]:
    """Loss over steps on a logarithmic axis: raw (faint), smoothed, and held out (dots)."""
    train = [(x, y) for x, y in train if y > 0 and math.isfinite(y)]
    held_out = [(x, y) for x, y in held_out if y > 0 and math.isfinite(y)]
    smooth = smoothed(train)
    heights = [y for _, y in [*train, *held_out]]
    if not heights:
        return text(width / 2, 20, "no finite loss was logged", "middle"), 30
    # One wild step must not flatten the curve: the smoothed line decides the upper end.
    low = min(heights) / 1.15
    high = max([y for _, y in smooth] + [y for _, y in held_out]) * 1.15
    last = max([x for x, _ in [*train, *held_out]] + [1])
    across = scale(0, last, LEFT, width - RIGHT)
    up = scale(math.log(low), math.log(high), height - BOTTOM, TOP)

    def line(points: Points, name: str) -> str:
        places = " ".join(f"{across(x):.1f},{up(math.log(min(y, high))):.1f}" for x, y in points)
        return f'<polyline class="line {name}" points="{places}"/>'

    parts = []
    for value in log_ticks(low, high):
        parts += [
            rule(LEFT, up(math.log(value)), width - RIGHT, up(math.log(value)), "grid"),
            text(LEFT - 7, up(math.log(value)) + 4, f"{value:g}", "end"),
        ]
    parts += bottom_axis(across, height, width, _linear_ticks(last, width), "training step")
    parts.append(text(LEFT - 45, 14, "loss (logarithmic)", "start"))
    parts += [line(train, "raw"), line(smooth, "train"), line(held_out, "held")]
    parts += [
        f'<circle class="held" cx="{across(x):.1f}" cy="{up(math.log(y)):.1f}" r="3"/>'
        for x, y in held_out
    ]
    if len(smooth) == 1:  # a line needs two
        x, y = smooth[0]
        parts.append(
            f'<circle class="train" cx="{across(x):.1f}" cy="{up(math.log(y)):.1f}" r="3"/>'
        )
    return "".join(parts), height


def interval_strips(rows: Sequence[Interval], width: int) -> tuple[str, int]:
    """Rates as dots on one axis from 0 to 100 %, with their intervals as bars."""
    step = 50
    height = step * len(rows) + 44
    across = scale(0, 1, 12, width - 22)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        parts.append(rule(across(tick), 6, across(tick), height - 38, "grid"))
        parts.append(text(across(tick), height - 22, f"{100 * tick:.0f} %", "middle"))
    parts.append(text(across(0.5), height - 4, "success rate, 95 % interval", "middle"))
    for index, row in enumerate(rows):
        y = step * index + 36
        words = f"{row.name}: {percent(row.rate)}"
        parts += [
            text(across(0), y - 16, words, "start", "strong halo"),
            rule(across(row.low), y, across(row.high), y, "interval"),
            f'<circle class="rate" cx="{across(row.rate):.1f}" cy="{y}" r="6"/>',
        ]
    return "".join(parts), height


def histogram(
    values: Sequence[Number], marks: Sequence[Mark], unit: str, width: int, height: int = 270
) -> tuple[str, int]:
    """How often each value came, both axes logarithmic, so that the rare late ones are seen.

    What is below the first decade shown (zero too) is counted in the first bar.
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return text(width / 2, 20, "no tick was measured", "middle"), 30
    top = max([*positive, *[mark.at for mark in marks]])
    ordered = sorted(positive)
    low = 10 ** math.floor(math.log10(ordered[len(ordered) // 100]))
    high = 10 ** math.ceil(math.log10(top * 1.05))
    low = max(low, high / 1e6)
    decades = round(math.log10(high / low))
    bins = decades * max(4, (12 if width > 500 else 8) - decades)
    counts = [0] * bins
    for value in values:
        place = math.log10(max(value, low) / low) / decades * bins
        counts[min(bins - 1, max(0, int(place)))] += 1
    head = 84  # room for the names of the marks
    across = scale(math.log10(low), math.log10(high), LEFT, width - RIGHT)
    most = 10 ** math.ceil(math.log10(max(counts) + 1))
    # One tick must show: the axis begins at a half.
    up = scale(math.log10(0.5), math.log10(most), height - BOTTOM, head)
    parts = []
    for power in range(round(math.log10(most)) + 1):
        parts.append(rule(LEFT, up(power), width - RIGHT, up(power), "grid"))
        parts.append(text(LEFT - 7, up(power) + 4, f"{10**power:,}", "end"))
    for index, count in enumerate(counts):
        if count:
            left = across(math.log10(low) + decades * index / bins)
            right = across(math.log10(low) + decades * (index + 1) / bins)
            y = up(math.log10(count))
            parts.append(
                f'<rect class="bar" x="{left + 0.5:.1f}" y="{y:.1f}" '
                f'width="{right - left - 1:.1f}" height="{height - BOTTOM - y:.1f}"/>'
            )
    ticks = [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    places = [(math.log10(tick), f"{tick:g}") for tick in ticks]
    parts += bottom_axis(across, height, width, places, f"lateness of a tick ({unit})")
    parts.append(text(LEFT - 45, 14, "ticks (logarithmic)", "start"))
    shown = sorted((mark for mark in marks if mark.at > 0), key=lambda mark: mark.at)
    places_x = [across(math.log10(max(mark.at, low))) for mark in shown]
    for index, (mark, x) in enumerate(zip(shown, places_x, strict=True)):
        # A name stands on the side where the next line does not run through it.
        following = places_x[index + 1] if index + 1 < len(shown) else width - RIGHT
        anchor = "end" if following - x < 100 and x > LEFT + 80 else "start"
        y = 30 + 14 * (index % 4)
        parts.append(rule(x, y - 10, x, height - BOTTOM, "mark"))
        parts.append(text(x + (4 if anchor == "start" else -4), y, mark.name, anchor, "halo"))
    return "".join(parts), height


def log_ticks(low: Number, high: Number) -> list[float]:
    """Round values between `low` and `high` of a logarithmic axis, at least two where possible."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        # Through text: 3 * 10**-2 is not the float that is written 0.03.
        ticks = [float(f"{m}e{power}") for power in powers for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _linear_ticks(last: Number, width: int) -> list[tuple[Number, str]]:
    rough = last / (6 if width > 500 else 3)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
    return [(step * i, f"{step * i:,.0f}") for i in range(int(last / step) + 1)]


def scale(low: Number, high: Number, start: Number, end: Number) -> Callable[[Number], Number]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def bottom_axis(
    across: Callable[[Number], Number],
    height: int,
    width: int,
    ticks: Sequence[tuple[Number, str]],
    label: str,
) -> list[str]:
    y = height - BOTTOM
    parts = [rule(LEFT, y, width - RIGHT, y, "axis")]
    for place, words in ticks:
        anchor = "end" if across(place) > width - RIGHT - 8 else "middle"
        parts.append(rule(across(place), y, across(place), y + 4, "axis"))
        parts.append(text(across(place), y + 18, words, anchor))
    parts.append(text((LEFT + width - RIGHT) / 2, y + 38, label, "middle"))
    return parts


def rule(x1: Number, y1: Number, x2: Number, y2: Number, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: Number, y: Number, words: str, anchor: str, name: str = "") -> str:
    shape = f' class="{name}"' if name else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shape}>{escape(words)}</text>'
