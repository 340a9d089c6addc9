"""robosuite's own tasks as `Env`: its models and its verdicts, stepped and drawn by Ulna.

The model is built once; an episode starts by writing a state, so it depends on its seed alone
(robosuite's soft reset leaves numpy's global generator in charge). A Panda with its own gripper is
driven by the compiled controller; anything else by robosuite's, five times slower, which the
environment says once as a warning and always as `controller`.

Next: `envs/robosuite_tasks.py` (which tasks), `envs/robosuite_judges.py` (what counts as success).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import warnings
from dataclasses import replace
from typing import Any, Literal

import mujoco
import numpy as np
from jaxtyping import Float

from .osc_numba import CompiledController
from .robosuite_arm import PANDA_ARM, PANDA_FINGERS, RobosuiteArm, checked_action
from .robosuite_judges import JUDGES
from .robosuite_placement import place
from .robosuite_stock import Facts, StockController, build_stock, facts_of, load_scene
from .robosuite_tasks import CAMERAS, IMAGE_SIZE, RobosuiteTask, embodiment_of_task


class HomingController(CompiledController):
    """The compiled controller drawn to the joints an episode began with, as robosuite's is."""

    def begin(
        self, gripper_memory: Float[np.ndarray, "2"], home_rad: Float[np.ndarray, "7"]
    ) -> None:
        """Forget the past."""
        self.reset(float(gripper_memory[1]))
        self._home = home_rad.copy()

    @property
    def gripper_memory(self) -> Float[np.ndarray, "2"]:
        return np.array([-self.gripper_command, self.gripper_command])


class RobosuiteSuiteEnv(RobosuiteArm):
    """A `RobosuiteTask` as an `Env`. One process, one environment, one GL context."""

    def __init__(
        self,
        task: RobosuiteTask,
        render_profile: str = "fast",
        controller: Literal["", "stock", "compiled"] = "",
        robot: str = "Panda",
        image_size: int = IMAGE_SIZE,
    ) -> None:
        self.task = task.name
        self.instructions = (task.instruction,)
        self.paraphrases = {task.instruction: task.paraphrases}
        self.max_steps = task.max_steps
        self.facts: Facts
        self._stock: Any = None
        self._driver: HomingController | StockController
        if not controller:
            controller = "compiled" if robot == "Panda" and task.fingers else "stock"
            if controller == "stock":
                warnings.warn(
                    f"task {task.name} with robot {robot}: the compiled controller knows only the "
                    "Panda with its own gripper, robosuite's drives instead (five times slower)",
                    stacklevel=2,
                )
        self.controller = controller
        if controller == "stock":
            self._stock = build_stock(task.stock_name, robot)
            model, data = self._stock.sim.model._model, self._stock.sim.data._data
            self.facts = facts_of(self._stock)
            self._driver = StockController(self._stock)
        else:
            model, self.facts = load_scene(task.stock_name, robot)
            found = (self.facts.arm_joints, self.facts.gripper_joints)
            if found != (PANDA_ARM, PANDA_FINGERS):
                raise ValueError(
                    f"task {task.name} with robot {robot} has the joints {sum(found, ())}; the "
                    "compiled controller expects a Panda with its own gripper, use 'stock'"
                )
            data = mujoco.MjData(model)
            self._driver = HomingController(model, data)
        facts = self.facts
        super().__init__(
            model, data, CAMERAS, facts.arm_joints, facts.gripper_joints, facts.tool_site
        )
        self.embodiment = embodiment_of_task(task, render_profile, image_size)
        if robot != "Panda":
            tool = tuple(name for name in self.embodiment.state_names if name.startswith("tool"))
            self.embodiment = replace(
                self.embodiment,
                name=self.embodiment.name.replace("panda", robot.lower()),
                state_names=tool + self.facts.gripper_joints,
                joint_names=self.facts.arm_joints,
            )
        self._judge = JUDGES[task.judge]
        fixed = [row for row in self.facts.placements if row.varies and not row.joint]
        self._moved_bodies = np.array([self.model.body(row.body).id for row in fixed], int)
        markers = self.facts.markers
        self._marker_bodies = np.array(
            [self.model.body(name).id for name in (markers.bodies if markers else ())], int
        )
        self._sizes = (
            self._physics_size,
            len(self.facts.gripper_actuators),
            len(self._arm_qpos),
            7 * len(self._moved_bodies),
            3 * len(self._marker_bodies),
        )
        self._home_rad = np.array(self.facts.arm_home_rad)
        self.reset(0)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; use 0 or more")
        instruction = self.instructions[0] if instruction is None else instruction
        self._check_instruction(instruction)
        rng, facts = np.random.default_rng(seed), self.facts
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos
        noise = rng.standard_normal(len(facts.arm_home_rad)) * facts.start_noise_rad
        self._home_rad = np.array(facts.arm_home_rad) + noise
        qpos[self._arm_qpos] = self._home_rad
        qpos[self._finger_qpos] = facts.gripper_home_m
        for row, pose in zip(facts.placements, place(facts.placements, rng), strict=True):
            if row.joint:
                address = self.model.joint(row.joint).qposadr[0]
                qpos[address : address + 7] = pose
            else:
                body = self.model.body(row.body).id
                self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]
        for joint in facts.hidden_joints:
            address = self.model.joint(joint).qposadr[0]
            qpos[address : address + 7] = (10, 10, 10, 1, 0, 0, 0)
        if facts.markers is not None:
            self.model.body_pos[self._marker_bodies] = facts.markers.scatter(rng)
        self._begin(np.zeros(self._sizes[1]), instruction)

    def restore(self, state: Float[np.ndarray, " simulator_state_dim"], instruction: str) -> None:
        self._check_instruction(instruction)
        if state.shape != (sum(self._sizes),):
            raise ValueError(
                f"simulator state of {state.shape[0]} numbers does not fit task {self.task}, which "
                f"has {sum(self._sizes)}; restore it into the task it was recorded from"
            )
        parts = np.split(np.asarray(state, np.float64), np.cumsum(self._sizes)[:-1])
        physics, gripper_memory, self._home_rad, moved, marked = parts
        self._write_physics(physics)
        poses = moved.reshape(-1, 7)
        self.model.body_pos[self._moved_bodies] = poses[:, :3]
        self.model.body_quat[self._moved_bodies] = poses[:, 3:]
        self.model.body_pos[self._marker_bodies] = marked.reshape(-1, 3)
        self._begin(gripper_memory, instruction)

    def _begin(self, gripper_memory: np.ndarray, instruction: str) -> None:
        """Go on from the state just written."""
        self._compute_poses()
        self._driver.begin(gripper_memory, self._home_rad)
        self._instruction = instruction
        if self._stock is not None and self.facts.markers is not None:
            wiped = self.markers_wiped()
            markers = self._stock.model.mujoco_arena.markers
            self._stock.wiped_markers = [m for m, gone in zip(markers, wiped, strict=True) if gone]

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        self._driver.step(checked_action(action))
        if self.facts.markers is not None:
            self._wipe()
        self._follow_physics()
        # So that a restored state is judged as the stepped one was.
        mujoco.mj_collision(self.model, self.data)

    def _wipe(self) -> None:
        """Let robosuite see which markers the tool is on, and sink those into the table."""
        assert self._stock is not None and self.facts.markers is not None
        self._stock.reward(None)
        gone = {marker.root_body for marker in self._stock.wiped_markers}
        for name, body in zip(self.facts.markers.bodies, self._marker_bodies, strict=True):
            if name in gone:
                self.model.body_pos[body, 2] = 0.0
        # robosuite makes them transparent in the model, where the next episode would find them so.
        for geom in self.facts.markers.geoms:
            self.model.geom_rgba[self.model.geom(geom).id, 3] = 1.0

    def markers_wiped(self) -> np.ndarray:
        """Which markers are gone: those inside the table."""
        return self.model.body_pos[self._marker_bodies, 2] == 0.0

    def finger_opening_m(self) -> float:
        """Distance between the finger pads, 0 to 0.08."""
        left, right = self.data.qpos[self._finger_qpos]
        return float(left - right)

    def outcome(self) -> str:
        """`done` or `none`, as robosuite's own check of success says."""
        return "done" if self.success() else "none"

    def success(self) -> bool:
        return self._judge(self)

    def simulator_state(self) -> Float[np.ndarray, " simulator_state_dim"]:
        moved, marked = self._moved_bodies, self._marker_bodies
        poses = np.concatenate([self.model.body_pos[moved], self.model.body_quat[moved]], axis=1)
        return np.concatenate(
            [
                self._physics_state(),
                self._driver.gripper_memory,
                self._home_rad,
                poses.ravel(),
                self.model.body_pos[marked].ravel(),
            ]
        )
