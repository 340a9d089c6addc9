"""What flies in `faults.py`: two simulated arms that keep a diary, a camera and a dummy policy.

    tool     `SimRobot`: a gantry of three slides in MuJoCo, told how far its tool shall move, 20 Hz
    joints   `JointArm` with the driver of `sim-joints` (MuJoCo Panda, servo rate 240 Hz), a camera
             in a process of its own

The diary is a memory-mapped file that the *robot's* process writes: what it obeyed and how it
moved, true to the last line if that process is killed. Everything here is picklable, and imports
little: each flight starts five processes.

Next: `faults_flight.py` (one flight and its fault).
"""

import functools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ulna.datasets.schema import Camera, Embodiment, Observation
from ulna.deploy_robot.joint_robot import JointArm, JointArmConfig
from ulna.deploy_robot.joint_robot_driver import Frame
from ulna.deploy_robot.joint_robot_sim import ARM_JOINTS, SimJointsConfig, SimJointsDriver
from ulna.deploy_robot.limits import ArmLimits, SafetyLimits
from ulna.deploy_robot.limits_file import shipped_limits
from ulna.deploy_robot.sim_faults import SimFaults
from ulna.deploy_robot.sim_robot import SimRobot

CONTROL_HZ, SERVO_HZ, DRIVER_HZ = 20.0, 240.0, 480.0
HORIZON, EXECUTED = 16, 4
SCALE_M, TOOL_SPEED = 0.02, 0.5
JOINT_SPEED_RAD_S = 0.3
SILENCE_S = 0.5
"""The gate's limit for a silent or unreachable policy."""
COMMAND, MEASURED, RESET = 0.0, 1.0, 2.0
"""Kinds of lines in a diary."""
_ROWS, _COLUMNS = 20_000, 16
_AFTERLIFE_S = 0.15
TOOL = Embodiment(
    name="gantry",
    control_hz=CONTROL_HZ,
    state_names=("tool_x_m", "tool_y_m", "tool_z_m", "finger_m"),
    action_names=("dx", "dy", "dz", "gripper"),
    action_low=(-1.0,) * 4,
    action_high=(1.0,) * 4,
    action_meaning="tool displacement: 1 is 0.02 m",
    cameras=(Camera("front", 32, 32),),
)
# What the policy server says of the joint arm; the arm itself knows its ranges.
JOINTS = Embodiment(
    name="panda_joint_position",
    control_hz=CONTROL_HZ,
    state_names=(*(f"{joint}.pos" for joint in ARM_JOINTS), "gripper_width_m"),
    action_names=(*(f"{joint}.pos" for joint in ARM_JOINTS), "gripper"),
    action_low=(-3.0,) * len(ARM_JOINTS) + (-1.0,),
    action_high=(3.0,) * len(ARM_JOINTS) + (1.0,),
    action_meaning="absolute joint positions in rad",
    cameras=(Camera("front", 32, 32),),
)


def limits_of(robot: str) -> SafetyLimits | ArmLimits:
    if robot == "joints":
        return replace(shipped_limits("panda"), fraction=1.0, max_policy_silence_s=SILENCE_S)
    return SafetyLimits(
        translation_scale_m=SCALE_M,
        workspace_low_m=(-1.0, -1.0, -1.0),
        workspace_high_m=(1.0, 1.0, 1.0),
        joint_low_rad=(),
        joint_high_rad=(),
        max_policy_silence_s=SILENCE_S,
    )


class Diary:
    """Lines of `time_ns, kind, values` in a file that any process may read meanwhile."""

    def __init__(self, path: Path) -> None:
        """Writes if the file is not there yet, else reads."""
        mode = "r" if path.exists() else "w+"
        self._lines = np.memmap(path, np.float64, mode, shape=(_ROWS + 1, _COLUMNS))

    def write(self, kind: float, *values: np.ndarray) -> None:
        count = int(self._lines[0, 0])
        if count < _ROWS:
            line = self._lines[count + 1]
            line[0], line[1] = time.monotonic_ns(), kind
            joined = np.concatenate(values) if values else np.zeros(0)
            line[2 : 2 + len(joined)] = joined
            self._lines[0, 0] = count + 1  # last, so that no reader sees half a line

    def lines(self) -> np.ndarray:
        return np.array(self._lines[1 : 1 + int(self._lines[0, 0])])


def sign_in(folder: Path, who: str) -> None:
    """Leave the number of this process for the one who kills."""
    partial = folder / f"{who}.partial"
    partial.write_text(str(os.getpid()))
    os.replace(partial, folder / f"{who}.pid")


def await_go(folder: Path) -> None:
    """Flights are prepared side by side and flown one by one."""
    (folder / "ready").touch()
    deadline = time.monotonic() + 55.0
    while not (folder / "go").exists():
        if time.monotonic() > deadline:
            raise RuntimeError("nobody said go")
        time.sleep(0.003)


# The arm of tool displacements.

_GANTRY = """
<mujoco><option timestep="0.001" gravity="0 0 0" integrator="implicitfast"/><worldbody>
<body><joint name="x" type="slide" axis="1 0 0"/><geom size=".02" mass="1"/>
<body><joint name="y" type="slide" axis="0 1 0"/><geom size=".02" mass="1"/>
<body><joint name="z" type="slide" axis="0 0 1"/><geom size=".02" mass="1"/>
</body></body></body></worldbody><actuator>
<position joint="x" kp="2000" kv="150"/><position joint="y" kp="2000" kv="150"/>
<position joint="z" kp="2000" kv="150"/></actuator></mujoco>
"""


class GantryEnv:
    """Three slides with position servos; writes down every command it obeys."""

    task = "gantry"
    instructions: tuple[str, ...] = ("sweep",)
    instruction = "sweep"
    max_steps = 1000
    embodiment = TOOL

    def __init__(self, folder: Path) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        self._folder = folder
        self._model = self._mujoco.MjModel.from_xml_string(_GANTRY)
        self._data = self._mujoco.MjData(self._model)
        self._diary: Diary | None = None
        self._resets = 0
        sign_in(folder, "device")

    def reset(self, seed: int, instruction: str | None = None) -> None:
        self._mujoco.mj_resetData(self._model, self._data)
        self._steps, self._grip = 0, 0.0
        self._resets += 1
        if self._resets > 1:  # the first is the warm-up
            self._diary = Diary(self._folder / "diary")
            await_go(self._folder)
            self._diary.write(RESET)

    def observe(self) -> Observation:
        image = np.full((32, 32, 3), self._steps % 256, np.uint8)
        return Observation({"front": image}, self.state(), self.instruction)

    def state(self) -> np.ndarray:
        return np.array([*self._data.qpos, self._grip], np.float32)

    def joint_position_rad(self) -> np.ndarray:
        return np.zeros(0)

    def time_ns(self) -> int:
        return round(self._steps * 1e9 / CONTROL_HZ)

    def step(self, action: np.ndarray) -> None:
        if self._diary is not None:
            self._diary.write(COMMAND, action[:3])
        self._data.ctrl[:] += SCALE_M * action[:3]
        self._grip = float(action[3])
        self._live(round(1000 / CONTROL_HZ))
        self._steps += 1

    def _live(self, milliseconds: int) -> None:
        self._mujoco.mj_step(self._model, self._data, milliseconds)
        if self._diary is not None:
            self._diary.write(MEASURED, self._data.qpos, self._data.qvel)

    def success(self) -> bool:
        return False

    def outcome(self) -> str:
        return "swept"

    def simulator_state(self) -> np.ndarray:
        return np.concatenate((self._data.qpos, self._data.qvel))

    def restore(self, state: np.ndarray, instruction: str) -> None:
        self._data.qpos[:], self._data.qvel[:] = state[:3], state[3:]

    def render(self, camera: str, height: int, width: int, profile: str | None = None):
        return np.zeros((height, width, 3), np.uint8)

    def close(self) -> None:
        """An arm goes on being one when nobody talks to it any more."""
        if self._diary is not None:
            for _ in range(3):
                time.sleep(_AFTERLIFE_S / 3)
                self._live(50)


# The arm of joint positions.


class WitnessDriver(SimJointsDriver):
    """The driver of `sim-joints`, with a diary."""

    def __init__(self, folder: Path, config: SimJointsConfig) -> None:
        super().__init__(config)
        self._folder = folder
        self._diary: Diary | None = None
        sign_in(folder, "device")

    def open(self) -> Embodiment:
        embodiment = super().open()
        self._diary = Diary(self._folder / "diary")
        return embodiment

    def start(self, seed: int) -> None:
        if self._diary is not None:
            await_go(self._folder)
        super().start(seed)
        if self._diary is not None:
            self._diary.write(RESET)

    def command(self, action: np.ndarray) -> None:
        super().command(action)  # a broken link takes none
        assert self._diary is not None
        self._diary.write(COMMAND, action[: len(ARM_JOINTS)])

    def measure(self, into: dict[str, np.ndarray]) -> None:
        try:
            super().measure(into)
        finally:  # the arm moves on, whether it can be heard or not
            self._note()

    def _note(self) -> None:
        joints = len(ARM_JOINTS)
        assert self._diary is not None
        self._diary.write(MEASURED, self._data.qpos[:joints], self._data.qvel[:joints])

    def close(self) -> None:
        if self._diary is not None:
            end = time.monotonic() + _AFTERLIFE_S
            while time.monotonic() < end:
                time.sleep(0.005)
                self._live_until(time.monotonic_ns())
                self._note()


class DummyCamera:
    """A camera of 30 Hz: a `FrameSource`."""

    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        sign_in(folder, "camera")
        self._count = 0

    def open(self, measurements: object) -> tuple[Camera, ...]:
        return (Camera("front", 32, 32),)

    def frames(self) -> Iterable[Frame]:
        time.sleep(1 / 30)
        self._count += 1
        return (("front", time.monotonic_ns(), np.full((32, 32, 3), self._count % 256, np.uint8)),)

    def close(self) -> None:
        pass


def make_arm(robot: str, folder: Path, faults: SimFaults) -> SimRobot | JointArm:
    """Runs in the control process, which so signs in too."""
    sign_in(folder, "control")
    if robot == "tool":
        return SimRobot("gantry", functools.partial(GantryEnv, folder), faults)
    config = SimJointsConfig(hz=DRIVER_HZ, control_hz=CONTROL_HZ, camera_hz=0.0, faults=faults)
    return JointArm(
        JointArmConfig("the joint arm", "sweep"),
        functools.partial(WitnessDriver, folder, config),
        DRIVER_HZ,
        functools.partial(DummyCamera, folder),
    )


# The policy.


class Sweep:
    """Moves to and fro at one speed, so that whoever still obeys it is seen to."""

    def __init__(self, robot: str) -> None:
        self.robot = robot
        self.direction = 1.0

    def __call__(self, observation: Observation) -> np.ndarray:
        place = float(observation.state[0])
        if abs(place) > 0.3:
            self.direction = -np.sign(place)
        if self.robot == "tool":
            chunk = np.zeros((HORIZON, 4), np.float32)
            chunk[:, 0] = self.direction * TOOL_SPEED
            return chunk
        chunk = np.tile(observation.state.astype(np.float32), (HORIZON, 1))
        # Ahead of what is measured by as much as the servo lags (damping over stiffness, 0.1 s).
        ahead_s = 0.1 + np.arange(1, HORIZON + 1) / CONTROL_HZ
        chunk[:, 0] += self.direction * JOINT_SPEED_RAD_S * ahead_s
        chunk[:, -1] = -1.0
        return chunk


def make_act(robot: str, folder: Path, server: bool) -> Callable[[Observation], np.ndarray]:
    """Runs in the inference process. `server`: the policy is behind one, which says its port in
    the file `port`."""
    sign_in(folder, "policy")
    if not server:
        return Sweep(robot)
    from ulna.deploy_robot.remote_client import load_remote_act

    deadline = time.monotonic() + 40.0
    while not (folder / "port").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    port = int((folder / "port").read_text())
    return load_remote_act(f"ws://127.0.0.1:{port}", timeout_s=0.25, ping_s=0.3)
