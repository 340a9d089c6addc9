"""Noise on what an expert sends, so that demonstrations show how to come back.

Next: `envs/collect.py` (episodes under it).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment

MOVE_NAMES, TURN_NAMES, GRIPPER_NAME = ("dx", "dy", "dz"), ("drx", "dry", "drz"), "gripper"
"""What the action entries are called that noise knows."""


@dataclass(frozen=True)
class Noise:
    """Disturbance of the sent action, in units of the action (1 is full speed).

    Which entries it concerns is read off their names: `dx dy dz` drift and are pushed, `drx dry
    drz` turn, `gripper` fumbles. Entries of other names (joints, places) are sent as they are.
    """

    drift: float = 0.25
    """Standard deviation of the slowly changing part of dx dy dz."""
    turn: float = 0.08
    """The same for drx dry drz."""
    correlation: float = 0.8
    """Share of the slow part that stays from one step to the next."""
    push_probability: float = 0.04
    """Chance per step that a push in a random direction begins."""
    push_size: float = 1.0
    push_steps: tuple[int, int] = (3, 6)
    """Shortest and longest push."""
    fumble_probability: float = 0.006
    """Chance per step that the gripper does the opposite for a while."""
    fumble_steps: tuple[int, int] = (3, 5)


class Disturbance:
    """The noise of one episode, a function of its seed."""

    def __init__(self, noise: Noise, seed: int, embodiment: Embodiment) -> None:
        self._noise = noise
        self._rng = np.random.default_rng([seed, 2])
        names = embodiment.action_names
        self._moves = [i for i, name in enumerate(names) if name in MOVE_NAMES]
        turns = [i for i, name in enumerate(names) if name in TURN_NAMES]
        self._grips = [i for i, name in enumerate(names) if name == GRIPPER_NAME]
        self._drifting = self._moves + turns
        self._low, self._high = np.array(embodiment.action_low), np.array(embodiment.action_high)
        self._full = (self._high - self._low) / 2
        self._width = np.array([noise.drift] * len(self._moves) + [noise.turn] * len(turns))
        self._slow = np.zeros(len(self._drifting))
        self._push = np.zeros(len(self._moves))
        self._push_left = self._fumble_left = 0

    def apply(self, action: Float[np.ndarray, " action_dim"]) -> Float[np.ndarray, " action_dim"]:
        """The action to send, within the limits."""
        noise, rng = self._noise, self._rng
        keep = noise.correlation
        scale = self._width * np.sqrt(1 - keep**2)
        self._slow = keep * self._slow + scale * rng.normal(size=len(self._slow))
        if self._push_left == 0 and rng.random() < noise.push_probability:
            self._push_left = int(rng.integers(*noise.push_steps, endpoint=True))
            direction = rng.normal(size=len(self._push))
            self._push = noise.push_size * direction / max(float(np.linalg.norm(direction)), 1e-9)
        if self._fumble_left == 0 and rng.random() < noise.fumble_probability:
            self._fumble_left = int(rng.integers(*noise.fumble_steps, endpoint=True))
        sent = np.array(action, dtype=np.float64)
        sent[self._drifting] += self._slow * self._full[self._drifting]
        if self._push_left > 0:
            self._push_left -= 1
            sent[self._moves] += self._push * self._full[self._moves]
        if self._fumble_left > 0:
            self._fumble_left -= 1
            sent[self._grips] = (self._low + self._high - sent)[self._grips]
        return np.clip(sent, self._low, self._high)
