"""What does the arm do when something dies? Everything is struck in turn, at random moments.

    uv run python benchmarks/faults.py [--times 200]
    uv run python benchmarks/faults.py --quick           a rehearsal: every fault once

Real processes (supervisor, control, policy, recorder, camera, robot, policy server) around two
simulated arms, one of tool displacements and one of joint positions; a fault strikes a moving arm.
From the first control tick after the fault can be known, the arm may be told nothing but to hold or
to brake; it must stand, latched, within the time-out; the log must be whole. What the arm did is
read from the robot's side. Each fault's own time-outs are in `faults_kinds.py`.

Parts: `faults_parts.py` (arms, camera, policy), `faults_worker.py` (supervisor, server),
`faults_kinds.py`, `faults_flight.py` (one flight), `faults_judge.py` (what came of it).
"""

import random
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tyro
from faults_flight import Flight, Supervisor
from faults_judge import Verdict, judge
from faults_kinds import FAULTS
from record import Benchmark
from rich.progress import track

from ulna.datasets.store import Store
from ulna.datasets.verify import verify

Outcomes = dict[str, list[tuple[Flight, Verdict]]]


def main(
    times: int = 200,
    seed: int | None = None,
    only: tuple[str, ...] = (),
    folder: Path | None = None,
    quick: bool = False,
) -> None:
    """Strike.

    Args:
        times: How often in all; the faults take turns.
        seed: Of all random moments; drawn if not given, and printed.
        only: These faults, by name; writes no result.
        folder: Where flights are kept; by default where temporary files go, and removed.
        quick: Every fault once; writes no result.
    """
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    for name in only:
        if name not in FAULTS:
            raise ValueError(f"fault {name!r} is not known; there are {', '.join(FAULTS)}")
    names = list(only or FAULTS)
    times = len(names) if quick else times
    benchmark = Benchmark("faults", quick or bool(only))
    with ExitStack() as closing:
        if folder is None:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="ulna-faults-")))
        began = time.perf_counter()
        outcomes = strike(names, times, seed, folder, quick)
        took_s = time.perf_counter() - began
        problems = []
        for store in sorted(folder.glob("*.zarr")):
            found = verify(Store.open(store))
            problems += [f"{store.name}: {p.message}" for p in found if p.severity == "error"]
    summarize(benchmark, outcomes, problems, took_s, seed)


def strike(names: list[str], times: int, seed: int, folder: Path, quick: bool) -> Outcomes:
    """Fly one after the other; the next one is prepared meanwhile."""
    outcomes: Outcomes = defaultdict(list)
    supervisors: list[Supervisor | None] = [None, None]
    flights: list[Flight] = []
    for number in range(times):
        name = names[number % len(names)]
        fault = FAULTS[name]
        turn = number // len(names) + number % len(names)
        if quick:  # both arms, the cheap one more often
            turn = int(number % 3 == 0)
        robot = fault.robots[turn % len(fault.robots)]
        flights.append(
            Flight(
                number, hash((seed, number)), fault, name, robot,
                folder / f"flight-{number}", folder / f"{robot}.zarr",
            )
        )  # fmt: skip

    def prepare(number: int) -> None:
        if number >= len(flights):
            return
        supervisor = supervisors[number % 2]
        if supervisor is None or not supervisor.alive:
            if supervisor is not None:
                supervisor.close()
            supervisor = supervisors[number % 2] = Supervisor(folder / "supervisors.txt")
        flights[number].prepare(supervisor)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        prepare(0)
        for flight in track(flights, "fault"):
            prepare(flight.number + 1)
            flight.fly()
            verdict = judge(flight)
            outcomes[flight.name].append((flight, verdict))
            for wrong in verdict.wrongs:
                print(f"{flight.name}, {flight.robot}, flight {flight.number}: {wrong}", flush=True)
    finally:
        for supervisor in supervisors:
            if supervisor is not None:
                supervisor.close()
    return outcomes


def summarize(
    benchmark: Benchmark, outcomes: Outcomes, problems: list[str], took_s: float, seed: int
) -> None:
    """Print the table and the result; exit with an error if anything was wrong."""
    rows, faults = [], {}
    for name, fault in FAULTS.items():
        judged = [verdict for _, verdict in outcomes.get(name, [])]
        if not judged:
            continue
        holds = [v.hold_ticks for v in judged if v.hold_ticks is not None]
        stops = [v.stop_s for v in judged if v.stop_s is not None]
        facts: dict[str, Any] = {
            "times": len(judged),
            "held_within_a_tick": sum(hold <= 1.0 for hold in holds),
            "stopped_in_time": sum(stop <= fault.stop_s for stop in stops),
            "worst_hold_ticks": max(holds, default=None),
            "worst_stop_s": max(stops, default=None),
            "noticeable_after_s": fault.notice_s,
            "stop_time_out_s": None if fault.goes_on else fault.stop_s,
            "logs_whole": sum(v.readable for v in judged),
            "wrongs": sum(bool(v.wrongs) for v in judged),
        }
        faults[name] = facts
        if fault.goes_on:
            facts["held_within_a_tick"] = facts["stopped_in_time"] = None
        cells = ["-" if value is None else value for value in facts.values()]
        rows.append([name, *(round(c, 3) if isinstance(c, float) else c for c in cells)])
    benchmark.table(
        "faults at random moments",
        ["fault", "times", "held", "stopped", "hold", "stop, s", "known", "limit",
         "logs", "wrong"],
        rows,
    )  # fmt: skip
    print(
        "held: from one control tick after the fault was noticeable the arm was told nothing but "
        "to hold or brake; the worst in ticks beside it. stopped: at rest and latched within the "
        "limit; the worst in seconds beside it. known: the time-out after which it is noticed. "
        "logs: every tick is in the store (of a killed recorder: in the tick log)."
    )
    for problem in problems:
        print(f"verify: {problem}")
    judged = [verdict for pairs in outcomes.values() for _, verdict in pairs]
    struck = [v for v in judged if v.hold_ticks is not None]
    wrongs = [
        f"{flight.name}, {flight.robot}, flight {flight.number}: {wrong}"
        for pairs in outcomes.values()
        for flight, verdict in pairs
        for wrong in verdict.wrongs
    ]
    figures = {
        "times": len(judged),
        "seed": seed,
        "wall_s": took_s,
        "faults": faults,
        "verify_errors": len(problems),
        "worst_late_tick_ms": max(v.late_ms for v in judged),
        "wrongs": wrongs,
    }
    ratios = {
        "held_within_a_tick": sum((v.hold_ticks or 0.0) <= 1.0 for v in struck)
        / max(1, len(struck)),
        "as_it_must_be": sum(not v.wrongs for v in judged) / len(judged),
    }
    benchmark.finish(ratios, figures)
    if wrongs or problems:
        raise SystemExit("something went wrong; the notes above say what")


if __name__ == "__main__":
    tyro.cli(main)
