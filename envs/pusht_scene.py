"""gym-pusht: a disc pushes a T onto its outline, seen from above.

Next: `envs/gymnasium_scene.py` (how it is put back), `envs/gymnasium_tasks.py` (the table).
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .gymnasium_scene import GymnasiumScene

CONTROL_HZ = 10.0
MAX_STEPS = 300
SIDE = 512.0
"""Sides of the world, in its own unit."""


class PushTScene(GymnasiumScene):
    """The disc obeys positions it should go to; success is a coverage of 95 %."""

    def __init__(self) -> None:
        from gym_pusht.envs.pusht import PushTEnv

        # Observed as a state, it draws nothing unless asked.
        super().__init__(PushTEnv(obs_type="state"), CONTROL_HZ, MAX_STEPS)

    def state(self) -> Float[np.ndarray, "2"]:
        return np.array(self._env.agent.position, np.float64)

    def poses(self) -> Float[np.ndarray, "10"]:
        agent, block = self._env.agent, self._env.block
        return np.array(
            [
                *agent.position, *agent.velocity,
                *block.position, block.angle, *block.velocity, block.angular_velocity,
            ]
        )  # fmt: skip

    def outcome(self) -> str:
        """The share of the outline that is covered, in tenths."""
        if self._success:
            return "done"
        return f"covered {int(10 * self._env._get_coverage()) * 10} %"

    def render(
        self, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        # As gym-pusht shrinks what it gives to policies, without the mark of the last action.
        import pygame

        screen = self._env._draw()
        frame = np.transpose(pygame.surfarray.array3d(screen), (1, 0, 2))
        return cv2.resize(np.ascontiguousarray(frame), (width, height))
