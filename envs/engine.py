"""One policy for many environments: whoever is ready is answered, in batches of one size.

    worker 1  physics | ask ........ | physics
    worker 2    physics | ask ...... | physics        ask: observation in shared memory, then wait
    policy              [1 2 . .]          [2 1 . .]  .: filled up with copies, results dropped

A network's row can differ in its last bits with the size of its batch, never with its neighbours.
So every batch is filled up to one size, and an episode is the same however many workers there are
and whoever happened to ask beside it.

Next: `envs/parallel.py` (who uses it), `envs/engine_slots.py` (the shared memory).
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ..datasets.schema import Act, ActBatch, Observation
from .engine_slots import (
    SlotLayout,
    read_chunk,
    read_observation,
    write_chunk,
    write_observation,
)
from .workers import Desk, Question


@dataclass(frozen=True)
class Central:
    """One policy in the parent process, asked by all workers."""

    make_act_batch: Callable[[], ActBatch]
    """Called once, in the parent."""
    batch_size: int = 4
    """Rows of every batch. Results may differ in their last bits between sizes, so it belongs to
    the settings of an evaluation; the number of workers does not."""
    patience_s: float = 0.02
    """How long a question waits for others, while other workers are between two questions."""


class PolicyDesk:
    """Answers what is in slots by a stateless policy, always `batch_size` rows at once."""

    def __init__(self, central: Central, layout: SlotLayout) -> None:
        if central.batch_size < 1:
            raise ValueError(f"batch_size is {central.batch_size}; expected 1 or more")
        self._act = padded(central.make_act_batch(), central.batch_size)
        self._layout = layout
        self.batches = self.rows = 0
        self.policy_s = 0.0
        self.desk = Desk(self._make_slot, self._answer, central.batch_size, central.patience_s)

    def _make_slot(self) -> Any:
        # An unlinked file behind it: nothing is left in /dev/shm, not even after kill -9.
        context: Any = multiprocessing.get_context("spawn")
        return context.RawArray("B", self._layout.size)

    def _answer(self, slots: Sequence[Any]) -> None:
        views = [self._layout.views(slot) for slot in slots]
        seen = [read_observation(view) for view in views]
        began = perf_counter()
        chunks = self._act(seen)
        self.policy_s += perf_counter() - began
        self.batches, self.rows = self.batches + 1, self.rows + len(slots)
        for view, chunk in zip(views, chunks, strict=True):
            write_chunk(view, chunk)


def padded(act_batch: ActBatch, batch_size: int) -> ActBatch:
    """`act_batch` on batches of exactly `batch_size` rows, for up to that many observations."""

    def act(observations: Sequence[Observation]) -> list[np.ndarray]:
        count = len(observations)
        assert 0 < count <= batch_size, f"{count} observations for a batch of {batch_size}"
        rows = [*observations, *[observations[0]] * (batch_size - count)]
        chunks = act_batch(rows)
        if len(chunks) != batch_size:
            raise ValueError(f"the policy gave {len(chunks)} chunks for {batch_size} observations")
        return [np.asarray(chunk) for chunk in chunks[:count]]

    return act


def single(make_act_batch: Callable[[], ActBatch], batch_size: int) -> Act:
    """A policy of batches for one observation at a time, with the numbers of a full batch."""
    act = padded(make_act_batch(), batch_size)
    return lambda observation: act([observation])[0]


def asking_act(layout: SlotLayout, ask: Question) -> Act:
    """The worker's stand-in for the policy."""
    views = layout.views(ask.slot)

    def act(observation: Observation) -> np.ndarray:
        write_observation(views, observation)
        ask()
        return read_chunk(views)

    return act
