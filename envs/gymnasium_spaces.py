"""Our tasks for those who speak Gymnasium.

    import ulna.envs.gymnasium_spaces
    gymnasium.make("ulna/PickNamed-v0")

or `gymnasium.make("ulna.envs.gymnasium_spaces:ulna/PickNamed-v0")`, which imports it: Gymnasium 1.4
no longer asks installed packages for their environments. The reward is 1 where the
instruction is fulfilled, else 0; an episode ends when that has lasted as long as our own evaluation
asks for (`envs/rollout.py`), so `is_success` here and there mean the same.

Next: `envs/env.py` (what is wrapped), `envs/lerobot_env.py` (the same for lerobot-eval).
"""

import re
import string
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ..datasets.schema import Embodiment
from .rollout import SUCCESS_TICKS
from .tasks import all_tasks, find_task, make_env

NAMESPACE = "ulna"
MOST_CHARACTERS = 256
"""Longest instruction that fits the observation space."""
FILM_SIZE = 256
"""Pixels of the frames of `render`."""


def gymnasium_name(task: str) -> str:
    """`pick_named` -> `PickNamed-v0`, `metaworld/reach-v3` -> `MetaworldReachV3-v0`."""
    words = re.split(r"[^A-Za-z0-9]+", task)
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v0"


def register_tasks() -> None:
    """Make every task of the table known to Gymnasium; imports no simulator."""
    for name, task in all_tasks().items():
        gymnasium.register(
            id=f"{NAMESPACE}/{gymnasium_name(name)}",
            entry_point=f"{__name__}:GymnasiumEnv",
            max_episode_steps=task.max_steps,
            kwargs={"task": name},
        )


def observation_space(body: Embodiment) -> spaces.Dict:
    """Images by camera, the state, and the words."""
    images: dict[str, spaces.Space[Any]] = {
        camera.name: spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
        for camera in body.cameras
    }
    return spaces.Dict(
        {
            "images": spaces.Dict(images),
            "state": spaces.Box(-np.inf, np.inf, (body.state_dim,), np.float32),
            "instruction": spaces.Text(MOST_CHARACTERS, charset=string.printable),
        }
    )


def action_space(body: Embodiment) -> spaces.Box:
    """The limits of the controller."""
    low, high = (np.asarray(ends, np.float32) for ends in (body.action_low, body.action_high))
    return spaces.Box(low, high, dtype=np.float32)


class GymnasiumEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """An `Env` in Gymnasium's words. One per process, as every environment here."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, task: str, render_profile: str = "", render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; use 'rgb_array' or None")
        row = find_task(task)
        self.render_mode = render_mode
        self.embodiment = row.embodiment(render_profile or row.profiles[-1])
        self.metadata = {**self.metadata, "render_fps": round(self.embodiment.control_hz)}
        self.observation_space = observation_space(self.embodiment)
        self.action_space = action_space(self.embodiment)
        self.task = task
        self.env = make_env(task, render_profile)
        self._lasted = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scene of `seed`; without one, the next of those that the last seed began.

        `options={"instruction": ...}` names the instruction.
        """
        super().reset(seed=seed)
        scene = seed if seed is not None else int(self.np_random.integers(2**31))
        self.env.reset(scene, (options or {}).get("instruction"))
        self._lasted = 0
        return self._observe(), {"is_success": False, "seed": scene}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.env.step(np.asarray(action, np.float64))
        fulfilled = self.env.success()
        self._lasted = self._lasted + 1 if fulfilled else 0
        ended = self._lasted >= SUCCESS_TICKS
        info = {"is_success": ended, "outcome": self.env.outcome()}
        return self._observe(), float(fulfilled), ended, False, info

    def _observe(self) -> dict[str, Any]:
        seen = self.env.observe()
        return {"images": seen.images, "state": seen.state, "instruction": seen.instruction}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None:
            return None
        camera = self.embodiment.cameras[0].name
        return self.env.render(camera, FILM_SIZE, FILM_SIZE)

    def close(self) -> None:
        self.env.close()


register_tasks()
