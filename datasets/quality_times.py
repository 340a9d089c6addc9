"""Are the times of an episode those of a robot that kept its rate? Pure functions on numpy arrays.

Next: `quality.py`, which calls these for an episode of a store.
"""

import numpy as np
from jaxtyping import Int64

from .problem import Problem

RATE_TOLERANCE = 0.05
"""Share by which the measured rate may differ from `Embodiment.control_hz`. Beyond it a policy
trained for one rate moves visibly too fast or too slow; clocks and loops are within 1 %."""
EVENTS = ("sensors/chunk/time_ns", "sensors/chunk_facts/time_ns")
"""Come when they come: what a policy answered on an arm has no rate to keep."""
GAP_PERIODS = 1.5
"""A longer interval is a gap: nearer to two periods than to one, so a step was dropped."""
JITTER_SHARE = 0.2
"""p99 of the deviation from the usual interval, in periods. Beyond it, velocities that a policy
infers from two steps are wrong by as much."""
STALE_PERIODS = 2.0
"""Age of a frame at its step, in periods of the slower of camera and control. A camera that runs
freely is at most one period old when it is read, and one more goes by in exposure and transfer."""
REPEATED_SHARE = 0.05
"""Share of frames that may be the frame before once more. A camera at the control rate but on a
clock of its own repeats one now and then; at half the rate every second one is repeated."""
MINIMUM_STEPS = 8
"""Shorter episodes say nothing about a rate."""


def check_step_times(time_ns: Int64[np.ndarray, " steps"], control_hz: float) -> list[Problem]:
    """Rate, gaps, repeated times and jitter of the steps."""
    stream = "time_ns"
    if len(time_ns) < 2:
        return []
    intervals = np.diff(time_ns)
    problems = [*_not_forward(intervals, stream, "step")]
    usual = float(np.median(intervals))
    if usual <= 0 or len(time_ns) < MINIMUM_STEPS:
        return problems
    rate = 1e9 / usual
    if abs(rate / control_hz - 1) > RATE_TOLERANCE:
        problems.append(
            Problem(
                "warning",
                f"runs at {rate:.4g} Hz, the embodiment says {control_hz:g} Hz",
                stream=stream,
            )
        )
    problems += _gaps(intervals, usual, stream, "steps")
    regular = intervals[(intervals <= GAP_PERIODS * usual) & (intervals > 0)]
    jitter = float(np.quantile(np.abs(regular - usual), 0.99))
    if jitter > JITTER_SHARE * usual:
        problems.append(
            Problem(
                "warning",
                f"jitter: 1 % of the intervals are {jitter / 1e6:.3g} ms or more away from the "
                f"usual {usual / 1e6:.4g} ms",
                stream=stream,
            )
        )
    return problems


def check_frame_times(
    frame_ns: Int64[np.ndarray, " steps"], time_ns: Int64[np.ndarray, " steps"], stream: str
) -> list[Problem]:
    """Capture times of a camera's frames against the times of the steps they were used at."""
    if len(frame_ns) < MINIMUM_STEPS:
        return []
    problems: list[Problem] = []
    between = np.diff(frame_ns)
    repeated = between == 0
    period = float(np.median(np.diff(time_ns)))
    own = float(np.median(between[~repeated])) if not repeated.all() else np.inf
    if repeated.mean() > REPEATED_SHARE:
        start, stop = _longest(repeated)
        problems.append(
            Problem(
                "warning",
                f"{int(repeated.sum())} of {len(frame_ns)} frames are the frame before once more "
                f"(same capture time), longest from step {start} to {stop}; "
                + (
                    "the camera never gave a second one"
                    if repeated.all()
                    else f"the camera gives {1e9 / own:.3g} frames per second"
                ),
                stream=stream,
                start=start,
                stop=stop + 1,
            )
        )
    age = time_ns - frame_ns
    early = age < -period / 2
    if early.any():
        problems.append(
            Problem(
                "warning",
                f"{int(early.sum())} frames were taken after their step, by up to "
                f"{-age.min() / 1e6:.3g} ms: the clocks of camera and steps differ",
                stream=stream,
                start=int(np.argmax(early)),
                stop=int(np.argmax(early)) + 1,
            )
        )
    limit = STALE_PERIODS * max(period, min(own, 1e9))
    stale = age > limit
    if stale.any():
        start, stop = _longest(stale)
        problems.append(
            Problem(
                "warning",
                f"{int(stale.sum())} frames are more than {limit / 1e6:.3g} ms older than their "
                f"step, the oldest {age.max() / 1e6:.3g} ms, at step {int(np.argmax(age))}",
                stream=stream,
                start=start,
                stop=stop,
            )
        )
    return problems


def check_sensor_times(
    sensor_ns: Int64[np.ndarray, " samples"],
    time_ns: Int64[np.ndarray, " steps"] | None,
    stream: str,
) -> list[Problem]:
    """Gaps of a sensor with a rate of its own, and whether it covers the episode."""
    if stream in EVENTS:
        return _not_forward(np.diff(sensor_ns), stream, "sample")
    if len(sensor_ns) < 2:
        return [Problem("warning", f"holds {len(sensor_ns)} sample", stream=stream)]
    intervals = np.diff(sensor_ns)
    problems = [*_not_forward(intervals, stream, "sample")]
    usual = float(np.median(intervals))
    if usual > 0:
        # Steps are counted on another clock: what a sensor lacks has no place in them.
        problems += [
            Problem(p.severity, p.message, stream=stream)
            for p in _gaps(intervals, usual, stream, "samples")
        ]
    if time_ns is not None and len(time_ns) > 1:
        period = max(float(np.median(np.diff(time_ns))), usual)
        late, early = sensor_ns[0] - time_ns[0], time_ns[-1] - sensor_ns[-1]
        for lacking, where in ((late, "begins {} after the first"), (early, "ends {} before the")):
            if lacking > GAP_PERIODS * period:
                text = where.format(f"{lacking / 1e6:.3g} ms")
                last = " last" if where.startswith("ends") else ""
                problems.append(Problem("warning", f"{text}{last} step", stream=stream))
    return problems


def _not_forward(intervals: np.ndarray, stream: str, what: str) -> list[Problem]:
    back, same = intervals < 0, intervals == 0
    problems = []
    if back.any():
        at = int(np.argmax(back)) + 1
        message = f"runs backwards at {what} {at}"
        problems.append(Problem("error", message, stream=stream, start=at, stop=at + 1))
    if same.any():
        at = int(np.argmax(same)) + 1
        message = f"{int(same.sum())} {what}s have the time of the {what} before, first {at}"
        problems.append(Problem("warning", message, stream=stream, start=at, stop=at + 1))
    return problems


def _gaps(intervals: np.ndarray, usual: float, stream: str, what: str) -> list[Problem]:
    gaps = intervals > GAP_PERIODS * usual
    if not gaps.any():
        return []
    worst = int(np.argmax(intervals))
    dropped = int((np.round(intervals[gaps] / usual) - 1).sum())
    return [
        Problem(
            "warning",
            f"{int(gaps.sum())} gaps of more than {GAP_PERIODS:g} periods, the longest "
            f"{intervals[worst] / 1e6:.4g} ms after {what[:-1]} {worst}: about {dropped} {what} "
            "were dropped",
            stream=stream,
            start=worst,
            stop=worst + 2,
        )
    ]


def _longest(mask: np.ndarray) -> tuple[int, int]:
    """First and one past the last index of the longest stretch of True."""
    return max(stretches(mask), key=lambda stretch: stretch[1] - stretch[0])


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Every stretch of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
