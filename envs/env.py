"""What every environment offers, simulated here or living in another interpreter.

A scene admits several instructions (`pick up the red cube`, `pick up the blue cube`); `reset`
chooses one by the seed unless the caller names it. Physics and rendering are apart: `step` never
draws, `observe` does, because a policy that executes eight actions of a chunk looks once.

Next: `envs/tasks.py` (which tasks exist), `envs/rollout.py` (a policy in an environment).
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Embodiment, Observation


@runtime_checkable
class Env(Protocol):
    """One scene with one robot. Not thread-safe: one process, one environment, one GL context."""

    @property
    def task(self) -> str:
        """Name in `envs/tasks.py`, such as `pick_named`."""
        ...

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def instructions(self) -> tuple[str, ...]:
        """Every command this scene admits."""
        ...

    @property
    def max_steps(self) -> int:
        """Control ticks after which an episode counts as failed."""
        ...

    def reset(self, seed: int, instruction: str | None = None) -> None:
        """Place the scene. The placement depends on `seed` alone, so that the same scene can be
        given another `instruction` (None: one drawn by the seed)."""
        ...

    @property
    def instruction(self) -> str:
        """The command of the present episode."""
        ...

    def observe(self) -> Observation:
        """Render all cameras and read the state. Costs a frame per camera."""
        ...

    def state(self) -> Float[np.ndarray, " state_dim"]:
        """Proprioception alone, float32; does not render."""
        ...

    def joint_position_rad(self) -> Float[np.ndarray, " joints"]:
        """Measured joints in the order of `embodiment.joint_names`; does not render."""
        ...

    def time_ns(self) -> int:
        """Simulated time since the reset."""
        ...

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        """Advance one control period (1 / control_hz) under `action`; values outside the
        embodiment's limits are clipped as the controller does. Does not render."""
        ...

    def success(self) -> bool:
        """Whether the instruction is fulfilled now."""
        ...

    def outcome(self) -> str:
        """What has been done, in the task's words, such as `red` (cube lifted) or `none`."""
        ...

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        """Everything physics needs, float64: restoring it reproduces the scene exactly."""
        ...

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        """Put the scene into a `simulator_state` of this task."""
        ...

    def render(
        self, camera: str, height: int, width: int, profile: str | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """One RGB frame, top row first. `profile` None: the embodiment's own."""
        ...

    def close(self) -> None:
        """Free the GL context. The environment is unusable afterwards."""
        ...
