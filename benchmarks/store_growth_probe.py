"""One reader in a process of its own: open a data set, take batches, print one JSON line.

    python store_growth_probe.py ulna PATH        python store_growth_probe.py lerobot PATH

`store_growth.py` starts these; libraries are loaded before the clock starts.
"""

import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

BATCH = 16
BATCHES = 40


@dataclass(frozen=True)
class Opened:
    """What opening cost. Memory is what the process grew by."""

    episodes: int
    open_ms: float
    open_mib: float
    """All resident memory, the touched pages of mapped files included."""
    open_private_mib: float
    """The part that is not mapped files."""
    first_batch_ms: float
    """From the opened data set to the first batch in hand: making the loader included."""
    batch_ms: float
    """Median of the batches after it."""
    total_mib: float
    """Grown by in all, after these batches."""
    total_private_mib: float


def probe_ulna(path: Path) -> Opened:
    from ulna.datasets.loader import WindowLoader, WindowSpec
    from ulna.datasets.store import Store

    gc.collect()
    before = _memory()
    began = time.perf_counter()
    store = Store.open(path)
    opened = time.perf_counter()
    at_open = _memory()
    # `none`: memory for decoded frames is a choice of its own and would hide the store's.
    loader = WindowLoader(store, WindowSpec(8), BATCH, seed=0, cache="none", prefetch=0, threads=1)
    next(loader)
    first = time.perf_counter()
    times = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        next(loader)
        times.append(time.perf_counter() - start)
    return _opened(len(store.episodes), before, at_open, (began, opened, first), times)


def probe_lerobot(path: Path) -> Opened:
    """`LeRobotDataset` of numbers only: no video, so that its decoder is not what is measured."""
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    torch.set_num_threads(1)
    gc.collect()
    before = _memory()
    began = time.perf_counter()
    data = LeRobotDataset(
        "growth/growth", root=path, delta_timestamps={"action": [i / 20 for i in range(8)]}
    )
    opened = time.perf_counter()
    at_open = _memory()
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=generator)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    times = []
    for _ in range(min(BATCHES, len(loader) - 1)):
        start = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - start)
    return _opened(data.num_episodes, before, at_open, (began, opened, first), times)


def _opened(
    episodes: int,
    before: tuple[float, float],
    at_open: tuple[float, float],
    clock: tuple[float, float, float],
    times: list[float],
) -> Opened:
    began, opened, first = clock
    total, private = _memory()
    return Opened(
        episodes=episodes,
        open_ms=1e3 * (opened - began),
        open_mib=at_open[0] - before[0],
        open_private_mib=at_open[1] - before[1],
        first_batch_ms=1e3 * (first - opened),
        batch_ms=1e3 * median(times),
        total_mib=total - before[0],
        total_private_mib=private - before[1],
    )


def _memory() -> tuple[float, float]:
    """Resident memory of this process in MiB: all of it, and without mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024, int(lines["RssAnon"].split()[0]) / 1024


def main() -> None:
    probes = {"ulna": probe_ulna, "lerobot": probe_lerobot}
    print(json.dumps(asdict(probes[sys.argv[1]](Path(sys.argv[2])))), flush=True)


if __name__ == "__main__":
    main()
