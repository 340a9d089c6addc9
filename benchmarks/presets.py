"""Does each published design beat the one it replaced, in our trunk?

    uv run python benchmarks/presets.py                      everything, 3 seeds; hours on two cores
    uv run python benchmarks/presets.py --studies language   one study
    uv run python benchmarks/presets.py --quick              a rehearsal in minutes

Every (study, arm, seed) is a process with one thread, two at a time; what is done stays in the work
folder and is not done again, so a stopped benchmark goes on. The studies: `presets_studies.py` and
`presets_world.py`; what they look with: `presets_eyes.py`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from presets_studies import frozen, language, masks, separation
from presets_training import TASK, WORLD_EPISODES, demonstrations, episodes_for, eyes_for
from presets_world import video, world
from record import Benchmark, commit
from scipy.stats import binomtest


@dataclass(frozen=True)
class Study:
    arms: tuple[str, ...]
    run: Callable[[str, int, float, Path], dict[str, Any]]
    compare: Callable[[dict[str, Any]], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Does each published design beat the one it replaced?"
    )
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/presets"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--run", nargs=3, metavar=("STUDY", "ARM", "SEED"), help="one run only")
    parser.add_argument("--report", action="store_true", help="of the finished runs, run nothing")
    options = parser.parse_args()
    scale = 0.01 if options.quick else 1.0
    work: Path = options.work / "quick" if options.quick else options.work
    work.mkdir(parents=True, exist_ok=True)
    if options.run:
        study, arm, seed = options.run
        figures = STUDIES[study].run(arm, int(seed), scale, work)
        figures["commit"] = commit()
        place(work, study, arm, int(seed)).write_text(json.dumps(figures, allow_nan=False))
        return
    seeds = range(1 if options.quick else options.seeds)
    if options.report:
        report(options.studies, list(seeds), work, options.quick)
        return
    runs = [(s, arm, seed) for s in options.studies for seed in seeds for arm in STUDIES[s].arms]
    prepare(runs, scale, work)

    def one(run: tuple[str, str, int]) -> None:
        if place(work, *run).exists():
            return
        command = [sys.executable, __file__, "--work", str(options.work), "--run", *map(str, run)]
        with open(place(work, *run).with_suffix(".log"), "w") as log:
            subprocess.run(
                command + ["--quick"] * options.quick, stdout=log, stderr=log, check=True
            )
        print("done:", *run, flush=True)

    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(one, runs))
    report(options.studies, list(seeds), work, options.quick)


def prepare(runs: list[tuple[str, str, int]], scale: float, work: Path) -> None:
    """What several runs share, the demonstrations and the eyes, is made before any of them."""
    studies = {study for study, _, _ in runs}
    stores = [demonstrations(work, TASK, episodes_for(scale))]
    if studies & {"language", "masks"}:
        stores.append(demonstrations(work, TASK, episodes_for(scale), quiet=True))
    if "world" in studies:
        episodes = episodes_for(scale, WORLD_EPISODES)
        stores.append(demonstrations(work, TASK, episodes, quiet=True))
    if "masks" in studies:
        stores.append(demonstrations(work, "lift", episodes_for(scale), quiet=True))
    for data in stores:
        eyes_for(work, data, scale)


def place(work: Path, study: str, arm: str, seed: int) -> Path:
    return work / f"{study}-{arm.replace('/', '-')}-{seed}.json"


def report(studies: list[str], seeds: list[int], work: Path, quick: bool) -> None:
    """Tables and the JSON line of the runs that are there; of each arm its number of seeds."""
    benchmark = Benchmark("presets", quick)
    found = {
        study: {
            arm: [
                json.loads(file.read_text())
                for seed in seeds
                if (file := place(work, study, arm, seed)).exists()
            ]
            for arm in STUDIES[study].arms
        }
        for study in studies
    }
    ratios: dict[str, Any] = {}
    for study, arms in found.items():
        rows = [
            [arm, len(runs), *(spread(runs, name) for name in numbers(arms))]
            for arm, runs in arms.items()
        ]
        benchmark.table(study, ["arm", "seeds", *numbers(arms)], rows)
        ratios |= STUDIES[study].compare(arms)
    benchmark.table("compared", ["what", "value"], list(ratios.items()))
    for arms in found.values():
        for runs in arms.values():
            for run in runs:
                if "successes" in run:
                    run["successes"] = [int(s) for s in run["successes"]]
    benchmark.finish(ratios, found)


def numbers(arms: dict[str, list[dict[str, Any]]]) -> list[str]:
    run = next(iter(arms.values()))[0]
    names = [name for name, value in run.items() if isinstance(value, int | float)]
    return names + ["success"] * ("successes" in run)


def spread(runs: list[dict[str, Any]], name: str) -> str:
    """Mean and the range over seeds."""
    values = [np.mean(run["successes"]) if name == "success" else run[name] for run in runs]
    return f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def mean(runs: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([run[name] for run in runs]))


def rate(runs: list[dict[str, Any]]) -> float:
    return float(np.mean([run["successes"] for run in runs]))


def mcnemar(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> float:
    """Exact p of the paired scenes in which just one of two succeeded."""
    a = np.concatenate([run["successes"] for run in first]).astype(bool)
    b = np.concatenate([run["successes"] for run in second]).astype(bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare_language(arms: dict[str, Any]) -> dict[str, float]:
    tokens, pooled, flow = (arms[n] for n in ("in_context", "pooled_head", "in_context_flow"))
    return {
        "end_point_in_context_over_pooled": mean(tokens, "end_point_mm")
        / mean(pooled, "end_point_mm"),
        "success_in_context_minus_pooled": rate(tokens) - rate(pooled),
        "success_in_context_pooled_mcnemar_p": mcnemar(tokens, pooled),
        "success_velocity_minus_epsilon": rate(tokens) - rate(arms["in_context_epsilon"]),
        "success_ddim_minus_flow": rate(tokens) - rate(flow),
        "success_ddim_flow_mcnemar_p": mcnemar(tokens, flow),
    }


def compare_world(arms: dict[str, Any]) -> dict[str, float]:
    free, tied = arms["independent"], arms["tied"]
    return {
        "inverse_error_tied_over_independent": mean(tied, "inverse") / mean(free, "inverse"),
        "forward_error_tied_over_independent": mean(tied, "forward") / mean(free, "forward"),
        "own_future_retrieval_among_32": mean(free, "retrieval_among_32"),
    }


def compare_separation(arms: dict[str, Any]) -> dict[str, float]:
    tied = mean(arms["tied"], "held_out_loss")
    return {
        "loss_ffn_only_over_tied": mean(arms["ffn_only"], "held_out_loss") / tied,
        "loss_full_over_tied": mean(arms["full"], "held_out_loss") / tied,
    }


def compare_frozen(arms: dict[str, Any]) -> dict[str, float]:
    return {
        "frozen_context_drift": max(run["context_drift"] for run in arms["frozen"]),
        "dense_context_drift": mean(arms["dense"], "context_drift"),
        "loss_frozen_over_dense": mean(arms["frozen"], "held_out_loss")
        / mean(arms["dense"], "held_out_loss"),
    }


def compare_masks(arms: dict[str, Any]) -> dict[str, float]:
    return {
        f"probe_mma_over_causal_{task}": mean(arms[f"mma/{task}"], "probe_mm")
        / mean(arms[f"causal/{task}"], "probe_mm")
        for task in ("pick_named", "lift")
    }


def compare_video(arms: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}_video_first_over_scratch": mean(arms["video_first"], name)
        / mean(arms["scratch"], name)
        for name in ("held_out_loss", "best_held_out_loss", "future_loss")
    }


STUDIES = {
    "language": Study(
        ("in_context", "pooled_head", "in_context_flow", "in_context_epsilon"),
        language,
        compare_language,
    ),
    "world": Study(("independent", "tied"), world, compare_world),
    "separation": Study(("tied", "ffn_only", "full"), separation, compare_separation),
    "frozen": Study(("frozen", "dense"), frozen, compare_frozen),
    "masks": Study(
        ("mma/pick_named", "causal/pick_named", "mma/lift", "causal/lift"), masks, compare_masks
    ),
    "video": Study(("video_first", "scratch"), video, compare_video),
}

if __name__ == "__main__":
    main()
