"""`ulna demo`: from nothing to a moving arm, one stage after the other, each resumable.

    collect --> train --> evaluate --> run --> report
    store.zarr  policy/   evaluate/    robot/  report.html

Each stage is the function behind the command of the same name. How far a demo has come stands in
`progress.json`; the same command goes on there. The arm's loop lives on the same floor as this
folder (`deploy_robot`), so it is handed in as a function.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datasets.store import Store
from ..datasets.strict_json import decode
from ..envs.collect import collect
from ..policies.checkpoint import load_act, load_policy, read_json, write_json
from .config import TrainConfig
from .evaluate import evaluate, print_results
from .loop import train
from .provenance import machine, versions
from .recipes import RECIPES, debug, small
from .report import build_report

RunOnRobot = Callable[..., dict[str, Any]]
"""`deploy_robot.run.run`."""


@dataclass(frozen=True)
class DemoSize:
    task: str
    episodes: int
    """Demonstrations."""
    recipe: TrainConfig
    evaluated: int
    """Unseen scenes; as many again with the instruction swapped."""
    robot_episodes: int
    robot_mode: str = "synchronous"
    """The arm holds for the tick or two in which the policy thinks. Moving on meanwhile with plain
    switches from chunk to chunk lost episodes (CHANGELOG.md, Experiments)."""


FULL = DemoSize("pick_named", 500, small(), 50, 3)
MINIMAL = DemoSize("pick_named", 4, debug(), 2, 1)


@dataclass(frozen=True)
class Progress:
    """What is done, on disk."""

    seed: int
    size: DemoSize
    finished: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent in each stage, earlier attempts included."""


def run_demo(
    out: Path, seed: int, size: DemoSize, run_on_robot: RunOnRobot, fresh: bool = False
) -> dict[str, Any]:
    """Do what is left of the demo in `out`; returns and writes `out/report.json`."""
    console = Console()
    if fresh:
        _delete(out)
    out.mkdir(parents=True, exist_ok=True)
    state = _Stages(out, seed, size, console)
    workers = len(os.sched_getaffinity(0))

    with state.stage("collect") as needed:
        if needed:
            store = out / "store.zarr"
            collect(
                size.task,
                store,
                size.episodes,
                seed=seed,
                workers=workers,
                resume=store.exists(),
            )
    with state.stage("train") as needed:
        if needed:
            train(replace(size.recipe, seed=seed), out / "store.zarr", out / "policy", console)
    with state.stage("evaluate") as needed:
        if needed:
            results = evaluate(
                out / "policy", size.task, size.evaluated, seed, workers, out / "evaluate",
                console=console,
            )  # fmt: skip
            print_results(results, console.print)
    with state.stage("run") as needed:
        if needed:
            policy = load_policy(out / "policy")
            try:
                run_on_robot(
                    partial(load_act, out / "policy"),
                    robot="sim",
                    task=size.task,
                    episodes=size.robot_episodes,
                    seed=seed,
                    out=out / "robot",
                    execution_horizon=policy.config.execution_horizon,
                    mode=size.robot_mode,
                    trained_for=policy.embodiment,
                )
            except RuntimeError as error:
                # The safety gate ended the run: a result like any other, told by the report.
                if not (out / "robot" / "results.json").exists():
                    raise
                console.print(f"[bold]{error}[/bold]")
            robot: Any = read_json(out / "robot" / "results.json")
            loop = robot["loop"]
            console.print(
                f"loop at {loop['control_hz']:.0f} Hz: lateness p50 {loop['p50_ms']:.2f} ms, "
                f"p99 {loop['p99_ms']:.2f} ms, max {loop['max_ms']:.2f} ms, "
                f"{loop['late_ticks']} late of {loop['ticks']} ticks; success "
                f"{sum(e['success'] for e in robot['episodes'])}/{len(robot['episodes'])}"
            )
    with state.stage("report", always=True):
        write_json(out / "report.json", _report(out, state.progress))
        page = build_report(out)
    report = _report(out, state.progress)
    write_json(out / "report.json", report)
    success = report["success"]
    console.print(
        f"\nsuccess {success['rate']:.2f} ({success['low']:.2f} to {success['high']:.2f}, "
        f"{success['episodes']} unseen scenes) after {report['wall_s']:.0f} s; open {page}"
    )
    return report


class _Stages:
    def __init__(self, out: Path, seed: int, size: DemoSize, console: Console) -> None:
        self.path = out / "progress.json"
        self.console = console
        self.progress = Progress(seed, size)
        if not self.path.exists():
            if any(out.iterdir()):
                raise ValueError(
                    f"{out} is not empty and holds no demo; give another --out or an empty folder"
                )
            write_json(self.path, self.progress)
            return
        before = decode(Progress, read_json(self.path), "progress.json")
        if (before.seed, before.size) != (seed, size):
            raise ValueError(
                f"{out} holds a demo of seed {before.seed} in other settings; give "
                f"--seed {before.seed} to go on with it, --fresh to delete it, or another --out"
            )
        self.progress = before
        if before.finished:
            console.print(f"{out}: going on after {before.finished[-1]}")

    @contextmanager
    def stage(self, name: str, always: bool = False) -> Iterator[bool]:
        """Yields whether the stage is still to be done; counts its time and remembers its end."""
        needed = always or name not in self.progress.finished
        if not needed:
            yield False
            return
        self.console.rule(name)
        began = time.perf_counter()
        finished = self.progress.finished
        try:
            yield True
            finished = tuple(dict.fromkeys([*finished, name]))
        finally:
            spent = self.progress.seconds.get(name, 0.0) * (not always)
            seconds = round(spent + time.perf_counter() - began, 2)
            self.progress = replace(
                self.progress, finished=finished,
                seconds={**self.progress.seconds, name: seconds},
            )  # fmt: skip
            write_json(self.path, self.progress)


def _report(out: Path, progress: Progress) -> dict[str, Any]:
    results: Any = read_json(out / "evaluate" / "results.json")
    robot: Any = read_json(out / "robot" / "results.json")
    run: Any = read_json(out / "policy" / "train.json")
    store = Store.open(out / "store.zarr")
    policy = load_policy(out / "policy")
    return {
        "task": progress.size.task,
        "seed": progress.seed,
        "wall_s": round(sum(progress.seconds.values()), 1),
        "stages": progress.seconds,
        "success": results["success"],
        "language_swap": results["language_swap"],
        "loop": robot["loop"],
        "late_actions": robot["late_actions"],
        "gate": robot["gate"],
        "policy": {
            "parameters": sum(p.numel() for p in policy.parameters()),
            "steps": run["config"]["steps"],
            "batch_size": run["config"]["batch_size"],
            "device": run["device"],
            "precision": run["precision"],
        },
        "data": {
            "episodes": len(store.episodes),
            "steps": sum(record.steps for record in store.episodes),
        },
        "commands": commands(out, progress),
        "versions": versions(),
        "machine": machine(),
    }


def commands(out: Path, progress: Progress) -> dict[str, str]:
    """The command that does each stage on its own, with the numbers this demo used."""
    task, seed, size = progress.size.task, progress.seed, progress.size
    name = next((name for name, make in RECIPES.items() if make() == size.recipe), "RECIPE")
    store, run = out / "store.zarr", out / "policy"
    return {
        "collect": f"ulna collect {task} --out {store} --episodes {size.episodes} --seed {seed}",
        "train": f"ulna train {name} --data {store} --out {run} --seed {seed}",
        "evaluate": f"ulna evaluate {run} --task {task} --episodes {size.evaluated} --seed {seed}",
        "run": f"ulna run {run} --robot sim --task {task} --episodes {size.robot_episodes} "
        f"--seed {seed} --mode {size.robot_mode}",
    }


def _delete(out: Path) -> None:
    """Remove an earlier demo, and nothing that is not one."""
    if not out.exists():
        return
    if not (out / "progress.json").exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds no demo, so --fresh does not delete it; give another --out")
    shutil.rmtree(out)
