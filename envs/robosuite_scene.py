"""The simulated table: robosuite builds the model (arm, gripper, table, things), Ulna drives it.

robosuite is imported lazily, because importing it costs seconds and the compiled controller needs
only the model. `StockController` is robosuite's own OSC_POSE in Python, kept as the oracle that
`envs/osc_numba.py` is tested against.

Next: `envs/robosuite_env.py` (the environment around this model).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import hashlib
import importlib
import importlib.metadata
import logging
import warnings
from pathlib import Path
from typing import Any, Protocol

import mujoco
import numpy as np
from jaxtyping import Float

from . import cube_task, robosuite_furniture
from .cache import read_cached, write_cached
from .cube_task import CUBE_HALF_M, TABLE_HEIGHT_M, CubeTask
from .panda import CONTROL_HZ

SUBSTEPS = 25
"""Physics steps of 2 ms per control period."""
ARM_HOME_RAD = (0.0, 0.19634954, 0.0, -2.61799388, 0.0, 2.94159265, 0.78539816)
"""robosuite's initial Panda pose: the tool 20 cm above the table, pointing down."""
FRONT_CAMERA = {
    "pos": (1.02, 0.0, 1.75),
    "target": (0.0, 0.0, 0.89),
    "fovy_deg": 18.5,
}
"""Opposite the arm, looking down on the placement region: world frame, metres."""
WRIST_CAMERA = {"pos": (0.10, 0.0, 0.0), "tilt_deg": -25.0}
"""In the hand's frame: further out than robosuite's and tilted towards the finger tips, so that
the cube stays in view until it is held."""


class Controller(Protocol):
    """Turns actions into joint torques while advancing the physics."""

    def reset(self, gripper_command: float) -> None:
        """Forget the past; `gripper_command` in [-1 open, 1 closed] is its only memory."""
        ...

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        """Advance one control period under `action`."""
        ...

    @property
    def gripper_command(self) -> float: ...


def build_scene(task: CubeTask) -> Any:
    """robosuite's environment of a Panda at a table with the things of `task`; costs seconds."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # robosuite advertises its optional parts while importing
    try:
        with warnings.catch_warnings():
            # robosuite 1.5.1 has unescaped backslashes in docstrings
            warnings.simplefilter("ignore", SyntaxWarning)
            importlib.import_module("robosuite")
    finally:
        logging.disable(silenced)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    from robosuite.controllers import load_composite_controller_config
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.objects import BoxObject
    from robosuite.models.tasks import ManipulationTask

    class CubeTable(ManipulationEnv):
        """Arm, table and free things; placement and success live in `RobosuiteEnv`."""

        def _load_model(self) -> None:
            super()._load_model()
            robot = self.robots[0].robot_model
            robot.set_base_xpos(robot.base_xpos_offset["table"](0.8))
            arena = TableArena(
                table_full_size=(0.8, 0.8, 0.05), table_offset=(0, 0, TABLE_HEIGHT_M)
            )
            arena.set_origin([0, 0, 0])
            arena.set_camera(
                camera_name="front",
                pos=FRONT_CAMERA["pos"],
                quat=look_at_quat_wxyz(FRONT_CAMERA["pos"], FRONT_CAMERA["target"]),
                camera_attribs={"fovy": str(FRONT_CAMERA["fovy_deg"])},
            )
            robosuite_furniture.add_furniture(arena, task)
            objects: list[Any] = [
                BoxObject(name=cube.name, size=[CUBE_HALF_M] * 3, rgba=cube.rgba)
                for cube in task.cubes
            ]
            objects += robosuite_furniture.distractor_objects(task)
            self.model = ManipulationTask(
                mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=objects
            )

        def reward(self, action: Any = None) -> float:
            return 0.0

        def _check_success(self) -> bool:
            return False

    scene: Any = CubeTable(
        robots="Panda",
        controller_configs=load_composite_controller_config(robot="Panda"),
        initialization_noise=None,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        renderer="mujoco",
        control_freq=CONTROL_HZ,
        hard_reset=False,
        ignore_done=True,
    )
    set_look(scene.sim.model._model)
    return scene


def load_model(task: CubeTask) -> mujoco.MjModel:
    """The model alone, from the user's cache folder if it was built before: importing robosuite
    and building it takes seconds."""
    digest = hashlib.sha256()
    for source in (__file__, str(cube_task.__file__), str(robosuite_furniture.__file__)):
        digest.update(Path(source).read_bytes())
    versions = [importlib.metadata.version(name) for name in ("mujoco", "robosuite")]
    things = (task.cubes, task.distractors, task.pads, task.belt, task.table_friction)
    digest.update(repr((things, versions)).encode())
    name = f"scene-{digest.hexdigest()[:24]}.mjb"
    packed = read_cached(name)
    if packed is None:
        model = build_scene(task).sim.model._model
        buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
        mujoco.mj_saveModel(model, None, buffer)
        write_cached(name, buffer.tobytes())
        return model
    return mujoco.MjModel.from_binary_path(name, {name: packed})


def set_look(model: mujoco.MjModel) -> None:
    """Light and wrist camera. Soft light without gloss keeps a cube's colour on all its sides."""
    model.vis.headlight.ambient[:] = 0.4
    model.vis.headlight.diffuse[:] = 0.3
    model.vis.headlight.specular[:] = 0.0
    model.light_specular[:] = 0.0
    wrist = model.camera("robot0_eye_in_hand").id
    tilt, turned = np.zeros(4), np.zeros(4)
    angle = np.radians(WRIST_CAMERA["tilt_deg"])
    mujoco.mju_axisAngle2Quat(tilt, np.array([1.0, 0.0, 0.0]), angle)
    mujoco.mju_mulQuat(turned, model.cam_quat[wrist], tilt)
    model.cam_pos[wrist] = WRIST_CAMERA["pos"]
    model.cam_quat[wrist] = turned


def look_at_quat_wxyz(
    position: tuple[float, float, float], target: tuple[float, float, float]
) -> Float[np.ndarray, "4"]:
    """Orientation of a MuJoCo camera (looks along -z, y up) at `position` facing `target`."""
    backward = np.subtract(position, target)
    backward /= np.linalg.norm(backward)
    right = np.cross((0.0, 0.0, 1.0), backward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward], axis=1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, rotation.ravel())
    return quat


class StockController:
    """robosuite's Python OSC_POSE, stepped without its observables and cameras."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._robot = scene.robots[0]
        self._arm = self._robot.part_controllers["right"]
        self._gripper = self._robot.gripper["right"]

    def reset(self, gripper_command: float) -> None:
        self._gripper.current_action = np.array([-gripper_command, gripper_command])
        self._arm.initial_joint = np.array(ARM_HOME_RAD)
        for controller in self._robot.part_controllers.values():
            # The controller skips its first look at the arm after a reset and would use the mass
            # matrix of the pose before it.
            controller.new_update = True

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        for substep in range(SUBSTEPS):
            self._scene.sim.step1()
            self._robot.control(action, policy_step=substep == 0)
            self._scene.sim.step2()

    @property
    def gripper_command(self) -> float:
        return float(self._gripper.current_action[1])
