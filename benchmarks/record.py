"""What every benchmark ends with: a table for people, one JSON line, and the same in a file.

    from record import Benchmark            (benchmarks are scripts beside this file)

    benchmark = Benchmark("store", quick)
    benchmark.table("samples per second", ["way", "per second"], rows)
    benchmark.finish(ratios={...}, figures={...})

A quick run is a rehearsal in miniature: its numbers say nothing, so they are printed and never
written to `benchmarks/results/`.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


class Benchmark:
    """One question and its answer."""

    def __init__(self, name: str, quick: bool, results: Path = RESULTS) -> None:
        self.name = name
        self.quick = quick
        self.path = results / f"{name}.json"
        self._console = Console()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table = Table(title=title + (" (quick: a rehearsal)" if self.quick else ""))
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*[show(cell) for cell in row])
        self._console.print(table)

    def finish(self, ratios: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
        """Print the result as the last line; a full run is also written to its file."""
        result = {
            "benchmark": self.name,
            "ratios": dict(ratios),
            "figures": dict(figures),
            "commit": commit(),
            "machine": machine(),
        }
        # allow_nan: a NaN is no JSON, and a benchmark that has one has measured nothing.
        line = json.dumps(result, allow_nan=False)
        if not self.quick:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(".partial")
            beside.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
            os.replace(beside, self.path)
        print(line, flush=True)
        return result


def show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def commit() -> str:
    """The commit that was measured, `+changes` if the tree differs from it."""
    found = _git("rev-parse", "--short=12", "HEAD")
    if not found:
        return "unknown"
    # The results themselves may differ: a benchmark rewrites them.
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return found + ("+changes" if changed else "")


def _git(*words: str) -> str:
    try:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:  # no git on this machine
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """What a reader needs to place the numbers; no names of hosts, users or folders."""
    import torch

    listing, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    cpu = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.exists() else None
    total = re.search(r"MemTotal:\s+(\d+)", memory.read_text()) if memory.exists() else None
    system = platform.system()
    if Path("/etc/os-release").exists():
        system = platform.freedesktop_os_release().get("PRETTY_NAME", system)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(total.group(1)) / 2**20, 1) if total else None,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "os": f"{system}, kernel {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mujoco": importlib.metadata.version("mujoco"),
    }
