"""Our tasks for `lerobot-eval --env.type=ulna --env.task=pick_named`.

LeRobot finds it through the distribution `lerobot_env_ulna` (`envs/lerobot_env_ulna`), or
without one by `--env.discover_packages_path=ulna.envs.lerobot_env`. Several tasks, separated by
commas, are judged one after another, as LeRobot does with a suite.

Next: `envs/gymnasium_spaces.py` (the environment inside).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from ..datasets.schema import require_same_embodiment
from .gymnasium_spaces import GymnasiumEnv
from .tasks import find_task

__path__: list[str] = []
"""LeRobot takes a plug-in for a package and looks for modules inside; there are none."""


@EnvConfig.register_subclass("ulna")
@dataclass
class UlnaEnvConfig(EnvConfig):
    """LeRobot's description of one or several of our tasks; they must share a robot."""

    task: str | None = "pick_named"
    """Names in `ulna envs`, separated by commas."""
    render_profile: str = ""
    """Such as `exact` or `fast`; empty: each task's own choice."""
    fps: int = 20
    """Set from the task's robot."""
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bodies = []
        for name in self.task_names():
            row = find_task(name)
            bodies.append(row.embodiment(self.render_profile or row.profiles[-1]))
            require_same_embodiment(bodies[0], bodies[-1], f"task {name}")
        body = bodies[0]
        self.fps = round(body.control_hz)
        self.features = {
            "action": PolicyFeature(FeatureType.ACTION, (body.action_dim,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (body.state_dim,)),
        }
        self.features_map = {"action": "action", "agent_pos": "observation.state"}
        for camera in body.cameras:
            key = f"pixels/{camera.name}"
            self.features[key] = PolicyFeature(FeatureType.VISUAL, (camera.height, camera.width, 3))
            self.features_map[key] = f"observation.images.{camera.name}"

    def task_names(self) -> list[str]:
        names = [name.strip() for name in (self.task or "").split(",") if name.strip()]
        if not names:
            raise ValueError("env.task is empty; give a task such as pick_named (see `ulna envs`)")
        return names

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"render_profile": self.render_profile}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv]]:
        made: dict[str, dict[int, VectorEnv]] = {}
        for name in self.task_names():
            makers = [partial(LeRobotTaskEnv, name, self.render_profile)] * n_envs
            if use_async_envs and n_envs > 1:
                vector: VectorEnv = AsyncVectorEnv(
                    makers, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP
                )
            else:
                vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
            suite = find_task(name).suite
            made.setdefault(suite, {})[len(made.get(suite, {}))] = vector
        return made


class LeRobotTaskEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A task with LeRobot's names: `pixels`, `agent_pos`, and the words as attributes."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"

    def __init__(self, task: str, render_profile: str = "") -> None:
        self._env = GymnasiumEnv(task, render_profile, render_mode="rgb_array")
        self.metadata = self._env.metadata
        self.task = task
        self._max_episode_steps = find_task(task).max_steps
        self.action_space = self._env.action_space
        inner = self._env.observation_space
        assert isinstance(inner, spaces.Dict)
        self.observation_space = spaces.Dict(
            {"pixels": inner["images"], "agent_pos": inner["state"]}
        )

    @property
    def task_description(self) -> str:
        """The instruction of the present episode."""
        return self._env.env.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        # LeRobot's options concern its own wrappers.
        observation, info = self._env.reset(seed=seed)
        return self._renamed(observation), info

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        return self._renamed(observation), reward, terminated, truncated, info

    @staticmethod
    def _renamed(observation: dict[str, Any]) -> dict[str, Any]:
        return {"pixels": observation["images"], "agent_pos": observation["state"]}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._env.render()

    def close(self) -> None:
        self._env.close()
