"""Which action of which chunk is due at a control tick: pure bookkeeping, no clock, no simulator.

Evaluation and the arm's loop use it alike, so a policy is judged by what an arm will do. A chunk
computed from the observation of tick k says what to do from tick k on. When it comes `delay` ticks
later, the arm has done something meanwhile; what, is the execution mode:

    tick             0  1  2  3  4  5  6  7  8  9      p, q: two chunks, delay 2, q asked at tick 4
    synchronous      p0 p1 p2 p3 q0 q1 q2 q3           the world stands still meanwhile (the bound)
    hold             -  -  p0 p1 p2 p3 -  -  q0 q1     the arm waits, the world goes on
    asynchronous     -  -  p0 p1 p2 p3 q2 q3           the plan runs on; the answer's past is left
    rtc              the same, and the policy is told which actions will be done meanwhile
    ensemble         asks whenever it may, and averages what all chunks say about this tick

Outside a simulator the world never stands still: there `synchronous` is `hold`.

Actions are counted as they are consumed: on a held tick nothing is, so a chunk is never ahead of
the arm. The *tick of an observation* is the one whose command begins to act at the moment of its
capture: this tick in a simulator, an earlier one on an arm with real cameras. Per tick and in this
order: `arrived` (or `lost`), `wants_observation` and `requested`, `due`, `sent`.

Next: `envs/rollout.py` and `deploy_robot/control_loop.py` (who ask), `envs/virtual_clock.py` (how
late the answers of a simulated policy are).
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..datasets.schema import unknown_name

Mode = Literal["synchronous", "hold", "asynchronous", "ensemble", "rtc"]
MODES: tuple[Mode, ...] = ("synchronous", "hold", "asynchronous", "ensemble", "rtc")
_WAITS: tuple[Mode, ...] = ("synchronous", "hold")
WAITING = -1
"""Nothing is due by design: no chunk has come yet, or the mode waits for the policy."""
STARVED = -2
"""Nothing is due although something should be: the plan ran out before the next chunk came."""
_REMEMBERED_DELAYS = 8
_REMEMBERED_TICKS = 1024
_LONG_AGO = -(10**9)


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
    delay_margin: int = 0
    """Expect an answer to take this many ticks longer than the slowest of the last eight: the
    policy is asked so much earlier, and told (`rtc`) so many more of the planned actions."""
    max_delay: int | None = None
    """Mode `rtc`: the longest delay the policy was taught to continue; None: any."""

    def __post_init__(self) -> None:
        mode_named(self.mode)
        if self.execution_horizon < 1 or self.delay_margin < 0:
            raise ValueError(
                f"execution_horizon is {self.execution_horizon}, delay_margin {self.delay_margin}; "
                "expected 1 or more and 0 or more"
            )
        if self.max_delay is not None and self.max_delay < 0:
            raise ValueError(f"max_delay is {self.max_delay}; expected 0 or more, or None")

    def require_horizon(self, horizon: int) -> None:
        """ValueError if chunks of `horizon` actions are too short for this."""
        if self.execution_horizon > horizon:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} is longer than the policy's chunk "
                f"of {horizon} actions; use {horizon} or less"
            )


@dataclass(frozen=True, slots=True)
class _Chunk:
    base: int
    """Actions consumed when it was observed."""
    actions: np.ndarray
    number: int


@dataclass(frozen=True, slots=True)
class _Request:
    tick: int
    observation_tick: int
    base: int
    told_delay: int
    """How many planned actions the policy was told would be done before it has answered."""


class ChunkExecution:
    """The plan of one episode."""

    waited: int
    """Ticks held by design: no chunk there yet, or a mode that waits."""
    starved: int
    """Ticks held because the plan ran out."""
    expired: int
    """Chunks that came when all their actions were past."""
    outdated: int
    """Mode `rtc`: chunks left aside because more actions had been done than the policy was told,
    so that they do not join the plan; the plan runs on."""
    delays: list[int]
    """Ticks from observation to answer, of each answer."""
    consumed_delays: list[int]
    """Actions done from observation to answer, of each chunk that replaced another."""
    chunk_number: int
    """Which answer is being executed, from 0; -1 before the first."""
    index: int
    """Which of its actions was due at the latest `due`; WAITING or STARVED if none."""

    def __init__(self, config: ExecutionConfig) -> None:
        self.config = config
        self._consumed_before = [0] * _REMEMBERED_TICKS
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins at tick 0."""
        self.waited = self.starved = self.expired = self.outdated = 0
        self.delays, self.consumed_delays = [], []
        self.chunk_number, self.index = -1, WAITING
        self._tick = 0  # the first tick whose count of consumed actions is not final yet
        self._consumed = 0
        self._consumed_before[0] = 0
        self._done: deque[np.ndarray] = deque(maxlen=_REMEMBERED_TICKS)  # mode `rtc`
        self._answers = 0
        self._recent: deque[int] = deque(maxlen=_REMEMBERED_DELAYS)
        self._last_observation = self._last_moved = _LONG_AGO
        self.forget(_LONG_AGO)

    def forget(self, tick: int) -> None:
        """Drop the plan and the open question: somebody else moves the arm, or it was paused. What
        is asked from now on is asked of observations of `tick` and later."""
        self._chunks: list[_Chunk] = []  # oldest first; one, except in mode `ensemble`
        self._new = True  # no chunk has come since
        self.ask_anew()
        self._not_before = tick
        self._arrival = _LONG_AGO

    def ask_anew(self) -> None:
        """Drop the open question and ask the next observation; the plan runs on meanwhile."""
        self._open: _Request | None = None
        self._asked_at = _LONG_AGO  # actions consumed at the latest request

    @property
    def expected_delay(self) -> int:
        """Slowest of the latest answers, in ticks from asking; 0 before the first."""
        return max(self._recent, default=0)

    @property
    def inference_delay(self) -> int:
        """Of the latest chunk that replaced another, in consumed actions; 0 before."""
        return self.consumed_delays[-1] if self.consumed_delays else 0

    def expects(self, observation_tick: int) -> bool:
        """Whether an answer for `observation_tick` is still wanted."""
        return self._open is not None and self._open.observation_tick == observation_tick

    def arrived(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        """The answer to the request of `observation_tick` is there, before the action of `tick`."""
        self._advance(tick)
        request = self._close(observation_tick)
        self.delays.append(tick - observation_tick)
        self._recent.append(tick - request.tick)
        number, self._answers = self._answers, self._answers + 1
        delay = self._consumed - request.base
        if delay >= len(chunk):
            self.expired += 1
            return
        if self.config.mode == "rtc" and delay > request.told_delay and self.remaining:
            self.outdated += 1
            return
        if self.chunk_number >= 0:
            self.consumed_delays.append(delay)
        if self.config.mode in _WAITS:
            chunk = chunk[: self.config.execution_horizon]
        if self.config.mode != "ensemble":
            self._chunks.clear()
        self._chunks.append(_Chunk(request.base, chunk.copy(), number))
        self.chunk_number, self._arrival, self._new = number, tick, False

    def lost(self, observation_tick: int) -> None:
        """The request of `observation_tick` is given up."""
        self._close(observation_tick)

    def wants_observation(self, tick: int, observation_tick: int | None = None) -> bool:
        """Whether to ask the policy now (`requested` says that it was), of the observation of
        `observation_tick`; None: of this tick."""
        self._advance(tick)
        seen = tick if observation_tick is None else observation_tick
        same_picture = seen <= self._last_observation
        if self._open is not None or same_picture or seen < self._not_before:
            return False
        if tick - seen >= _REMEMBERED_TICKS:
            return False
        # An arm held by others for so long that the plan is of another time.
        held = tick - max(self._arrival, self._last_moved) > self.config.execution_horizon
        if self.config.mode in _WAITS:
            # Not before its last action can be seen in the picture.
            return (self.remaining == 0 or held) and seen > self._last_moved
        if not self._chunks or self.config.mode == "ensemble" or held:
            return True
        taken = self._consumed - self._asked_at
        # Early, if the plan would end before an answer can be there.
        enough = self.expected_delay + self.config.delay_margin
        return taken >= self.config.execution_horizon or self.remaining <= enough

    def may_want_within(self, ticks: int) -> bool:
        """Whether `wants_observation` may come to be true now or in the next `ticks` - 1."""
        if self.config.mode in _WAITS and self._open is None:
            return self.remaining < ticks
        return True  # depends on when an answer comes, or does not

    def requested(
        self, tick: int, observation_tick: int | None = None
    ) -> tuple[Float[np.ndarray, "planned action_dim"] | None, int]:
        """The policy is given the observation of `observation_tick` (None: of `tick`). Returns what
        it is to be told in mode `rtc`: the planned actions from that tick on, and how many of them
        will be done before its answer can be used; `(None, 0)` otherwise."""
        assert self._open is None, "one request at a time"
        self._advance(tick)
        seen = tick if observation_tick is None else observation_tick
        assert seen <= tick, "an observation of the future"
        base = self._consumed_before[seen % _REMEMBERED_TICKS] if seen > 0 else 0
        planned, told = None, 0
        if self.config.mode == "rtc" and (planned := self.planned(base)) is not None:
            told = self._consumed - base + self.expected_delay + self.config.delay_margin
            told = min(told, len(planned))
            if self.config.max_delay is not None:
                told = min(told, self.config.max_delay)
        self._open = _Request(tick, seen, base, told)
        self._asked_at, self._last_observation = self._consumed, seen
        return planned, told

    @property
    def remaining(self) -> int:
        """Actions the present plan has left."""
        if not self._chunks:
            return 0
        newest = self._chunks[-1]
        return max(0, len(newest.actions) - (self._consumed - newest.base))

    def planned(self, base: int | None = None) -> Float[np.ndarray, "planned action_dim"] | None:
        """What is decided already, the first action due next; None if there is nothing. With
        `base`, a count of consumed actions: from that one on, what was done since in front."""
        since = 0 if base is None else min(self._consumed - base, len(self._done))
        done = [self._done[i] for i in range(len(self._done) - since, len(self._done))]
        if not self.remaining:
            return np.stack(done) if done else None
        newest = self._chunks[-1]
        left = newest.actions[self._consumed - newest.base :]
        return np.concatenate([np.stack(done), left]) if done else left

    def due(self, tick: int) -> Float[np.ndarray, " action_dim"] | None:
        """The action of this tick; None: hold, `index` says why."""
        self._advance(tick)
        self._chunks = [c for c in self._chunks if self._consumed - c.base < len(c.actions)]
        if self._chunks:
            self.index = self._consumed - self._chunks[-1].base
            return self.upcoming(0)
        if self._new or self.config.mode in _WAITS:
            self.waited += 1
            self.index = WAITING
        else:
            self.starved += 1
            self.index = STARVED
        return None

    def upcoming(self, ahead: int) -> Float[np.ndarray, " action_dim"] | None:
        """What the present plan has for `ahead` actions later (0: now); None: nothing."""
        place = self._consumed + ahead
        says = [c.actions[place - c.base] for c in self._chunks if place - c.base < len(c.actions)]
        if len(says) <= 1:
            return says[0] if says else None
        weights = np.exp(-self.config.ensemble_decay * np.arange(len(says)))
        return (weights / weights.sum() @ np.stack(says)).astype(says[0].dtype)

    def sent(
        self, tick: int, moved: bool, command: Float[np.ndarray, " action_dim"] | None = None
    ) -> None:
        """What was done at `tick`: the due action was sent (as `command`, if that is worth telling
        the policy, which it is where observations are older than this tick), or the arm held."""
        self._advance(tick)
        if moved:
            self._consumed += 1
            self._last_moved = tick
            if command is not None and self.config.mode == "rtc":
                self._done.append(command.astype(np.float32))
        self._tick = tick + 1
        self._consumed_before[self._tick % _REMEMBERED_TICKS] = self._consumed

    def _advance(self, tick: int) -> None:
        """Ticks that were skipped sent nothing: they count as held."""
        while self._tick < tick:
            self._tick += 1
            self._consumed_before[self._tick % _REMEMBERED_TICKS] = self._consumed

    def _close(self, observation_tick: int) -> _Request:
        request = self._open
        if request is None or request.observation_tick != observation_tick:
            asked = None if request is None else request.observation_tick
            raise ValueError(
                f"an answer for the observation of tick {observation_tick} came, but the one asked "
                f"for is {asked}; pass on only answers to the open request"
            )
        self._open = None
        return request
