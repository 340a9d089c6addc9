"""When a robot counts as lost: what `Robot.fault` says of measurements and frames overdue.

    measurement older than max_state_age_s   the link, or the process at our end of it, is lost
    frame older than max_frame_age_s         that camera is dead

The safety gate holds the arm for stale observations long before; a fault ends the run, and with a
reason that names the part.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .robot import RobotState

MAX_STATE_AGE_S = 1.0
"""A robot that measures nothing for this long is lost: far more than a busy machine causes."""
MAX_FRAME_AGE_S = 0.5
"""A camera that gives nothing for this long is dead: 15 frames at 30 Hz."""

LOST_TIMEOUT_S = 5.0
"""A faulty robot is not waited for longer when it is asked for its record of the episode."""


def overdue(
    state: RobotState,
    cameras: Sequence[str],
    now_ns: int,
    max_state_age_s: float = MAX_STATE_AGE_S,
    max_frame_age_s: float = MAX_FRAME_AGE_S,
) -> str:
    """Which part of `state` is too old, in words; empty if none. Formats text only then."""
    age_s = (now_ns - state.time_ns) * 1e-9
    if age_s > max_state_age_s:
        return f"no measurement for {age_s:.2f} s (limit {max_state_age_s:g} s): the link is lost"
    for index, name in enumerate(cameras):
        age_s = (now_ns - int(state.image_time_ns[index])) * 1e-9
        if age_s > max_frame_age_s:
            return f"no frame of {name} for {age_s:.2f} s (limit {max_frame_age_s:g} s): it is dead"
    return ""


def require_finite(action: Float[np.ndarray, " action_dim"]) -> None:
    """The last door: whoever sends what is not a number has no safety gate before the robot."""
    if not np.isfinite(action).all():
        raise ValueError(
            f"the command {action} is not finite; no robot is sent that. Put SafetyGate.check "
            "before send"
        )
