"""Every robot by name: `sim`, `sim-joints`, `ur`, `franka`, `lerobot:<type>`.

    make_robot("ur", "stack the cups", {"host": "192.168.0.2", "cameras": "{front: {...}}"})

Options are words, as they come from a command line; each robot takes those of its configuration
and refuses others. `ROBOTS.md` says how to wire each arm.

Next: `joint_robot.py` (all arms of joint positions), `sim_robot.py` (the tasks of `envs`).
"""

import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any

from ..datasets.schema import Embodiment, unknown_name
from .franka_robot import FrankaConfig, FrankaDriver
from .joint_robot import JointArm, JointArmConfig
from .joint_robot_sim import SimJointsCamera, SimJointsConfig, SimJointsDriver
from .lerobot_devices import LeRobotCameras, make_lerobot_robot
from .lerobot_robot import LeRobotDriver
from .lerobot_units import Unit
from .robot import Robot
from .sim_faults import parse_faults
from .sim_robot import SimRobot
from .ur_robot import UrConfig, UrDriver

KNOWN = {
    "sim": "a task of envs in wall-clock time",
    "sim-joints": "a simulated Panda of joint positions",
    "ur": "Universal Robots; needs pip install 'ulna[ur]'",
    "franka": "Franka Panda and FR3; needs pip install 'ulna[franka]'",
    "lerobot:<type>": "any robot of LeRobot, such as lerobot:so101_follower",
}
LEROBOT_CONTROL_HZ = 30.0
LEROBOT_READ_HZ = 60.0


def make_robot(
    name: str,
    task: str = "",
    options: Mapping[str, str] | None = None,
    trained_for: Embodiment | None = None,
) -> Robot:
    """The robot `name`, not yet connected.

    Args:
        task: for `sim` the task of `envs`; for others the instruction of episodes that bring none.
        trained_for: the policy's embodiment: `sim` shows it pictures of the size it knows.
        options: see the configuration classes; besides, `faults` for simulated robots,
            `cameras` (LeRobot's words) for `ur` and `franka`, `action_latency_s`,
            `max_state_age_s` and `max_frame_age_s` for all but `sim`, and for `lerobot:<type>`
            everything LeRobot's own command line takes, `control_hz`, `read_hz` and `unit`.

    Raises ValueError for an unknown robot or option. Whether a needed package is installed shows
    when the robot connects.
    """
    given = dict(options or {})
    if name == "sim":
        faults = parse_faults(given.pop("faults", ""))
        _refuse(given, ("faults",))
        return SimRobot(task, faults=faults, trained_for=trained_for)
    kind, _, lerobot_type = name.partition(":")
    if kind == "lerobot":
        if not lerobot_type:
            raise ValueError("which LeRobot robot? Give its type, as in lerobot:so101_follower")
        return _lerobot(name, lerobot_type, task, given)
    makers: dict[str, Callable[[str, dict[str, str]], Robot]] = {
        "sim-joints": _sim_joints,
        "ur": _ur,
        "franka": _franka,
    }
    if name not in makers:
        known = "; ".join(f"{known} ({what})" for known, what in KNOWN.items())
        raise ValueError(f"{unknown_name('robot', name, KNOWN)}. {known}")
    return makers[name](task, given)


def _sim_joints(task: str, given: dict[str, str]) -> Robot:
    arm = _config(JointArmConfig, given, name="the simulated joint arm", instruction=task)
    faults = parse_faults(given.pop("faults", ""))
    config = _config(SimJointsConfig, given, faults=faults)
    _refuse(given, ("faults", *_words(JointArmConfig), *_words(SimJointsConfig)))
    return sim_joints(config, arm)


def sim_joints(config: SimJointsConfig, arm: JointArmConfig | None = None) -> JointArm:
    """The simulated joint-position arm from a configuration instead of words."""
    arm = arm or JointArmConfig("the simulated joint arm", "move")
    latency_s = arm.action_latency_s + config.faults.command_delay_s
    return JointArm(
        JointArmConfig(
            arm.name, arm.instruction, latency_s, arm.max_state_age_s, arm.max_frame_age_s
        ),
        functools.partial(SimJointsDriver, config),
        config.hz,
        functools.partial(SimJointsCamera, config) if config.camera_hz else None,
    )


def _ur(task: str, given: dict[str, str]) -> Robot:
    cameras = given.pop("cameras", "")
    config = _config(UrConfig, given, required=("host",))
    arm = _config(JointArmConfig, given, name=f"ur {config.host}", instruction=task)
    _refuse(given, ("cameras", *_words(JointArmConfig), *_words(UrConfig)))
    return JointArm(arm, functools.partial(UrDriver, config), config.hz, _cameras(cameras))


def _franka(task: str, given: dict[str, str]) -> Robot:
    cameras = given.pop("cameras", "")
    config = _config(FrankaConfig, given, required=("host",))
    arm = _config(JointArmConfig, given, name=f"franka {config.host}", instruction=task)
    _refuse(given, ("cameras", *_words(JointArmConfig), *_words(FrankaConfig)))
    driver = functools.partial(FrankaDriver, config)
    return JointArm(arm, driver, config.hz, _cameras(cameras), driver_has_children=config.hand)


def _lerobot(name: str, kind: str, task: str, given: dict[str, str]) -> Robot:
    arm = _config(JointArmConfig, given, name=name, instruction=task)
    control_hz = float(given.pop("control_hz", LEROBOT_CONTROL_HZ))
    read_hz = float(given.pop("read_hz", max(LEROBOT_READ_HZ, control_hz)))
    unit = _value("unit", given.pop("unit"), Unit) if "unit" in given else None
    make = functools.partial(make_lerobot_robot, kind, given)
    driver = functools.partial(LeRobotDriver, kind, make, control_hz, read_hz, unit)
    return JointArm(arm, driver, read_hz)


def _cameras(text: str) -> Callable[[], LeRobotCameras] | None:
    return functools.partial(LeRobotCameras, text) if text else None


def _config(
    config_class: Any, given: dict[str, str], required: tuple[str, ...] = (), **fixed: Any
) -> Any:
    """`config_class` from the words it knows, which are taken out of `given`."""
    types = typing.get_type_hints(config_class)
    values = dict(fixed)
    for word in _words(config_class):
        if word in given and word not in fixed:
            values[word] = _value(word, given.pop(word), types[word])
    missing = [word for word in required if word not in values]
    if missing:
        raise ValueError(
            f"{config_class.__name__} needs {', '.join(missing)}; give it as an option"
        )
    return config_class(**values)


def _words(config_class: Any) -> list[str]:
    return [field.name for field in fields(config_class)]


def _value(word: str, text: str, kind: Any) -> Any:
    if isinstance(kind, UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not NoneType)
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise unknown_name(f"option {word}", text, typing.get_args(kind))
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            return tuple(float(part) for part in text.strip("()[] ").split(","))
        return kind(text)
    except (KeyError, ValueError):
        shown = getattr(kind, "__name__", kind)
        raise ValueError(f"option {word} is {text!r}; give a {shown}") from None


def _refuse(left: Mapping[str, str], known: tuple[str, ...]) -> None:
    for word in left:
        raise unknown_name("option", word, [k for k in known if k not in ("name", "instruction")])
