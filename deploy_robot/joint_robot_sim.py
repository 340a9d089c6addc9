"""A simulated Panda that obeys absolute joint positions at a servo's rate: `sim-joints`.

The arm is robosuite's model, its motors replaced by the position servos that a real controller
has; gravity is compensated, as every real arm compensates its own. It stands on a floor beside a
table, lives in the device process of `joint_robot.py` in place of hardware, and can be given the
faults of `sim_faults.py`. So everything for arms of joint positions runs here without one.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import importlib.util
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Camera, Embodiment
from .joint_robot_driver import Frame, LinkLost, joint_embodiment_meaning
from .shared_record import SharedRecord
from .sim_faults import CommandLine, FrameLine, SimFaults, follow, require_camera

ARM_JOINTS = tuple(f"joint{number}" for number in range(1, 8))
HOME_RAD = (0.0, 0.2, 0.0, -2.1, 0.0, 2.3, 0.785)
"""Tool above the table's edge, pointing down; no joint near its limit."""
START_JITTER_RAD = 0.03
# Stiffness in Nm/rad and damping in Nms/rad of the servos: stiff enough to follow a command of
# 1 rad/s within 0.1 rad, near critical for the inertia of each axis.
STIFFNESS = (2000.0, 2000.0, 2000.0, 2000.0, 800.0, 800.0, 400.0)
DAMPING = (200.0, 200.0, 150.0, 150.0, 40.0, 40.0, 20.0)
ARMATURE = 0.1
"""Inertia of the geared motors as the joints feel it, kg m2; the model of robosuite has none."""
TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
"""Largest joint torques of the Panda's data sheet."""
PHYSICS_S = 0.001
MAX_CATCH_UP_S = 0.1
"""Physics behind the clock by more than this is given up, and counted."""
FINGER_M = 0.04


@dataclass(frozen=True)
class SimJointsConfig:
    """The simulated joint-position arm."""

    hz: float = 500.0
    """Servo rate: how often it takes a command and is measured, up to 500."""
    control_hz: float = 20.0
    """Rate of the policy's actions, for its embodiment."""
    camera_hz: float = 30.0
    """0: no camera, and no picture is ever drawn."""
    image_size: int = 64
    faults: SimFaults = SimFaults()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if not 0 < self.control_hz <= self.hz <= 1 / PHYSICS_S:
            raise ValueError(
                f"control_hz {self.control_hz}, hz {self.hz}: give 0 < control_hz <= hz <= "
                f"{1 / PHYSICS_S:g}"
            )
        if not 0 <= self.camera_hz <= 120 or self.image_size < 8:
            raise ValueError(
                f"camera_hz {self.camera_hz}, image_size {self.image_size}: give 0 to 120, and 8 "
                "or more"
            )


def joint_panda(visual: bool) -> Any:
    """The MuJoCo model. `visual`: with what is only there to be seen."""
    import mujoco

    found = importlib.util.find_spec("robosuite")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the simulated arm is robosuite's model; pip install robosuite==1.5.1")
    assets = Path(found.submodule_search_locations[0]) / "models" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / "robots" / "panda" / "robot.xml"))
    for motor in list(spec.actuators):
        spec.delete(motor)
    gripper = mujoco.MjSpec.from_file(str(assets / "grippers" / "panda_gripper.xml"))
    spec.body("right_hand").add_frame().attach_body(gripper.worldbody.first_body(), "", "")
    spec.option.timestep = PHYSICS_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    if not visual:
        for geom in list(spec.geoms):
            if not geom.contype and not geom.conaffinity:
                spec.delete(geom)
    for body in spec.bodies:
        body.gravcomp = 1.0
    for joint, stiffness, damping, torque in zip(
        ARM_JOINTS, STIFFNESS, DAMPING, TORQUE_NM, strict=True
    ):
        spec.joint(joint).armature = ARMATURE
        servo = spec.add_actuator(
            name=f"servo_{joint}", target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        servo.set_to_position(kp=stiffness, kv=damping)
        servo.forcelimited, servo.forcerange = True, (-torque, torque)
    world = spec.worldbody
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(2, 2, 0.1),
        rgba=(0.6, 0.6, 0.6, 1),
        group=1,
    )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=(0.3, 0.5, 0.02),
        pos=(0.6, 0, 0.02),
        rgba=(0.7, 0.55, 0.4, 1),
        group=1,
    )
    world.add_light(pos=(0.3, 0.5, 2.0), dir=(0.1, -0.2, -1.0))
    # Looks at the table from the front: x axis to its right, y axis up.
    world.add_camera(name="front", pos=(1.6, 0, 0.9), xyaxes=(0, 1, 0, -0.5, 0, 1.2), fovy=50)
    return spec.compile()


class SimJointsDriver:
    """An `ArmDriver` whose arm is simulated in the same process."""

    max_failed_reads = 0
    notes = ()

    def __init__(self, config: SimJointsConfig) -> None:
        self.config = config
        self.hz = config.hz

    def open(self) -> Embodiment:
        import mujoco

        self._mujoco = mujoco
        self._model = joint_panda(visual=False)
        self._data = mujoco.MjData(self._model)
        ranges = self._model.jnt_range[: len(ARM_JOINTS)]
        low, high = tuple(ranges[:, 0].tolist()), tuple(ranges[:, 1].tolist())
        servos = [self._model.actuator(f"servo_{joint}").id for joint in ARM_JOINTS]
        fingers = [self._model.actuator(f"gripper_finger_joint{n}").id for n in (1, 2)]
        self._servos, self._fingers = np.array(servos), np.array(fingers)
        self.start(0)
        self._link_ends_ns = math.inf  # its time runs from the first episode
        return Embodiment(
            name="panda_joint_position",
            control_hz=self.config.control_hz,
            state_names=(*(f"{joint}.pos" for joint in ARM_JOINTS), "gripper_width_m"),
            action_names=(*(f"{joint}.pos" for joint in ARM_JOINTS), "gripper"),
            action_low=(*low, -1.0),
            action_high=(*high, 1.0),
            action_meaning=joint_embodiment_meaning("gripper by its sign, > 0 closes"),
            cameras=(),
            joint_names=ARM_JOINTS,
            joint_low_rad=low,
            joint_high_rad=high,
        )

    def start(self, seed: int) -> None:
        jitter = np.random.default_rng(seed).uniform(-1, 1, len(ARM_JOINTS)) * START_JITTER_RAD
        self._mujoco.mj_resetData(self._model, self._data)
        self._wanted = np.array([*(np.array(HOME_RAD) + jitter), -1.0])
        self._target = self._wanted.copy()
        joints = len(ARM_JOINTS)
        self._data.qpos[:joints] = self._wanted[:joints]
        self._data.qpos[joints:] = FINGER_M, -FINGER_M
        self._drive()
        self._mujoco.mj_forward(self._model, self._data)
        self._line = CommandLine(self.config.faults)
        self._lived_ns = time.monotonic_ns()
        self._link_ends_ns = self._lived_ns + self.config.faults.link_loss_s * 1e9
        self._lost_ns = 0
        self._rows: list[np.ndarray] = []
        self._times_ns: list[int] = []

    def command(self, action: Float[np.ndarray, " action_dim"]) -> None:
        self._check_link()
        self._line.push(time.monotonic_ns(), False, action)

    def hold(self) -> None:
        # A position servo that is told nothing new stays where it was told to be.
        self._line = CommandLine(self.config.faults)

    def measure(self, into: dict[str, np.ndarray]) -> None:
        now_ns = time.monotonic_ns()
        self._live_until(now_ns)
        self._check_link()
        joints = len(ARM_JOINTS)
        into["joint_position_rad"][:] = into["state"][:joints] = self._data.qpos[:joints]
        into["state"][joints] = self._data.qpos[joints] - self._data.qpos[joints + 1]
        into["time_ns"][...] = self._lived_ns

    def frames(self) -> Iterable[Frame]:
        return ()

    def fault(self) -> str:
        return ""

    def finish(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Streams at the servo rate: `measured_time_ns`, and `simulator_state`, which is joint
        positions, then velocities, then the servos' targets."""
        streams = {
            "simulator_state": np.array(self._rows),
            "measured_time_ns": np.array(self._times_ns, dtype=np.int64),
        }
        return {"lost_physics_ms": round(self._lost_ns * 1e-6)}, streams

    def close(self) -> None:
        """Nothing is held open."""

    def _check_link(self) -> None:
        if time.monotonic_ns() >= self._link_ends_ns:
            lost_after_s = self.config.faults.link_loss_s
            raise LinkLost(f"the link of the simulated arm was cut after {lost_after_s:g} s")

    def _live_until(self, now_ns: int) -> None:
        """Let the time pass that has passed."""
        newest = self._line.arrived(now_ns)
        if newest is not None:
            self._wanted[:] = newest[2]
        behind_ns = now_ns - self._lived_ns
        if behind_ns > MAX_CATCH_UP_S * 1e9:
            self._lost_ns += behind_ns - round(MAX_CATCH_UP_S * 1e9)
            self._lived_ns = now_ns - round(MAX_CATCH_UP_S * 1e9)
        steps = (now_ns - self._lived_ns) // round(PHYSICS_S * 1e9)
        lag_s = self.config.faults.servo_lag_s
        for _ in range(steps):
            self._target[:] = follow(self._target, self._wanted, PHYSICS_S, lag_s)
            self._drive()
            self._mujoco.mj_step(self._model, self._data)
        self._lived_ns += steps * round(PHYSICS_S * 1e9)
        joints = len(ARM_JOINTS)
        self._rows.append(
            np.concatenate(
                (self._data.qpos[:joints], self._data.qvel[:joints], self._target[:joints])
            )
        )
        self._times_ns.append(self._lived_ns)

    def _drive(self) -> None:
        self._data.ctrl[self._servos] = self._target[: len(ARM_JOINTS)]
        opening_m = 0.0 if self._wanted[-1] > 0 else FINGER_M
        self._data.ctrl[self._fingers] = opening_m, -opening_m


class SimJointsCamera:
    """The front camera of the simulated arm, drawn in a process of its own: a `FrameSource`."""

    notes = ()

    def __init__(self, config: SimJointsConfig) -> None:
        self.config = config
        self._renderer: Any = None

    def open(self, measurements: SharedRecord) -> tuple[Camera, ...]:
        import mujoco

        from ..envs.renderer import Renderer

        require_camera(self.config.faults, ["front"])
        self._mujoco, self._measurements = mujoco, measurements
        self._model = joint_panda(visual=True)
        self._data = mujoco.MjData(self._model)
        self._renderer = Renderer(self._model)
        self._arm = measurements.empty()
        self._line = FrameLine(self.config.faults, "front", 0, 1)
        self._line.start(time.monotonic_ns())
        self._next_s = time.monotonic()
        self._mujoco.mj_forward(self._model, self._data)
        self._draw()  # the first picture reduces meshes, which takes seconds
        return (Camera("front", self.config.image_size, self.config.image_size),)

    def frames(self) -> Iterable[Frame]:
        period_s = 1 / self.config.camera_hz
        self._next_s = max(self._next_s + period_s, time.monotonic())
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        if self._measurements.read(self._arm):
            joints = len(ARM_JOINTS)
            self._data.qpos[:joints] = self._arm["joint_position_rad"]
            self._data.qpos[joints:] = self._arm["state"][joints] / 2 * np.array([1.0, -1.0])
            self._mujoco.mj_forward(self._model, self._data)
            # The picture shows the arm as it was measured then.
            self._line.push(int(self._arm["time_ns"]), self._draw())
        newest = self._line.arrived(time.monotonic_ns())
        return () if newest is None else (("front", newest[0], newest[1]),)

    def _draw(self) -> np.ndarray:
        size = self.config.image_size
        return self._renderer.render(self._data, "front", size, size, "fast")

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
