"""ArmLimits as a TOML file that a person edits, and the files that come along.

    name = "franka_panda"
    joint_names = ["joint1", ...]
    velocity_rad_s = [2.175, ...]
    unlimited = ["collision"]          what is left out has to be said

A key that means nothing is refused, since a limit with a typing error would be no limit.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from ..datasets.schema import unknown_name
from .limits import ArmLimits

SHIPPED = ("panda", "ur5e", "so101")
"""Arms whose limits come along, by the name of their files beside this one."""


def shipped_limits(arm: str) -> ArmLimits:
    """Limits of a known arm, each number with its source in the file."""
    if arm not in SHIPPED:
        raise unknown_name("arm with limits", arm, SHIPPED)
    return read_limits(Path(__file__).parent / f"{arm}.toml")


def read_limits(path: Path | str) -> ArmLimits:
    """The limits in `path`; a `model` in it is looked for from the file's own folder."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"limits file {path} does not exist; give a TOML file, or one of: {', '.join(SHIPPED)}"
        )
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    limits = limits_of(values, path)
    if limits.model:
        limits = replace(limits, model=str((path.parent / limits.model).resolve()))
    return limits


def renamed(limits: ArmLimits, joint_names: tuple[str, ...]) -> ArmLimits:
    """The same arm, whose robot calls its joints otherwise (same order)."""
    return replace(
        limits, joint_names=joint_names, model_joints=limits.model_joints or limits.joint_names
    )


def limits_of(values: Mapping[str, Any], where: Path | str) -> ArmLimits:
    """Limits from plain values, every one of the right kind."""
    known = {field.name: field for field in fields(ArmLimits)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_name(f"key in {where}", name, known)
        arguments[name] = _value(name, value, str(known[name].type), where)
    for name, field in known.items():
        if field.default is MISSING and name not in arguments:
            raise ValueError(f"{where} does not say {name}; it must")
    return ArmLimits(**arguments)


def write_limits(path: Path | str, limits: ArmLimits) -> None:
    """`limits` as a file that `read_limits` gives back; fields at their default are left out."""
    lines = []
    for field in fields(ArmLimits):
        value = getattr(limits, field.name)
        if value != field.default:
            # JSON's strings, numbers and lists of them are TOML's as well.
            text = json.dumps(list(value) if isinstance(value, tuple) else value)
            lines.append(f"{field.name} = {text}")
    Path(path).write_text("\n".join(lines) + "\n")


def _value(name: str, value: Any, kind: str, where: Path | str) -> Any:
    def refuse(expected: str) -> ValueError:
        return ValueError(f"{where}: {name} is {value!r}; expected {expected}")

    def is_number(one: Any) -> bool:
        return isinstance(one, (int, float)) and not isinstance(one, bool)

    if "tuple" in kind:
        words = "str" in kind
        if not isinstance(value, list) or not all(
            isinstance(one, str) if words else is_number(one) for one in value
        ):
            raise refuse("a list of names" if words else "a list of numbers")
        return tuple(value) if words else tuple(float(one) for one in value)
    if "str" in kind:
        if not isinstance(value, str):
            raise refuse("a text")
        return value
    if "int" in kind:
        if not isinstance(value, int) or isinstance(value, bool):
            raise refuse("a whole number")
        return value
    if not is_number(value):
        raise refuse("a number")
    return float(value)
