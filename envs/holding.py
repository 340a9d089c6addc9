"""The action that keeps an arm where it is."""

from typing import Protocol

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment


class CanHold(Protocol):
    """An environment that knows how its arm stays where it is."""

    def hold_action(self) -> Float[np.ndarray, " action_dim"]: ...


def hold_action(
    embodiment: Embodiment, last: Float[np.ndarray, " action_dim"] | None
) -> Float[np.ndarray, " action_dim"]:
    """The action that keeps the arm where it is, after the `last` one sent (None: none yet).

    Displacements (names that begin with `d`) become zero; everything else (a gripper, an absolute
    goal) stays as it was last commanded. Raises ValueError where that cannot be known: absolute
    goals before the first action; such an environment says it by a `hold_action` of its own.
    """
    moves = np.array([name.startswith("d") for name in embodiment.action_names])
    gripper = np.array([name.startswith("gripper") for name in embodiment.action_names])
    if last is None:
        if not np.all(moves | gripper):
            raise ValueError(
                f"how {embodiment.name} holds before its first action is not known: its actions "
                f"({', '.join(embodiment.action_names)}) are goals, not displacements; give its "
                "environment a hold_action(), or use mode synchronous"
            )
        last = np.zeros(embodiment.action_dim, np.float32)
    return np.where(moves, 0.0, last).astype(np.float32)
