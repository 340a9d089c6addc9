"""Motion of joints that never breaks a limit, whatever is asked of it.

    goal ---clamp---> motion of one tick towards it ---> brake from there ---> looked at: free?
                      (ruckig: fastest within             (ruckig again)         yes: done
                       velocity, acceleration, jerk)                             no: go on along
                                                                                 the last brake

What is kept from tick to tick is a *brake*: a lawful motion from here to rest that was found free.
A tick takes a step towards its goal only if a brake from where that leads is lawful and free too;
else it takes the next step of the brake it has. So a refusal is a braking arm, never a jump to
"stay here", and there is always a way out, also where ruckig finds none.

Every brake is looked at where it ends, so from tick to tick the looks run ahead of the arm in steps
of millimetres; a second look wanders along what lies between. A goal that can be reached lawfully
in one tick is sent as it is, so a lawful plan passes untouched; ruckig is for the others.

Arithmetic is on plain numbers: for seven joints arrays cost more than they save.

Next: `joint_following.py` (what passes untouched), `collision.py` (who looks).
"""

import numpy as np
from jaxtyping import Float
from ruckig import (
    ControlInterface,
    InputParameter,
    Result,
    Ruckig,
    RuckigError,
    Synchronization,
    Trajectory,
)

from .interventions import Intervention
from .joint_following import JointState, follow
from .limits import ArmLimits

_RANGE = Intervention.RANGE.value
_WORKSPACE = Intervention.WORKSPACE.value
_VELOCITY = Intervention.VELOCITY.value
_ACCELERATION = Intervention.ACCELERATION.value
_JERK = Intervention.JERK.value
_COLLISION = Intervention.COLLISION.value
_NO_MOTION_PLAN = Intervention.NO_MOTION_PLAN.value
_LAWFUL = (Result.Working, Result.Finished)
State = list[float]
"""One number per joint."""
_REACHED_RAD = 1e-3
"""A goal missed by less than this counts as reached: below what servos resolve."""
_SLACK_RAD = 1e-9
_BOX_SLACK_M = 0.02
_SHORT_M = 0.03
"""A brake in which no point of the arm moves farther than this is looked at at its end alone."""
_LOOKS = (0.15, 0.5, 0.3, 0.75)
"""Where on a longer brake the second look goes, tick by tick, as a part of its duration."""


class JointMotion:
    """The commanded motion of one arm's joints."""

    position_rad: Float[np.ndarray, " joints"]
    """What to command now; the same array at every tick."""

    def __init__(self, limits: ArmLimits, period_s: float) -> None:
        joints = len(limits.joint_names)
        self.limits = limits
        self.model = None
        if limits.model:
            from .collision import model_of  # MuJoCo, only where limits ask for it

            self.model = model_of(limits)
        self._period_s = period_s
        self._low, self._high = limits.low_rad, limits.high_rad
        self._ends = list(zip(self._low.tolist(), self._high.tolist(), strict=True))
        self._tick = 0
        self._velocity_limit = np.array(limits.velocity_rad_s) * limits.fraction
        unlimited = np.full(joints, np.inf)
        self._acceleration_limit = unlimited
        self._jerk_limit = unlimited
        if limits.acceleration_rad_s2:
            self._acceleration_limit = np.array(limits.acceleration_rad_s2) * limits.fraction
        if limits.jerk_rad_s3:
            self._jerk_limit = np.array(limits.jerk_rad_s3) * limits.fraction
        # Kept a little inside, because a brake is not looked at at every one of its points.
        self._box_low = [low + _BOX_SLACK_M for low in limits.workspace_low_m]
        self._box_high = [high - _BOX_SLACK_M for high in limits.workspace_high_m]
        self._checks_collision = "collision" not in limits.unlimited
        self._reach_m = [0.0] * joints if self.model is None else self.model.reach_m.tolist()
        self._most = list(
            zip(
                (0.999 * self._velocity_limit).tolist(),
                (0.999 * self._acceleration_limit).tolist(),
                (0.999 * self._jerk_limit).tolist(),
                strict=True,
            )
        )
        self._planner = Ruckig(joints)
        self._towards = InputParameter(joints)
        self._stop = InputParameter(joints)
        self._stop.control_interface = ControlInterface.Velocity
        for plan in (self._towards, self._stop):
            plan.synchronization = Synchronization.No
            plan.max_acceleration = self._acceleration_limit
            plan.max_jerk = self._jerk_limit
        self._stop.max_velocity = self._velocity_limit
        self._towards.target_position = self._towards.target_velocity = np.zeros(joints)
        self._stop.target_velocity = np.zeros(joints)
        self._stop.target_acceleration = np.zeros(joints)
        self._way = Trajectory(joints)
        self._brake, self._next_brake = Trajectory(joints), Trajectory(joints)
        self._zero = [0.0] * joints
        self.position_rad = np.zeros(joints)
        self.reset(self.position_rad)

    def reset(self, measured_rad: Float[np.ndarray, " joints"]) -> None:
        """Begin anew from an arm that stands at `measured_rad`."""
        self.position_rad[:] = measured_rad
        self._p = self.position_rad.tolist()
        self._v = self._a = self._zero
        self._rate = self._bend = self._zero  # differences of what was commanded
        self._braked_s = -1.0
        self._goal = self._p
        self._goal_rate = self._goal_velocity = self._zero
        self._forget_goal = True
        self._tool_out_m, self._clearance_m = 0.0, np.inf
        self._refused: State | None = None
        if self.model is not None:
            self._tool_out_m, self._clearance_m = self._look(self._p)

    @property
    def at_rest(self) -> bool:
        return self._braked_s < 0 and self._v == self._zero

    def in_the_way(self) -> str:
        """What the newest refused look saw nearer than it may be, in words; for people."""
        if self.model is None or self._refused is None:
            return ""
        near = self.model.touching(np.array(self._refused))
        return ", ".join(f"{one} and {other}" for one, other, _ in near)

    def brake(self, dt_s: float) -> None:
        """One tick along the lawful motion to rest that is always kept; forgets the goal."""
        self._forget_goal = True
        self._next_step_of_brake(dt_s)

    def _next_step_of_brake(self, dt_s: float) -> None:
        if self._braked_s < 0:
            return
        self._braked_s += dt_s
        if self._braked_s >= self._brake.duration:
            end = self._brake.at_time(self._brake.duration)[0]
            self._moved(end, self._zero, self._zero, dt_s)
            # At rest once the commands have stood still: a goal is followed by their differences.
            if self._bend == self._zero:
                self._braked_s = -1.0
        else:
            position, velocity, acceleration = self._brake.at_time(self._braked_s)
            self._moved(position, velocity, acceleration, dt_s)

    def advance(self, goal_rad: Float[np.ndarray, " joints"] | State, dt_s: float) -> int:
        """One tick towards `goal_rad` (finite); returns bits of `Intervention`."""
        bits = 0
        goals = []
        for goal, (low, high) in zip(list(goal_rad), self._ends, strict=True):
            if goal < low:
                goal, bits = low, _RANGE
            elif goal > high:
                goal, bits = high, _RANGE
            goals.append(float(goal))
        step = self._step(goals, dt_s, at_once=True)
        if step is None:  # the goal's speed would carry the arm out of its range: arrive at rest
            step = self._step(goals, dt_s, at_once=False)
        refused = _NO_MOTION_PLAN if step is None else self._look_ahead()
        if step is None or refused:
            self._next_step_of_brake(dt_s)
            return bits | refused
        self._moved(*step, dt_s)
        self._brake, self._next_brake = self._next_brake, self._brake
        self._braked_s = 0.0
        for position, wanted in zip(self._p, goals, strict=True):
            if abs(position - wanted) > _REACHED_RAD:
                return bits | self._what_slowed()
        return bits

    def _moved(self, position: State, velocity: State, acceleration: State, dt_s: float) -> None:
        rates, bend = [], []
        for new, old, rate in zip(position, self._p, self._rate, strict=True):
            now = (new - old) / dt_s
            rates.append(now)
            bend.append((now - rate) / dt_s)
        self._rate, self._bend = rates, bend
        self._p, self._v, self._a = position, velocity, acceleration
        self.position_rad[:] = position

    def _step(self, goals: State, dt_s: float, at_once: bool) -> tuple[State, State, State] | None:
        """The state one tick on, and in `_next_brake` how it would come to rest; None: no way, or
        none that rests inside the ranges (or at least no farther outside than the arm is)."""
        step = direct = None
        speeds = self._zero
        if at_once:
            direct = self._follow(goals, dt_s)
            speeds = self._goal_velocity
        if direct is None or None in direct:
            step = self._pursue(goals, speeds, dt_s)
            if step is None:
                return None
        if direct is not None:
            position, velocity, acceleration = step or ([0.0] * len(goals) for _ in range(3))
            for joint, state in enumerate(direct):
                if state is not None:
                    position[joint], velocity[joint], acceleration[joint] = state
            step = position, velocity, acceleration
        assert step is not None
        stop = self._stop
        stop.current_position, stop.current_velocity, stop.current_acceleration = step
        if not self._calculate(stop, self._next_brake):
            return None
        self._end = self._next_brake.at_time(self._next_brake.duration)[0]
        for end, here, (low, high) in zip(self._end, self._p, self._ends, strict=True):
            # Written so that a NaN counts as outside; from outside no farther.
            if not (low - _SLACK_RAD <= end <= high + _SLACK_RAD) and not (
                min(low, here) - _SLACK_RAD <= end <= max(high, here) + _SLACK_RAD
            ):
                return None
        return step

    def _pursue(
        self, goals: State, speeds: State, dt_s: float
    ) -> tuple[State, State, State] | None:
        """Fastest motion towards goals that move on at `speeds`: seen from there, they rest."""
        away, closing, fastest, slowest = [], [], [], []
        for p, v, goal, speed, (most, _, _) in zip(
            self._p, self._v, goals, speeds, self._most, strict=True
        ):
            away.append(p - goal + speed * dt_s)
            closing.append(v - speed)
            fastest.append(most - speed)
            slowest.append(-most - speed)
        towards = self._towards
        towards.current_position = away
        towards.current_velocity = closing
        towards.current_acceleration = self._a
        towards.max_velocity = fastest
        towards.min_velocity = slowest
        if not self._calculate(towards, self._way):
            return None
        position, velocity, acceleration = self._way.at_time(dt_s)
        for joint, (goal, speed) in enumerate(zip(goals, speeds, strict=True)):
            position[joint] += goal
            velocity[joint] += speed
        return position, velocity, acceleration

    def _calculate(self, wanted: InputParameter, way: Trajectory) -> bool:
        """Whether ruckig found a motion. About once in a million inputs it finds none, for reasons
        of rounding, and says so by an exception or a result: the kept brake is there for that."""
        try:
            return self._planner.calculate(wanted, way) in _LAWFUL
        except RuckigError:
            return False

    def _follow(self, goals: State, dt_s: float) -> list[JointState | None]:
        """Per joint its state if it can simply go with its goal, else None; then
        `_goal_velocity` is how fast the goal moves, changing no faster than a joint may, so that a
        jump is not taken for a speed."""
        if self._forget_goal:
            self._forget_goal = False
            self._goal, self._goal_rate, self._goal_velocity = goals, self._zero, self._zero
        rates, speeds, states = [], [], []
        for p, commanded, bend, goal, before, rate_before, speed, most in zip(
            self._p, self._rate, self._bend, goals, self._goal, self._goal_rate,
            self._goal_velocity, self._most, strict=True,
        ):  # fmt: skip
            rate = (goal - before) / dt_s
            rates.append(rate)
            most_v, change = most[0], most[1] * dt_s
            if rate < speed - change:
                speed -= change
            elif rate > speed + change:
                speed += change
            else:
                speed = rate
            speeds.append(min(max(speed, -0.95 * most_v), 0.95 * most_v))
            states.append(follow(p, commanded, bend, goal, before, rate, rate_before, most, dt_s))
        self._goal, self._goal_rate, self._goal_velocity = goals, rates, speeds
        return states

    def _outside_m(self, tool_m: np.ndarray) -> float:
        """How far the tool is out of its box, along the worst axis."""
        outside_m = 0.0
        for place, low, high in zip(tool_m.tolist(), self._box_low, self._box_high, strict=False):
            if low - place > outside_m:
                outside_m = low - place
            elif place - high > outside_m:
                outside_m = place - high
        return outside_m

    def _look_ahead(self) -> int:
        """Bits of what is in the way of the next brake; 0: it is free. An arm that is somewhere
        it should not be may move as long as that does not make it worse."""
        if self.model is None:
            return 0
        self._tick += 1
        length_m = 0.0
        for end, here, reach_m in zip(self._end, self._p, self._reach_m, strict=True):
            length_m += abs(end - here) * reach_m
        seen = self._look(self._end)
        refused = self._worse(*seen)
        self._refused = self._end if refused else None
        if not refused and length_m > _SHORT_M:
            part = _LOOKS[self._tick % len(_LOOKS)]
            between = self._next_brake.at_time(part * self._next_brake.duration)[0]
            refused = self._worse(*self._look(between))
            self._refused = between if refused else None
        if not refused:
            self._tool_out_m, self._clearance_m = seen
        return refused

    def _look(self, joint_rad: State) -> tuple[float, float]:
        assert self.model is not None
        tool_m, clearance_m = self.model.look(joint_rad, self._checks_collision)
        return self._outside_m(tool_m), clearance_m

    def _worse(self, outside_m: float, clearance_m: float) -> int:
        if outside_m > 0 and outside_m >= self._tool_out_m:
            return _WORKSPACE
        if clearance_m < self.limits.collision_margin_m and clearance_m <= self._clearance_m:
            return _COLLISION
        return 0

    def _what_slowed(self) -> int:
        """Which limit kept the arm from its goal: the one it moves at."""
        slowed = _JERK
        for v, a, (most_v, most_a, _) in zip(self._v, self._a, self._most, strict=True):
            if abs(v) >= most_v:
                return _VELOCITY
            if abs(a) >= most_a:
                slowed = _ACCELERATION
        return slowed
