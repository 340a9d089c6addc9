"""From actions at the control rate to setpoints at the servo rate, for absolute joint positions.

    control tick     t                   t+1                  t+2
    action due       a[t]                a[t+1]               a[t+2]
    servo tick       0    1    2    3    4    5    6    7     8
    setpoint         a[t] .    .    .    a[t+1] .  .    .     a[t+2]
                     |--- one cubic -----|

An action is reached at the tick it is due, not a period later: the plan knows the next one. Between
two of them runs a cubic that begins with the position and velocity it has, and ends at the next
action with the slope of a monotone interpolant (Fritsch and Butland: the harmonic mean of the two
secants, 0 where they disagree in sign). So velocity never jumps, also when a new chunk says
something else; and as long as none does, no setpoint lies outside its two actions. Straight lines
would need no slopes but have the velocity jump at every action, which at 500 Hz is an acceleration
that no arm has.

Grippers switch at their tick. Tool displacements are not interpolated: each is a whole command.

Next: `control_loop.py`; what comes out of here still passes `safety.py`.
"""

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment

MAX_SERVO_HZ = 500.0


def joint_places(embodiment: Embodiment) -> list[int] | None:
    """For an arm whose actions are absolute joint positions: per action entry the number of its
    joint, -1 for a gripper. None for any other arm."""
    places = []
    for name in embodiment.action_names:
        joint = name.removesuffix(".pos")
        if joint in embodiment.joint_names:
            places.append(embodiment.joint_names.index(joint))
        elif name.startswith("gripper"):
            places.append(-1)
        else:
            return None
    return places if any(place >= 0 for place in places) else None


def servo_steps(embodiment: Embodiment, control_hz: float, servo_hz: float | None) -> int:
    """Servo ticks per control tick; None as `servo_hz` is the control rate, 1 tick."""
    if servo_hz is None or servo_hz == control_hz:
        return 1
    steps = round(servo_hz / control_hz)
    if steps < 1 or abs(steps * control_hz - servo_hz) > 1e-6 * servo_hz or servo_hz > MAX_SERVO_HZ:
        whole = max(1, min(steps, int(MAX_SERVO_HZ // control_hz)))
        raise ValueError(
            f"servo_hz {servo_hz:g} must be a whole multiple of control_hz {control_hz:g} and at "
            f"most {MAX_SERVO_HZ:g}; use {whole * control_hz:g}"
        )
    if joint_places(embodiment) is None:
        raise ValueError(
            f"servo_hz {servo_hz:g} above control_hz {control_hz:g}, but the actions of "
            f"{embodiment.name} ({', '.join(embodiment.action_names)}) are not absolute positions "
            f"of its joints ({', '.join(embodiment.joint_names) or 'none'}): there is nothing to "
            f"interpolate; use servo_hz {control_hz:g}"
        )
    return steps


class Interpolator:
    """Setpoints of one arm. Per servo tick `step`, then `sent` with what the gate made of it; per
    control tick, between the two, `aim`. Where `step` had no goal (after a hold), it is called
    again then: this tick takes the first step of the way."""

    def __init__(self, embodiment: Embodiment, control_hz: float, servo_hz: float) -> None:
        self.steps = servo_steps(embodiment, control_hz, servo_hz)
        places = joint_places(embodiment)
        if places is None:
            raise ValueError(f"{embodiment.name} does not obey joint positions; see servo_steps")
        self._joints = np.array(places, dtype=np.intp)
        self._moving = self._joints >= 0
        self._dt_s = 1.0 / servo_hz
        width = embodiment.action_dim
        self._position, self._velocity = np.zeros(width), np.zeros(width)
        self._setpoint, self._slope = np.zeros(width), np.zeros(width)
        self._goal, self._goal_slope = np.zeros(width), np.zeros(width)
        self._last = np.zeros(width)  # command
        self._left = 0  # servo ticks until the goal; 0: no goal
        self._under_way = False  # whether the latest `step` had a goal

    def start(self, joint_position_rad: Float[np.ndarray, " joints"]) -> None:
        """The arm rests here; grippers are told what they were told before."""
        self._position[self._moving] = joint_position_rad[self._joints[self._moving]]
        self._velocity[:] = 0.0
        self._last[:] = self._position
        self._left = 0

    def aim(
        self,
        now: Float[np.ndarray, " action_dim"],
        following: Float[np.ndarray, " action_dim"] | None,
        after: Float[np.ndarray, " action_dim"] | None = None,
    ) -> None:
        """Where to be one control tick from now (`following`), and what comes `after` that. None as
        `following`: the plan ends here, `step` has nothing more. Grippers do as `now` says."""
        grips = ~self._moving
        self._position[grips] = self._setpoint[grips] = now[grips]
        if following is None:
            self._left = 0
            return
        self._left = self.steps + (not self._under_way)
        period_s = self.steps * self._dt_s
        self._goal[:] = following
        self._goal[grips] = now[grips]
        secant = (self._goal - self._setpoint) / period_s
        coming = secant if after is None else (after - self._goal) / period_s
        self._goal_slope[:] = monotone_slope(secant, coming)
        self._goal_slope[grips] = 0.0

    def forget(self) -> None:
        """Aim at nothing: the arm is held, or the plan is gone."""
        self._left = 0

    def step(self) -> Float[np.ndarray, " action_dim"] | None:
        """The setpoint of this servo tick (a view, until the next `step`); None: no goal."""
        self._under_way = self._left > 0
        if not self._under_way:
            self._setpoint[:] = self._position
            self._slope[:] = 0.0
            return None
        cubic_step(
            self._position, self._velocity, self._goal, self._goal_slope,
            self._left, self._dt_s, self._setpoint, self._slope,
        )  # fmt: skip
        self._left -= 1
        return self._setpoint

    def sent(self, command: Float[np.ndarray, " action_dim"], held: bool) -> None:
        """What was sent at this servo tick. If the arm was `held`, the motion goes on from there.
        If the setpoint was merely slowed, it does not: the gate follows the setpoints as fast as
        it may, and setpoints that in turn waited for the gate would make the two swing."""
        if held:
            self._velocity[:] = (command - self._last) / self._dt_s
            self._velocity[~self._moving] = 0.0
            self._position[:] = command
        else:
            self._velocity[:] = self._slope
            self._position[:] = self._setpoint
        self._last[:] = command


def monotone_slope(
    before: Float[np.ndarray, " n"], behind: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Slope at a point between two secants of equal width: their harmonic mean, 0 where they
    differ in sign. At most twice the smaller one, within the 3 that keep a cubic monotone."""
    product = before * behind
    total = before + behind
    safe = np.where(product > 0, total, 1.0)
    return np.where(product > 0, 2 * product / safe, 0.0)


def cubic_step(
    position: Float[np.ndarray, " n"],
    velocity: Float[np.ndarray, " n"],
    goal: Float[np.ndarray, " n"],
    goal_velocity: Float[np.ndarray, " n"],
    left: int,
    dt_s: float,
    next_position: Float[np.ndarray, " n"],
    next_velocity: Float[np.ndarray, " n"],
) -> None:
    """One step along the cubic that is at `goal` in `left` steps. From every place on it the same
    cubic goes on, so a new goal in the middle needs no second rule."""
    if left == 1:
        next_position[:], next_velocity[:] = goal, goal_velocity
        return
    width_s = left * dt_s
    s = 1.0 / left
    rest = goal - position
    # Hermite's form, position taken as 0.
    next_position[:] = (
        position
        + (3 - 2 * s) * s**2 * rest
        + s * (1 - s) ** 2 * width_s * velocity
        - s**2 * (1 - s) * width_s * goal_velocity
    )
    next_velocity[:] = (
        6 * s * (1 - s) * rest / width_s
        + (1 - s) * (1 - 3 * s) * velocity
        + s * (3 * s - 2) * goal_velocity
    )
