"""The simulated tasks keep the contract, are reproducible, and judge by the named cube."""

from collections.abc import Iterator

import numpy as np
import pytest

from ulna.datasets.schema import Episode
from ulna.envs.check_env import check_env
from ulna.envs.collect import QUIET, Noise, collect_episode
from ulna.envs.cube_placement import place_apart
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.experts import CubeExpert
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.tasks import make_env


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["pick_named"])
    yield env
    env.close()


def lift_cubes(env: RobosuiteEnv, heights_m: dict[str, float]) -> None:
    """Put cubes into the air by writing a state."""
    state = env.simulator_state()
    for name, height in heights_m.items():
        address = int(env.model.joint(f"{name}_joint0").qposadr[0])
        state[1 + address + 2] = 0.8 + 0.02 + height  # the state starts with the time
    env.restore(state, env.instruction)


def test_contract_of_pick_named(env: RobosuiteEnv) -> None:
    check_env(env)


def test_contract_of_lift() -> None:
    env = RobosuiteEnv(CUBE_TASKS["lift"])
    check_env(env)
    assert env.instructions == ("lift the cube",)
    env.close()


def test_check_env_notices_a_broken_promise(
    env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "success", lambda: True)
    with pytest.raises(AssertionError, match="right after reset"):
        check_env(env)


def test_another_process_would_place_the_same(env: RobosuiteEnv) -> None:
    fresh = RobosuiteEnv(CUBE_TASKS["pick_named"])
    for _ in range(3):
        env.step(np.ones(7))
    for seed in (0, 12_345, 10**9):
        env.reset(seed)
        fresh.reset(seed)
        np.testing.assert_array_equal(env.simulator_state(), fresh.simulator_state())
        assert env.instruction == fresh.instruction
    fresh.close()


def test_cubes_lie_apart_within_the_region(env: RobosuiteEnv) -> None:
    task = env.cube_task
    for seed in range(30):
        env.reset(seed)
        places = np.stack([env.data.xpos[body][:2] for body in env._cube_bodies])
        assert np.all(np.abs(places) <= task.region_half_m)
        gaps = [np.linalg.norm(places[a] - places[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert min(gaps) >= task.spacing_m


def test_seeds_draw_every_instruction(env: RobosuiteEnv) -> None:
    drawn = []
    for seed in range(60):
        env.reset(seed)
        drawn.append(env.instruction)
    assert min(drawn.count(instruction) for instruction in env.instructions) >= 10


@pytest.mark.parametrize(
    ("heights_m", "outcome", "success"),
    [
        ({}, "none", False),
        ({"red": 0.03}, "none", False),
        ({"red": 0.05}, "red", True),
        ({"green": 0.05}, "green", False),
        ({"red": 0.05, "blue": 0.05}, "red+blue", False),
    ],
)
def test_success_only_for_the_named_cube_alone(
    env: RobosuiteEnv, heights_m: dict[str, float], outcome: str, success: bool
) -> None:
    env.reset(1, "pick up the red cube")
    lift_cubes(env, heights_m)
    assert env.outcome() == outcome
    assert env.success() is success


def test_a_cube_on_its_corner_is_lifted_when_its_corner_is(env: RobosuiteEnv) -> None:
    env.reset(1, "pick up the red cube")
    address = int(env.model.joint("red_joint0").qposadr[0])
    state = env.simulator_state()
    state[1 + address + 2] = 0.8 + 0.065
    level = env.restore(state, env.instruction) or env.success()
    angle = np.pi / 4  # on its edge: the lowest point is 28 mm below the centre
    state[1 + address + 3 : 1 + address + 7] = (np.cos(angle / 2), np.sin(angle / 2), 0, 0)
    env.restore(state, env.instruction)
    assert level and not env.success()


@pytest.fixture(scope="module")
def demonstration(env: RobosuiteEnv) -> Episode:
    return collect_episode(env, CubeExpert(), 21, Noise())


def test_demonstration_replays_to_the_same_pixels(
    env: RobosuiteEnv, demonstration: Episode
) -> None:
    for step in range(0, demonstration.steps, 5):
        env.restore(demonstration.streams["simulator_state"][step], demonstration.instruction)
        seen = env.observe()
        np.testing.assert_array_equal(seen.state, demonstration.streams["state"][step])
        for camera, frames in demonstration.images.items():
            np.testing.assert_array_equal(seen.images[camera], frames[step])


def test_sent_actions_replay_to_the_same_states(env: RobosuiteEnv, demonstration: Episode) -> None:
    env.reset(demonstration.seed)
    for state, sent in zip(
        demonstration.streams["simulator_state"],
        demonstration.streams["action_sent"],
        strict=True,
    ):
        np.testing.assert_array_equal(env.simulator_state(), state)
        env.step(sent)
    assert env.success()


def test_demonstration_remembers_what_the_expert_wanted(
    env: RobosuiteEnv, demonstration: Episode
) -> None:
    streams = demonstration.streams
    assert demonstration.success and str(demonstration.info["outcome"]) in demonstration.instruction
    assert not np.array_equal(streams["action"], streams["action_sent"])
    assert np.abs(streams["action"]).max() <= 1 and np.abs(streams["action_sent"]).max() <= 1
    np.testing.assert_array_equal(np.diff(streams["time_ns"]), 50_000_000)
    env.restore(streams["simulator_state"][7], demonstration.instruction)
    wanted = CubeExpert().action(env).astype(np.float32)
    np.testing.assert_array_equal(wanted, streams["action"][7])
    assert streams["joint_position_rad"].shape == (demonstration.steps, 7)


def test_expert_picks_the_named_cube(env: RobosuiteEnv) -> None:
    for seed, instruction in enumerate(env.instructions * 2):
        env.reset(100 + seed, instruction)
        expert, steps = CubeExpert(), 0
        while not env.success() and steps < 50:
            env.step(expert.action(env))
            steps += 1
        assert env.success(), f"seed {100 + seed}: {env.outcome()} after {steps} steps"


def test_expert_without_noise_is_what_is_sent(env: RobosuiteEnv) -> None:
    episode = collect_episode(env, CubeExpert(), 5, QUIET)
    np.testing.assert_array_equal(episode.streams["action"], episode.streams["action_sent"])


def test_compiled_controller_equals_robosuites() -> None:
    task = CUBE_TASKS["pick_named"]
    compiled, stock = RobosuiteEnv(task), RobosuiteEnv(task, controller="stock")
    rng = np.random.default_rng(3)
    for seed in (4, 5):
        compiled.reset(seed)
        stock.reset(seed)
        for _ in range(10):
            action = rng.uniform(-1.2, 1.2, 7)
            compiled.step(action)
            stock.step(action)
        np.testing.assert_allclose(compiled.data.qpos, stock.data.qpos, rtol=0, atol=1e-12)
        assert compiled._controller.gripper_command == stock._controller.gripper_command


def test_refusals(env: RobosuiteEnv) -> None:
    with pytest.raises(ValueError, match="Did you mean 'pick_named'"):
        make_env("pick_name")
    with pytest.raises(ValueError, match="render profile 'fats'.*exact, fast, near"):
        make_env("lift", "fats")
    with pytest.raises(ValueError, match="pick up the red cube"):
        env.reset(0, "pick up the red cub")
    with pytest.raises(ValueError, match="negative"):
        env.reset(-1)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full(7, np.nan))
    with pytest.raises(ValueError, match="recorded from"):
        env.restore(np.zeros(5), env.instruction)
    with pytest.raises(ValueError, match="Known: front, wrist"):
        env.render("top", 8, 8)
    with pytest.raises(ValueError, match="no places for 9 cubes"):
        place_apart(np.random.default_rng(0), 9, (0.05, 0.05), 0.1)
