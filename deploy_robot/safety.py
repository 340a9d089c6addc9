"""The safety gate: the last thing between any policy and any arm. It fails closed.

    robot broken? policy stopped? manual stop? latched? ---------------> hold, until reset()
    robot seen lately, numbers sane, arm where it should be? ------no--> hold this tick
    policy there, an action, finite, of the right shape, not old? -no--> hold this tick
    what of it is lawful ----------------------------------------------> command, bits say what
        tool displacements    safety_tool.py     range, change, walls, joints behind the tool
        joint positions       safety_positions.py, safety_joints.py
                                                 range, velocity, acceleration, jerk, box, collision

*Hold* is a command of its own. Displacements: no motion. Joint positions: brake within all limits,
then stay. The gripper stays as it was. Refused ticks in a row become a latched stop, so that a gate
which keeps refusing ends the run instead of stuttering through it.

`check` allocates nothing that lives beyond its tick and formats no text: it reports bits of
`Intervention`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .interventions import REFUSALS, Intervention
from .limits import ArmLimits, SafetyLimits
from .safety_positions import JointPositions
from .safety_tool import ToolDisplacements, is_finite

# Plain integers: arithmetic on IntFlag members costs microseconds, a tick has few.
_NO_ACTION = Intervention.NO_ACTION.value
_NOT_FINITE = Intervention.NOT_FINITE.value
_WRONG_SHAPE = Intervention.WRONG_SHAPE.value
_ACTION_STALE = Intervention.ACTION_STALE.value
_OBSERVATION_STALE = Intervention.OBSERVATION_STALE.value
_OBSERVATION_INVALID = Intervention.OBSERVATION_INVALID.value
_POLICY_SILENT = Intervention.POLICY_SILENT.value
_POLICY_DEAD = Intervention.POLICY_DEAD.value
_POLICY_UNREACHABLE = Intervention.POLICY_UNREACHABLE.value
_REFUSED_TOO_LONG = Intervention.REFUSED_TOO_LONG.value
_MANUAL_STOP = Intervention.MANUAL_STOP.value
_LATCHED = Intervention.LATCHED.value
_COLLISION = Intervention.COLLISION.value
_ROBOT_FAULT = Intervention.ROBOT_FAULT.value
_DRY_RUN = Intervention.DRY_RUN.value


class SafetyGate:
    """Turns what a policy wants into what the arm is sent. One per robot, one thread."""

    refusal: str
    """Why the gate is stopped, in words; empty while it is not. Written once, at the stop."""

    def __init__(
        self,
        limits: SafetyLimits | ArmLimits,
        embodiment: Embodiment,
        servo_hz: float | None = None,
        dry_run: bool = False,
    ) -> None:
        """
        Args:
            limits: SafetyLimits for a robot told how far its tool shall move, ArmLimits for one
                told where its joints shall be.
            servo_hz: how often `check` is called; None: at the embodiment's control rate.
            dry_run: compute everything and send a hold: a first look at a policy on an arm.
        """
        rate = servo_hz or embodiment.control_hz
        if not rate > 0:
            raise ValueError(f"servo_hz is {servo_hz}; give the calls of check() per second")
        self.limits = limits
        self.dry_run = dry_run
        self._period_s = 1.0 / rate
        self._control_s = 1.0 / embodiment.control_hz
        self._mover: ToolDisplacements | JointPositions
        if isinstance(limits, ArmLimits):
            self._mover = JointPositions(limits, embodiment, self._period_s)
        else:
            self._mover = ToolDisplacements(limits, embodiment, self._period_s)
        self._shape = self._mover.command.shape
        self._rest = self._mover.command.copy()
        self._latched = 0
        self._manual = False
        self._fault = ""
        self.reset()

    def reset(self) -> None:
        """Release a stop and forget the last command. Only a person or a new run calls this."""
        self.refusal = ""
        self._latched = 0
        self._manual = False
        self._fault = ""
        self.begin()

    def begin(self) -> None:
        """A new episode: the arm may be elsewhere and the last command is forgotten, so that it is
        not taken up again; a stop stays a stop."""
        self._refused_ticks = 0.0
        self._unreachable_s = 0.0
        self._mover.reset()
        self._rest[:] = self._mover.command

    def stop(self) -> None:
        """Manual stop: holds from the next `check` on, until `reset`. Safe in a signal handler."""
        self._manual = True

    def fail(self, reason: str) -> None:
        """The robot itself is broken (a lost link, a dead camera): latched from the next `check`
        on, with this reason."""
        self._fault = reason

    @property
    def latched(self) -> Intervention:
        """Why the gate is stopped; 0 while it is not."""
        return Intervention(self._latched)

    @property
    def at_rest(self) -> bool:
        """Whether the last command asks for no motion. A latched gate whose arm is told joint
        positions brakes for some ticks: call `check` until this is true, then let go."""
        return self._mover.at_rest if isinstance(self._mover, JointPositions) else True

    def describe(self) -> dict[str, Any]:
        """What was and what was not checked, for the results of a run."""
        if isinstance(self.limits, ArmLimits):
            return {
                "commands": "joint positions",
                "limits": self.limits.name,
                "fraction": self.limits.fraction,
                "unlimited": list(self.limits.unlimited),
                "dry_run": self.dry_run,
            }
        unlimited = [] if self.limits.arm else ["joint velocity", "collision"]
        return {
            "commands": "tool displacements",
            "limits": self.limits.arm.name if self.limits.arm else "tool only",
            "fraction": self.limits.arm.fraction if self.limits.arm else 1.0,
            "unlimited": [*unlimited, *(self.limits.arm.unlimited if self.limits.arm else ())],
            "dry_run": self.dry_run,
        }

    def check(
        self,
        action: np.ndarray | None,
        state: np.ndarray,
        joint_position_rad: np.ndarray,
        observation_age_s: float,
        action_age_s: float,
        policy_silence_s: float,
        policy_dead: bool,
        policy_reachable: bool = True,
        dt_s: float | None = None,
    ) -> tuple[Float[np.ndarray, " action_dim"], int]:
        """The command to send now, and the bits of `Intervention` that say what was done to it.

        `action` None: nothing is due. `dt_s`: since the last call; None: one period. The motion
        takes up one period of it at most, because an arm that was not spoken to has stood still
        meanwhile; an unreachable policy is waited for in all of it. The command
        is a view that the next `check` overwrites. It is NaN for an arm told joint positions
        whose joints have never been measured: there is nothing safe to say to it.
        """
        limits = self.limits
        mover = self._mover
        dt = self._period_s if dt_s is None or not 0 < dt_s < self._period_s else dt_s
        if self._latched:
            return self._hold(dt, _LATCHED)
        if self._fault:
            return self._hold(dt, self._latch(_ROBOT_FAULT))
        if self._manual:
            return self._hold(dt, self._latch(_MANUAL_STOP))
        if policy_dead:
            return self._hold(dt, self._latch(_POLICY_DEAD))
        # Written as "not within", so that an age of NaN counts as too old.
        if not policy_silence_s <= limits.max_policy_silence_s:
            return self._hold(dt, self._latch(_POLICY_SILENT))
        bits = 0
        if policy_reachable:
            self._unreachable_s = 0.0
        else:
            bits |= _POLICY_UNREACHABLE
            self._unreachable_s += self._elapsed_s(dt_s)
            if self._unreachable_s > limits.max_policy_silence_s:
                return self._hold(dt, self._latch(_POLICY_UNREACHABLE))
        if not observation_age_s <= limits.max_observation_age_s:
            bits |= _OBSERVATION_STALE
        elapsed_s = self._period_s if dt_s is None or not dt_s > 0 else dt_s
        if not mover.sees(state, joint_position_rad, elapsed_s, observation_age_s):
            bits |= _OBSERVATION_INVALID
        elif not self.dry_run or isinstance(mover, ToolDisplacements):
            bits |= mover.refuses()
        if action is None:
            bits |= _NO_ACTION
        elif action.shape != self._shape:
            bits |= _WRONG_SHAPE
        elif not is_finite(action):
            bits |= _NOT_FINITE
        elif not action_age_s <= limits.max_action_age_s:
            bits |= _ACTION_STALE
        if bits & REFUSALS:
            return self._refused(dt, bits)
        if action is None or bits:
            return self._hold(dt, bits)
        bits = mover.move(action, dt)
        if bits & REFUSALS:
            return self._refused(dt, bits, held=True)
        self._refused_ticks = 0.0
        return self._answer(bits)

    def _elapsed_s(self, dt_s: float | None) -> float:
        """Real time since the last call. Of a long gap (a suspended machine) half the wait at most:
        one look at a policy that is not there is never the stop."""
        if dt_s is None or not dt_s > 0:
            return self._period_s
        return min(dt_s, max(self._period_s, self.limits.max_policy_silence_s / 2))

    def _refused(self, dt: float, bits: int, held: bool = False) -> tuple[np.ndarray, int]:
        self._refused_ticks += dt / self._control_s
        if self._refused_ticks > self.limits.max_refused_ticks + 1e-6:
            bits |= self._latch(_REFUSED_TOO_LONG | bits)
        return self._answer(bits) if held else self._hold(dt, bits)

    def _hold(self, dt: float, bits: int) -> tuple[np.ndarray, int]:
        self._mover.hold(dt)
        return self._answer(bits)

    def _answer(self, bits: int) -> tuple[np.ndarray, int]:
        if self.dry_run:
            return self._rest_command(), bits | _DRY_RUN
        return self._mover.command, bits

    def _rest_command(self) -> np.ndarray:
        if isinstance(self._mover, JointPositions):
            self._rest[:] = self._mover.start
        return self._rest

    def _latch(self, reason: int) -> int:
        self._latched = reason
        words = ", ".join(bit.name.lower() for bit in Intervention(reason) if bit.name)
        detail = self._fault or (self._mover.in_the_way() if reason & _COLLISION else "")
        self.refusal = f"{words}: {detail}" if detail else words
        return reason
