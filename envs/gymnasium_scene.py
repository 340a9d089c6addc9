"""Any Gymnasium environment as a scene, put back by replaying (`envs/remote_replay.py`).

Next: `envs/pusht_scene.py` (an example), `envs/foreign_env.py` (the `Env` around it).
"""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .remote_replay import ReplayedScene


class GymnasiumScene(ReplayedScene):
    """An environment with a `Box` of actions, and `is_success` or `success` in its info."""

    def __init__(self, env: Any, control_hz: float, most_steps: int, state_key: str = "") -> None:
        """`state_key`: the entry of a dict observation that is the proprioception; empty: the
        observation is. `most_steps`: the longest episode that can be remembered."""
        super().__init__(int(np.prod(env.action_space.shape)), control_hz, most_steps)
        self._env = env
        self._state_key = state_key
        self._observation: Any = None
        self._success = False
        self.reset(0)

    def begin(self, seed: int) -> None:
        self._success = False
        self._observation, _ = self._env.reset(seed=seed)

    def advance(self, action: Float[np.ndarray, " action_dim"]) -> None:
        space = self._env.action_space
        sent = action.astype(space.dtype).reshape(space.shape)
        self._observation, _, _, _, info = self._env.step(sent)
        self._success = bool(info.get("is_success", info.get("success", False)))

    def state(self) -> Float[np.ndarray, " state_dim"]:
        seen = self._observation[self._state_key] if self._state_key else self._observation
        return np.asarray(seen, np.float64).ravel()

    def poses(self) -> Float[np.ndarray, " poses"]:
        """The proprioception, unless a subclass knows more."""
        return self.state()

    def joints(self) -> Float[np.ndarray, " joints"]:
        return np.zeros(0)

    def success(self) -> bool:
        return self._success

    def outcome(self) -> str:
        return "done" if self._success else "none"

    def render(
        self, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The environment's one view, shrunk or grown to size."""
        frame = np.asarray(self._env.render(), np.uint8)
        if frame.shape[:2] == (height, width):
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))

    def expert_action(self) -> np.ndarray:
        raise ValueError(f"{type(self._env.unwrapped).__name__} has no scripted expert")

    def close(self) -> None:
        self._env.close()
