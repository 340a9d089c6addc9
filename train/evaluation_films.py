"""Films of an evaluation's episodes, and their actions in numbers, drawn when all have been run.

States are in memory while a run lasts, not in its log: an episode that a resumed run only knows
from the log is run once more, which must give the same states.

Next: `envs/video.py` (frames and MP4), `train/report_films.py` (where they are shown).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ..envs.parallel import EpisodeJob, perturbed_env
from ..envs.rollout import EpisodeResult
from ..envs.task import Task
from ..envs.video import film, write_mp4
from ..envs.workers import Failure, WorkerPool
from .judging import Judge
from .report_actions import write_actions

FILMED_SUCCESSES = 3
"""Of every kind and task; failures are filmed all."""


@dataclass
class Filmed:
    """An episode, how it was asked for, and where its film is."""

    kind: str
    result: EpisodeResult
    job: EpisodeJob
    mode: str = ""
    """Name of the execution mode where that of the result does not say all."""
    video: str | None = None
    """Relative to the results; None: not filmed."""
    actions: str | None = None


def film_episodes(judge: Judge, done: Sequence[Filmed], out: Path, console: Console) -> None:
    """Film every failure and the first successes of each kind; fills in `video` and `actions`."""
    for task in judge.tasks:
        chosen: list[Filmed] = []
        for filmed in done:
            if filmed.result.task != task or filmed.result.error:
                continue
            alike = sum(f.result.success and _group(f) == _group(filmed) for f in chosen)
            if not filmed.result.success or alike < FILMED_SUCCESSES:
                chosen.append(filmed)
        chosen = _with_states(judge, task, chosen, console)
        judge.rest()  # their memory is wanted for drawing
        if chosen:
            _film(judge, task, chosen, out, console)


def _group(filmed: Filmed) -> tuple[str, str]:
    return filmed.kind, filmed.result.perturbation


def _with_states(judge: Judge, task: str, chosen: list[Filmed], console: Console) -> list[Filmed]:
    """Those whose states are known, after running again the ones that came from the log."""
    lacking = [filmed for filmed in chosen if not len(filmed.result.states)]
    if not lacking:
        return chosen
    for filmed, again in zip(lacking, judge.again(task, [f.job for f in lacking]), strict=True):
        if again.digest == filmed.result.digest:
            filmed.result = replace(filmed.result, states=again.states, actions=again.actions)
        else:
            console.print(
                f"[bold]{task}, seed {again.seed} ({filmed.kind}): run again for its film, the "
                "episode went differently, so it is not filmed; something it depends on is not in "
                "its settings (another library version, another device?)[/bold]"
            )
    return [filmed for filmed in chosen if len(filmed.result.states)]


def _film(judge: Judge, task: str, chosen: Sequence[Filmed], out: Path, console: Console) -> None:
    arm = judge.arms[task]
    (out / "videos").mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[EpisodeJob, np.ndarray, str, Path]] = []
    for filmed in chosen:
        result = filmed.result
        words = [filmed.kind, result.perturbation, str(result.seed), result.said]
        words += [task] if len(judge.tasks) > 1 else []
        verdict = "success" if result.success else "failure"
        name = re.sub(r"[^a-z0-9]+", "-", " ".join([*words, verdict]).lower()).strip("-")
        filmed.video, filmed.actions = f"videos/{name}.mp4", f"videos/{name}.json"
        write_actions(out / filmed.actions, result.actions, arm.action_names, arm.control_hz)
        jobs.append((filmed.job, result.states, result.instruction, out / filmed.video))
    make_worker = partial(_FilmWorker, judge.tasks[task], arm.render_profile)
    with WorkerPool(make_worker, min(judge.engine.workers, len(jobs))) as pool:
        drawn = pool.run(jobs)
        words = f"{task}: films"
        for position, outcome in track(drawn, words, len(jobs), console=console):
            if isinstance(outcome, Failure):
                raise RuntimeError(f"{jobs[position][3].name}: {outcome.message}")


class _FilmWorker:
    """Draws episodes from their states, in a process of its own (one GL context each)."""

    def __init__(self, task: Task, profile: str) -> None:
        self._env = task.make(profile)

    def __call__(self, job: tuple[EpisodeJob, np.ndarray, str, Path]) -> None:
        asked, states, instruction, path = job
        env = perturbed_env(self._env, asked)
        frames = film(env, states, instruction, [c.name for c in env.embodiment.cameras])
        write_mp4(path, frames, self._env.embodiment.control_hz)

    def close(self) -> None:
        self._env.close()
