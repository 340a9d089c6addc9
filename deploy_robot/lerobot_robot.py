"""Any robot of LeRobot as ours: `lerobot:so101_follower` and the like.

Their robot lives in the device process, where its bus and its cameras may take the time they
take. What their observations leave out is taken from the parts: the capture time of each frame
from its camera, the unit of each position from its motor bus (`lerobot_units.py`).
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Camera, Embodiment
from .joint_robot_driver import Frame, joint_embodiment_meaning
from .lerobot_devices import StampedCameras
from .lerobot_units import Entry, OwnUnits, Unit, entries_of, to_ours, to_theirs

HOLD_SLACK_RAD = 0.2
"""A goal nearer than this to the measured position stays when the arm is to hold: servos under
load hang below their goal, and would sink at every hold if the goal followed them."""


class LeRobotDriver:
    """An `ArmDriver` of one LeRobot robot."""

    max_failed_reads = 3  # a garbled answer on a serial bus is no lost arm
    own_units: OwnUnits | None
    """How LeRobot itself counts; known from `open` on."""

    def __init__(
        self,
        kind: str,
        make_robot: Callable[[], Any],
        control_hz: float,
        hz: float,
        unit: Unit | None = None,
    ) -> None:
        """`kind`: LeRobot's type. `hz`: of reading. `unit`: see `entries_of`."""
        if not 0 < control_hz <= hz:
            raise ValueError(
                f"control_hz {control_hz}, hz {hz}: the robot must be read at least as often as "
                "it is told something; give 0 < control_hz <= hz"
            )
        self.hz = hz
        self.notes: tuple[str, ...] = ()
        self.own_units = None
        self._kind, self._control_hz = kind, control_hz
        self._unit: Unit | None = unit
        self._make_robot = make_robot
        self._robot: Any = None
        self._observation: dict[str, Any] = {}
        self._goal: np.ndarray | None = None

    def open(self) -> Embodiment:
        self._robot = robot = self._make_robot()
        # Not calibrate=True: that asks questions on a terminal, which this process has not.
        robot.connect(calibrate=False)
        if not robot.is_calibrated:
            raise ValueError(
                f"{robot} is not calibrated; run lerobot-calibrate with the same type, port and id"
            )
        features = robot.observation_features
        self._states = entries_of(robot, [k for k, v in features.items() if v is float], self._unit)
        self._actions = entries_of(
            robot, [k for k, v in robot.action_features.items() if v is float], self._unit
        )
        self.own_units = OwnUnits(tuple(self._states), tuple(self._actions))
        images = {k: v for k, v in features.items() if isinstance(v, tuple) and v[-1] == 3}
        other = [k for k, v in features.items() if v is not float and k not in images]
        other += [k for k, v in robot.action_features.items() if v is not float]
        self._times = StampedCameras(getattr(robot, "cameras", {}), list(images))
        self._joints = [index for index, entry in enumerate(self._states) if entry.joint]
        normalised = [
            e.name for e in self._actions if not e.joint and not e.name.startswith("grip")
        ]
        self.notes = (
            *self._times.notes,
            *((f"not used: {', '.join(other)}",) if other else ()),
            *(
                (f"no joint limits in rad can be had for {', '.join(normalised)}",)
                if normalised
                else ()
            ),
        )
        return self._embodiment({k: (v[0], v[1]) for k, v in images.items()})

    def start(self, seed: int) -> None:
        self._clipped = 0

    def measure(self, into: dict[str, np.ndarray]) -> None:
        before = self._times.before()
        began_ns = time.monotonic_ns()
        self._observation = self._robot.get_observation()
        arrived_ns = time.monotonic_ns()
        self._before, self._arrived_ns = before, arrived_ns
        self._position = to_ours(self._states, self._observation)
        into["state"][:] = self._position
        into["joint_position_rad"][:] = self._position[self._joints]
        # The bus was read at some moment of the call; the beginning never makes it too young.
        into["time_ns"][...] = began_ns

    def frames(self) -> Iterable[Frame]:
        found = []
        for name, shape in self._images.items():
            image = self._observation.get(name)
            if image is None:
                continue
            if image.shape != (*shape, 3) or image.dtype != np.uint8:
                raise RuntimeError(
                    f"{name} gave {image.dtype} of {image.shape}, its features say uint8 of "
                    f"{(*shape, 3)}"
                )
            capture_ns = self._times.capture_ns(name, image, self._before, self._arrived_ns)
            if self._times.is_new(name, capture_ns):
                found.append((name, capture_ns, image))
        self._observation = {}  # a measurement that failed must not show these again
        return found

    def command(self, action: Float[np.ndarray, " action_dim"]) -> None:
        wanted = to_theirs(self._actions, action)
        sent = self._robot.send_action(wanted)
        self._clipped += any(
            abs(float(sent.get(key, value)) - value) > 1e-3 for key, value in wanted.items()
        )
        self._goal = action.copy()

    def hold(self) -> None:
        if self._goal is None:
            return
        measured = dict(zip((e.name for e in self._states), self._position, strict=True))
        held = self._goal.copy()
        for index, entry in enumerate(self._actions):
            if entry.key.endswith(".vel"):
                held[index] = 0.0
            elif entry.name in measured and not entry.name.startswith("gripper"):
                slack = HOLD_SLACK_RAD if entry.joint else 100 * HOLD_SLACK_RAD / np.pi
                if abs(measured[entry.name] - held[index]) > slack:
                    held[index] = measured[entry.name]
        if (held != self._goal).any():
            self._robot.send_action(to_theirs(self._actions, held))
            self._goal = held

    def fault(self) -> str:
        return "" if self._robot.is_connected else f"{self._robot} is not connected any more"

    def finish(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        return {"clipped_by_robot": self._clipped}, {}

    def close(self) -> None:
        robot, self._robot = self._robot, None
        if robot is not None:
            with contextlib.suppress(OSError, RuntimeError):
                robot.disconnect()

    def _embodiment(self, images: dict[str, tuple[int, int]]) -> Embodiment:
        self._images = images
        self._clipped = 0
        joints = [self._states[index] for index in self._joints]
        names = [entry.name for entry in self._actions]
        if len(set(names)) != len(names):
            raise ValueError(f"two entries have the same name: {', '.join(names)}")
        return Embodiment(
            name=self._kind,
            control_hz=self._control_hz,
            state_names=tuple(entry.name for entry in self._states),
            action_names=tuple(names),
            action_low=tuple(entry.low for entry in self._actions),
            action_high=tuple(entry.high for entry in self._actions),
            action_meaning=_meaning(self._actions),
            cameras=tuple(Camera(name, *size) for name, size in images.items()),
            joint_names=tuple(entry.joint for entry in joints),
            joint_low_rad=tuple(entry.low for entry in joints),
            joint_high_rad=tuple(entry.high for entry in joints),
        )


def _meaning(entries: list[Entry]) -> str:
    if all(entry.joint or entry.name.startswith("gripper") for entry in entries):
        return joint_embodiment_meaning("other units as the names say")
    return "goals of a LeRobot robot in the units that the names say"
