"""The policy as the control loop sees it: given observations, asked for chunks, never waited for.

`inference_worker.py` puts it into a process of its own; `InlineInference` here is for tests and
for experiments that need an exact delay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Act, Observation
from ..envs.rollout import noise_seed
from .observation_ring import ObservationRing
from .robot import RobotState

MakeAct = Callable[[], Act]
"""Builds the policy inside the inference process, such as `functools.partial(load_act, folder)`."""


class PolicyUnavailable(Exception):
    """Raised by an `Act` whose policy is elsewhere and cannot be reached now. The question is lost;
    the next one may be answered."""


@runtime_checkable
class Probing(Protocol):
    """An `Act` that can say, without being asked for a chunk, whether its policy is there."""

    def probe(self) -> bool:
        """Asked between two questions, some fifty times a second: must return at once."""
        ...


@dataclass(frozen=True)
class Answer:
    """What came back. `chunk` is a view, valid until the next `poll`."""

    observation_tick: int
    chunk: Float[np.ndarray, "horizon action_dim"] | None
    """None: the question was lost (`PolicyUnavailable`)."""
    seconds: float
    """How long the policy computed."""


@runtime_checkable
class Inference(Protocol):
    """The policy as the control loop sees it. No method waits."""

    horizon: int

    def begin_episode(self, seed: int, instruction: str) -> None:
        """Answers to observations of earlier episodes are dropped from now on."""
        ...

    def set_instruction(self, instruction: str) -> None:
        """Another command, for all observations offered from now on."""
        ...

    def see(self, tick: int, state: RobotState) -> None:
        """The observation of control tick `tick`, of which the policy may never be asked: for those
        that see several at once."""
        ...

    def offer(
        self,
        state: RobotState,
        observation_tick: int,
        planned: Float[np.ndarray, "planned action_dim"] | None = None,
        inference_delay: int = 0,
    ) -> None:
        """Give the policy this observation, with those seen before it if it sees several; a newer
        one replaces one not yet looked at. `state` is the last one seen, `planned` and
        `inference_delay` are those of `Observation`."""
        ...

    def poll(self) -> Answer | None:
        """The chunk that came since the last call, if one did."""
        ...

    def dead(self) -> bool:
        """Whether no answer can ever come again."""
        ...

    def reachable(self) -> bool:
        """False while a policy that is elsewhere cannot be asked."""
        ...

    def silence_s(self, now_ns: int) -> float:
        """For how long the heartbeat has not moved."""
        ...


class InlineInference:
    """A policy in this very thread whose answers appear `delay` polls later: for tests, and for
    experiments in which the inference delay must be exactly reproducible."""

    def __init__(
        self, act: Act, horizon: int, delay: Callable[[], int] = lambda: 1, history: int = 1
    ) -> None:
        self.horizon = horizon
        self._history = history
        self._ring: ObservationRing | None = None
        self.killed = self.hung = False
        self._act = act
        self._delay = delay
        self._pending: list[tuple[int, Answer]] = []
        self._polls = 0
        self._heard_ns: int | None = None
        self._reachable = True

    def begin_episode(self, seed: int, instruction: str) -> None:
        self._seed, self._instruction = seed, instruction
        self._pending.clear()
        self._ring = None

    def set_instruction(self, instruction: str) -> None:
        self._instruction = instruction

    def see(self, tick: int, state: RobotState) -> None:
        if self._history > 1:
            self._ring = self._ring or ObservationRing(self._history, state)
            self._ring.see(tick, state)

    def offer(
        self,
        state: RobotState,
        observation_tick: int,
        planned: Float[np.ndarray, "planned action_dim"] | None = None,
        inference_delay: int = 0,
    ) -> None:
        if self._ring is None:
            assert self._history == 1, "an observation is seen before it is offered"
            images = {name: image.copy() for name, image in state.images.items()}
            values = state.state.copy()
        else:
            images, values = self._ring.copy()
        observation = Observation(
            images,
            values,
            self._instruction,
            noise_seed(self._seed, max(observation_tick, 0)),
            planned,
            inference_delay,
        )
        try:
            chunk = self._act(observation)
        except PolicyUnavailable:
            chunk = None
        answer = Answer(observation_tick, chunk, 0.0)
        self._pending.append((self._polls + self._delay(), answer))

    def poll(self) -> Answer | None:
        self._polls += 1
        if self.hung or not self._pending or self._pending[0][0] > self._polls:
            return None
        answer = self._pending.pop(0)[1]
        self._reachable = answer.chunk is not None
        return answer

    def dead(self) -> bool:
        return self.killed

    def reachable(self) -> bool:
        if not self._reachable and isinstance(self._act, Probing):
            self._reachable = self._act.probe()
        return self._reachable

    def silence_s(self, now_ns: int) -> float:
        if not self.hung or self._heard_ns is None:
            self._heard_ns = now_ns
        return (now_ns - self._heard_ns) * 1e-9
