"""Rotations of a chunk, relative to the state or to each other: the arithmetic of `actions.py`."""

import numpy as np
from jaxtyping import Float

from .action_parts import ActionPart
from .rotations import (
    Rotation,
    compose,
    continuous_quaternions,
    from_matrix,
    relative,
    to_matrix,
)

_QUATERNIONS = ("quat_wxyz", "quat_xyzw")


def turns_to_network(
    part: ActionPart,
    start: Float[np.ndarray, "batch 3 3"],
    target: Float[np.ndarray, "batch horizon 3 3"],
) -> Float[np.ndarray, "batch horizon entries"]:
    """What the network sees of targets, given the orientation in the state."""
    turn = target
    if part.is_relative:
        origin = origins(part, start, target)
        in_base = compose(target, np.swapaxes(origin, -1, -2))
        turn = relative(origin, target) if part.frame == "tool" else in_base
    return from_matrix(turn, part.network_rotation)


def turns_from_network(
    part: ActionPart,
    start: Float[np.ndarray, "batch 3 3"],
    values: Float[np.ndarray, "batch horizon entries"],
) -> Float[np.ndarray, "batch horizon 3 3"]:
    """The targets again; `values` need not be exact rotations."""
    turn = to_matrix(values, part.network_rotation)
    if not part.is_relative:
        return turn
    target, origin = np.empty_like(turn), start
    for tick in range(turn.shape[1]):
        step = turn[:, tick]
        target[:, tick] = compose(origin, step) if part.frame == "tool" else compose(step, origin)
        if part.mode == "delta":
            origin = target[:, tick]
    return target


def written(
    part: ActionPart,
    target: Float[np.ndarray, "batch horizon 3 3"],
    measured: tuple[Rotation, Float[np.ndarray, "batch measured"]] | None,
) -> Float[np.ndarray, "batch horizon entries"]:
    """Targets as the data records them. Quaternions take the sign nearest to the state's, which is
    `measured`: how it is recorded, and its entries."""
    assert part.rotation is not None
    values = from_matrix(target, part.rotation)
    if part.rotation not in _QUATERNIONS or measured is None:
        return continuous_quaternions(values) if part.rotation in _QUATERNIONS else values
    recorded, first = measured
    if recorded in _QUATERNIONS:  # keeps its sign; w goes to the end where it is wanted
        shift = _QUATERNIONS.index(recorded) - _QUATERNIONS.index(part.rotation)
        first = np.roll(first.astype(np.float64), shift, axis=-1)
    else:
        first = from_matrix(to_matrix(first, recorded), part.rotation)
    return continuous_quaternions(values, first)


def origins(
    part: ActionPart,
    start: Float[np.ndarray, "batch 3 3"],
    target: Float[np.ndarray, "batch horizon 3 3"],
) -> Float[np.ndarray, "batch ticks 3 3"]:
    """Orientations that the ticks of `part` are relative to; one for all if that is the state's."""
    return before(start[:, None], target) if part.mode == "delta" else start[:, None]


def before(
    start: Float[np.ndarray, "batch 1 *entries"],
    target: Float[np.ndarray, "batch horizon *entries"],
) -> Float[np.ndarray, "batch horizon *entries"]:
    """The tick before each one; before the first, `start`."""
    return np.concatenate([start, target[:, :-1]], axis=1)
