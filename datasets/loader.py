"""Batches of windows for training: episodes in memory, one gather per array.

No worker processes, no item per sample, no collate. Episodes are decoded once, by threads, into
one array per stream; a batch is one `np.take` of each into a buffer that already exists.

Next: `windows.py` (which rows), `schema.py` (what a Batch is).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from .schema import Batch
from .store import Store
from .windows import make_windows, window_rows


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
        horizon: int,
        batch_size: int,
        seed: int,
        episodes: Sequence[int] | None = None,
        cameras: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 1,
        load_threads: int = 4,
    ) -> None:
        """Load the chosen episodes (indices into `store.episodes`; None: all) into memory.

        `prefetch` batches are prepared ahead by a thread; with 0, `next` itself prepares them.
        """
        if horizon < 1 or batch_size < 1 or not 0 <= rank < world_size or prefetch < 0:
            raise ValueError(
                f"horizon {horizon} and batch_size {batch_size} must be at least 1, rank {rank} "
                f"below world_size {world_size}, prefetch {prefetch} at least 0"
            )
        self.store = store
        self.horizon = horizon
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.prefetch = prefetch
        self.episodes = store.choose(episodes)
        if not self.episodes:
            raise ValueError(f"{store.path}: no episodes to load")
        known = [camera.name for camera in store.embodiment.cameras]
        self.cameras = tuple(known if cameras is None else cameras)
        for name in self.cameras:
            store.embodiment.camera(name)  # raises, with what exists
        records = [store.episodes[index] for index in self.episodes]
        lengths = np.array([record.steps for record in records])
        self.windows = make_windows(lengths)
        if len(self) == 0:
            raise ValueError(
                f"{len(self.windows)} windows in {len(self.episodes)} episodes do not fill one "
                f"batch of {batch_size} x {world_size}; use a smaller batch or more episodes"
            )
        self._instructions = [record.instruction for record in records]
        self._rows = _load(store, self.episodes, lengths, self.cameras, load_threads)
        self._offsets = np.arange(horizon)
        self._ring = [self._empty(batch_size) for _ in range(prefetch + 2)]
        self._thread = ThreadPoolExecutor(1, "ulna-loader") if prefetch else None
        self._pending: deque[Future[Batch]] = deque()
        self._taken = 0
        """Batches given out since the first epoch began."""
        self._begun = 0
        """Batches given out or being prepared."""
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.windows) // (self.batch_size * self.world_size)

    def __next__(self) -> Batch:
        if self._thread is None:
            batch = self._gather(self._indices(self._begun), self._ring[self._begun % 2])
            self._begun += 1
        else:
            while len(self._pending) <= self.prefetch:
                slot = self._ring[self._begun % len(self._ring)]
                indices = self._indices(self._begun)
                self._pending.append(self._thread.submit(self._gather, indices, slot))
                self._begun += 1
            batch = self._pending.popleft().result()
        self._taken += 1
        return batch

    def batch_at(self, window_indices: Int[np.ndarray, " batch"]) -> Batch:
        """The batch of chosen windows (indices into `windows`), in arrays of its own."""
        return self._gather(window_indices, self._empty(len(window_indices)))

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
        self._order = (-1, np.empty(0, np.int64))

    def close(self) -> None:
        """Stop the background thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _indices(self, number: int) -> np.ndarray:
        """Windows of the batch `number`, counted from the first epoch."""
        epoch, position = divmod(number, len(self))
        if self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.windows))
            self._order = (epoch, order)
        size = self.batch_size * self.world_size
        everyone = self._order[1][position * size : (position + 1) * size]
        return everyone[self.rank :: self.world_size]

    def _empty(self, size: int) -> dict[str, np.ndarray]:
        shapes = {name: (size, *rows.shape[1:]) for name, rows in self._rows.items()}
        shapes["action"] = (size, self.horizon, *self._rows["action"].shape[1:])
        return {name: np.empty(shape, self._rows[name].dtype) for name, shape in shapes.items()}

    def _gather(self, index: np.ndarray, out: dict[str, np.ndarray]) -> Batch:
        rows, is_pad = window_rows(self.windows, index, self._offsets)
        for name, source in self._rows.items():
            wanted = rows if name == "action" else rows[:, 0]
            # "clip" writes straight into `out`; the default mode goes through a copy.
            np.take(source, wanted, axis=0, out=out[name], mode="clip")
        return Batch(
            images={name: out[f"images/{name}"] for name in self.cameras},
            state=out["state"],
            action_chunk=out["action"],
            action_is_pad=is_pad,
            instructions=tuple(self._instructions[e] for e in self.windows.episode[index]),
        )


def _load(
    store: Store,
    episodes: tuple[int, ...],
    lengths: np.ndarray,
    cameras: tuple[str, ...],
    threads: int,
) -> dict[str, np.ndarray]:
    """The rows of all episodes, one after the other, per stream."""
    first = np.cumsum(lengths) - lengths
    steps = int(lengths.sum())
    robot = store.embodiment
    rows: dict[str, tuple[tuple[int, ...], Any]] = {
        "state": ((steps, robot.state_dim), np.float32),
        "action": ((steps, robot.action_dim), np.float32),
    }
    for name in cameras:
        camera = robot.camera(name)
        rows[f"images/{name}"] = ((steps, camera.height, camera.width, 3), np.uint8)
    _check_memory(
        sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in rows.values())
    )
    loaded = {name: np.empty(shape, kind) for name, (shape, kind) in rows.items()}

    def load(job: tuple[str, int]) -> None:
        name, number = job
        begin = int(first[number])
        store.read_into(name, episodes[number], loaded[name][begin : begin + int(lengths[number])])

    with ThreadPoolExecutor(threads, "ulna-decode") as pool:
        list(pool.map(load, [(name, number) for name in loaded for number in range(len(episodes))]))
    return loaded


def _check_memory(needed: int) -> None:
    """Say so before the machine starts to swap or kills the process."""
    report = Path("/proc/meminfo")
    if not report.exists():
        return  # not Linux: nothing to compare with
    lines = dict(line.split(":", 1) for line in report.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    if needed > 0.9 * available:
        raise ValueError(
            f"these episodes take {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available; load fewer episodes or cameras"
        )
