"""The motion commanded to joints: no limit is broken whatever comes in, and a plan is followed."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.datasets.schema import Embodiment
from ulna.deploy_robot.interventions import CORRECTED, Intervention
from ulna.deploy_robot.limits import ArmLimits
from ulna.deploy_robot.limits_file import renamed, shipped_limits
from ulna.deploy_robot.safety import SafetyGate
from ulna.deploy_robot.safety_joints import JointMotion

PANDA = shipped_limits("panda")
BARE = replace(PANDA, model="", unlimited=("collision", "workspace"))
REST = np.array(PANDA.rest_rad)
PERIOD_S = 0.002


@functools.cache
def motion(limits: ArmLimits = BARE, period_s: float = PERIOD_S) -> JointMotion:
    return JointMotion(limits, period_s)


def embodiment(limits: ArmLimits = PANDA) -> Embodiment:
    return Embodiment(
        name="panda_joints",
        control_hz=50.0,
        state_names=(*(f"{name}.pos" for name in limits.joint_names), "gripper.pos"),
        action_names=("gripper.pos", *(f"{name}.pos" for name in limits.joint_names)),
        action_low=(0.0, *limits.position_low_rad),
        action_high=(1.0, *limits.position_high_rad),
        action_meaning="absolute joint positions, rad",
        cameras=(),
        joint_names=limits.joint_names,
    )


def assert_lawful(path: list[np.ndarray], limits: ArmLimits, period_s: float) -> None:
    """No difference of the commanded positions is above its limit."""
    motion = np.array(path)
    assert (motion >= limits.low_rad - 1e-9).all() and (motion <= limits.high_rad + 1e-9).all()
    for limit in (limits.velocity_rad_s, limits.acceleration_rad_s2, limits.jerk_rad_s3):
        motion = np.diff(motion, axis=0) / period_s
        share = np.abs(motion) / (np.array(limit) * limits.fraction)
        assert share.max(initial=0) <= 1 + 1e-6


goals = st.one_of(
    st.tuples(st.just("anywhere"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("far outside"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("brake"), st.just(0)),
    st.tuples(st.just("here"), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.tuples(goals, st.integers(1, 80)), min_size=1, max_size=12),
    period_s=st.sampled_from([0.002, 0.01, 1 / 30]),
)
def test_no_commanded_motion_breaks_a_limit(steps, period_s):
    arm = motion(BARE, period_s)
    arm.reset(REST)
    path = [REST.copy()] * 4
    for (kind, seed), ticks in steps:
        random = np.random.default_rng(seed)
        goal = random.uniform(BARE.position_low_rad, BARE.position_high_rad)
        if kind == "far outside":
            goal = goal * 10.0 ** random.integers(1, 30)
        for _ in range(ticks):
            if kind == "brake":
                arm.brake(period_s)
            else:
                arm.advance(arm.position_rad.copy() if kind == "here" else goal, period_s)
            path.append(arm.position_rad.copy())
    while not arm.at_rest:
        arm.brake(period_s)
        path.append(arm.position_rad.copy())
        assert len(path) < 10_000, "a brake ends"
    path += [arm.position_rad.copy()] * 4
    assert_lawful(path, BARE, period_s)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ticks=st.integers(1, 300))
def test_a_goal_that_flips_every_tick_stays_lawful(seed, ticks):
    random = np.random.default_rng(seed)
    two = random.uniform(BARE.position_low_rad, BARE.position_high_rad, (2, 7)) * 2
    arm = motion()
    arm.reset(REST)
    path = [REST.copy()] * 4
    for tick in range(ticks):
        arm.advance(two[tick % 2], PERIOD_S)
        path.append(arm.position_rad.copy())
    assert_lawful(path, BARE, PERIOD_S)


def test_a_lawful_plan_passes_untouched():
    arm = motion()
    arm.reset(REST)
    for tick in range(1500):
        goal = REST + 0.15 * (1 - np.cos(2 * np.pi * 0.5 * tick * PERIOD_S))
        assert arm.advance(goal, PERIOD_S) == 0
        np.testing.assert_array_equal(arm.position_rad, goal)


def test_a_plan_that_moves_on_is_caught_up_with():
    arm = motion()
    arm.reset(REST)
    lag = []
    for tick in range(1500):
        goal = REST + 0.1 + 0.15 * np.sin(2 * np.pi * 0.5 * tick * PERIOD_S)
        arm.advance(goal, PERIOD_S)
        lag.append(float(np.abs(arm.position_rad - goal).max()))
    assert lag[0] > 0.09 and max(lag[-500:]) < 1e-6


def test_a_step_is_reached_and_not_overshot():
    arm = motion()
    arm.reset(REST)
    goal, bits = REST + 0.3, 0
    for _ in range(2000):
        bits = arm.advance(goal, PERIOD_S)
        assert (arm.position_rad <= goal + 1e-9).all()
    np.testing.assert_allclose(arm.position_rad, goal, atol=1e-6)
    assert bits == 0


def test_what_slowed_is_said():
    arm = motion()
    arm.reset(REST)
    seen = 0
    for _ in range(500):
        seen |= arm.advance(REST + 1.0, PERIOD_S)
    assert seen & Intervention.VELOCITY and seen & Intervention.ACCELERATION
    assert not seen & ~CORRECTED
    assert arm.advance(np.full(7, 9.0), PERIOD_S) & Intervention.RANGE


def test_an_arm_outside_its_range_comes_back():
    arm = motion()
    outside = REST.copy()
    outside[0] = PANDA.position_high_rad[0] + 0.02
    arm.reset(outside)
    for _ in range(1000):
        arm.advance(outside, PERIOD_S)
        assert arm.position_rad[0] <= outside[0] + 1e-9
    assert arm.position_rad[0] == pytest.approx(PANDA.high_rad[0], abs=1e-6)


def drive(arm: JointMotion, goal: np.ndarray, ticks: int) -> tuple[int, float, float]:
    """Bits seen, least clearance, and how far the tool was out, at every point of the way."""
    assert arm.model is not None
    seen, clearance_m, outside_m = 0, np.inf, 0.0
    low, high = np.array(PANDA.workspace_low_m), np.array(PANDA.workspace_high_m)
    for _ in range(ticks):
        seen |= arm.advance(goal, PERIOD_S)
        tool_m, clear_m = arm.model.look(arm.position_rad)
        clearance_m = min(clearance_m, clear_m)
        outside_m = max(outside_m, float(np.maximum(low - tool_m, tool_m - high).max()))
    return seen, clearance_m, outside_m


def test_the_arm_brakes_before_the_table_and_can_go_back():
    arm = motion(PANDA)
    arm.reset(REST)
    down = REST + [0, 1.9, 0, 0, 0, 0, 0]
    seen, clearance_m, outside_m = drive(arm, down, 1200)
    assert seen & (Intervention.COLLISION | Intervention.WORKSPACE)
    assert clearance_m > 0.005 and outside_m == 0
    stood = arm.position_rad.copy()
    drive(arm, down, 100)
    assert np.abs(arm.position_rad - stood).max() < 0.01, "it has stopped"
    drive(arm, REST, 1200)
    np.testing.assert_allclose(arm.position_rad, REST, atol=1e-4)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_pose_on_the_way_touches_anything(seed):
    random = np.random.default_rng(seed)
    arm = motion(PANDA)
    arm.reset(REST)
    for _ in range(4):
        goal = random.uniform(PANDA.position_low_rad, PANDA.position_high_rad)
        _, clearance_m, outside_m = drive(arm, goal, 120)
        assert clearance_m > 0 and outside_m == 0


def test_an_arm_that_touches_may_only_move_away():
    arm = motion(PANDA)
    low = REST + [0, 1.5, 0, 0, 0, 0, 0]
    assert arm.model is not None and arm.model.look(low)[1] < 0, "the pose is in the table"
    arm.reset(low)
    arm.advance(low + [0, 0.3, 0, 0, 0, 0, 0], PERIOD_S)
    np.testing.assert_array_equal(arm.position_rad, low)
    drive(arm, REST, 1200)
    np.testing.assert_allclose(arm.position_rad, REST, atol=1e-4)


QUIET: dict[str, Any] = dict(
    observation_age_s=0.01, action_age_s=0.1, policy_silence_s=0.0, policy_dead=False
)


def test_through_the_gate_entries_and_gripper_find_their_places():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    state = np.append(REST, 0.7)
    command, bits = gate.check(None, state, REST, **QUIET)
    assert bits == Intervention.NO_ACTION
    np.testing.assert_allclose(command, [0.7, *REST])  # the gripper stays as it was measured
    for _ in range(3):
        command, _ = gate.check(np.array([5.0, *(REST + 0.2)]), state, REST, **QUIET)
    assert command[0] == 1.0 and (command[1:] > REST).all()


def test_a_refusal_brakes_and_a_stop_comes_to_rest():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    state, path, measured = np.append(REST, 0.5), [REST.copy()] * 4, REST.copy()

    def tick(action, **facts):
        command, bits = gate.check(action, state, measured, **(QUIET | facts))
        measured[:] = command[1:]
        path.append(measured.copy())
        return Intervention(bits)

    goal = np.array([0.5, *(REST + 0.6)])
    for _ in range(100):
        tick(goal)
    moving = path[-1] - path[-2]
    assert tick(goal * np.nan) & Intervention.NOT_FINITE
    assert (np.abs(path[-1] - path[-2]) > 0.5 * np.abs(moving)).all(), "braking, no jump to hold"
    gate.stop()
    while not gate.at_rest:
        tick(goal)
        assert len(path) < 2000
    assert gate.latched == Intervention.MANUAL_STOP
    assert_lawful([*path, path[-1], path[-1], path[-1]], PANDA, PERIOD_S)
    assert tick(goal) == Intervention.LATCHED and not np.any(path[-1] - path[-2])


def test_a_goal_in_the_table_becomes_a_stop_that_says_what_touches():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    measured, goal = REST.copy(), np.full(8, 0.5)
    low = REST + [0, 1.5, 0, 0, 0, 0, 0]
    goal[1:] = low + [0, 0.3, 0, 0, 0, 0, 0]
    measured[:] = low  # it stands in the table and is told to go deeper
    ticks = 0
    while not gate.latched:
        command, bits = gate.check(goal, np.append(measured, 0.5), measured, **QUIET)
        np.testing.assert_allclose(command[1:], low)
        ticks += 1
        assert bits & Intervention.COLLISION and ticks < 500
    assert ticks == PANDA.max_refused_ticks * 10 + 1  # control ticks, at ten servo ticks each
    assert gate.refusal.startswith("refused_too_long, collision: table and ")


def test_an_arm_that_is_not_where_it_was_told_to_be_is_stopped():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    state, goal = np.append(REST, 0.5), np.array([0.5, *(REST + 0.6)])
    bits = 0
    for _ in range(2000):
        bits |= gate.check(goal, state, REST, **QUIET)[1]  # blocked: measured never moves
        if gate.latched:
            break
    assert bits & Intervention.TRACKING
    assert gate.refusal == "refused_too_long, tracking"


def test_before_the_first_measurement_nothing_can_be_sent():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    unseen = np.full(7, np.nan)
    command, bits = gate.check(np.zeros(8), np.zeros(8), unseen, **QUIET)
    assert np.isnan(command).all() and bits & Intervention.OBSERVATION_INVALID
    command, bits = gate.check(None, np.append(REST, 0.5), REST, **QUIET)
    np.testing.assert_allclose(command[1:], REST)


def test_a_new_episode_begins_where_the_arm_is():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0)
    state, goal = np.append(REST, 0.5), np.array([0.5, *(REST + 0.1)])
    for _ in range(50):
        gate.check(goal, state, REST, **QUIET)
    elsewhere = REST + [0.5, 0, 0, 0, 0, 0, 0]
    gate.begin()
    command, bits = gate.check(None, state, elsewhere, **QUIET)
    np.testing.assert_allclose(command[1:], elsewhere)
    assert not bits & Intervention.TRACKING


def test_a_dry_run_computes_and_stands_still():
    gate = SafetyGate(PANDA, embodiment(), servo_hz=500.0, dry_run=True)
    state, goal = np.append(REST, 0.5), np.array([0.5, *(REST + [0, 1.9, 0, 0, 0, 0, 0])])
    seen = 0
    for _ in range(700):
        command, bits = gate.check(goal, state, REST, **QUIET)
        assert (command[1:] == REST).all()
        assert bits & Intervention.DRY_RUN
        seen |= bits
    assert seen & (Intervention.COLLISION | Intervention.WORKSPACE), "what would have happened"
    assert not gate.latched


def test_a_late_tick_moves_no_farther_than_a_punctual_one():
    late, punctual = (SafetyGate(PANDA, embodiment(), servo_hz=500.0) for _ in range(2))
    state, goal = np.append(REST, 0.5), np.array([0.5, *(REST + 0.3)])
    for _ in range(20):
        one = late.check(goal, state, REST, **QUIET, dt_s=0.1)[0]
        two = punctual.check(goal, state, REST, **QUIET)[0]
        np.testing.assert_array_equal(one, two)


def test_a_robot_whose_joints_are_not_covered_is_refused():
    body = embodiment()
    with pytest.raises(ValueError, match="measured by panda_joints 'joint1'"):
        SafetyGate(PANDA, replace(body, joint_names=tuple(f"j{i}" for i in range(7))))
    with pytest.raises(ValueError, match="'elbow.pos'.*neither a joint"):
        SafetyGate(
            PANDA,
            replace(
                body,
                action_names=("elbow.pos", *body.action_names[1:]),
            ),
        )
    other = renamed(PANDA, tuple(f"panda_{name}" for name in PANDA.joint_names))
    gate = SafetyGate(other, embodiment(other), servo_hz=500.0)
    assert gate.describe()["unlimited"] == []
    assert SafetyGate(BARE, body).describe()["unlimited"] == ["collision", "workspace"]
