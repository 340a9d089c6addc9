"""How fast is a simulated control step, with two cameras and without, against stock robosuite?

    python benchmarks/simulation.py            about 10 minutes
    python benchmarks/simulation.py --quick    a rehearsal

robosuite's Lift: Panda, OSC_POSE at 20 Hz, `agentview` and wrist camera, 84 and 224 pixels. Each
side lives in processes of its own and waits while the other works; turns are taken step by step in
one run. Headline: CPU time of one process, medians of pairwise ratios. Stock gets the better of two
settings: Mesa's threads as it comes, and none (`LP_NUM_THREADS=0`, what ours takes).

The same run checks what the speed costs: joint positions after 10 control steps, and pictures of
the same states, half of them with the arm anywhere within its joints' limits.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import Benchmark
from side import Side

ARMS = Path(__file__).with_name("simulation_arms.py")
PROFILES = ("exact", "near", "fast")
GOALS = {"exact": 1.7, "near": 4.0, "fast": 15.0, "no_cameras": 5.0}


def started(side: str, threads: str, **settings: Any) -> Side:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    environment.pop("LP_NUM_THREADS", None)
    if threads:
        environment["LP_NUM_THREADS"] = threads
    return Side(ARMS, (side, json.dumps(settings)), environment)


def together(arms: Sequence[Side], orders: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All arms work at once."""
    for arm, order in zip(arms, orders, strict=True):
        arm.send(order)
    return [arm.receive() for arm in arms]


def per_step_ms(answers: Sequence[dict[str, float]], orders: Sequence[dict[str, Any]]) -> tuple:
    """CPU and wall milliseconds of one control step; several processes share the wall."""
    steps = sum(order["steps"] for order in orders)
    cpu = sum(answer["cpu_s"] for answer in answers)
    return 1e3 * cpu / steps, 1e3 * max(answer["wall_s"] for answer in answers) / steps


def measure(
    variants: dict[str, tuple[list[Side], dict[str, Any]]], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """(CPU ms, wall ms) per control step of every variant, `repeats` rounds in turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for repeat in range(-1, repeats):
        for name, (arms, order) in variants.items():
            orders = [{"do": "run", "seed": 10 * (repeat + 2) + i} | order
                      for i in range(len(arms))]  # fmt: skip
            answer = per_step_ms(together(arms, orders), orders)
            if repeat >= 0:  # the first round warms up
                found[name].append(answer)
    return found


def better_stock(times: dict[str, list[tuple[float, float]]], column: int) -> list[float]:
    """Per round, the time of the setting that suits stock best over all rounds."""
    arms = [[row[column] for row in rows] for name, rows in times.items() if "stock" in name]
    return min(arms, key=statistics.median)


def ratio(stock: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(s / o for s, o in zip(stock, ours, strict=True))


def one_setting(
    size: int, profiles: Sequence[str], processes: int, steps: int, repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Times at one picture size (0: no cameras) with `processes` of each side at work."""
    stock = {
        name: [
            started("stock", threads, size=size or 84, cameras=bool(size)) for _ in range(processes)
        ]
        for name, threads in (("stock", "0"), ("stock_threads", ""))[: 2 if size else 1]
    }
    ours = [started("ours", "0", size=size or 84) for _ in range(processes)]
    try:
        for arm in (*sum(stock.values(), []), *ours):
            arm.receive()
        variants: dict[str, tuple[list[Side], dict[str, Any]]] = {
            name: (arms, {"steps": steps}) for name, arms in stock.items()
        }
        for profile in profiles:
            more = {"": 5, "exact": 1, "near": 2, "fast": 5}[profile]
            variants[profile or "ours"] = (ours, {"steps": more * steps, "profile": profile})
        return measure(variants, repeats)
    finally:
        for arm in (*sum(stock.values(), []), *ours):
            arm.close()


def same_pictures(states: int, sizes: list[int]) -> dict[str, Any]:
    """How far our path is from stock on the states stock went through."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "recorded.safetensors")
        stock = started("stock", "0", size=84, cameras=True)
        ours = started("ours", "0", size=84)
        try:
            stock.receive()
            ours.receive()
            together([stock], [{"do": "record", "path": path, "states": states, "sizes": sizes}])
            order = {"do": "compare", "path": path, "sizes": sizes, "profiles": list(PROFILES)}
            return together([ours], [order])[0]
        finally:
            stock.close()
            ours.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a rehearsal; proves nothing")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of all arms in turns")
    options = parser.parse_args()
    quick = options.quick
    sizes, repeats = ([84], 1) if quick else ([84, 224], options.repeats)
    benchmark = Benchmark("simulation", quick)
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    rows = []
    for processes in (1,) if quick else (1, 2):
        for size in (0, *sizes):
            profiles = PROFILES if size else ("",)
            steps = (2 if quick else 10) * (1 if size else 10)
            times = one_setting(size, profiles, processes, steps, repeats)
            for name in times:
                if "stock" in name:
                    continue
                word = f"{name}_{size}px" if size else "no_cameras"
                key = word if processes == 1 else f"{word}_2_processes"
                ours = [list(column) for column in zip(*times[name], strict=True)]
                against = [better_stock(times, column) for column in (0, 1)]
                cpu, wall = (ratio(against[column], ours[column]) for column in (0, 1))
                ratios[key] = cpu if processes == 1 else wall
                figures[key] = {
                    "cpu_ms": statistics.median(ours[0]),
                    "wall_ms": statistics.median(ours[1]),
                    "stock_cpu_ms": statistics.median(against[0]),
                    "stock_wall_ms": statistics.median(against[1]),
                    "cpu_ratio": cpu,
                    "cpu_ratio_lowest": min(
                        stock / own for stock, own in zip(against[0], ours[0], strict=True)
                    ),
                    "wall_ratio": wall,
                    "steps_per_s": 1e3 / statistics.median(ours[1]),
                }  # fmt: skip
                figure = figures[key]
                goal = GOALS[name if size else "no_cameras"]
                rows.append(
                    (word, processes, figure["stock_cpu_ms"], figure["cpu_ms"], cpu, goal,
                     wall, figure["steps_per_s"])
                )  # fmt: skip
    found = same_pictures(4 if quick else 48, sizes)
    figures["qpos_apart_after_10_steps"] = found.pop("qpos_apart")
    figures["pictures"] = found
    figures["load_after"] = os.getloadavg()[0]
    benchmark.table(
        "one control step, ms",
        ["variant", "processes", "stock cpu", "ours cpu", "cpu ratio", "goal", "wall ratio",
         "steps/s"],
        rows,
    )  # fmt: skip
    benchmark.table(
        f"pictures of the same states; qpos apart {figures['qpos_apart_after_10_steps']:.1e} after "
        "10 steps",
        ["profile", "pictures", "bit-equal", "mean of 255", "worst picture", "largest"],
        [(name, *row.values()) for name, row in found.items()],
    )
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    main()
