"""Judge a policy in simulation: success with its interval, and whether it listens.

The language test runs the same scenes twice: once with the instruction the scene's seed drew, once
with another object named. A policy that ignores words does the same thing both times;
`language_swap` is the rate at which the arm takes what the *new* words name. Results go to
`OUT/results.json`, films of some successes and of every failure beside it.

Next: `envs/parallel.py` (how episodes are run), `train/report.py` (the page).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..envs.intervals import wilson
from ..envs.parallel import run_episodes
from ..envs.rollout import EpisodeResult, evaluation_seeds
from ..envs.tasks import find_task, make_env
from ..envs.video import film, write_mp4
from ..envs.workers import Failure, WorkerPool
from ..policies.checkpoint import load_act, load_policy, write_json

FILMED_SUCCESSES = 3


def evaluate(
    run: Path,
    task: str,
    episodes: int,
    seed: int,
    workers: int,
    out: Path,
    language_swap: bool = True,
    videos: bool = True,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run `episodes` unseen scenes (and their swapped twins) and write `out/results.json`.

    The outcome of a scene depends on its seed and the policy alone, not on `workers`.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be 1 or more, got {episodes}")
    judged = find_task(task)
    instructions = judged.instructions
    policy = load_policy(run)  # refuses a broken checkpoint before any process is started
    arm = judged.embodiment(policy.embodiment.render_profile or judged.profiles[-1])
    policy.use(arm, f"the arm of {task}")
    profile, execution = policy.embodiment.render_profile, policy.config.execution_horizon
    weights = run / "model.safetensors"
    weights = weights if weights.exists() else run / "policy" / "model.safetensors"
    scenes = evaluation_seeds(seed, episodes)
    console = console or Console()

    def roll(jobs: Sequence[tuple[int, str | None]], words: str) -> list[EpisodeResult]:
        with _progress(console) as progress:
            bar = progress.add_task(words, total=len(jobs), good=0)
            good = 0

            def on_result(index: int, result: EpisodeResult) -> None:
                nonlocal good
                good += result.success
                progress.update(bar, advance=1, good=good)

            return run_episodes(
                task, partial(load_act, run, embodiment=arm), jobs, workers, execution,
                render_profile=profile, on_result=on_result, history=policy.config.history,
            )  # fmt: skip

    named = roll([(scene, None) for scene in scenes], "evaluate")
    swapped: list[EpisodeResult] = []
    if language_swap and len(instructions) > 1:
        twins = [
            (r.seed, another(instructions, r.instruction, r.seed)) for r in named if not r.error
        ]
        swapped = roll(twins, "language test")

    rows = [(kind, r) for kind, rs in (("named", named), ("swapped", swapped)) for r in rs]
    films: dict[int, str] = {}
    if videos:
        films = film_episodes(
            task, profile, [r for _, r in rows], out, [kind for kind, _ in rows], workers
        )
    results: dict[str, Any] = {
        "task": task,
        "seed": seed,
        "success": rate(named),
        "language_swap": rate(swapped) if swapped else None,
        "confusion": {"named": confusion(named), "swapped": confusion(swapped)},
        "policy": {
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "parameters": sum(p.numel() for p in policy.parameters()),
            "execution_horizon": execution,
            "render_profile": profile,
        },
        "episodes": [
            {
                "kind": kind,
                "task": r.task,
                "seed": r.seed,
                "instruction": r.instruction,
                "success": r.success,
                "steps": r.steps,
                "outcome": r.outcome,
                "error": r.error,
                "video": films.get(index),
            }
            for index, (kind, r) in enumerate(rows)
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    return results


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


def confusion(results: Sequence[EpisodeResult]) -> dict[str, dict[str, int]]:
    """How often which thing was taken, per instruction."""
    table: dict[str, dict[str, int]] = {}
    for r in results:
        row = table.setdefault(r.instruction, {})
        row[r.outcome] = row.get(r.outcome, 0) + 1
    return {words: dict(sorted(row.items())) for words, row in sorted(table.items())}


def film_episodes(
    task: str,
    profile: str,
    results: Sequence[EpisodeResult],
    out: Path,
    kinds: Sequence[str],
    workers: int,
) -> dict[int, str]:
    """Film every failure and the first successes of each kind; paths (from `out`) by index."""
    jobs: dict[int, tuple[np.ndarray, str, Path]] = {}
    for index, (result, kind) in enumerate(zip(results, kinds, strict=True)):
        filmed = sum(kinds[i] == kind and results[i].success for i in jobs)
        if len(result.states) and (not result.success or filmed < FILMED_SUCCESSES):
            words = re.sub(r"[^a-z0-9]+", "-", result.instruction.lower())
            verdict = "success" if result.success else "failure"
            name = f"{kind}-{result.seed}-{words}-{verdict}.mp4"
            jobs[index] = (result.states, result.instruction, out / "videos" / name)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    order = list(jobs)
    with WorkerPool(partial(_FilmWorker, task, profile), min(workers, max(1, len(jobs)))) as pool:
        for position, outcome in pool.run(list(jobs.values())):
            if isinstance(outcome, Failure):
                raise RuntimeError(f"{jobs[order[position]][2].name}: {outcome.message}")
    return {index: f"videos/{path.name}" for index, (_, _, path) in jobs.items()}


class _FilmWorker:
    """Draws episodes from their states, in a process of its own (one GL context each)."""

    def __init__(self, task: str, profile: str) -> None:
        self._env = make_env(task, profile)

    def __call__(self, job: tuple[np.ndarray, str, Path]) -> None:
        states, instruction, path = job
        frames = film(self._env, states, instruction)
        write_mp4(path, frames, self._env.embodiment.control_hz)

    def close(self) -> None:
        self._env.close()


def print_results(results: dict[str, Any], show: Callable[..., None] | None = None) -> None:
    table = Table(title=f"{results['task']}, evaluation seed {results['seed']}")
    for column in ("", "rate", "95 % interval", "episodes"):
        table.add_column(column)
    for name, row in (
        ("success", results["success"]),
        ("success, instruction swapped", results["language_swap"]),
    ):
        if row is not None:
            interval = f"{row['low']:.2f} to {row['high']:.2f}"
            table.add_row(name, f"{row['rate']:.2f}", interval, str(row["episodes"]))
    (show or Console().print)(table)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[good]} succeeded"), console=console,
    )  # fmt: skip
