"""Scenes that are put back by doing everything again, for simulators that know no other way.

`reset(seed)` and the same actions lead to the same place, so the state that is remembered is that:
seed, actions sent, and where things were then, by which a replay that went elsewhere is found out.
Going on within one episode costs the new actions alone, so drawing a stored episode frame by frame
is linear in its length.

Needs numpy alone and imports nothing of Ulna, so that it runs on the far side of
`envs/remote_scene.py` too; it stays within the syntax of Python 3.8.
"""

from __future__ import annotations

import numpy as np


class ReplayedScene:
    """A subclass says how to begin, advance and tell where things are."""

    def __init__(self, action_dim: int, control_hz: float, most_steps: int) -> None:
        self._action_dim = action_dim
        self._control_hz = control_hz
        self._most_steps = most_steps
        self._seed = 0
        self._actions: list[np.ndarray] = []

    def begin(self, seed: int) -> None:
        """Place everything by the seed."""
        raise NotImplementedError

    def advance(self, action: np.ndarray) -> None:
        """One control period."""
        raise NotImplementedError

    def poses(self) -> np.ndarray:
        """Numbers that tell whether a replay came to the same place."""
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        self._seed, self._actions = seed, []
        self.begin(seed)

    def step(self, action: np.ndarray) -> None:
        if len(self._actions) >= self._most_steps:
            raise ValueError(
                f"step {len(self._actions) + 1} of an episode of at most {self._most_steps}; reset"
            )
        sent = np.array(action, np.float64).reshape(self._action_dim)
        self._actions.append(sent)
        self.advance(sent)

    def time_s(self) -> float:
        return len(self._actions) / self._control_hz

    def simulator_state(self) -> np.ndarray:
        """Seed, number of steps, poses, then the actions, zeros after the last."""
        sent = np.zeros((self._most_steps, self._action_dim))
        if self._actions:
            sent[: len(self._actions)] = self._actions
        return np.concatenate([[self._seed, len(self._actions)], self.poses(), sent.ravel()])

    def restore(self, state: np.ndarray) -> None:
        seed, steps = int(state[0]), int(state[1])
        wanted = state[2 : len(state) - self._most_steps * self._action_dim]
        sent = state[2 + len(wanted) :].reshape(self._most_steps, self._action_dim)[:steps]
        done = np.reshape(self._actions, (len(self._actions), self._action_dim))
        if seed != self._seed or not np.array_equal(done, sent[: len(done)]):
            self.reset(seed)
        for action in sent[len(self._actions) :]:
            self.step(action)
        if not np.array_equal(self.poses(), wanted):
            far = np.abs(self.poses() - wanted).max()
            raise RuntimeError(
                f"replaying {steps} actions from seed {seed} ended {far:.3g} away from where it "
                "was; the simulator does not repeat itself, or is another version"
            )
