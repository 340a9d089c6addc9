"""The loop on a fake clock, a fake robot and an inline policy: nothing here waits."""

import numpy as np
import pytest
from deploy_robot_bench import LIMITS, PERIOD_NS, Bench

from ulna.datasets.schema import Observation
from ulna.deploy_robot.check_robot import check_robot
from ulna.deploy_robot.clock import FakeClock
from ulna.deploy_robot.robot import FakeRobot
from ulna.deploy_robot.safety import Intervention
from ulna.deploy_robot.tick_log import count_interventions


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


def test_a_tick_that_wakes_late_sees_nothing_of_the_future():
    late = (0,) * 7 + (36_000_000,) + (0,) * 5 + (49_000_000,)  # of 50 ms
    bench = Bench(oversleep_ns=late)
    assert bench.run(2.0) == "time"
    assert (bench.log["observation_tick"] <= bench.log["tick"]).all()
    assert bench.log["lateness_ns"].max() == 49_000_000
    assert bench.log["chunk"][-1] > 5, "the policy went on being asked"
