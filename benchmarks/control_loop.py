"""How late does the control loop wake, beside a bare loop in C and beside lerobot's?

    uv run python benchmarks/control_loop.py            the table; a quarter of an hour
    uv run python benchmarks/control_loop.py --quick    a rehearsal

A policy that computes all the time runs on the same cores, two cameras of 480x640 are looked at.

1. At 20, 50, 100 and 200 Hz, our loop against `control_loop.c`, which sleeps to the same deadlines
   and does nothing else, with the same rights and the same policy beside it: lateness of waking,
   in turns of a few seconds. A deadline of ours that was lost counts with its whole lateness.
2. At 30 Hz, our loop against the rollout loop of lerobot 0.6.1 with the same policy, inline (its
   default) and in a thread. Its loop has no deadlines, so a tick is *late* there and here if its
   command came more than one and a half periods after the one before it; in ours also if the plan
   had run out. *Drift*: by how many commands a loop falls behind its rate in 10 minutes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from competitor_environment import environment
from control_loop_policy import rounds_for
from record import Benchmark
from side import Side

ARMS = Path(__file__).parent / "control_loop_arms.py"
RATES_HZ = (20, 50, 100, 200)
LEROBOT_HZ = 30
THINKING_S = 0.05
"""How long the policy computes an answer when the machine is quiet."""


def started(name: str, rounds: int, work: Path) -> Side:
    found = environment("lerobot" if name.startswith("lerobot") else name, work, None)
    side = Side(ARMS, (name, rounds, work), found)
    side.ask({})
    return side


def late_commands(sent_ns: list[int], hz: float) -> int:
    """Commands that came more than one and a half periods after the one before."""
    return int(np.count_nonzero(np.diff(sent_ns) > 1.5e9 / hz))


def drift(times_ns: list[int] | np.ndarray, hz: float) -> float:
    """By how many ticks a loop whose ticks were at these times falls behind its rate in 10
    minutes: of the period that fits them best."""
    times_s = (np.asarray(times_ns, np.int64) - times_ns[0]) * 1e-9
    period_s = float(np.polyfit(np.arange(len(times_s)), times_s, 1)[0])
    return (1 - 1 / (period_s * hz)) * 600 * hz


def lateness(
    work: Path, rounds: int, turns: int, seconds: float
) -> dict[int, dict[str, dict[str, Any]]]:
    """Per rate and side, everything measured in its turns."""
    sides = {name: started(name, rounds, work) for name in ("ulna", "c")}
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for hz in RATES_HZ:
        turns_of: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for turn in range(turns):
            for name in sorted(sides, reverse=bool(turn % 2)):
                # Asked again as soon as it has answered: the policy never rests.
                order = {"hz": hz, "seconds": seconds, "execution_horizon": 1}
                turns_of[name].append(sides[name].ask(order))
        found[hz] = {name: _summed(answers, hz) for name, answers in turns_of.items()}
    for side in sides.values():
        side.close()
    return found


def _summed(answers: list[dict[str, Any]], hz: float) -> dict[str, Any]:
    late_us = np.concatenate([answer["lateness_ns"] for answer in answers]) / 1e3
    summed: dict[str, Any] = {
        "ticks": len(late_us),
        "answers": sum(answer["answers"] for answer in answers),
        **{f"p{q}_us": float(np.percentile(late_us, q)) for q in (50, 99, 99.9)},
        "max_us": float(late_us.max()),
        "p99_us_of_turns": [float(np.percentile(a["lateness_ns"], 99)) / 1e3 for a in answers],
    }
    if "work_ns" in answers[0]:
        work_us = np.concatenate([answer["work_ns"] for answer in answers]) / 1e3
        summed["work_p50_us"], summed["work_p99_us"] = np.percentile(work_us, (50, 99)).tolist()
        summed["lost_deadlines"] = sum(answer["lost"] for answer in answers)
        period_ns = 1e9 / hz
        summed["drift_ticks_in_10_min"] = float(
            np.mean(
                [
                    drift(np.arange(len(a["lateness_ns"])) * period_ns + a["lateness_ns"], hz)
                    for a in answers
                ]
            )
        )
        summed["rights"] = answers[0]["rights"]
    return summed


def against_lerobot(
    work: Path, rounds: int, turns: int, seconds: float
) -> dict[str, dict[str, Any]]:
    sides = {name: started(name, rounds, work) for name in ("ulna", "lerobot_sync", "lerobot_rtc")}
    found: dict[str, dict[str, Any]] = {
        name: {"commands": 0, "late": 0, "drift": []} for name in sides
    }
    for _ in range(turns):
        for name, side in sides.items():
            order = {"hz": LEROBOT_HZ, "seconds": seconds, "execution_horizon": 25}
            answer = side.ask(order)
            found[name]["commands"] += len(answer["sent_ns"])
            found[name]["late"] += late_commands(answer["sent_ns"], LEROBOT_HZ)
            found[name]["late"] += answer.get("starved", 0)
            found[name]["drift"].append(drift(answer["sent_ns"], LEROBOT_HZ))
    for side in sides.values():
        side.close()
    for figures in found.values():
        figures["drift_ticks_in_10_min"] = float(np.mean(figures.pop("drift")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="How late does the control loop wake?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=6, help="of 10 s per rate and side")
    parser.add_argument("--work", type=Path, default=Path("runs/control_loop"))
    options = parser.parse_args()
    turns, seconds = (1, 2.0) if options.quick else (options.turns, 10.0)
    options.work.mkdir(parents=True, exist_ok=True)
    rounds = rounds_for(THINKING_S)
    bare = lateness(options.work, rounds, turns, seconds)
    theirs = against_lerobot(options.work, rounds, turns, seconds)
    benchmark = Benchmark("control_loop", options.quick)
    columns = ["side", "ticks", "p50 us", "p99 us", "p99.9 us", "max us", "lost", "answers"]
    for hz, sides in bare.items():
        rows = [
            [
                name, found["ticks"], found["p50_us"], found["p99_us"], found["p99.9_us"],
                found["max_us"], found.get("lost_deadlines", "-"), found["answers"],
            ]
            for name, found in sides.items()
        ]  # fmt: skip
        benchmark.table(f"lateness at {hz} Hz", columns, rows)
    rows = [
        [name, found["commands"], found["late"], found["drift_ticks_in_10_min"]]
        for name, found in theirs.items()
    ]
    columns = ["side", "commands", "late", "behind after 10 min"]
    benchmark.table(f"{LEROBOT_HZ} Hz against lerobot's rollout loop", columns, rows)
    ratios: dict[str, float] = {}
    for hz, sides in bare.items():
        for which in ("p50", "p99"):
            ours, c = (sides[name][f"{which}_us"] for name in ("ulna", "c"))
            ratios[f"{which}_lateness_vs_c_{hz}hz"] = ours / c
    ours = theirs["ulna"]["late"] / theirs["ulna"]["commands"]
    for name, word in (("lerobot_sync", "lerobot"), ("lerobot_rtc", "lerobot_rtc")):
        # If none of theirs was late, one counts as late: ours over theirs has no value then.
        share = max(1, theirs[name]["late"]) / theirs[name]["commands"]
        ratios[f"late_ticks_vs_{word}_{LEROBOT_HZ}hz"] = ours / share
    benchmark.table("ratios", ["what", "ratio"], list(ratios.items()))
    figures = {"lateness": bare, "against_lerobot": theirs, "policy_rounds": rounds}
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    main()
