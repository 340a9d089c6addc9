"""Do states and actions look like a robot that is moved? Pure functions on numpy arrays.

Next: `quality.py`, which calls these for an episode of a store.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from .problem import Problem
from .quality_times import MINIMUM_STEPS, stretches

SATURATED_SHARE = 0.3
"""Share of steps at a limit, per action entry, worth a note: a third of the time the arm was asked
for more than it gives. Fast scripted experts do that (robosuite's arm: 30 to 75 %) and are learned
from well, so it is no warning."""
ALWAYS_SATURATED_SHARE = 0.9
"""Such an entry holds little but a direction, and limits or scale of the embodiment are wrong."""
SWITCH_VALUES = 3
"""An entry with no more values than this is a switch (a gripper), whose limits are its meaning."""
AT_LIMIT = 1e-3
"""Share of the range within which an action counts as at the limit, or as unchanged."""
STILL_SPEED = 2e-3
"""Slower is standing still, in units of the state per second: 2 mm/s, or 0.1 degrees/s. Encoders
and estimators wander by less, and nothing is taught so slowly."""
STILL_RANGE_PER_S = 0.01
"""Likewise, as a share of what the entry ranges over in the episode (for other units)."""
IDLE_S = 1.0
"""Neither state nor action changes for this long. Shorter pauses are part of many tasks (a gripper
closes); longer ones teach a policy to wait, and a policy without history never stops waiting."""
FROZEN_S = 0.5
"""The state is the same to the last bit for this long while the action changes. Noise of real
sensors, and any motion, would change a bit."""
JUMP_Z = 10.0
"""Robust z of a difference from which on it may be a jump (1e-23 of normal differences)."""
JUMP_NEIGHBOURS = 4.0
"""A jump is this many times larger than the differences around it: motion has acceleration before
and braking after."""
JUMP_RANGE = 0.3
"""A jump is at least this share of what the entry ranges over: fingers that touch or release
something do a quarter of it in one step (robosuite's at 20 Hz) without any glitch."""
JUMP_SPEED = 2.0
"""A jump is this many times faster than what is fast (95th percentile) among all entries of its
unit: a finger that springs back is not, next to the arm that carries it."""


def check_finite(rows: Float[np.ndarray, "steps entries"], stream: str) -> list[Problem]:
    """NaN and infinity; the other checks want numbers."""
    bad: np.ndarray = np.any(~np.isfinite(rows), axis=1)
    if not bad.any():
        return []
    first, last = int(np.argmax(bad)), len(bad) - int(np.argmax(bad[::-1]))
    message = f"{int(bad.sum())} steps hold NaN or infinity, first step {first}"
    return [Problem("error", message, stream=stream, start=first, stop=last)]


def check_actions(
    action: Float[np.ndarray, "steps action_dim"],
    low: Sequence[float],
    high: Sequence[float],
    names: Sequence[str],
) -> list[Problem]:
    """Actions at the limits for much of the time."""
    if len(action) < MINIMUM_STEPS:
        return []
    margin = AT_LIMIT * (np.array(high) - np.array(low))
    told, worst = [], 0.0
    for entry, name in enumerate(names):
        values = action[:, entry]
        if not np.isfinite(margin[entry]) or len(np.unique(values)) <= SWITCH_VALUES:
            continue
        at_low = float((values <= low[entry] + margin[entry]).mean())
        at_high = float((values >= high[entry] - margin[entry]).mean())
        if at_low + at_high > SATURATED_SHARE:
            worst = max(worst, at_low + at_high)
            told.append(
                f"{name} {100 * (at_low + at_high):.0f} % ({100 * at_low:.0f} % low, "
                f"{100 * at_high:.0f} % high)"
            )
    if not told:
        return []
    severity = "warning" if worst > ALWAYS_SATURATED_SHARE else "note"
    return [Problem(severity, f"at the limits: {', '.join(told)} of the steps", stream="action")]


def moving(
    state: Float[np.ndarray, "steps state_dim"], control_hz: float
) -> Bool[np.ndarray, " intervals"]:
    """Whether the state changed between each step and the next."""
    span = np.ptp(state, axis=0).astype(np.float64)
    still = np.maximum(STILL_SPEED, STILL_RANGE_PER_S * span) / control_hz
    return (np.abs(np.diff(state.astype(np.float64), axis=0)) > still).any(1)


def check_motion(
    state: Float[np.ndarray, "steps state_dim"],
    action: Float[np.ndarray, "steps action_dim"],
    low: Sequence[float],
    high: Sequence[float],
    control_hz: float,
) -> list[Problem]:
    """Idle stretches, actions without motion, and a state that is stuck."""
    if len(state) < MINIMUM_STEPS:
        return []
    moves = moving(state, control_hz)
    span = np.subtract(high, low)
    span = np.where(np.isfinite(span) & (span > 0), span, 1.0)
    changes = np.abs(np.diff(action.astype(np.float64), axis=0)) / span
    acts = changes.max(1) > AT_LIMIT
    problems = []
    if acts.any() and not moves.any():
        message = "the actions change and the state never follows"
        return [Problem("warning", message, stream="state", start=0, stop=len(state))]
    idle = _long(~moves & ~acts, IDLE_S * control_hz)
    if idle:
        start, stop = max(idle, key=lambda s: s[1] - s[0])
        total = sum(b - a for a, b in idle)
        place = " (the end)" if stop == len(moves) else " (the beginning)" if start == 0 else ""
        problems.append(
            Problem(
                "warning",
                f"nothing moves and the action stays the same for {total} of {len(state)} steps, "
                f"in {len(idle)} stretches of {IDLE_S:g} s or more; the longest is steps {start} "
                f"to {stop}{place}",
                stream="action",
                start=start,
                stop=stop + 1,
            )
        )
    same = np.abs(np.diff(state, axis=0)).max(1) == 0
    for start, stop in _long(same, FROZEN_S * control_hz):
        if acts[start:stop].mean() > 0.5:
            problems.append(
                Problem(
                    "warning",
                    f"is the same to the last bit from step {start} to {stop} while the action "
                    "changes: the sensors were not read",
                    stream="state",
                    start=start,
                    stop=stop + 1,
                )
            )
    return problems


def check_jumps(state: Float[np.ndarray, "steps state_dim"], names: Sequence[str]) -> list[Problem]:
    """Differences far from the usual ones that no motion leads up to."""
    if len(state) < MINIMUM_STEPS:
        return []
    differences = np.diff(state.astype(np.float64), axis=0)
    size = np.abs(differences - np.median(differences, axis=0))
    span = np.ptp(state, axis=0).astype(np.float64)
    # 1.4826: the median deviation of a normal distribution is that much below its sigma.
    sigma = 1.4826 * np.median(size, axis=0)
    around = np.stack([np.roll(size, shift, axis=0) for shift in (-2, -1, 1, 2)])
    around[0, -2:], around[1, -1:], around[2, :1], around[3, :2] = 0, 0, 0, 0
    # Two ends of one wrong value are two jumps side by side: the second largest decides.
    neighbours = np.sort(around, axis=0)[-2]
    jumps = (
        (size > JUMP_Z * sigma)
        & (size > JUMP_NEIGHBOURS * neighbours)
        & (size > JUMP_RANGE * span)
        & (size > JUMP_SPEED * _usual_by_unit(size, names))
    )
    problems = []
    for entry in np.flatnonzero(jumps.any(0)):
        steps = np.flatnonzero(jumps[:, entry])
        worst = int(steps[np.argmax(size[steps, entry])])
        by = float(differences[worst, entry])
        turn = any(abs(abs(by) - whole) < 0.02 * whole for whole in (2 * np.pi, 360.0))
        flip = abs(state[worst, entry] + state[worst + 1, entry]) < 0.05 * abs(by)
        hint = (
            "; a whole turn: the angle wraps around"
            if turn
            else "; the sign changes: perhaps a quaternion's other half"
            if flip
            else ""
        )
        problems.append(
            Problem(
                "warning",
                f"{names[entry]} jumps {len(steps)} time{'s' * (len(steps) > 1)}, most by {by:.4g} "
                f"from step {worst} to {worst + 1}{hint}",
                stream="state",
                start=worst,
                stop=worst + 2,
            )
        )
    return problems


def _usual_by_unit(size: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """What the fast steps of all entries with the unit of each entry are like."""
    units = [name.rpartition("_")[2] if "_" in name else "" for name in names]
    fast = {
        unit: np.quantile(size[:, [other == unit for other in units]], 0.95) for unit in set(units)
    }
    return np.array([fast[unit] for unit in units])


def _long(mask: np.ndarray, least: float) -> list[tuple[int, int]]:
    return [(start, stop) for start, stop in stretches(mask) if stop - start >= max(least, 3)]
