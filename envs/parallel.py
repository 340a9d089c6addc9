"""Many episodes in several processes, with the same results however many there are.

Every episode depends on its own seed alone (placement, instruction, the policy's noise, delays), so
it does not matter which worker runs it or what ran there before.

    a policy per worker       `make_act` is called in each: small policies on CPUs, scripts
    one policy for all        `Central`: batches on a GPU, or a policy too big to have twice
    actors of a Ray cluster   `RayCluster`: many machines (`envs/engine_ray.py`)

Next: `envs/rollout.py` (one episode), `envs/engine.py` (one policy for all), `envs/workers.py`
(the processes).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np

from ..datasets.schema import Act, Observation
from .chunk_execution import Mode
from .engine import Central, PolicyDesk, asking_act
from .engine_ray import RayCluster, ray_outcomes, single_policy
from .engine_slots import SlotLayout
from .env import Env
from .rollout import EpisodeResult, PolicyFault, rollout
from .task import Task
from .virtual_clock import NO_DELAY, DelayModel
from .workers import Failure, Question, StopsTheRun, WorkerPool


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to be run: the scene, the words, and under which conditions."""

    seed: int
    instruction: str | None = None
    """What the scene judges by; None: drawn by the seed."""
    said: str | None = None
    """What the policy is told; None: the instruction."""
    mode: Mode = "synchronous"
    delay: DelayModel = NO_DELAY
    axis: str = ""
    """Robustness axis (`envs/perturbation.py`); empty: the scene as it is."""
    strength: Literal["mild", "strong"] = "mild"


Job = EpisodeJob | tuple[int, str | None]


class RolloutWorker:
    """One environment and one policy, for episode after episode."""

    def __init__(
        self,
        task: str | Task,
        render_profile: str,
        make_act: Callable[..., Act],
        execution_horizon: int,
        keep_states: bool,
        history: int,
        *question: Question,
    ) -> None:
        self._env = _made(task, render_profile)
        self._act = _guarded(make_act(*question))
        self._execution_horizon = execution_horizon
        self._keep_states = keep_states
        self._history = history

    def __call__(self, job: EpisodeJob) -> EpisodeResult:
        return rollout(
            perturbed_env(self._env, job), self._act, job.seed, job.instruction,
            self._execution_horizon, self._keep_states, self._history, said=job.said,
            mode=job.mode, delay=job.delay, perturbation=perturbation_name(job),
        )  # fmt: skip

    def close(self) -> None:
        self._env.close()


def _made(task: str | Task, render_profile: str) -> Env:
    if isinstance(task, Task):
        return task.make(render_profile)
    from .tasks import make_env  # all suites: not before a worker needs one of them

    return make_env(task, render_profile)


def perturbed_env(env: Env, job: EpisodeJob) -> Env:
    """The environment along the job's robustness axis."""
    if not job.axis:
        return env
    from .perturbation import perturbed

    try:
        return cast(Env, perturbed(env, job.axis, job.strength))  # its words are properties
    except ValueError as error:  # no seed of this task would fare better
        raise StopsTheRun(str(error)) from error


def perturbation_name(job: EpisodeJob) -> str:
    return f"{job.axis}:{job.strength}" if job.axis else ""


def _guarded(act: Act) -> Act:
    """A policy that raises ends the run: it is not the environment's crash."""

    def guarded(observation: Observation) -> np.ndarray:
        try:
            return act(observation)
        except (EOFError, ConnectionError):
            raise  # the parent is gone
        except Exception as error:
            raise PolicyFault(f"the policy raised {type(error).__name__}: {error}") from error

    return guarded


class EpisodeRunner:
    """Runs episodes of one task under one policy, in processes that stay until it is closed. Use it
    in a `with` block; arguments as for `run_episodes`."""

    def __init__(
        self,
        task: str | Task,
        policy: Callable[[], Act] | Central,
        workers: int = 1,
        execution_horizon: int = 8,
        keep_states: bool = True,
        render_profile: str = "",
        timeout_s: float = 300.0,
        history: int = 1,
        ray: RayCluster | None = None,
    ) -> None:
        found = task
        if isinstance(found, str):
            from .tasks import find_task

            found = find_task(found)
        self.task = found.name
        profile = render_profile or found.profiles[-1]
        self._workers, self._timeout_s, self._ray = workers, timeout_s, ray
        self._pool: WorkerPool | None = None
        desk = None
        make_act: Callable[..., Act]
        if ray is not None:
            make_act = single_policy(policy)
        elif isinstance(policy, Central):
            layout = SlotLayout(found.embodiment(profile), history)
            desk = PolicyDesk(policy, layout).desk
            make_act = partial(asking_act, layout)
        else:
            make_act = policy
        self._make_worker = partial(
            RolloutWorker, task, profile, make_act, execution_horizon, keep_states, history
        )
        if ray is None:
            self._pool = WorkerPool(
                self._make_worker, workers, timeout_s, desk, replace_failed=True
            )

    def __enter__(self) -> "EpisodeRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def run(
        self,
        episodes: Sequence[Job],
        on_result: Callable[[int, EpisodeResult], None] | None = None,
    ) -> list[EpisodeResult]:
        """The results in the order of `episodes`; `on_result` is told of each as it ends."""
        jobs = [job if isinstance(job, EpisodeJob) else EpisodeJob(*job) for job in episodes]
        if not jobs:
            return []
        results: dict[int, EpisodeResult] = {}
        with closing(self._outcomes(jobs)) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, Failure):
                    outcome = crashed(self.task, jobs[index], outcome)
                results[index] = outcome
                if on_result is not None:
                    on_result(index, outcome)
        return [results[index] for index in range(len(jobs))]

    def _outcomes(self, jobs: Sequence[EpisodeJob]) -> Generator[tuple[int, Any]]:
        """(index, result or Failure) as they come, from whatever runs them."""
        if self._ray is not None:
            workers = min(self._workers, len(jobs))
            yield from ray_outcomes(self._make_worker, jobs, workers, self._timeout_s, self._ray)
        elif self._pool is not None:
            yield from self._pool.run(jobs)


def run_episodes(
    task: str | Task,
    policy: Callable[[], Act] | Central,
    episodes: Sequence[Job],
    workers: int = 1,
    execution_horizon: int = 8,
    keep_states: bool = True,
    render_profile: str = "",
    timeout_s: float = 300.0,
    on_result: Callable[[int, EpisodeResult], None] | None = None,
    history: int = 1,
    ray: RayCluster | None = None,
) -> list[EpisodeResult]:
    """Roll out `episodes` (jobs, or pairs of seed and instruction or None) and give results in
    their order.

    `policy`: a picklable function that makes an `Act`, called once in each worker, which should
    limit its threads to one; or one policy for all workers. `render_profile` empty: the task's own.
    `history`: observations the policy is given at once. `timeout_s`: of an episode, or of its part
    between two questions to a central policy. `on_result` is told (index, result) as each episode
    finishes. `ray`: run on that Ray cluster with `workers` actors.

    An environment that crashes or hangs costs its episode (`outcome` is `crashed`) and its worker
    is replaced. Raises RuntimeError with the traceback if the policy raises or gives no chunk.
    """
    with EpisodeRunner(
        task, policy, workers, execution_horizon, keep_states, render_profile, timeout_s, history,
        ray,
    ) as runner:  # fmt: skip
        return runner.run(episodes, on_result)


def crashed(task: str, job: EpisodeJob, failure: Failure) -> EpisodeResult:
    """The result of an episode that has none."""
    return EpisodeResult(
        task=task,
        seed=job.seed,
        instruction=job.instruction or "",
        success=False,
        steps=0,
        outcome="crashed",
        states=np.zeros((0, 0)),
        actions=np.zeros((0, 0), np.float32),
        error=failure.traceback or failure.message,
        said=job.said or job.instruction or "",
        mode=job.mode,
        delay=str(job.delay),
        perturbation=perturbation_name(job),
    )
