"""Any teleoperator of LeRobot as a source of actions for our arms.

    teleoperator process              control process
    get_action, at its own rate --shared memory--> action(state): the newest, converted; None once
                                                   it is older than MAX_AGE_S

Two kinds fit two kinds of robots: leader arms give joint positions, whose units their own motor
bus tells (`lerobot_units.py`) and whose names must be those of the robot; gamepads and the like
give `delta_x delta_y delta_z` in -1 .. 1, which are `dx dy dz` of a robot of tool displacements.
Next: `TeleoperationOperator`, which gives the arm to a source like this.
"""

import contextlib
import inspect
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .clock import MonotonicClock, Ticker
from .joint_robot_process import LOST
from .lerobot_units import Unit, entries_of, to_ours
from .processes import await_message, end_process, obey_parent_only, report_crash, start_process
from .robot import RobotState
from .shared_record import Field, SharedRecord

MAX_AGE_S = 0.2
"""A hand that was not heard of for longer does not move the arm any more."""
CONNECT_TIMEOUT_S = 120.0
_DELTAS = {"delta_x": "dx", "delta_y": "dy", "delta_z": "dz"}
_GRIPPER_WORDS = {0: 1.0, 2: -1.0}
"""LeRobot's close and open of gamepads and keyboards as ours; 1 is stay."""


class LeRobotTeleoperator:
    """A source of actions for `embodiment`; `action` never waits."""

    def __init__(
        self,
        make_teleoperator: Callable[[], Any],
        embodiment: Embodiment,
        hz: float = 60.0,
        unit: Unit | None = None,
    ) -> None:
        """`make_teleoperator`: runs in the process of the teleoperator; picklable, such as
        `functools.partial(make_lerobot_teleoperator, "so101_leader", {"port": ...})`. `unit`: of
        positions whose unit no motor bus tells."""
        self._embodiment = embodiment
        self._arguments = (make_teleoperator, embodiment.action_names, hz, unit)
        self._process: SpawnProcess | None = None
        self._action = np.zeros(embodiment.action_dim)
        self._time_ns = np.zeros((), dtype=np.int64)
        self._into = {"action": self._action, "time_ns": self._time_ns}

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """ValueError if its actions are not those of the robot."""
        self._process, self._connection = start_process(
            _teleoperate, self._arguments, "teleoperator", {"OMP_NUM_THREADS": "1"}
        )
        try:
            await_message(self._process, self._connection, "ready", CONNECT_TIMEOUT_S, stopping)
            self._record = SharedRecord.receive(self._connection)
        except BaseException:
            self.disconnect()
            raise

    def action(self, state: RobotState) -> Float[np.ndarray, " action_dim"] | None:
        """What the hand wants now, in the units of the embodiment; None if it is not there. The
        next call overwrites it."""
        if self._process is None or not self._record.read(self._into):
            return None
        age_s = (time.monotonic_ns() - int(self._time_ns)) * 1e-9
        return self._action if age_s <= MAX_AGE_S else None

    def disconnect(self) -> None:
        if self._process is not None:
            end_process(self._process, self._connection)
            self._process = None


def _teleoperate(
    connection: Connection,
    make_teleoperator: Callable[[], Any],
    action_names: tuple[str, ...],
    hz: float,
    unit: Unit | None,
) -> None:
    """Main function of the process."""
    obey_parent_only()
    try:
        device = make_teleoperator()
        try:
            try:
                # Gamepads and keyboards know no calibration and take no such argument.
                if "calibrate" in inspect.signature(device.connect).parameters:
                    device.connect(calibrate=False)
                else:
                    device.connect()
                if not device.is_calibrated:
                    raise ValueError(
                        f"{device} is not calibrated; run lerobot-calibrate with the same type, "
                        "port and id"
                    )
                convert = converter(device, action_names, unit)
            except (ValueError, ImportError, *LOST) as error:
                connection.send(("refused", str(error)))
                return
            record = SharedRecord(
                (Field("action", "float64", (len(action_names),)), Field("time_ns", "int64"))
            )
            connection.send(("ready", None))
            record.send(connection)
            _publish(connection, device, convert, record, hz)
        finally:
            with contextlib.suppress(*LOST):
                device.disconnect()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


def _publish(
    connection: Connection,
    device: Any,
    convert: Callable[[dict[str, Any]], np.ndarray],
    record: SharedRecord,
    hz: float,
) -> None:
    ticker = Ticker(MonotonicClock(), hz, capacity=1)
    while not connection.poll(0):
        ticker.wait()
        began_ns = time.monotonic_ns()
        try:
            action = convert(device.get_action())
        except LOST:
            continue  # not heard: what was published before gets too old to be obeyed
        slot = record.begin()
        slot["action"][...] = action
        slot["time_ns"][...] = began_ns
        record.commit()


def converter(
    device: Any, action_names: tuple[str, ...], unit: Unit | None = None
) -> Callable[[dict[str, Any]], Float[np.ndarray, " action_dim"]]:
    """From dictionaries of the teleoperator `device` to actions of a robot with `action_names`.
    ValueError if they do not fit."""
    features = device.action_features
    keys = list(features["names"]) if "names" in features else list(features)
    if any(key in _DELTAS for key in keys):
        return _Deltas(keys, action_names)
    entries = entries_of(device, keys, unit)
    ours = [entry.name for entry in entries]
    if set(ours) != set(action_names):
        raise ValueError(
            f"the teleoperator gives {', '.join(ours)}; the robot takes {', '.join(action_names)}. "
            "Use the leader of this robot, in the same units (use_degrees on both sides)"
        )
    order = [ours.index(name) for name in action_names]
    return lambda values: to_ours(entries, values)[order]


class _Deltas:
    """`delta_x ...` and a gripper of three words as tool displacements."""

    def __init__(self, keys: list[str], action_names: tuple[str, ...]) -> None:
        places = {
            key: action_names.index(name)
            for key, name in _DELTAS.items()
            if key in keys and name in action_names
        }
        if len(places) != sum(key in _DELTAS for key in keys):
            raise ValueError(
                f"the teleoperator gives {', '.join(keys)}; the robot takes "
                f"{', '.join(action_names)}. Displacements move only robots of dx, dy, dz"
            )
        self._places = places
        self._gripper = (
            action_names.index("gripper")
            if "gripper" in keys and "gripper" in action_names
            else None
        )
        self._action = np.zeros(len(action_names))

    def __call__(self, values: dict[str, Any]) -> Float[np.ndarray, " action_dim"]:
        for key, place in self._places.items():
            self._action[place] = float(values[key])
        if self._gripper is not None:
            told = _GRIPPER_WORDS.get(int(values["gripper"]))
            if told is not None:
                self._action[self._gripper] = told
        return self._action
