"""Which action is due at a control tick, and when the policy should look again.

Pure bookkeeping in control ticks: no clock, no process, no array is copied but the chunk itself.

The *tick of an observation* is the tick whose command would begin to act at the moment the
observation was made (`control_loop.py` computes it from capture times). The chunk computed from it
says what to do from that tick on, so its action number `tick - observation_tick` is due now and a
chunk that arrives `inference_delay` ticks late starts at that number:

    tick               20   21   22   23   24   25   26
    sent               p4   p5   p6   p7   q4   q5   q6      p, q: two chunks
                       |observed            |arrived, 4 ticks later: q0..q3 are past

That is right as long as the arm moves on meanwhile. On a tick that *held* (nothing due, or the
safety gate refused) it stayed where it was and nothing was consumed, so held ticks are left out of
the count: a first chunk starts at its first action, and so does every chunk of `synchronous` mode,
in which the arm waits for the policy.

Next: `control_loop.py`, which asks `wants_observation`, `due` and tells `sent`.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..datasets.schema import unknown_name

MODES = ("asynchronous", "synchronous")
WAITING = -1
"""Nothing is due by design: the first chunk has not come, or synchronous mode is waiting."""
STARVED = -2
"""Nothing is due although something should be: the plan ran out before the next chunk came."""
_REMEMBERED_TICKS = 1024
_REMEMBERED_DELAYS = 8


@dataclass(frozen=True)
class ScheduleConfig:
    """When to ask the policy for the next chunk."""

    mode: Literal["asynchronous", "synchronous"] = "asynchronous"
    """`asynchronous`: the plan runs on while the policy thinks. `synchronous`: the arm holds."""
    execution_horizon: int = 8
    """Ticks between two looks of the policy (asynchronous), actions per chunk (synchronous)."""
    delay_margin: int = 1
    """Ask early enough that the plan would last this many ticks longer than the slowest of the
    last eight answers took."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("schedule mode", self.mode, MODES)
        if self.execution_horizon < 1 or self.delay_margin < 0:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} and delay_margin {self.delay_margin} "
                "do not fit; use at least 1 and at least 0"
            )


class ChunkSchedule:
    """The plan of one episode. Call, per tick and in this order: `arrived` for a chunk that came,
    `wants_observation` (and `requested`), `due`, then `sent`."""

    starved: int
    """Ticks on which an action should have been due and none was: late actions."""
    waited: int
    """Ticks held by design, before the first chunk or in synchronous mode."""
    expired: int
    """Chunks that came when all their actions were past already."""
    delays: list[int]
    """Of every chunk that replaced a running plan: its inference delay in consumed actions."""
    chunk_number: int
    """Counts the chunks in use, from 0; -1 before the first."""

    def __init__(self, config: ScheduleConfig, horizon: int, action_dim: int) -> None:
        if config.execution_horizon > horizon:
            raise ValueError(
                f"execution_horizon {config.execution_horizon} is longer than the policy's chunk "
                f"of {horizon} actions; use {horizon} or less"
            )
        self.config = config
        self.horizon = horizon
        self._chunk = np.zeros((horizon, action_dim), dtype=np.float32)
        self._consumed_before = [0] * _REMEMBERED_TICKS
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins at tick 0."""
        self.starved = self.waited = self.expired = 0
        self.delays = []
        self.chunk_number = -1
        self._tick = 0  # the first tick whose count of consumed actions is not final yet
        self._consumed = 0  # actions sent so far
        self._last_moved_tick = -1
        self._base = 0  # consumed actions when the present chunk was observed
        self._has_chunk = False
        self._request: tuple[int, int, int] | None = None  # (tick, observation tick, base)
        self._requested_observation: int | None = None
        self._request_tick = self._arrival_tick = 0
        self._answer_ticks: deque[int] = deque([0], maxlen=_REMEMBERED_DELAYS)
        self._consumed_before[0] = 0

    def wants_observation(self, tick: int, observation_tick: int) -> bool:
        """Whether to give the policy the observation of `observation_tick` now."""
        self._advance(tick)
        if self._request is not None or tick - observation_tick >= _REMEMBERED_TICKS:
            return False
        last = self._requested_observation
        if last is not None and observation_tick <= last:
            return False  # the same picture again
        if not self._has_chunk:
            return True
        if self.config.mode == "synchronous":
            # Look when the chunk is done and its last action can be seen in the picture; or when
            # the arm has been held for so long that the chunk is of another time.
            done = self._index() >= self.config.execution_horizon
            held = tick - max(self._arrival_tick, self._last_moved_tick)
            over = done or held > self.config.execution_horizon
            return over and observation_tick > self._last_moved_tick
        remaining = self.horizon - self._index()
        enough = max(self._answer_ticks) + self.config.delay_margin
        return tick - self._request_tick >= self.config.execution_horizon or remaining <= enough

    def requested(self, tick: int, observation_tick: int) -> None:
        """The policy was given the observation of `observation_tick` at `tick`."""
        assert observation_tick <= tick, "an observation of the future"
        self._advance(tick)
        base = self._count_before(observation_tick)
        self._request = (tick, observation_tick, base)
        self._requested_observation = observation_tick
        self._request_tick = tick

    def arrived(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        """The chunk computed from the observation of `observation_tick` is there at `tick`."""
        self._advance(tick)
        request = self._request
        if request is None or request[1] != observation_tick:
            raise ValueError(
                f"a chunk for the observation of tick {observation_tick} came at tick {tick}, but "
                f"the one asked for is {None if request is None else request[1]}; pass on only "
                "answers to the request that is open"
            )
        self._request = None
        self._answer_ticks.append(tick - request[0])
        self._arrival_tick = tick
        delay = self._consumed - request[2]
        if delay >= self.horizon:
            self.expired += 1
            return
        if self._has_chunk:
            self.delays.append(delay)
        self._base = request[2]
        self._chunk[...] = chunk
        self._has_chunk = True
        self.chunk_number += 1

    def due(self, tick: int) -> int:
        """Number of the action due now (read it by `action`), or WAITING or STARVED."""
        self._advance(tick)
        if not self._has_chunk:
            # The first answer may take long; one that came but had expired cannot happen here,
            # as nothing is consumed before the first chunk.
            self.waited += 1
            return WAITING
        index = self._index()
        if self.config.mode == "synchronous":
            if index >= self.config.execution_horizon:
                self.waited += 1
                return WAITING
            return index
        if index >= self.horizon:
            self.starved += 1
            return STARVED
        return index

    def action(self, index: int) -> Float[np.ndarray, " action_dim"]:
        """Action `index` of the present chunk; a view, valid until the next `arrived`."""
        return self._chunk[index]

    def sent(self, tick: int, moved: bool) -> None:
        """What was done at `tick`: the due action was sent, or the arm held."""
        self._advance(tick)
        if moved:
            self._consumed += 1
            self._last_moved_tick = tick
        self._tick = tick + 1
        self._consumed_before[self._tick % _REMEMBERED_TICKS] = self._consumed

    @property
    def inference_delay(self) -> int:
        """Of the latest chunk that replaced a running plan; 0 before."""
        return self.delays[-1] if self.delays else 0

    def _index(self) -> int:
        return self._consumed - self._base

    def _advance(self, tick: int) -> None:
        """Ticks that were skipped sent nothing: they count as held."""
        while self._tick < tick:
            self._tick += 1
            self._consumed_before[self._tick % _REMEMBERED_TICKS] = self._consumed

    def _count_before(self, tick: int) -> int:
        """Actions consumed before `tick`; ticks before the episode consumed nothing."""
        return self._consumed_before[tick % _REMEMBERED_TICKS] if tick > 0 else 0
