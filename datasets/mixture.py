"""Batches from several stores in fixed proportions, also of different robots.

        weights 3 : 1        a a a b a a b a a a b ...      spread evenly, in the long run exact

Robots differ in the size of states, actions and frames, so a mixed batch is a list of parts, one
per store; nothing is padded.

Next: `gather.py` (the windows of one store), `shuffle.py` (their order).
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from .gather import Allocate, Cache, WindowGather, WindowSpec
from .schema import Batch
from .shuffle import RandomOrder
from .store import Store

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: multiples of it, modulo 2**64, lie evenly however many are taken."""


@dataclass(frozen=True)
class Source:
    """One store of a mixture."""

    store: Store
    spec: WindowSpec
    weight: float
    """Share of the windows, relative to the other weights."""
    episodes: tuple[int, ...] | None = None
    """Indices into `store.episodes`; None: all."""


@dataclass(frozen=True)
class Part:
    """The windows of a mixed batch that come from one store."""

    source: int
    """Position of the store in the mixture."""
    batch: Batch


class Mixture(Iterator[tuple[Part, ...]]):
    """Mixed batches without end; stores that gave no window to a batch are left out of it.

    Each store is visited in its own random order, window by window, and begins its next epoch when
    it is through, whatever the others do. Like a WindowLoader's, the order depends on the seed
    alone, ranks share it, and the arrays of a batch stay until the second `next` after it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 1,
        cache: Cache = "auto",
        threads: int | None = None,
        allocate: Allocate = np.empty,
    ) -> None:
        """`batch_size`: windows of a batch of this rank, over all stores."""
        weights = [source.weight for source in sources]
        if not sources or any(not math.isfinite(w) or w <= 0 for w in weights):
            raise ValueError(f"weights {weights}; give at least one store, each weight positive")
        if batch_size < 1 or not 0 <= rank < world_size or prefetch < 0:
            raise ValueError(
                f"batch_size {batch_size} must be at least 1, rank {rank} below world_size "
                f"{world_size}, prefetch {prefetch} at least 0"
            )
        self.sources = tuple(sources)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.prefetch = prefetch
        self._shares = np.cumsum(np.array(weights) / math.fsum(weights))
        self._gathers = [
            WindowGather(s.store, s.spec, s.episodes, cache, threads, allocate=allocate)
            for s in sources
        ]
        rings = range(prefetch + 2)
        self.windows = sum(len(gather.windows) for gather in self._gathers)
        """Of all stores together."""
        self.cache = "ram" if all(g.cache == "ram" for g in self._gathers) else "none"
        """`ram` if the frames of all stores stay in memory."""
        self._rings = [[gather.buffers(batch_size) for _ in rings] for gather in self._gathers]
        self._thread = ThreadPoolExecutor(1, "ulna-mixture") if prefetch else None
        self._pending: deque[tuple[Future[tuple[Part, ...]], Int64[np.ndarray, " n"]]] = deque()
        self._taken = self._begun = 0
        self._given = np.zeros(len(sources), np.int64)
        """Windows of each store in the batches given out."""
        self._planned = self._given.copy()
        """The same, with those being prepared."""

    def __next__(self) -> tuple[Part, ...]:
        while len(self._pending) <= self.prefetch:
            chosen, self._planned = self._choose(self._begun, self._planned)
            number, self._begun = self._begun, self._begun + 1
            if self._thread is not None:
                future = self._thread.submit(self._gather, number, chosen)
            else:
                future = Future()
                future.set_result(self._gather(number, chosen))
            self._pending.append((future, self._planned))
        future, given = self._pending.popleft()
        parts = future.result()
        self._taken, self._given = self._taken + 1, given
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Where this mixture stands; plain numbers. Give it to `load_state_dict` to go on."""
        return {
            "seed": self.seed,
            "number": self._taken,
            "given": self._given.tolist(),
            "windows": [len(gather.windows) for gather in self._gathers],
            "shares": self._shares.tolist(),
            "global_batch_size": self.batch_size * self.world_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the batch that would have followed. Refuses the state of other stores,
        weights or batch sizes."""
        here = self.state_dict()
        for key in ("windows", "shares", "global_batch_size"):
            if state[key] != here[key]:
                raise ValueError(
                    f"the saved position has {key} {state[key]}, this mixture {here[key]}; resume "
                    "with the same stores, weights and batch size, or start a new run"
                )
        for future, _ in self._pending:
            future.result()  # their buffers are about to be used again
        self._pending.clear()
        self.seed = int(state["seed"])
        self._taken = self._begun = int(state["number"])
        self._given = self._planned = np.array(state["given"], np.int64)

    def close(self) -> None:
        """Stop the threads."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        for gather in self._gathers:
            gather.close()

    def _choose(
        self, number: int, before: Int64[np.ndarray, " sources"]
    ) -> tuple[list[np.ndarray], Int64[np.ndarray, " sources"]]:
        """Windows per store of batch `number`, for this rank, and how many there are after it
        over all ranks."""
        size = self.batch_size * self.world_size
        places = np.arange(number * size, (number + 1) * size, dtype=np.uint64) * _GOLDEN
        points = places.astype(np.float64) / 2.0**64
        owner = np.minimum(np.searchsorted(self._shares, points, side="right"), len(before) - 1)
        mine = np.zeros(size, bool)
        mine[self.rank :: self.world_size] = True
        chosen = []
        after = before.copy()
        for source in range(len(before)):
            belongs = owner == source
            after[source] += int(belongs.sum())
            windows = self._windows(source, int(before[source]), int(after[source]))
            chosen.append(windows[mine[belongs]])
        return chosen, after

    def _windows(self, source: int, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """The windows number `start:stop` that a store gives, epoch after epoch."""
        size = len(self._gathers[source].windows)
        parts = [np.empty(0, np.int64)]
        while start < stop:
            epoch, position = divmod(start, size)
            end = min(size, position + stop - start)
            order = RandomOrder(size, self.seed * 1_000_003 + source, epoch)
            parts.append(order.at(position, end))
            start += end - position
        return np.concatenate(parts)

    def _gather(self, number: int, chosen: list[np.ndarray]) -> tuple[Part, ...]:
        parts = []
        for source, windows in enumerate(chosen):
            if len(windows) == 0:
                continue
            ring = self._rings[source]
            buffers = {
                name: array[: len(windows)] for name, array in ring[number % len(ring)].items()
            }
            draw = (self.seed, number, self.rank, source)
            parts.append(Part(source, self._gathers[source].gather(windows, buffers, draw)))
        return tuple(parts)
