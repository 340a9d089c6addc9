"""The real-time loop, top to bottom.

    every period, on an absolute deadline:
        read the newest robot state           shared memory, never waits
        hear the operator                     orders.py: stop, pause, other hands, a verdict
        hear the policy, let it look          policy_side.py, ../envs/chunk_execution.py
        which action is due                   the plan, or the operator's
        where on the way to it                interpolation.py, at servo rates only
        may it be sent                        safety.py
        send it, write the row                robot.py, tick_log.py, the flight recorder

The loop never waits for anybody; a missing action is a hold. It begins half a period after the
robot's capture time, so that neither side's jitter makes a command miss its period. At a servo rate
above the control rate, reading, the gate and sending happen at every servo tick, the rest at every
`steps`-th. An arm that obeys joint positions cannot stand still at once: when the plan runs out,
at a stop and at the end of the episode it brakes (the gate does it), and the loop stays until it
rests.

The steps themselves are in `control_tick.py`.

No process, signal or file is handled here (`control_process.py` does), so the very same function
runs on `FakeClock`, `FakeRobot` and `InlineInference` in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..envs.chunk_execution import ChunkExecution
from .clock import Ticker
from .control_tick import ControlTick, Gate
from .inference import Inference
from .interpolation import Interpolator
from .orders import NO_WATCHER, NOBODY, LoopWatcher, Operator
from .robot import Robot
from .tick_log import TickLog

_MAX_BRAKE_S = 2.0


@dataclass(frozen=True)
class LoopConfig:
    """When an episode ends."""

    max_episode_s: float = 8.0
    """Pauses not counted."""
    success_ticks: int = 3
    """Ticks in a row that the robot's judge must say success: a cube tossed up is not picked up."""


EpisodeStop = Literal["success", "failure", "time", "stopped"]


def control_episode(
    robot: Robot,
    inference: Inference,
    ticker: Ticker,
    gate: Gate,
    schedule: ChunkExecution,
    log: TickLog,
    config: LoopConfig,
    stopping: Callable[[], bool] = lambda: False,
    operator: Operator = NOBODY,
    watcher: LoopWatcher = NO_WATCHER,
    interpolator: Interpolator | None = None,
) -> EpisodeStop:
    """Move the arm for one episode that the robot has started; returns why it ended.

    `ticker` runs at the servo rate: the control rate times `interpolator.steps`, or the control
    rate itself without one. `stopping` is asked at every tick; when true, the gate latches. On
    return, and on an exception, the arm has been told to hold.
    """
    loop = ControlTick(
        robot, inference, ticker, gate, schedule, log, operator, watcher, interpolator
    )
    steps, period_ns = loop.steps, loop.period_ns
    max_ticks = round(config.max_episode_s * 1e9 / period_ns)
    success_ticks = 0
    ended: EpisodeStop | None = None
    loop.start()
    try:
        while True:
            servo_tick = ticker.wait()
            if stopping():
                gate.stop()
            tick = servo_tick // steps
            is_control_tick = tick != loop.tick
            state = loop.hear_robot_and_operator(tick)
            if is_control_tick:
                loop.decide(state, ended is not None)
            loop.act(state)
            if is_control_tick:
                loop.write(state)
                max_ticks += loop.orders.paused
                success_ticks = success_ticks + 1 if state.success else 0
            if ended is None:
                if gate.latched:
                    ended = "stopped"
                elif loop.orders.verdict is not None:
                    ended = loop.orders.verdict
                elif success_ticks >= config.success_ticks:
                    ended = "success"
                elif tick + 1 >= max_ticks:
                    ended = "time"
                if ended is not None:
                    loop.brake_until(ticker.deadline_ns + round(_MAX_BRAKE_S * 1e9))
            if ended is not None and loop.at_rest():
                return "stopped" if gate.latched else ended
    finally:
        robot.hold()
