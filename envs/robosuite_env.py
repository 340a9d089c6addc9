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
from jaxtyping import Float

from . import cube_goals
from .cube_table import CubeTable
from .cube_task import CubeTask
from .osc_numba import CompiledController
from .panda import CONTROL_HZ, IMAGE_SIZE, embodiment_of
from .robosuite_arm import checked_action
from .robosuite_scene import Controller, StockController, build_scene, load_model

GRIPPER_START = 0.0
"""Half open, robosuite's own start."""


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
        physics = self._physics_size
        expected = physics + 1 + sum(self.cube_task.memory.values())
        if state.shape != (expected,):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task}, which "
                f"has {expected}; restore it into the task it was recorded from"
            )
        self._write_physics(state[:physics])
        start = physics + 1
        for values in self._memory.values():
            values[:] = state[start : start + len(values)]
            start += len(values)
        self._begin(float(state[physics]), instruction)

    def _begin(self, gripper_command: float, instruction: str) -> None:
        """Go on from the state just written."""
        self._lay_pads()
        if self._paint_distractors() and self._renderer is not None:
            self._renderer.repaint()
        self._compute_poses()
        self._controller.reset(gripper_command)
        self._instruction = instruction

    @property
    def goal(self) -> cube_goals.Goal:
        """What the present instruction asks."""
        return self.cube_task.goals[self.instructions.index(self._instruction)]

    @property
    def order(self) -> Float[np.ndarray, "3"] | None:
        """The memory of `cube_goals.advance`; None in a task without sequences."""
        return self._memory.get("order")

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        checked = checked_action(action)
        if "kick" in self._memory:
            self._kick_if_due()
        self._controller.step(checked)
        self._follow_physics()
        if self.order is not None:
            cube_goals.advance(self.goal, self, self.order)

    def _kick_if_due(self) -> None:
        tick, *velocities = self._memory["kick"]
        if round(float(self.data.time) * CONTROL_HZ) == tick:
            cube = self.named_cube()
            address = self._thing_qvel[cube]
            self.data.qvel[address : address + 2] += velocities[2 * cube : 2 * cube + 2]

    def named_cube(self) -> int:
        """Index of the cube the instruction names (first)."""
        return self.goal.cube

    def outcome(self) -> str:
        """What has been done: names of the lifted cubes joined by `+`, `red on green`, `none`."""
        return cube_goals.outcome(self.cube_task.goals, self, self.order)

    def success(self) -> bool:
        return cube_goals.reached(self.goal, self, self.order)

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        command = [self._controller.gripper_command]
        return np.concatenate([self._physics_state(), command, *self._memory.values()])
