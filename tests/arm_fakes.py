"""Fakes of ur-rtde and franky with the names and signatures of the real ones, for robot tests.

Importable by spawned processes (see `deploy_robot_fakes.py`). The host is a folder in which a test
can leave files that the fake obeys: `unplugged`, `safety_bits`, `mode`. All calls are remembered.
"""

import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ulna.deploy_robot.ur_robot import UrLibrary

REST_RAD = (0.1, -1.2, 1.5, -1.8, -1.5, 0.2)


class Wire:
    """What a fake controller and its libraries share."""

    def __init__(self, host: str) -> None:
        self.folder = Path(host)
        self.target: np.ndarray = np.zeros(0)
        self.calls: list[tuple[str, tuple]] = []
        self.start_s = time.monotonic()

    @property
    def unplugged(self) -> bool:
        return (self.folder / "unplugged").exists()

    def number(self, name: str, usual: float) -> float:
        path = self.folder / name
        return float(path.read_text()) if path.exists() else usual

    def called(self, name: str, *arguments: object) -> None:
        self.calls.append((name, arguments))


WIRES: dict[str, Wire] = {}


def wire(host: str) -> Wire:
    return WIRES.setdefault(host, Wire(host))


class RTDEReceiveInterface:
    def __init__(self, hostname: str, frequency: float = -1.0) -> None:
        self.wire = wire(hostname)
        if self.wire.unplugged:
            raise RuntimeError(f"Error: Could not connect to: {hostname} at 30004, verify the IP")
        self.wire.target = np.array(REST_RAD)

    def getActualQ(self) -> list[float]:
        return self.wire.target.tolist()

    def getTimestamp(self) -> float:
        return 1000.0 + time.monotonic() - self.wire.start_s

    def getSafetyStatusBits(self) -> int:
        return int(self.wire.number("safety_bits", 1))

    def getRobotMode(self) -> int:
        return int(self.wire.number("mode", 7))

    def getTargetSpeedFraction(self) -> float:
        return self.wire.number("slider", 1.0)

    def isConnected(self) -> bool:
        return not self.wire.unplugged

    def disconnect(self) -> None:
        self.wire.called("receive.disconnect")


class RTDEControlInterface:
    def __init__(self, hostname: str, frequency: float = -1.0) -> None:
        self.wire = wire(hostname)
        self.wire.called("upload")

    def servoJ(self, q, speed, acceleration, duration, lookahead, gain, /) -> bool:
        assert isinstance(q, list) and len(q) == 6, "list[float] of six"
        self.wire.called("servoJ", q, speed, acceleration, duration, lookahead, gain)
        if self.wire.number("safety_bits", 1) != 1:
            return False
        self.wire.target = np.array(q)
        return True

    def servoStop(self, a: float = 10.0) -> bool:
        self.wire.called("servoStop", a)
        return self._alive()

    def setWatchdog(self, min_frequency: float = 10.0) -> bool:
        self.wire.called("setWatchdog", min_frequency)
        return True

    def kickWatchdog(self) -> bool:
        self.wire.called("kickWatchdog")
        return self._alive()

    def isProgramRunning(self) -> bool:
        return not (self.wire.folder / "program_ended").exists()

    def isConnected(self) -> bool:
        return not self.wire.unplugged

    def stopScript(self) -> None:
        self.wire.called("stopScript")
        self._alive()

    def disconnect(self) -> None:
        self.wire.called("control.disconnect")

    def _alive(self) -> bool:
        if self.wire.unplugged:
            raise RuntimeError("RTDE control connection is lost")
        return True


class RTDEIOInterface:
    def __init__(self, hostname: str) -> None:
        self.wire = wire(hostname)

    def setStandardDigitalOut(self, output_id: int, signal_level: bool, /) -> bool:
        self.wire.called("setStandardDigitalOut", output_id, signal_level)
        return True

    def disconnect(self) -> None:
        self.wire.called("io.disconnect")


def fake_ur() -> UrLibrary:
    return UrLibrary(RTDEReceiveInterface, RTDEControlInterface, RTDEIOInterface)


class FrankyException(Exception):
    """franky's is no RuntimeError either."""


class RealtimeConfig(Enum):
    Enforce = 0
    Ignore = 1


class RobotMode(Enum):
    Idle = 1
    Move = 2
    Reflex = 4
    UserStopped = 5


class Duration:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def to_sec(self) -> float:
        return round(self._seconds, 3)


class FrankyRobot:
    def __init__(
        self,
        fci_hostname: str,
        relative_dynamics_factor: float = 1.0,
        realtime_config: RealtimeConfig = RealtimeConfig.Enforce,
    ) -> None:
        self.wire = wire(fci_hostname)
        self.wire.called("Robot", realtime_config)
        if self.wire.unplugged:
            raise FrankyException("libfranka: Connection to FCI refused.")
        self.wire.target = np.array([0.0, 0.2, 0.0, -2.1, 0.0, 2.3, 0.7])

    @property
    def state(self) -> SimpleNamespace:
        if self.wire.unplugged:
            raise FrankyException("libfranka: UDP receive: Timeout")
        return SimpleNamespace(
            q=self.wire.target.copy(),
            time=Duration(self.wire.number("frozen_at", time.monotonic() - self.wire.start_s)),
            current_errors="[joint_velocity_violation]",
            robot_mode=RobotMode(int(self.wire.number("mode", 1))),
        )

    @property
    def has_errors(self) -> bool:
        return (self.wire.folder / "errors").exists()

    @property
    def is_in_control(self) -> bool:
        """Whether the controller runs."""
        ended = (self.wire.folder / "reflex", self.wire.folder / "controller_ended")
        return not any(path.exists() for path in ended)

    def poll_motion(self) -> bool:
        """True once there is no motion, whatever franky 2.0.0's documentation says."""
        if (self.wire.folder / "reflex").exists():
            raise FrankyException("libfranka: motion aborted by reflex! [cartesian_reflex]")
        return not self.is_in_control


class JointImpedanceTracker:
    def __init__(self, robot: FrankyRobot, *, stiffness: np.ndarray | None = None) -> None:
        self.wire = robot.wire
        self.wire.called("track", stiffness)

    def set_target(self, q: np.ndarray, dq=None, tau_ff=None) -> None:
        if self.wire.unplugged:
            raise FrankyException("libfranka: UDP receive: Timeout")
        self.wire.called("set_target", q.copy())
        self.wire.target = q.copy()

    def stop(self, stop_motion=None) -> None:
        self.wire.called("stop")
        if self.wire.unplugged:
            raise FrankyException("libfranka: UDP receive: Timeout")


class BoolFuture:
    """Done when the folder has no file `hand_busy`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def wait(self, timeout: float | None = None) -> bool:
        return not (self._wire.folder / "hand_busy").exists()

    def get(self) -> bool:
        assert self.wait(0.0), "would wait"
        return True


class Gripper:
    max_width = 0.08

    def __init__(self, fci_hostname: str) -> None:
        self.wire = wire(fci_hostname)

    @property
    def width(self) -> float:
        if (self.wire.folder / "hand_unplugged").exists():
            raise FrankyException("libfranka gripper: network")
        return 0.05

    def move_async(self, width: float, speed: float) -> BoolFuture:
        self.wire.called("move_async", width, speed)
        return BoolFuture(self.wire)

    def grasp_async(
        self,
        width: float,
        speed: float,
        force: float,
        epsilon_inner: float = 0.005,
        epsilon_outer: float = 0.005,
    ) -> BoolFuture:
        self.wire.called("grasp_async", width, speed, force, epsilon_inner, epsilon_outer)
        return BoolFuture(self.wire)


def fake_franky() -> SimpleNamespace:
    return SimpleNamespace(
        Robot=FrankyRobot,
        JointImpedanceTracker=JointImpedanceTracker,
        Gripper=Gripper,
        Exception=FrankyException,
        RealtimeConfig=RealtimeConfig,
    )


class Leader:
    """A leader arm with what `lerobot_teleoperator.py` asks of one: no lerobot to be imported."""

    name = "leader"
    is_calibrated = True

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        modes = {"shoulder_pan": "degrees", "elbow_flex": "degrees", "gripper": "range_0_100"}
        self.bus = SimpleNamespace(
            motors={n: SimpleNamespace(norm_mode=m, model="sts3215") for n, m in modes.items()},
            calibration={},
        )
        self.action_features = {f"{name}.pos": float for name in modes}

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate

    def get_action(self) -> dict[str, float]:
        if (self.folder / "unplugged").exists():
            raise ConnectionError("the leader is not connected")
        return {"shoulder_pan.pos": 90.0, "elbow_flex.pos": -30.0, "gripper.pos": 25.0}

    def disconnect(self) -> None:
        pass
