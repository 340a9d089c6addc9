"""Operators that are not a keyboard: a script, and someone who moves the arm by a leader arm.

Next: `orders.py` (what an operator is), `operator_board.py`, `operator_keys.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from .orders import NOBODY, Operator, Orders
from .robot import RobotState


@runtime_checkable
class ActionSource(Protocol):
    """A leader arm, a space mouse, a gamepad."""

    def action(self, state: RobotState) -> Float[np.ndarray, " action_dim"] | None:
        """What the arm is to do now, in the actions of its embodiment; None if nothing is known,
        such as a leader that was unplugged. Never waits."""
        ...


class ScriptedOperator:
    """Gives orders at given times: for tests, and for trials that must be alike."""

    def __init__(self, script: Sequence[tuple[float, Orders]]) -> None:
        """`script`: seconds since the first `poll`, in order, and the orders that hold from then
        on. An instruction among them is said once."""
        times = [seconds for seconds, _ in script]
        if times != sorted(times):
            raise ValueError(f"the script's times {times} are not in order; sort them")
        self._script = [(round(seconds * 1e9), orders) for seconds, orders in script]
        self.begin_episode()

    def begin_episode(self) -> None:
        """Start the script again at the next `poll`."""
        self._start_ns: int | None = None
        self._next = 0
        self._orders = Orders()

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        if self._start_ns is None:
            self._start_ns = now_ns
        elif self._orders.instruction is not None:
            self._orders = replace(self._orders, instruction=None)
        while (
            self._next < len(self._script)
            and now_ns - self._start_ns >= self._script[self._next][0]
        ):
            said = self._orders.instruction
            self._orders = self._script[self._next][1]
            if self._orders.instruction is None and said is not None:
                # Two entries became due in one tick: what the first said is not lost.
                self._orders = replace(self._orders, instruction=said)
            self._next += 1
        return self._orders


class TeleoperationOperator:
    """Another operator, and beside him someone who can take the arm over.

    What the source gives passes the same safety gate as a policy's actions; while it has the arm
    the recorder marks every step as a correction.
    """

    def __init__(
        self,
        source: ActionSource,
        operator: Operator = NOBODY,
        taken_over: Callable[[], bool] | None = None,
    ) -> None:
        """`taken_over`: whether the source has the arm, such as
        `lambda: board_operator.taken_over`; if it has but gives nothing, the arm pauses: the policy
        must not go on by surprise. None: the source has it whenever it gives an action, as one with
        a clutch of its own does."""
        self._source = source
        self._operator = operator
        self._taken_over = taken_over
        self._orders = Orders()

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        given, ours = self._operator.poll(now_ns, state), self._orders
        ours.stop, ours.paused, ours.verdict = given.stop, given.paused, given.verdict
        ours.instruction = given.instruction
        # Whoever asked for the arm more directly has it.
        ours.action = given.action
        if ours.action is None and (self._taken_over is None or self._taken_over()):
            ours.action = self._source.action(state)
            if ours.action is None and self._taken_over is not None:
                ours.paused = True
        return ours
