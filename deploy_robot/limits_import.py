"""Joint limits out of a robot's own description: URDF or MJCF.

A URDF says range, velocity and effort of each joint; a MJCF says the range only. What neither says
(acceleration, jerk, workspace) is given beside it or named in `unlimited`: nothing is guessed.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.schema import unknown_name
from .limits import ArmLimits


@dataclass(frozen=True)
class JointDescription:
    """One turning joint as the description has it."""

    low_rad: float
    high_rad: float
    velocity_rad_s: float | None
    """None: not said."""
    effort_nm: float | None


def limits_from_model(
    path: Path | str, joint_names: tuple[str, ...] = (), **others: Any
) -> ArmLimits:
    """Limits with the ranges, and the velocities if there are any, of the description at `path`.

    Args:
        path: .urdf or .xml (MJCF), told apart by what is in it.
        joint_names: which joints, in the robot's order; empty: all that turn between limits.
        others: fields of ArmLimits; they come before what the file says.
    """
    path = Path(path)
    joints = read_joints(path)
    for name in joint_names:
        if name not in joints:
            raise unknown_name(f"limited joint in {path.name}", name, joints)
    names = joint_names or tuple(joints)
    chosen = [joints[name] for name in names]
    velocities = tuple(joint.velocity_rad_s for joint in chosen)
    if "velocity_rad_s" not in others:
        silent = [
            name for name, speed in zip(names, velocities, strict=True) if not speed or speed <= 0
        ]
        if silent:
            raise ValueError(
                f"{path.name} says no velocity limit for {', '.join(silent)}; give velocity_rad_s "
                f"for {', '.join(names)}"
            )
    values: dict[str, Any] = {
        "name": path.stem,
        "joint_names": names,
        "position_low_rad": tuple(joint.low_rad for joint in chosen),
        "position_high_rad": tuple(joint.high_rad for joint in chosen),
        "velocity_rad_s": velocities,
        "source": path.name,
    }
    return ArmLimits(**(values | others))


def read_joints(path: Path | str) -> Mapping[str, JointDescription]:
    """All joints of the description that turn between two ends, in the file's order."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"robot description {path} does not exist; give a URDF or MJCF file")
    text = path.read_bytes()
    # Neither format uses document types; refusing them leaves no entity to be expanded.
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"{path.name} defines document types or entities; remove them")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name} is not XML: {error}") from error
    if root.tag == "robot":
        joints = _urdf_joints(root, path)
    elif root.tag == "mujoco":
        joints = _mjcf_joints(path)
    else:
        raise ValueError(f"{path.name} is a <{root.tag}>; expected <robot> (URDF) or <mujoco>")
    if not joints:
        raise ValueError(f"{path.name} has no turning joint with a range; add limits to it")
    return joints


def _urdf_joints(root: ElementTree.Element, path: Path) -> dict[str, JointDescription]:
    joints: dict[str, JointDescription] = {}
    for joint in root.iter("joint"):
        limit = joint.find("limit")
        if joint.get("type") != "revolute" or limit is None:
            continue
        name = joint.get("name", "")

        def number(attribute: str, limit: Any = limit, name: str = name) -> float | None:
            text = limit.get(attribute)
            if text is None:
                return None
            try:
                return float(text)
            except ValueError as error:
                raise ValueError(
                    f"{path.name}: {attribute} of {name} is {text!r}; expected a number"
                ) from error

        joints[name] = JointDescription(
            # The format's own defaults.
            low_rad=number("lower") or 0.0,
            high_rad=number("upper") or 0.0,
            velocity_rad_s=number("velocity"),
            effort_nm=number("effort"),
        )
    return joints


def _mjcf_joints(path: Path) -> dict[str, JointDescription]:
    import mujoco  # only for this format: its defaults and includes are MuJoCo's to resolve

    try:
        spec = mujoco.MjSpec.from_file(str(path))  # does not look for meshes
    except ValueError as error:
        raise ValueError(f"{path.name} is not a model that MuJoCo reads: {error}") from error
    to_rad = np.pi / 180 if spec.compiler.degree else 1.0
    joints: dict[str, JointDescription] = {}
    for joint in spec.joints:
        low, high = (float(end) * to_rad for end in joint.range)
        if joint.type == mujoco.mjtJoint.mjJNT_HINGE and low < high:
            effort = float(joint.actfrcrange[1])
            joints[joint.name] = JointDescription(low, high, None, effort or None)
    return joints
