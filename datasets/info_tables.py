"""The facts of a store as tables for a terminal (`ulna data info`)."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_TEXTS = 12
"""Instructions shown; a store may hold thousands."""


def print_info(facts: dict[str, Any]) -> None:
    """Print what `describe` and `rates` found."""
    robot, success = facts["embodiment"], facts["success"]
    console = Console()
    hours, rest = divmod(round(facts["duration_s"]), 3600)
    lines = [
        ("episodes", f"{facts['episodes']}, {facts['mean_steps']:.1f} steps on average"),
        ("steps", f"{facts['steps']}: {hours} h {rest // 60} min {rest % 60} s"),
        ("size", f"{facts['bytes'] / 1e6:.1f} MB in {facts['segments']} segments"),
        ("success", _success(success)),
        ("robot", f"{robot['name']}, {robot['control_hz']:g} Hz"),
        ("state", ", ".join(robot["state_names"])),
        ("action", f"{', '.join(robot['action_names'])}: {robot['action_meaning']}"),
    ]
    for name in ("damaged_commits", "episodes_without_time_ns"):
        if facts.get(name):
            lines.append((name.replace("_", " "), str(facts[name])))
    _print(console, facts["path"], ("", ""), lines)
    for name in ("tasks", "instructions"):
        counts = sorted(facts[name].items(), key=lambda item: -item[1])
        rows = [(text, str(count)) for text, count in counts[:MOST_TEXTS]]
        if len(counts) > MOST_TEXTS:
            rows.append((f"and {len(counts) - MOST_TEXTS} more", ""))
        _print(console, "", (name, "episodes"), rows)
    _print(
        console, "", ("stream", "of a row", "rows", "bytes per row", "MB", "coded as"),
        [_stream(name, stream) for name, stream in facts["streams"].items()],
    )  # fmt: skip
    _print(
        console, "", ("clock", "Hz", "jitter p50", "p99", "max ms", "exactly regular"),
        [_clock(name, clock) for name, clock in facts.get("clocks", {}).items()],
    )  # fmt: skip


def _success(success: dict[str, Any]) -> str:
    if not success["labelled"]:
        return "not labelled"
    return f"{success['successes']} of {success['labelled']} labelled ({success['rate']:.0%})"


def _stream(name: str, stream: dict[str, Any]) -> tuple[str, ...]:
    codecs = ", ".join(
        " ".join(str(value) for value in codec.values() if value is not None)
        for codec in stream.get("codecs", [])
    )
    shape = stream.get("shape", [])
    sides = shape if isinstance(shape, str) else " x ".join(str(side) for side in shape)
    row = f"{stream.get('dtype', '')} {sides}".strip()
    per_row = f"{stream['bytes_per_row']:.0f}" if stream.get("bytes_per_row") else ""
    size = f"{stream['bytes'] / 1e6:.2f}" if "bytes" in stream else ""
    return name, row, str(stream.get("rows", "")), per_row, size, codecs


def _clock(name: str, clock: dict[str, Any]) -> tuple[str, ...]:
    jitter = (f"{clock[f'jitter_{which}_ms']:.2f}" for which in ("p50", "p99", "max"))
    regular = f"{clock['exactly_regular_episodes']} of {clock['episodes']} episodes"
    return name, f"{clock['measured_hz']:.2f}", *jitter, regular


def _print(
    console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> None:
    table = Table(title=title or None, show_header=any(columns), title_justify="left")
    for number, column in enumerate(columns):
        left = number == 0 or column in ("", "coded as", "of a row")
        table.add_column(column, justify="left" if left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        console.print(table)
