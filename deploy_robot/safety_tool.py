"""What a tool displacement may be: range, change per tick, walls, and the joints behind it.

The robot's own controller turns the displacement into joint motion. With a model of the arm
(`SafetyLimits.arm`) that motion is foreseen by damped least squares: a displacement that would
turn a joint too fast is shortened, one that leads a joint on into its margin or the arm into
itself or the table is not made. Without one, an arm with a joint in its margin holds.

Every rule is a pure function on arrays below the class. Next: `safety.py` (who asks).
"""

import math

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name
from .interventions import Intervention
from .limits import SafetyLimits

_RANGE = Intervention.RANGE.value
_CHANGE = Intervention.CHANGE.value
_WORKSPACE = Intervention.WORKSPACE.value
_JOINT_LIMIT = Intervention.JOINT_LIMIT.value
_VELOCITY = Intervention.VELOCITY.value
_COLLISION = Intervention.COLLISION.value
_DAMPING = 0.05
"""Of the least squares, in metres and radians: near a singular pose the joint motion that it
foresees stays finite, as the controller's does."""


class ToolDisplacements:
    """The commanded displacements of one tool."""

    command: Float[np.ndarray, " action_dim"]
    """What to send now; the same array at every tick."""

    def __init__(self, limits: SafetyLimits, embodiment: Embodiment, period_s: float) -> None:
        self.limits = limits
        actions, states = embodiment.action_names, embodiment.state_names
        self._translation = places("action", limits.translation_names, actions)
        gripper = places("action", limits.gripper_names, actions)
        self._motion = np.setdiff1d(np.arange(len(actions)), gripper)
        self._others = np.setdiff1d(self._motion, self._translation)
        self._tool = places("state", limits.tool_position_names, states)
        self._low = np.array(embodiment.action_low, dtype=np.float64)
        self._high = np.array(embodiment.action_high, dtype=np.float64)
        self._change_per_s = np.full(len(actions), np.inf)
        self._change_per_s[self._motion] = limits.max_change * embodiment.control_hz
        self._wall_low = np.array(limits.workspace_low_m)
        self._wall_high = np.array(limits.workspace_high_m)
        joints = (len(limits.joint_low_rad), len(limits.joint_high_rad))
        if joints != (len(embodiment.joint_names),) * 2:
            raise ValueError(
                f"limits name {joints[0]} lower and {joints[1]} upper joint limits, but "
                f"{embodiment.name} measures {len(embodiment.joint_names)} joints; give one of "
                "each per joint (none for a robot that measures none)"
            )
        self._joint_low = np.array(limits.joint_low_rad) + limits.joint_margin_rad
        self._joint_high = np.array(limits.joint_high_rad) - limits.joint_margin_rad
        if np.any(self._wall_low >= self._wall_high) or np.any(self._joint_low >= self._joint_high):
            raise ValueError(
                f"empty limits: workspace {limits.workspace_low_m} to {limits.workspace_high_m}, "
                f"joints with margin {self._joint_low} to {self._joint_high}; "
                "low must be below high"
            )
        if not (limits.max_change > 0 and limits.translation_scale_m > 0):
            raise ValueError(
                f"max_change {limits.max_change} and translation_scale_m "
                f"{limits.translation_scale_m} must be greater than 0"
            )
        self._model = None
        if limits.arm is not None:
            if limits.arm.joint_names != embodiment.joint_names:
                raise ValueError(
                    f"the arm's limits are for joints {', '.join(limits.arm.joint_names)}, "
                    f"{embodiment.name} measures {', '.join(embodiment.joint_names)}; give limits "
                    "with these names, in this order (limits_file.renamed)"
                )
            from .collision import model_of  # MuJoCo, only where limits ask for it

            self._model = model_of(limits.arm)
            self._checks_collision = "collision" not in limits.arm.unlimited
            self._joint_speed = np.array(limits.arm.velocity_rad_s) * limits.arm.fraction
            self._rotation = places("action", limits.rotation_names, actions)
            self._turns = np.concatenate([self._translation, self._rotation])
            self._twist_per_action = np.repeat(
                [limits.translation_scale_m, limits.rotation_scale_rad],
                [len(self._translation), len(self._rotation)],
            )
            if len(self._turns) != 6 or not limits.displacement_s > 0:
                raise ValueError(
                    f"with `arm`, three translations and three rotations are needed, got "
                    f"{limits.translation_names} and {limits.rotation_names}, and displacement_s "
                    f"{limits.displacement_s} must be greater than 0"
                )
        self.command = np.zeros(len(actions), dtype=np.float64)
        self._period_s = period_s
        self.reset()

    def reset(self) -> None:
        # Rest, with the gripper told neither to open nor to close where its range allows.
        self.command[:] = np.clip(0.0, self._low, self._high)

    def hold(self, dt_s: float) -> None:
        self.command[self._motion] = 0.0

    def sees(self, state: np.ndarray, joint_position_rad: np.ndarray) -> bool:
        """Whether the measurements that the limits are about are numbers."""
        return is_finite(state[self._tool]) and is_finite(joint_position_rad)

    def refuses(self, joint_position_rad: np.ndarray) -> int:
        """What forbids any motion whatever."""
        if self._model is not None:
            return 0
        inside = is_inside(joint_position_rad, self._joint_low, self._joint_high)
        return 0 if inside else _JOINT_LIMIT

    def move(
        self,
        action: Float[np.ndarray, " action_dim"],
        state: np.ndarray,
        joint_position_rad: np.ndarray,
        dt_s: float,
    ) -> int:
        """Set `command` to what of `action` is lawful; returns bits of `Intervention`."""
        bits = 0
        command = clip(action, self._low, self._high)
        if (command != action).any():
            bits |= _RANGE
        slowed = limit_change(command, self.command, self._change_per_s * dt_s)
        if (slowed != command).any():
            bits |= _CHANGE
        wanted = slowed[self._translation]
        tool_m = state[self._tool]
        kept = keep_inside(
            wanted,
            tool_m,
            self._wall_low,
            self._wall_high,
            self.limits.translation_scale_m,
        )
        if (kept != wanted).any():
            bits |= _WORKSPACE
            slowed[self._translation] = kept
        if not is_inside(tool_m, self._wall_low, self._wall_high) and slowed[self._others].any():
            # Turning drags the tool along a little: outside, first come back.
            bits |= _WORKSPACE
            slowed[self._others] = 0.0
        if self._model is not None:
            share, reason = self._share(slowed, joint_position_rad)
            if share == 0.0:
                self.hold(dt_s)
                return bits | reason
            if share < 1.0:
                bits |= reason
                slowed[self._turns] *= share
        self.command[:] = slowed
        return bits

    def _share(self, command: np.ndarray, joint_rad: np.ndarray) -> tuple[float, int]:
        """How much of the displacement the joints allow, 0 to 1, and what limits it."""
        model = self._model
        assert model is not None
        twist = command[self._turns] * self._twist_per_action
        if not twist.any():
            return 1.0, 0
        turn = joint_motion(model.jacobian(joint_rad), twist, _DAMPING)
        share, reason = 1.0, 0
        speed = float((np.abs(turn) / self._joint_speed).max()) / self.limits.displacement_s
        if speed > 1.0:
            share, reason = 1.0 / speed, _VELOCITY
        room = room_share(joint_rad, turn, self._joint_low, self._joint_high)
        if room < share:
            # Part of the way is left: shortened. None: held.
            share, reason = room, _VELOCITY if room > 0.0 else _JOINT_LIMIT
        if share > 0.0 and self._checks_collision:
            clearance_m = model.look(joint_rad + share * turn)[1]
            if clearance_m < model.margin_m and clearance_m <= model.look(joint_rad)[1]:
                return 0.0, _COLLISION
        return share, reason


def is_finite(values: np.ndarray) -> bool:
    # For a handful of numbers four times quicker than numpy's reduction.
    return all(map(math.isfinite, values.tolist()))


def is_inside(
    values: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
) -> bool:
    return bool(((values >= low) & (values <= high)).all())


def clip(
    action: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Each entry within its range."""
    return np.minimum(np.maximum(action, low), high)


def limit_change(
    command: Float[np.ndarray, " n"],
    previous: Float[np.ndarray, " n"],
    max_change: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """`command`, moved no further from `previous` than `max_change` per entry."""
    return np.minimum(np.maximum(command, previous - max_change), previous + max_change)


def keep_inside(
    translation: Float[np.ndarray, "3"],
    tool_m: Float[np.ndarray, "3"],
    low_m: Float[np.ndarray, "3"],
    high_m: Float[np.ndarray, "3"],
    scale_m: float,
) -> Float[np.ndarray, "3"]:
    """`translation` without what would carry the tool target (measured position plus scaled
    translation) through a wall. From outside, only motion towards the inside is left."""
    # Rest is always allowed, so an arm that is outside is not pushed, merely kept from going on.
    lowest = np.minimum((low_m - tool_m) / scale_m, 0.0)
    highest = np.maximum((high_m - tool_m) / scale_m, 0.0)
    return np.minimum(np.maximum(translation, lowest), highest)


def joint_motion(
    jacobian: Float[np.ndarray, "6 joints"], twist: Float[np.ndarray, "6"], damping: float
) -> Float[np.ndarray, " joints"]:
    """Joint displacement for a tool displacement (metres, radians): damped least squares."""
    square = jacobian @ jacobian.T
    square[range(6), range(6)] += damping**2
    return jacobian.T @ np.linalg.solve(square, twist)


def room_share(
    joint_rad: Float[np.ndarray, " joints"],
    turn_rad: Float[np.ndarray, " joints"],
    low_rad: Float[np.ndarray, " joints"],
    high_rad: Float[np.ndarray, " joints"],
) -> float:
    """Largest share (0 to 1) of `turn_rad` that leads no joint outwards past its end."""
    room = np.where(turn_rad > 0, high_rad - joint_rad, joint_rad - low_rad)
    # A joint that is past its end has no room outwards and any inwards.
    turning = np.abs(turn_rad) > 1e-9
    share = np.where(turning, np.maximum(room, 0.0) / np.maximum(np.abs(turn_rad), 1e-9), 1.0)
    return float(min(1.0, share.min(initial=1.0)))


def places(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> np.ndarray:
    """Where the names stand in an action or a state."""
    for name in names:
        if name not in known:
            raise unknown_name(f"{kind} entry in SafetyLimits", name, known)
    return np.array([known.index(name) for name in names], dtype=np.intp)
