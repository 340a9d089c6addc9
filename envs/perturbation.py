"""The same task under other light, another camera, other surfaces, ... : one axis at a time.

    axis           changes   mild                             strong
    lighting       pixels    lamps turned by 20 degrees, all  45 degrees, light 0.45 or 1.7 times,
                             light 0.75 or 1.3 times          tinted by up to 25 %
    camera         pixels    moved by 2 cm (on the hand       4 cm (10 mm), 10 %
                             5 mm), turned by 5 % of its
                             field of view
    texture        pixels    table, floor and walls tinted    squares of two colours instead
                             by up to 25 %
    distractors    pixels    2 things more on the table, to   5 things
                             be seen, not touched
    start_pose     physics   every joint off by 0.05 rad      0.15 rad (standard deviation)
    action_noise   physics   0.1 of full speed on what        0.3
                             moves the tool, every tick
    rendering      pixels    drawn by the next render         by the one farthest from its own
                             profile (`envs/renderer.py`)

What is changed follows from the episode's seed (and the axis) alone. `success`, instruction and
limits are the task's own. Next: `envs/perturbation_looks.py` (the picture
axes), `envs/perturbation_stage.py` (where they are drawn).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Embodiment, Observation, unknown_name
from .env import Env
from .perturbation_looks import LOOKS
from .perturbation_stage import stage_of

AXES = ("lighting", "camera", "texture", "distractors", "start_pose", "action_noise", "rendering")
STRENGTHS = ("mild", "strong")
JOINT_NOISE_RAD = {"mild": 0.05, "strong": 0.15}
ACTION_NOISE = {"mild": 0.1, "strong": 0.3}
STILL_ACTIONS = ("gripper",)
"""Action entries that get no noise: half a command to a gripper is none."""
OTHER_PROFILE = {
    "mild": {"fast": "near", "near": "exact", "exact": "near"},
    "strong": {"fast": "exact", "near": "fast", "exact": "fast"},
}
"""By strength and the profile that a policy knows."""
TRIES = 50


def perturbed(env: Env, axis: str, strength: str = "mild", seed: int = 0) -> "PerturbedEnv":
    """`env` changed along one of `AXES`; reset the wrapper before anything else.

    `env` itself stays as it is, so that it can go on unperturbed or along another axis later.
    `seed` chooses another family of changes for the same episodes.
    Raises ValueError for an unknown axis or strength, and for an environment whose model or
    pictures are out of reach (another interpreter, not MuJoCo).
    """
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    if strength not in STRENGTHS:
        raise unknown_name("strength", strength, STRENGTHS)
    if isinstance(env, PerturbedEnv):
        raise ValueError(
            f"task {env.task} is perturbed along axis {env.axis} already; one axis at a time"
        )
    model, data = getattr(env, "model", None), getattr(env, "data", None)
    if not (isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)):
        raise ValueError(
            f"task {env.task} cannot be perturbed: its environment has no MuJoCo model in this "
            "process; the language and robosuite tasks do"
        )
    return PerturbedEnv(env, axis, strength, seed)


class PerturbedEnv:
    """An `Env` around another, which it leaves as it is. Its states are two numbers longer: the
    episode's seed and tick."""

    def __init__(self, env: Any, axis: str, strength: str, seed: int) -> None:
        self._env = env
        self.axis, self.strength = axis, strength
        self._family = [AXES.index(axis), seed]
        self._joints = [
            joint
            for joint in range(env.model.njnt)
            if env.model.joint(joint).name.startswith("robot0_")
            and env.model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
        ]
        names = env.embodiment.action_names
        self._noisy = np.array([name not in STILL_ACTIONS for name in names], float)
        if axis == "start_pose" and not self._joints:
            raise ValueError(
                f"task {env.task} has no joints called robot0_...: axis start_pose does not know "
                "which ones to move"
            )
        own = env.embodiment.render_profile
        if axis == "rendering" and own not in OTHER_PROFILE[strength]:
            raise ValueError(
                f"task {env.task} is drawn in one way only ({own!r}); axis rendering needs one of "
                f"{', '.join(OTHER_PROFILE[strength])}"
            )
        self._profile = OTHER_PROFILE[strength][own] if axis == "rendering" else None
        self._stage = stage_of(env) if axis in LOOKS else None
        self._seed = self._tick = 0

    @property
    def task(self) -> str:
        return self._env.task

    @property
    def embodiment(self) -> Embodiment:
        return self._env.embodiment

    @property
    def instructions(self) -> tuple[str, ...]:
        return self._env.instructions

    @property
    def max_steps(self) -> int:
        return self._env.max_steps

    @property
    def instruction(self) -> str:
        return self._env.instruction

    def __getattr__(self, name: str) -> Any:
        """What only this task knows, such as where its objects are, for experts and verdicts."""
        if name == "_env":  # before __init__ there is none to ask
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        self._env.reset(seed, instruction)
        self._seed, self._tick = seed, 0
        if self.axis == "start_pose":
            self._move_joints()
        self._dress()

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        own = len(self._env.simulator_state()) + 2
        if state.shape != (own,):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task} under "
                f"axis {self.axis}, which has {own} (two more than unperturbed); restore it into "
                "what it was recorded from"
            )
        self._env.restore(state[:-2], instruction)
        self._seed, self._tick = int(state[-2]), int(state[-1])
        self._dress()

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        return np.concatenate([self._env.simulator_state(), [self._seed, self._tick]])

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        if self.axis == "action_noise":
            action = self._with_noise(np.asarray(action, np.float64))
        self._env.step(action)
        self._tick += 1

    def _with_noise(self, action: np.ndarray) -> np.ndarray:
        body = self.embodiment
        half = (np.array(body.action_high) - body.action_low) / 2
        drawn = self._rng(self._tick).normal(size=len(action))
        clipped = np.clip(action, body.action_low, body.action_high)
        return clipped + ACTION_NOISE[self.strength] * half * self._noisy * drawn

    def _rng(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *self._family, *more])

    def _move_joints(self) -> None:
        """Another start, in which the arm touches nothing."""
        state, instruction = self._env.simulator_state(), self._env.instruction
        model, data, rng = self._env.model, self._env.data, self._rng()
        places = 1 + model.jnt_qposadr[self._joints]  # a state starts with the time
        low, high = model.jnt_range[self._joints].T
        touching = int(data.ncon)
        for _ in range(TRIES):
            moved = state.copy()
            noise = JOINT_NOISE_RAD[self.strength] * rng.normal(size=len(places))
            moved[places] += noise
            if np.all((moved[places] > low) & (moved[places] < high)):
                self._env.restore(moved, instruction)
                if data.ncon <= touching and not self._env.success():
                    return
        raise ValueError(
            f"found no free start pose for seed {self._seed} of task {self.task} in {TRIES} tries"
        )

    def _dress(self) -> None:
        """Change the looks as the episode's seed says."""
        if self._stage is not None:
            self._stage.dress(self.axis, self.strength, self._rng())

    def render(
        self, camera: str, height: int, width: int, profile: str | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self._stage is None:
            return self._env.render(camera, height, width, profile or self._profile)
        with self._stage.on():
            return self._env.render(camera, height, width, profile)

    def observe(self) -> Observation:
        images = {
            camera.name: self.render(camera.name, camera.height, camera.width)
            for camera in self.embodiment.cameras
        }
        return Observation(images=images, state=self.state(), instruction=self.instruction)

    def state(self) -> Float[np.ndarray, " state_dim"]:
        return self._env.state()

    def joint_position_rad(self) -> Float[np.ndarray, " joints"]:
        return self._env.joint_position_rad()

    def time_ns(self) -> int:
        return self._env.time_ns()

    def success(self) -> bool:
        return self._env.success()

    def outcome(self) -> str:
        return self._env.outcome()

    def close(self) -> None:
        """Close the environment inside as well."""
        if self._stage is not None:
            self._stage.close()
        self._env.close()
