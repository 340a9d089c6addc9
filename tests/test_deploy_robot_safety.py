"""No output of the gate ever breaks a limit, and a stop stays a stop."""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.datasets.schema import Camera, Embodiment
from ulna.deploy_robot.collision import model_of
from ulna.deploy_robot.interventions import CORRECTED, REFUSALS, Intervention
from ulna.deploy_robot.limits import SafetyLimits
from ulna.deploy_robot.limits_file import renamed, shipped_limits
from ulna.deploy_robot.safety import SafetyGate

PANDA = Embodiment(
    name="panda_osc_pose",
    control_hz=20.0,
    state_names=("tool_x_m", "tool_y_m", "tool_z_m", "finger_left_m"),
    action_names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    action_low=(-1.0,) * 7,
    action_high=(1.0,) * 7,
    action_meaning="test",
    cameras=(Camera("front", 8, 8),),
    joint_names=tuple(f"joint{i}" for i in range(7)),
)
LIMITS = SafetyLimits()
STATE = np.array([0.5, 0.0, 0.1, 0.04], dtype=np.float32)
JOINTS = np.array([0.0, 0.2, 0.0, -2.6, 0.0, 2.9, 0.8])
ACTION = np.array([0.1, -0.2, 0.3, 0.0, 0.1, 0.0, 1.0], dtype=np.float32)


@pytest.fixture
def gate() -> SafetyGate:
    return SafetyGate(LIMITS, PANDA)


def check(
    gate: SafetyGate, action: np.ndarray | None = ACTION, state=STATE, joints=JOINTS, **kwargs
):
    values: dict[str, Any] = dict(
        observation_age_s=0.02, action_age_s=0.1, policy_silence_s=0.0, policy_dead=False
    )
    command, bits = gate.check(action, state, joints, **(values | kwargs))
    return np.array(command), Intervention(bits)


numbers = st.one_of(
    st.floats(-3, 3, width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0, 1.0, -1.0]),
)
actions = st.one_of(
    st.none(),
    st.lists(numbers, min_size=7, max_size=7),
    st.lists(numbers, min_size=0, max_size=9),
)
positions = st.tuples(st.floats(-1, 2), st.floats(-1, 1), st.floats(-0.5, 1))


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(actions, positions, st.booleans()), min_size=1, max_size=30))
def test_no_output_ever_breaks_a_limit(steps):
    gate = SafetyGate(LIMITS, PANDA)
    previous = np.zeros(7)
    low, high = np.array(LIMITS.workspace_low_m), np.array(LIMITS.workspace_high_m)
    for action, position, bad_joint in steps:
        state = np.array([*position, 0.04], dtype=np.float32)
        joints = JOINTS + (3.0 if bad_joint else 0.0)
        array = None if action is None else np.array(action, dtype=np.float32)
        command, bits = check(gate, array, state, joints)
        assert np.isfinite(command).all() and command.shape == (7,)
        assert (command >= -1).all() and (command <= 1).all()
        held = bool(bits & ~(Intervention.RANGE | Intervention.CHANGE | Intervention.WORKSPACE))
        if held:
            assert (command[:6] == 0).all() and command[6] == previous[6]
        elif not bits & Intervention.WORKSPACE:
            assert (np.abs(command - previous)[:6] <= LIMITS.max_change + 1e-9).all()
        target = state[:3] + LIMITS.translation_scale_m * command[:3]
        outward = ((target < low - 1e-6) & (command[:3] < 0)) | (
            (target > high + 1e-6) & (command[:3] > 0)
        )
        assert not outward.any(), (position, command)
        if action is None or len(action) != 7 or not np.isfinite(action).all() or bad_joint:
            assert held
        previous = command


def test_a_lawful_action_passes_untouched(gate: SafetyGate):
    command, bits = check(gate)
    assert bits == 0
    np.testing.assert_array_equal(command, ACTION)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(action=None), Intervention.NO_ACTION),
        (dict(action=np.full(7, np.nan, np.float32)), Intervention.NOT_FINITE),
        (dict(action=np.zeros(6, np.float32)), Intervention.WRONG_SHAPE),
        (dict(action=np.zeros((1, 7), np.float32)), Intervention.WRONG_SHAPE),
        (dict(action_age_s=9.0), Intervention.ACTION_STALE),
        (dict(action_age_s=math.nan), Intervention.ACTION_STALE),
        (dict(observation_age_s=0.3), Intervention.OBSERVATION_STALE),
        (dict(observation_age_s=math.nan), Intervention.OBSERVATION_STALE),
        (dict(state=STATE * np.float32(np.nan)), Intervention.OBSERVATION_INVALID),
        (dict(joints=JOINTS * np.nan), Intervention.OBSERVATION_INVALID),
        (dict(joints=JOINTS + [0, 0, 0, 2.52, 0, 0, 0]), Intervention.JOINT_LIMIT),
        (dict(policy_dead=True), Intervention.POLICY_DEAD),
        (dict(policy_silence_s=1.1), Intervention.POLICY_SILENT),
        (dict(policy_silence_s=math.nan), Intervention.POLICY_SILENT),
    ],
)
def test_every_fault_holds_with_its_reason(gate: SafetyGate, changes, expected):
    check(gate)  # moving, gripper closing
    command, bits = check(gate, **changes)
    assert bits & expected
    assert command[:6].tolist() == [0.0] * 6
    assert command[6] == 1.0, "hold keeps the gripper as it was"


def test_an_action_out_of_range_is_clipped_and_a_jump_slowed(gate: SafetyGate):
    command, bits = check(gate, np.array([5, 0, 0, 0, 0, 0, -3], np.float32))
    assert bits == Intervention.RANGE and command[0] == 1.0 and command[6] == -1.0
    command, bits = check(gate, np.array([-1, 0, 0, 0, 0, 0, 1], np.float32))
    assert bits == Intervention.CHANGE
    assert command[0] == pytest.approx(1.0 - LIMITS.max_change)
    assert command[6] == 1.0, "the gripper may jump"


def test_the_wall_stops_outward_motion_and_lets_the_arm_come_back(gate: SafetyGate):
    near = np.array([0.78, 0.0, 0.1, 0.04], dtype=np.float32)
    outward = np.array([0.9, 0.5, 0, 0, 0, 0, 0], np.float32)
    command, bits = check(gate, outward, near)
    assert bits == Intervention.WORKSPACE
    assert 0 < command[0] <= 0.4 + 1e-6, "the goal stays before the wall"
    assert command[1] == 0.5, "motion along the wall goes on"
    outside = np.array([0.9, 0.0, 0.1, 0.04], dtype=np.float32)
    gate.begin()
    assert not check(gate, outward, outside)[0][:6].any()
    for _ in range(2):  # standing there
        command, bits = check(gate, -outward, outside)
    assert command[0] == pytest.approx(-0.9) and command[1] == 0.0, "first come back"


def test_a_tool_that_flies_towards_a_wall_is_stopped_sooner():
    def forward(speed_m_s: float) -> float:
        gate = SafetyGate(LIMITS, PANDA)
        command = np.zeros(7)
        for tick in range(4):
            x = 0.76 + speed_m_s * 0.05 * (tick - 3)
            state = np.array([x, 0.0, 0.1, 0.04], np.float32)
            command, _ = check(gate, np.array([0.4, 0, 0, 0, 0, 0, 0], np.float32), state)
        return float(command[0])

    assert forward(0.0) == pytest.approx(0.4) and forward(0.1) == pytest.approx(0.4)
    assert 0 < forward(0.4) < 0.39 and forward(0.7) == 0.0


def test_a_stop_stays_until_reset(gate: SafetyGate):
    check(gate)
    gate.stop()
    command, bits = check(gate)
    assert bits == Intervention.MANUAL_STOP and not command[:6].any()
    assert gate.refusal == "manual_stop"
    for _ in range(5):
        command, bits = check(gate)
        assert bits == Intervention.LATCHED and not command[:6].any()
    gate.reset()
    assert check(gate)[1] == 0 and not gate.latched


def test_refusing_for_long_becomes_a_stop_but_waiting_does_not(gate: SafetyGate):
    for _ in range(100):
        assert check(gate, None)[1] == Intervention.NO_ACTION
    assert not gate.latched
    bad = np.full(7, np.nan, np.float32)
    for _ in range(LIMITS.max_refused_ticks):
        check(gate, bad)
        assert not gate.latched
    check(gate, bad)
    assert gate.latched & Intervention.REFUSED_TOO_LONG
    assert gate.refusal == "not_finite, refused_too_long"
    assert check(gate)[1] == Intervention.LATCHED


def test_limits_that_do_not_fit_are_refused():
    make = functools.partial(SafetyGate, embodiment=PANDA)
    with pytest.raises(ValueError, match="'tool_x'.*Did you mean 'tool_x_m'"):
        make(SafetyLimits(tool_position_names=("tool_x", "tool_y_m", "tool_z_m")))
    with pytest.raises(ValueError, match="measures 7 joints"):
        make(SafetyLimits(joint_low_rad=(), joint_high_rad=()))
    with pytest.raises(ValueError, match="low must be below high"):
        make(SafetyLimits(joint_margin_rad=2.0))
    with pytest.raises(ValueError, match="low must be below high"):
        make(SafetyLimits(workspace_low_m=(0.9, 0.0, 0.0)))
    with pytest.raises(ValueError, match="greater than 0"):
        make(SafetyLimits(max_change=0.0))


def test_an_unreachable_policy_holds_and_then_stops(gate: SafetyGate):
    check(gate)
    for _ in range(10):
        command, bits = check(gate, policy_reachable=False)
        assert bits == Intervention.POLICY_UNREACHABLE and not command[:6].any()
    assert check(gate)[1] == 0, "it came back within the time allowed"
    for _ in range(30):
        check(gate, policy_reachable=False)
    assert gate.latched == Intervention.POLICY_UNREACHABLE


@pytest.mark.parametrize(("dt_s", "calls"), [(0.05, 21), (0.1, 11), (60.0, 3)])
def test_an_unreachable_policy_is_waited_for_in_real_time(
    gate: SafetyGate, dt_s: float, calls: int
):
    """A loop slower than the arm's rate stops as soon, and one long gap is no stop by itself."""
    made = 0
    while not gate.latched:
        check(gate, policy_reachable=False, dt_s=dt_s)
        made += 1
    assert made == pytest.approx(calls, abs=0 if dt_s > 1 else 1)


def test_a_broken_robot_stops_in_its_own_words(gate: SafetyGate):
    check(gate)
    gate.fail("the wrist camera is dead")
    command, bits = check(gate)
    assert bits == Intervention.ROBOT_FAULT and not command[:6].any()
    assert gate.refusal == "robot_fault: the wrist camera is dead"
    gate.begin()
    assert check(gate)[1] == Intervention.LATCHED, "a new episode releases nothing"
    gate.reset()
    assert check(gate)[1] == 0


def test_a_dry_run_sends_no_displacement():
    gate = SafetyGate(LIMITS, PANDA, dry_run=True)
    for _ in range(3):
        command, bits = check(gate, np.array([5, 0, 0, 0, 0, 0, 1], np.float32))
        assert bits == Intervention.DRY_RUN | Intervention.RANGE
        assert not command.any()
    assert gate.describe()["unlimited"] == ["joint velocity", "collision"]


def test_at_a_servo_rate_the_same_change_takes_as_long():
    gate = SafetyGate(LIMITS, PANDA, servo_hz=200.0)
    forward = np.array([1, 0, 0, 0, 0, 0, 0], np.float32)
    for _ in range(20):
        check(gate, forward)
    before = 1.0
    for _ in range(5):
        command, bits = check(gate, -forward)
        assert bits & Intervention.CHANGE
        assert before - command[0] == pytest.approx(LIMITS.max_change / 10)
        before = command[0]


def test_outside_the_walls_the_tool_does_not_turn(gate: SafetyGate):
    outside = np.array([0.9, 0.0, 0.1, 0.04], dtype=np.float32)
    command, bits = check(gate, np.array([-0.5, 0, 0, 0.4, 0, 0, 0], np.float32), outside)
    assert bits == Intervention.WORKSPACE and command[0] == -0.5 and not command[3:6].any()


WITH_ARM = SafetyLimits(
    arm=replace(renamed(shipped_limits("panda"), PANDA.joint_names), table_height_m=-0.11)
)


def with_arm() -> SafetyGate:
    return SafetyGate(WITH_ARM, PANDA)


def test_near_a_joint_limit_the_way_back_is_open():
    gate = with_arm()
    joints = np.array(shipped_limits("panda").rest_rad)
    joints[0] = LIMITS.joint_high_rad[0] - 0.02  # the base, within its margin
    back_and_forth = []
    for y in (0.4, -0.4):
        gate.reset()
        action = np.array([0, y, 0, 0, 0, 0, 0], np.float32)
        command, bits = check(gate, action, STATE, joints)
        back_and_forth.append((bool(command[:6].any()), bits & Intervention.JOINT_LIMIT))
    assert (True, 0) in back_and_forth, "one way leads out of the margin"
    assert (False, Intervention.JOINT_LIMIT) in back_and_forth, "the other further in"
    assert check(SafetyGate(LIMITS, PANDA), ACTION, STATE, joints)[1] & Intervention.JOINT_LIMIT


def test_a_displacement_that_turns_a_joint_too_fast_is_shortened():
    gate = with_arm()
    joints = np.array(shipped_limits("panda").rest_rad)
    action = np.array([0, 0, 0, 1.0, 1.0, 1.0, 0], np.float32)
    command, bits = check(gate, action, STATE, joints)
    assert bits & Intervention.VELOCITY
    share = command[3:6] / action[3:6]
    assert 0 < share[0] < 1 and share == pytest.approx(share[0]), "shorter, the same way"


def test_a_displacement_into_the_table_is_not_made():
    gate = with_arm()
    assert WITH_ARM.arm is not None
    model = model_of(replace(WITH_ARM.arm, collision_margin_m=WITH_ARM.collision_margin_m))
    assert model is not None
    joints = np.array([0.0, 0.6, 0.0, -2.2, 0.0, 2.8, 0.8])  # the hand points down
    while model.look(joints)[1] == model.margin_m:
        joints = joints + [0, 0.01, 0, 0, 0, 0, 0]
    state = np.array([0.5, 0.0, 0.2, 0.04], np.float32)  # the tool's own walls see nothing
    down = np.array([0, 0, -1.0, 0, 0, 0, 0], np.float32)
    command, bits = check(gate, down, state, joints)
    assert bits & Intervention.COLLISION and not command[:6].any()
    for _ in range(LIMITS.max_refused_ticks):
        check(gate, down, state, joints)
    assert gate.latched & Intervention.REFUSED_TOO_LONG
    assert gate.refusal.startswith("refused_too_long, collision: table and ")


def test_a_joint_that_still_moves_on_towards_its_end_is_held_whatever_is_asked():
    joints = np.array(shipped_limits("panda").rest_rad)
    end = WITH_ARM.joint_high_rad[0] - WITH_ARM.joint_margin_rad

    def moves(speed_rad_s: float, y: float) -> bool:
        gate, command = with_arm(), np.zeros(7)
        for tick in range(4):
            joints[0] = end - 0.03 + speed_rad_s * 0.05 * (tick - 3)
            command = check(gate, np.array([0, y, 0, 0, 0, 0, 0], np.float32), STATE, joints)[0]
        return bool(command[:6].any())

    assert moves(0.0, 0.1) and moves(0.0, -0.1)
    assert not moves(1.0, 0.1) and not moves(1.0, -0.1)


def test_a_displacement_that_stretches_the_arm_on_is_not_made():
    def seen(dx: float) -> tuple[int, bool]:
        joints = np.array([0.0, 1.2, 0.0, -0.75, 0.0, 1.95, 0.785])  # reaching far forward
        command, bits = check(
            with_arm(), np.array([dx, 0, 0, 0, 0, 0, 0], np.float32), STATE, joints
        )
        return bits & Intervention.SINGULAR, bool(command[:6].any())

    assert seen(0.2) == (Intervention.SINGULAR, False)
    assert seen(-0.2) == (0, True)


def test_bits_that_correct_are_none_that_refuse():
    assert not CORRECTED & REFUSALS
    assert CORRECTED & Intervention.JERK and not CORRECTED & Intervention.COLLISION


def test_every_intervention_has_its_own_bit():
    values = [bit.value for bit in Intervention]
    assert len(set(values)) == len(values) and all(v & (v - 1) == 0 for v in values)


def test_what_is_named_as_unlimited_is_not_checked():
    """A collision with a table that is not there, at the height of the base."""
    names = PANDA.joint_names
    arm = renamed(shipped_limits("panda"), names)
    low = np.array([0.0, 0.6, 0.0, -2.2, 0.0, 2.8, 0.8])  # the hand at the base's height
    down = np.array([0, 0, -0.2, 0, 0, 0, 0], np.float32)
    arm = replace(arm, table_height_m=0.02)
    held = SafetyGate(replace(LIMITS, arm=arm), PANDA)
    free = SafetyGate(replace(LIMITS, arm=replace(arm, unlimited=("collision",))), PANDA)
    assert check(held, down, joints=low)[1] & Intervention.COLLISION
    assert not check(free, down, joints=low)[1] & Intervention.COLLISION
    assert "collision" in free.describe()["unlimited"]
