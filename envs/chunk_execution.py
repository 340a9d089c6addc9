"""Which action of which chunk is due at a control tick: pure bookkeeping, no clock, no simulator.

A chunk computed from the observation of tick k says what to do from tick k on. When it comes
`delay` ticks later, the arm has done something meanwhile; what, is the execution mode:

    tick             0  1  2  3  4  5  6  7  8  9      p, q: two chunks, delay 2, q asked at tick 4
    synchronous      p0 p1 p2 p3 q0 q1 q2 q3           the world stands still meanwhile (the bound)
    hold             -  -  p0 p1 p2 p3 -  -  q0 q1     the arm waits, the world goes on
    asynchronous     -  -  p0 p1 p2 p3 q2 q3           the plan runs on; the answer's past is left
    rtc              the same, and the policy is told which actions will be done meanwhile
    ensemble         asks whenever it may, and averages what all chunks say about this tick

Actions are counted as they are consumed: on a held tick nothing is, so a chunk is never ahead of
the arm. Per tick and in this order: `arrived` (or `lost`), `wants_observation` and `requested`,
`due`, `sent`.

Next: `envs/rollout.py` (who asks), `envs/virtual_clock.py` (how late the answers are).
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name

Mode = Literal["synchronous", "hold", "asynchronous", "ensemble", "rtc"]
MODES: tuple[Mode, ...] = ("synchronous", "hold", "asynchronous", "ensemble", "rtc")
_REMEMBERED_DELAYS = 8


def mode_named(name: str) -> Mode:
    """The execution mode called `name`; ValueError names the nearest one."""
    for mode in MODES:
        if mode == name:
            return mode
    raise unknown_name("execution mode", name, MODES)


@dataclass(frozen=True)
class ExecutionConfig:
    """When the policy is asked and what is done until it has answered."""

    mode: Mode = "synchronous"
    execution_horizon: int = 8
    """Actions taken of a chunk before the policy is asked again (all modes but `ensemble`)."""
    ensemble_decay: float = 0.01
    """Mode `ensemble`: weight of chunk i, counted from the oldest, is exp(-decay * i) (ACT)."""

    def __post_init__(self) -> None:
        mode_named(self.mode)
        if self.execution_horizon < 1:
            raise ValueError(f"execution_horizon is {self.execution_horizon}; expected 1 or more")


class CanHold(Protocol):
    """An environment that knows how its arm stays where it is."""

    def hold_action(self) -> Float[np.ndarray, " action_dim"]: ...


def hold_action(
    embodiment: Embodiment, last: Float[np.ndarray, " action_dim"] | None
) -> Float[np.ndarray, " action_dim"]:
    """The action that keeps the arm where it is, after the `last` one sent (None: none yet).

    Displacements (names that begin with `d`) become zero; everything else (a gripper, an absolute
    goal) stays as it was last commanded. Raises ValueError where that cannot be known: absolute
    goals before the first action; such an environment says it by a `hold_action` of its own.
    """
    moves = np.array([name.startswith("d") for name in embodiment.action_names])
    gripper = np.array([name.startswith("gripper") for name in embodiment.action_names])
    if last is None:
        if not np.all(moves | gripper):
            raise ValueError(
                f"how {embodiment.name} holds before its first action is not known: its actions "
                f"({', '.join(embodiment.action_names)}) are goals, not displacements; give its "
                "environment a hold_action(), or use mode synchronous"
            )
        last = np.zeros(embodiment.action_dim, np.float32)
    return np.where(moves, 0.0, last).astype(np.float32)


@dataclass
class _Chunk:
    base: int
    """Actions consumed when it was observed."""
    actions: np.ndarray
    number: int


class ChunkExecution:
    """The plan of one episode."""

    waited: int
    """Ticks held by design: before the first chunk, and in mode `hold`."""
    starved: int
    """Ticks held because the plan ran out."""
    expired: int
    """Chunks that came when all their actions were past."""
    delays: list[int]
    """Ticks from asking to answer, of each answer."""

    def __init__(self, config: ExecutionConfig) -> None:
        self.config = config
        self.waited = self.starved = self.expired = 0
        self.delays = []
        self._consumed = 0
        self._chunks: list[_Chunk] = []  # oldest first; one, except in mode `ensemble`
        self._answers = 0
        self._open: tuple[int, int] | None = None  # (tick, consumed) of the request
        self._asked_at = 0  # actions consumed at the latest request
        self._recent: deque[int] = deque(maxlen=_REMEMBERED_DELAYS)

    @property
    def expected_delay(self) -> int:
        """Slowest of the latest answers, in ticks; 0 before the first."""
        return max(self._recent, default=0)

    @property
    def chunk_number(self) -> int:
        """Which answer is being executed, from 0; -1 before the first."""
        return self._chunks[-1].number if self._chunks else -1

    def arrived(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        """The answer to the request of `observation_tick` is there, before the action of `tick`."""
        base = self._close(observation_tick)
        self.delays.append(tick - observation_tick)
        self._recent.append(tick - observation_tick)
        number, self._answers = self._answers, self._answers + 1
        if self._consumed - base >= len(chunk):
            self.expired += 1
            return
        if self.config.mode in ("synchronous", "hold"):
            chunk = chunk[: self.config.execution_horizon]
        if self.config.mode != "ensemble":
            self._chunks.clear()
        self._chunks.append(_Chunk(base, chunk, number))

    def lost(self, observation_tick: int) -> None:
        """The request of `observation_tick` is given up."""
        self._close(observation_tick)

    def wants_observation(self, tick: int) -> bool:
        """Whether to ask the policy now; `requested` says that it was."""
        if self._open is not None:
            return False
        if not self._chunks or self.config.mode == "ensemble":
            return True
        if self.config.mode in ("synchronous", "hold"):
            return self.remaining == 0
        taken = self._consumed - self._asked_at
        # Early, if the plan would end before an answer can be there.
        return taken >= self.config.execution_horizon or self.remaining <= self.expected_delay

    def may_want_within(self, ticks: int) -> bool:
        """Whether `wants_observation` may come to be true now or in the next `ticks` - 1."""
        if self.config.mode in ("synchronous", "hold") and self._open is None:
            return self.remaining < ticks
        return True  # depends on when an answer comes, or does not

    def requested(self, tick: int) -> None:
        """The policy was given the observation of `tick`."""
        assert self._open is None, "one request at a time"
        self._open = (tick, self._consumed)
        self._asked_at = self._consumed

    @property
    def remaining(self) -> int:
        """Actions the present plan has left."""
        if not self._chunks:
            return 0
        newest = self._chunks[-1]
        return max(0, len(newest.actions) - (self._consumed - newest.base))

    def planned(self) -> Float[np.ndarray, "planned action_dim"] | None:
        """What is decided already, the first action due next; None if there is nothing."""
        if not self.remaining:
            return None
        newest = self._chunks[-1]
        return newest.actions[self._consumed - newest.base :]

    def due(self, tick: int) -> Float[np.ndarray, " action_dim"] | None:
        """The action of this tick; None: hold."""
        self._chunks = [c for c in self._chunks if self._consumed - c.base < len(c.actions)]
        if not self._chunks:
            if self._answers == 0 or self.config.mode == "hold":
                self.waited += 1
            else:
                self.starved += 1
            return None
        if len(self._chunks) == 1:
            newest = self._chunks[0]
            return newest.actions[self._consumed - newest.base]
        says = np.stack([c.actions[self._consumed - c.base] for c in self._chunks])
        weights = np.exp(-self.config.ensemble_decay * np.arange(len(says)))
        return (weights / weights.sum() @ says).astype(says.dtype)

    def sent(self, moved: bool) -> None:
        """The due action was sent, or the arm held."""
        self._consumed += moved

    def _close(self, observation_tick: int) -> int:
        if self._open is None or self._open[0] != observation_tick:
            raise ValueError(
                f"an answer for the observation of tick {observation_tick} came, but the one asked "
                f"for is {None if self._open is None else self._open[0]}; pass on only answers to "
                "the open request"
            )
        base, self._open = self._open[1], None
        return base


def seam_jump(
    actions: Float[np.ndarray, "steps action_dim"],
    chunk_numbers: list[int],
    embodiment: Embodiment,
) -> float | None:
    """Mean jump between the actions at a switch of chunks, over the median step within chunks.

    Actions in units of their range, grippers left out (they switch by design), held ticks (number
    -1) too. None if there was no switch, or nothing moved within chunks.
    """
    numbers = np.asarray(chunk_numbers)
    span = np.subtract(embodiment.action_high, embodiment.action_low)
    kept = [not name.startswith("gripper") for name in embodiment.action_names]
    steps = np.linalg.norm(np.diff((actions / span)[:, kept], axis=0), axis=1)
    moving = (numbers[1:] >= 0) & (numbers[:-1] >= 0)
    seam = moving & (numbers[1:] != numbers[:-1])
    inside = steps[moving & ~seam]
    if not seam.any() or not inside.size or not np.median(inside):
        return None
    return float(steps[seam].mean() / np.median(inside))


def jerk(position_rad: Float[np.ndarray, "ticks joints"], control_hz: float) -> float:
    """Root mean square of the joints' third derivative, rad/s^3, as measured tick by tick."""
    if len(position_rad) < 4 or not position_rad.shape[1]:
        return 0.0
    third = np.diff(position_rad, n=3, axis=0) * control_hz**3
    return float(np.sqrt(np.mean(third**2)))
