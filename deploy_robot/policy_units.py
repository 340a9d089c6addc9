"""A policy whose numbers are not the robot's: its own names, order and units, and the way between.

    robot (rad)  -- state / scale -->      policy (degrees, as its LeRobot data had them)
                 -- planned / scale -->
                 <-- chunk * scale --

Data says which number is which joint, but not in which unit: LeRobot's datasets say it nowhere. So
a robot refuses a policy of another embodiment unless a person says what its numbers are. Names,
cameras and rate are compared all the same, and so are the ranges seen in training.

Only absolute values come past here: what is relative inside a policy it has decoded itself.

Next: `lerobot_units.py` (how a LeRobot robot counts).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Act, Embodiment, Observation, require_same_embodiment, unknown_name
from .inference import Probing
from .lerobot_units import RANGES, Entry, OwnUnits

PolicyUnits = Literal["lerobot", "lerobot-m100", "robot"]
"""What the numbers of a policy are:

    lerobot         as this robot's motor bus counts now (degrees, with `use_degrees`)
    lerobot-m100    joints in -100 .. 100, from data taken with use_degrees=false; the robot itself
                    is driven in degrees, and its calibration says how far -100 and 100 are
    robot           the robot's own (rad), only that the data did not say so
"""
_ROUNDING = 1e-3
_HARDLY = 1.1
"""Beyond the calibrated range by more than a tenth: leader arms reach a little further."""


@dataclass(frozen=True)
class UnitMap:
    """Between the vectors of a policy and of a robot."""

    state: tuple[tuple[int, float], ...]
    """For each of the policy's entries the place in the robot's vector, and how much of the robot's
    unit one of the policy's is."""
    action: tuple[tuple[int, float], ...]
    cameras: tuple[str, ...]
    """Those that the policy sees."""


def check_policy_units(units: str | None, robot: str | None) -> None:
    """Refuse what needs no robot to be refused; `robot`: its name, None for one without."""
    if units is not None and units not in get_args(PolicyUnits):
        raise unknown_name("policy units", units, get_args(PolicyUnits))
    if units in ("lerobot", "lerobot-m100") and robot and not robot.startswith("lerobot:"):
        raise ValueError(_NOT_LEROBOT.format(units=units, robot=robot))


def unit_map(
    units: PolicyUnits | None,
    trained_for: Embodiment | None,
    robot: Embodiment,
    own: OwnUnits | None,
) -> tuple[UnitMap | None, list[str]]:
    """The way between policy and robot (None: they count alike), and what should be known of it.

    Args:
        units: what a person says of the policy; None: nothing, so it must be the very embodiment.
        trained_for: None: unknown (openpi's servers do not say), so it counts in the robot's order.
        own: how the robot's library counts.

    Raises ValueError if the policy does not fit.
    """
    if units is None:
        if trained_for is not None:
            _require_same(trained_for, robot, own)
        return None, []
    if trained_for is not None and _alike(trained_for, robot):
        if units == "robot":
            return None, []
        raise ValueError(
            f"this policy was trained on {robot.name} itself, in its own units; leave out "
            f"--policy-units {units}"
        )
    if units == "robot":
        states = [_Way(name, place, 1.0) for place, name in enumerate(robot.state_names)]
        actions = [_Way(name, place, 1.0) for place, name in enumerate(robot.action_names)]
    elif own is None:
        raise ValueError(_NOT_LEROBOT.format(units=units, robot=robot.name))
    else:
        scale = _as_bus_says if units == "lerobot" else _normalised
        states = [_Way(e.key, place, scale(e)) for place, e in enumerate(own.state)]
        actions = [_Way(e.key, place, scale(e)) for place, e in enumerate(own.action)]
    if trained_for is None:
        found = UnitMap(_places(states), _places(actions), tuple(c.name for c in robot.cameras))
        return found, [
            f"the policy does not say what it was trained for: its numbers are taken as "
            f"{', '.join(way.name for way in actions)}, in this order"
        ]
    _compare(trained_for, robot)
    return (
        UnitMap(
            _places(_found("state", trained_for.state_names, states)),
            _places(_found("action", trained_for.action_names, actions, every=True)),
            tuple(camera.name for camera in trained_for.cameras),
        ),
        _notes(units, trained_for, robot, own),
    )


def speaking(act: Act, units: UnitMap) -> Act:
    """The policy as one of the robot's units."""
    return _ProbingTranslated(act, units) if _can_be_away(act) else _Translated(act, units)


def _can_be_away(act: object) -> bool:
    return isinstance(act, Probing)


class _Translated:
    def __init__(self, act: Act, units: UnitMap) -> None:
        self._act, self._cameras = act, units.cameras
        self._state, self._state_scale = _arrays(units.state)
        self._action, self._action_scale = _arrays(units.action)
        self._back = np.argsort(self._action)

    def __call__(self, observation: Observation) -> Float[np.ndarray, "horizon action_dim"]:
        planned = observation.planned
        if planned is not None:
            planned = (planned[:, self._action] / self._action_scale).astype(np.float32)
        chunk = self._act(
            replace(
                observation,
                images={name: observation.images[name] for name in self._cameras},
                state=(observation.state[..., self._state] / self._state_scale).astype(np.float32),
                planned=planned,
            )
        )
        if np.ndim(chunk) != 2 or np.shape(chunk)[1] != len(self._action):
            raise ValueError(
                f"the policy gave an action chunk of shape {np.shape(chunk)}; expected (horizon, "
                f"{len(self._action)})"
            )
        return (chunk * self._action_scale)[:, self._back].astype(np.float32)


class _ProbingTranslated(_Translated):
    """Of a policy that is elsewhere."""

    def probe(self) -> bool:
        assert isinstance(self._act, Probing)
        return self._act.probe()


@dataclass(frozen=True)
class _Way:
    """An entry of a robot's vector, by the policy's name of it."""

    name: str
    place: int
    scale: float


_NOT_LEROBOT = (
    "--policy-units {units}: {robot} does not count in LeRobot's units, only lerobot:TYPE does; "
    "bring LeRobot data in with `ulna data import --joint-unit degree` and say --policy-units robot"
)


def _as_bus_says(entry: Entry) -> float:
    return entry.scale


def _normalised(entry: Entry) -> float:
    if entry.joint and not entry.per_m100:
        raise ValueError(
            f"--policy-units lerobot-m100: no calibration tells how far {entry.key} goes from -100 "
            "to 100; calibrate the arm with lerobot-calibrate, or run it with use_degrees=false "
            "and --policy-units lerobot"
        )
    return entry.per_m100 if entry.joint else entry.scale


def _require_same(trained_for: Embodiment, robot: Embodiment, own: OwnUnits | None) -> None:
    try:
        require_same_embodiment(trained_for, robot, "the robot")
    except ValueError as error:
        advice = ""
        if own is not None and set(trained_for.action_names) == {e.key for e in own.action}:
            counts = ", ".join(f"{e.key} {e.unit}" for e in own.action)
            advice = (
                ". Its actions are called as LeRobot calls this robot's. If it was trained on "
                "LeRobot data and its numbers are as this robot's motor bus counts now "
                f"({counts}), say so with --policy-units lerobot; if the data was taken with "
                "use_degrees=false, with --policy-units lerobot-m100"
            )
        elif trained_for.action_names == robot.action_names:
            advice = (
                ". Names of actions agree; if the numbers do too, say so with --policy-units robot"
            )
        raise ValueError(f"{error}{advice}") from None


def _alike(trained_for: Embodiment, robot: Embodiment) -> bool:
    return all(
        getattr(trained_for, field.name) == getattr(robot, field.name)
        for field in fields(Embodiment)
        if field.compare
    )


def _compare(trained_for: Embodiment, robot: Embodiment) -> None:
    """What units do not change."""
    if trained_for.control_hz != robot.control_hz:
        raise ValueError(
            f"this policy was trained at {trained_for.control_hz:g} actions per second, "
            f"{robot.name} takes {robot.control_hz:g}; add --robot-options "
            f"control_hz={trained_for.control_hz:g}"
        )
    sizes = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
    for camera in trained_for.cameras:
        if camera.name not in sizes:
            raise unknown_name(f"camera of {robot.name}, seen in training,", camera.name, sizes)
        if sizes[camera.name] != (camera.height, camera.width):
            raise ValueError(
                f"camera {camera.name} of {robot.name} gives (height, width) "
                f"{sizes[camera.name]}, in training it was {(camera.height, camera.width)}; set "
                "the camera to that size"
            )


def _found(
    kind: str, names: tuple[str, ...], ways: Sequence[_Way], every: bool = False
) -> list[_Way]:
    """The ways of the policy's entries, in its order; all of the robot's if `every`."""
    known = {way.name: way for way in ways}
    odd = [name for name in names if name not in known]
    left = [name for name in known if name not in names] if every else []
    if odd or left:
        raise ValueError(
            f"the policy's {kind} is {', '.join(names)}; in the units said, the robot's is "
            f"{', '.join(known)}. "
            + (f"It has no {', '.join(odd)}" if odd else f"Nobody says {', '.join(left)}")
            + "; these are other joints or other units: see --policy-units, and the names in "
            "`ulna data info` of the data it was trained on"
        )
    return [known[name] for name in names]


def _places(ways: Sequence[_Way]) -> tuple[tuple[int, float], ...]:
    return tuple((way.place, way.scale) for way in ways)


def _arrays(places: tuple[tuple[int, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in places], np.intp), np.array([s for _, s in places])


def _notes(
    units: PolicyUnits, trained_for: Embodiment, robot: Embodiment, own: OwnUnits | None
) -> list[str]:
    """Refuses ranges of training that cannot be in the unit said, and tells of those that hardly
    can. Such ranges are what stands behind `action_low` and `action_high` of imported data."""
    notes = [f"the policy was trained for {trained_for.name}, this is {robot.name}"]
    notes = [] if trained_for.name == robot.name else notes
    seen = zip(
        trained_for.action_names, trained_for.action_low, trained_for.action_high, strict=True
    )
    entries = {} if own is None or units == "robot" else {e.key: e for e in own.action}
    limits = dict(zip(robot.action_names, robot.action_high, strict=True))
    units_said = []
    for name, low, high in seen:
        if not (math.isfinite(low) and math.isfinite(high)):
            continue
        most, entry = max(abs(low), abs(high)), entries.get(name)
        if entry is None:
            is_joint = name.removesuffix(".pos") in robot.joint_names
            unit, could, usual = "rad", _HARDLY * 2 * math.pi, limits[name]
            if not is_joint:
                continue
        else:
            unit = "m100_100" if units == "lerobot-m100" and entry.joint else entry.unit
            units_said.append(f"{name} {unit}")
            could = 100.0 if unit in RANGES else math.inf
            usual = entry.high / (entry.scale if unit != "m100_100" else 1.0)
            usual = 100.0 if unit == "m100_100" else usual
        where = f"{name} went from {low:g} to {high:g} in training"
        if most > could + _ROUNDING or (unit == "0_100" and low < -_ROUNDING):
            raise ValueError(
                f"--policy-units {units} means {name} in {unit}, but {where}: it cannot have been "
                "in that unit; see --policy-units"
            )
        if most > _HARDLY * usual:
            notes.append(
                f"{where}, this robot goes to {usual:.3g} {unit}: another arm or another unit?"
            )
    if units_said:
        notes.append(f"the policy counts {', '.join(units_said)}")
    return notes
