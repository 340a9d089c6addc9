"""What the page of an episode draws: panels of lines over time, as plain JSON values.

Next: `view_script.py`, which draws them in the browser.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from .store import Store

UNITS = {
    "m": "m",
    "mm": "mm",
    "rad": "rad",
    "deg": "degrees",
    "s": "s",
    "ms": "ms",
    "n": "N",
    "nm": "N m",
    "mps": "m/s",
    "radps": "rad/s",
    "hz": "Hz",
    "v": "V",
    "a": "A",
}
"""Last part of an entry's name, and how the unit is written."""
LINES_PER_PANEL = 8
"""Colours that can be told apart."""
MOST_COLUMNS = 32
"""Entries drawn of streams besides state and action; more would be a page of noise."""
MOST_POINTS = 2000
"""Points per line; more are thinned to the smallest and largest of each stretch."""

Panel = dict[str, Any]


def named_panels(
    rows: Float[np.ndarray, "steps entries"],
    names: Sequence[str],
    limits: tuple[Sequence[float], Sequence[float]] | None = None,
) -> list[Panel]:
    """Entries of one unit share a panel, in order of appearance; those whose names begin alike
    (`tool_x_m`, `tool_y_m`) have one of their own, so that small numbers are not lost in it."""
    begins = Counter(_beginning(name) for name in names)
    groups: dict[tuple[str, str], list[int]] = {}
    for entry, name in enumerate(names):
        beginning = _beginning(name) if begins[_beginning(name)] > 1 else ""
        groups.setdefault((beginning, _split(name)[1]), []).append(entry)
    panels = []
    for (_, unit), entries in groups.items():
        for first in range(0, len(entries), LINES_PER_PANEL):
            chosen = entries[first : first + LINES_PER_PANEL]
            lines = [_line(_split(names[entry])[0], rows[:, entry]) for entry in chosen]
            panel: Panel = {"unit": unit, "x": None, "lines": lines}
            if limits is not None:
                bounds = {(float(limits[0][entry]), float(limits[1][entry])) for entry in chosen}
                if len(bounds) == 1 and np.isfinite(list(bounds)[0]).all():
                    panel["limits"] = list(bounds.pop())
            panels.append(panel)
    return panels


def state_panels(store: Store, episode_index: int) -> list[Panel]:
    return named_panels(store.read("state", episode_index), store.embodiment.state_names)


def action_panels(store: Store, episode_index: int) -> list[Panel]:
    robot = store.embodiment
    rows = store.read("action", episode_index)
    return named_panels(rows, robot.action_names, (robot.action_low, robot.action_high))


def other_panels(store: Store, episode_index: int) -> list[tuple[str, list[Panel]]]:
    """Panels of the remaining numeric streams and of sensors with a rate of their own, by title."""
    record, robot = store.episodes[episode_index], store.embodiment
    found = []
    for name in record.streams:
        folder = name.split("/")[0]
        if name in ("state", "action") or folder in ("images", "depth"):
            continue
        if name.endswith("time_ns"):
            continue
        rows = store.read(name, episode_index)
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        columns = rows.shape[1]
        title = name.removeprefix("sensors/").removesuffix("/values")
        stem, unit = _split(title)
        if title == "joint_position_rad" and len(robot.joint_names) == columns:
            names = [f"{joint}_rad" for joint in robot.joint_names]
        elif title.startswith("action") and columns == robot.action_dim:
            names, unit = list(robot.action_names), ""
        else:
            suffix = title.removeprefix(stem.replace(" ", "_")) if unit else ""
            names = [f"{entry}{suffix}" for entry in range(columns)]
        if columns > MOST_COLUMNS:
            title += f" (the first {MOST_COLUMNS} of {columns} numbers)"
        panels = named_panels(rows[:, :MOST_COLUMNS], names[:MOST_COLUMNS])
        if folder == "sensors":
            times = store.read(name.removesuffix("values") + "time_ns", episode_index)
            seconds = _seconds(times, _origin(store, episode_index, times))
            panels = [_thinned(panel, seconds) for panel in panels]
            title += f", {len(times):,} samples"
        found.append((title, panels))
    return found


def time_panels(store: Store, episode_index: int) -> list[Panel]:
    """Time between steps, and the age of every camera's frame at its step, in milliseconds."""
    streams = store.episodes[episode_index].streams
    if "time_ns" not in streams:
        return []
    times = store.read("time_ns", episode_index)
    panels: list[Panel] = []
    if len(times) > 1:
        intervals = np.diff(times) / 1e6
        # The interval that led to a step; before the first one there is none.
        line = _line("since the step before", np.concatenate((intervals[:1], intervals)))
        usual = 1e3 / store.embodiment.control_hz
        panels.append({"unit": "ms", "x": None, "lines": [line], "limits": [usual, usual]})
    ages = [
        _line(
            f"age of {name.removesuffix('_time_ns')}",
            (times - store.read(name, episode_index)) / 1e6,
        )
        for name in streams
        if name.endswith("_time_ns") and "/" not in name
    ]
    if ages:
        panels.append({"unit": "ms", "x": None, "lines": ages})
    return panels


def step_times(store: Store, episode_index: int) -> tuple[Float[np.ndarray, " steps"], bool]:
    """Seconds of each step since the first one, and whether they were measured: where capture times
    are missing or do not ascend, they are counted at the control rate."""
    record = store.episodes[episode_index]
    if "time_ns" in record.streams:
        times = store.read("time_ns", episode_index)
        if (np.diff(times) > 0).all():
            return _seconds(times, int(times[0])), True
    return np.arange(record.steps) / store.embodiment.control_hz, False


def rounded(values: Shaped[np.ndarray, " points"]) -> list[float | None]:
    """Five figures are finer than a pixel; what is not a number becomes a gap."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def _line(name: str, values: np.ndarray) -> dict[str, Any]:
    return {"name": name, "y": rounded(np.asarray(values, np.float64))}


def _beginning(name: str) -> str:
    return name.partition("_")[0]


def _split(name: str) -> tuple[str, str]:
    """`tool_x_m` as (`tool x`, `m`)."""
    stem, _, last = name.rpartition("_")
    if stem and last in UNITS:
        return stem.replace("_", " "), UNITS[last]
    return name.replace("_", " "), ""


def _origin(store: Store, episode_index: int, times: np.ndarray) -> int:
    """What the sensor's times are counted from: the first step, where the page begins."""
    if "time_ns" in store.episodes[episode_index].streams:
        return int(store.read("time_ns", episode_index, 0, 1)[0])
    return int(times[0])


def _seconds(times: np.ndarray, origin: int) -> np.ndarray:
    return (times - origin) / 1e9


def _thinned(panel: Panel, seconds: np.ndarray) -> Panel:
    """A panel over times of its own, with few enough points to draw."""
    stretch = -(-len(seconds) // (MOST_POINTS // 2))
    if stretch <= 2:
        return panel | {"x": rounded(seconds)}
    starts = np.arange(0, len(seconds), stretch)
    lines = []
    for line in panel["lines"]:
        values = np.array(line["y"], np.float64)
        both = np.stack([np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)], 1)
        lines.append({"name": line["name"], "y": rounded(both.ravel())})
    return panel | {"x": rounded(np.repeat(seconds[starts], 2)), "lines": lines}
