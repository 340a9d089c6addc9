"""How fast are batches made? Ulna's loader beside LeRobot's, diffusion_policy's and the decoder.

    uv run python benchmarks/loader.py [--diffusion-policy CHECKOUT]    about 30 minutes
    uv run python benchmarks/loader.py --quick                          a rehearsal in miniature

All read the same episodes, in random order, 64 samples a batch: two cameras of 224 x 224, the
state, and 16 actions (s1) or two steps of history and 50 actions (s2). Every loader runs in a
process of its own, one at a time, in rounds; ratios are of the same round, and their median counts.
CPU time is of all threads and processes: it changes little when the machine is busy with other
things, which the rates do not survive.

Parts: `loader_data.py` and `loader_formats.py` (what), `loader_competitors.py` and `loader_ours.py`
(who), `loader_measure.py` (how), `competitor_environment.py` (in which environment).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from competitor_environment import environment
from loader_data import default_folder, make_raw
from loader_formats import written
from loader_measure import Measured, Task
from record import Benchmark

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One loader in one setting."""

    name: str
    title: str
    loader: str
    """Name in `loader_measure.py`."""
    data: str
    """Format it reads (see `loader_formats.py`); empty: raw frames."""
    workers: int = 0
    """Worker processes; threads for `jpeg_bound`."""
    samples: tuple[str, ...] = ("s1", "s2")


CORES = len(os.sched_getaffinity(0))
ROWS = (
    Row("ulna", "Ulna, JPEG q95", "ulna", "ulna_jpeg95"),
    Row("ulna_jpeg90", "Ulna, JPEG q90", "ulna_jpeg90", "ulna_jpeg90"),
    Row("ulna_jpeg80", "Ulna, JPEG q80", "ulna_jpeg80", "ulna_jpeg80"),
    Row("ulna_clip", "Ulna, H.264 clips in clip order", "ulna_clip", "ulna_clip"),
    Row("ulna_lossless", "Ulna, lossless", "ulna_lossless", "ulna_lossless", samples=("s1",)),
    Row("ulna_ram", "Ulna, cache=ram", "ulna_ram", "ulna_jpeg95"),
    Row("ulna_overhead", "Ulna, nothing decoded", "ulna_overhead", "ulna_jpeg95", samples=("s1",)),
    Row("lerobot_w0", "LeRobotDataset video, uint8", "lerobot", "lerobot"),
    Row("lerobot_w2", "same, 2 workers", "lerobot", "lerobot", 2),
    Row("lerobot_ideal", "ideal reader of LeRobot's files", "lerobot_ideal", "lerobot"),
    Row(
        "diffusion_policy_w0",
        "diffusion_policy, in memory",
        "diffusion_policy",
        "diffusion_policy",
    ),
    Row("diffusion_policy_w2", "same, 2 workers", "diffusion_policy", "diffusion_policy", 2),
    Row(
        "diffusion_policy_uint8_w0",
        "same, kept uint8",
        "diffusion_policy_uint8",
        "diffusion_policy",
    ),
    Row("jpeg_bound", "JPEG decoding alone, all cores", "jpeg_bound", "jpeg95_blobs", CORES),
    Row("raw_take", "raw frames in memory, np.take", "raw_take", ""),
)
NOT_COMPARED = {"ulna_overhead"}
"""Rows whose pictures are not pictures."""

Key = tuple[str, str]
"""(name of the row, sample)"""
Round = dict[Key, Measured]


def main(
    rounds: int = 5,
    seconds: float = 4.0,
    episodes: int = 60,
    data: Path | None = None,
    diffusion_policy: Path | None = None,
    only: tuple[str, ...] = (),
    quick: bool = False,
) -> None:
    """Make the episodes if they are not there, measure in rounds, sum up.

    Args:
        rounds: How often every loader is measured.
        seconds: How long each time, after a quarter as long to warm up.
        episodes: Number of episodes, 80 to 120 steps each.
        data: Folder of the episodes in all formats (7 GB); default: Ulna's cache folder.
        diffusion_policy: A checkout of real-stanford/diffusion_policy; without it, it is not run.
        only: Names of the loaders to measure; no result is written.
        quick: Very few and short episodes, one round; writes no result.
    """
    chosen = [row for row in ROWS if not only or row.name in only]
    unknown = set(only) - {row.name for row in ROWS}
    if unknown:
        known = ", ".join(row.name for row in ROWS)
        raise ValueError(f"unknown loaders {', '.join(sorted(unknown))}; known: {known}")
    if diffusion_policy is None:
        chosen = [row for row in chosen if not row.name.startswith("diffusion_policy")]
    benchmark = Benchmark("loader", quick or bool(only))
    with tempfile.TemporaryDirectory() as scratch:
        if quick:
            data, rounds, seconds, episodes = Path(scratch), 1, 0.3, 4
        folder = data or default_folder()
        make_raw(folder, episodes, (18, 24) if quick else (80, 120))
        for row in chosen:
            if row.data and written(folder, row.data) is None:
                command = [sys.executable, HERE / "loader_formats.py", folder, row.data]
                where = environment(row.data, folder, diffusion_policy)
                subprocess.run(command, env=where, check=True)
        measured: list[Round] = []
        for number in range(rounds):
            measured.append(_round(chosen, folder, diffusion_policy, seconds, number))
        summarize(benchmark, measured, folder)


def _round(
    rows: list[Row], data: Path, diffusion_policy: Path | None, seconds: float, number: int
) -> Round:
    found: Round = {}
    # Turned around every other time: whoever comes after the same neighbour gains nothing by it.
    for row in rows if number % 2 == 0 else rows[::-1]:
        for sample in row.samples:
            psnr = number == 0 and sample == "s1" and row.name not in NOT_COMPARED
            task = Task(row.loader, str(data), sample, row.workers, seconds, psnr)
            command = [sys.executable, HERE / "loader_measure.py", json.dumps(asdict(task))]
            where = environment(row.loader, data, diffusion_policy)
            done = subprocess.run(command, env=where, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{row.name} failed:\n{done.stderr[-4000:]}")
            one = Measured(**json.loads(done.stdout.splitlines()[-1]))
            found[row.name, sample] = one
            said = f"{one.samples_per_s:.0f} samples/s, {one.cpu_ms:.3f} CPU ms"
            print(f"round {number + 1}: {row.name} {sample}: {said}", file=sys.stderr, flush=True)
    return found


def median(rounds: list[Round], key: Key, value: Callable[[Measured], float]) -> float:
    return statistics.median(value(measured[key]) for measured in rounds)


def ratio(
    rounds: list[Round], slow: Key, fast: Key, value: Callable[[Measured], float]
) -> float | None:
    """Median of `slow / fast` within a round; None if one of them was not run."""
    if slow not in rounds[0] or fast not in rounds[0]:
        return None
    return statistics.median(value(r[slow]) / value(r[fast]) for r in rounds)


def summarize(benchmark: Benchmark, rounds: list[Round], data: Path) -> dict[str, Any]:
    """Print a table per sample, and the result."""
    figures: dict[str, Any] = {
        "rounds": len(rounds),
        "load_average": round(os.getloadavg()[2], 2),
        "equal_quality": _equal_quality(rounds[0]),
        "diffusion_policy": "run" if ("diffusion_policy_w0", "s1") in rounds[0] else "not run",
    }
    for sample in ("s1", "s2"):
        lines = []
        for row in ROWS:
            key = (row.name, sample)
            if key not in rounds[0]:
                if row.name.startswith("diffusion_policy"):
                    lines.append([row.title, *["not run"] * 4, "", "", ""])
                continue
            facts = _facts(rounds, row, sample, data)
            figures[f"{row.name}_{sample}"] = facts
            lines.append(_line(row, facts))
        columns = ["reader", "samples/s", "CPU ms", "x CPU", "x rate", "B/frame", "PSNR", "MiB"]
        benchmark.table(f"random windows, {sample}", columns, lines)
    return benchmark.finish(ratios(rounds), figures)


def _facts(rounds: list[Round], row: Row, sample: str, data: Path) -> dict[str, Any]:
    key, ours = (row.name, sample), ("ulna", sample)
    stored = written(data, row.data) if row.data else None
    psnr = rounds[0].get((row.name, "s1"))
    return {
        "samples_per_s": median(rounds, key, lambda m: m.samples_per_s),
        "cpu_ms": median(rounds, key, lambda m: m.cpu_ms),
        "cpu_ms_range": [fold(r[key].cpu_ms for r in rounds) for fold in (min, max)],
        "cpu_to_ulna": ratio(rounds, key, ours, lambda m: m.cpu_ms),
        "rate_of_ulna_to_it": ratio(rounds, ours, key, lambda m: m.samples_per_s),
        "bytes_per_frame": stored.image_bytes_per_frame if stored else 224 * 224 * 3,
        "psnr_db": psnr.psnr_db if psnr else None,
        "memory_mib": max(r[key].memory_mib for r in rounds),
    }


def _line(row: Row, facts: dict[str, Any]) -> list[Any]:
    return [
        row.title,
        f"{facts['samples_per_s']:.0f}",
        f"{facts['cpu_ms']:.3f}",
        "" if facts["cpu_to_ulna"] is None else f"{facts['cpu_to_ulna']:.2f}",
        "" if facts["rate_of_ulna_to_it"] is None else f"{facts['rate_of_ulna_to_it']:.2f}",
        f"{facts['bytes_per_frame']:.0f}",
        "" if row.name in NOT_COMPARED else f"{facts['psnr_db'] or float('inf'):.1f}",
        f"{facts['memory_mib']:.0f}",
    ]


def _equal_quality(measured: Round) -> str:
    """The JPEG store whose pictures are the nearest to LeRobot's in PSNR, and not below."""
    theirs = measured.get(("lerobot_ideal", "s1"))
    for name in ("ulna_jpeg80", "ulna_jpeg90"):
        ours = measured.get((name, "s1"))
        if ours and theirs and ours.psnr_db and theirs.psnr_db and ours.psnr_db >= theirs.psnr_db:
            return name
    return "ulna"


def ratios(rounds: list[Round]) -> dict[str, float | None]:
    """The quotients of the issue: CPU per sample, and `..._wall` of the same by rate.

    Where a competitor ran with 0 and with 2 workers, the name without a number is its better one.
    `lerobot_ideal` is at equal PSNR; `decode_bound` is the share of pure decoding that is reached.
    """
    found: dict[str, float | None] = {}

    def both(name: str, slow: Key, fast: Key) -> None:
        found[name] = ratio(rounds, slow, fast, lambda m: m.cpu_ms)
        found[f"{name}_wall"] = ratio(rounds, fast, slow, lambda m: m.samples_per_s)

    for sample in ("s1", "s2"):
        ours = ("ulna", sample)
        for workers in (0, 2):
            both(f"lerobot_video_{sample}_w{workers}", (f"lerobot_w{workers}", sample), ours)
            end = f"w{workers}" if sample == "s1" else f"{sample}_w{workers}"
            both(f"diffusion_policy_{end}", (f"diffusion_policy_w{workers}", sample), ours)
        for end in ("", "_wall"):
            pair = [found[f"lerobot_video_{sample}_w{workers}{end}"] for workers in (0, 2)]
            known = [value for value in pair if value is not None]
            found[f"lerobot_video_{sample}{end}"] = min(known) if known else None
        ideal = ("lerobot_ideal", sample)
        both(f"lerobot_ideal_{sample}", ideal, (_equal_quality(rounds[0]), sample))
        both(f"lerobot_ideal_{sample}_q95", ideal, ours)
        both(f"lerobot_ideal_{sample}_clip", ideal, ("ulna_clip", sample))
        # Shares of 1: of the CPU time what decoding needs, of the decoders' rate what is kept.
        both("decode_bound" if sample == "s1" else "decode_bound_s2", ("jpeg_bound", sample), ours)
    both("cache_ram", ("diffusion_policy_w0", "s1"), ("ulna_ram", "s1"))
    both("cache_ram_of_raw_take", ("raw_take", "s1"), ("ulna_ram", "s1"))
    overhead = ("ulna_overhead", "s1")
    if overhead in rounds[0]:
        found["overhead_us_per_sample"] = 1e3 * median(rounds, overhead, lambda m: m.cpu_ms)
    return found


if __name__ == "__main__":
    tyro.cli(main)
