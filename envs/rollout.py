"""A policy in an environment, one episode from reset to its end.

        look -> act -> chunk of actions -> execute `execution_horizon` of them -> look again
        (render)        (policy)               (physics only: no pictures)

The answers may be late by a virtual clock, and the arm may do several things meanwhile
(`envs/virtual_clock.py`, `envs/chunk_execution.py`); without a delay all of them are the above.

Next: `envs/parallel.py` (many episodes in processes).
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Act, Observation
from .chunk_execution import ChunkExecution, ExecutionConfig, Mode
from .env import Env
from .holding import CanHold, hold_action
from .smoothness import jerk, seam_jump
from .virtual_clock import NO_DELAY, DelayModel
from .workers import StopsTheRun

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
    said: str = ""
    """What the policy was told; the instruction itself unless other words were tried."""
    mode: Mode = "synchronous"
    delay: str = "0"
    """Name of the delay model."""
    perturbation: str = ""
    """Robustness axis and strength, such as `lighting:strong`; empty: the scene as it is."""
    delays: tuple[int, ...] = ()
    """Ticks from asking to answer that were seen, per answer; without a delay all are 0."""
    lost: int = 0
    """Answers that never came."""
    stalls: int = 0
    """Ticks on which the arm held because no action was there."""
    seam_jump: float | None = None
    """Mean jump at a switch of chunks over the median step within chunks (`chunk_execution.py`)."""
    jerk: float = 0.0
    """Root mean square of the measured joints' third derivative, rad/s^3."""
    digest: str = ""
    """SHA-256 over the simulator states of every tick: equal digests, equal episodes."""


class PolicyFault(StopsTheRun, ValueError):
    """The policy raised, or gave something that is no chunk: judging on would be pointless."""


@dataclass
class _Request:
    """A question whose answer the virtual clock holds back."""

    tick: int
    release: int
    """The tick from which the answer can be used, or at which it is given up."""
    chunk: np.ndarray | None
    """None: lost."""


def rollout(
    env: Env,
    act: Act,
    seed: int,
    instruction: str | None = None,
    execution_horizon: int = 8,
    keep_states: bool = True,
    history: int = 1,
    said: str | None = None,
    mode: Mode = "synchronous",
    delay: DelayModel = NO_DELAY,
    perturbation: str = "",
) -> EpisodeResult:
    """Run one episode until the success has lasted `SUCCESS_TICKS` or `env.max_steps` are over.

    A policy with a `history` is given the observations of its last ticks, the first one repeated
    at the start of the episode; only those ticks are rendered. `said`: words the policy is told
    instead of the instruction that the scene judges by. `mode` and `delay`: what is done while the
    policy thinks, and how long it does; in mode `synchronous` the world stands still, so that no
    delay is seen. `perturbation` is only a name for the result.

    Raises ValueError if the policy's chunk has the wrong shape or is shorter than
    `execution_horizon`.
    """
    if execution_horizon < 1 or history < 1:
        raise ValueError(
            f"execution_horizon is {execution_horizon}, history {history}; expected 1 or more"
        )
    body = env.embodiment
    env.reset(seed, instruction)
    told = env.instruction if said is None else said
    plan = ChunkExecution(ExecutionConfig(mode, execution_horizon))
    waiting: _Request | None = None
    recent: deque[Observation] = deque(maxlen=history)
    digest = hashlib.sha256()
    states, joints = [env.simulator_state()], [env.joint_position_rad()]
    digest.update(states[0].tobytes())
    actions: list[np.ndarray] = []
    numbers: list[int] = []
    policy_s = render_s = physics_s = 0.0
    lasted = tick = requests = lost = 0
    while tick < env.max_steps and lasted < SUCCESS_TICKS:
        if waiting is not None and tick >= waiting.release:
            waiting = _deliver(plan, waiting, tick)
        if plan.may_want_within(history):
            if history > 1 or plan.wants_observation(tick):
                start = perf_counter()
                recent.append(env.observe())
                render_s += perf_counter() - start
        if plan.wants_observation(tick):
            planned, ahead = plan.requested(tick)
            observation = replace(
                with_history(recent, history),
                instruction=told,
                noise_seed=noise_seed(seed, tick),
                planned=planned,
                inference_delay=ahead,
            )
            seen = perf_counter()
            chunk = act(observation)
            policy_s += perf_counter() - seen
            _check_chunk(chunk, execution_horizon, body.action_dim)
            late = 0
            if mode != "synchronous":
                late = delay.delay_ticks(seed, requests, body.control_hz)
            requests += 1
            lost += late is None
            if late is None:
                waiting = _Request(tick, tick + delay.timeout_ticks, None)
            else:
                waiting = _Request(tick, tick + late, chunk)
            if late == 0:
                waiting = _deliver(plan, waiting, tick)
        action = plan.due(tick)
        plan.sent(tick, action is not None)
        numbers.append(-1 if action is None else plan.chunk_number)
        if action is None:
            action = _held(env, actions[-1] if actions else None)
        start = perf_counter()
        env.step(action)
        physics_s += perf_counter() - start
        actions.append(action)
        joints.append(env.joint_position_rad())
        states.append(env.simulator_state())
        digest.update(states[-1].tobytes())
        if not keep_states:
            states.pop()
        tick += 1
        lasted = lasted + 1 if env.success() else 0
    sent = np.asarray(actions, np.float32).reshape(-1, body.action_dim)
    return EpisodeResult(
        task=env.task,
        seed=seed,
        instruction=env.instruction,
        success=lasted >= SUCCESS_TICKS,
        steps=tick,
        outcome=env.outcome(),
        states=np.stack(states) if keep_states else np.zeros((0, len(states[0]))),
        actions=sent,
        policy_s=policy_s,
        render_s=render_s,
        physics_s=physics_s,
        said=told,
        mode=mode,
        delay=str(delay),
        perturbation=perturbation,
        delays=tuple(plan.delays),
        lost=lost,
        stalls=plan.waited + plan.starved,
        seam_jump=seam_jump(sent, numbers, body),
        jerk=jerk(np.stack(joints), body.control_hz),
        digest=digest.hexdigest(),
    )


def _held(env: Env, last: np.ndarray | None) -> np.ndarray:
    own: CanHold | None = env if hasattr(env, "hold_action") else None  # type: ignore[assignment]
    return own.hold_action() if own is not None else hold_action(env.embodiment, last)


def _deliver(plan: ChunkExecution, request: _Request, tick: int) -> None:
    if request.chunk is None:
        plan.lost(request.tick)
    else:
        plan.arrived(tick, request.tick, request.chunk)


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
        raise PolicyFault(
            f"the policy gave a chunk of shape {chunk.shape}; expected (horizon, {action_dim}) "
            f"with a horizon of at least execution_horizon = {execution_horizon}"
        )
