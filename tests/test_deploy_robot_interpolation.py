"""Setpoints: through every action at its tick, no jump of velocity, no overshoot."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.deploy_robot.interpolation import (
    Interpolator,
    cubic_step,
    joint_places,
    monotone_slope,
    servo_steps,
)
from ulna.deploy_robot.robot import fake_embodiment

STEPS, CONTROL_HZ = 5, 50.0
DT_S = 1 / (STEPS * CONTROL_HZ)
ARM = replace(
    fake_embodiment(),
    name="two_joints",
    control_hz=CONTROL_HZ,
    action_names=("shoulder.pos", "gripper.pos", "elbow"),
    action_low=(-3.0,) * 3,
    action_high=(3.0,) * 3,
    joint_names=("elbow", "shoulder"),
    action_meaning="absolute joint positions, rad",
)
"""Actions in another order than the measured joints, a gripper between them."""


def follow(plan: np.ndarray, start: np.ndarray) -> np.ndarray:
    """All setpoints of a plan whose action k is due at control tick k."""
    interpolator = Interpolator(ARM, CONTROL_HZ, CONTROL_HZ * STEPS)
    interpolator.start(start)
    setpoints = []
    for k, action in enumerate(plan):
        for step in range(STEPS):
            setpoint = interpolator.step()
            if step == 0:
                following = plan[k + 1] if k + 1 < len(plan) else None
                interpolator.aim(action, following, plan[k + 2] if k + 2 < len(plan) else None)
                if setpoint is None:
                    setpoint = interpolator.step()
            if setpoint is None:
                return np.array(setpoints)
            setpoints.append(setpoint.copy())
            interpolator.sent(setpoint, held=False)
    return np.array(setpoints)


plans = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.sampled_from([0.0, 1.0]), st.floats(-1, 1, width=32)),
    min_size=4,
    max_size=12,
).map(lambda rows: np.array(rows))


@settings(max_examples=25, deadline=None)
@given(plan=plans)
def test_every_action_is_reached_at_its_tick_and_nothing_overshoots(plan: np.ndarray):
    setpoints = follow(plan, plan[0, [2, 0]])
    reached = setpoints[STEPS::STEPS]
    assert len(reached) >= len(plan) - 2
    np.testing.assert_allclose(reached, plan[1 : 1 + len(reached)], atol=1e-9)
    for k in range(1, len(plan) - 1):
        between = setpoints[k * STEPS : (k + 1) * STEPS + 1]
        low, high = np.minimum(plan[k], plan[k + 1]), np.maximum(plan[k], plan[k + 1])
        joints = [0, 2]
        assert (between[:, joints] >= low[joints] - 1e-9).all()
        assert (between[:, joints] <= high[joints] + 1e-9).all()
        # A gripper does not creep: it has the tick's own value, all of it.
        assert (between[:STEPS, 1] == plan[k, 1]).all()


def test_velocity_does_not_jump_at_an_action_as_straight_lines_have_it():
    """The argument for the cubic: the largest acceleration of both, on the same zigzag."""
    ticks = np.arange(12)
    plan = np.zeros((12, 3))
    plan[:, 0] = 0.1 * np.sin(ticks * 0.9)
    setpoints = follow(plan, plan[0, [2, 0]])[STEPS:, 0]
    straight = np.interp(np.arange(len(setpoints)) / STEPS + 1, ticks, plan[:, 0])
    np.testing.assert_allclose(setpoints[::STEPS], straight[::STEPS], atol=1e-12)
    cubic_acc, straight_acc = (
        np.abs(np.diff(path, n=2)).max() / DT_S**2 for path in (setpoints, straight)
    )
    assert cubic_acc < 0.5 * straight_acc
    # Halving the servo period doubles the straight line's acceleration: it has a jump in it.
    # The cubic's is bounded: slope and secant differ by at most 2 secants over one period.
    secant = np.abs(np.diff(plan[:, 0])).max() * CONTROL_HZ
    assert cubic_acc <= 12 * secant * CONTROL_HZ


@settings(max_examples=25, deadline=None)
@given(
    start=st.floats(-2, 2), speed=st.floats(-5, 5), goal=st.floats(-2, 2), slope=st.floats(-5, 5)
)
def test_stepping_along_is_the_whole_cubic(start: float, speed: float, goal: float, slope: float):
    position, velocity = np.array([start]), np.array([speed])
    width_s = STEPS * DT_S
    for left in range(STEPS, 0, -1):
        cubic_step(
            position, velocity, np.array([goal]), np.array([slope]), left, DT_S, position, velocity
        )
        s = 1 - (left - 1) / STEPS
        expected = (
            (2 * s**3 - 3 * s**2 + 1) * start
            + (s**3 - 2 * s**2 + s) * width_s * speed
            + (3 * s**2 - 2 * s**3) * goal
            + (s**3 - s**2) * width_s * slope
        )
        assert position[0] == pytest.approx(expected, abs=1e-9)
    assert velocity[0] == slope and position[0] == goal


def test_a_new_plan_is_joined_without_a_jump_of_velocity():
    steps = 10
    interpolator = Interpolator(ARM, CONTROL_HZ, CONTROL_HZ * steps)
    interpolator.start(np.zeros(2))
    there, back = np.array([0.02, 0.0, 0.0]), np.array([-0.02, 0.0, 0.0])
    path = []
    for tick in range(6):
        for step in range(steps):
            setpoint = interpolator.step()
            if step == 0:
                goal = there * (tick + 1) if tick < 3 else back  # another chunk says turn round
                interpolator.aim(goal, goal, goal + there if tick < 3 else goal)
                if setpoint is None:
                    setpoint = interpolator.step()
            assert setpoint is not None
            path.append(setpoint[0])
            interpolator.sent(setpoint, held=False)
    velocity = np.diff(path) * CONTROL_HZ * steps
    # Straight lines would go from 1 rad/s to -4 rad/s from one servo tick to the next.
    assert np.abs(np.diff(velocity)).max() < 0.5 * 5.0
    assert path[-1] == pytest.approx(back[0], abs=1e-3)


def test_after_a_hold_the_motion_goes_on_from_there():
    interpolator = Interpolator(ARM, CONTROL_HZ, CONTROL_HZ * STEPS)
    interpolator.start(np.zeros(2))
    interpolator.step()
    goal = np.array([0.1, 1.0, 0.0])
    interpolator.aim(goal, goal)
    command = np.zeros(3)
    for speed in (2.0, 1.0):  # the gate brakes, whatever is wanted
        assert interpolator.step() is not None
        command[0] += speed * DT_S
        interpolator.sent(command, held=True)
    following = interpolator.step()
    assert following is not None
    assert 1.0 * DT_S < following[0] - command[0] < 0.1, "with the speed the brake had left"
    interpolator.sent(following, held=False)
    wanted = interpolator.step()
    assert wanted is not None
    before = wanted[0]
    interpolator.sent(command, held=False)
    after = interpolator.step()
    assert after is not None and after[0] > before > command[0], "it does not wait for who is slow"
    interpolator.forget()
    assert interpolator.step() is None


def test_start_maps_joints_to_actions():
    interpolator = Interpolator(ARM, CONTROL_HZ, CONTROL_HZ)
    interpolator.start(np.array([0.7, -0.4]))  # elbow, shoulder
    action = np.array([-0.4, 0.5, 0.7])
    assert interpolator.step() is None
    interpolator.aim(action, action)
    setpoint = interpolator.step()
    assert setpoint is not None
    np.testing.assert_allclose(setpoint, action)


@given(a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_slopes_keep_a_cubic_monotone(a: float, b: float):
    slope = monotone_slope(np.array([a]), np.array([b]))[0]
    if a * b <= 0:
        assert slope == 0
    else:
        assert np.sign(slope) == np.sign(a) and abs(slope) <= 2 * min(abs(a), abs(b)) + 1e-12


def test_refusals():
    assert servo_steps(ARM, 50.0, 500.0) == 10 and servo_steps(ARM, 50.0, None) == 1
    assert servo_steps(fake_embodiment(), 20.0, 20.0) == 1
    with pytest.raises(
        ValueError, match="whole multiple of control_hz 30 and at most 500; use 480"
    ):
        servo_steps(ARM, 30.0, 500.0)
    with pytest.raises(ValueError, match="use 500"):
        servo_steps(ARM, 50.0, 1000.0)
    with pytest.raises(ValueError, match=r"\(dx, dy, dz, gripper\) are not absolute positions"):
        servo_steps(fake_embodiment(), 20.0, 100.0)
    assert joint_places(ARM) == [1, -1, 0] and joint_places(fake_embodiment()) is None
    with pytest.raises(ValueError, match="does not obey joint positions"):
        Interpolator(fake_embodiment(), 20.0, 20.0)
