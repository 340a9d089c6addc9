"""How many episodes per minute are judged: our engine, lerobot-eval, robomimic's rollout loop?

    uv run python benchmarks/evaluation.py            the table; some minutes
    uv run python benchmarks/evaluation.py --quick    a rehearsal

The same policy (freshly made, so it fails and every episode has its full length) looks at two
cameras of 84 pixels in robosuite's Lift and answers with 16 actions:

    ulna            our engine and our path through the simulation, render profile `fast`
    lerobot_stock   lerobot-eval's `eval_policy` around `robosuite.make("Lift")`
    lerobot_fast    the same around our environment: what is left is the engine's own share
    robomimic_stock its `run_rollout`, one process, which is all it has; stock robosuite

Each side is a process that makes its environments first; only episodes are timed, in turns with
the other sides. LeRobot runs two environments in two processes, as it does best here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from competitor_environment import environment
from record import Benchmark
from side import Side

SIDES = ("ulna", "lerobot_stock", "lerobot_fast", "robomimic_stock")
ARMS = Path(__file__).parent / "evaluation_arms.py"


def started(name: str, work: Path, steps: int) -> Side:
    found = environment("lerobot" if name.startswith("lerobot") else name, work, None)
    if name.startswith("robomimic"):
        found["PYTHONPATH"] = str(robomimic_folder(work))
    side = Side(ARMS, (name, steps), found)
    side.ask({"episodes": 0})
    return side


def robomimic_folder(work: Path) -> Path:
    """robomimic 0.3.0 and what it needs that Ulna's environment lacks, beside it."""
    folder = work / "robomimic"
    if not (folder / "robomimic").exists():
        packages = ["robomimic==0.3.0", "tensorboardX==2.6.4"]
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", folder, *packages], check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="How many episodes per minute are judged?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    steps = 16 if options.quick else 100
    repeats = 1 if options.quick else options.repeats
    options.work.mkdir(parents=True, exist_ok=True)
    # Enough that a turn lasts seconds: how many each side does at once differs.
    episodes = {
        name: 2 if options.quick else 40 if name == "ulna" else 4 if name == "lerobot_fast" else 2
        for name in options.sides
    }
    sides = {name: started(name, options.work, steps) for name in options.sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            answer = side.ask({"episodes": episodes[name], "seed": 1000 * repeat})
            assert answer["steps"] == steps * episodes[name], (name, answer)
            rates[name].append(60 * episodes[name] / answer["seconds"])
    for side in sides.values():
        side.close()
    benchmark = Benchmark("evaluation", options.quick)
    rows = [
        [name, np.median(found), min(found), max(found), np.median(found) / 60 * steps]
        for name, found in rates.items()
    ]
    columns = ["side", "episodes/min", "least", "most", "control steps/s"]
    benchmark.table(f"Lift, two cameras, {steps} steps, chunks of 16", columns, rows)
    ratios = {
        f"ulna_over_{name}": float(np.median(np.divide(rates["ulna"], found)))
        for name, found in rates.items()
        if name != "ulna" and "ulna" in rates
    }
    if {"lerobot_fast", "lerobot_stock"} <= set(rates):
        quotient = np.divide(rates["lerobot_fast"], rates["lerobot_stock"])
        ratios["lerobot_fast_over_lerobot_stock"] = float(np.median(quotient))
    benchmark.table("ratios (medians over turns)", ["what", "ratio"], list(ratios.items()))
    benchmark.finish(ratios, {"episodes_per_minute": rates, "steps_per_episode": steps})


if __name__ == "__main__":
    main()
