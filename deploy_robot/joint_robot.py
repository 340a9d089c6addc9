"""A `Robot` of any arm that has a driver: joint positions in, joint positions and pictures out.

    JointArm (control process)
      +-- device process      joint_robot_process.py: the driver, at its own rate
      +-- camera process      joint_robot_cameras.py: only if the cameras are not the driver's

`read` copies the newest measurement out of shared memory, and a frame only when it is new, so a
loop at 500 Hz does not copy the pictures of a 30 Hz camera five hundred times.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Camera, Embodiment
from .joint_robot_cameras import FrameSource, camera_process
from .joint_robot_driver import ArmDriver
from .joint_robot_process import FAULT_BYTES, device_process
from .lerobot_units import OwnUnits
from .processes import await_message, encode, end_process, start_process, tell
from .robot import EpisodeEnd, RobotState
from .robot_health import (
    LOST_TIMEOUT_S,
    MAX_FRAME_AGE_S,
    MAX_STATE_AGE_S,
    overdue,
    require_finite,
)
from .shared_record import SharedRecord

CONNECT_TIMEOUT_S = 120.0
START_TIMEOUT_S = 60.0
FIRST_FRAME_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class JointArmConfig:
    """How an arm is used, whatever its make."""

    name: str
    """In messages, such as `ur 192.168.0.2`."""
    instruction: str = ""
    """Command for episodes that bring none of their own; a real scene says nothing by itself."""
    action_latency_s: float = 0.0
    """From the driver's command to the arm's motion, as measured; half a driver period is added."""
    max_state_age_s: float = MAX_STATE_AGE_S
    """Without a measurement for this long the link counts as lost."""
    max_frame_age_s: float = MAX_FRAME_AGE_S
    """Without a frame for this long a camera counts as dead."""


class _Feed:
    """One camera's frames as they come out of shared memory."""

    def __init__(self, record: SharedRecord, image: np.ndarray) -> None:
        self.record = record
        self.seen = 0
        self.time_ns = np.zeros((), dtype=np.int64)
        self.into = {"image": image, "time_ns": self.time_ns}

    def read(self) -> int:
        """Capture time of the newest frame, which lies in the array given."""
        if self.record.version != self.seen:
            self.seen = self.record.read(self.into) or self.seen
        return int(self.time_ns)


class JointArm:
    """An arm of joint positions as a `Robot`."""

    action_latency_s: float = 0.0
    notes: tuple[str, ...] = ()
    """What whoever reads the results should know; filled by `connect`."""
    own_units: OwnUnits | None = None
    """How the arm's own library counts, where that is known (LeRobot); filled by `connect`."""

    def __init__(
        self,
        config: JointArmConfig,
        make_driver: Callable[[], ArmDriver],
        driver_hz: float,
        make_cameras: Callable[[], FrameSource] | None = None,
        driver_has_children: bool = False,
    ) -> None:
        """The two makers run in their own processes and must be picklable.
        `driver_has_children`: whether the driver starts processes of its own."""
        self.config = config
        self._driver_hz = driver_hz
        self._driver_has_children = driver_has_children
        self._make_driver, self._make_cameras = make_driver, make_cameras
        self._process: SpawnProcess | None = None
        self._camera_process: tuple[SpawnProcess, Connection] | None = None
        self._embodiment: Embodiment | None = None

    @property
    def embodiment(self) -> Embodiment:
        if self._embodiment is None:
            raise RuntimeError(f"{self.config.name} is not connected; call connect() first")
        return self._embodiment

    @property
    def device_pid(self) -> int | None:
        """Of the process that talks to the arm."""
        return None if self._process is None else self._process.pid

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self.disconnect()
        self._process, self._connection = start_process(
            device_process,
            (self._make_driver,),
            self.config.name,
            {"OMP_NUM_THREADS": "1"},
            has_children=self._driver_has_children,
        )
        try:
            embodiment: Embodiment
            embodiment, self.notes, self.own_units = await_message(
                self._process, self._connection, "ready", CONNECT_TIMEOUT_S, stopping
            )
            self._measurements = SharedRecord.receive(self._connection)
            self._commands = SharedRecord.receive(self._connection)
            self._faults = SharedRecord.receive(self._connection)
            records = [SharedRecord.receive(self._connection) for _ in embodiment.cameras]
            cameras = embodiment.cameras
            if self._make_cameras is not None:
                more, more_records = self._connect_cameras(self._make_cameras, stopping)
                cameras, records = (*cameras, *more), [*records, *more_records]
        except BaseException:
            self.disconnect()
            raise
        self._embodiment = replace(embodiment, cameras=cameras)
        self.action_latency_s = self.config.action_latency_s + 0.5 / self._driver_hz
        self._state = RobotState.empty(self._embodiment)
        self._time_ns = np.zeros((), dtype=np.int64)
        self._arrays = {
            "state": self._state.state,
            "joint_position_rad": self._state.joint_position_rad,
            "time_ns": self._time_ns,
        }
        self._fault_text = {
            "text": np.zeros(FAULT_BYTES, np.uint8),
            "length": np.zeros((), np.int64),
        }
        self._names = [camera.name for camera in cameras]
        self._feeds = [
            _Feed(record, self._state.images[name])
            for name, record in zip(self._names, records, strict=True)
        ]

    def _connect_cameras(
        self, make_cameras: Callable[[], FrameSource], stopping: Callable[[], bool]
    ) -> tuple[tuple[Camera, ...], list[SharedRecord]]:
        process, connection = start_process(
            camera_process,
            (make_cameras,),
            f"cameras of {self.config.name}",
            {"OMP_NUM_THREADS": "1"},
        )
        self._camera_process = process, connection
        self._measurements.send(connection)
        cameras, notes = await_message(process, connection, "ready", CONNECT_TIMEOUT_S, stopping)
        self.notes = (*self.notes, *notes)
        return cameras, [SharedRecord.receive(connection) for _ in cameras]

    def start_episode(self, seed: int, instruction: str | None) -> str:
        said = instruction or self.config.instruction
        if not said:
            raise ValueError(
                f"{self.config.name} is to do something, but nobody said what; give an instruction"
            )
        if self._process is None:
            raise RuntimeError(f"{self.config.name} is not connected; call connect() first")
        tell(self._connection, encode(("start", seed)))
        started_ns = await_message(self._process, self._connection, "started", START_TIMEOUT_S)
        deadline_s = time.monotonic() + FIRST_FRAME_TIMEOUT_S
        while True:
            state = self.read()
            late = [
                name
                for name, time_ns in zip(self._names, state.image_time_ns, strict=True)
                if time_ns < started_ns
            ]
            if not late:
                return said
            if time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"{self.config.name}: no frame of {', '.join(late)} within "
                    f"{FIRST_FRAME_TIMEOUT_S:g} s of the start; look at the camera and its cable"
                )
            time.sleep(0.005)

    def read(self) -> RobotState:
        state = self._state
        version = self._measurements.read(self._arrays)
        if version > 0:
            state.version = version
            state.time_ns = int(self._time_ns)
        for index, feed in enumerate(self._feeds):
            state.image_time_ns[index] = feed.read()
        return state

    def fault(self) -> str:
        """Why the arm must not be relied on any more; empty while it can. Never waits."""
        if self._process is None or not self._process.is_alive():
            return f"{self.config.name}: the process that talks to it is gone"
        if self._camera_process is not None and not self._camera_process[0].is_alive():
            return f"{self.config.name}: the process of its cameras is gone"
        if self._faults.version and self._faults.read(self._fault_text):
            text = self._fault_text["text"][: int(self._fault_text["length"])]
            return f"{self.config.name}: {text.tobytes().decode(errors='replace')}"
        problem = overdue(
            self._state,
            self._names,
            time.monotonic_ns(),
            self.config.max_state_age_s,
            self.config.max_frame_age_s,
        )
        return problem and f"{self.config.name}: {problem}"

    def send(self, action: Float[np.ndarray, " action_dim"]) -> None:
        require_finite(action)
        slot = self._commands.begin()
        slot["action"][...] = action
        slot["hold"][...] = False
        slot["sent_ns"][...] = time.monotonic_ns()
        self._commands.commit()

    def hold(self) -> None:
        slot = self._commands.begin()
        slot["hold"][...] = True
        slot["sent_ns"][...] = time.monotonic_ns()
        self._commands.commit()

    def finish_episode(self, video: Path | None) -> EpisodeEnd:
        """No film: a real arm's is the flight recorder's."""
        if self._process is None:
            raise RuntimeError(f"{self.config.name} is not connected; call connect() first")
        tell(self._connection, encode(("finish", None)))
        timeout_s = LOST_TIMEOUT_S if self.fault() else START_TIMEOUT_S
        return await_message(self._process, self._connection, "finished", timeout_s)

    def disconnect(self) -> None:
        # The driver holds the arm before it lets go; a dead one has left that to the controller.
        if self._camera_process is not None:
            end_process(*self._camera_process)
            self._camera_process = None
        if self._process is not None:
            end_process(self._process, self._connection)
            self._process = None
