"""What do late answers cost? Success against inference delay, for every execution mode.

    uv run python benchmarks/delay.py RUN --tasks pick_named conveyor_pick pick_kicked
    uv run python benchmarks/delay.py RUN --quick      2 scenes, 2 delays: a rehearsal

Every point runs the same scenes (paired seeds), at a delay that a virtual clock makes, so the curve
is the same on any machine. RUN must have been taught all tasks (give it once), or one RUN per task.
Stopped, the same command goes on where it was.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from record import ROOT, Benchmark

from ulna.envs.comparison import mcnemar, paired_table
from ulna.envs.virtual_clock import parse_delay
from ulna.train.delay_sweep import sweep
from ulna.train.judging import Engine

MODES = ("synchronous", "hold", "asynchronous", "ensemble")
EXACT = ("hold", "asynchronous", "rtc:trained")
"""Modes that without a delay do exactly what `synchronous` does."""


def main(
    run: tyro.conf.Positional[tuple[Path, ...]],
    tasks: tuple[str, ...] = ("pick_named",),
    delays: tuple[str, ...] = ("0", "1", "2", "4", "8"),
    modes: tuple[str, ...] = MODES,
    episodes: int = 300,
    seed: int = 0,
    workers: int = 2,
    batch_size: int = 0,
    device: str = "cpu",
    quick: bool = False,
    fresh: bool = False,
    folder: Path = ROOT / "runs" / "benchmark_delay",
) -> None:
    """Sweep every task and sum up.

    Args:
        run: Training run or policy folder; one for all tasks, or one per task.
        tasks: A static one and dynamic ones: a static scene does not separate the modes.
        delays: Control ticks, or what `ulna evaluate --delay` takes.
        modes: Execution modes; `rtc:trained`, `rtc:guided` for policies that continue plans.
        episodes: Scenes per point.
        seed: Which run of scenes.
        workers: Processes.
        batch_size: One policy for all workers, asked in batches of this size; 0: one per worker.
        device: Where the policy computes.
        quick: A rehearsal in a temporary folder; writes no result.
        fresh: Delete what an earlier benchmark left first.
        folder: Where the logs of finished episodes are kept.
    """
    if len(run) not in (1, len(tasks)):
        raise ValueError(f"{len(run)} runs for {len(tasks)} tasks; give one, or one per task")
    benchmark = Benchmark("delay", quick)
    runs = run * len(tasks) if len(run) == 1 else run
    engine = Engine(workers=workers, batch_size=batch_size, device=device)
    if quick:
        episodes, delays = 2, (delays[0], delays[-1])
    elif fresh:
        shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if quick else folder
        found = {
            task: sweep(
                policy, task, episodes, seed, workers, out / task.replace("/", "_"),
                delays=[parse_delay(text) for text in delays], modes=modes, engine=engine,
            )
            for task, policy in zip(tasks, runs, strict=True)
        }  # fmt: skip
    summarize(benchmark, found)


def summarize(benchmark: Benchmark, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Print and write what the sweeps say; AssertionError if modes differ without a delay."""
    curve = [row for results in found.values() for row in results["delay_curve"]]
    benchmark.table(
        "success against inference delay, same scenes",
        ["task", "mode", "delay", "solved", "95 %", "retention", "stalled", "seam", "p to sync"],
        [[*_cells(row), _against(found[row["task"]]["episodes"], row)] for row in curve],
    )
    for task, results in found.items():
        require_equal_without_delay(task, results["episodes"])
    ratios = {
        f"{row['task']}_{row['mode']}_{row['delay']}_retention": row["retention"]
        for row in curve
        if row["retention"] is not None
    }
    figures = {
        "curve": curve,
        "left_out": {task: results["left_out"] for task, results in found.items()},
        "policies": {task: results["policy"] for task, results in found.items()},
        "versions": next(iter(found.values()))["versions"],
    }
    return benchmark.finish(ratios, figures)


def require_equal_without_delay(task: str, episodes: Sequence[dict[str, Any]]) -> None:
    """Without a delay the exact modes are one: the same states, bit by bit."""
    digests = {
        mode: [e["digest"] for e in episodes if (e["mode"], e["delay"]) == (mode, "0")]
        for mode in ("synchronous", *EXACT)
    }
    for mode in EXACT:
        if digests[mode] and digests["synchronous"]:
            assert digests[mode] == digests["synchronous"], (
                f"{task}: without a delay, {mode} went differently from synchronous"
            )


def _cells(row: dict[str, Any]) -> list[Any]:
    success, retention, seam = row["success"], row["retention"], row["seam_jump"]
    return [
        row["task"],
        row["mode"],
        row["delay"],
        f"{success['successes']} of {success['episodes']}",
        f"{success['low']:.2f} to {success['high']:.2f}",
        "-" if retention is None else f"{retention:.2f}",
        f"{row['stalled']:.0%}",
        "-" if seam is None else f"{seam:.1f}",
    ]


def _against(episodes: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """Exact McNemar against the world that waits, on the same scenes."""
    solved = {
        (e["mode"], e["delay"], e["seed"]): bool(e["success"])
        for e in episodes
        if e["task"] == row["task"]
    }
    mine = (row["mode"], row["delay"])
    scenes = [
        seed for mode, delay, seed in solved
        if (mode, delay) == mine and ("synchronous", "0", seed) in solved
    ]  # fmt: skip
    if not scenes or row["mode"] == "synchronous":
        return "-"
    waited = [solved["synchronous", "0", seed] for seed in scenes]
    return f"{mcnemar(paired_table(waited, [solved[*mine, seed] for seed in scenes])):.2g}"


if __name__ == "__main__":
    tyro.cli(main)
