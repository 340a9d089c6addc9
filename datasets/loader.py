"""Batches of windows for training: index arithmetic, one gather, frames decoded into place.

No worker processes, no item per sample, no collate. Numbers of an episode are loaded when it is
first touched; frames are decoded by threads straight into a ring of batches that exist already;
conversion and augmentation are for the device.

Next: `windows.py` (which rows), `shuffle.py` (in which order), `frames.py` (decoding),
`mixture.py` (several stores), `schema.py` (what a Batch is).
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from .frames import FramePlan, FrameReader, read_frames
from .resident import Resident, available_memory
from .schema import Batch, unknown_name
from .shards import ShardCache
from .shuffle import BlockOrder, RandomOrder
from .store import Store
from .windows import Windows, window_rows

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""Makes an array for batches; pinned memory where a GPU copies from it."""
BLOCK_STEPS = {"clip": 8, "stream": 256}
"""Steps of a block: a video clip, or a shard file."""


@dataclass(frozen=True)
class WindowSpec:
    """What is gathered around a step."""

    horizon: int
    """Actions from this step on."""
    history: int = 1
    """Observations up to this step; with more than one, `Batch.images` and `.state` gain an axis
    `(batch, history, ...)`, oldest first, the first observation repeated before the start."""
    cameras: tuple[str, ...] | None = None
    """None: all of the embodiment."""
    action_stream: str = "action"
    """Or `action_sent`, `action_measured` where they were recorded."""
    streams: tuple[str, ...] = ()
    """Further numeric streams, given as `Batch.streams` at the window's own step."""
    depth: tuple[str, ...] = ()
    """Cameras whose depth frames are given as `Batch.depth`."""
    language: Literal["instruction", "paraphrases", "subgoals"] = "instruction"
    """`paraphrases`: one of the episode's commands, drawn anew each time; `subgoals`: the one that
    holds at the window's step, where there is one."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.history < 1:
            raise ValueError(
                f"horizon {self.horizon} and history {self.history} must be at least 1"
            )


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
        mode: Literal["random", "clip", "stream"] = "random",
        cache: Literal["none", "ram", "auto"] = "auto",
        prefetch: int = 1,
        threads: int | None = None,
        pool: int = 128,
        allocate: Allocate = np.empty,
    ) -> None:
        """Episodes are indices into `store.episodes` (None: all).

        `spec`: a number stands for the horizon of a plain WindowSpec. `mode`: the order (see
        `shuffle.py`): `random`; `clip`, blocks of 8 steps, for video; `stream`, blocks of a whole
        shard, fetched ahead, for object stores. `pool`: blocks that are shuffled together.
        `cache`: keep decoded frames in memory; `auto` does if they fit into a quarter of what is
        available. `prefetch` batches are prepared ahead by a thread; with 0, `next` itself
        prepares them. `threads`: decoding threads (None: one per core).
        """
        spec = WindowSpec(spec) if isinstance(spec, int) else spec
        if batch_size < 1 or not 0 <= rank < world_size or prefetch < 0 or pool < 1:
            raise ValueError(
                f"batch_size {batch_size} and pool {pool} must be at least 1, rank {rank} below "
                f"world_size {world_size}, prefetch {prefetch} at least 0"
            )
        self.store, self.spec, self.batch_size, self.seed = store, spec, batch_size, seed
        self.rank, self.world_size, self.prefetch, self.mode = rank, world_size, prefetch, mode
        self.episodes = store.choose(episodes)
        if not len(self.episodes):
            raise ValueError(f"{store.location}: no episodes to load")
        known = [camera.name for camera in store.embodiment.cameras]
        self.cameras = tuple(known if spec.cameras is None else spec.cameras)
        for name in (*self.cameras, *spec.depth):
            store.embodiment.camera(name)  # raises, with what exists
        lengths = store.episodes.steps[self.episodes]
        self.windows = Windows(lengths)
        if len(self) == 0:
            raise ValueError(
                f"{len(self.windows)} windows in {len(self.episodes)} episodes do not fill one "
                f"batch of {batch_size} x {world_size}; use a smaller batch or more episodes"
            )
        self._blocks = _blocks(lengths, BLOCK_STEPS[mode]) if mode in BLOCK_STEPS else None
        self._pool = pool
        self._parts = threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(max(4, self._parts), "ulna-decode")
        self._frame_streams = {f"images/{name}": name for name in self.cameras}
        self._frame_streams |= {f"depth/{name}": name for name in spec.depth}
        self._kinds = self._stream_kinds()
        self.cache = self._choose_cache(cache)
        """`ram` or `none`, as it was decided."""
        self._resident = self._make_resident()
        self.shards = ShardCache(store.storage)
        keep = 2 * pool if mode == "clip" else 0
        self._readers = {
            stream: FrameReader(store, stream, self.episodes, self.shards, keep)
            for stream in self._frame_streams
            if stream not in self._resident
        }
        self._fetched_pools: set[tuple[int, int]] = set()
        self._offsets = np.arange(spec.horizon)
        self._history = np.arange(1 - spec.history, 1)
        self._allocate = allocate
        self._ring = [self._empty(batch_size) for _ in range(prefetch + 2)]
        self._thread = ThreadPoolExecutor(1, "ulna-loader") if prefetch else None
        self._pending: deque[Future[Batch]] = deque()
        self._taken = 0
        """Batches given out since the first epoch began."""
        self._begun = 0
        """Batches given out or being prepared."""
        self._order: tuple[int, RandomOrder | BlockOrder] | None = None
        self._ahead: tuple[int, int, np.ndarray] = (-1, 0, np.empty(0, np.int64))
        self._texts: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.windows) // (self.batch_size * self.world_size)

    def __next__(self) -> Batch:
        if self._thread is None:
            batch = self._prepare(self._begun)
            self._begun += 1
        else:
            while len(self._pending) <= self.prefetch:
                self._pending.append(self._thread.submit(self._prepare, self._begun))
                self._begun += 1
            batch = self._pending.popleft().result()
        self._taken += 1
        return batch

    def batch_at(self, window_indices: Int64[np.ndarray, " batch"]) -> Batch:
        """The batch of chosen windows (indices into `windows`), in arrays of its own."""
        return self._gather(window_indices, self._empty(len(window_indices)), 0)

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
        self._order, self._ahead = None, (-1, 0, np.empty(0, np.int64))

    def close(self) -> None:
        """Stop the threads."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)

    def _prepare(self, number: int) -> Batch:
        """The batch `number`, counted from the first epoch."""
        return self._gather(self._indices(number), self._ring[number % len(self._ring)], number)

    def _indices(self, number: int) -> np.ndarray:
        epoch, position = divmod(number, len(self))
        size = self.batch_size * self.world_size
        known, first, windows = self._ahead
        if known != epoch or not first <= position < first + len(windows) // size:
            # Many batches at once: computing places costs the same for one as for hundreds.
            last = min(position + max(1, 8192 // size), len(self))
            first, windows = position, self._order_of(epoch).at(position * size, last * size)
            self._ahead = (epoch, first, windows)
        if self.mode == "stream":
            self._fetch(epoch, position * size, (position + 1) * size)
        begin = (position - first) * size
        return windows[begin + self.rank : begin + size : self.world_size]

    def _order_of(self, epoch: int) -> RandomOrder | BlockOrder:
        if self._order is None or self._order[0] != epoch:
            if self._blocks is None:
                order = RandomOrder(len(self.windows), self.seed, epoch)
            else:
                order = BlockOrder(self._blocks, len(self.windows), self._pool, self.seed, epoch)
            self._order = (epoch, order)
        return self._order[1]

    def _fetch(self, epoch: int, start: int, stop: int) -> None:
        """Fetch the files of the pools that hold these positions, and begin with the pool after."""
        order = self._order_of(epoch)
        assert isinstance(order, BlockOrder) and self._blocks is not None
        last = min(order.pool_at(stop - 1) + 1, order.pools - 1)
        for pool in range(order.pool_at(start), last + 1):
            if (epoch, pool) in self._fetched_pools:
                continue
            self._fetched_pools = {(e, p) for e, p in self._fetched_pools if e == epoch}
            self._fetched_pools.add((epoch, pool))
            blocks = order.blocks_of(pool)
            first = self._blocks[blocks]
            ends = np.append(self._blocks[1:], len(self.windows))[blocks]
            episodes = self.windows.episodes(first)
            begins = self.windows.first_rows(episodes)
            self.shards.capacity = 3 * len(blocks) * max(1, len(self._readers))
            for reader in self._readers.values():
                for episode, a, b in zip(episodes, first - begins, ends - begins - 1, strict=True):
                    for name, layout in reader.files(int(episode), int(a), int(b)):
                        self._threads.submit(self.shards.get, name, layout)

    def _gather(self, index: np.ndarray, out: dict[str, np.ndarray], number: int) -> Batch:
        spec, windows = self.spec, self.windows
        episode = windows.episodes(index)
        for resident in self._resident.values():
            resident.ensure(episode, self._threads)
        future, is_pad = window_rows(windows, index, episode, self._offsets)
        past = index[:, None]
        if spec.history > 1:
            past, _ = window_rows(windows, index, episode, self._history)
        for stream, resident in self._resident.items():
            if stream == spec.action_stream:
                _take(resident.rows, future, out[f"chunk of {stream}"])
            if stream in out:
                within = index[:, None] if stream in spec.streams else past
                _take(resident.rows, within, out[stream])
        if self._readers:
            flat = past.reshape(-1)
            owner = np.repeat(episode, past.shape[1])
            plan = FramePlan.of(flat, owner, flat - windows.first_rows(owner))
            outs = [out[name].reshape(-1, *out[name].shape[2:]) for name in self._readers]
            read_frames(list(self._readers.values()), plan, outs, self._threads, self._parts)

        def observed(stream: str) -> np.ndarray:
            return out[stream] if spec.history > 1 else out[stream][:, 0]

        return Batch(
            images={name: observed(f"images/{name}") for name in self.cameras},
            state=observed("state"),
            action_chunk=out[f"chunk of {spec.action_stream}"],
            action_is_pad=is_pad,
            instructions=self._instructions(index, episode, number),
            streams={name: out[name][:, 0] for name in spec.streams},
            depth={name: observed(f"depth/{name}") for name in spec.depth},
        )

    def _instructions(self, index: np.ndarray, episode: np.ndarray, number: int) -> tuple[str, ...]:
        texts, language = self._texts, self.spec.language
        positions = episode.tolist()
        for position in positions:
            if position not in texts:
                record = self.store.episodes[int(self.episodes[position])]
                texts[position] = (record.instruction, *record.paraphrases)
        if language == "instruction":
            return tuple([texts[position][0] for position in positions])
        if language == "paraphrases":
            draws = np.random.default_rng((self.seed, number, self.rank)).random(len(positions))
            return tuple(
                texts[p][int(d * len(texts[p]))] for p, d in zip(positions, draws, strict=True)
            )
        steps = (index - self.windows.first_rows(episode)).tolist()
        return tuple(self._subgoal(p, s) for p, s in zip(positions, steps, strict=True))

    def _subgoal(self, position: int, step: int) -> str:
        record = self.store.episodes[int(self.episodes[position])]
        for subgoal in record.subgoals:
            if subgoal.start <= step < subgoal.stop:
                return subgoal.instruction
        return record.instruction

    def _stream_kinds(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of a row, and type, of every stream that is gathered, as the first episode has
        them (state, action and images are those of the embodiment)."""
        described = self.store.episodes[int(self.episodes[0])].streams
        names = ["state", self.spec.action_stream, *self.spec.streams, *self._frame_streams]
        for name in names:
            if name not in described:
                raise unknown_name("stream of the first episode", name, described)
        return {name: (described[name].shape, np.dtype(described[name].dtype)) for name in names}

    def _choose_cache(self, cache: str) -> Literal["none", "ram"]:
        frames = len(self.windows) * sum(
            int(np.prod(shape)) * dtype.itemsize
            for name, (shape, dtype) in self._kinds.items()
            if name in self._frame_streams
        )
        available = available_memory()
        if cache == "none" or self.mode == "stream":
            return "none"
        if cache == "auto":
            return "ram" if available is not None and frames < available / 4 else "none"
        if available is not None and frames > 0.9 * available:
            raise ValueError(
                f"these episodes take {frames / 1e9:.1f} GB of memory and {available / 1e9:.1f} "
                'GB are available; use cache="none", or fewer episodes or cameras'
            )
        return "ram"

    def _make_resident(self) -> dict[str, Resident]:
        available = available_memory()
        resident = {}
        for stream, (shape, dtype) in self._kinds.items():
            is_frame = stream in self._frame_streams
            if is_frame and self.cache == "none":
                continue
            size = len(self.windows) * int(np.prod(shape)) * dtype.itemsize
            spill = not is_frame and available is not None and size > available / 4
            resident[stream] = Resident(self.windows, shape, dtype, self._load(stream), spill)
        return resident

    def _load(self, stream: str) -> Callable[[int, np.ndarray], None]:
        return lambda position, out: self.store.read_into(stream, int(self.episodes[position]), out)

    def _empty(self, size: int) -> dict[str, np.ndarray]:
        spec = self.spec
        steps = {name: spec.history for name in ("state", *self._frame_streams)}
        steps |= dict.fromkeys(spec.streams, 1)
        made = {
            name: self._allocate((size, rows, *self._kinds[name][0]), self._kinds[name][1])
            for name, rows in steps.items()
        }
        shape, dtype = self._kinds[spec.action_stream]
        made[f"chunk of {spec.action_stream}"] = self._allocate((size, spec.horizon, *shape), dtype)
        return made


def _take(source: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # "clip" writes straight into `out`; the default mode goes through a copy.
    np.take(source, rows, axis=0, out=out, mode="clip")


def _blocks(lengths: np.ndarray, steps: int) -> Int64[np.ndarray, " blocks"]:
    """First window of each block of at most `steps` steps of one episode."""
    counts = -(-lengths // steps)
    ends = np.cumsum(counts)
    within = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
    return np.repeat(np.cumsum(lengths) - lengths, counts) + within * steps
