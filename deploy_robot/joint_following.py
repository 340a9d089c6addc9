"""One joint that goes with its goal: what of a plan passes the safety gate untouched.

    on the goal a tick ago    be on it again, if velocity, acceleration and jerk of the commanded
                              positions (their differences) stay within limits
    a little off it           close in as a critically damped spring does, if it can to the end
    else                      None: `safety_joints.py` plans the way there

The state that is returned belongs to the end of the tick, where a brake would begin; differences of
positions belong to its middle, hence the half ticks.
"""

JointState = tuple[float, float, float]
"""Position (rad), velocity and acceleration at the end of a tick."""
_SPRING_RAD_S = 40.0
"""How quickly a joint that is a little off its goal closes in on it."""
_ON_GOAL_RAD = 1e-6
"""A joint this near to where its goal was a tick ago goes with it."""


def follow(
    position: float,
    rate: float,
    bend: float,
    goal: float,
    goal_before: float,
    goal_rate: float,
    goal_rate_before: float,
    most: tuple[float, float, float],
    dt_s: float,
) -> JointState | None:
    """The state one tick on; None if the joint cannot lawfully go with its goal.

    Args:
        position: last commanded, with its first and second difference `rate` and `bend`.
        goal: of this tick; `goal_rate`, `goal_rate_before` are differences of goals.
        most: limits of velocity, acceleration and jerk.
    """
    most_v, most_a, most_j = most
    behind, closing = goal_before - position, rate - goal_rate
    spring = (goal_rate - goal_rate_before) / dt_s + _SPRING_RAD_S * (
        _SPRING_RAD_S * behind - 2 * closing
    )
    if abs(behind) <= _ON_GOAL_RAD:  # from farther away it would fly past
        there = ((goal - position) / dt_s - rate) / dt_s
        ways = ((there, True), (spring, False))
    elif (
        # Faster, the spring would be overrun; farther, it would ask for too much later.
        0 <= closing / behind <= _SPRING_RAD_S and abs(behind) * _SPRING_RAD_S**2 <= 0.5 * most_a
    ):
        ways = ((spring, False),)
    else:
        return None
    for new_bend, exact in ways:
        if abs(new_bend) > most_a or abs(new_bend - bend) > most_j * dt_s:
            continue
        velocity = rate + 1.5 * new_bend * dt_s
        # What is left of the acceleration carries the joint on to this speed.
        if abs(velocity + new_bend * abs(new_bend) / (2 * most_j)) <= most_v >= abs(velocity):
            # The goal itself and not a sum that rounds: untouched is untouched.
            place = goal if exact else position + (rate + new_bend * dt_s) * dt_s
            return place, velocity, new_bend
    return None
