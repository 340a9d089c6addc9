"""Which action is due when, drawn by hand; and without a delay all modes are one."""

from dataclasses import replace

import engine_fakes as fakes
import numpy as np
import pytest

from ulna.datasets.schema import Observation
from ulna.envs.chunk_execution import (
    MODES,
    ChunkExecution,
    ExecutionConfig,
    Mode,
    mode_named,
)
from ulna.envs.holding import hold_action
from ulna.envs.rollout import PolicyFault, rollout
from ulna.envs.smoothness import jerk, seam_jump
from ulna.envs.virtual_clock import NO_DELAY, DelayModel

HORIZON = 8


def play(mode: Mode, delay: int, ticks: int, horizon: int = HORIZON, every: int = 4) -> str:
    """What is executed at each tick: chunk `a`, `b`, ... and the number of its action; `-` held.

    A chunk's actions are (number of the request, number of the action)."""
    plan = ChunkExecution(ExecutionConfig(mode, every))
    asked, requests, words = None, 0, []
    for tick in range(ticks):
        if asked is not None and tick == asked + delay:
            plan.arrived(tick, asked, _chunk(requests - 1, horizon))
            asked = None
        if plan.wants_observation(tick):
            plan.requested(tick)
            asked, requests = tick, requests + 1
            if delay == 0 or mode == "synchronous":
                plan.arrived(tick, tick, _chunk(requests - 1, horizon))
                asked = None
        action = plan.due(tick)
        plan.sent(tick, action is not None)
        words.append("-" if action is None else f"{chr(97 + int(action[0]))}{int(action[1])}")
    return " ".join(words)


def _chunk(number: int, horizon: int) -> np.ndarray:
    return np.array([(number, i) for i in range(horizon)], np.float32)


@pytest.mark.parametrize(
    ("mode", "delay", "expected"),
    [
        ("synchronous", 2, "a0 a1 a2 a3 b0 b1 b2 b3 c0 c1"),
        ("hold", 2, "- - a0 a1 a2 a3 - - b0 b1"),
        ("asynchronous", 2, "- - a0 a1 a2 a3 a4 a5 b2 b3 b4 b5 c2"),
        ("rtc", 2, "- - a0 a1 a2 a3 a4 a5 b2 b3 b4 b5 c2"),
        # As late as the chunk is long allows: asked at a4, there when a7 is done.
        ("asynchronous", 4, "- - - - a0 a1 a2 a3 a4 a5 a6 a7 b4 b5 b6 b7 c4"),
        # Later: asked before a4, so that b is there when a ends, with what b has left.
        ("asynchronous", 6, "- - - - - - a0 a1 a2 a3 a4 a5 a6 a7 b6 b7 - - - - c2"),
    ],
)
def test_by_hand(mode: Mode, delay: int, expected: str) -> None:
    assert play(mode, delay, len(expected.split())) == expected


@pytest.mark.parametrize("mode", ["hold", "asynchronous", "rtc"])
def test_without_a_delay_it_is_synchronous(mode: Mode) -> None:
    for every in (1, 3, HORIZON):
        assert play(mode, 0, 30, every=every) == play("synchronous", 0, 30, every=every)


def test_an_ensemble_averages_what_the_chunks_say_of_one_tick() -> None:
    plan = ChunkExecution(ExecutionConfig("ensemble", ensemble_decay=0.5))
    action = None
    for tick in range(3):
        assert plan.wants_observation(tick)
        plan.requested(tick)
        plan.arrived(tick, tick, _chunk(10 * tick, HORIZON))
        action = plan.due(tick)
        plan.sent(tick, True)
    weights = np.exp([0.0, -0.5, -1.0])  # the oldest first, as in ACT
    assert action is not None
    assert action[0] == pytest.approx((weights * [0, 10, 20]).sum() / weights.sum(), abs=1e-5)
    # Chunks that are past are forgotten.
    for tick in range(3, 2 + HORIZON):
        plan.sent(tick, plan.due(tick) is not None)
    assert plan.due(20) is None and plan.starved == 1


def test_lost_and_expired_answers() -> None:
    plan = ChunkExecution(ExecutionConfig("asynchronous", 2))
    plan.requested(0)
    plan.lost(0)
    assert plan.wants_observation(5) and plan.planned() is None
    plan.requested(5)
    plan.arrived(6, 5, _chunk(0, 3))
    for tick in (6, 7):
        plan.sent(tick, plan.due(tick) is not None)
    planned = plan.planned()
    assert planned is not None and planned.tolist() == [[0, 2]] and plan.expected_delay == 1
    plan.requested(8)
    plan.sent(8, plan.due(8) is not None)
    plan.arrived(9, 8, _chunk(1, 1))  # its only action was due at tick 8
    assert plan.expired == 1 and plan.due(9) is None and plan.delays == [1, 1]
    with pytest.raises(ValueError, match="one asked for is None"):
        plan.arrived(10, 8, _chunk(1, 3))


# ------------------------------------------------------------------ in an episode


@pytest.fixture
def env() -> fakes.BeadEnv:
    return fakes.BeadEnv("fast")


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("mode", ["hold", "asynchronous", "rtc"])
def test_episodes_without_delay_equal_synchronous_ones(
    env: fakes.BeadEnv, mode: Mode, history: int
) -> None:
    for seed in range(6):
        one = rollout(env, fakes.chunk, seed, None, 4, history=history)
        other = rollout(env, fakes.chunk, seed, None, 4, history=history, mode=mode)
        assert one.digest == other.digest and one.steps == other.steps
        np.testing.assert_array_equal(one.actions, other.actions)
        assert set(other.delays) == {0} and other.stalls == 0


def test_a_delay_is_seen_and_costs(env: fakes.BeadEnv) -> None:
    steps = {}
    for mode in MODES:
        results = [
            rollout(env, fakes.chunk, seed, None, 4, mode=mode, delay=DelayModel(ticks=4))
            for seed in range(12)
        ]
        steps[mode] = sum(result.steps for result in results)
        for result in results:
            assert set(result.delays) == ({0} if mode == "synchronous" else {4})
            held = int((result.actions[:, 0] == 0).sum())
            assert result.stalls == (0 if mode == "synchronous" else result.stalls) <= held
        stalls = sum(result.stalls for result in results)
        assert stalls == 0 if mode == "synchronous" else stalls >= 4 * len(results)
    assert steps["synchronous"] < steps["asynchronous"] < steps["hold"]


def test_a_lost_answer_is_asked_for_again(env: fakes.BeadEnv) -> None:
    ticks: list[int] = []

    def act(observation: Observation) -> np.ndarray:
        ticks.append(env.tick)
        return np.zeros((12, 2), np.float32)

    delay = DelayModel(ticks=1, loss_probability=0.5, timeout_ticks=7)
    result = rollout(env, act, 3, None, 4, mode="hold", delay=delay)
    lost = [delay.delay_ticks(3, request, 10.0) is None for request in range(len(ticks))]
    assert result.lost == sum(lost) > 0
    # An answer that comes: a tick of waiting and four actions; a lost one: its time-out.
    assert np.diff(ticks).tolist() == [7 if gone else 5 for gone in lost[:-1]]


def test_rtc_tells_what_is_planned_and_how_much_of_it_will_be_done(env: fakes.BeadEnv) -> None:
    seen: list[tuple[int, Observation, np.ndarray]] = []

    def act(observation: Observation) -> np.ndarray:
        chunk = np.full((12, 2), 0.0, np.float32)
        chunk[:, 1] = 0.01 * (100 * len(seen) + np.arange(12)) % 1
        seen.append((env.tick, observation, chunk))
        return chunk

    result = rollout(env, act, 3, None, 4, mode="rtc", delay=DelayModel(ticks=3))
    (_, first, _), *later = seen
    assert first.planned is None and first.inference_delay == 0
    assert len(later) >= 3
    for tick, observation, _ in later:
        assert observation.inference_delay == 3 and observation.planned is not None
        # The first planned actions are those that are sent until the answer is there.
        sent = result.actions[tick : tick + 3]
        np.testing.assert_array_equal(observation.planned[: len(sent)], sent)
    plain: list[Observation] = []
    rollout(
        env, lambda o: (plain.append(o), fakes.chunk(o))[1], 3, None, 4, mode="asynchronous",
        delay=DelayModel(ticks=3),
    )  # fmt: skip
    assert all(o.planned is None and o.inference_delay == 0 for o in plain)


def test_the_policy_is_told_other_words_than_the_scene(env: fakes.BeadEnv) -> None:
    told: list[str] = []

    def act(observation: Observation) -> np.ndarray:
        told.append(observation.instruction)
        return fakes.chunk(observation)

    result = rollout(env, act, 3, "go left", 4, said="")
    assert set(told) == {""} and result.said == "" and result.instruction == "go left"
    assert rollout(env, act, 3, "go left", 4).said == "go left"


# ------------------------------------------------------------------ holding and measuring


def test_holding_stops_displacements_and_keeps_the_rest() -> None:
    last = np.array([0.7, 0.4], np.float32)
    assert hold_action(fakes.BODY, last).tolist() == pytest.approx([0.0, 0.4])
    assert hold_action(fakes.BODY, None).tolist() == [0.0, 0.0]
    absolute = replace(fakes.BODY, action_names=("elbow_rad", "gripper"))
    np.testing.assert_array_equal(hold_action(absolute, last), last)
    with pytest.raises(ValueError, match="goals, not displacements; give its environment"):
        hold_action(absolute, None)


def test_an_environment_may_say_itself_how_it_holds() -> None:
    class Own(fakes.BeadEnv):
        def hold_action(self) -> np.ndarray:
            return np.array([0.25, -1.0], np.float32)

    result = rollout(Own("fast"), fakes.chunk, 3, None, 4, mode="hold", delay=DelayModel(ticks=2))
    np.testing.assert_array_equal(result.actions[:2], [[0.25, -1.0]] * 2)


def test_seam_jump_by_hand() -> None:
    x = [0.0, 0.1, 0.2, 0.8, 0.9, 0.9, 0.9]
    actions = np.array([(value, -1.0 if i % 2 else 1.0) for i, value in enumerate(x)], np.float32)
    # Steps within chunks 0.1, 0.1, 0.1 (and 0 beside the held tick, which does not count).
    assert seam_jump(actions, [0, 0, 0, 1, 1, -1, 1], fakes.BODY) == pytest.approx(6.0)
    assert seam_jump(actions, [0] * 7, fakes.BODY) is None
    assert seam_jump(np.zeros((4, 2), np.float32), [0, 0, 1, 1], fakes.BODY) is None


def test_jerk_by_hand() -> None:
    t = np.arange(20)[:, None] / 10.0
    assert jerk(2 * t**3, 10.0) == pytest.approx(12.0)
    assert jerk(5 * t**2, 10.0) == pytest.approx(0.0, abs=1e-9)
    assert jerk(t[:3], 10.0) == 0.0


def test_refusals(env: fakes.BeadEnv) -> None:
    with pytest.raises(ValueError, match="unknown execution mode 'rct'. Did you mean 'rtc'"):
        mode_named("rct")
    with pytest.raises(ValueError, match="execution_horizon is 0"):
        ExecutionConfig(execution_horizon=0)
    with pytest.raises(PolicyFault, match="at least execution_horizon = 13"):
        rollout(env, fakes.chunk, 3, None, 13, delay=NO_DELAY)
