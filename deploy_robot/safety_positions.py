"""The part of the safety gate for a robot that is told where its joints shall be.

Which entry of an action is which joint, what a gripper may be told, whether the arm is where it
was told to be; the motion itself is `safety_joints.py`'s.
"""

import math

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name
from .interventions import Intervention
from .limits import ArmLimits

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
        self._places = [embodiment.joint_names.index(name) for name in limits.joint_names]
        actions = embodiment.action_names
        entries = []
        for name in limits.joint_names:
            found = [i for i, action in enumerate(actions) if action in (name, f"{name}.pos")]
            if not found:
                raise unknown_name(f"action entry of {embodiment.name}", f"{name}.pos", actions)
            entries.append(found[0])
        self._entries = entries
        others = [i for i in range(len(actions)) if i not in entries]
        for i in others:
            if not actions[i].startswith(limits.gripper_prefix):
                raise ValueError(
                    f"action entry {actions[i]!r} of {embodiment.name} is neither a joint of the "
                    f"limits {limits.name} ({', '.join(limits.joint_names)}) nor a gripper "
                    f"({limits.gripper_prefix}...); give limits for every joint"
                )
        self._others = others
        self._low = [float(low) for low in embodiment.action_low]
        self._high = [float(high) for high in embodiment.action_high]
        self._tracking = limits.tracking_rad
        # Where the robot measures its other entries, so that a hold before the first command keeps
        # them: (entry of the action, entry of the state).
        states = embodiment.state_names
        self._grips = [(i, states.index(actions[i])) for i in others if actions[i] in states]
        self.motion = JointMotion(limits, period_s)
        # Not a number until the arm was seen: no position is a safe guess, and robots obey no NaN.
        self.command = np.full(len(actions), np.nan)
        self.start = self.command.copy()
        self._measured = [0.0] * len(entries)
        self._seen = False

    def reset(self) -> None:
        self._seen = False

    def in_the_way(self) -> str:
        """What a refusal for collision was about, in words."""
        return self.motion.in_the_way()

    @property
    def at_rest(self) -> bool:
        return self.motion.at_rest

    def sees(
        self, state: np.ndarray, joint_position_rad: np.ndarray, elapsed_s: float, age_s: float
    ) -> bool:
        """Whether the joints are measured; the first time, the motion begins from there."""
        everything = joint_position_rad.tolist()
        measured = [everything[place] for place in self._places]
        if not all(map(math.isfinite, measured)):
            return False
        self._measured = measured
        if not self._seen:
            self._seen = True
            self.motion.reset(np.array(measured))
            self._say()
            for entry in self._others:
                self.command[entry] = min(max(0.0, self._low[entry]), self._high[entry])
            for entry, place in self._grips:
                if np.isfinite(state[place]):
                    self.command[entry] = state[place]
            self.start[:] = self.command
        return True

    def refuses(self) -> int:
        """Whether the joints just seen are not where they were told to be."""
        commanded = self.motion.position_rad.tolist()
        for measured, told, most in zip(self._measured, commanded, self._tracking, strict=False):
            if abs(measured - told) > most:
                return _TRACKING
        return 0

    def hold(self, dt_s: float) -> None:
        if self._seen:
            self.motion.brake(dt_s)
            self._say()

    def move(
        self,
        action: Float[np.ndarray, " action_dim"],
        dt_s: float,
    ) -> int:
        """Set `command` to what of `action` is lawful; returns bits of `Intervention`."""
        bits = 0
        wanted = action.tolist()
        for entry, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            if wanted[entry] < low:
                wanted[entry], bits = low, _RANGE
            elif wanted[entry] > high:
                wanted[entry], bits = high, _RANGE
        bits |= self.motion.advance([wanted[entry] for entry in self._entries], dt_s)
        self._say()
        for entry in self._others:
            self.command[entry] = wanted[entry]
        return bits

    def _say(self) -> None:
        self.command[self._entries] = self.motion.position_rad
