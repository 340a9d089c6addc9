"""What a person may want of a running arm, and what anyone may watch, as the control loop sees it.

    operator.poll(now, state) -> Orders      stop, pause, other words, another hand, a verdict
    watcher.tick(record, state), .chunk(...) everything that was seen, decided and sent

Both are called inside the control tick: neither may wait, for a key, a lock or a disk, and what
they get is overwritten by the next tick, so whoever wants to keep it copies it.

`operator_keys.py` is a keyboard, `flight_recorder.py` a watcher; `control_loop.py` calls them.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from .robot import RobotState

SOURCE_POLICY, SOURCE_OPERATOR, SOURCE_HOLD = 0, 1, 2
"""Who moved the arm in a tick: `TickRecord.source`."""


@dataclass(slots=True)
class Orders:
    """What the operator wants now. The same object may be returned again and again, except that
    `instruction` is said once."""

    stop: bool = False
    """The gate latches; the episode ends in a hold."""
    paused: bool = False
    """The arm holds and nothing counts as a fault; on resume the policy is asked anew."""
    instruction: str | None = None
    """A new command for the policy, from its next look on."""
    action: Float[np.ndarray, " action_dim"] | None = None
    """Teleoperation has the arm: this is due instead of what the policy says."""
    verdict: Literal["success", "failure"] | None = None
    """Ends the episode with this outcome."""


@runtime_checkable
class Operator(Protocol):
    """A person with a keyboard or a leader arm, or a script."""

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        """The newest orders. Never waits."""
        ...


@dataclass(slots=True)
class TickRecord:
    """One control tick in numbers: a row of the tick log. With a servo rate above the control rate
    it is written at the first servo tick of the control tick."""

    tick: int = -1
    """Number of the control tick in the episode."""
    scheduled_ns: int = 0
    woke_ns: int = 0
    sent_ns: int = 0
    """When the command was handed to the robot."""
    observation_time_ns: int = 0
    """Capture of the oldest part of what the robot measured."""
    observation_tick: int = 0
    """Control tick whose command began to act at that moment."""
    observation_version: int = 0
    chunk: int = -1
    """Number of the chunk in use; -1 before the first."""
    action_index: int = -1
    """Which of its actions was due; negative: none (`../envs/chunk_execution.py`)."""
    inference_delay: int = 0
    """Of the latest chunk that replaced a running plan, in consumed actions."""
    gate: int = 0
    """Bits of `Intervention`, of this servo tick and of those since the row before."""
    source: int = SOURCE_HOLD
    instruction: int = 0
    """Counts the changes of the instruction within the episode; 0 is the one it began with."""
    action_due: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """What the policy or the operator wanted, `(action_dim)`; NaN where nothing was due."""
    action_sent: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """What the gate let through, or the hold, `(action_dim)`."""


@runtime_checkable
class LoopWatcher(Protocol):
    """Someone who writes down, or shows, what the loop does."""

    def tick(self, record: TickRecord, state: RobotState) -> None:
        """One control tick, after its command was sent. Never waits; copies what it keeps."""
        ...

    def chunk(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        """A chunk that came at `tick`, used or not. Never waits; copies what it keeps."""
        ...


class _Nobody:
    def __init__(self) -> None:
        self._orders = Orders()

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        return self._orders


class _NoWatcher:
    def tick(self, record: TickRecord, state: RobotState) -> None:
        pass

    def chunk(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        pass


NOBODY: Operator = _Nobody()
"""No operator: the policy has the arm throughout."""
NO_WATCHER: LoopWatcher = _NoWatcher()
