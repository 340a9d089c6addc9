"""The part of the safety gate for a robot that is told where its joints shall be.

Which entry of an action is which joint, what a gripper may be told, whether the arm is where it
was told to be; the motion itself is `safety_joints.py`'s.
"""

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name
from .interventions import Intervention
from .limits import ArmLimits
from .safety_tool import is_finite

_RANGE = Intervention.RANGE.value
_TRACKING = Intervention.TRACKING.value


class JointPositions:
    """The commanded joint positions of one arm, and its gripper's."""

    command: Float[np.ndarray, " action_dim"]
    """What to send now; the same array at every tick."""

    def __init__(self, limits: ArmLimits, embodiment: Embodiment, period_s: float) -> None:
        # Ruckig and MuJoCo, for those robots only.
        from .safety_joints import JointMotion

        self.limits = limits
        for name in limits.joint_names:
            if name not in embodiment.joint_names:
                raise unknown_name(
                    f"joint measured by {embodiment.name}", name, embodiment.joint_names
                )
        self._measured = np.array([embodiment.joint_names.index(n) for n in limits.joint_names])
        actions = embodiment.action_names
        entries = []
        for name in limits.joint_names:
            found = [i for i, action in enumerate(actions) if action in (name, f"{name}.pos")]
            if not found:
                raise unknown_name(f"action entry of {embodiment.name}", f"{name}.pos", actions)
            entries.append(found[0])
        self._joints = np.array(entries)
        others = [i for i in range(len(actions)) if i not in entries]
        for i in others:
            if not actions[i].startswith(limits.gripper_prefix):
                raise ValueError(
                    f"action entry {actions[i]!r} of {embodiment.name} is neither a joint of the "
                    f"limits {limits.name} ({', '.join(limits.joint_names)}) nor a gripper "
                    f"({limits.gripper_prefix}...); give limits for every joint"
                )
        self._others = np.array(others, dtype=np.intp)
        self._low = np.array(embodiment.action_low, dtype=np.float64)
        self._high = np.array(embodiment.action_high, dtype=np.float64)
        self._tracking = np.array(limits.tracking_rad) if limits.tracking_rad else None
        # Where the robot measures its other entries, so that a hold before the first command keeps
        # them: (entry of the action, entry of the state).
        states = embodiment.state_names
        self._grips = [(i, states.index(actions[i])) for i in others if actions[i] in states]
        self.motion = JointMotion(limits, period_s)
        # Not a number until the arm was seen: no position is a safe guess, and robots obey no NaN.
        self.command = np.full(len(actions), np.nan)
        self.start = self.command.copy()
        self._seen = False

    def reset(self) -> None:
        self._seen = False

    @property
    def at_rest(self) -> bool:
        return self.motion.at_rest

    def sees(self, state: np.ndarray, joint_position_rad: np.ndarray) -> bool:
        """Whether the joints are measured; the first time, the motion begins from there."""
        measured = joint_position_rad[self._measured]
        if not is_finite(measured):
            return False
        if not self._seen:
            self._seen = True
            self.motion.reset(measured)
            self.command[self._joints] = measured
            self.command[self._others] = np.clip(
                0.0, self._low[self._others], self._high[self._others]
            )
            for entry, place in self._grips:
                if np.isfinite(state[place]):
                    self.command[entry] = state[place]
            self.start[:] = self.command
        return True

    def refuses(self, joint_position_rad: np.ndarray) -> int:
        if self._tracking is None:
            return 0
        lag = np.abs(joint_position_rad[self._measured] - self.motion.position_rad)
        return _TRACKING if (lag > self._tracking).any() else 0

    def hold(self, dt_s: float) -> None:
        if self._seen:
            self.motion.brake(dt_s)
            self.command[self._joints] = self.motion.position_rad

    def move(
        self,
        action: Float[np.ndarray, " action_dim"],
        state: np.ndarray,
        joint_position_rad: np.ndarray,
        dt_s: float,
    ) -> int:
        """Set `command` to what of `action` is lawful; returns bits of `Intervention`."""
        wanted = np.minimum(np.maximum(action, self._low), self._high)
        bits = self.motion.advance(wanted[self._joints], dt_s)
        self.command[self._joints] = self.motion.position_rad
        self.command[self._others] = wanted[self._others]
        if (wanted != action).any():
            bits |= _RANGE
        return bits
