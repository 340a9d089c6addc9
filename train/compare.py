"""Is B better than A? Two `results.json` of `ulna evaluate`, scene by scene, said in words.

    A/results.json   scene 1  scene 2  scene 3 ...      the same task, seed, words and conditions:
    B/results.json   scene 1  scene 2  scene 3 ...      only these pairs are compared

Success of two runs on different scenes would be compared through the luck of the scenes as well;
this needs 1.4 to 2.4 times the episodes, so it is refused (`envs/comparison.py` has the tests).

Next: `train/matching.py` (which episodes are pairs), `train/compare_words.py` (the sentences),
`train/report_comparison.py` (the page).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..datasets.schema import unknown_name
from ..envs.comparison import (
    Estimate,
    PairedTable,
    mcnemar,
    odds_ratio,
    paired_bootstrap,
    paired_table,
    tango,
)
from ..envs.comparison_planning import detectable_paired, episodes_paired
from ..envs.comparison_tasks import holm, macro_difference
from ..envs.intervals import check_confidence, wilson
from ..envs.sequential_test import PairedSequentialTest, anytime_p
from .compare_words import looking_sentence, others_sentences, p_words, sentence
from .matching import MAY_DIFFER, Pair, matched, notes, read_results, refuse_other_worlds
from .report_groups import Condition, by_condition, condition_of, plain, words_said

WANTED_POWER = 0.8


def compare(
    a: Path, b: Path, confidence: float = 0.95, across: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare the results in `a` and `b` (files, or folders holding `results.json`).

    Episodes are matched by task, seed, instruction, words said and conditions; `across` names
    conditions that are allowed to differ, such as `("mode",)` to compare two execution modes.

    Raises ValueError, naming what differs, if the two were not made on the same settings.
    """
    check_confidence(confidence)
    for name in across:
        if name not in MAY_DIFFER:
            raise unknown_name("condition to compare across", name, MAY_DIFFER)
    first, second = read_results(a), read_results(b)
    refuse_other_worlds(first, second)
    pairs = matched(first, second, across)
    groups = by_condition(p[1] for p in pairs)
    chosen = plain(groups)
    of: dict[Condition, list[Pair]] = {}
    for pair in pairs:
        of.setdefault(condition_of(pair[1]), []).append(pair)
    overall = judged(of[chosen], confidence)
    tasks: dict[str, list[Pair]] = {}
    for pair in of[chosen]:
        tasks.setdefault(str(pair[0].get("task")), []).append(pair)
    per_task = {task: judged(rows, confidence) for task, rows in tasks.items()}
    others = {c.words(): judged(rows, confidence) for c, rows in of.items() if c != chosen}
    for family in (per_task, others):
        for row, p in zip(family.values(), holm([r["p"] for r in family.values()]), strict=True):
            row["p_holm"] = p
            row["verdict"] = better(row, p, confidence)
    names = _names(a, b)
    result: dict[str, Any] = {
        "a": {"name": names[0], "policy": first.get("policy") or {}},
        "b": {"name": names[1], "policy": second.get("policy") or {}},
        "confidence": confidence,
        "across": list(across),
        "condition": chosen.words(),
        "overall": overall,
        "tasks": per_task if len(per_task) > 1 else {},
        "macro_difference": _macro(tasks, confidence) if len(per_task) > 1 else None,
        "conditions": others,
        "unmatched": {
            "a": len(first["episodes"]) - len(pairs),
            "b": len(second["episodes"]) - len(pairs),
        },
        "notes": notes(first, second, across),
        "steps_where_both_succeed": _steps(of[chosen]),
        "sequential": sequential(of[chosen], confidence),
        "differing": [_scene(pair) for pair in pairs if pair[0]["success"] != pair[1]["success"]],
    }
    result["words"] = [sentence(overall, confidence)]
    if saved := looking_sentence(result["sequential"]):
        result["words"].append(saved)
    result["words"] += others_sentences("task", result["tasks"], confidence)
    result["words"] += others_sentences("other condition", others, confidence)
    return result


def judged(pairs: Sequence[Pair], confidence: float) -> dict[str, Any]:
    """The statistics of some pairs, as JSON."""
    table = _table(pairs)
    difference = tango(table, confidence)
    share = (table.differing + 1) / (table.scenes + 2)  # never "nothing can ever differ"
    needed = None
    if table.only_a != table.only_b:
        needed = episodes_paired(
            abs(table.difference), max(share, abs(table.difference)), WANTED_POWER, confidence
        )
    row: dict[str, Any] = {
        "scenes": table.scenes,
        "table": asdict(table),
        "rate_a": _rate(table.both + table.only_a, table.scenes, confidence),
        "rate_b": _rate(table.both + table.only_b, table.scenes, confidence),
        "difference": _finite(difference),
        "bootstrap": _finite(paired_bootstrap(table, confidence)),
        "odds_b_over_a": _finite(odds_ratio(table, confidence)),
        "p": mcnemar(table),
        # Under looking whenever one likes: one may stop and go on as one sees fit.
        "p_anytime": anytime_p((bool(x["success"]), bool(y["success"])) for x, y in pairs),
        "detectable_difference": detectable_paired(table.scenes, share, WANTED_POWER, confidence),
        "scenes_needed": needed,
    }
    row["verdict"] = better(row, row["p"], confidence)
    return row


def sequential(pairs: Sequence[Pair], confidence: float) -> dict[str, Any]:
    """What looking after every scene would have done, had this many been planned: when it would
    have stopped, and B's lead with the frontier along the way."""
    test = PairedSequentialTest(len(pairs), confidence)
    lead, frontier = [], []
    won = 0
    for x, y in pairs:
        won += bool(y["success"]) - bool(x["success"])
        lead.append(won)
        if test.verdict is None:
            test.feed(bool(x["success"]), bool(y["success"]))
            frontier.append(test.frontier)
    decided = test.table.scenes if test.verdict else None
    return {
        "planned": len(pairs), "decided_after": decided, "verdict": test.verdict, "lead": lead,
        "frontier": frontier,
    }  # fmt: skip


def better(row: Mapping[str, Any], p: float, confidence: float) -> str | None:
    """`a`, `b`, or None if they cannot be told apart."""
    if p > 1 - confidence:
        return None
    return "b" if row["table"]["only_b"] > row["table"]["only_a"] else "a"


def _table(pairs: Sequence[Pair]) -> PairedTable:
    return paired_table(
        [bool(x["success"]) for x, _ in pairs], [bool(y["success"]) for _, y in pairs]
    )


def _macro(tasks: Mapping[str, Sequence[Pair]], confidence: float) -> dict[str, Any]:
    return _finite(
        macro_difference({name: _table(rows) for name, rows in tasks.items()}, confidence)
    )


def _steps(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Speed, which only scenes that both solved can tell."""
    both = [(x, y) for x, y in pairs if x["success"] and y["success"]]
    if not both:
        return None
    return {
        "scenes": len(both),
        "a": float(median(x["steps"] for x, _ in both)),
        "b": float(median(y["steps"] for _, y in both)),
    }


def _scene(pair: Pair) -> dict[str, Any]:
    shared = {name: pair[0].get(name) for name in ("task", "seed", "instruction")}
    shared |= {"said": words_said(pair[1]), "condition": condition_of(pair[1]).words()}
    kept = ("success", "steps", "outcome", "error", "video", "actions")
    return shared | {
        side: {name: episode.get(name) for name in kept}
        for side, episode in zip("ab", pair, strict=True)
    }


def _rate(successes: int, episodes: int, confidence: float) -> dict[str, Any]:
    low, high = wilson(successes, episodes, confidence)
    return {"rate": successes / episodes, "low": low, "high": high, "successes": successes}


def _finite(estimate: Estimate) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(estimate).items()}


def _names(a: Path, b: Path) -> tuple[str, str]:
    """Shortest ends of the two paths that tell them apart; a file stands for its folder."""
    parts = [
        [p for p in path.resolve().parts if p not in ("results.json", "evaluate", "/")]
        for path in (a, b)
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if names[0] != names[1]:
            return names[0], names[1]
    return "A", "B"


def print_comparison(result: Mapping[str, Any], console: Console | None = None) -> None:
    """The verdict in words, then the numbers."""
    console = console or Console()
    console.print(f"A: {result['a']['name']}\nB: {result['b']['name']}\n", highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    sure = f"{100 * result['confidence']:g} %"
    for column in ("", "scenes", "A", "B", f"B minus A ({sure})", "A : B", "p"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    rows = {result["condition"]: result["overall"]} | result["tasks"] | result["conditions"]
    for name, row in rows.items():
        d, t = row["difference"], row["table"]
        table.add_row(
            name, str(row["scenes"]),
            f"{100 * row['rate_a']['rate']:.0f} %", f"{100 * row['rate_b']['rate']:.0f} %",
            f"{100 * d['value']:+.0f} ({100 * d['low']:+.0f} to {100 * d['high']:+.0f})",
            f"{t['only_a']} : {t['only_b']}", p_words(row.get("p_holm", row["p"])),
        )  # fmt: skip
    console.print(table)
    for note in [*result["words"], *result["notes"]]:
        console.print(note, highlight=False)
