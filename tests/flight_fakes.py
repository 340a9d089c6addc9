"""A small arm with two cameras for tests of the flight recorder, and loops that die."""

import os
import signal
import sys

import numpy as np

from ulna.datasets.schema import Camera, Embodiment
from ulna.deploy_robot.flight_lanes import FlightConfig
from ulna.deploy_robot.flight_recorder import FlightRecorder
from ulna.deploy_robot.orders import SOURCE_POLICY, TickRecord
from ulna.deploy_robot.robot import RobotState

HORIZON = 4
PERIOD_NS = 20_000_000
START_NS = 5_000_000_000


def embodiment() -> Embodiment:
    return Embodiment(
        name="two_eyes",
        control_hz=50.0,
        state_names=("x_m", "y_m", "gripper"),
        action_names=("dx", "dy", "gripper"),
        action_low=(-1.0,) * 3,
        action_high=(1.0,) * 3,
        action_meaning="displacement",
        cameras=(Camera("front", 32, 48), Camera("wrist", 16, 24)),
        joint_names=("one", "two"),
    )


class Loop:
    """What a control loop would tell its watcher: `front` is new at every tick, `wrist` at every
    third."""

    def __init__(self) -> None:
        self.state = RobotState.empty(embodiment())
        self.record = TickRecord()

    def tick(self, tick: int) -> tuple[TickRecord, RobotState]:
        state, record = self.state, self.record
        now_ns = START_NS + tick * PERIOD_NS
        state.version = tick + 1
        state.time_ns = now_ns - 1_000_000
        state.image_time_ns[0] = now_ns - 2_000_000
        state.image_time_ns[1] = START_NS + tick // 3 * 3 * PERIOD_NS - 3_000_000
        state.images["front"][...] = shade(tick)
        state.images["wrist"][...] = shade(tick // 3 * 3)
        state.state[:] = 0.01 * tick, -0.01 * tick, tick % 2
        state.joint_position_rad[:] = 0.1 * tick, 1.0
        record.tick = tick
        record.scheduled_ns, record.woke_ns, record.sent_ns = now_ns, now_ns + 50, now_ns + 900
        record.observation_time_ns = int(state.image_time_ns.min())
        record.observation_tick, record.observation_version = tick - 1, state.version
        record.chunk, record.action_index = tick // HORIZON, tick % HORIZON
        record.source, record.gate, record.instruction = SOURCE_POLICY, 0, 0
        record.action_due = np.array([np.sin(tick), np.cos(tick), 1], np.float32)
        record.action_sent = record.action_due / 2
        return record, state


def shade(tick: int) -> int:
    return tick * 5 % 250


def chunk(tick: int) -> np.ndarray:
    return np.full((HORIZON, 3), 0.01 * tick, np.float32)


def main(store: str, ticks: str) -> None:
    """Record some ticks, then die without a word."""
    loop = Loop()
    recorder = FlightRecorder(FlightConfig(store), embodiment(), HORIZON)
    recorder.begin_episode(7, "move")
    for tick in range(int(ticks)):
        if tick % HORIZON == 0:
            recorder.chunk(tick, tick - 1, chunk(tick))
        recorder.tick(*loop.tick(tick))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
