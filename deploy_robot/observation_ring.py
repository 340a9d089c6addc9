"""The last control ticks' observations, for policies that see several at once.

    tick            5     6     7     8 skipped  9          history 3
    see             o5    o6    o7               o9
    write                       o5 o6 o7         o7 o7 o9

What the robot said at a tick is that tick's observation, as a recorder stores it and as training
windows have it: a camera that had no new frame shows the one before again. Nothing is known of a
tick that was skipped or lies before the episode, so the nearest observation there is stands for it,
as `with_history` of `../envs/rollout.py` has it and a store repeats the first one.

Every tick counts, whoever moved the arm in it. During a pause the arm is seen to stand, during a
take-over to move as the operator moves it; so when the policy gets the arm back it sees what led
here, a control period between two observations as ever, and no jump from where it last looked.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from .robot import RobotState


class ObservationRing:
    """Observations of one episode's last `history` ticks, in memory that is taken once."""

    def __init__(self, history: int, like: RobotState) -> None:
        """`like`: a state of the robot, for the shapes."""
        assert history > 1, "one observation needs no ring"
        self.history = history
        self._state = np.zeros((history, *like.state.shape), np.float32)
        self._images = {
            name: np.zeros((history, *image.shape), np.uint8) for name, image in like.images.items()
        }
        self._ticks = [0] * history
        self._seen = 0

    def clear(self) -> None:
        """A new episode begins."""
        self._seen = 0

    def see(self, tick: int, state: RobotState) -> None:
        """Keep the observation of `tick`, which is later than those before."""
        place = self._seen % self.history
        self._state[place] = state.state
        for name, frames in self._images.items():
            frames[place] = state.images[name]
        self._ticks[place] = tick
        self._seen += 1

    def write(
        self,
        state: Float[np.ndarray, "history state_dim"],
        images: Mapping[str, UInt8[np.ndarray, "history _ _ 3"]],
    ) -> None:
        """Those of the `history` ticks up to the last one seen, oldest first, into these arrays."""
        assert self._seen, "an observation is seen before it is offered"
        places = self._places()
        for row, place in enumerate(places):
            state[row] = self._state[place]
        for name, frames in images.items():
            kept = self._images[name]
            for row, place in enumerate(places):
                frames[row] = kept[place]

    def copy(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The same in new arrays: images and state."""
        images = {name: np.empty_like(frames) for name, frames in self._images.items()}
        state = np.empty_like(self._state)
        self.write(state, images)
        return images, state

    def _places(self) -> list[int]:
        first = max(0, self._seen - self.history)
        at = self._seen - 1
        newest = self._ticks[at % self.history]
        places = []
        for back in range(self.history):
            while at > first and self._ticks[at % self.history] > newest - back:
                at -= 1
            places.append(at % self.history)
        places.reverse()
        return places
