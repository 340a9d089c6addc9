"""The same episodes on the machines of a Ray cluster: one actor per worker, each with its own
environment and policy.

An episode depends on its seed alone, so the results are those of one machine; a policy of batches
(`Central`) is asked in batches filled up to its size here too, which gives the same numbers. The
policy's folder must lie where every machine reaches it by the same path.

Next: `envs/parallel.py` (who uses it).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from traceback import format_exc
from typing import Any

from ..datasets.schema import Act
from .engine import Central, single
from .workers import Failure, StopsTheRun


@dataclass(frozen=True)
class RayCluster:
    """Where actors run."""

    address: str = "local"
    """As `ray.init` takes it; `local` starts a cluster on this machine."""
    gpus_per_worker: float = 0.0
    """GPU of each actor; 0.25 lets four share one."""


class RayWorker:
    """What an actor does; made on its machine."""

    def __init__(self, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = make_worker()

    def ready(self) -> bool:
        return True

    def run(self, job: Any) -> tuple[str, Any]:
        try:
            return "done", self._work(job)
        except StopsTheRun as error:
            return "stop", Failure(f"{type(error).__name__}: {error}", format_exc())
        except Exception as error:
            return "failed", Failure(f"{type(error).__name__}: {error}", format_exc())


def single_policy(policy: Callable[[], Act] | Central) -> Callable[[], Act]:
    """A function that makes the policy of one actor."""
    if isinstance(policy, Central):
        return partial(single, policy.make_act_batch, policy.batch_size)
    return policy


def ray_outcomes(
    make_worker: Callable[[], Callable[[Any], Any]],
    jobs: Sequence[Any],
    workers: int,
    timeout_s: float,
    cluster: RayCluster,
) -> Iterator[tuple[int, Any]]:
    """(index of the job, its result or a `Failure`) as they finish.

    An actor that raises, dies or hangs costs its job and is replaced. Raises RuntimeError if one
    cannot be set up, or if a job raised `StopsTheRun`.
    """
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
    except ImportError as error:
        raise ValueError("evaluating on Ray needs it: pip install 'ulna[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here:
        local = cluster.address == "local"
        ray.init(address=cluster.address, include_dashboard=False if local else None)
    # As in our own processes: threads gain nothing at this size and would fight over the cores.
    threads = dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="0")
    remote: Any = ray.remote(
        num_cpus=1,
        num_gpus=cluster.gpus_per_worker,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": threads},
    )(RayWorker)
    waiting = list(enumerate(jobs))[::-1]
    actors: list[Any] = []
    starting: dict[Any, Any] = {}  # reference -> actor
    running: dict[Any, tuple[Any, int, float]] = {}  # reference -> actor, job, deadline
    try:
        while waiting or running:
            while waiting and len(starting) + len(running) < min(
                workers, len(waiting) + len(running)
            ):
                actor = remote.remote(make_worker)
                actors.append(actor)
                starting[actor.ready.remote()] = actor
            next_s = min((d for _, _, d in running.values()), default=float("inf"))
            patience = None if next_s == float("inf") else max(0.0, next_s - time.monotonic())
            ready, _ = ray.wait([*starting, *running], num_returns=1, timeout=patience)
            free: list[Any] = []
            finished: list[tuple[int, Any]] = []
            for reference in ready:
                if reference in starting:
                    actor = starting.pop(reference)
                    try:
                        ray.get(reference)
                    except (RayActorError, RayTaskError) as error:
                        raise RuntimeError(f"a Ray worker could not be set up: {error}") from error
                    free.append(actor)
                    continue
                actor, index, _ = running.pop(reference)
                try:
                    kind, outcome = ray.get(reference)
                except RayActorError as error:
                    kind, outcome = "failed", Failure(f"the Ray worker died: {error}")
                if kind == "stop":
                    raise RuntimeError(f"{outcome.message}\n{outcome.traceback}")
                finished.append((index, outcome))
                if kind == "done":
                    free.append(actor)
                else:
                    actors.remove(actor)
                    ray.kill(actor)
            for reference, (actor, index, deadline) in list(running.items()):
                if time.monotonic() > deadline:
                    del running[reference]
                    actors.remove(actor)
                    ray.kill(actor)
                    finished.append(
                        (index, Failure(f"the worker gave no answer for {timeout_s:.0f} s"))
                    )
            for actor in free:
                if waiting:
                    index, job = waiting.pop()
                    deadline = time.monotonic() + timeout_s
                    running[actor.run.remote(job)] = (actor, index, deadline)
                else:
                    actors.remove(actor)
                    ray.kill(actor)
            yield from finished
    finally:
        for actor in actors:
            ray.kill(actor)
        if started_here:
            ray.shutdown()
