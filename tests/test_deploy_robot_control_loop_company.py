"""The loop and its company: operators, watchers, broken robots, far policies, execution modes."""

from typing import Any

import numpy as np
import pytest
from deploy_robot_bench import LIMITS, Bench, Script, Witness

from ulna.datasets.schema import Observation
from ulna.deploy_robot.inference import PolicyUnavailable
from ulna.deploy_robot.orders import SOURCE_HOLD, SOURCE_OPERATOR, SOURCE_POLICY, Orders
from ulna.deploy_robot.safety import Intervention


def test_every_tick_and_every_chunk_is_shown():
    seen = []

    def act(observation: Observation) -> np.ndarray:
        seen.append(observation)
        return np.full((8, 4), len(seen) / 100, np.float32)

    bench, witness = Bench(act, delay=2), Witness()
    bench.run(watcher=witness)
    assert witness.ticks == list(range(100)) and len(witness.chunks) in (len(seen), len(seen) - 1)
    assert [round(chunk[2] * 100) for chunk in witness.chunks] == list(range(1, len(seen)))[
        : len(witness.chunks)
    ] + ([len(seen)] if len(witness.chunks) == len(seen) else [])
    assert all(tick - observation == 2 for tick, observation, _ in witness.chunks)
    assert witness.sources == [SOURCE_HOLD] * 2 + [SOURCE_POLICY] * 98
    assert bench.log["source"].tolist() == witness.sources


def test_a_pause_holds_is_no_fault_and_takes_no_time():
    looks: list[float] = []

    def act(observation: Observation) -> np.ndarray:
        looks.append(float(observation.state[0]))
        return np.full((8, 4), 0.25, np.float32)

    bench = Bench(act)
    paused = {tick: Orders(paused=True) for tick in range(30, 60)}
    ended = bench.run(operator=Script(paused), max_episode_s=4.0)
    assert ended == "time" and bench.log.rows == 80 + 30
    sent, source = bench.log["action_sent"], bench.log["source"]
    assert not sent[30:60, :3].any() and (source[30:60] == SOURCE_HOLD).all()
    assert bench.schedule.starved == 0
    assert (bench.log["gate"][30:60] == Intervention.NO_ACTION.value).all()
    assert np.isnan(bench.log["action_due"][30:60]).all()
    # On resume the policy is asked anew, of where the arm is now, and moves on from there.
    assert sent[61:, 0].all() and source[60] == SOURCE_HOLD


def test_teleoperation_moves_the_arm_through_the_gate_and_the_policy_starts_anew():
    bench, looks = Bench(), []
    bench.inference._act = lambda o: (looks.append(bench.log.rows), np.full((8, 4), 0.25, "f4"))[1]
    hand = np.array([-0.5, 9.0, 0.0, 1.0], np.float32)
    script = Script({tick: Orders(action=hand) for tick in range(30, 50)})
    assert bench.run(operator=script) == "time"
    log = bench.log
    assert (log["source"][30:50] == SOURCE_OPERATOR).all()
    np.testing.assert_array_equal(log["action_due"][30:50], np.tile(hand, (20, 1)))
    assert (log["action_sent"][31:50, 1] == 1.0).all(), "the gate cut what the arm cannot do"
    assert (log["gate"][30:50] & Intervention.RANGE.value).all()
    assert not [tick for tick in looks if 30 <= tick < 50]
    first = log["chunk"][49]
    # One tick to ask, one until the answer is there.
    assert log["source"][50:53].tolist() == [SOURCE_HOLD, SOURCE_POLICY, SOURCE_POLICY]
    assert log["chunk"][51] == first + 1 and log["action_index"][51] == 0
    assert bench.schedule.starved == 0


def test_teleoperation_goes_on_where_the_policy_has_died():
    bench = Bench()
    hand = np.array([0.3, 0.0, 0.0, 1.0], np.float32)
    script = Script({tick: Orders(action=hand) for tick in range(30, 50)})
    happen = bench.after(35, lambda: setattr(bench.inference, "killed", True))
    assert bench.run(operator=script, stopping=happen) == "stopped"
    assert bench.log.rows == 51 and bench.gate.refusal == "policy_dead"
    assert bench.log["action_sent"][30:50, 0].all()


def test_other_words_reach_the_policy_while_its_plan_runs_on():
    told: list[str] = []

    def act(observation: Observation) -> np.ndarray:
        told.append(observation.instruction)
        value = 0.25 if observation.instruction == "move" else 0.5
        return np.full((8, 4), value, np.float32)

    bench = Bench(act, delay=2)
    bench.run(operator=Script({30: Orders(instruction="move fast")}))
    change = told.index("move fast")
    assert set(told[:change]) == {"move"} and set(told[change:]) == {"move fast"}
    sent, words = bench.log["action_sent"][:, 0], bench.log["instruction"]
    assert words[:30].tolist() == [0] * 30 and (words[30:] == 1).all()
    assert sent[2:32].all() and (sent[30:32] == 0.25).all() and (sent[32:] == 0.5).all()


@pytest.mark.parametrize("verdict", ["success", "failure"])
def test_a_verdict_ends_the_episode(verdict):
    bench = Bench()
    assert bench.run(operator=Script({12: Orders(verdict=verdict)})) == verdict
    assert bench.log.rows == 13 and bench.robot.holds == 1 and not bench.gate.latched


def test_the_operators_stop_latches_within_the_tick():
    bench = Bench()
    assert bench.run(operator=Script({20: Orders(stop=True)})) == "stopped"
    assert bench.log.rows == 21 and bench.gate.refusal == "manual_stop"
    assert not bench.log["action_sent"][20, :3].any()


def test_a_robot_that_says_it_is_broken_stops_the_arm_in_its_words():
    bench = Bench()
    assert bench.run(stopping=bench.after(20, lambda: bench.robot.inject("link_lost"))) == "stopped"
    assert bench.log.rows == 21 and not bench.log["action_sent"][20, :3].any()
    assert "the link to the gantry is lost" in bench.gate.refusal


class Server:
    """A policy elsewhere, that goes and comes back."""

    def __init__(self) -> None:
        self.there = True
        self.asked = 0

    def __call__(self, observation: Observation) -> np.ndarray:
        self.asked += 1
        if not self.there:
            raise PolicyUnavailable("no route to the server")
        return np.full((8, 4), 0.25, np.float32)

    def probe(self) -> bool:
        return self.there


def test_a_lost_server_holds_the_arm_and_a_found_one_moves_it():
    server = Server()
    bench = Bench(server)

    def happen() -> bool:
        server.there = not 30 <= bench.log.rows < 40
        return False

    assert bench.run(stopping=happen) == "time"
    held = bench.log["gate"] & Intervention.POLICY_UNREACHABLE.value > 0
    lost = int(np.flatnonzero(held)[0])
    # Known when the next question is lost, which is at most an execution horizon later.
    assert 30 <= lost <= 36 and not held[:lost].any()
    assert not bench.log["action_sent"][held, :3].any()
    assert not held[41:].any() and bench.log["action_sent"][43:, 0].all()
    # Asked again after a tenth of a second, not at every tick.
    assert server.asked < 40


def test_a_server_that_stays_away_stops_the_arm():
    server = Server()
    bench = Bench(server)

    def happen() -> bool:
        server.there = bench.log.rows < 30
        return False

    assert bench.run(stopping=happen) == "stopped"
    assert "policy_unreachable" in bench.gate.refusal
    assert bench.log.rows - 30 <= 8 + LIMITS.max_policy_silence_s * 20


def test_in_real_time_chunking_the_policy_is_told_what_will_be_done():
    """The plan it is told is what is sent, and each chunk continues it without a jump."""
    seen: list[tuple[int, Observation]] = []
    bench = Bench(delay=3, mode="rtc")

    def act(observation: Observation) -> np.ndarray:
        seen.append((bench.log.rows, observation))
        chunk = np.full((8, 4), 0.01 * len(seen), np.float32)
        if observation.planned is not None:
            delay = observation.inference_delay
            chunk[:delay] = observation.planned[:delay]
        return chunk

    bench.inference._act = act
    bench.run()
    assert seen[0][1].planned is None and len(seen) > 10
    sent = bench.log["action_sent"]
    for tick, observation in seen[1:]:
        planned, delay = observation.planned, observation.inference_delay
        assert planned is not None and delay == 4, "three measured, one more expected"
        done = sent[tick : tick + 3]
        np.testing.assert_array_equal(planned[: len(done)], done)
    assert bench.schedule.outdated == 0 and bench.schedule.starved == 0


def test_an_ensemble_asks_all_the_time_and_averages():
    looks: list[int] = []
    bench = Bench(mode="ensemble", delay=2)
    bench.inference._act = lambda o: (
        looks.append(1), np.full((8, 4), 0.01 * len(looks), np.float32)
    )[1]  # fmt: skip
    bench.run(max_episode_s=2.0)
    assert len(looks) == 20, "as soon as the last answer is there"
    sent = bench.log["action_sent"][10:, 0]
    assert (np.diff(sent) >= 0).all() and (sent < 0.01 * len(looks)).all()


def test_commands_of_a_dry_run_are_not_sent():
    bench = Bench()
    check = bench.gate.check

    def dry(*args: Any, **named: Any) -> tuple[np.ndarray, int]:
        command, bits = check(*args, **named)
        return 0 * command, bits | Intervention.DRY_RUN.value

    bench.gate.check = dry
    assert bench.run() == "time"
    assert bench.robot.sent == [] and bench.log["source"][-1] == SOURCE_POLICY
    assert not np.isnan(bench.log["action_due"][1:]).any()
