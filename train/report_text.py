"""How the report writes numbers, facts and what is missing. All text is escaped here or by callers.

Next: `train/report.py` (the page).
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

Number = int | float
"""JSON writes 1.0 as 1 where it likes."""


def number(value: Any) -> str:
    """Digits that matter: whole numbers with separators, others to four figures."""
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return escape(str(value)) or "none"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(rate: Number) -> str:
    """`0.92` as `92 %`, a decimal only where it says something; a line never breaks in it."""
    return f"{100 * rate:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def change(value: Number, low: Number, high: Number, unit: str = " points") -> str:
    """A difference of rates in percentage points with its 95 % interval, on one line."""
    shown = [
        f"{100 * v:+.1f}".removesuffix(".0").replace("-", "\N{MINUS SIGN}")
        for v in (value, low, high)
    ]
    shown = ["0" if text in ("+0", "\N{MINUS SIGN}0") else text for text in shown]
    return f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"


def duration(seconds: Number) -> str:
    """`561.2` as `9 min 21 s`; short times keep a decimal."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def words(name: str) -> str:
    """A key as a person writes it: `p99_ms` as `p99 (ms)`, `late_ticks` as `late ticks`."""
    stem, _, unit = name.rpartition("_")
    shown = {"ms": "ms", "s": "s", "ns": "ns", "hz": "Hz"}
    if stem and unit in shown:
        return f"{stem.replace('_', ' ')} ({shown[unit]})"
    return name.replace("_", " ")


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested facts as one list of named ones."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{before}{words(str(key))}"
        if isinstance(item, Mapping):
            result |= flat(item, f"{name}: ")
        elif isinstance(item, list | tuple):
            result[name] = ", ".join(str(entry) for entry in item)
        else:
            result[name] = item
    return result


def facts(values: Mapping[str, Any]) -> str:
    """Names and values as a table; nothing for no values."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{number(value)}</td></tr>"
        for name, value in values.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""


def missing(what: str, why: str) -> str:
    return f'<p class="missing">{escape(what)} is missing: {escape(why)}.</p>'
