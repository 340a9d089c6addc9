"""Running the episodes of an evaluation: with which policy, logged, resumed, filmed.

    jobs --already in OUT/episodes.jsonl?--> result as logged
      |
      +--> envs/parallel.py --> result, appended to the log as it comes

Next: `train/evaluate.py` (which jobs, and what the results say), `envs/parallel.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..datasets.schema import ActBatch, Embodiment, Observation
from ..envs.engine import Central
from ..envs.engine_ray import RayCluster
from ..envs.parallel import EpisodeJob, EpisodeRunner
from ..envs.results_log import ResultsLog, episode_key
from ..envs.rollout import EpisodeResult
from ..envs.task import Task
from ..envs.tasks import installed_task
from ..policies.checkpoint import load_act, load_policy
from .provenance import checkpoint_hash, file_hash, version

SIMULATION = ("mujoco", "robosuite", "numba", "numpy", "torch")
"""Packages whose version belongs to what an outcome depends on."""


@dataclass(frozen=True)
class Engine:
    """How episodes are run. Of these only `device` and `batch_size` may change a result, in the
    last bits of an action."""

    workers: int = 1
    batch_size: int = 0
    """0: a policy in every worker, one observation at a time (small policies on CPUs). Else one
    policy for all, asked in batches of this size (GPUs, big policies)."""
    device: str = "cpu"
    timeout_s: float = 300.0
    ray: RayCluster | None = None
    """Run on this cluster, with `workers` actors."""


class Judge:
    """A policy that can be run on jobs; use it in a `with` block."""

    def __init__(
        self,
        run: Path,
        tasks: Sequence[str],
        engine: Engine,
        execution_horizon: int | None = None,
        realtime: str | None = None,
        keep_states: bool = False,
        console: Console | None = None,
    ) -> None:
        """Refuses unknown tasks, broken checkpoints and other robots before anything is started."""
        found = {name: installed_task(name) for name in tasks}
        self.run_folder, self.engine = run, engine
        policy = load_policy(run)
        robots = policy.slots.embodiments
        self.tasks: dict[str, Task] = {name: t.seen_by(robots) for name, t in found.items()}
        self.config = policy.config
        self.parameters = sum(p.numel() for p in policy.parameters())
        self.execution_horizon = execution_horizon or policy.config.execution_horizon
        if not 1 <= self.execution_horizon <= policy.config.horizon:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} does not fit chunks of "
                f"{policy.config.horizon} actions; use 1 to {policy.config.horizon}"
            )
        self.arms: dict[str, Embodiment] = {}
        for name, task in self.tasks.items():
            arm = task.embodiment(policy.embodiment.render_profile or task.profiles[-1])
            policy.use(arm, f"the arm of {name}")
            self.arms[name] = arm
        self.realtime = realtime
        self.joins_chunks = policy.use_realtime(realtime or "auto").realtime
        self.checkpoint = checkpoint_hash(run)
        self._keep_states = keep_states
        self._console = console or Console()
        self._log: ResultsLog | None = None
        self._runner: EpisodeRunner | None = None

    @contextmanager
    def logging(self, out: Path) -> Iterator[None]:
        """Inside, episodes are logged in `out` and those that are there already are not run."""
        with ResultsLog(out / "episodes.jsonl") as self._log:
            try:
                yield
            finally:
                self._log = None

    def __enter__(self) -> "Judge":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            self._runner.__exit__(kind, error, trace)
            self._runner = None

    def rest(self) -> None:
        """Free the processes; the next episode starts them again."""
        self.__exit__(None, None, None)

    def roll(self, task: str, jobs: Sequence[EpisodeJob], words: str) -> list[EpisodeResult]:
        """Results of `jobs` in their order, under a progress bar called `words`."""
        for job in jobs:
            if refusal := self.refuses(job):
                raise ValueError(refusal)
        keys = [episode_key(self.settings(task, job)) for job in jobs]
        known = self._log.results if self._log is not None else {}
        # A crash may have been the machine's: it gets another chance.
        done = {i: known[k] for i, k in enumerate(keys) if k in known and not known[k].error}
        left = [index for index in range(len(jobs)) if index not in done]
        with _progress(self._console) as progress:
            good = sum(result.success for result in done.values())
            bar = progress.add_task(words, total=len(jobs), completed=len(done), good=good)

            def on_result(position: int, result: EpisodeResult) -> None:
                nonlocal good
                index = left[position]
                if self._log is not None:
                    self._log.append(keys[index], self.settings(task, jobs[index]), result)
                good += result.success
                progress.update(bar, advance=1, good=good)

            fresh: list[EpisodeResult] = []
            if left:
                fresh = self._runner_of(task).run([jobs[index] for index in left], on_result)
        return [(done | dict(zip(left, fresh, strict=True)))[index] for index in range(len(jobs))]

    def refuses(self, job: EpisodeJob) -> str:
        """Why the policy cannot be run like this; empty if it can."""
        if job.mode != "rtc":
            return ""
        if self.joins_chunks == "off":
            return (
                f"the policy in {self.run_folder} does not continue plans (its realtime mode is "
                "off); train it with --policy.realtime.max-delay, or use --realtime guided"
            )
        taught = self.config.realtime.max_delay
        if self.joins_chunks == "trained" and job.delay.ticks > taught:
            return (
                f"delay {job.delay}: the policy was taught to continue plans at delays up to "
                f"{taught}; train with a larger --policy.realtime.max-delay"
            )
        return ""

    def again(self, task: str, jobs: Sequence[EpisodeJob]) -> list[EpisodeResult]:
        """Run without the log, for the states of episodes that were logged."""
        return self._runner_of(task).run(jobs)

    def _runner_of(self, task: str) -> EpisodeRunner:
        """Processes take seconds to start: they are kept as long as the task is the same."""
        if self._runner is not None and self._runner.task == task:
            return self._runner
        self.rest()
        engine, arm = self.engine, self.arms[task]
        if engine.batch_size:
            make = partial(load_act_batch, self.run_folder, engine.device, arm, self.realtime)
            policy = Central(make, engine.batch_size)
        else:
            policy = partial(
                load_act, self.run_folder, engine.device, embodiment=arm, realtime=self.realtime
            )
        self._runner = EpisodeRunner(
            self.tasks[task], policy, engine.workers, self.execution_horizon, self._keep_states,
            arm.render_profile, engine.timeout_s, self.config.history, engine.ray,
        )  # fmt: skip
        return self._runner

    def settings(self, task: str, job: EpisodeJob) -> dict[str, Any]:
        """Everything the outcome of an episode depends on."""
        return {
            "checkpoint": self.checkpoint,
            "task": task,
            "job": job,
            "execution_horizon": self.execution_horizon,
            "realtime": self.realtime if job.mode == "rtc" else None,
            "render_profile": self.arms[task].render_profile,
            "batch_size": self.engine.batch_size,
            "device": self.engine.device,
            "versions": {name: version(name) for name in SIMULATION},
        }

    def policy_facts(self) -> dict[str, Any]:
        """What `results.json` says of the policy."""
        weights = self.run_folder / "model.safetensors"
        if not weights.exists():
            weights = self.run_folder / "policy" / "model.safetensors"
        profiles = {arm.render_profile for arm in self.arms.values()}
        return {
            "sha256": file_hash(weights),
            "checkpoint": self.checkpoint,
            "parameters": self.parameters,
            "horizon": self.config.horizon,
            "execution_horizon": self.execution_horizon,
            "render_profile": ", ".join(sorted(profiles)),
            "realtime": self.realtime,
            "batch_size": self.engine.batch_size,
            "device": self.engine.device,
        }


def load_act_batch(
    folder: Path, device: str, embodiment: Embodiment, realtime: str | None, threads: int = 1
) -> ActBatch:
    """The policy in `folder` for several observations at once; on a CPU with `threads`, whatever
    the rest of the process uses, for their number can change a sum's last bits."""
    policy = load_policy(folder, device, embodiment)
    if realtime is not None:
        policy.use_realtime(realtime)

    def act_batch(observations: Sequence[Observation]) -> list[np.ndarray]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return list(policy.act_batch(observations))
        finally:
            torch.set_num_threads(before)

    return act_batch


def job_of(result: EpisodeResult, job: EpisodeJob) -> EpisodeJob:
    """The job with the instruction that the scene had drawn, so that it can be said again."""
    return replace(job, instruction=job.instruction or result.instruction or None)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[good]} succeeded"), console=console,
    )  # fmt: skip
