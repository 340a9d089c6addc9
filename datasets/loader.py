"""Shuffled batches of one store, without end.

No worker processes, no item per sample, no collate: the place of every window is computed, and a
batch is gathered straight into a ring of arrays that exist already. Conversion and augmentation
are for the device.

Next: `gather.py` (one batch), `shuffle.py` (the order), `mixture.py` (several stores).
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from .gather import Allocate, Buffers, Cache, WindowGather, WindowSpec
from .schema import Batch
from .shuffle import BlockOrder, RandomOrder
from .store import Store

Mode = Literal["random", "clip", "stream"]
BLOCK_STEPS = {"clip": 8, "stream": 256}
"""Steps of a block: a video clip, or a shard file."""
_POSITIONS_AHEAD = 8192
"""Places in the order computed at once: it costs the same for one batch as for a hundred."""


_WINDOWS_AHEAD = 256
"""Windows whose chunks are on their way from an object store before their batch is prepared."""


class WindowLoader(Iterator[Batch]):
    """Shuffled batches without end; every window once per epoch, an incomplete last batch dropped.

    The arrays of a batch are reused: they stay as they are until the second `next` after it. Copy
    them (or move them to the device and wait) if they are needed longer.

    The order depends on `seed` and the epoch alone. With `world_size` loaders of different `rank`
    each gets every `world_size`-th window of the same permutation, so together they see exactly
    the batches that one loader of `batch_size * world_size` would.
    """

    def __init__(
        self,
        store: Store,
        spec: WindowSpec | int,
        batch_size: int,
        seed: int,
        episodes: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        mode: Mode = "random",
        cache: Cache = "auto",
        prefetch: int = 2,
        threads: int | None = None,
        pool: int = 128,
        allocate: Allocate = np.empty,
    ) -> None:
        """Episodes are indices into `store.episodes` (None: all).

        `spec`: a number stands for the horizon of a plain WindowSpec. `mode`: the order (see
        `shuffle.py`): `random`; `clip`, blocks of 8 steps, for video; `stream`, blocks of a whole
        shard, fetched ahead, for object stores. `pool`: blocks that are shuffled together.
        `prefetch` batches are prepared ahead, several at a time by a thread each where there are
        cores for it; with 0, `next` itself prepares them. `threads`: of all that decode (None: one
        per core). `cache`, `allocate`: see `WindowGather`.
        """
        if batch_size < 1 or not 0 <= rank < world_size or prefetch < 0 or pool < 1:
            raise ValueError(
                f"batch_size {batch_size} and pool {pool} must be at least 1, rank {rank} below "
                f"world_size {world_size}, prefetch {prefetch} at least 0"
            )
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.rank, self.world_size, self.prefetch, self.mode = rank, world_size, prefetch, mode
        self.spec = WindowSpec(spec) if isinstance(spec, int) else spec
        threads = threads or os.cpu_count() or 1
        # A batch to a thread: handing over parts of one costs more than many a part. What is kept
        # of one batch for the next, as with video, asks for one at a time.
        workers = 1 if mode == "clip" else max(1, min(prefetch, threads))
        # The blocks of a pool, with what their histories reach back to, and those that the last
        # batch of a pool has of the next one.
        keep = pool * (1 if self.spec.history == 1 else 2) + batch_size if mode == "clip" else 0
        self.gather = WindowGather(
            store,
            self.spec,
            episodes,
            "none" if mode == "stream" else cache,
            -(-threads // workers),
            keep,
            allocate,
        )
        self.episodes, self.windows = self.gather.episodes, self.gather.windows
        if len(self) == 0:
            raise ValueError(
                f"{len(self.windows)} windows in {len(self.episodes)} episodes do not fill one "
                f"batch of {batch_size} x {world_size}; use a smaller batch or more episodes"
            )
        lengths = np.diff(self.windows.ends, prepend=0)
        self._blocks = _blocks(lengths, BLOCK_STEPS[mode]) if mode in BLOCK_STEPS else None
        self._pool = pool
        self._fetched_pools: set[tuple[int, int]] = set()
        self._ring: list[Buffers] = [self.gather.buffers(batch_size) for _ in range(prefetch + 2)]
        self._thread = ThreadPoolExecutor(workers, "ulna-loader") if prefetch else None
        self._pending: deque[Future[Batch]] = deque()
        self._taken = 0
        """Batches given out since the first epoch began."""
        self._begun = 0
        """Batches given out or being prepared."""
        self._begun_ahead = 0
        """Batches of which chunks were begun to be fetched from an object store."""
        self._orders: dict[int, RandomOrder | BlockOrder] = {}
        self._ahead: tuple[int, int, np.ndarray] = (-1, 0, np.empty(0, np.int64))

    @property
    def cache(self) -> Literal["none", "ram"]:
        """Whether decoded frames are kept in memory."""
        return self.gather.cache

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.windows) // (self.batch_size * self.world_size)

    def __next__(self) -> Batch:
        if self._thread is None:
            batch = self._prepare(self._begun, self._indices(self._begun))
            self._begun += 1
        else:
            while len(self._pending) <= self.prefetch:
                indices = self._indices(self._begun)
                self._pending.append(self._thread.submit(self._prepare, self._begun, indices))
                self._begun += 1
            batch = self._pending.popleft().result()
        self._taken += 1
        return batch

    def batch_at(self, window_indices: Int64[np.ndarray, " batch"]) -> Batch:
        """The batch of chosen windows (indices into `windows`), in arrays of its own."""
        return self.gather.gather(window_indices, self.gather.buffers(len(window_indices)))

    def state_dict(self) -> dict[str, Any]:
        """Where this loader stands; plain numbers. Give it to `load_state_dict` to go on."""
        return {
            "seed": self.seed,
            "epoch": self._taken // len(self),
            "position": self._taken % len(self),
            "windows": len(self.windows),
            "global_batch_size": self.batch_size * self.world_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the batch that would have followed. Refuses the state of other data or
        another batch size, with which the order cannot be continued."""
        here = self.state_dict()
        for key in ("windows", "global_batch_size"):
            if state[key] != here[key]:
                raise ValueError(
                    f"the saved position has {key} {state[key]}, this loader {here[key]}; resume "
                    "with the same store, episodes and batch size, or start a new run"
                )
        for future in self._pending:
            future.result()  # their buffers are about to be used again
        self._pending.clear()
        self.seed = int(state["seed"])
        self._taken = self._begun = int(state["epoch"]) * len(self) + int(state["position"])
        self._orders, self._fetched_pools, self._begun_ahead = {}, set(), 0
        self._ahead = (-1, 0, np.empty(0, np.int64))

    def close(self) -> None:
        """Stop the threads."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self.gather.close()

    def _prepare(self, number: int, indices: np.ndarray) -> Batch:
        """The batch `number`, counted from the first epoch."""
        buffers = self._ring[number % len(self._ring)]
        return self.gather.gather(indices, buffers, (self.seed, number, self.rank))

    def _indices(self, number: int) -> np.ndarray:
        """Windows of the batch `number`; asked in order, by the thread that calls `next`."""
        epoch, position = divmod(number, len(self))
        size = self.batch_size * self.world_size
        known, first, windows = self._ahead
        if known != epoch or not first <= position < first + len(windows) // size:
            # Many batches at once: computing places costs the same for one as for hundreds.
            last = min(position + max(1, _POSITIONS_AHEAD // size), len(self))
            first, windows = position, self._order_of(epoch).at(position * size, last * size)
            self._ahead = (epoch, first, windows)
        if self.mode == "stream":
            self._fetch(epoch, position * size, (position + 1) * size)
        elif self.gather.shards.requests is not None:
            self._look_ahead(number, windows[(position - first) * size :])
        begin = (position - first) * size
        return windows[begin + self.rank : begin + size : self.world_size]

    def _look_ahead(self, number: int, windows: np.ndarray) -> None:
        """Begin to fetch chunks of the batches from `number` on; `windows` are theirs."""
        size = self.batch_size * self.world_size
        batches = min(1 + _WINDOWS_AHEAD // self.batch_size, len(windows) // size)
        for ahead in range(max(self._begun_ahead - number, 0), batches):
            chosen = windows[ahead * size + self.rank : (ahead + 1) * size : self.world_size]
            self.gather.begin(chosen)
        self._begun_ahead = number + batches

    def _order_of(self, epoch: int) -> RandomOrder | BlockOrder:
        if epoch not in self._orders:
            if self._blocks is None:
                order = RandomOrder(len(self.windows), self.seed, epoch)
            else:
                order = BlockOrder(self._blocks, len(self.windows), self._pool, self.seed, epoch)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]

    def _fetch(self, epoch: int, start: int, stop: int) -> None:
        """Fetch the files of the pools that hold these positions, and begin with the pool after."""
        order = self._order_of(epoch)
        assert isinstance(order, BlockOrder)
        last = order.pool_at(stop - 1)
        wanted = [(epoch, pool) for pool in range(order.pool_at(start), last + 1)]
        wanted.append((epoch, last + 1) if last + 1 < order.pools else (epoch + 1, 0))
        # Of the pool before, some windows may be in the batches that are being prepared.
        self.gather.shards.capacity = 3 * self._pool * max(1, len(self.gather.readers))
        for key in wanted:
            if key not in self._fetched_pools:
                self._fetch_pool(*key)
        self._fetched_pools = set(wanted)

    def _fetch_pool(self, epoch: int, pool: int) -> None:
        order = self._order_of(epoch)
        assert isinstance(order, BlockOrder) and self._blocks is not None
        blocks = order.blocks_of(pool)
        first = self._blocks[blocks]
        ends = np.append(self._blocks[1:], len(self.windows))[blocks]
        episodes = self.windows.episodes(first)
        begins = self.windows.first_rows(episodes)
        spans = zip(episodes.tolist(), first - begins, ends - begins - 1, strict=True)
        for episode, a, b in spans:
            # In the order in which they will be needed: an episode's numbers with its frames.
            if self.gather.shards.requests is not None:
                self.gather.begin_numbers(np.array([episode]))
            for reader in self.gather.readers.values():
                for name, layout in reader.files(episode, int(a), int(b)):
                    self.gather.shards.begin(name, layout)


def _blocks(lengths: np.ndarray, steps: int) -> Int64[np.ndarray, " blocks"]:
    """First window of each block of at most `steps` steps of one episode."""
    counts = -(-lengths // steps)
    ends = np.cumsum(counts)
    within = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
    return np.repeat(np.cumsum(lengths) - lengths, counts) + within * steps
