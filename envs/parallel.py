"""Many episodes in several processes, with the same results however many there are.

Every episode depends on its own seed alone (placement, instruction, the policy's noise), so it does
not matter which worker runs it or what ran there before.

Next: `envs/rollout.py` (one episode), `envs/workers.py` (the processes).
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..datasets.schema import Act
from .rollout import EpisodeResult, rollout
from .tasks import make_env
from .workers import Failure, WorkerPool


class _RolloutWorker:
    """One environment and one policy, for episode after episode."""

    def __init__(
        self,
        task: str,
        render_profile: str,
        make_act: Callable[[], Act],
        execution_horizon: int,
        keep_states: bool,
        history: int,
    ) -> None:
        self._env = make_env(task, render_profile)
        self._act = make_act()
        self._execution_horizon = execution_horizon
        self._keep_states = keep_states
        self._history = history

    def __call__(self, job: tuple[int, str | None]) -> EpisodeResult:
        seed, instruction = job
        return rollout(
            self._env, self._act, seed, instruction, self._execution_horizon,
            self._keep_states, self._history,
        )  # fmt: skip

    def close(self) -> None:
        self._env.close()


def run_episodes(
    task: str,
    make_act: Callable[[], Act],
    episodes: Sequence[tuple[int, str | None]],
    workers: int = 1,
    execution_horizon: int = 8,
    keep_states: bool = True,
    render_profile: str = "fast",
    timeout_s: float = 300.0,
    on_result: Callable[[int, EpisodeResult], None] | None = None,
    history: int = 1,
) -> list[EpisodeResult]:
    """Roll out `episodes` (seed, instruction or None) and give results in their order.

    `make_act` is called once in each worker; it must be picklable and should limit its threads
    to one. `history`: observations the policy is given at once. `on_result` is told (index, result)
    as each episode finishes.
    """
    results: dict[int, EpisodeResult] = {}
    make_worker = partial(
        _RolloutWorker, task, render_profile, make_act, execution_horizon, keep_states, history
    )
    with WorkerPool(make_worker, min(workers, max(1, len(episodes))), timeout_s) as pool:
        for index, outcome in pool.run(episodes):
            if isinstance(outcome, Failure):
                outcome = _crashed(task, episodes[index], outcome)
            results[index] = outcome
            if on_result is not None:
                on_result(index, outcome)
    return [results[index] for index in range(len(episodes))]


def _crashed(task: str, episode: tuple[int, str | None], failure: Failure) -> EpisodeResult:
    seed, instruction = episode
    return EpisodeResult(
        task=task,
        seed=seed,
        instruction=instruction or "",
        success=False,
        steps=0,
        outcome="crashed",
        states=np.zeros((0, 0)),
        actions=np.zeros((0, 0), np.float32),
        error=failure.traceback or failure.message,
    )
