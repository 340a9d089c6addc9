"""LeRobot's own devices by type and options, as its command line names them.

    make_lerobot_robot("so101_follower", {"port": "/dev/ttyACM0", "id": "blue"})

is what `lerobot-record --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=blue`
makes. Third-party robots that follow LeRobot's plugin convention are found as it finds them.
LeRobot is imported when a device is made, in that device's own process.
"""

import contextlib
import importlib
import io
import pkgutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import make_dataclass
from typing import Any

import numpy as np

from ..datasets.schema import Camera, unknown_name
from .joint_robot_driver import Frame, LinkLost
from .shared_record import SharedRecord


def make_lerobot_robot(kind: str, options: Mapping[str, str]) -> Any:
    """A robot of LeRobot, not yet connected."""
    robots = importlib.import_module("lerobot.robots")
    config = _config(robots.RobotConfig, "robot", kind, options, "lerobot.robots")
    return importlib.import_module("lerobot.robots.utils").make_robot_from_config(config)


def make_lerobot_teleoperator(kind: str, options: Mapping[str, str]) -> Any:
    """A teleoperator of LeRobot, not yet connected."""
    parts = importlib.import_module("lerobot.teleoperators")
    config = _config(
        parts.TeleoperatorConfig, "teleoperator", kind, options, "lerobot.teleoperators"
    )
    utils = importlib.import_module("lerobot.teleoperators.utils")
    return utils.make_teleoperator_from_config(config)


def make_lerobot_cameras(text: str) -> dict[str, Any]:
    """Cameras, not yet connected, of LeRobot's words such as
    `{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}`."""
    cameras = importlib.import_module("lerobot.cameras")
    missing = _register("lerobot.cameras")
    config = _parse(
        make_dataclass("Cameras", [("cameras", dict[str, cameras.CameraConfig])]),
        [f"--cameras={text}"],
        missing,
    )
    utils = importlib.import_module("lerobot.cameras.utils")
    return utils.make_cameras_from_configs(config.cameras)


def _config(base: Any, word: str, kind: str, options: Mapping[str, str], package: str) -> Any:
    missing = _register(package) + _register("lerobot.cameras")
    importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()
    if kind not in base.get_known_choices():
        error = unknown_name(f"LeRobot {word}", kind, base.get_known_choices())
        raise ValueError(f"{error}{_lacking(missing)}")
    arguments = [f"--{word}.type={kind}"]
    arguments += [f"--{word}.{key}={value}" for key, value in options.items()]
    return getattr(_parse(make_dataclass("Devices", [(word, base)]), arguments, missing), word)


def _register(package: str) -> list[str]:
    """Import the folders of `package`, whose configurations register themselves; returns what
    could not be imported, with the reason."""
    missing = []
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        if found.ispkg:
            try:
                importlib.import_module(f"{package}.{found.name}")
            except ImportError as error:
                missing.append(f"{found.name} ({error})")
    return missing


def _parse(config_class: Any, arguments: list[str], missing: list[str]) -> Any:
    draccus = importlib.import_module("draccus")
    said = io.StringIO()
    try:
        # LeRobot's parser prints and exits, which is for a command line of its own.
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return draccus.parse(config_class=config_class, args=arguments)
    except (SystemExit, Exception) as error:
        words = said.getvalue().strip().splitlines()
        reason = words[-1] if words else str(error)
        raise ValueError(
            f"LeRobot does not understand {' '.join(arguments)}: {reason}{_lacking(missing)}"
        ) from None


def _lacking(missing: list[str]) -> str:
    return f". Not importable here: {'; '.join(missing)}" if missing else ""


class StampedCameras:
    """Capture times of a LeRobot robot's cameras, which its observations leave out.

    LeRobot's cameras that read in a thread keep `latest_timestamp`, on `perf_counter`, beside
    `latest_frame`; others have neither, and their frames are stamped when they arrive.
    """

    def __init__(self, cameras: Mapping[str, Any], names: Iterable[str]) -> None:
        """`names`: all images of the robot; those not in `cameras` are stamped on arrival."""
        self._offset_ns = time.monotonic_ns() - time.perf_counter_ns()
        self._stamped = {
            name: cameras[name]
            for name in names
            if name in cameras and hasattr(cameras[name], "latest_timestamp")
        }
        self._last_ns: dict[str, int] = {}
        self.notes = tuple(
            f"frames of {name} carry the time they arrived: its camera tells no capture time"
            for name in names
            if name not in self._stamped
        )
        for name, camera in cameras.items():
            mode = getattr(camera, "color_mode", None)
            if getattr(mode, "value", mode) == "bgr":
                raise ValueError(f"camera {name} gives BGR; set its color_mode to rgb")

    def before(self) -> dict[str, int | None]:
        """To be asked before the observation is read."""
        return {name: self._time_ns(camera) for name, camera in self._stamped.items()}

    def capture_ns(
        self, name: str, image: np.ndarray, before: Mapping[str, int | None], arrived_ns: int
    ) -> int:
        """When `image` was captured, never later than it truly was."""
        camera = self._stamped.get(name)
        if camera is None:
            return arrived_ns
        after = self._time_ns(camera)
        # If a newer frame came meanwhile, `image` may be either; the older time is the safe one
        # unless the camera still shows this very array.
        if after is not None and (after == before[name] or camera.latest_frame is image):
            return after
        return before[name] or arrived_ns

    def is_new(self, name: str, capture_ns: int) -> bool:
        """Whether this is not the frame of the last call."""
        if self._last_ns.get(name) == capture_ns:
            return False
        self._last_ns[name] = capture_ns
        return True

    def _time_ns(self, camera: Any) -> int | None:
        stamp = camera.latest_timestamp
        return None if stamp is None else round(stamp * 1e9) + self._offset_ns


class LeRobotCameras:
    """LeRobot's cameras beside an arm that is not LeRobot's: a `FrameSource`."""

    def __init__(self, text: str) -> None:
        """`text`: as for `make_lerobot_cameras`."""
        self._text = text
        self._cameras: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()

    def open(self, measurements: SharedRecord) -> tuple[Camera, ...]:
        self._cameras = make_lerobot_cameras(self._text)
        for camera in self._cameras.values():
            camera.connect()
        self._times = StampedCameras(self._cameras, list(self._cameras))
        self.notes = self._times.notes
        return tuple(
            Camera(name, camera.height, camera.width) for name, camera in self._cameras.items()
        )

    def frames(self) -> Iterable[Frame]:
        found = []
        for name, camera in self._cameras.items():
            before = self._times.before()
            try:
                # One without a reading thread has to be asked for a frame, and waits for it.
                image = camera.read_latest() if hasattr(camera, "thread") else camera.read()
            except (OSError, RuntimeError):
                continue  # no frame; its age tells, and the other cameras go on
            capture_ns = self._times.capture_ns(name, image, before, time.monotonic_ns())
            if self._times.is_new(name, capture_ns):
                found.append((name, capture_ns, image))
        if not found:
            time.sleep(0.002)
        return found

    def close(self) -> None:
        for camera in self._cameras.values():
            with contextlib.suppress(OSError, RuntimeError, LinkLost):
                camera.disconnect()
        self._cameras = {}
