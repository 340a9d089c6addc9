"""Rows of whole episodes in memory, loaded when they are first needed.

The array is as long as all chosen episodes together, but memory is taken only where it was
touched: the system gives pages on first use. So a store of a million episodes opens at once.
Rows that would not fit into memory lie in a temporary file without a name, which the system
writes out and drops as it needs.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
            self.rows = np.empty(shape, dtype)
        self._windows = windows
        self._load = load
        self._loaded = np.zeros(len(windows.ends), bool)

    def ensure(self, episodes: Int64[np.ndarray, " batch"], threads: ThreadPoolExecutor) -> None:
        """Load those of `episodes` that are not there yet."""
        missing = ~self._loaded[episodes]
        if not missing.any():
            return
        wanted = np.unique(episodes[missing]).tolist()
        for job in [threads.submit(self._load_one, episode) for episode in wanted]:
            job.result()
        self._loaded[wanted] = True

    def _load_one(self, episode: int) -> None:
        begin = int(self._windows.ends[episode - 1]) if episode else 0
        self._load(episode, self.rows[begin : int(self._windows.ends[episode])])


def available_memory() -> int | None:
    """Bytes this machine can still give; None where nobody knows (not Linux)."""
    report = Path("/proc/meminfo")
    if not report.exists():
        return None
    lines = dict(line.split(":", 1) for line in report.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
