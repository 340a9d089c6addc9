"""How often does looking after every scene lie, and how many scenes does it save?

Two policies on the same scenes are simulated (correlated coin tosses, thousands of evaluations) and
judged by: McNemar's test once at the end; the same test looked at after every scene and stopped at
the first p below 0.05 (what people do, and what is wrong); `PairedSequentialTest`; `anytime_p`. And
on different scenes: Barnard's kind of score test at the end against `UnpairedSequentialTest`.

    python benchmarks/sequential.py [--quick]
"""

import math
from collections.abc import Sequence

import numpy as np
import tyro
from record import Benchmark
from scipy.stats import binom, norm

from ulna.envs.sequential_test import SPENDING, PairedSequentialTest, evidence
from ulna.envs.sequential_unpaired import frontier, scores

ALPHA = 0.05
CORRELATION = 0.3
EQUAL = ((0.5, 100), (0.8, 100), (0.95, 300))
"""Rate of both policies and scenes planned: every call of a difference is false."""
SPENDINGS = (1.0, 1.5, 2.0, 3.0)
DIFFERENT = ((0.5, 0.7, 71), (0.5, 0.8, 71), (0.8, 0.9, 140), (0.9, 0.95, 315))
"""Rates and scenes planned; the first and the last need about so many for 4 of 5 tries."""

UNPAIRED = ((0.5, 0.5, 100), (0.9, 0.9, 100), (0.3, 0.5, 100), (0.5, 0.8, 60))
"""Rates on different scenes, and episodes planned for each policy."""


def main(quick: bool = False, evaluations: int = 1_000, seed: int = 0) -> None:
    """Simulate, print the tables, write `results/sequential.json`.

    Args:
        quick: A rehearsal with few evaluations; nothing is written.
        evaluations: Simulated evaluations per row.
        seed: Of the simulation.
    """
    benchmark = Benchmark("sequential", quick)
    count = 30 if quick else evaluations
    random = np.random.default_rng(seed)
    figures: dict[str, object] = {"evaluations": count, "correlation": CORRELATION, "alpha": ALPHA}
    columns = ["", "once at the end", "peeking at p", "sequential", "anytime p"]
    worst = {name: 0.0 for name in columns[1:]}
    rows = []
    for rate, scenes in EQUAL:
        found = paired(random, rate, rate, scenes, count)
        for name in worst:
            worst[name] = max(worst[name], found[name][0])
        figures[f"false calls at {rate}, {scenes} scenes"] = {n: found[n][0] for n in worst}
        rows.append([f"both {rate}, {scenes} scenes", *[share(found[n][0]) for n in worst]])
    benchmark.table("equal policies called different (allowed: 5 %)", columns, rows)
    rows = []
    saved: list[float] = []
    for a, b, scenes in DIFFERENT:
        found = paired(random, a, b, scenes, count)
        figures[f"{a} and {b}, {scenes} scenes"] = {
            n: {"found": found[n][0], "scenes": found[n][1]} for n in worst if n != "peeking at p"
        }
        saved.append(1 - found["sequential"][1] / scenes)
        rows.append(
            [f"{a} and {b}, {scenes} scenes"]
            + [
                "not valid" if n == "peeking at p" else f"{share(found[n][0])}, {found[n][1]:.0f}"
                for n in worst
            ]
        )
    benchmark.table("difference found, scenes run on average", columns, rows)
    rows = []
    for spending in SPENDINGS:
        row: list[object] = [f"{spending}" + (" (chosen)" if spending == SPENDING else "")]
        for a, b, scenes in DIFFERENT:
            ends = [stop(w, scenes, spending) for w in toss(random, a, b, scenes, count).tolist()]
            found_share, mean = (float(x) for x in np.mean(ends, axis=0))
            figures[f"spending {spending}: {a} and {b}, {scenes} scenes"] = [found_share, mean]
            row.append(f"{share(found_share)}, {mean:.0f}")
        rows.append(row)
    names = [f"{a} and {b}, {scenes}" for a, b, scenes in DIFFERENT]
    benchmark.table("how the risk is spent: found, scenes", ["spending", *names], rows)
    rows = []
    for a, b, episodes in UNPAIRED:
        once, looked, mean = unpaired(a, b, episodes)
        figures[f"different scenes, {a} and {b}, {episodes}"] = {
            "once": once, "sequential": looked, "episodes": mean,
        }  # fmt: skip
        rows.append([f"{a} and {b}, {episodes} each", share(once), f"{share(looked)}, {mean:.0f}"])
    benchmark.table("different scenes (exact)", ["", "once at the end", "sequential"], rows)
    benchmark.finish(
        ratios={
            "false_calls_sequential": worst["sequential"],
            "false_calls_peeking": worst["peeking at p"],
            "scenes_saved_mean": float(np.mean(saved)),
        },
        figures=figures,
    )


def paired(
    random: np.random.Generator, a: float, b: float, scenes: int, evaluations: int
) -> dict[str, tuple[float, float]]:
    """For each way of judging: share of evaluations that call a difference, scenes run."""
    wins = toss(random, a, b, scenes, evaluations)
    lead = wins.cumsum(1)
    tosses = np.abs(wins).cumsum(1)
    p = mcnemar_p(lead, tosses)
    bets = {
        (k, n): evidence((n - k) // 2, (n + k) // 2)
        for n in range(scenes + 1)
        for k in range(-n, n + 1, 2)
    }
    rows = zip(lead.tolist(), tosses.tolist(), strict=True)
    bet = np.array([[bets[pair] for pair in zip(*row, strict=True)] for row in rows])
    sequential = [stop(row, scenes) for row in wins.tolist()]
    return {
        "once at the end": (float((p[:, -1] < ALPHA).mean()), scenes),
        "peeking at p": first(p < ALPHA),
        "sequential": (
            float(np.mean([called for called, _ in sequential])),
            float(np.mean([after for _, after in sequential])),
        ),
        "anytime p": first(bet >= -math.log(ALPHA)),
    }


def toss(
    random: np.random.Generator, a: float, b: float, scenes: int, evaluations: int
) -> np.ndarray:
    """Which policy wins each scene: -1 A, +1 B, 0 neither."""
    both = a * b + CORRELATION * math.sqrt(a * (1 - a) * b * (1 - b))
    shares = [a - both, b - both, 1 - a - b + 2 * both]
    return random.choice([-1, 1, 0], size=(evaluations, scenes), p=shares)


def stop(wins: Sequence[int], scenes: int, spending: float = SPENDING) -> tuple[bool, int]:
    test = PairedSequentialTest(scenes, 1 - ALPHA, spending)
    for win in wins:
        if test.feed(win == -1, win == 1) is not None:
            break
    return test.verdict is not None, test.table.scenes


def first(called: np.ndarray) -> tuple[float, float]:
    """Share of rows with any call, and where the first one is on average."""
    any_call = called.any(1)
    after = np.where(any_call, called.argmax(1) + 1, called.shape[1])
    return float(any_call.mean()), float(after.mean())


def mcnemar_p(lead: np.ndarray, tosses: np.ndarray) -> np.ndarray:
    """Exact two-sided p-values of many tables at once."""
    fewer = (tosses - np.abs(lead)) // 2
    return np.minimum(1.0, 2 * binom.cdf(fewer, tosses, 0.5))


def unpaired(a: float, b: float, episodes: int) -> tuple[float, float, float]:
    """Computed, not simulated: share called different at the end and sequentially, episodes."""
    limits = frontier(episodes, 1 - ALPHA)
    chances = np.ones((1, 1))
    called = spent = 0.0
    for pairs in range(1, episodes + 1):
        outcome = np.array([[(1 - a) * (1 - b), (1 - a) * b], [a * (1 - b), a * b]])
        grown = np.zeros((pairs + 1, pairs + 1))
        for i in (0, 1):
            for j in (0, 1):
                grown[i : i + pairs, j : j + pairs] += chances * outcome[i, j]
        chances = grown
        decided = np.abs(scores(pairs)) >= limits[pairs - 1]
        share_now = float(chances[decided].sum())
        called, spent = called + share_now, spent + pairs * share_now
        chances[decided] = 0.0
    mean = spent + episodes * float(chances.sum())
    wins = np.arange(episodes + 1)
    grid = np.outer(binom.pmf(wins, episodes, a), binom.pmf(wins, episodes, b))
    once = float(grid[np.abs(scores(episodes)) >= norm.ppf(1 - ALPHA / 2)].sum())
    return once, called, mean


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    tyro.cli(main)
