"""What late answers cost: the same scenes at several inference delays, in several execution modes.

    retention   success at a delay over success when the world waits (mode `synchronous`)
    seam jump   how far the arm's command jumps where one chunk follows another
    stalls      share of ticks on which the arm held because nothing was due

`synchronous` has one row: its world stands still, so a delay is never seen. Without a delay `hold`,
`asynchronous` and a policy that ignores its plan in `rtc` do exactly the same; `ensemble` does not
(it asks at every tick and averages), nor does guided `rtc` (it pulls towards the old plan).

Next: `envs/virtual_clock.py`, `envs/chunk_execution.py`, `train/evaluate.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..envs.chunk_execution import Mode, mode_named
from ..envs.parallel import EpisodeJob
from ..envs.rollout import EpisodeResult, evaluation_seeds
from ..envs.virtual_clock import NO_DELAY, DelayModel
from ..policies.checkpoint import write_json
from .evaluate import label, rate, summary
from .evaluation_films import Filmed, film_episodes
from .judging import Engine, Judge

DELAYS = tuple(DelayModel(ticks=ticks) for ticks in (0, 1, 2, 4, 8))


def sweep(
    run: Path,
    task: str | Sequence[str],
    episodes: int,
    seed: int,
    workers: int,
    out: Path,
    *,
    delays: Sequence[DelayModel] = DELAYS,
    modes: Sequence[str] = ("synchronous", "hold", "asynchronous"),
    execution_horizon: int | None = None,
    realtime: str | None = None,
    videos: bool = False,
    engine: Engine | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the same `episodes` scenes of every task at every delay in every mode and write
    `out/results.json`, with a table under `delay_curve`.

    A mode may say how the policy joins chunks, such as `rtc:guided`; plain `rtc` takes `realtime`.
    What a policy cannot do (a delay it was not taught to continue at) is left out, and said.
    """
    if episodes < 1 or not delays or not modes:
        raise ValueError(
            f"got {episodes} episodes, {len(delays)} delays and {len(modes)} modes; expected 1 or "
            "more of each"
        )
    chosen = {name: _mode(name, realtime) for name in dict.fromkeys(modes)}
    console = console or Console()
    tasks = [task] if isinstance(task, str) else list(dict.fromkeys(task))
    engine = replace(engine or Engine(), workers=workers)
    scenes = evaluation_seeds(seed, episodes)
    done: list[Filmed] = []
    left_out: list[str] = []
    judges: dict[str | None, Judge] = {}
    for mode_name, (mode, joined) in chosen.items():
        if joined not in judges:
            judges[joined] = Judge(run, tasks, engine, execution_horizon, joined, videos, console)
        judge = judges[joined]
        with judge, judge.logging(out):
            for delay in (NO_DELAY,) if mode == "synchronous" else dict.fromkeys(delays):
                jobs = [EpisodeJob(scene, mode=mode, delay=delay) for scene in scenes]
                if refusal := judge.refuses(jobs[0]):
                    left_out.append(f"{mode_name}, {refusal}")
                    console.print(f"[bold]left out: {left_out[-1]}[/bold]")
                    continue
                for name in tasks:
                    results = judge.roll(name, jobs, label(name, f"{mode_name} {delay}", tasks))
                    done += [
                        Filmed("named", r, j, mode_name) for r, j in zip(results, jobs, strict=True)
                    ]
            if videos:
                film_episodes(judge, [f for f in done if f.mode == mode_name], out, console)
    if not done:
        raise ValueError("nothing could be run: " + "; ".join(left_out))
    first = next(iter(judges.values()))
    plain = {
        id(f) for f in done if (f.mode, f.result.delay) == (done[0].mode, done[0].result.delay)
    }
    results = summary(first, [f for f in done if id(f) in plain], seed)
    results["episodes"] = summary(first, done, seed)["episodes"]
    results["delay_curve"] = delay_curve(done)
    results["left_out"] = left_out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    return results


def delay_curve(done: Sequence[Filmed]) -> list[dict[str, Any]]:
    """One row per task, mode and delay, in the order in which they were run."""
    groups: dict[tuple[str, str, str], list[EpisodeResult]] = {}
    for filmed in done:
        key = (filmed.result.task, filmed.mode, filmed.result.delay)
        groups.setdefault(key, []).append(filmed.result)
    # The world that waits; in a sweep without it, the first row of the task.
    bound = {task: rows for (task, _, _), rows in reversed(groups.items())}
    bound |= {task: rows for (task, mode, _), rows in groups.items() if mode == "synchronous"}
    table = []
    for (task, mode, delay), rows in groups.items():
        best = rate(bound[task])["rate"]
        found = rate(rows)
        won = [r.steps for r in rows if r.success]
        seams = [r.seam_jump for r in rows if r.seam_jump is not None]
        ticks = sum(r.steps for r in rows)
        seen = [ticks_late for r in rows for ticks_late in r.delays]
        table.append(
            {
                "task": task,
                "mode": mode,
                "delay": delay,
                "success": found,
                "retention": found["rate"] / best if best else None,
                "steps_to_success": float(np.mean(won)) if won else None,
                "delay_seen": float(np.mean(seen)) if seen else None,
                "lost": sum(r.lost for r in rows),
                "stalled": sum(r.stalls for r in rows) / ticks if ticks else 0.0,
                "seam_jump": float(np.median(seams)) if seams else None,
                "jerk": float(np.mean([r.jerk for r in rows])),
            }
        )
    return table


def print_sweep(results: Mapping[str, Any], show: Callable[..., None] | None = None) -> None:
    """The delay curve as a table for people."""
    table = Table(title=f"{results['task']}, evaluation seed {results['seed']}: late answers")
    columns = (
        "task", "mode", "delay", "success", "95 % interval", "retention", "steps", "stalled",
        "seam jump", "jerk (rad/s^3)",
    )  # fmt: skip
    for column in columns:
        table.add_column(column)
    for row in results["delay_curve"]:
        success = row["success"]
        table.add_row(
            row["task"],
            row["mode"],
            row["delay"],
            f"{success['successes']} of {success['episodes']}",
            f"{success['low']:.2f} to {success['high']:.2f}",
            _said(row["retention"], ".2f"),
            _said(row["steps_to_success"], ".0f"),
            f"{row['stalled']:.0%}",
            _said(row["seam_jump"], ".1f"),
            f"{row['jerk']:.0f}",
        )
    (show or Console().print)(table)


def _said(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _mode(name: str, realtime: str | None) -> tuple[Mode, str | None]:
    """Execution mode and how chunks are joined, of `rtc:guided` and the like."""
    mode, _, joined = name.partition(":")
    if joined and mode != "rtc":
        raise ValueError(f"mode {name!r}: only rtc says how chunks are joined, such as rtc:guided")
    return mode_named(mode), (joined or realtime) if mode == "rtc" else None
