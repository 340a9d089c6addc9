"""What does recording cost the control loop? Flight recorder on, off, and lerobot's way.

    uv run python benchmarks/flight_recorder.py
    uv run python benchmarks/flight_recorder.py --quick        a rehearsal in miniature

The same loop runs in real time, each way in a process of its own, in rounds whose order turns
around; ratios are of the same round, their median is the result. A tick is *late* if it woke more
than half a period after its deadline, or not at all.

Parts: `flight_recorder_arms.py` (the loop and the three ways).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro
from competitor_environment import environment
from flight_recorder_arms import ARMS, CASES
from record import Benchmark

HERE = Path(__file__).resolve().parent
TITLES = {"off": "nobody records", "ulna": "flight recorder", "lerobot": "lerobot add_frame"}
Round = dict[str, dict[str, Any]]


def main(rounds: int = 5, seconds: float = 20.0, quick: bool = False) -> None:
    """Run every way in every round.

    Args:
        rounds: How often each way is measured.
        seconds: Of each measurement.
        quick: One round of two seconds; writes no result.
    """
    if quick:
        rounds, seconds = 1, 2.0
    benchmark = Benchmark("flight_recorder", quick)
    figures: dict[str, Any] = {"rounds": rounds, "seconds": seconds}
    ratios: dict[str, float] = {}
    for case in CASES:
        measured: list[Round] = []
        for number in range(rounds):
            order = list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]
            measured.append({arm: _measure(arm, case, seconds) for arm in order})
        figures[case] = {arm: [r[arm] for r in measured] for arm in ARMS}
        ratios |= _ratios(case, measured)
        _show(benchmark, case, measured)
    benchmark.finish(ratios, figures)


def _measure(arm: str, case: str, seconds: float) -> dict[str, Any]:
    print(f"{case}: {TITLES[arm]}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="ulna-flight-") as scratch:
        out = Path(scratch) / "out"
        request = {"arm": arm, "case": case, "seconds": seconds, "out": str(out)}
        command = [sys.executable, HERE / "flight_recorder_arms.py", json.dumps(request)]
        where = environment(arm, Path(scratch), None)
        done = subprocess.run(command, env=where, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arm} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _ratios(case: str, rounds: list[Round]) -> dict[str, float]:
    def median(ratio: Any) -> float:
        return statistics.median(ratio(r) for r in rounds)

    def of(arm: str, what: str, part: str) -> Any:
        return lambda r: r[arm][what][part]

    p99 = of("ulna", "lateness_us", "p99")
    tick99, tick50 = of("ulna", "in_tick_us", "p99"), of("ulna", "in_tick_us", "p50")
    return {
        f"p99_lateness_on_over_off_{case}": median(
            lambda r: p99(r) / r["off"]["lateness_us"]["p99"]
        ),
        f"p99_lateness_lerobot_over_off_{case}": median(
            lambda r: r["lerobot"]["lateness_us"]["p99"] / r["off"]["lateness_us"]["p99"]
        ),
        f"in_tick_p50_lerobot_over_ulna_{case}": median(
            lambda r: r["lerobot"]["in_tick_us"]["p50"] / tick50(r)
        ),
        f"in_tick_p99_lerobot_over_ulna_{case}": median(
            lambda r: r["lerobot"]["in_tick_us"]["p99"] / tick99(r)
        ),
    }


def _show(benchmark: Benchmark, case: str, rounds: list[Round]) -> None:
    def median(arm: str, what: str, part: str) -> str:
        return f"{statistics.median(r[arm][what][part] for r in rounds):.0f}"

    lines = []
    for arm, title in TITLES.items():
        dropped = [r[arm]["stored"].get("dropped_images", 0) for r in rounds]
        lines.append(
            [
                title,
                median(arm, "lateness_us", "p50"),
                median(arm, "lateness_us", "p99"),
                sum(r[arm]["late_ticks"] for r in rounds),
                median(arm, "in_tick_us", "p50"),
                median(arm, "in_tick_us", "p99"),
                sum(dropped),
                sum(r[arm]["stored"].get("dropped_ticks", 0) for r in rounds),
                f"{statistics.median(r[arm]['finish_s'] for r in rounds):.2f}",
            ]
        )
    columns = [
        "way",
        "late us p50",
        "p99",
        "late ticks",
        "in the tick us p50",
        "p99",
        "images dropped",
        "ticks dropped",
        "all written s",
    ]
    benchmark.table(CASES[case].title, columns, lines)


if __name__ == "__main__":
    tyro.cli(main)
