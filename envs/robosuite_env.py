"""Cubes on a table, a Panda arm, a sentence: the simulated tasks of `envs/cube_tasks.py`.

The model is built once; an episode starts by writing a state, so it depends on its seed alone.
Physics (`step`) and pictures (`observe`, `render`) are apart. What an episode knows besides physics
(where the pads are, when the kick comes, which skill was done first) is its memory, the last part
of `simulator_state`.

Next: `envs/cube_goals.py` (when it is done), `envs/cube_experts.py` (who shows how),
`envs/renderer.py` (how pictures are made).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from typing import Literal

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Observation, unknown_name
from . import cube_goals
from .cube_table import CubeTable
from .cube_task import CubeTask
from .osc_numba import CompiledController
from .panda import CAMERAS, CONTROL_HZ, IMAGE_SIZE, embodiment_of
from .renderer import Renderer
from .robosuite_scene import Controller, StockController, build_scene, load_model

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


class RobosuiteEnv(CubeTable):
    """A `CubeTask` as an `Env`. One process, one environment, one GL context."""

    def __init__(
        self,
        task: CubeTask,
        render_profile: str = "fast",
        controller: Literal["stock", "compiled"] = "compiled",
        image_size: int = IMAGE_SIZE,
    ) -> None:
        self.task = task.name
        self.instructions = task.instructions
        self.max_steps = task.max_steps
        self.embodiment = embodiment_of(render_profile, image_size)
        if controller == "stock":
            scene = build_scene(task)
            super().__init__(task, scene.sim.model._model, scene.sim.data._data)
            self._controller: Controller = StockController(scene)
        else:
            model = load_model(task)
            super().__init__(task, model, mujoco.MjData(model))
            self._controller = CompiledController(self.model, self.data)
        self._instruction = task.instructions[0]
        self._renderer: Renderer | None = None
        self.reset(0)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        if instruction is None:
            # A stream of its own: naming the instruction must not move the cubes.
            choice = np.random.default_rng([seed, 1]).integers(len(self.instructions))
            instruction = self.instructions[choice]
        self._check_instruction(instruction)
        self.lay_out(seed)
        self._begin(GRIPPER_START, instruction)

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        self._check_instruction(instruction)
        physics = mujoco.mj_stateSize(self.model, PHYSICS_STATE)
        expected = physics + 1 + sum(self.cube_task.memory.values())
        if state.shape != (expected,):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task}, which "
                f"has {expected}; restore it into the task it was recorded from"
            )
        written = np.ascontiguousarray(state[:physics], dtype=np.float64)
        mujoco.mj_setState(self.model, self.data, written, PHYSICS_STATE)
        start = physics + 1
        for values in self._memory.values():
            values[:] = state[start : start + len(values)]
            start += len(values)
        self._begin(float(state[physics]), instruction)

    def _begin(self, gripper_command: float, instruction: str) -> None:
        """Bring poses up to date with a state just written, without disturbing that state."""
        self._lay_pads()
        if self._paint_distractors() and self._renderer is not None:
            self._renderer.repaint()
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

    @property
    def goal(self) -> cube_goals.Goal:
        """What the present instruction asks."""
        return self.cube_task.goals[self.instructions.index(self._instruction)]

    @property
    def order(self) -> Float[np.ndarray, "3"] | None:
        """The memory of `cube_goals.advance`; None in a task without sequences."""
        return self._memory.get("order")

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        if not np.all(np.isfinite(action)):
            raise ValueError(f"action {action} is not finite; a policy must send finite numbers")
        if "kick" in self._memory:
            self._kick_if_due()
        self._controller.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        # Physics leaves the poses one substep behind the positions; pictures and state want now.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        if self.order is not None:
            cube_goals.advance(self.goal, self, self.order)

    def _kick_if_due(self) -> None:
        tick, *velocities = self._memory["kick"]
        if round(float(self.data.time) * CONTROL_HZ) == tick:
            cube = self.named_cube()
            address = self._thing_qvel[cube]
            self.data.qvel[address : address + 2] += velocities[2 * cube : 2 * cube + 2]

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
        """Index of the cube the instruction names (first)."""
        return self.goal.cube

    def outcome(self) -> str:
        """What has been done: names of the lifted cubes joined by `+`, `red on green`, `none`."""
        return cube_goals.outcome(self.cube_task.goals, self, self.order)

    def success(self) -> bool:
        return cube_goals.reached(self.goal, self, self.order)

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
        physics = np.empty(mujoco.mj_stateSize(self.model, PHYSICS_STATE))
        mujoco.mj_getState(self.model, self.data, physics, PHYSICS_STATE)
        return np.concatenate([physics, [self._controller.gripper_command], *self._memory.values()])

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
