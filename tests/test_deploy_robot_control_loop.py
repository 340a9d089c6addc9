"""The loop on a fake clock, a fake robot and an inline policy: nothing here waits."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from ulna.datasets.schema import Observation
from ulna.deploy_robot.chunk_schedule import ChunkSchedule, ScheduleConfig
from ulna.deploy_robot.clock import FakeClock, Ticker
from ulna.deploy_robot.control_loop import LoopConfig, control_episode
from ulna.deploy_robot.inference import InlineInference
from ulna.deploy_robot.robot import FakeRobot, check_robot
from ulna.deploy_robot.safety import Intervention, SafetyGate, SafetyLimits
from ulna.deploy_robot.tick_log import TickLog, count_interventions

LIMITS = SafetyLimits(
    translation_scale_m=0.01,
    workspace_low_m=(-2.0, -2.0, -2.0),
    workspace_high_m=(2.0, 2.0, 2.0),
    joint_low_rad=(-2.9,),
    joint_high_rad=(2.9,),
)
PERIOD_NS = 50_000_000


class Bench:
    """Everything `control_episode` needs, on one fake clock."""

    def __init__(
        self,
        act: Callable[[Observation], np.ndarray] = lambda _: np.full((8, 4), 0.25, np.float32),
        delay: int = 1,
        mode: Literal["asynchronous", "synchronous"] = "asynchronous",
        success_after: int | None = None,
        oversleep_ns: tuple[int, ...] = (),
    ) -> None:
        self.clock = FakeClock(oversleep_ns=oversleep_ns)
        self.robot = FakeRobot(self.clock.now_ns, success_after)
        self.inference = InlineInference(act, 8, lambda: delay)
        self.gate = SafetyGate(LIMITS, self.robot.embodiment)
        self.schedule = ChunkSchedule(ScheduleConfig(mode, 4), 8, 4)
        self.ticker = Ticker(self.clock, 20.0, 500)
        self.log = TickLog(500, 4, 4)
        self.robot.connect()

    def run(self, max_episode_s: float = 5.0, stopping: Callable[[], bool] = lambda: False) -> str:
        self.robot.start_episode(1, "move")
        self.inference.begin_episode(1, "move")
        return control_episode(
            self.robot,
            self.inference,
            self.ticker,
            self.gate,
            self.schedule,
            self.log,
            LoopConfig(max_episode_s),
            stopping,
        )

    def after(self, ticks: int, happen: Callable[[], None]) -> Callable[[], bool]:
        """A `stopping` that never stops but lets something happen at a tick."""

        def hook() -> bool:
            if self.log.rows == ticks:
                happen()
            return False

        return hook


def test_an_episode_runs_its_time_and_logs_every_tick():
    bench = Bench()
    assert bench.run() == "time"
    log = bench.log
    assert log["tick"].tolist() == list(range(100))
    assert np.diff(log["scheduled_ns"]).tolist() == [PERIOD_NS] * 99
    assert len(bench.robot.sent) == 100 and bench.robot.holds == 1
    np.testing.assert_array_equal(log["action_sent"], np.array(bench.robot.sent, np.float32))
    assert count_interventions(log["gate"])["no_action"] == bench.schedule.waited == 1
    assert log["action_index"][1:].min() >= 0 and bench.schedule.starved == 0
    assert np.isnan(log["action_due"][0]).all() and not np.isnan(log["action_due"][1:]).any()


def test_success_must_last_and_ends_the_episode():
    bench = Bench(success_after=10)
    assert bench.run() == "success"
    # 1 tick waiting, 10 moving; the tick after the tenth motion is the first that can see it.
    assert bench.log.rows == 11 + 2
    assert bench.robot.finish_episode(None).success


def test_a_slow_policy_starves_the_plan_and_the_arm_holds():
    bench = Bench(delay=20)
    bench.run()
    starved = bench.log["gate"][25:] & Intervention.NO_ACTION.value > 0
    assert bench.schedule.starved > 0 and starved.any()
    assert not bench.log["action_sent"][25:][starved][:, :3].any()


def test_ticks_lost_to_an_overrun_are_not_made_up():
    bench = Bench(oversleep_ns=(0, 0, 0, 170_000_000))
    bench.run(max_episode_s=1.0)
    assert bench.log["tick"][:6].tolist() == [0, 1, 2, 3, 7, 8]
    assert bench.ticker.skipped == 3
    assert bench.log["lateness_ns"][3] == 170_000_000


@pytest.mark.parametrize("fault", ["frozen", "nan_state", "at_joint_limit"])
def test_a_faulty_robot_is_held_then_stopped(fault):
    bench = Bench()
    ended = bench.run(stopping=bench.after(20, lambda: bench.robot.inject(fault)))
    assert ended == "stopped"
    assert bench.gate.latched & Intervention.REFUSED_TOO_LONG
    first = {"frozen": 25, "nan_state": 20, "at_joint_limit": 20}[fault]  # 0.25 s of staleness
    assert bench.log["action_sent"][first - 1, :3].any()
    assert not bench.log["action_sent"][first:, :3].any()
    assert bench.robot.holds == 1


def test_a_dead_policy_stops_the_arm_within_one_tick():
    bench = Bench()
    ended = bench.run(stopping=bench.after(20, lambda: setattr(bench.inference, "killed", True)))
    assert ended == "stopped" and bench.gate.refusal == "policy_dead"
    assert bench.log.rows == 21 and not bench.log["action_sent"][20, :3].any()


def test_a_hanging_policy_is_stopped_by_its_silence():
    bench = Bench()
    ended = bench.run(stopping=bench.after(20, lambda: setattr(bench.inference, "hung", True)))
    assert ended == "stopped" and bench.gate.refusal == "policy_silent"
    assert bench.log.rows - 20 == pytest.approx(LIMITS.max_policy_silence_s * 20, abs=2)


def test_ctrl_c_stops_within_one_tick():
    bench = Bench()
    assert bench.run(stopping=lambda: bench.log.rows >= 20) == "stopped"
    assert bench.log.rows == 21 and bench.gate.refusal == "manual_stop"


def test_an_exception_in_the_loop_ends_in_a_hold():
    bench = Bench()

    def explode() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(stopping=explode)
    assert bench.robot.holds == 1


def test_the_policy_sees_what_the_robot_measured_and_the_same_run_repeats():
    runs = []
    for _ in range(2):
        seen = []

        def act(observation: Observation, seen: list = seen) -> np.ndarray:
            seen.append((observation.noise_seed, observation.instruction, *observation.state))
            return np.full((8, 4), 0.1 + observation.state[0] / 10, np.float32)

        bench = Bench(act, delay=3)
        bench.run()
        runs.append((seen, bench.log["action_sent"].tolist()))
    assert runs[0] == runs[1]
    seeds = [entry[0] for entry in runs[0][0]]
    assert len(set(seeds)) == len(seeds) > 10
    assert runs[0][0][0][1] == "move"


def test_the_fake_robot_keeps_the_contract():
    clock = FakeClock()
    robot = FakeRobot(clock.now_ns)
    check_robot(robot, lambda: clock.advance(2 * PERIOD_NS))
    robot.inject("frozen")
    with pytest.raises(AssertionError, match="no newer measurement"):
        check_robot(robot, lambda: clock.advance(2 * PERIOD_NS))
