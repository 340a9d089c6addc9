"""Rows of whole episodes in memory, loaded when they are first needed.

The array is as long as all chosen episodes together, but memory is taken only where it was
touched: the system gives pages on first use. So a store of a million episodes opens at once.
Rows that would not fit into memory lie in a temporary file without a name, which the system
writes out and drops as it needs.
"""

import mmap
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from .windows import Windows

Load = Callable[[int, np.ndarray], None]
"""Fill an array with the rows of an episode, by its position among the chosen ones."""


class Resident:
    """One stream of all chosen episodes, one after the other."""

    def __init__(
        self,
        windows: Windows,
        row_shape: tuple[int, ...],
        dtype: np.dtype,
        load: Load,
        spill: bool = False,
    ) -> None:
        shape = (len(windows), *row_shape)
        if spill:
            with tempfile.TemporaryFile(prefix="ulna-rows-") as file:
                file.truncate(int(np.prod(shape)) * dtype.itemsize)
                self.rows: Shaped[np.ndarray, "rows ..."] = np.memmap(
                    file, dtype, "r+", shape=shape
                )
        else:
            self.rows = _untouched(shape, dtype)
        self._windows = windows
        self._load = load
        self._loaded = np.zeros(len(windows.ends), bool)
        self._begun: dict[int, Future[None]] = {}
        self._lock = threading.Lock()

    def begin(self, episodes: Int64[np.ndarray, " batch"], threads: ThreadPoolExecutor) -> None:
        """Begin to load those of `episodes` that are not there yet."""
        missing = episodes[~self._loaded[episodes]]
        with self._lock:
            for episode in np.unique(missing).tolist() if len(missing) else ():
                if episode not in self._begun and not self._loaded[episode]:
                    self._begun[episode] = threads.submit(self._load_one, episode)

    def ensure(self, episodes: Int64[np.ndarray, " batch"], threads: ThreadPoolExecutor) -> None:
        """Wait until all of `episodes` are there."""
        missing = episodes[~self._loaded[episodes]]
        if not len(missing):
            return
        self.begin(missing, threads)
        for episode in np.unique(missing).tolist():
            begun = self._begun.get(episode)  # None: another thread has just waited for it
            try:
                if begun is not None:
                    begun.result()
                    self._loaded[episode] = True
            finally:
                with self._lock:
                    self._begun.pop(episode, None)

    def _load_one(self, episode: int) -> None:
        begin = int(self._windows.ends[episode - 1]) if episode else 0
        self._load(episode, self.rows[begin : int(self._windows.ends[episode])])


def _untouched(shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "rows ..."]:
    """Like `np.empty`, but of small rows memory is taken in pages of 4 KiB: numpy asks for pages of
    2 MiB, and a row here and there would take all of the array."""
    size = int(np.prod(shape)) * dtype.itemsize
    if not hasattr(mmap, "MADV_NOHUGEPAGE") or size // max(1, shape[0]) >= mmap.PAGESIZE:
        return np.empty(shape, dtype)
    memory = mmap.mmap(-1, max(1, size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)


def available_memory() -> int | None:
    """Bytes this machine can still give; None where nobody knows (not Linux)."""
    report = Path("/proc/meminfo")
    if not report.exists():
        return None
    lines = dict(line.split(":", 1) for line in report.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
