"""Our tasks as Gymnasium's and LeRobot's: their own checkers and their own rollout."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.envs.utils import close_envs
from lerobot.scripts.lerobot_eval import rollout

from ulna.envs.gymnasium_spaces import GymnasiumEnv, gymnasium_name
from ulna.envs.lerobot_env import UlnaEnvConfig
from ulna.envs.tasks import all_tasks, find_task


@pytest.fixture(scope="module")
def env() -> Iterator[gymnasium.Env]:
    made = gymnasium.make("ulna.envs.gymnasium_spaces:ulna/PickNamed-v0", render_mode="rgb_array")
    yield made
    made.close()


def inner(env: gymnasium.Env) -> GymnasiumEnv:
    assert isinstance(env.unwrapped, GymnasiumEnv)
    return env.unwrapped


def test_gymnasiums_own_checker_passes(env: gymnasium.Env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like bounds on the state
        check_env(env.unwrapped, skip_render_check=False)


def test_names() -> None:
    names = [gymnasium_name(task) for task in all_tasks()]
    assert len(set(names)) == len(names)
    assert gymnasium_name("pick_named") == "PickNamed-v0"
    assert gymnasium_name("metaworld/reach-v3") == "MetaworldReachV3-v0"
    assert gymnasium_name("libero/spatial/0") == "LiberoSpatial0-v0"


def test_every_task_is_registered_with_its_horizon(env: gymnasium.Env) -> None:
    for name, task in all_tasks().items():
        spec = gymnasium.spec(f"ulna/{gymnasium_name(name)}")
        assert spec.max_episode_steps == task.max_steps and spec.kwargs == {"task": name}


def test_registering_loads_no_simulator() -> None:
    program = (
        "import sys, ulna.envs.gymnasium_spaces;"
        "print([m for m in ('mujoco', 'robosuite', 'metaworld', 'gym_pusht') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_same_scene_as_ours(env: gymnasium.Env) -> None:
    observation, info = env.reset(seed=11)
    ours = inner(env).env
    first = ours.simulator_state()
    assert info["seed"] == 11 and observation["instruction"] == ours.instruction
    np.testing.assert_array_equal(observation["state"], ours.state())
    ours.reset(11)
    np.testing.assert_array_equal(ours.simulator_state(), first)
    named = "pick up the blue cube"
    observation, _ = env.reset(seed=11, options={"instruction": named})
    assert observation["instruction"] == named


def test_without_a_seed_scenes_go_on_from_the_last(env: gymnasium.Env) -> None:
    env.reset(seed=4)
    first = [env.reset()[1]["seed"] for _ in range(3)]
    env.reset(seed=4)
    assert [env.reset()[1]["seed"] for _ in range(3)] == first and len(set(first)) == 3


def test_an_episode_ends_when_success_has_lasted(env: gymnasium.Env) -> None:
    env.reset(seed=11)
    ours, expert = inner(env).env, find_task("pick_named").expert
    assert expert is not None
    shows, rewards, terminated, info = expert(), [], False, {}
    while not terminated and len(rewards) < 100:
        action = shows.action(ours).astype(np.float32)
        _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
    assert terminated and info["is_success"]
    assert rewards[-3:] == [1.0] * 3 and 0.0 in rewards


def test_it_draws_a_frame_to_look_at(env: gymnasium.Env) -> None:
    env.reset(seed=1)
    frame: Any = env.render()
    assert frame.shape == (256, 256, 3) and frame.std() > 10
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        GymnasiumEnv("pick_named", render_mode="human")


class Upwards(torch.nn.Module):
    """A policy that lifts the hand, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(device="cpu")
        self.seen: list[dict[str, Any]] = []

    def reset(self) -> None:
        self.seen.clear()

    def select_action(self, observation: dict[str, Any]) -> torch.Tensor:
        self.seen.append(observation)
        action = torch.zeros(len(observation["observation.state"]), 7)
        action[:, 2] = 1.0
        return action


def test_lerobots_rollout_runs_our_task() -> None:
    config = EnvConfig.get_choice_class("ulna")(task="pick_named")
    assert isinstance(config, UlnaEnvConfig) and config.type == "ulna" and config.fps == 20
    made = make_env(config, n_envs=2)
    vector = made["language"][0]
    policy = Upwards()
    identity = make_env_pre_post_processors(config, None)
    try:
        for single in vector.envs:  # pyright: ignore[reportAttributeAccessIssue]
            single._max_episode_steps = 5
        like_lerobots: Any = policy  # which are never asked for more than these calls
        unchanged: Any = lambda given: given  # noqa: E731
        result = rollout(vector, like_lerobots, *identity, unchanged, unchanged, seeds=[3, 4])
    finally:
        close_envs(made)
    assert result["action"].shape == (2, 5, 7) and not result["success"].any()
    seen = policy.seen[0]
    assert seen["observation.images.front"].shape == (2, 3, 64, 64)
    assert set(config.features_map.values()) <= {*seen, "action"}
    assert all(words in find_task("pick_named").instructions for words in seen["task"])
    heights = [float(step["observation.state"][0, 2]) for step in policy.seen]
    assert heights[-1] > heights[0] + 0.02


def test_a_robot_per_evaluation() -> None:
    several = UlnaEnvConfig(task="pick_named, lift")
    assert several.task_names() == ["pick_named", "lift"]
    assert several.features["action"].shape == (7,)
    with pytest.raises(ValueError, match="task pusht is not the embodiment"):
        UlnaEnvConfig(task="pick_named,pusht")
    with pytest.raises(ValueError, match="env.task is empty"):
        UlnaEnvConfig(task=" ")
    with pytest.raises(ValueError, match="Did you mean 'pick_named'"):
        UlnaEnvConfig(task="pick_name")


def test_lerobot_takes_the_module_for_a_plugin() -> None:
    from lerobot.configs.parser import load_plugin

    load_plugin("ulna.envs.lerobot_env")
