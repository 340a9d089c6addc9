"""How smooth a motion was: the jump at the seams between chunks, and the jerk of the joints."""

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment


def seam_jump(
    actions: Float[np.ndarray, "steps action_dim"],
    chunk_numbers: list[int],
    embodiment: Embodiment,
) -> float | None:
    """Mean jump between the actions at a switch of chunks, over the median step within chunks.

    Actions in units of their range, grippers left out (they switch by design), held ticks (number
    -1) too. None if there was no switch, or nothing moved within chunks.
    """
    numbers = np.asarray(chunk_numbers)
    span = np.subtract(embodiment.action_high, embodiment.action_low)
    kept = [not name.startswith("gripper") for name in embodiment.action_names]
    steps = np.linalg.norm(np.diff((actions / span)[:, kept], axis=0), axis=1)
    moving = (numbers[1:] >= 0) & (numbers[:-1] >= 0)
    seam = moving & (numbers[1:] != numbers[:-1])
    inside = steps[moving & ~seam]
    if not seam.any() or not inside.size or not np.median(inside):
        return None
    return float(steps[seam].mean() / np.median(inside))


def jerk(position_rad: Float[np.ndarray, "ticks joints"], control_hz: float) -> float:
    """Root mean square of the joints' third derivative, rad/s^3, as measured tick by tick."""
    if len(position_rad) < 4 or not position_rad.shape[1]:
        return 0.0
    third = np.diff(position_rad, n=3, axis=0) * control_hz**3
    return float(np.sqrt(np.mean(third**2)))
