"""The real-time loop, top to bottom.

    every period, on an absolute deadline:
        read the newest robot state           shared memory, never waits
        take a chunk if one came              inference.py
        give the policy a look if it is time  chunk_schedule.py
        which action is due                   chunk_schedule.py
        may it be sent                        safety.py
        send it, write the row                robot.py, tick_log.py

The loop never waits for the policy or the robot; a missing action is a hold. It begins half a
period after the robot's capture time, so that neither side's jitter makes a command miss its
period. No process, signal or file is handled here (`control_process.py` does), so the very same
function runs on `FakeClock`, `FakeRobot` and `InlineInference` in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .chunk_schedule import ChunkSchedule
from .clock import Ticker
from .inference import Inference
from .robot import Robot
from .safety import Intervention, SafetyGate
from .tick_log import TickLog

_CORRECTED = (Intervention.RANGE | Intervention.CHANGE | Intervention.WORKSPACE).value
"""Bits of a command that was sent, corrected; any other bit means the arm held."""


@dataclass(frozen=True)
class LoopConfig:
    """When an episode ends."""

    max_episode_s: float = 8.0
    success_ticks: int = 3
    """Ticks in a row that the robot's judge must say success: a cube tossed up is not picked up."""


EpisodeStop = Literal["success", "time", "stopped"]


def control_episode(
    robot: Robot,
    inference: Inference,
    ticker: Ticker,
    gate: SafetyGate,
    schedule: ChunkSchedule,
    log: TickLog,
    config: LoopConfig,
    stopping: Callable[[], bool] = lambda: False,
) -> EpisodeStop:
    """Move the arm for one episode that the robot has started; returns why it ended.

    `stopping` is asked at every tick; when true, the gate latches and the arm holds. On return,
    and on an exception, the arm has been told to hold.
    """
    schedule.reset()
    success_ticks = 0
    plan_time_ns = request_time_ns = 0
    period_ns = ticker.period_ns
    max_ticks = round(config.max_episode_s * 1e9 / period_ns)
    latency_ns = round(robot.action_latency_s * 1e9)
    start_ns = robot.read().time_ns + period_ns // 2
    start_ns += max(0, -(-(ticker.clock.now_ns() - start_ns) // period_ns)) * period_ns
    ticker.start(start_ns)
    try:
        while True:
            tick = ticker.wait()
            if stopping():
                gate.stop()
            state = robot.read()
            seen_ns = state.observation_time_ns
            # The tick whose command begins to act at the moment this was captured.
            observation_tick = round((seen_ns - latency_ns - start_ns) / period_ns)

            answer = inference.poll()
            if answer is not None:
                chunks_before = schedule.chunk_number
                schedule.arrived(tick, answer.observation_tick, answer.chunk)
                if schedule.chunk_number != chunks_before:
                    plan_time_ns = request_time_ns
            if schedule.wants_observation(tick, observation_tick):
                inference.offer(state, observation_tick)
                schedule.requested(tick, observation_tick)
                request_time_ns = seen_ns

            index = schedule.due(tick)
            action = schedule.action(index) if index >= 0 else None
            now_ns = ticker.clock.now_ns()
            command, bits = gate.check(
                action,
                state.state,
                state.joint_position_rad,
                observation_age_s=(now_ns - seen_ns) * 1e-9,
                action_age_s=(now_ns - plan_time_ns) * 1e-9,
                policy_silence_s=inference.silence_s(now_ns),
                policy_dead=inference.dead(),
            )
            robot.send(command)
            schedule.sent(tick, moved=not bits & ~_CORRECTED)
            log.add(
                (
                    tick,
                    ticker.deadline_ns,
                    ticker.woke_ns,
                    ticker.clock.now_ns(),
                    seen_ns,
                    observation_tick,
                    state.version,
                    schedule.chunk_number,
                    index,
                    schedule.inference_delay,
                    bits,
                ),
                state.state,
                action,
                command,
            )
            if gate.latched:
                return "stopped"
            success_ticks = success_ticks + 1 if state.success else 0
            if success_ticks >= config.success_ticks:
                return "success"
            if tick + 1 >= max_ticks:
                return "time"
    finally:
        robot.hold()
