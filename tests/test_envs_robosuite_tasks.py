"""robosuite's tasks here are robosuite's: its placements, its physics, its verdicts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ulna.datasets.schema import unknown_name
from ulna.envs.check_env import check_env
from ulna.envs.robosuite_stock import build_stock
from ulna.envs.robosuite_suite import RobosuiteSuiteEnv
from ulna.envs.robosuite_tasks import PARAPHRASES, ROBOSUITE_TASKS, robosuite_tasks
from ulna.envs.tasks import find_task, make_env

SHORT = ("lift", "stack", "pick_place_can", "nut_assembly_square", "door")


@pytest.fixture(scope="module", params=SHORT)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[RobosuiteSuiteEnv, Any]]:
    """Our environment of a task, and robosuite's own."""
    task = ROBOSUITE_TASKS[f"robosuite/{request.param}"]
    env = RobosuiteSuiteEnv(task)
    yield env, build_stock(task.stock_name)
    env.close()


def reset_stock(stock: Any, seed: int, patch: pytest.MonkeyPatch) -> None:
    """robosuite's own soft reset, drawing from the generator that ours would draw from."""
    rng = np.random.default_rng(seed)

    def uniform(low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return rng.uniform(low, high, size)

    with patch.context() as drawing:
        drawing.setattr(np.random, "uniform", uniform)
        drawing.setattr(np.random, "randn", rng.standard_normal)
        stock.reset()
    for controller in stock.robots[0].part_controllers.values():
        # It would drive the first substep with the mass matrix of the pose before the reset.
        controller.new_update = True


def test_same_seed_and_actions_as_stock(
    pair: tuple[RobosuiteSuiteEnv, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, stock = pair
    assert env.controller == "compiled"
    for seed in (11, 12):
        reset_stock(stock, seed, monkeypatch)
        env.reset(seed)
        np.testing.assert_array_equal(env.data.qpos, stock.sim.data.qpos)
        np.testing.assert_array_equal(env.model.body_pos, stock.sim.model.body_pos)
        np.testing.assert_array_equal(env.model.geom_size, stock.sim.model.geom_size)
        rng = np.random.default_rng(seed)
        for _ in range(10):
            action = rng.uniform(-1, 1, env.embodiment.action_dim)
            env.step(action)
            stock.step(action)
        np.testing.assert_allclose(env.data.qpos, stock.sim.data.qpos, rtol=0, atol=1e-12)
        assert env.success() == bool(stock._check_success())


def test_contract(pair: tuple[RobosuiteSuiteEnv, Any]) -> None:
    check_env(pair[0])


def test_contract_of_a_robot_the_compiled_controller_does_not_know() -> None:
    with pytest.warns(UserWarning, match="five times slower"):
        env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"], "near", robot="UR5e")
    assert env.controller == "stock" and env.embodiment.name == "ur5e_osc_pose"
    assert len(env.embodiment.joint_names) == 6
    check_env(env)
    env.close()
    with pytest.raises(ValueError, match="use 'stock'"):
        RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"], robot="UR5e", controller="compiled")


def test_the_door_stands_where_the_state_says() -> None:
    env = make_env("robosuite/door")
    assert isinstance(env, RobosuiteSuiteEnv)
    env.reset(1)
    door = env.data.body("Door_main").xpos.copy()
    state = env.simulator_state()
    env.reset(2)
    assert np.abs(env.data.body("Door_main").xpos - door).max() > 1e-4
    env.restore(state, env.instruction)
    np.testing.assert_array_equal(env.data.body("Door_main").xpos, door)
    env.close()


def test_only_the_named_object_lies_in_the_bin() -> None:
    env = make_env("robosuite/pick_place_milk")
    assert isinstance(env, RobosuiteSuiteEnv)
    for name in ("Can", "Bread", "Cereal"):
        assert env.data.body(f"{name}_main").xpos[0] == 10
    assert abs(env.data.body("Milk_main").xpos[0]) < 0.5
    env.close()


def test_table_of_the_suite() -> None:
    tasks = robosuite_tasks()
    assert len(tasks) == 10 and all(name.startswith("robosuite/") for name in tasks)
    for task in tasks.values():
        (instruction,) = task.instructions
        assert (
            len(set(PARAPHRASES[instruction])) >= 3 and instruction not in PARAPHRASES[instruction]
        )
        body = task.embodiment("near")
        assert body.render_profile == "near" and body.camera("wrist").height == 84
    assert find_task("robosuite/wipe").embodiment("fast").action_dim == 6
    with pytest.raises(ValueError, match="Did you mean 'robosuite/door'"):
        find_task("robosuite/dor")
    assert "Known" in str(unknown_name("task", "x", tasks))
