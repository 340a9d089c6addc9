"""How fast is recording? Ulna's writer beside LeRobot's and diffusion_policy's.

    uv run python benchmarks/recording.py [--diffusion-policy CHECKOUT]
    uv run python benchmarks/recording.py --quick        a rehearsal in miniature

The same episodes (two cameras of 224 x 224, state, action) are recorded until everything is on
the disk, each way in a process of its own, in rounds; ratios are of the same round.

Parts: `recording_writers.py` (who), `recording_live.py` (a minute of four cameras in real time),
`loader_data.py` (episodes).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from competitor_environment import environment
from loader_data import default_folder, make_raw
from record import Benchmark
from recording_writers import Recorded

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One way of recording."""

    name: str
    title: str


ROWS = (
    Row("ulna", "Ulna, JPEG q95"),
    Row("ulna_recorder", "Ulna, step by step"),
    Row("ulna_clip", "Ulna, H.264 clips"),
    Row("ulna_lossless", "Ulna, lossless"),
    Row("lerobot", "LeRobotDataset video"),
    Row("lerobot_streaming", "same, encoding while recording"),
    Row("diffusion_policy", "diffusion_policy ReplayBuffer"),
)
Round = dict[str, Recorded]


def main(
    rounds: int = 3,
    episodes: int = 4,
    data: Path | None = None,
    diffusion_policy: Path | None = None,
    live_s: float = 60.0,
    only: tuple[str, ...] = (),
    quick: bool = False,
) -> None:
    """Record in rounds, then a minute in real time.

    Args:
        rounds: How often each way is measured.
        episodes: Episodes of about 100 steps per measurement.
        data: Folder of the episodes (that of `loader.py`).
        diffusion_policy: A checkout of real-stanford/diffusion_policy; without it, it is not run.
        live_s: Seconds of the recording in real time; 0 leaves it out.
        only: Names of the ways to measure (`live` too); no result is written.
        quick: Very few and short episodes, one round; writes no result.
    """
    known = [*(row.name for row in ROWS), "live"]
    if set(only) - set(known):
        raise ValueError(f"unknown --only {' '.join(only)}; known: {', '.join(known)}")
    chosen = [row for row in ROWS if not only or row.name in only]
    if diffusion_policy is None:
        chosen = [row for row in chosen if row.name != "diffusion_policy"]
    benchmark = Benchmark("recording", quick or bool(only))
    with tempfile.TemporaryDirectory(prefix="ulna-recording-") as scratch:
        folder = data or default_folder()
        if quick:
            folder, rounds, episodes, live_s = Path(scratch) / "data", 1, 2, min(live_s, 2.0)
            make_raw(folder, 4, (18, 24))
        else:
            make_raw(folder, 60)
        measured: list[Round] = []
        for number in range(rounds):
            ways = chosen if number % 2 == 0 else chosen[::-1]
            measured.append(
                {
                    row.name: _record(
                        row.name, folder, Path(scratch) / f"{number}", episodes, diffusion_policy
                    )
                    for row in ways
                }
            )
        live = None
        if live_s and (not only or "live" in only):
            live = _live(folder, Path(scratch) / "live", live_s)
        summarize(benchmark, measured, live)


def _record(
    name: str, data: Path, scratch: Path, episodes: int, diffusion_policy: Path | None
) -> Recorded:
    print(f"record with {name}", file=sys.stderr, flush=True)
    out = scratch / name
    out.mkdir(parents=True)
    request = {"writer": name, "data": str(data), "out": str(out), "episodes": episodes}
    command = [sys.executable, HERE / "recording_writers.py", json.dumps(request)]
    where = environment(name, data, diffusion_policy)
    return Recorded(**_answer(command, where))


def _live(data: Path, out: Path, seconds: float) -> dict[str, Any]:
    print("record in real time", file=sys.stderr, flush=True)
    request = {"out": str(out), "seconds": seconds}
    command = [sys.executable, HERE / "recording_live.py", json.dumps(request)]
    return _answer(command, environment("ulna", data, None))


def _answer(command: list[Any], where: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, env=where, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[1].name} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summarize(
    benchmark: Benchmark, rounds: list[Round], live: dict[str, Any] | None
) -> dict[str, Any]:
    """Print a table and the result."""
    figures: dict[str, Any] = {"rounds": len(rounds), "live": live or "not run"}
    lines = []
    for row in ROWS:
        if row.name not in rounds[0]:
            lines.append([row.title, "not run", "", "", ""])
            figures[row.name] = "not run"
            continue
        facts = {
            "steps_per_s": statistics.median(r[row.name].steps_per_s for r in rounds),
            "cpu_ms": statistics.median(r[row.name].cpu_ms for r in rounds),
            "bytes_per_frame": rounds[0][row.name].bytes_per_frame,
            "rate_of_ulna_to_it": _ratio(rounds, row.name, "steps_per_s"),
        }
        figures[row.name] = facts
        slower = facts["rate_of_ulna_to_it"]
        lines.append(
            [
                row.title,
                f"{facts['steps_per_s']:.0f}",
                f"{facts['cpu_ms']:.2f}",
                "" if slower is None else f"{slower:.1f}",
                f"{facts['bytes_per_frame']:.0f}",
            ]
        )
    columns = ["writer", "steps/s", "CPU ms/step", "Ulna / it", "B/frame"]
    benchmark.table("recording, 2 cameras", columns, lines)
    if live is not None:
        benchmark.table("in real time", ["what", "value"], [[k, v] for k, v in live.items()])
    ratios = {}
    for name in ("lerobot", "lerobot_streaming", "diffusion_policy"):
        ratios[f"{name}_recording"] = _ratio(rounds, name, "steps_per_s")
        ratios[f"{name}_recording_cpu"] = _ratio(rounds, name, "cpu_ms")
    return benchmark.finish(ratios, figures)


def _ratio(rounds: list[Round], name: str, value: str) -> float | None:
    """How many times better Ulna's JPEG recording is than another; None if one was not run."""
    if not {"ulna", name} <= rounds[0].keys():
        return None
    quotients = [getattr(r["ulna"], value) / getattr(r[name], value) for r in rounds]
    found = statistics.median(quotients)
    return found if value == "steps_per_s" else 1 / found


if __name__ == "__main__":
    tyro.cli(main)
