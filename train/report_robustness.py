"""What a disturbed world and late answers cost, on the same scenes.

Next: `train/report_judged.py` (success and language), `train/report_curves.py` (the drawing).
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .report_curves import Curve, CurvePoint, delay_curves
from .report_groups import Condition, by_condition, by_task, perturbation_words, plain, rate_of
from .report_judged import as_json, difference_from, rate_table
from .report_plots import both_widths
from .report_text import percent

Rows = Sequence[Mapping[str, Any]]
MODES = ("synchronous", "hold", "asynchronous", "ensemble", "rtc")
"""In the order shown; modes that are not listed come after them."""


def robustness_section(judged: Mapping[str, Any]) -> str:
    """Success per disturbed axis, and the drop; nothing if nothing was disturbed."""
    groups = by_condition(judged.get("episodes") or [])
    first = plain(groups)
    disturbed = {
        c: e
        for c, e in groups.items()
        if c.perturbation and c.kind == first.kind and c.timing == first.timing
    }
    if not disturbed:
        return ""
    shared = on_shared_tasks({first: groups[first]} | disturbed)
    undisturbed = shared.pop(first)
    disturbed = shared
    rates = {"undisturbed": as_json(rate_of(undisturbed))}
    rates |= {perturbation_words(c.perturbation): as_json(rate_of(e)) for c, e in disturbed.items()}
    rows = "".join(
        f"<tr><th>{escape(perturbation_words(c.perturbation))}</th>"
        f"<td>{difference_from(undisturbed, e)}</td></tr>"
        for c, e in disturbed.items()
    )
    return (
        "<h2>What does it withstand?</h2><p>The same scenes, one thing changed at a time.</p>"
        f"{rate_table(rates, 'changed')}<h3>What each change costs</h3>"
        "<table><thead><tr><th>changed</th><th>success on the same scenes</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def delay_section(judged: Mapping[str, Any]) -> str:
    """Success over inference delay for each execution mode; nothing if there is one timing."""
    groups = by_condition(judged.get("episodes") or [])
    timed = {c: e for c, e in groups.items() if c.kind == "named" and not c.perturbation}
    if len(timed) < 2:
        return ""
    timed = on_shared_tasks(timed)
    curves: dict[str, list[CurvePoint]] = {}
    rows = ""
    first = plain(groups)
    for condition, episodes in sorted(timed.items(), key=lambda item: _order(item[0])):
        rate = rate_of(episodes)
        if condition.delay_ticks is not None:
            point = CurvePoint(float(condition.delay_ticks), rate.rate, rate.low, rate.high)
            curves.setdefault(condition.mode, []).append(point)
        against = "" if condition == first else difference_from(timed[first], episodes, "")
        rows += (
            f"<tr><th>{escape(condition.mode)}</th><td>{escape(condition.delay)}</td>"
            f"<td>{rate.successes} of {rate.episodes}</td><td>{percent(rate.rate)}</td>"
            f"<td>{against}</td></tr>"
        )
    series = [Curve(mode, tuple(points)) for mode, points in curves.items()]
    drawing = both_widths(lambda width: delay_curves(series, width), "success over inference delay")
    keys = "".join(
        f'<span class="key series s{index % 6}">{escape(curve.name)}</span>'
        for index, curve in enumerate(series)
    )
    figure = f"<figure>{drawing}<figcaption>{keys}</figcaption></figure>" if series else ""
    return (
        "<h2>What does a late answer cost?</h2><p>The policy's answer comes so many control ticks "
        "after it was asked for; what the arm does meanwhile is the mode. "
        f"Bars are 95&nbsp;% Wilson intervals.</p>{figure}"
        '<div class="scroll"><table class="rates delays"><thead><tr><th>mode</th><th>delay</th>'
        f"<th>solved</th><th>rate</th><th>against {escape(first.mode)} "
        f"{escape(first.delay)}, points</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def on_shared_tasks(groups: Mapping[Condition, Rows]) -> dict[Condition, Rows]:
    """The episodes of those tasks that were run under all of these conditions: a rate over three
    tasks beside one over the easiest of them would show the tasks, not the conditions."""
    shared = set.intersection(*(set(by_task(episodes)) for episodes in groups.values()))
    if not shared:
        return dict(groups)
    return {
        condition: [e for e in episodes if str(e.get("task", "")) in shared]
        for condition, episodes in groups.items()
    }


def _order(condition: Condition) -> tuple[int, bool, int, str]:
    ticks = condition.delay_ticks
    name = condition.mode.partition(":")[0]  # `rtc:guided` is a way of `rtc`
    mode = MODES.index(name) if name in MODES else len(MODES)
    return mode, ticks is None, ticks or 0, condition.mode + condition.delay
