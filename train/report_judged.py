"""What the judge found, for every page that shows it: rates, tasks, words, and what was taken.

Next: `train/report_robustness.py` (disturbed worlds, late answers), `train/report_films.py`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..envs.comparison import paired_table, tango
from ..envs.comparison_tasks import macro_rate
from .report_groups import (
    KINDS,
    Condition,
    Rate,
    by_condition,
    by_task,
    plain,
    rate_of,
)
from .report_plots import Interval, both_widths, interval_strips
from .report_text import change, missing, number, percent

FILE = "evaluate/results.json"
"""Where a demo keeps its results; a page of an evaluation says its own."""
MOST_ROWS, MOST_COLUMNS = 24, 9
"""Of a table of what was taken; a larger one says nothing on a page."""
MEANING = {
    "paraphrase": "the same wish in words it was not taught",
    "swapped": "solved means: it took what the new words name",
    "blank": "solved means: it did what the scene asks without being told",
    "nonsense": "solved means: it did what the scene asks though told nothing of it",
}


def success_section(judged: Any, file: str = FILE) -> str:
    head = "<h2>Does it do the task?</h2>"
    if judged is None:
        return head + missing(file, "the policy has not been judged")
    rates = {KINDS["named"]: judged.get("success")}
    rates["with another object named"] = judged.get("language_swap")
    if len({c.timing for c in by_condition(judged.get("episodes") or [])}) > 1:
        # A sweep over delays: the file's rates are over all of them, these of the shortest.
        rates = {KINDS["named"]: as_json(rate_of(plain_episodes(judged)))}
    rates |= {KINDS[kind]: as_json(rate) for kind, rate in other_kinds(judged).items()}
    rates = {name: row for name, row in rates.items() if row}
    if not rates:
        return head + missing(f"success in {file}", "no episode was run")
    return (
        f"{head}<p>Each scene is new to the policy, and an attempt counts only if it did what the "
        "words ask for, nothing else, and it lasted. The bar is the 95&nbsp;% Wilson interval: "
        "where the true rate lies, as far as this many attempts can tell.</p>"
        f"{rate_table(rates, 'instruction')}"
    )


def rate_table(rates: Mapping[str, Mapping[str, Any]], what: str) -> str:
    """Rates drawn as strips, and the same in a table whose first column is called `what`."""
    rows, strips = "", []
    for name, row in rates.items():
        successes = row.get("successes", round(row["rate"] * row["episodes"]))
        crashed = f", {row['crashed']} crashed" if row.get("crashed") else ""
        rows += (
            f"<tr><th>{escape(name)}</th><td>{number(successes)} of {number(row['episodes'])}"
            f"{crashed}</td><td>{percent(row['rate'])}</td>"
            f"<td>{percent(row['low'])} to {percent(row['high'])}</td></tr>"
        )
        strips.append(Interval(name, row["rate"], row["low"], row["high"]))
    drawing = both_widths(lambda width: interval_strips(strips, width), "success rates")
    return (
        f'<figure>{drawing}</figure><table class="rates"><thead><tr><th>{escape(what)}</th>'
        f"<th>solved</th><th>rate</th><th>95&nbsp;% interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def tasks_section(judged: Mapping[str, Any]) -> str:
    """Rates per task; nothing if there is one task."""
    tasks = by_task(plain_episodes(judged))
    if len(tasks) < 2:
        return ""
    rates = {name: rate_of(episodes) for name, episodes in tasks.items()}
    mean = macro_rate({name: (r.successes, r.episodes) for name, r in rates.items()})
    return (
        f"<h2>Task by task</h2><p>Mean of the {len(tasks)} tasks, each counting the same: "
        f"<strong>{percent(mean.value)}</strong> (95&nbsp;%: {percent(mean.low)} to "
        f"{percent(mean.high)}).</p>"
        + rate_table({name: as_json(rate) for name, rate in rates.items()}, "task")
    )


def language_section(judged: Any, file: str = FILE) -> str:
    head = "<h2>Does it listen?</h2>"
    if judged is None:
        return head + missing(file, "the policy has not been judged")
    said = ""
    if not judged.get("language_swap"):
        said = missing("the language test", "the scenes were not run with another instruction")
    said += _gaps(judged)
    tables = judged.get("confusion") or {}
    if not tables:
        return head + said + missing(f"confusion in {file}", "nothing was counted")
    # One table of instructions, or one per kind of episode.
    if not all(isinstance(v, dict) for row in tables.values() for v in row.values()):
        tables = {"named": tables}
    captions = KINDS | {"swapped": "same scenes, another object named"}
    drawn, large = "", []
    for kind, table in tables.items():
        taken = {name for row in table.values() for name in row}
        if len(table) > MOST_ROWS or len(taken) > MOST_COLUMNS:
            large.append(captions.get(kind, kind))
        elif table:
            drawn += f"<div>{_confusion(table, captions.get(kind, kind))}</div>"
    parts = [head, said]
    if drawn:
        parts.append(
            "<p>Rows are what was said, columns what the arm took. A policy that listens fills "
            "only the cells in bold, also when the same scene comes with other words.</p>"
            f'<div class="pair">{drawn}</div>'
        )
    if large:
        names = escape("; ".join(large))
        parts.append(
            f'<p class="muted small">Too large to show, in {escape(file)}: what was taken, '
            f"{names}.</p>"
        )
    return "".join(parts)


def plain_episodes(judged: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Those everything else is measured against: own words, nothing disturbed, shortest delay."""
    groups = by_condition(judged.get("episodes") or [])
    return groups.get(plain(groups), [])


def other_kinds(judged: Mapping[str, Any]) -> dict[str, Rate]:
    """Rates of what else was said, beyond the two that have their own entries in the file."""
    groups = by_condition(judged.get("episodes") or [])
    timing = plain(groups).timing
    kinds = {c.kind: e for c, e in groups.items() if c.timing == timing and not c.perturbation}
    shown = [kind for kind in KINDS if kind in kinds and kind not in ("named", "swapped")]
    return {kind: rate_of(kinds[kind]) for kind in shown}


def difference_from(
    plain_rows: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    unit: str = " points",
) -> str:
    """How much success `rows` lose or gain against the same scenes in `plain_rows`, in points."""
    known = {(e.get("task"), e.get("seed")): bool(e.get("success")) for e in plain_rows}
    pairs = [
        (known[key], bool(e.get("success")))
        for e in rows
        if (key := (e.get("task"), e.get("seed"))) in known
    ]
    if not pairs:
        return "no scene in common"
    found = tango(paired_table([a for a, _ in pairs], [b for _, b in pairs]))
    return change(found.value, found.low, found.high, unit)


def as_json(rate: Rate) -> dict[str, Any]:
    """As `results.json` has rates."""
    return {
        "rate": rate.rate, "low": rate.low, "high": rate.high, "episodes": rate.episodes,
        "successes": rate.successes, "crashed": rate.crashed,
    }  # fmt: skip


def _gaps(judged: Mapping[str, Any]) -> str:
    """What other words cost, on the same scenes."""
    groups = by_condition(judged.get("episodes") or [])
    first = plain(groups)
    rows = ""
    for kind in KINDS:
        condition = Condition(kind, "", *first.timing)
        if kind == "named" or condition not in groups:
            continue
        rows += (
            f"<tr><th>{KINDS[kind]}<br><span class='muted small'>{MEANING[kind]}</span></th>"
            f"<td>{percent(rate_of(groups[condition]).rate)}</td>"
            f"<td>{difference_from(groups[first], groups[condition])}</td></tr>"
        )
    if not rows:
        return ""
    return (
        "<table><thead><tr><th>what was said</th><th>solved</th>"
        "<th>against the scene's own words</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _confusion(table: Mapping[str, Mapping[str, int]], caption: str) -> str:
    taken = sorted({name for row in table.values() for name in row}, key=lambda n: (n == "none", n))
    head = "".join(f"<th>{escape(name)}</th>" for name in taken)
    body = ""
    for said, row in table.items():
        total = sum(row.values()) or 1
        cells = "".join(
            f'<td class="{"match" if names_it(said, name) else ""}" '
            f'style="--share: {row.get(name, 0) / total:.2f}">{number(row.get(name, 0))}</td>'
            for name in taken
        )
        body += f"<tr><th>{escape(said)}</th>{cells}</tr>"
    return (
        f'<div class="scroll"><table class="confusion"><caption>{escape(caption)}</caption>'
        f"<thead><tr><th>said / taken</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def names_it(said: str, outcome: str) -> bool:
    """Whether the words of an outcome (`red on green`) come in what was said, in their order."""
    words = iter(said.lower().replace(",", " ").split())
    return bool(outcome) and all(
        word in words for word in outcome.lower().replace(",", " ").split()
    )
