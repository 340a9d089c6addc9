"""Cubes on a table, a Panda arm, a sentence: the simulated tasks of `envs/tasks.py`.

The model is built once; an episode starts by writing a state, so it depends on its seed alone.
Physics (`step`) and pictures (`observe`, `render`) are apart.

Next: `envs/experts.py` (who shows how it is done), `envs/renderer.py` (how pictures are made).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Camera, Embodiment, Observation, unknown_name
from .osc_numba import CompiledController
from .renderer import PROFILES, Renderer
from .robosuite_scene import (
    ARM_HOME_RAD,
    CONTROL_HZ,
    CUBE_HALF_M,
    TABLE_HEIGHT_M,
    Controller,
    Cube,
    StockController,
    build_scene,
    load_model,
)

STATE_NAMES = (
    *(f"tool_{axis}_m" for axis in "xyz"),
    *(f"tool_rotation_{row}{column}" for column in "xy" for row in "xyz"),
    "finger_left_m",
    "finger_right_m",
)
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
CAMERAS = {"front": "front", "wrist": "robot0_eye_in_hand"}
"""Our word for a camera -> its name in the model."""
GRIPPER_START = 0.0
"""Half open, robosuite's own start."""
PHYSICS_STATE = (
    mujoco.mjtState.mjSTATE_TIME
    | mujoco.mjtState.mjSTATE_QPOS
    | mujoco.mjtState.mjSTATE_QVEL
    | mujoco.mjtState.mjSTATE_ACT
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
)
"""What the next physics step depends on; forces from outside are never applied here."""


@dataclass(frozen=True)
class CubeTask:
    """What lies on the table, what is asked, and where things may be placed."""

    name: str
    cubes: tuple[Cube, ...]
    instructions: tuple[str, ...]
    """One per cube, in the same order."""
    max_steps: int
    region_half_m: tuple[float, float] = (0.12, 0.15)
    """Cube centres lie within this of the table's middle, along x (away from the arm) and y."""
    spacing_m: float = 0.085
    """Smallest distance between cube centres: the open gripper fits in between."""
    lift_m: float = 0.04
    """A cube counts as lifted when its lowest corner is higher than this above the table."""
    arm_noise_rad: float = 0.02
    """Standard deviation of the initial joint angles around the home pose."""


def embodiment_of(render_profile: str = "fast", image_size: int = 64) -> Embodiment:
    """What the arm of every task here senses and obeys."""
    if render_profile not in PROFILES:
        raise unknown_name("render profile", render_profile, PROFILES)
    return Embodiment(
        name="panda_osc_pose",
        control_hz=float(CONTROL_HZ),
        state_names=STATE_NAMES,
        action_names=ACTION_NAMES,
        action_low=(-1.0,) * 7,
        action_high=(1.0,) * 7,
        action_meaning=(
            "OSC_POSE goal relative to the tool's present pose, axes of the robot base: 1 is "
            "0.05 m (dx dy dz) or 0.5 rad of axis-angle (drx dry drz); gripper by its sign, "
            "> 0 closes, < 0 opens"
        ),
        cameras=tuple(Camera(name, image_size, image_size) for name in CAMERAS),
        joint_names=tuple(f"panda_joint{i}" for i in range(1, 8)),
        render_profile=render_profile,
    )


class RobosuiteEnv:
    """A `CubeTask` as an `Env`. One process, one environment, one GL context."""

    def __init__(
        self,
        task: CubeTask,
        render_profile: str = "fast",
        controller: Literal["stock", "compiled"] = "compiled",
        image_size: int = 64,
    ) -> None:
        self.task = task.name
        self.instructions = task.instructions
        self.max_steps = task.max_steps
        self.embodiment = embodiment_of(render_profile, image_size)
        self.cube_task = task
        self.model: mujoco.MjModel
        self.data: mujoco.MjData
        self._controller: Controller
        if controller == "stock":
            scene = build_scene(task.cubes)
            self.model, self.data = scene.sim.model._model, scene.sim.data._data
            self._controller = StockController(scene)
        else:
            self.model = load_model(task.cubes)
            self.data = mujoco.MjData(self.model)
            self._controller = CompiledController(self.model, self.data)
        self._arm_qpos = self._qpos_addresses([f"robot0_joint{i}" for i in range(1, 8)])
        self._finger_qpos = self._qpos_addresses(
            [f"gripper0_right_finger_joint{i}" for i in (1, 2)]
        )
        self._cube_qpos = self._qpos_addresses([f"{cube.name}_joint0" for cube in task.cubes])
        self._tool_site = self.model.site("gripper0_right_grip_site").id
        self._base_site = self.model.site("robot0_right_center").id
        self._cube_bodies = [self.model.body(f"{cube.name}_main").id for cube in task.cubes]
        self._instruction = task.instructions[0]
        self._renderer: Renderer | None = None
        self.reset(0)

    def _qpos_addresses(self, joints: list[str]) -> np.ndarray:
        return np.array([self.model.joint(name).qposadr[0] for name in joints])

    def reset(self, seed: int, instruction: str | None = None) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        if instruction is None:
            # A stream of its own: naming the instruction must not move the cubes.
            choice = np.random.default_rng([seed, 1]).integers(len(self.instructions))
            instruction = self.instructions[choice]
        self._check_instruction(instruction)
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos
        noise = np.clip(rng.normal(size=7), -2, 2) * self.cube_task.arm_noise_rad
        qpos[self._arm_qpos] = np.array(ARM_HOME_RAD) + noise
        qpos[self._finger_qpos] = (0.020833, -0.020833)
        places = place_apart(
            rng, len(self._cube_qpos), self.cube_task.region_half_m, self.cube_task.spacing_m
        )
        for address, place in zip(self._cube_qpos, places, strict=True):
            yaw = rng.uniform(-np.pi, np.pi)
            qpos[address : address + 3] = (*place, TABLE_HEIGHT_M + CUBE_HALF_M)
            qpos[address + 3 : address + 7] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self._begin(GRIPPER_START, instruction)

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        self._check_instruction(instruction)
        expected = mujoco.mj_stateSize(self.model, PHYSICS_STATE) + 1
        if state.shape != (expected,):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task}, which "
                f"has {expected}; restore it into the task it was recorded from"
            )
        physics = np.ascontiguousarray(state[:-1], dtype=np.float64)
        mujoco.mj_setState(self.model, self.data, physics, PHYSICS_STATE)
        self._begin(float(state[-1]), instruction)

    def _begin(self, gripper_command: float, instruction: str) -> None:
        """Bring poses up to date with a state just written, without disturbing that state."""
        physics = np.zeros(mujoco.mj_stateSize(self.model, PHYSICS_STATE))
        mujoco.mj_getState(self.model, self.data, physics, PHYSICS_STATE)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, physics, PHYSICS_STATE)
        self._controller.reset(gripper_command)
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
        self._controller.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        # Physics leaves the poses one substep behind the positions; pictures and state want now.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def tool_pose(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Position (m) and rotation of the point between the finger tips, in the robot base."""
        base = self.data.site_xmat[self._base_site].reshape(3, 3)
        offset = self.data.site_xpos[self._tool_site] - self.data.site_xpos[self._base_site]
        return base.T @ offset, base.T @ self.data.site_xmat[self._tool_site].reshape(3, 3)

    def cube_pose(self, cube: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Position (m) and rotation of a cube, in the robot base."""
        base = self.data.site_xmat[self._base_site].reshape(3, 3)
        offset = self.data.xpos[self._cube_bodies[cube]] - self.data.site_xpos[self._base_site]
        return base.T @ offset, base.T @ self.data.xmat[self._cube_bodies[cube]].reshape(3, 3)

    def table_height_m(self) -> float:
        """Height of the table top in the robot base."""
        return TABLE_HEIGHT_M - float(self.data.site_xpos[self._base_site][2])

    def finger_opening_m(self) -> float:
        """Distance between the finger pads, 0 to 0.08."""
        left, right = self.data.qpos[self._finger_qpos]
        return float(left - right)

    def state(self) -> Float[np.ndarray, " state_dim"]:
        position, rotation = self.tool_pose()
        fingers = self.data.qpos[self._finger_qpos]
        return np.concatenate([position, rotation[:, 0], rotation[:, 1], fingers]).astype(
            np.float32
        )

    def joint_position_rad(self) -> Float[np.ndarray, "7"]:
        """Measured arm joints, in the order of `embodiment.joint_names`."""
        return self.data.qpos[self._arm_qpos].copy()

    def time_ns(self) -> int:
        """Simulated time since the reset."""
        return round(float(self.data.time) * 1e9)

    def named_cube(self) -> int:
        """Index of the cube the instruction names."""
        return self.instructions.index(self._instruction)

    def outcome(self) -> str:
        """Names of the lifted cubes joined by `+`, or `none`."""
        lifted = []
        for cube, body in zip(self.cube_task.cubes, self._cube_bodies, strict=True):
            up = np.abs(self.data.xmat[body].reshape(3, 3)[2])
            bottom = self.data.xpos[body][2] - CUBE_HALF_M * up.sum()
            if bottom > TABLE_HEIGHT_M + self.cube_task.lift_m:
                lifted.append(cube.name)
        return "+".join(lifted) or "none"

    def success(self) -> bool:
        return self.outcome() == self.cube_task.cubes[self.named_cube()].name

    def observe(self) -> Observation:
        images = {
            camera.name: self.render(camera.name, camera.height, camera.width)
            for camera in self.embodiment.cameras
        }
        return Observation(images=images, state=self.state(), instruction=self._instruction)

    def render(
        self, camera: str, height: int, width: int, profile: str | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        if camera not in CAMERAS:
            raise unknown_name("camera", camera, CAMERAS)
        if self._renderer is None:
            self._renderer = Renderer(self.model)
        profile = profile or self.embodiment.render_profile
        return self._renderer.render(self.data, CAMERAS[camera], height, width, profile)

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        state = np.empty(mujoco.mj_stateSize(self.model, PHYSICS_STATE) + 1)
        mujoco.mj_getState(self.model, self.data, state[:-1], PHYSICS_STATE)
        state[-1] = self._controller.gripper_command
        return state

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def place_apart(
    rng: np.random.Generator, count: int, half_m: tuple[float, float], spacing_m: float
) -> Float[np.ndarray, "count 2"]:
    """`count` places uniform in a rectangle around the origin, no two nearer than `spacing_m`."""
    for _ in range(10_000):
        places = rng.uniform(-1.0, 1.0, (count, 2)) * half_m
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if np.all(gaps[np.triu_indices(count, 1)] >= spacing_m):
            return places
    raise ValueError(
        f"found no places for {count} cubes {spacing_m} m apart within +-{half_m} m; "
        "use a larger region or a smaller spacing"
    )
