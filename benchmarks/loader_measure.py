"""One loader in a process of its own: warm up, measure, print one JSON line.

    python loader_measure.py '{"loader": "lerobot", "data": "...", "sample": "s1", ...}'

`loader.py` starts these one after the other, so that nothing of one loader (its threads, its
workers, what it has prefetched) is there while another is measured.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loader_competitors import (
    SAMPLES,
    DiffusionPolicy,
    IdealLeRobot,
    JpegBound,
    LeRobot,
    Loader,
    RawTake,
    Sample,
)
from loader_data import CAMERAS, read_raw

CLOCK_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PSNR_FRAMES = 48


@dataclass(frozen=True)
class Task:
    """What one measuring process is told."""

    loader: str
    data: str
    sample: str
    workers: int
    seconds: float
    psnr: bool
    """Also compare its pictures with the raw frames."""


@dataclass(frozen=True)
class Measured:
    """What it answers."""

    samples_per_s: float
    cpu_ms: float
    """Per sample; user and system, of all threads and all worker processes."""
    memory_mib: float
    """Peak resident memory of the main process, plus what the workers hold for themselves."""
    samples: int
    psnr_db: float | None
    """None: not asked for, or lossless."""


def make_loader(task: Task) -> Loader:
    """The loader of that name."""
    makers: dict[str, Callable[[Path, Sample, int], Loader]] = {
        "lerobot": LeRobot,
        "lerobot_ideal": IdealLeRobot,
        "diffusion_policy": lambda *given: DiffusionPolicy(*given, as_float=True),
        "diffusion_policy_uint8": lambda *given: DiffusionPolicy(*given, as_float=False),
        "jpeg_bound": JpegBound,
        "raw_take": RawTake,
    }
    if task.loader not in makers:
        from loader_ours import MAKERS  # not at the top: it cannot be imported beside zarr 2

        makers |= MAKERS
    if task.loader not in makers:
        raise ValueError(f"unknown loader {task.loader!r}; known: {', '.join(makers)}")
    return makers[task.loader](Path(task.data), SAMPLES[task.sample], task.workers)


def measure(task: Task) -> Measured:
    loader = make_loader(task)
    batches = loader.batches()
    warm_until = time.perf_counter() + 0.25 * task.seconds
    # A worker's first batch was begun before anybody looked: take one of each, and one more.
    warm_batches = task.workers + 1
    while warm_batches > 0 or time.perf_counter() < warm_until:
        next(batches)
        warm_batches -= 1
    samples, cpu_before, began = 0, cpu_s(), time.perf_counter()
    while time.perf_counter() - began < task.seconds:
        samples += next(batches)
    wall, cpu = time.perf_counter() - began, cpu_s() - cpu_before
    # Before the comparison of pictures, which needs memory of its own.
    memory = _memory_mib()
    return Measured(
        samples_per_s=samples / wall,
        cpu_ms=1e3 * cpu / samples,
        memory_mib=memory,
        samples=samples,
        psnr_db=_psnr_db(loader, Path(task.data)) if task.psnr else None,
    )


def _psnr_db(loader: Loader, data: Path) -> float | None:
    """Over all pixels of a few frames, the same ones for every loader."""
    raw = read_raw(data)
    rows = np.sort(np.random.default_rng(7).choice(raw.steps, PSNR_FRAMES, replace=False))
    squares = []
    for camera in CAMERAS:
        expected = raw.frames(camera)[rows].astype(np.float64)
        squares.append(np.mean((loader.frames(camera, rows) - expected) ** 2))
    error = float(np.mean(squares))
    return 10 * float(np.log10(255**2 / error)) if error else None


def cpu_s() -> float:
    """CPU time of this process, its finished threads included, and of its live descendants."""
    return time.process_time() + sum(
        sum(map(int, _stat(pid)[11:13])) * CLOCK_TICK_S for pid in _descendants()
    )


def _memory_mib() -> float:
    kib = _field("self", "status", "VmHWM")
    for pid in _descendants():
        kib += _field(pid, "smaps_rollup", "Private_Dirty")
    return kib / 1024


def _descendants() -> list[str]:
    parents = {pid: _stat(pid)[1] for pid in os.listdir("/proc") if pid.isdigit()}
    found: list[str] = []
    wave = {str(os.getpid())}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave}
        found += wave
    return found


def _stat(pid: str) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on; empty ones if the process has just ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 20
    return text.rpartition(")")[2].split()


def _field(pid: str, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/{file} has no {name}; this benchmark runs on Linux only")


def main(request: dict[str, Any]) -> None:
    print(json.dumps(asdict(measure(Task(**request)))), flush=True)
    # Workers and decoding threads need no orderly end.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
