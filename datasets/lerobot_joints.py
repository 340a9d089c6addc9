"""Joint positions of a LeRobotDataset in degrees as ours: rad, grippers by their own name.

    shoulder_pan.pos   degrees      shoulder_pan.pos     rad
    left_gripper.pos   0 .. 100     gripper_left.pos_0_100
    x.vel              as it is     x.vel

These are the names that `deploy_robot/lerobot_units.py` gives to the entries of such an arm. The
dataset does not say that it is in degrees; whoever imports it does.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

JointUnit = Literal["degree"]
_MOST = 100.0
_ROUNDING = 1e-3


def in_radians(
    names: tuple[str, ...],
    low: Float[np.ndarray, " entries"],
    high: Float[np.ndarray, " entries"],
    where: str,
) -> tuple[tuple[str, ...], Float[np.ndarray, " entries"]]:
    """Our name of each entry, and how much of our unit one of the dataset's is. `low` and `high`:
    the range in the data, which shows whether a gripper can be what it has to be.

    Raises ValueError if there are no joint positions, or a gripper is not within 0 .. 100.
    """
    ours, scales = [], []
    for name, least, most in zip(names, low.tolist(), high.tolist(), strict=True):
        motor, _, kind = name.rpartition(".")
        if kind != "pos" or not motor:
            ours.append(name)
            scales.append(1.0)
        elif "gripper" in motor:
            if least < -_ROUNDING or most > _MOST + _ROUNDING:
                raise ValueError(
                    f"{where}: {name} goes from {least:g} to {most:g}; with --joint-unit degree a "
                    "gripper is expected in 0 .. 100, as LeRobot's arms have it. Leave the option "
                    "out and run the policy with --policy-units lerobot"
                )
            ours.append(f"{_gripper_first(motor)}.pos_0_100")
            scales.append(1.0)
        else:
            ours.append(name)
            scales.append(math.radians(1.0))
    if all(scale == 1.0 for scale in scales):
        raise ValueError(
            f"{where}: --joint-unit degree is about positions of joints, called JOINT.pos, and "
            f"there are none. It has: {', '.join(names)}"
        )
    return tuple(ours), np.array(scales)


def _gripper_first(motor: str) -> str:
    """`left_gripper` is `gripper_left`: our grippers are known by how their names begin."""
    before, _, after = motor.partition("gripper")
    return "gripper" + (f"_{before.strip('_')}" if before else "") + after
