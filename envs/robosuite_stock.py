"""robosuite's own environments as Ulna takes them: a model, and facts about it.

robosuite builds a scene once; the model and what has to be known about it (joints, where objects
may be placed, which geoms touch) go into the user's cache folder, so that later starts need not
import robosuite, which costs seconds. `StockController` is robosuite's own controller, for arms
and grippers that the compiled one does not know, and the oracle in tests.

Next: `envs/robosuite_placement.py` (where objects are put), `envs/robosuite_suite.py` (who asks).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import hashlib
import importlib
import importlib.metadata
import json
import logging
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from .cache import read_cached, write_cached
from .robosuite_placement import Markers, Placement
from .robosuite_scene import CONTROL_HZ, SUBSTEPS

BUILD_SEED = 0
"""robosuite draws some sizes while it builds (the cube of Lift): always the same ones here."""


@dataclass(frozen=True)
class Facts:
    """What has to be known about a model to reset, drive and judge it."""

    arm_joints: tuple[str, ...]
    gripper_joints: tuple[str, ...]
    gripper_actuators: tuple[str, ...]
    tool_site: str
    arm_home_rad: tuple[float, ...]
    gripper_home_m: tuple[float, ...]
    start_noise_rad: float
    """Standard deviation of the initial joint angles around `arm_home_rad`."""
    placements: tuple[Placement, ...] = ()
    """In the order in which robosuite draws them."""
    hidden_joints: tuple[str, ...] = ()
    """Free joints of objects that this variant of the task puts out of the way."""
    markers: Markers | None = None
    """Dirt on the table, for Wipe."""
    geoms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Colliding geoms by object, and those of the `left_fingerpad` and `right_fingerpad`."""
    numbers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """What success is measured against, such as `table_m` and `bin_m`."""


def import_robosuite() -> Any:
    """robosuite without the advertisements it logs while it is imported."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # robosuite 1.5.1 has unescaped backslashes in docstrings
            warnings.simplefilter("ignore", SyntaxWarning)
            robosuite = importlib.import_module("robosuite")
    finally:
        logging.disable(silenced)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return robosuite


def build_stock(stock_name: str, robot: str = "Panda") -> Any:
    """robosuite's environment, without renderer and cameras; the same model every time."""
    robosuite = import_robosuite()
    from robosuite.controllers import load_composite_controller_config

    before = np.random.get_state()
    np.random.seed(BUILD_SEED)
    try:
        return robosuite.make(
            stock_name,
            robots=robot,
            controller_configs=load_composite_controller_config(robot=robot),
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            renderer="mujoco",
            control_freq=CONTROL_HZ,
            hard_reset=False,
            ignore_done=True,
        )
    finally:
        np.random.set_state(before)


def facts_of(stock: Any) -> Facts:
    """Read the facts off robosuite's environment."""
    robot = stock.robots[0]
    gripper = robot.gripper["right"]
    if robot.initialization_noise["type"] != "gaussian":
        raise ValueError(
            f"initial joints of {type(stock).__name__} have "
            f"{robot.initialization_noise['type']} noise; only gaussian is known"
        )
    objects = {model.name: model for model in stock.model.mujoco_objects}
    placements: list[Placement] = []
    initializer = getattr(stock, "placement_initializer", None)
    if initializer is not None:
        samplers = getattr(initializer, "samplers", None) or {"": initializer}
        for sampler in samplers.values():
            placements += [Placement.of(sampler, model) for model in sampler.mujoco_objects]
    kept = getattr(stock, "obj_to_use", None)
    hidden = [name for name in objects if kept and name != kept and objects[name].joints]
    geoms = {name: tuple(model.contact_geoms) for name, model in objects.items()}
    for pad in ("left_fingerpad", "right_fingerpad"):
        geoms[pad] = tuple(gripper.important_geoms.get(pad, ()))
    return Facts(
        arm_joints=tuple(robot.robot_joints),
        gripper_joints=tuple(gripper.joints),
        gripper_actuators=tuple(gripper.actuators),
        tool_site=gripper.important_sites["grip_site"],
        arm_home_rad=tuple(map(float, robot.init_qpos)),
        gripper_home_m=tuple(map(float, gripper.init_qpos if gripper.joints else ())),
        start_noise_rad=float(robot.initialization_noise["magnitude"]),
        placements=tuple(placements),
        hidden_joints=tuple(objects[name].joints[0] for name in hidden),
        markers=Markers.of(stock) if hasattr(stock, "wiped_markers") else None,
        geoms=geoms,
        numbers=_numbers(stock),
    )


def _numbers(stock: Any) -> dict[str, tuple[float, ...]]:
    numbers: dict[str, Any] = {}
    if hasattr(stock, "bin2_pos"):
        numbers["bin_m"] = stock.bin2_pos
        numbers["bin_size_m"] = stock.bin_size
        numbers["object"] = [stock.object_id]
    else:
        numbers["table_m"] = stock.model.mujoco_arena.table_offset
    if hasattr(stock, "nut_id"):
        numbers["object"] = [stock.nut_id]
    return {name: tuple(float(value) for value in values) for name, values in numbers.items()}


def load_scene(stock_name: str, robot: str = "Panda") -> tuple[mujoco.MjModel, Facts]:
    """The model and its facts, from the cache folder if they were built before."""
    digest = hashlib.sha256()
    for source in (Path(__file__), Path(__file__).with_name("robosuite_placement.py")):
        digest.update(source.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("mujoco", "robosuite")]
    digest.update(repr((stock_name, robot, versions)).encode())
    name = f"stock-{digest.hexdigest()[:24]}"
    packed, listed = read_cached(f"{name}.mjb"), read_cached(f"{name}.json")
    if packed is None or listed is None:
        stock = build_stock(stock_name, robot)
        model, facts = stock.sim.model._model, facts_of(stock)
        buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
        mujoco.mj_saveModel(model, None, buffer)
        packed, listed = buffer.tobytes(), json.dumps(asdict(facts)).encode()
        write_cached(f"{name}.mjb", packed)
        write_cached(f"{name}.json", listed)
    model = mujoco.MjModel.from_binary_path(name, {name: packed})
    return model, _facts_from_json(json.loads(listed))


def _facts_from_json(listed: dict[str, Any]) -> Facts:
    tuples = {name: tuple(value) for name, value in listed.items() if isinstance(value, list)}
    tuples["placements"] = tuple(Placement.from_json(row) for row in listed["placements"])
    markers = listed["markers"]
    return Facts(
        tool_site=listed["tool_site"],
        start_noise_rad=listed["start_noise_rad"],
        markers=None if markers is None else Markers.from_json(markers),
        geoms={name: tuple(rows) for name, rows in listed["geoms"].items()},
        numbers={name: tuple(rows) for name, rows in listed["numbers"].items()},
        **tuples,
    )


class StockController:
    """robosuite's controller of any arm and gripper, without its observables and cameras.

    `gripper_memory` and `home_rad` are all it remembers from one control period to the next.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._robot = stock.robots[0]
        self._arm = self._robot.part_controllers["right"]
        self._gripper = self._robot.gripper["right"]

    def begin(
        self,
        gripper_memory: Float[np.ndarray, " actuators"],
        home_rad: Float[np.ndarray, " joints"],
    ) -> None:
        """Forget the past."""
        self._gripper.current_action = gripper_memory.copy()
        self._arm.initial_joint = home_rad.copy()
        for controller in self._robot.part_controllers.values():
            # The controller skips its first look at the arm after a reset and would use the mass
            # matrix of the pose before it.
            controller.new_update = True

    def step(self, action: Float[np.ndarray, " action_dim"]) -> None:
        """Advance one control period."""
        for substep in range(SUBSTEPS):
            self._stock.sim.step1()
            self._robot.control(action, policy_step=substep == 0)
            self._stock.sim.step2()

    @property
    def gripper_memory(self) -> Float[np.ndarray, " actuators"]:
        return np.array(self._gripper.current_action, dtype=np.float64)
