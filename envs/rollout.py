"""A policy in an environment, one episode from reset to its end.

        look -> act -> chunk of actions -> execute `execution_horizon` of them -> look again
        (render)        (policy)               (physics only: no pictures)

Next: `envs/parallel.py` (many episodes in processes).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Act, Observation
from .env import Env

SUCCESS_TICKS = 3
"""Control ticks a success must last: a cube tossed up is not a cube picked up."""
EVALUATION_SEED_BASE = 1_000_000_000
"""Episodes that judge start here, far from those that teach (`envs/collect.py`)."""
SEEDS_PER_RUN = 100_000


@dataclass(frozen=True)
class EpisodeResult:
    """What happened in one episode."""

    task: str
    seed: int
    instruction: str
    success: bool
    steps: int
    outcome: str
    """In the task's words, such as `red` or `none`; `crashed` if the worker died or raised."""
    states: Float[np.ndarray, "states simulator_state_dim"]
    """Simulator states from the reset on, one more than steps; empty if they were not kept."""
    actions: Float[np.ndarray, "steps action_dim"]
    policy_s: float = 0.0
    render_s: float = 0.0
    physics_s: float = 0.0
    error: str = ""
    """The traceback of a crash."""


def rollout(
    env: Env,
    act: Act,
    seed: int,
    instruction: str | None = None,
    execution_horizon: int = 8,
    keep_states: bool = True,
    history: int = 1,
) -> EpisodeResult:
    """Run one episode until the success has lasted `SUCCESS_TICKS` or `env.max_steps` are over.

    A policy with a `history` is given the observations of its last ticks, the first one repeated
    at the start of the episode; only those ticks are rendered.

    Raises ValueError if the policy's chunk has the wrong shape or is shorter than
    `execution_horizon`.
    """
    if execution_horizon < 1 or history < 1:
        raise ValueError(
            f"execution_horizon is {execution_horizon}, history {history}; expected 1 or more"
        )
    env.reset(seed, instruction)
    queue: deque[np.ndarray] = deque()
    recent: deque[Observation] = deque(maxlen=history)
    states = [env.simulator_state()]
    actions: list[np.ndarray] = []
    policy_s = render_s = physics_s = 0.0
    lasted = 0
    while len(actions) < env.max_steps and lasted < SUCCESS_TICKS:
        if len(queue) < history:
            start = perf_counter()
            recent.append(env.observe())
            render_s += perf_counter() - start
        if not queue:
            observation = with_history(recent, history)
            seen = perf_counter()
            observation = replace(observation, noise_seed=noise_seed(seed, len(actions)))
            chunk = act(observation)
            decided = perf_counter()
            _check_chunk(chunk, execution_horizon, env.embodiment.action_dim)
            queue.extend(chunk[:execution_horizon])
            policy_s += decided - seen
        action = queue.popleft()
        start = perf_counter()
        env.step(action)
        physics_s += perf_counter() - start
        actions.append(action)
        if keep_states:
            states.append(env.simulator_state())
        lasted = lasted + 1 if env.success() else 0
    return EpisodeResult(
        task=env.task,
        seed=seed,
        instruction=env.instruction,
        success=lasted >= SUCCESS_TICKS,
        steps=len(actions),
        outcome=env.outcome(),
        states=np.stack(states) if keep_states else np.zeros((0, len(states[0]))),
        actions=np.asarray(actions, np.float32).reshape(-1, env.embodiment.action_dim),
        policy_s=policy_s,
        render_s=render_s,
        physics_s=physics_s,
    )


def with_history(recent: Sequence[Observation], history: int) -> Observation:
    """The last observation with those of the `history` ticks up to it, oldest first, as windows of
    training have them; the oldest there is stands for those before it."""
    if history == 1:
        return recent[-1]
    several = [recent[0]] * (history - len(recent)) + list(recent)
    images = {name: np.stack([o.images[name] for o in several]) for name in recent[-1].images}
    state = np.stack([o.state for o in several])
    return replace(recent[-1], images=images, state=state)


def noise_seed(seed: int, tick: int) -> int:
    """Seed of the policy's noise at one tick: the same whatever else is computed beside it."""
    return int(np.random.SeedSequence([seed, tick]).generate_state(1)[0])


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes of evaluation run `seed`; never those of a collection."""
    first = EVALUATION_SEED_BASE + seed * SEEDS_PER_RUN
    return list(range(first, first + episodes))


def _check_chunk(chunk: np.ndarray, execution_horizon: int, action_dim: int) -> None:
    if chunk.ndim != 2 or chunk.shape[1] != action_dim or len(chunk) < execution_horizon:
        raise ValueError(
            f"the policy gave a chunk of shape {chunk.shape}; expected (horizon, {action_dim}) "
            f"with a horizon of at least execution_horizon = {execution_horizon}"
        )
