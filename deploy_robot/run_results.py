"""The figures of a run on an arm: lateness, delays, interventions, episodes.

Next: `run.py`, which hears of the episodes and says in its docstring what each figure means.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .control_process import EpisodeReport
from .flight_lanes import Flight
from .tick_log import count_interventions


def episode_entry(report: EpisodeReport, out: Path) -> dict[str, Any]:
    """One episode in the results."""
    steps = len(report.ticks["tick"])
    return {
        "seed": report.seed,
        "instruction": report.instruction,
        "success": report.success,
        "outcome": report.outcome,
        "ended": report.ended,
        "steps": steps,
        "seconds": round(steps / report.control_hz, 3),
        "video": None if report.video is None else report.video.relative_to(out).as_posix(),
    }


def results_of(
    reports: list[EpisodeReport], armed: dict[str, Any], flights: list[Flight], out: Path
) -> dict[str, Any]:
    """What `results.json` holds; `armed`: what the control process said before it moved."""

    def joined(values: list[Any]) -> np.ndarray:
        return np.concatenate([np.asarray(v, dtype=np.float64) for v in values] or [np.zeros(0)])

    lateness_ms = joined([r.ticks["woke_ns"] - r.ticks["scheduled_ns"] for r in reports]) * 1e-6
    work_ms = joined([r.ticks["sent_ns"] - r.ticks["woke_ns"] for r in reports]) * 1e-6
    delays = joined([r.delays for r in reports])
    inference_ms = joined([r.inference_s for r in reports]) * 1e3
    gate = [r.ticks["gate"] for r in reports]
    control_hz = reports[0].control_hz if reports else None
    period_ms = 1e3 / control_hz if control_hz else None
    skipped = sum(r.skipped for r in reports)
    late = skipped + (int(np.count_nonzero(lateness_ms > period_ms / 2)) if period_ms else 0)
    stopped = next((r for r in reports if r.ended == "stopped"), None)
    return {
        "loop": {
            **_spread("", lateness_ms),
            "late_ticks": late,
            "missed_deadlines": skipped,
            "ticks": len(lateness_ms),
            "control_hz": control_hz,
            "period_ms": period_ms,
            **_spread("work_", work_ms),
        },
        "inference": {
            "delay_ticks_mean": float(delays.mean()) if len(delays) else None,
            "delay_ticks_max": int(delays.max()) if len(delays) else None,
            **_spread("", inference_ms),
            "answers": len(inference_ms),
            "expired": sum(r.expired_chunks for r in reports),
            "outdated": sum(r.outdated_chunks for r in reports),
        },
        "late_actions": sum(r.starved for r in reports),
        "waiting_ticks": sum(r.waited for r in reports),
        "gate": count_interventions(np.concatenate(gate or [np.zeros(0, np.int32)])),
        "safety": armed.get("safety"),
        "notes": armed.get("notes", []),
        "realtime": armed.get("realtime", {}),
        "flights": [asdict(flight) for flight in flights],
        "robot": {
            name: sum(r.counters.get(name, 0) for r in reports)
            for name in sorted({name for r in reports for name in r.counters})
        },
        "episodes": [episode_entry(report, out) for report in reports],
        "stopped": None
        if stopped is None
        else {"reason": stopped.stop_reason, "last_words": stopped.last_words},
        "lateness_ms": [round(float(value), 4) for value in lateness_ms],
    }


def _spread(prefix: str, values: np.ndarray) -> dict[str, float | None]:
    """Median, 99th percentile and maximum in milliseconds; null where nothing was measured."""
    if len(values) == 0:
        return dict.fromkeys((f"{prefix}p50_ms", f"{prefix}p99_ms", f"{prefix}max_ms"))
    return {
        f"{prefix}p50_ms": float(np.percentile(values, 50)),
        f"{prefix}p99_ms": float(np.percentile(values, 99)),
        f"{prefix}max_ms": float(values.max()),
    }


def write_results(results: dict[str, Any], reports: list[EpisodeReport], out: Path) -> None:
    """Tick log and the robot's own records, then `results.json`."""
    columns: dict[str, Any] = {
        name: np.concatenate([report.ticks[name] for report in reports])
        for name in reports[0].ticks
    }
    counts = [len(report.ticks["tick"]) for report in reports]
    np.savez_compressed(
        out / "ticks.npz", episode=np.repeat(np.arange(len(reports)), counts), **columns
    )
    for number, report in enumerate(reports):
        streams: dict[str, Any] = report.streams
        if streams:
            np.savez_compressed(out / f"episode_{number}.npz", **streams)
    # results.json last and in one step: where it stands, the rest stands too.
    partial = out / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, out / "results.json")
