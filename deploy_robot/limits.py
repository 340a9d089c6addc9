"""What an arm may do: numbers that `safety.py` enforces. Frozen data, checked when made.

    SafetyLimits    an arm told how far its tool shall move   (`dx dy dz ... gripper`)
    ArmLimits       an arm told where its joints shall be     (`joint1.pos ... gripper.pos`, rad)

Next: `limits_file.py` (ArmLimits as TOML, the files that come along), `limits_import.py` (from URDF
and MJCF).
"""

from dataclasses import dataclass

import numpy as np

from ..datasets.schema import unknown_name


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of an arm commanded by tool displacements (`dx dy dz ... gripper`).

    The defaults are those of a Franka Panda on robosuite's table.
    """

    translation_names: tuple[str, str, str] = ("dx", "dy", "dz")
    """Action entries that displace the tool along the base axes."""
    gripper_names: tuple[str, ...] = ("gripper",)
    """Action entries that hold keeps as they were; all others are motion, for which 0 is rest."""
    tool_position_names: tuple[str, str, str] = ("tool_x_m", "tool_y_m", "tool_z_m")
    """State entries with the measured tool position in the base frame."""
    translation_scale_m: float = 0.05
    """Metres of tool displacement that an action of 1 asks for."""
    workspace_low_m: tuple[float, float, float] = (0.25, -0.40, -0.13)
    """Lowest tool target in the base frame. The table's top is at z = -0.11: a spring goal may lie
    a finger's width in it, as grasping does, not more."""
    workspace_high_m: tuple[float, float, float] = (0.80, 0.40, 0.60)
    max_change: float = 1.25
    """Largest change of a motion entry from one command to the next at the control rate (2 is full
    reversal): a limit on acceleration. Holding is exempt, since stopping must never be slowed."""
    joint_low_rad: tuple[float, ...] = (
        -2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973,
    )  # fmt: skip
    """Joint ranges of the Panda as its data sheet gives them (Franka Emika, "Robot and interface
    specifications", joint limits). Empty for a robot that measures no joints."""
    joint_high_rad: tuple[float, ...] = (
        2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973,
    )  # fmt: skip
    joint_margin_rad: float = 0.05
    """A joint nearer to its limit than this holds the arm; with a model of the arm only against
    motion that leads on towards the limit."""
    max_observation_age_s: float = 0.25
    """From capture of the robot state to now."""
    max_action_age_s: float = 1.5
    """From capture of the observation an action was planned from to now."""
    max_policy_silence_s: float = 1.0
    """Without a heartbeat of the inference process, or without a connection to a remote policy.
    Must exceed the policy's slowest answer."""
    max_refused_ticks: int = 20
    """Refused control ticks in a row (a fault, not merely a missing chunk) that become a stop."""
    arm: "ArmLimits | None" = None
    """The arm behind the tool: with it (its model, joint velocities, table) a displacement is also
    judged by the joint motion it implies. None: by the tool alone."""
    rotation_names: tuple[str, ...] = ("drx", "dry", "drz")
    """Action entries that turn the tool about the base axes; only used with `arm`."""
    rotation_scale_rad: float = 0.5
    """Radians that an action of 1 asks for."""
    displacement_s: float = 0.16
    """Time in which the controller carries out a displacement: its damping over its stiffness
    (2 / sqrt(150) s in robosuite), so that with a displacement of 1 asked for again and again the
    tool moves at `translation_scale_m / displacement_s`."""
    tool_stopping_s: float = 0.05
    """A tool told to hold goes on by its speed times this, at most: 0.034 for robosuite's
    controller at 20 Hz, and some more."""
    joint_stopping_s: float = 0.1
    """The same for a joint: while an arm stretches, its joints brake later than its tool does.
    Only used with `arm`."""
    wall_inset_m: float = 0.01
    """How far inside its walls the tool is told to stay: what turning and motion along a wall drag
    it beyond that."""
    wall_zone_m: float = 0.005
    """Nearer than this to where it is told to stay, everything but the way back slows down, to
    nothing there."""
    collision_margin_m: float = 0.005
    """Distance kept behind a tool, if `arm` does not say less."""
    table_height_m: float = -0.135
    """Above the base, of the table that the arm keeps clear of, unless `arm` has one of its own.
    With the margin: as low as the tool's walls, a finger's width in robosuite's table top (-0.112),
    so that fingers may come down to it."""
    least_dexterity: float = 0.07
    """About the smallest singular value of the tool's Jacobian (`collision.ArmModel.dexterity`),
    below which no displacement may lead on: where an arm is stretched, holding the tool lets the
    joints go on. Only used with `arm`."""


CHECKS = ("acceleration", "jerk", "workspace", "collision", "tracking")
"""Checks of ArmLimits that may be left out, by name."""


@dataclass(frozen=True)
class ArmLimits:
    """Limits of an arm commanded by joint positions. What is left out must be named."""

    name: str
    joint_names: tuple[str, ...]
    """In the order of all tuples here; as in `Embodiment.joint_names`. The action entry of joint
    `j` is called `j` or `j.pos`."""
    position_low_rad: tuple[float, ...]
    position_high_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    acceleration_rad_s2: tuple[float, ...] = ()
    jerk_rad_s3: tuple[float, ...] = ()
    position_margin_rad: float = 0.05
    """Goals stay this far from the ends of the range."""
    fraction: float = 1.0
    """Part of velocity, acceleration and jerk that may be used; 0.1 for a first motion."""
    workspace_low_m: tuple[float, ...] = ()
    """Box that the tool may be in, base frame of the model."""
    workspace_high_m: tuple[float, ...] = ()
    model: str = ""
    """MJCF or URDF file of the arm and what stands around it, for workspace and collision."""
    model_joints: tuple[str, ...] = ()
    """The joints' names in the model, in the order of `joint_names`; empty: the same names."""
    table_height_m: float | None = None
    """Where the model's geom `table` lies, if it has one, above the base. None: as the model has
    it, or for an arm told tool displacements as `SafetyLimits` has it."""
    tool_site: str = "tool"
    """Site of the model that the workspace box is about."""
    rest_rad: tuple[float, ...] = ()
    """A free pose: links that touch there are neighbours and not checked against each other."""
    collision_margin_m: float = 0.01
    """What must not touch keeps this distance."""
    tracking_rad: tuple[float, ...] = ()
    """Largest difference between where a joint was told to be and where it is measured: its lag
    at full speed and some more."""
    gripper_prefix: str = "gripper"
    """Action entries that are no joints begin with this; they are kept in the controller's range
    and stay as they were during a hold."""
    unlimited: tuple[str, ...] = ()
    """Checks deliberately left out, of `CHECKS`."""
    max_observation_age_s: float = 0.25
    max_action_age_s: float = 1.5
    max_policy_silence_s: float = 1.0
    max_refused_ticks: int = 20
    """As in SafetyLimits."""
    source: str = ""
    """Where the numbers are from."""

    def __post_init__(self) -> None:
        joints = len(self.joint_names)
        for check in self.unlimited:
            if check not in CHECKS:
                raise unknown_name("check in `unlimited`", check, CHECKS)
        given = {
            "acceleration": bool(self.acceleration_rad_s2),
            "jerk": bool(self.jerk_rad_s3),
            "workspace": bool(self.workspace_low_m) and bool(self.workspace_high_m),
            "collision": bool(self.model) and self.collision_margin_m > 0,
            "tracking": bool(self.tracking_rad),
        }
        for check, is_given in given.items():
            if not is_given and check not in self.unlimited:
                raise ValueError(
                    f"limits of {self.name} leave out the check {check!r}; give its numbers, or "
                    f"say unlimited = [{check!r}] to move the arm without it"
                )
        if not self.model and "workspace" not in self.unlimited:
            raise ValueError(
                f"limits of {self.name} have a workspace but no model of the arm to say where its "
                "tool is; give `model`, or say unlimited = ['workspace']"
            )
        if joints == 0:
            raise ValueError(f"limits of {self.name} name no joints; give joint_names")
        for field in (
            "position_low_rad", "position_high_rad", "velocity_rad_s", "acceleration_rad_s2",
            "jerk_rad_s3", "model_joints", "rest_rad", "tracking_rad",
        ):  # fmt: skip
            values = getattr(self, field)
            required = field in ("position_low_rad", "position_high_rad", "velocity_rad_s")
            required = required or (field == "rest_rad" and bool(self.model))
            if (required or values) and len(values) != joints:
                raise ValueError(
                    f"limits of {self.name}: {field} has {len(values)} entries for {joints} "
                    f"joints ({', '.join(self.joint_names)}); give one each"
                )
        if np.any(self.low_rad >= self.high_rad):
            raise ValueError(
                f"limits of {self.name}: joint ranges less a margin of {self.position_margin_rad} "
                f"are {self.low_rad} to {self.high_rad}; low must be below high"
            )
        positive = (*self.velocity_rad_s, *self.acceleration_rad_s2, *self.jerk_rad_s3)
        positive += (*self.tracking_rad, self.max_observation_age_s, self.max_action_age_s)
        if not (np.all(np.isfinite(positive)) and min(positive) > 0 and 0 < self.fraction <= 1):
            raise ValueError(
                f"limits of {self.name}: velocities {self.velocity_rad_s}, accelerations "
                f"{self.acceleration_rad_s2}, jerks {self.jerk_rad_s3}, tracking "
                f"{self.tracking_rad} and ages must be greater than 0 and finite, and fraction "
                f"{self.fraction} above 0 and at most 1"
            )
        for box in (self.workspace_low_m, self.workspace_high_m):
            if box and len(box) != 3:
                raise ValueError(f"limits of {self.name}: a workspace has x, y and z, got {box}")
        if np.any(np.array(self.workspace_low_m) >= np.array(self.workspace_high_m)):
            raise ValueError(
                f"limits of {self.name}: empty workspace {self.workspace_low_m} to "
                f"{self.workspace_high_m}; low must be below high"
            )

    @property
    def low_rad(self) -> np.ndarray:
        """Lowest goal of each joint."""
        return np.array(self.position_low_rad) + self.position_margin_rad

    @property
    def high_rad(self) -> np.ndarray:
        return np.array(self.position_high_rad) - self.position_margin_rad
