"""The experts of robosuite's tasks do them, recover, and robosuite agrees that they did."""

from typing import Any

import numpy as np
import pytest

from ulna.envs.collect import Disturbance, Noise
from ulna.envs.robosuite_experts import EXPERTS, finger_gap
from ulna.envs.robosuite_skills import HEADING_RANGE_RAD, funnel, heading, headings, rotation_of
from ulna.envs.robosuite_stock import build_stock
from ulna.envs.robosuite_suite import RobosuiteSuiteEnv
from ulna.envs.robosuite_tasks import ROBOSUITE_TASKS

QUICK = ("lift", "stack", "pick_place_bread", "nut_assembly_round", "door")


def show(env: RobosuiteSuiteEnv, seed: int, stock: Any = None, noise: Noise | None = None) -> bool:
    """Let the expert act; `stock` is robosuite's own environment, asked after every step."""
    expert = EXPERTS[ROBOSUITE_TASKS[env.task].expert]()
    disturbance = None if noise is None else Disturbance(noise, seed, env.embodiment)
    env.reset(seed)
    held = 0
    for _ in range(env.max_steps):
        action = expert.action(env)
        env.step(action if disturbance is None else disturbance.apply(action))
        if stock is not None:
            assert verdict_of(stock, env) == env.success()
        held = held + 1 if env.success() else 0
        if held == 5:
            return True
    return False


def verdict_of(stock: Any, env: RobosuiteSuiteEnv) -> bool:
    """What robosuite says of the state that our environment is in."""
    stock.sim.data._data.qpos[:] = env.data.qpos
    stock.sim.data._data.qvel[:] = env.data.qvel
    stock.sim.model._model.body_pos[:] = env.model.body_pos
    stock.sim.model._model.body_quat[:] = env.model.body_quat
    stock.sim.forward()
    return bool(stock._check_success())


@pytest.mark.parametrize("name", QUICK)
def test_expert_succeeds_and_robosuite_agrees(name: str) -> None:
    task = ROBOSUITE_TASKS[f"robosuite/{name}"]
    env, stock = RobosuiteSuiteEnv(task), build_stock(task.stock_name)
    assert show(env, 0, stock) and env.outcome() == "done"
    assert show(env, 1)
    env.close()


def test_expert_recovers_from_pushes() -> None:
    env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/stack"])
    shown = [show(env, seed, noise=Noise()) for seed in (5, 6)]
    assert all(shown)
    env.close()


def test_expert_takes_up_again_what_was_dropped() -> None:
    env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"])
    expert = EXPERTS["lift"]()
    env.reset(3)
    while not env.success():
        env.step(expert.action(env))
    for _ in range(12):
        env.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert not env.success()
    for _ in range(40):
        env.step(expert.action(env))
    assert env.success()
    env.close()


def test_wiping_is_judged_by_robosuite_and_survives_a_restore() -> None:
    with pytest.warns(UserWarning, match="robosuite's drives"):
        env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/wipe"])
    assert env.controller == "stock"
    env.reset(1)
    expert = EXPERTS["wipe"]()
    states = []
    while not env.success() and len(states) < 150:
        states.append(env.simulator_state())
        env.step(expert.action(env))
    assert env.success() and env._stock._check_success()
    env.restore(states[-1], env.instruction)
    left = int((~env.markers_wiped()).sum())
    assert 0 < left < 100 and len(env._stock.wiped_markers) == 100 - left
    assert not env.success()
    env.step(expert.action(env))
    assert env.success(), "the restored state went on otherwise"
    env.reset(1)
    assert not env.markers_wiped().any()
    env.close()


def test_headings_stay_before_the_stops() -> None:
    low, high = HEADING_RANGE_RAD
    for direction in np.linspace(-9, 9, 13):
        options = headings(float(direction), np.pi / 2)
        assert len(options) in (3, 4) and all(low <= angle < high for angle in options)
        np.testing.assert_allclose(np.cos(4 * (np.array(options) - direction)), 1, atol=1e-9)
    home = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    for angle in (-1.5, 0.0, 1.0, 3.0):
        turned = rotation_of(np.array([0.0, 0.0, angle])) @ home
        assert heading(turned) == pytest.approx(angle)


def test_funnel_rises_before_it_goes_aside() -> None:
    target = np.array([0.2, 0.0, 0.8])
    low = funnel(np.array([0.0, 0.0, 0.8]), target, 0.1)
    assert low[2] == pytest.approx(0.9) and low[0] == 0.0
    high = funnel(np.array([0.0, 0.0, 0.9]), target, 0.1)
    assert high[2] == pytest.approx(0.9) and high[0] > 0.1
    np.testing.assert_allclose(funnel(np.array([0.2, 0.0, 0.85]), target, 0.1), target)


def test_fingers_are_kept_from_the_neighbour() -> None:
    cube, neighbour = np.array([0.0, 0.0, 0.82]), np.array([0.0, 0.065, 0.82])
    assert finger_gap(cube, neighbour, 0.0) < 0.02  # the fingers close along y
    assert finger_gap(cube, neighbour, np.pi / 2) > 0.06
