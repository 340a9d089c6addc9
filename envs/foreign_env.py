"""A simulator somebody else wrote, as an `Env`.

A suite brings a `Scene`: numbers in, numbers out, no words and no types of ours. `ForeignEnv` adds
what the contract of `envs/env.py` asks for besides: instructions, limits, refusals. The scene may
live in this process or, as a `RemoteScene`, under another Python interpreter:

    ForeignEnv -- Scene (envs/aloha_scene.py, envs/pusht_scene.py, envs/remote_metaworld.py)
               -- RemoteScene == pipe == remote_worker.py -- Scene (envs/remote_libero.py)

Next: `envs/remote_scene.py` (another interpreter), `envs/gymnasium_scene.py` (any Gymnasium
environment).
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Embodiment, Observation, unknown_name


@runtime_checkable
class Scene(Protocol):
    """What a foreign simulator must offer. Plain numpy: it may run where Ulna is not installed."""

    def reset(self, seed: int) -> None:
        """Place everything by `seed` alone, whatever ran before."""
        ...

    def step(self, action: np.ndarray) -> None:
        """One control period under an action within the limits. Does not render."""
        ...

    def state(self) -> np.ndarray:
        """Proprioception."""
        ...

    def joints(self) -> np.ndarray:
        """Measured joints (rad); empty if it has none."""
        ...

    def time_s(self) -> float:
        """Simulated time since the reset."""
        ...

    def success(self) -> bool: ...

    def outcome(self) -> str: ...

    def simulator_state(self) -> np.ndarray:
        """float64, of one length per task: `restore` reproduces the scene from it exactly."""
        ...

    def restore(self, state: np.ndarray) -> None: ...

    def render(self, camera: str, height: int, width: int, profile: str) -> np.ndarray:
        """uint8 RGB, top row first."""
        ...

    def expert_action(self) -> np.ndarray:
        """The action its own scripted expert would take now; ValueError if there is none."""
        ...

    def close(self) -> None: ...


class ForeignEnv:
    """A `Scene` as an `Env`. One process, one environment."""

    def __init__(
        self,
        task: str,
        scene: Scene,
        instructions: tuple[str, ...],
        max_steps: int,
        embodiment: Embodiment,
        profiles: tuple[str, ...],
    ) -> None:
        self.task = task
        self.scene = scene
        self.instructions = instructions
        self.max_steps = max_steps
        self.embodiment = embodiment
        self._profiles = profiles
        self._cameras = [camera.name for camera in embodiment.cameras]
        self._instruction = instructions[0]
        self._low = np.asarray(embodiment.action_low)
        self._high = np.asarray(embodiment.action_high)
        self.reset(0)
        self._state_size = len(scene.simulator_state())
        if self.state().shape != (embodiment.state_dim,):
            raise ValueError(
                f"the simulator of {task} gives a state of {len(self.state())} numbers, but its "
                f"table says {embodiment.state_dim}: {', '.join(embodiment.state_names)}; the "
                "installed version is not the one Ulna knows"
            )

    def reset(self, seed: int, instruction: str | None = None) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        if instruction is None:
            choice = np.random.default_rng([seed, 1]).integers(len(self.instructions))
            instruction = self.instructions[choice]
        self._check_instruction(instruction)
        self.scene.reset(seed)
        self._instruction = instruction

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        self._check_instruction(instruction)
        if state.shape != (self._state_size,):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task}, which "
                f"has {self._state_size}; restore it into the task it was recorded from"
            )
        self.scene.restore(np.ascontiguousarray(state, dtype=np.float64))
        self._instruction = instruction

    def _check_instruction(self, instruction: str) -> None:
        if instruction not in self.instructions:
            raise unknown_name(f"instruction of task {self.task}", instruction, self.instructions)

    @property
    def instruction(self) -> str:
        return self._instruction

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        if not np.all(np.isfinite(action)):
            raise ValueError(f"action {action} is not finite; a policy must send finite numbers")
        self.scene.step(np.clip(np.asarray(action, dtype=np.float64), self._low, self._high))

    def state(self) -> Float[np.ndarray, " state_dim"]:
        return np.asarray(self.scene.state(), dtype=np.float32)

    def joint_position_rad(self) -> Float[np.ndarray, " joints"]:
        return np.asarray(self.scene.joints(), dtype=np.float64)

    def time_ns(self) -> int:
        return round(self.scene.time_s() * 1e9)

    def success(self) -> bool:
        return bool(self.scene.success())

    def outcome(self) -> str:
        return str(self.scene.outcome())

    def observe(self) -> Observation:
        images = {
            camera.name: self.render(camera.name, camera.height, camera.width)
            for camera in self.embodiment.cameras
        }
        return Observation(images=images, state=self.state(), instruction=self._instruction)

    def render(
        self, camera: str, height: int, width: int, profile: str | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        if camera not in self._cameras:
            raise unknown_name("camera", camera, self._cameras)
        profile = profile or self.embodiment.render_profile or self._profiles[-1]
        if profile not in self._profiles:
            raise unknown_name("render profile", profile, self._profiles)
        return self.scene.render(camera, height, width, profile)

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        return np.asarray(self.scene.simulator_state(), dtype=np.float64)

    def expert_action(self) -> Float[np.ndarray, " action_dim"]:
        """What the suite's own scripted expert would do now, within the limits.

        Raises ValueError if the suite has none.
        """
        action = np.asarray(self.scene.expert_action(), dtype=np.float64)
        return np.clip(action, self._low, self._high)

    def close(self) -> None:
        self.scene.close()


class ForeignExpert:
    """The suite's own scripted expert, asked through the environment; an `Expert`."""

    def action(self, env: ForeignEnv) -> Float[np.ndarray, " action_dim"]:
        """The noise-free action for the present state."""
        return env.expert_action()
