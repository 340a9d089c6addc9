"""Judge a policy in simulation: success with its interval, whether it listens, what disturbs it.

    named        the instruction the scene's seed drew                          always
    swapped      the same scenes, another object named                          `language_swap`
    paraphrase   the same wish in other words                                   `language`
    blank, nonsense   no words, or none that mean anything                      `language`
    AXIS         the named scenes with one thing changed (`envs/perturbation.py`)   `axes`

A policy that ignores words does the same thing whatever it is told; `language_swap` is the rate at
which the arm takes what the *new* words name. Results go to `OUT/results.json`, films of some
successes and of every failure beside it. A killed evaluation goes on where it was.

Next: `train/judging.py` (how episodes are run), `train/delay_sweep.py` (late answers),
`train/evaluation_films.py`, `train/report.py` (the page).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from ..datasets.schema import unknown_name
from ..envs.chunk_execution import Mode
from ..envs.intervals import wilson
from ..envs.parallel import EpisodeJob
from ..envs.rollout import EpisodeResult, evaluation_seeds
from ..envs.virtual_clock import NO_DELAY, DelayModel
from ..policies.checkpoint import write_json
from .evaluation_films import Filmed, film_episodes
from .judging import Engine, Judge, job_of
from .provenance import machine, versions

LANGUAGE = ("paraphrase", "blank", "nonsense")
"""What may be said besides the scene's own words and another object's name."""


def evaluate(
    run: Path,
    task: str | Sequence[str],
    episodes: int,
    seed: int,
    workers: int,
    out: Path,
    language_swap: bool = True,
    videos: bool = True,
    console: Console | None = None,
    *,
    language: Sequence[str] = (),
    axes: Sequence[str] = (),
    strength: Literal["mild", "strong"] = "mild",
    mode: Mode = "synchronous",
    delay: DelayModel = NO_DELAY,
    execution_horizon: int | None = None,
    realtime: str | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Run `episodes` unseen scenes of every task (and their twins) and write `out/results.json`.

    The outcome of a scene depends on its seed and the policy alone, not on `workers` (which
    counts, whatever `engine` says). `mode` and `delay`: how all of them are run
    (`envs/virtual_clock.py`). `realtime`: how the policy joins chunks in mode `rtc`.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be 1 or more, got {episodes}")
    for kind in language:
        if kind not in LANGUAGE:
            raise unknown_name("language test", kind, LANGUAGE)
    require_axes(axes)
    console = console or Console()
    tasks = [task] if isinstance(task, str) else list(dict.fromkeys(task))
    engine = replace(engine or Engine(), workers=workers)
    judge = Judge(run, tasks, engine, execution_horizon, realtime, videos, console)
    done: list[Filmed] = []
    with judge, judge.logging(out):
        for name in tasks:
            plain = [
                EpisodeJob(s, mode=mode, delay=delay) for s in evaluation_seeds(seed, episodes)
            ]
            named = judge.roll(name, plain, label(name, "evaluate", tasks))
            done += [Filmed("named", r, j) for r, j in zip(named, plain, strict=True)]
            told = [job_of(r, j) for r, j in zip(named, plain, strict=True) if not r.error]
            twins: dict[str, list[EpisodeJob]] = {}
            instructions = judge.tasks[name].instructions
            if language_swap and len(instructions) > 1:
                twins["swapped"] = [
                    replace(j, instruction=another(instructions, str(j.instruction), j.seed))
                    for j in told
                ]
            twins |= {kind: other_words(name, told, kind) for kind in language}
            for axis in axes:
                twins[axis] = [replace(j, axis=axis, strength=strength) for j in told]
            for kind, jobs in twins.items():
                words = "language test" if kind == "swapped" else kind
                results = judge.roll(name, jobs, label(name, words, tasks))
                kind = "named" if kind in axes else kind
                done += [Filmed(kind, r, j) for r, j in zip(results, jobs, strict=True)]
        if videos:
            film_episodes(judge, done, out, console)
    results = summary(judge, done, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    return results


def summary(judge: Judge, done: Sequence[Filmed], seed: int) -> dict[str, Any]:
    """What `results.json` holds."""
    tasks = list(judge.tasks)
    kinds = list(dict.fromkeys(filmed.kind for filmed in done))

    def chosen(kind: str, perturbation: str = "", task: str | None = None) -> list[EpisodeResult]:
        return [
            f.result for f in done
            if f.kind == kind
            and f.result.perturbation == perturbation
            and task in (None, f.result.task)
        ]  # fmt: skip

    def rates(task: str | None) -> dict[str, Any]:
        axes = dict.fromkeys(f.result.perturbation for f in done if f.result.perturbation)
        found = {kind: chosen(kind, task=task) for kind in kinds}
        return {
            "success": rate(found["named"]),
            "language_swap": rate(found["swapped"]) if found.get("swapped") else None,
            "language": {
                k: rate(rows) for k, rows in found.items() if k not in ("named", "swapped") and rows
            },
            "axes": {axis: rate(rows) for axis in axes if (rows := chosen("named", axis, task))},
            "confusion": {"named": {}, "swapped": {}}
            | {kind: confusion(rows, kind) for kind, rows in found.items()},
        }

    per_task = {task: rates(task) for task in tasks}
    return {
        "task": ", ".join(tasks),
        "seed": seed,
        **rates(None),
        "tasks": per_task,
        # Each task counts the same, however many episodes it has.
        "macro": float(np.mean([row["success"]["rate"] for row in per_task.values()])),
        "policy": judge.policy_facts(),
        "versions": versions(),
        "machine": machine(),
        "episodes": [episode_row(filmed) for filmed in done],
    }


def episode_row(filmed: Filmed) -> dict[str, Any]:
    """An episode in `results.json`."""
    r = filmed.result
    return {
        "kind": filmed.kind,
        "task": r.task,
        "seed": r.seed,
        "instruction": r.instruction,
        "said": r.said,
        "success": r.success,
        "steps": r.steps,
        "outcome": r.outcome,
        "error": r.error,
        "mode": filmed.mode or r.mode,
        "delay": r.delay,
        "delay_seen": float(np.mean(r.delays)) if r.delays else None,
        "lost": r.lost,
        "stalls": r.stalls,
        "seam_jump": r.seam_jump,
        "jerk": r.jerk,
        "perturbation": r.perturbation,
        "digest": r.digest,
        "video": filmed.video,
        "actions": filmed.actions,
    }


def other_words(task: str, told: Sequence[EpisodeJob], kind: str) -> list[EpisodeJob]:
    """The same scenes and goals, said differently; which words, is drawn by the scene's seed."""
    from ..envs.wordings import BLANK, NONSENSE, paraphrases

    jobs = []
    for job in told:
        match kind:
            case "blank":
                words: Sequence[str] = (BLANK or " ",)  # encoders want one token at least
            case "nonsense":
                words = NONSENSE
            case _:
                words = paraphrases(task, str(job.instruction))
        if words:
            draw = int(np.random.default_rng([job.seed, 11]).integers(len(words)))
            jobs.append(replace(job, said=words[draw]))
    if not jobs:
        raise ValueError(f"task {task} has no words for the language test {kind!r}; leave it out")
    return jobs


def require_axes(axes: Sequence[str]) -> None:
    if not axes:
        return
    from ..envs.perturbation import AXES

    for axis in axes:
        if axis not in AXES:
            raise unknown_name("robustness axis", axis, AXES)


def label(task: str, words: str, tasks: Sequence[str]) -> str:
    return words if len(tasks) == 1 else f"{task}: {words}"


def another(instructions: Sequence[str], named: str, seed: int) -> str:
    """An instruction of the scene other than `named`, drawn by the scene's seed."""
    others = [words for words in instructions if words != named]
    return others[int(np.random.default_rng([seed, 7]).integers(len(others)))]


def rate(results: Sequence[EpisodeResult]) -> dict[str, float | int]:
    """Successes with their 95 % Wilson interval; a crashed episode counts as a failure."""
    successes = sum(r.success for r in results)
    low, high = wilson(successes, len(results))
    return {
        "rate": successes / len(results),
        "low": round(low, 4),
        "high": round(high, 4),
        "episodes": len(results),
        "successes": successes,
        "crashed": sum(bool(r.error) for r in results),
    }


def confusion(results: Sequence[EpisodeResult], kind: str = "named") -> dict[str, dict[str, int]]:
    """How often which thing was taken, per instruction; for words without a goal, per words."""
    table: dict[str, dict[str, int]] = {}
    for r in results:
        row = table.setdefault(r.said if kind in ("blank", "nonsense") else r.instruction, {})
        row[r.outcome] = row.get(r.outcome, 0) + 1
    return {words: dict(sorted(row.items())) for words, row in sorted(table.items())}


def print_results(results: Mapping[str, Any], show: Callable[..., None] | None = None) -> None:
    """The rates as a table for people."""
    table = Table(title=f"{results['task']}, evaluation seed {results['seed']}")
    for column in ("", "rate", "95 % interval", "episodes"):
        table.add_column(column)
    rows = {"success": results["success"]}
    tasks = results.get("tasks") or {}
    if len(tasks) > 1:
        rows |= {f"success, {task}": row["success"] for task, row in tasks.items()}
    rows["success, instruction swapped"] = results["language_swap"]
    rows |= {f"success, {kind}": row for kind, row in (results.get("language") or {}).items()}
    rows |= {f"success, {axis}": row for axis, row in (results.get("axes") or {}).items()}
    for name, row in rows.items():
        if row is not None:
            interval = f"{row['low']:.2f} to {row['high']:.2f}"
            crashed = f" ({row['crashed']} crashed)" if row.get("crashed") else ""
            table.add_row(name, f"{row['rate']:.2f}", interval, f"{row['episodes']}{crashed}")
    (show or Console().print)(table)
