"""The words and units of a LeRobot robot, and their way into ours and back.

    theirs                              ours
    shoulder_pan.pos   degrees          shoulder_pan.pos         rad, a physical joint
    shoulder_pan.pos   -100 .. 100      shoulder_pan.pos_m100_100   stays, says so in its name
    gripper.pos        0 .. 100         gripper.pos_0_100           stays, is no joint
    x.vel              as it is         x.vel

LeRobot's dictionaries hold bare floats; in which unit is known to the motor bus alone, so it is
asked there. A normalised position means nothing outside one calibration: such an arm has no joint
limits in rad, and nobody here pretends that it has.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Unit = Literal["degree", "radian", "m100_100", "0_100", "as_is"]
RANGES = {"m100_100": (-100.0, 100.0), "0_100": (0.0, 100.0)}
_MODES: dict[str, Unit] = {
    "degrees": "degree",
    "range_m100_100": "m100_100",
    "range_0_100": "0_100",
}
_BUSES = (("", ""), ("left_arm", "left_"), ("right_arm", "right_"))
"""Parts of a LeRobot robot that may own a motor bus, and what they put before its motors' names."""
_TURN = 2 * math.pi


@dataclass(frozen=True)
class Entry:
    """One float of LeRobot's dictionaries."""

    key: str
    """Theirs, such as `shoulder_pan.pos`."""
    name: str
    """Ours, with the unit in it where it is not the rad of a joint position."""
    scale: float
    """Ours is theirs times this."""
    joint: str
    """Name of the physical joint this is the position of in rad; empty if it is none."""
    low: float
    """Smallest value, ours; minus infinity if unknown."""
    high: float
    per_m100: float = 0.0
    """Ours is this times the position in LeRobot's -100 .. 100, as the calibration has it; 0 where
    there is no calibration to tell."""

    @property
    def unit(self) -> str:
        """Theirs, in words."""
        for unit in RANGES:
            if self.name.endswith(f".pos_{unit}"):
                return unit
        if self.name.endswith(".pos"):
            return "radian" if self.scale == 1.0 else "degree"
        return "as it is"


@dataclass(frozen=True)
class OwnUnits:
    """All floats of a LeRobot robot, in the order of our vectors."""

    state: tuple[Entry, ...]
    action: tuple[Entry, ...]


@dataclass(frozen=True)
class _Told:
    """What a motor bus tells of one motor."""

    unit: Unit
    limits: tuple[float, float] | None = None
    """Calibrated range in that unit."""
    sign: float = 1.0
    """-1 where LeRobot counts -100 .. 100 the other way round than degrees."""


def entries_of(device: Any, keys: list[str], unit: Unit | None = None) -> list[Entry]:
    """How the floats `keys` of a LeRobot robot or teleoperator are to be read.

    `unit`: of all positions whose unit no motor bus of `device` tells. ValueError if there are
    such and nobody said.
    """
    known = _bus_units(device)
    entries = []
    for key in keys:
        motor, _, kind = key.rpartition(".")
        if kind != "pos":
            entries.append(Entry(key, _gripper_first(key), 1.0, "", -math.inf, math.inf))
            continue
        told = known.get(motor, _Told(unit) if unit else None)
        if told is None:
            raise ValueError(
                f"no motor bus of {getattr(device, 'name', device)} tells the unit of {key!r}; "
                "give unit=degree, unit=radian, unit=m100_100 or unit=0_100 after reading the "
                "robot's documentation"
            )
        entries.append(_position(key, motor, told))
    return entries


def to_ours(entries: list[Entry], values: Mapping[str, Any]) -> Float[np.ndarray, " entries"]:
    """Their dictionary as our vector. KeyError-free: ValueError names what is missing."""
    missing = [entry.key for entry in entries if entry.key not in values]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing; got {', '.join(sorted(values))}")
    return np.array([float(values[entry.key]) * entry.scale for entry in entries])


def to_theirs(entries: list[Entry], action: Float[np.ndarray, " entries"]) -> dict[str, float]:
    """Our vector as their dictionary."""
    return {
        entry.key: value / entry.scale
        for entry, value in zip(entries, action.tolist(), strict=True)
    }


def _position(key: str, motor: str, told: _Told) -> Entry:
    unit, limits = told.unit, told.limits
    if unit in RANGES:
        low, high = RANGES[unit]
        per_m100 = 1.0 if unit == "m100_100" else 0.0
        return Entry(key, f"{_gripper_first(motor)}.pos_{unit}", 1.0, "", low, high, per_m100)
    if unit == "as_is":
        return Entry(key, f"{_gripper_first(motor)}.pos_as_is", 1.0, "", -math.inf, math.inf)
    scale = math.radians(1.0) if unit == "degree" else 1.0
    low, high = (-_TURN, _TURN) if limits is None else (limits[0] * scale, limits[1] * scale)
    per_m100 = 0.0 if limits is None else told.sign * high / 100
    joint = "" if "gripper" in motor else motor
    return Entry(key, f"{_gripper_first(motor)}.pos", scale, joint, low, high, per_m100)


def _gripper_first(name: str) -> str:
    """Our grippers are known by how their names begin: `left_gripper` is `gripper_left`."""
    if "gripper" not in name or name.startswith("gripper"):
        return name
    before, _, after = name.partition("gripper")
    return "gripper_" + before.strip("_") + after


def _bus_units(device: Any) -> dict[str, _Told]:
    """What the buses of `device` tell, by motor."""
    units: dict[str, _Told] = {}
    for part, prefix in _BUSES:
        owner = getattr(device, part, None) if part else device
        bus = getattr(owner, "bus", None)
        for name, motor in getattr(bus, "motors", {}).items():
            mode = motor.norm_mode
            unit = _MODES.get(getattr(mode, "value", mode))
            if unit is None:
                raise ValueError(
                    f"motor {name} is in LeRobot's mode {mode}; known: {', '.join(_MODES)}"
                )
            # LeRobot turns only normalised positions round, never degrees.
            calibration = getattr(bus, "calibration", {}).get(name)
            turns = calibration is not None and calibration.drive_mode
            sign = -1.0 if turns and getattr(bus, "apply_drive_mode", False) else 1.0
            units[prefix + name] = _Told(unit, _calibrated_range(bus, name, motor, unit), sign)
    return units


def _calibrated_range(bus: Any, name: str, motor: Any, unit: Unit) -> tuple[float, float] | None:
    """The calibrated range of a motor in degrees, around its middle as LeRobot counts them."""
    calibration = getattr(bus, "calibration", {}).get(name)
    resolution = getattr(bus, "model_resolution_table", {}).get(motor.model)
    if unit != "degree" or calibration is None or not resolution:
        return None
    half = (calibration.range_max - calibration.range_min) / 2 * 360 / (resolution - 1)
    # A joint that can turn fully is calibrated to the whole range of its encoder.
    return -half, half
