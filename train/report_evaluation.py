"""The page of an evaluation: `results.json` and its films, as one file that opens from disk.

Next: `train/report_judged.py` (its sections), `train/report_comparison.py` (of two evaluations).
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from ..envs.comparison_tasks import macro_rate
from .matching import read_results
from .report_films import Films, gallery
from .report_groups import by_condition, by_task, plain, rate_of
from .report_judged import language_section, plain_episodes, success_section, tasks_section
from .report_page import origin, write_page
from .report_robustness import delay_section, robustness_section
from .report_text import missing, number, percent

FILE = "results.json"


def build_evaluation_page(folder: Path) -> Path:
    """Write `folder/report.html` from `folder/results.json`; returns its path.

    Raises FileNotFoundError without results, ValueError for a file that holds none.
    """
    judged = read_results(folder / FILE)
    films = Films(folder)
    body = [
        _headline(judged),
        success_section(judged, FILE),
        tasks_section(judged),
        language_section(judged, FILE),
        robustness_section(judged),
        delay_section(judged),
        gallery(films, judged, "."),
        _without_actions(judged),
        origin(judged, ("policy", "machine", "versions"), FILE),
    ]
    return write_page(folder / "report.html", f"Ulna: {tasks_in_words(judged)}", body)


def tasks_in_words(judged: Mapping[str, Any]) -> str:
    """`pick_named`, or how many tasks there are."""
    tasks = list(by_task(judged["episodes"]))
    return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"


def _headline(judged: Mapping[str, Any]) -> str:
    seed = judged.get("seed", "not recorded")
    name = f"<h1>Ulna · {escape(tasks_in_words(judged))} · evaluation seed {escape(str(seed))}</h1>"
    episodes = plain_episodes(judged)
    if not episodes:
        return name + missing(f"episodes in {FILE}", "none was run")
    rate = rate_of(episodes)
    tasks = {task: rate_of(rows) for task, rows in by_task(episodes).items()}
    condition = plain(by_condition(judged["episodes"]))
    crashed = f" {rate.crashed} crashed and count as failures." if rate.crashed else ""
    under = f" ({condition.words()})" if condition.words() != "as the scene asks" else ""
    if len(tasks) > 1:
        mean = macro_rate({task: (r.successes, r.episodes) for task, r in tasks.items()})
        figure, low, high = mean.value, mean.low, mean.high
        what = f"mean of {len(tasks)} tasks, {number(rate.episodes)} unseen scenes in all."
    else:
        figure, low, high = rate.rate, rate.low, rate.high
        what = f"{number(rate.successes)} of {number(rate.episodes)} unseen scenes solved{under}."
    return (
        f'{name}<p class="figure">{percent(figure)}</p>'
        f'<p class="lead"><strong>{escape(what[0].upper() + what[1:])}</strong> With 95&nbsp;% '
        f"confidence the rate lies between {percent(low)} and {percent(high)}.{crashed}</p>"
    )


def _without_actions(judged: Mapping[str, Any]) -> str:
    failures = [e for e in judged["episodes"] if not e.get("success") and e.get("video")]
    if not failures or any(e.get("actions") for e in failures):
        return ""
    return missing("the plots of actions", "the evaluation kept none beside its films")
