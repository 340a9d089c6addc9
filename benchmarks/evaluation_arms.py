"""One side of `evaluation.py`, in a process of its own.

    python evaluation_arms.py ulna 100      100: control steps per episode

Reads one order per line, `{"episodes": 4, "seed": 0}`; answers `{"seconds": 1.5, "steps": 400}`.
"""

import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.schema import Act, Embodiment, Observation
from ulna.envs.parallel import EpisodeRunner
from ulna.envs.rollout import noise_seed
from ulna.envs.task import Task
from ulna.envs.tasks import find_task
from ulna.policies.policy import Policy
from ulna.policies.presets import expert

TASK = "robosuite/lift"
INSTRUCTION = "lift the cube"
CHUNK = 16
CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}


def make_policy(body: Embodiment) -> Policy:
    """The default policy, with the weights it is born with: it fails, so episodes are whole."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    stats = {
        "state": stream_stats(rng.normal(size=(100, body.state_dim))),
        "action": stream_stats(rng.normal(size=(100, body.action_dim)) * 0.1),
    }
    config = replace(expert(), horizon=CHUNK, execution_horizon=CHUNK)
    return Policy(config, body, NormStats(stats, source="made up", episodes=1)).eval()


def make_act(body: Embodiment) -> Act:
    return make_policy(body).act


class Ulna:
    """Our engine: two workers, `fast` pictures, a policy in each worker."""

    def __init__(self, steps: int) -> None:
        task = find_task(TASK)
        self.task: Task = replace(task, max_steps=steps, make=partial(shortened, task, steps))
        make = partial(make_act, task.embodiment("fast"))
        self.runner = EpisodeRunner(
            self.task, make, 2, CHUNK, keep_states=False, render_profile="fast"
        )
        self.runner.__enter__()

    def run(self, episodes: int, seed: int) -> int:
        results = self.runner.run([(seed + i, None) for i in range(episodes)])
        assert not any(r.error for r in results), results[0].error
        return sum(r.steps for r in results)


def shortened(task: Task, steps: int, profile: str) -> Any:
    env: Any = task.make(profile)
    env.max_steps = steps
    return env


class StockLift(gymnasium.Env[dict[str, Any], np.ndarray]):
    """`robosuite.make("Lift")` as a Gymnasium environment in LeRobot's words: every step renders,
    as `use_camera_obs` does."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"
    task = TASK
    task_description = INSTRUCTION

    def __init__(self, steps: int) -> None:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        os.environ.setdefault("MUJOCO_GL", "egl")
        import robosuite

        self._max_episode_steps = steps
        self.env: Any = robosuite.make(
            "Lift", robots="Panda", use_camera_obs=True, has_renderer=False,
            has_offscreen_renderer=True, renderer="mujoco", camera_names=list(CAMERAS.values()),
            camera_heights=84, camera_widths=84, control_freq=20, hard_reset=False,
            ignore_done=True,
        )  # fmt: skip
        body = find_task(TASK).embodiment("exact")
        image = spaces.Box(0, 255, (84, 84, 3), np.uint8)
        state = spaces.Box(-np.inf, np.inf, (body.state_dim,), np.float32)
        self.observation_space = spaces.Dict(
            {"pixels": spaces.Dict({name: image for name in CAMERAS}), "agent_pos": state}
        )
        self.action_space = spaces.Box(-1, 1, (7,), np.float32)
        self._state_dim, self._steps = body.state_dim, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(self.env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raw, _, _, _ = self.env.step(action)
        self._steps += 1
        done = bool(self.env._check_success())
        over = self._steps >= self._max_episode_steps
        return self._seen(raw), float(done), done, over, {"is_success": done}

    def _seen(self, raw: dict[str, np.ndarray]) -> dict[str, Any]:
        pixels = {name: raw[f"{camera}_image"][::-1] for name, camera in CAMERAS.items()}
        state = np.zeros(self._state_dim, np.float32)
        state[:3] = raw["robot0_eef_pos"]
        return {"pixels": pixels, "agent_pos": state}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.zeros((84, 84, 3), np.uint8)


class LeRobot:
    """lerobot-eval's loop with two environments in two processes."""

    def __init__(self, steps: int, stock: bool) -> None:
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode
        from lerobot.envs.factory import make_env_pre_post_processors

        from ulna.envs.lerobot_env import LeRobotTaskEnv, UlnaEnvConfig

        body = find_task(TASK).embodiment("exact" if stock else "fast")
        self.policy = lerobot_policy(body)
        make: Callable[[], Any] = (
            partial(StockLift, steps) if stock else partial(short_task_env, LeRobotTaskEnv, steps)
        )
        self.envs = AsyncVectorEnv(
            [make] * 2, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP
        )
        config = UlnaEnvConfig(task=TASK, render_profile=body.render_profile)
        self.processors = make_env_pre_post_processors(config, self.policy.config)

    def run(self, episodes: int, seed: int) -> int:
        from lerobot.scripts.lerobot_eval import eval_policy

        if not episodes:
            return 0
        before, after = self.processors
        same: Any = lambda x: x  # our policy normalises for itself  # noqa: E731
        info = eval_policy(
            self.envs, self.policy, before, after, same, same, episodes,
            start_seed=seed, return_episode_data=False,
        )  # fmt: skip
        assert len(info["per_episode"]) == episodes
        return episodes * self.envs.call("_max_episode_steps")[0]


def short_task_env(kind: Any, steps: int) -> Any:
    env = kind(TASK, "fast")
    env._max_episode_steps = steps
    return env


def lerobot_policy(body: Embodiment) -> Any:
    """Our policy in LeRobot's clothes: a queue of 16 actions, as its own policies have."""
    from collections import deque

    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.pretrained import PreTrainedPolicy

    class Config(PreTrainedConfig):
        @property
        def observation_delta_indices(self) -> Any: ...
        @property
        def action_delta_indices(self) -> Any: ...
        @property
        def reward_delta_indices(self) -> Any: ...
        def get_optimizer_preset(self) -> Any: ...
        def get_scheduler_preset(self) -> Any: ...
        def validate_features(self) -> None: ...

    class Wrapped(PreTrainedPolicy):
        config_class: Any = Config
        name: Any = "ulna_benchmark"

        def __init__(self) -> None:
            super().__init__(Config())
            self.inner = make_policy(body)
            self.asked = 0
            self.reset()

        def reset(self) -> None:
            self.queue: deque[torch.Tensor] = deque()

        def select_action(self, batch: dict[str, Any], **_: Any) -> torch.Tensor:
            if not self.queue:
                chunk = self.predict_action_chunk(batch)
                self.queue.extend(chunk.transpose(0, 1))
            return self.queue.popleft()

        def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> torch.Tensor:
            self.asked += 1
            rows = len(batch["observation.state"])
            images = {
                c.name: (batch[f"observation.images.{c.name}"] * 255).round().byte()
                for c in body.cameras
            }
            seen = [
                Observation(
                    {name: x[row].permute(1, 2, 0).numpy() for name, x in images.items()},
                    batch["observation.state"][row].numpy(),
                    batch["task"][row],
                    noise_seed(row, self.asked),
                )
                for row in range(rows)
            ]
            return torch.from_numpy(self.inner.act_batch(seen))

        def get_optim_params(self) -> Any: ...
        def forward(self, batch: Any) -> Any: ...

    return Wrapped()


class Robomimic:
    """robomimic's `run_rollout` over stock robosuite (its own binding of 0.3.0 needs mujoco-py)."""

    def __init__(self, steps: int) -> None:
        # Not part of Ulna's environment: `evaluation.py` installs it beside.
        RolloutPolicy = importlib.import_module("robomimic.algo").RolloutPolicy
        EnvBase = importlib.import_module("robomimic.envs.env_base").EnvBase

        inner = StockLift(steps)
        body = find_task(TASK).embodiment("exact")
        policy = make_policy(body)

        class Lift(EnvBase):
            def __init__(self) -> None: ...
            def reset(self) -> Any:
                return inner.reset()[0]

            def step(self, action: np.ndarray) -> Any:
                seen, reward, _, _, _ = inner.step(action)
                return seen, reward, False, {}

            def is_done(self) -> bool:
                return False

            def is_success(self) -> dict[str, bool]:
                return {"task": bool(inner.env._check_success())}

        for name in getattr(EnvBase, "__abstractmethods__", ()):
            if name not in Lift.__dict__:
                setattr(Lift, name, lambda self, *_, **__: None)
        Lift.__abstractmethods__ = frozenset()

        class Chunks(RolloutPolicy):
            def __init__(self) -> None:
                self.queue: list[np.ndarray] = []
                self.asked = 0

            def start_episode(self) -> None:
                self.queue = []

            def __call__(self, ob: dict[str, Any], goal: Any = None) -> np.ndarray:
                if not self.queue:
                    self.asked += 1
                    seen = Observation(
                        {n: np.ascontiguousarray(x) for n, x in ob["pixels"].items()},
                        ob["agent_pos"], INSTRUCTION, noise_seed(0, self.asked),
                    )  # fmt: skip
                    self.queue = list(policy.act(seen))
                return self.queue.pop(0)

        self.env, self.policy, self.steps = Lift(), Chunks(), steps

    def run(self, episodes: int, seed: int) -> int:
        run_rollout = importlib.import_module("robomimic.utils.train_utils").run_rollout
        for _ in range(episodes):
            run_rollout(self.policy, self.env, horizon=self.steps, terminate_on_success=False)
        return episodes * self.steps


def main() -> None:
    name, steps = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    torch.set_num_threads(1)
    sides: dict[str, Callable[[], Any]] = {
        "ulna": lambda: Ulna(steps),
        "lerobot_stock": lambda: LeRobot(steps, stock=True),
        "lerobot_fast": lambda: LeRobot(steps, stock=False),
        "robomimic_stock": lambda: Robomimic(steps),
    }
    side = sides[name]()
    side.run(2, 7)  # environments are made, kernels compiled
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        done = side.run(order["episodes"], order["seed"]) if order["episodes"] else 0
        answer = {"seconds": time.perf_counter() - start, "steps": done}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
