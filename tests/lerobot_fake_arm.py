"""A robot, a camera and a leader arm of LeRobot's own kinds, registered as a plugin would be.

Real subclasses of lerobot's `Robot`, `Camera` and `Teleoperator`, with lerobot's own `Motor`,
calibration and configuration registry; only the wires behind them are missing. `port` is a folder
in which a test leaves files: `unplugged`, `dark` (the camera freezes), `garbled` (one bad read).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from types import SimpleNamespace

import numpy as np
from lerobot.cameras import Camera, CameraConfig
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.robots import Robot, RobotConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from ulna.deploy_robot.lerobot_devices import make_lerobot_robot, make_lerobot_teleoperator

RANGE = 1024, 3071  # of the encoder: 4095 counts are a turn


@CameraConfig.register_subclass("ulna_test_camera")
@dataclass(kw_only=True)
class UlnaTestCameraConfig(CameraConfig):
    folder: str = ""


class UlnaTestCamera(Camera):
    """Reads in a thread and keeps capture times as lerobot's OpenCV camera does."""

    def __init__(self, config: UlnaTestCameraConfig) -> None:
        super().__init__(config)
        self.folder = Path(config.folder)
        self._hz, self._shape = config.fps or 30, (config.height or 8, config.width or 12, 3)
        self.thread: Thread | None = None
        self.frame_lock = Lock()
        self.latest_frame: np.ndarray | None = None
        self.latest_timestamp: float | None = None
        self._stop = Event()

    @property
    def is_connected(self) -> bool:
        return self.thread is not None

    @staticmethod
    def find_cameras() -> list[dict]:
        return []

    def connect(self, warmup: bool = True) -> None:
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()
        while self.latest_frame is None:
            time.sleep(0.001)

    def _run(self) -> None:
        shade = 0
        while not self._stop.wait(1 / self._hz):
            if (self.folder / "dark").exists():
                continue
            shade = (shade + 1) % 256
            frame = np.full(self._shape, shade, np.uint8)
            with self.frame_lock:
                self.latest_frame, self.latest_timestamp = frame, time.perf_counter()

    def read(self) -> np.ndarray:
        return self.read_latest()

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        return self.read_latest()

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        with self.frame_lock:
            frame, stamp = self.latest_frame, self.latest_timestamp
        assert frame is not None and stamp is not None
        if (time.perf_counter() - stamp) * 1e3 > max_age_ms:
            raise TimeoutError("latest frame is too old")
        return frame

    def disconnect(self) -> None:
        self._stop.set()
        self.thread = None


@RobotConfig.register_subclass("ulna_test_arm")
@dataclass(kw_only=True)
class UlnaTestArmConfig(RobotConfig):
    port: str
    use_degrees: bool = True
    calibrated: bool = True
    camera: bool = True


class _TestBus:
    model_resolution_table = {"sts3215": 4096}

    def __init__(self, use_degrees: bool) -> None:
        mode = MotorNormMode.DEGREES if use_degrees else MotorNormMode.RANGE_M100_100
        self.motors = {
            "shoulder_pan": Motor(1, "sts3215", mode),
            "elbow_flex": Motor(2, "sts3215", mode),
            "gripper": Motor(3, "sts3215", MotorNormMode.RANGE_0_100),
        }
        self.calibration = {
            name: MotorCalibration(motor.id, 0, 0, *RANGE) for name, motor in self.motors.items()
        }


class UlnaTestArm(Robot):
    config_class = UlnaTestArmConfig
    name = "ulna_test_arm"

    def __init__(self, config: UlnaTestArmConfig) -> None:
        self.config = config
        self.robot_type, self.id = self.name, config.id
        self.folder = Path(config.port)
        self.bus = _TestBus(config.use_degrees)
        self.position = {"shoulder_pan": 30.0, "elbow_flex": -45.0, "gripper": 50.0}
        self.cameras = {}
        if config.camera:
            camera = UlnaTestCameraConfig(fps=60, width=12, height=8, folder=config.port)
            self.cameras = {"wrist": UlnaTestCamera(camera)}
        self.sent: list[dict[str, float]] = []
        self._connected = False

    @property
    def observation_features(self) -> dict:
        images = {name: (8, 12, 3) for name in self.cameras}
        return {**{f"{motor}.pos": float for motor in self.bus.motors}, **images}

    @property
    def action_features(self) -> dict:
        return {f"{motor}.pos": float for motor in self.bus.motors}

    @property
    def is_connected(self) -> bool:
        return self._connected and not (self.folder / "unplugged").exists()

    @property
    def is_calibrated(self) -> bool:
        return self.config.calibrated

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate, "calibration asks questions on a terminal"
        self._connected = True
        for camera in self.cameras.values():
            camera.connect()

    def calibrate(self) -> None:
        raise AssertionError("never on its own")

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict:
        self._require_wire()
        if (self.folder / "garbled").exists():
            (self.folder / "garbled").unlink()
            raise ConnectionError("Failed to sync read: Incorrect status packet!")
        found: dict = {f"{name}.pos": value for name, value in self.position.items()}
        for name, camera in self.cameras.items():
            found[name] = camera.read_latest()
        return found

    def send_action(self, action: dict) -> dict:
        self._require_wire()
        self.position = {key.removesuffix(".pos"): value for key, value in action.items()}
        self.sent.append(dict(action))
        return action

    def disconnect(self) -> None:
        self._connected = False
        for camera in self.cameras.values():
            camera.disconnect()

    def _require_wire(self) -> None:
        if not self.is_connected:
            raise ConnectionError("the arm is not connected")


@TeleoperatorConfig.register_subclass("ulna_test_leader")
@dataclass
class UlnaTestLeaderConfig(TeleoperatorConfig):
    port: str = ""
    gamepad: bool = False


class UlnaTestLeader(Teleoperator):
    config_class = UlnaTestLeaderConfig
    name = "ulna_test_leader"

    def __init__(self, config: UlnaTestLeaderConfig) -> None:
        self.config = config
        self.id = config.id
        self.folder = Path(config.port)
        self._connected = False
        if not config.gamepad:
            self.bus = _TestBus(use_degrees=True)

    @property
    def action_features(self) -> dict:
        if self.config.gamepad:
            names = {"delta_x": 0, "delta_y": 1, "delta_z": 2, "gripper": 3}
            return {"dtype": "float32", "shape": (4,), "names": names}
        return {f"{motor}.pos": float for motor in self.bus.motors}

    @property
    def feedback_features(self) -> dict:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_action(self) -> dict:
        if (self.folder / "unplugged").exists():
            raise ConnectionError("the leader is not connected")
        if self.config.gamepad:
            return {"delta_x": 1.0, "delta_y": 0.0, "delta_z": -0.5, "gripper": 2}
        return {"shoulder_pan.pos": 90.0, "elbow_flex.pos": -30.0, "gripper.pos": 25.0}

    def send_feedback(self, feedback: dict) -> None:
        pass

    def disconnect(self) -> None:
        self._connected = False


def make_arm(options: dict[str, str]) -> Robot:
    """Through lerobot's registry, as the command line does; importing this file registered it."""
    return make_lerobot_robot("ulna_test_arm", options)


def make_leader(options: dict[str, str]) -> Teleoperator:
    return make_lerobot_teleoperator("ulna_test_leader", options)


def bare(**parts: object) -> SimpleNamespace:
    return SimpleNamespace(name="bare", **parts)
