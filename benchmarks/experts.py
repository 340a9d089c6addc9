"""How often the scripted experts succeed, how long they take, and whether it can be replayed.

    python benchmarks/experts.py [--quick] [--tasks robosuite/lift,...] [--episodes 50]

Every task that has an expert and is installed: success over the first seeds without noise, mean
steps of the successful episodes, demonstrations per minute of one process with two cameras (drawn
afterwards, nothing stored), and whether the sent actions, replayed from the reset and from a
stored state in the middle, end in the same state and the same verdict.
"""

import argparse
import os
import time
import warnings
from typing import Any

import numpy as np
from record import Benchmark

from ulna.datasets.schema import Episode, unknown_name
from ulna.envs.collect import QUIET, Noise, collect_episode
from ulna.envs.env import Env
from ulna.envs.task import Task
from ulna.envs.tasks import all_tasks, make_env

COLUMNS = ("task", "success", "steps", "with noise", "demos/min", "replayed")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two tasks, one seed")
    parser.add_argument("--tasks", default="", help="names separated by commas; empty: all")
    parser.add_argument("--episodes", type=int, default=50, help="seeds per task")
    parser.add_argument("--noise-episodes", type=int, default=10, help="seeds per task, with noise")
    chosen = parser.parse_args()
    tasks = [task for task in all_tasks().values() if task.expert is not None]
    wanted = chosen.tasks.split(",") if chosen.tasks else [task.name for task in tasks]
    known = {task.name: task for task in tasks}
    for name in wanted:
        if name not in known:
            raise unknown_name("task with an expert", name, known)
    if chosen.quick:
        wanted = wanted[:2]
    benchmark = Benchmark("experts", chosen.quick)
    figures: dict[str, Any] = {}
    left_out = {}
    for name in wanted:
        missing = known[name].missing()
        if missing:
            left_out[name] = missing
            continue
        episodes = (1, 1) if chosen.quick else (chosen.episodes, chosen.noise_episodes)
        figures[name] = measure(known[name], *episodes)
        print(f"{name}: {figures[name]}", flush=True)
    rows = [
        (
            name,
            f"{row['successes']}/{row['episodes']}",
            row["mean_steps"],
            f"{row['noise_successes']}/{row['noise_episodes']}",
            row["demos_per_minute"],
            f"{row['replayed']}/{row['demonstrations']}",
        )
        for name, row in figures.items()
    ]
    benchmark.table("scripted experts", COLUMNS, rows)
    for name, missing in left_out.items():
        print(f"left out {name}: {missing}")
    total = sum(row["episodes"] for row in figures.values())
    benchmark.finish(
        ratios={
            "success": sum(row["successes"] for row in figures.values()) / max(total, 1),
            "replayed": sum(row["replayed"] for row in figures.values())
            / max(1, sum(row["demonstrations"] for row in figures.values())),
        },
        figures={"tasks": figures, "left_out": left_out, "load_at_end": os.getloadavg()[0]},
    )


def measure(task: Task, episodes: int, noise_episodes: int) -> dict[str, Any]:
    """Success, length, pace and replay of one task's expert."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is the slow controller
        env = make_env(task.name)
    collect(task, env, 0, QUIET)  # compiles, builds the render model
    wall, cpu = time.monotonic(), time.process_time()
    quiet = [collect(task, env, seed, QUIET) for seed in range(episodes)]
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    assert task.expert is not None
    noise = getattr(task.expert(), "noise", Noise())
    noisy = [collect(task, env, seed, noise) for seed in range(noise_episodes)]
    good = [episode for episode in quiet if episode.success]
    shown = [*good, *(episode for episode in noisy if episode.success)]
    row = {
        "episodes": episodes,
        "successes": len(good),
        "mean_steps": mean_steps(good),
        "noise_episodes": noise_episodes,
        "noise_successes": sum(bool(episode.success) for episode in noisy),
        "noise_mean_steps": mean_steps([episode for episode in noisy if episode.success]),
        "demos_per_minute": 60 * len(good) / wall,
        "cpu_s_per_demo": cpu / max(1, len(good)),
        "failed_seeds": [episode.seed for episode in quiet if not episode.success],
        "demonstrations": len(shown),
        "replayed": sum(replays(env, episode) for episode in shown),
    }
    env.close()
    return row


def collect(task: Task, env: Env, seed: int, noise: Noise) -> Episode:
    assert task.expert is not None
    return collect_episode(env, task.expert(), seed, noise, "afterwards", keep_failures=False)


def mean_steps(episodes: list[Episode]) -> float | None:
    return float(np.mean([episode.steps for episode in episodes])) if episodes else None


def replays(env: Env, episode: Episode) -> bool:
    """Whether the stored actions repeat the stored states, from the reset and from the middle."""
    states, actions = episode.streams["simulator_state"], episode.streams["action_sent"]
    middle = len(actions) // 2
    ends = []
    for start in (0, middle):
        if start == 0:
            env.reset(episode.seed, episode.instruction)
        else:
            env.restore(states[start], episode.instruction)
        for state, action in zip(states[start:], actions[start:], strict=True):
            if not np.array_equal(env.simulator_state(), state):
                return False
            env.step(action)
        ends.append((env.success(), env.outcome()))
    return ends == [(bool(episode.success), str(episode.info["outcome"]))] * 2


if __name__ == "__main__":
    main()
