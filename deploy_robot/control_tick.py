"""The steps of one tick of the control loop, and what one tick leaves for the next.

Read `control_loop.py` first: it says in which order and when. Nothing here waits, and nothing is
kept that grows.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from ..envs.chunk_execution import ChunkExecution
from .clock import Ticker
from .inference import Inference
from .interpolation import Interpolator, joint_places
from .interventions import CORRECTED, Intervention
from .orders import (
    SOURCE_HOLD,
    SOURCE_OPERATOR,
    SOURCE_POLICY,
    LoopWatcher,
    Operator,
    Orders,
    TickRecord,
)
from .policy_side import PolicySide
from .robot import Robot, RobotState, SaysFaults
from .tick_log import TickLog

_CORRECTED, _DRY_RUN = int(CORRECTED), Intervention.DRY_RUN.value
_UNSEEN = Intervention.OBSERVATION_INVALID.value


@runtime_checkable
class Gate(Protocol):
    """The last thing before the robot: `SafetyGate`."""

    def check(
        self,
        action: np.ndarray | None,
        state: np.ndarray,
        joint_position_rad: np.ndarray,
        observation_age_s: float,
        action_age_s: float,
        policy_silence_s: float,
        policy_dead: bool,
        policy_reachable: bool = True,
        dt_s: float | None = None,
    ) -> tuple[np.ndarray, int]: ...

    def stop(self) -> None: ...

    def fail(self, reason: str) -> None: ...

    @property
    def latched(self) -> Intervention: ...

    @property
    def at_rest(self) -> bool: ...


class ControlTick:
    """One episode's ticks. Per servo tick `hear_robot_and_operator`, then `act`; per control tick
    `decide` between the two and `write` behind them."""

    def __init__(
        self,
        robot: Robot,
        inference: Inference,
        ticker: Ticker,
        gate: Gate,
        schedule: ChunkExecution,
        log: TickLog,
        operator: Operator,
        watcher: LoopWatcher,
        interpolator: Interpolator | None,
    ) -> None:
        self.robot, self.inference, self.ticker, self.gate = robot, inference, ticker, gate
        self.schedule, self.log, self.operator, self.watcher = schedule, log, operator, watcher
        self.interpolator = interpolator
        self.steps = 1 if interpolator is None else interpolator.steps
        self.period_ns = ticker.period_ns * self.steps
        self.latency_ns = round(robot.action_latency_s * 1e9)
        body = robot.embodiment
        self.says_faults = robot if isinstance(robot, SaysFaults) else None
        self.brakes = joint_places(body) is not None
        self.policy = PolicySide(inference, schedule, watcher, 1e9 / self.period_ns)
        self.orders = Orders()
        self.record = TickRecord(
            action_due=np.full(body.action_dim, np.nan, np.float32),
            action_sent=np.zeros(body.action_dim, np.float32),
        )
        self.action: np.ndarray | None = None  # due at this control tick
        self.source = SOURCE_HOLD
        self.taken_over = False  # the plan is not the policy's to continue
        self.bits = self.bits_before = self.instruction = 0
        self.tick = self.servo_tick = -1
        self.brake_end_ns = 0
        self.fresh = False  # the interpolator does not know `action` yet

    def start(self) -> None:
        self.schedule.reset()
        state = self.robot.read()
        if self.interpolator is not None:
            self.interpolator.start(state.joint_position_rad)
        start_ns = state.time_ns + self.period_ns // 2
        late_ns = self.ticker.clock.now_ns() - start_ns
        self.start_ns = start_ns + max(0, -(-late_ns // self.period_ns)) * self.period_ns
        self.ticker.start(self.start_ns)

    def hear_robot_and_operator(self, tick: int) -> RobotState:
        self.tick = tick
        state = self.robot.read()
        if self.says_faults is not None and (fault := self.says_faults.fault()):
            self.gate.fail(fault)
        self.orders = self.operator.poll(self.ticker.clock.now_ns(), state)
        if self.orders.stop:
            self.gate.stop()
        if self.orders.instruction is not None:
            self.policy.told(self.orders.instruction)
            self.instruction += 1
        return state

    def decide(self, state: RobotState, ended: bool) -> None:
        """What is due at this control tick, and who says so."""
        orders, tick = self.orders, self.tick
        # The tick whose command begins to act at the moment this was captured.
        captured_ns = state.observation_time_ns - self.latency_ns - self.start_ns
        # A tick that woke more than half a period late sees what came after its own deadline; its
        # command is still the next one to act.
        self.observation_tick = min(tick, round(captured_ns / self.period_ns))
        self.action, self.source, self.fresh = None, SOURCE_HOLD, True
        self.policy.see(tick, state)
        if orders.paused or orders.action is not None or ended:
            self.taken_over = True
            self.policy.hush()
            if orders.action is not None and not orders.paused and not ended:
                self.action, self.source = orders.action, SOURCE_OPERATOR
            return
        if self.taken_over:
            self.taken_over = False
            self.schedule.forget(tick)
        self.policy.hear(tick)
        self.policy.look(tick, state, self.observation_tick)
        self.action = self.schedule.due(tick)
        if self.action is not None:
            self.source = SOURCE_POLICY

    def act(self, state: RobotState) -> None:
        """The command of this servo tick, through the gate, to the robot."""
        gate, now_ns = self.gate, self.ticker.clock.now_ns()
        wanted = self.action
        if self.interpolator is not None:
            wanted = self._way(self.interpolator)
        by_policy = not self.taken_over
        plan_ns = self.policy.plan_time_ns if by_policy else now_ns
        command, bits = gate.check(
            wanted,
            state.state,
            state.joint_position_rad,
            observation_age_s=(now_ns - state.observation_time_ns) * 1e-9,
            action_age_s=(now_ns - plan_ns) * 1e-9,
            policy_silence_s=self.inference.silence_s(now_ns) if by_policy else 0.0,
            policy_dead=by_policy and self.inference.dead(),
            policy_reachable=not by_policy or self.inference.reachable(),
            dt_s=self.ticker.period_ns * 1e-9 * max(1, self.ticker.tick - self.servo_tick),
        )
        if bits & _UNSEEN and not np.isfinite(command).all():
            # The arm was never seen yet: where it stands, and so how it holds, is not known here.
            self.robot.hold()
        elif not bits & _DRY_RUN:
            self.robot.send(command)
        self.servo_tick = self.ticker.tick
        self.sent_ns = self.ticker.clock.now_ns()
        self.bits = bits
        self.bits_before |= bits
        self.command = command
        if self.interpolator is not None:
            self.interpolator.sent(command, held=bool(bits & ~_CORRECTED))

    def _way(self, interpolator: Interpolator) -> np.ndarray | None:
        """The setpoint of this servo tick, on the way to the action of the next control tick."""
        action, fresh = self.action, self.fresh
        self.fresh = False
        if action is None:
            interpolator.forget()
        setpoint = interpolator.step()
        if action is None or not fresh:
            return setpoint
        following = after = None
        if self.source == SOURCE_POLICY:
            following, after = self.schedule.upcoming(1), self.schedule.upcoming(2)
        if following is None and (setpoint is None or self.source == SOURCE_OPERATOR):
            following = action  # nobody knows the next one: be there a period later
        interpolator.aim(action, following, after)
        return interpolator.step() if setpoint is None else setpoint

    def write(self, state: RobotState) -> None:
        """The row of this control tick, and to the plan whether its action was consumed."""
        ticker, schedule, record = self.ticker, self.schedule, self.record
        moved = self.source == SOURCE_POLICY and not self.bits & ~_CORRECTED
        index = schedule.index if self.source == SOURCE_POLICY else min(schedule.index, -1)
        schedule.sent(self.tick, moved, self.command)
        record.tick = self.tick
        record.scheduled_ns, record.woke_ns = ticker.deadline_ns, ticker.woke_ns
        record.sent_ns = self.sent_ns
        record.observation_time_ns = state.observation_time_ns
        record.observation_tick = self.observation_tick
        record.observation_version = state.version
        record.chunk, record.action_index = schedule.chunk_number, index
        record.inference_delay = schedule.inference_delay
        record.gate, self.bits_before = self.bits_before, 0
        record.source, record.instruction = self.source, self.instruction
        if self.action is not None and self.action.shape == record.action_due.shape:
            record.action_due[:] = self.action
        else:
            record.action_due.fill(np.nan)
        record.action_sent[:] = self.command
        self.log.add(record, state.state)
        self.watcher.tick(record, state)

    def brake_until(self, time_ns: int) -> None:
        """The episode is over: nothing is due any more."""
        self.action, self.source, self.brake_end_ns = None, SOURCE_HOLD, time_ns

    def at_rest(self) -> bool:
        """Whether the arm stands, as far as it was told to, and all of it stands in the log."""
        if not self.brakes or self.ticker.deadline_ns > self.brake_end_ns:
            return True
        return self.gate.at_rest and not self.bits_before
