"""The safety gate: the last thing between any policy and any arm. It fails closed.

    policy stopped?  manual stop?  latched? ---------------------------> hold, until reset()
    robot seen lately, numbers sane, joints inside their margin? --no--> hold this tick
    an action there, finite, of the right shape, not too old? -----no--> hold this tick
    range -> change per tick -> workspace wall (outward part only) ----> command, bits say what

*Hold* is a command of its own: no motion, gripper as it was. Refused ticks in a row become a
latched stop, so that a gate which keeps refusing ends the run instead of stuttering through it.

Every rule is a pure function on arrays below the class. The gate itself allocates nothing that
lives beyond its tick and never formats text in it: a tick reports bits of `Intervention`.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name


class Intervention(IntFlag):
    """What the gate did in one tick; several can be set."""

    RANGE = 1
    """An entry lay outside what the controller obeys and was clipped."""
    CHANGE = 2
    """The command changed faster per tick than allowed and was slowed."""
    WORKSPACE = 4
    """The part of the motion that led out of the workspace was removed."""
    NO_ACTION = 8
    """Nothing was due (the first chunk not there, or the plan ran out): held."""
    NOT_FINITE = 16
    """NaN or infinity in the action: held."""
    WRONG_SHAPE = 32
    """An action of another embodiment: held."""
    ACTION_STALE = 64
    """The action was planned from an observation too old: held."""
    OBSERVATION_STALE = 128
    """The robot has not been heard of for too long: held."""
    OBSERVATION_INVALID = 256
    """NaN or infinity in what the robot measured: held."""
    JOINT_LIMIT = 512
    """A measured joint is within the margin of its limit: held."""
    POLICY_SILENT = 1024
    """The inference process is alive but shows no heartbeat: latched stop."""
    POLICY_DEAD = 2048
    """The inference process is gone: latched stop."""
    REFUSED_TOO_LONG = 4096
    """Too many refused ticks in a row: latched stop."""
    MANUAL_STOP = 8192
    """Somebody pressed stop: latched stop."""
    LATCHED = 16384
    """Held because of an earlier stop that nobody has released."""


# Plain integers: arithmetic on IntFlag members costs microseconds, a tick has few.
_RANGE, _CHANGE, _WORKSPACE = 1, 2, 4
_NO_ACTION, _NOT_FINITE, _WRONG_SHAPE, _ACTION_STALE = 8, 16, 32, 64
_OBSERVATION_STALE, _OBSERVATION_INVALID, _JOINT_LIMIT = 128, 256, 512
_POLICY_SILENT, _POLICY_DEAD, _REFUSED_TOO_LONG = 1024, 2048, 4096
_MANUAL_STOP, _LATCHED = 8192, 16384
_REFUSALS = (
    _NOT_FINITE
    | _WRONG_SHAPE
    | _ACTION_STALE
    | _OBSERVATION_STALE
    | _OBSERVATION_INVALID
    | _JOINT_LIMIT
)


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
    """Largest change of a motion entry from one command to the next (2 is full reversal): a limit
    on acceleration. Holding is exempt, since stopping must never be slowed."""
    joint_low_rad: tuple[float, ...] = (
        -2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973,
    )  # fmt: skip
    """Joint ranges of the Panda as its data sheet gives them (Franka Emika, "Robot and interface
    specifications", joint limits). Empty for a robot that measures no joints."""
    joint_high_rad: tuple[float, ...] = (
        2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973,
    )  # fmt: skip
    joint_margin_rad: float = 0.05
    """A joint nearer to its limit than this holds the arm."""
    max_observation_age_s: float = 0.25
    """From capture of the robot state to now."""
    max_action_age_s: float = 1.5
    """From capture of the observation an action was planned from to now."""
    max_policy_silence_s: float = 1.0
    """Without a heartbeat of the inference process. Must exceed the policy's slowest answer."""
    max_refused_ticks: int = 20
    """Refused ticks in a row (a fault, not merely a missing chunk) that become a latched stop."""


class SafetyGate:
    """Turns what a policy wants into what the arm is sent. One per robot, one thread."""

    refusal: str
    """Why the gate is stopped, in words; empty while it is not. Written once, at the stop."""

    def __init__(self, limits: SafetyLimits, embodiment: Embodiment) -> None:
        self.limits = limits
        actions, states = embodiment.action_names, embodiment.state_names
        self._translation = _places("action", limits.translation_names, actions)
        self._gripper = _places("action", limits.gripper_names, actions)
        self._motion = np.setdiff1d(np.arange(len(actions)), self._gripper)
        self._tool = _places("state", limits.tool_position_names, states)
        self._low = np.array(embodiment.action_low, dtype=np.float64)
        self._high = np.array(embodiment.action_high, dtype=np.float64)
        self._max_change = np.full(len(actions), np.inf)
        self._max_change[self._motion] = limits.max_change
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
        self._sent = np.zeros(len(actions), dtype=np.float64)
        self._latched = 0
        self._manual = False
        self.reset()

    def reset(self) -> None:
        """Release a stop and forget the last command. Only a person or a new run calls this."""
        self.refusal = ""
        self._latched = 0
        self._manual = False
        self._refused_ticks = 0
        # Rest, with the gripper told neither to open nor to close where its range allows.
        self._sent[:] = np.clip(0.0, self._low, self._high)

    def stop(self) -> None:
        """Manual stop: holds from the next `check` on, until `reset`. Safe in a signal handler."""
        self._manual = True

    @property
    def latched(self) -> Intervention:
        """Why the gate is stopped; 0 while it is not."""
        return Intervention(self._latched)

    def check(
        self,
        action: np.ndarray | None,
        state: np.ndarray,
        joint_position_rad: np.ndarray,
        observation_age_s: float,
        action_age_s: float,
        policy_silence_s: float,
        policy_dead: bool,
    ) -> tuple[Float[np.ndarray, " action_dim"], int]:
        """The command to send now, and the bits of `Intervention` that say what was done to it.

        `action` None: nothing is due. The command is a view that the next `check` overwrites.
        """
        limits = self.limits
        bits = 0
        if self._latched:
            return self._hold(), _LATCHED
        if self._manual:
            return self._hold(), self._latch(_MANUAL_STOP)
        if policy_dead:
            return self._hold(), self._latch(_POLICY_DEAD)
        # Written as "not within", so that an age of NaN counts as too old.
        if not policy_silence_s <= limits.max_policy_silence_s:
            return self._hold(), self._latch(_POLICY_SILENT)
        if not observation_age_s <= limits.max_observation_age_s:
            bits |= _OBSERVATION_STALE
        tool_m = state[self._tool]
        if not (is_finite(tool_m) and is_finite(joint_position_rad)):
            bits |= _OBSERVATION_INVALID
        elif not is_inside(joint_position_rad, self._joint_low, self._joint_high):
            bits |= _JOINT_LIMIT
        if action is None:
            bits |= _NO_ACTION
        elif action.shape != self._sent.shape:
            bits |= _WRONG_SHAPE
        elif not is_finite(action):
            bits |= _NOT_FINITE
        elif not action_age_s <= limits.max_action_age_s:
            bits |= _ACTION_STALE
        if bits & _REFUSALS:
            self._refused_ticks += 1
            if self._refused_ticks > limits.max_refused_ticks:
                return self._hold(), bits | self._latch(_REFUSED_TOO_LONG | bits)
            return self._hold(), bits
        if action is None:
            return self._hold(), bits
        self._refused_ticks = 0
        command = clip(action, self._low, self._high)
        if (command != action).any():
            bits |= _RANGE
        slowed = limit_change(command, self._sent, self._max_change)
        if (slowed != command).any():
            bits |= _CHANGE
        wanted = slowed[self._translation]
        kept = keep_inside(
            wanted, tool_m, self._wall_low, self._wall_high, limits.translation_scale_m
        )
        if (kept != wanted).any():
            bits |= _WORKSPACE
            slowed[self._translation] = kept
        self._sent[:] = slowed
        return self._sent, bits

    def _hold(self) -> Float[np.ndarray, " action_dim"]:
        self._sent[self._motion] = 0.0
        return self._sent

    def _latch(self, reason: int) -> int:
        self._latched = reason
        self.refusal = ", ".join(bit.name.lower() for bit in Intervention(reason) if bit.name)
        return reason


def is_finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


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


def _places(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name not in known:
            raise unknown_name(f"{kind} entry in SafetyLimits", name, known)
    return np.array([known.index(name) for name in names], dtype=np.intp)
