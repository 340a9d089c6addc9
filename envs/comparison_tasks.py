"""Several tasks in one number, several comparisons without luck counted as skill.

Next: `envs/comparison.py` (one comparison), `train/compare.py` (two evaluations in words).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from .comparison import Estimate, PairedTable
from .intervals import check_confidence


def macro_rate(
    tasks: Mapping[str, tuple[int, int]], confidence: float = 0.95, draws: int = 20_000,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """Mean over tasks of their success rates, each task counting the same however many episodes it
    has; `tasks`: (successes, episodes) by name.

    The interval draws each task's rate from what its episodes leave possible (Jeffreys' posterior,
    Beta(s + 1/2, f + 1/2)): a stratified bootstrap that does not call 20 of 20 certain.
    """
    check_confidence(confidence)
    counts = _counts(tasks)
    random = np.random.default_rng(seed)
    wins, losses = counts[:, 0], counts[:, 1] - counts[:, 0]
    drawn = random.beta(wins + 0.5, losses + 0.5, (draws, len(counts))).mean(1)
    return _estimate(float((wins / counts[:, 1]).mean()), drawn, confidence)


def macro_difference(
    tasks: Mapping[str, PairedTable], confidence: float = 0.95, draws: int = 20_000, seed: int = 0
) -> Estimate:
    """Mean over tasks of B's rate minus A's on the same scenes, with a bootstrap of scenes within
    each task (smoothed as in `macro_rate`: half a scene is added to each way of differing)."""
    check_confidence(confidence)
    tables = _filled(tasks)
    random = np.random.default_rng(seed)
    total = np.zeros(draws)
    for table in tables:
        same = table.both + table.neither
        drawn = random.dirichlet([table.only_a + 0.5, table.only_b + 0.5, same + 0.5], draws)
        total += drawn[:, 1] - drawn[:, 0]
    value = sum(table.difference for table in tables) / len(tables)
    return _estimate(value, total / len(tables), confidence)


def pooled(tables: Sequence[PairedTable]) -> PairedTable:
    """All scenes of several tasks as one table. McNemar's test stays exact on it: if neither policy
    is better on any task, each differing scene is a fair coin, whatever its task."""
    return PairedTable(
        sum(t.both for t in tables), sum(t.only_a for t in tables),
        sum(t.only_b for t in tables), sum(t.neither for t in tables),
    )  # fmt: skip


def interquartile_mean(
    rates: Float[np.ndarray, "runs tasks"], confidence: float = 0.95, draws: int = 5_000,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """Mean of the middle half of the rates of several training runs on several tasks, with a
    bootstrap over runs within each task: one lucky or broken run does not move it."""
    check_confidence(confidence)
    if rates.size == 0:
        raise ValueError("got no rates; expected one for every run and task")
    runs, tasks = rates.shape
    chosen = np.random.default_rng(seed).integers(runs, size=(draws, runs, tasks))
    drawn = np.take_along_axis(np.broadcast_to(rates, chosen.shape), chosen, axis=1)
    return _estimate(
        float(_middle_mean(rates.reshape(1, -1))[0]),
        _middle_mean(drawn.reshape(draws, -1)),
        confidence,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several comparisons, in their order (Holm, 1979): with those below 0.05
    called different, the chance of a single false call among all is at most 0.05."""
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"got a p-value of {p}; expected 0 to 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _middle_mean(values: Float[np.ndarray, "draws values"]) -> Float[np.ndarray, " draws"]:
    ordered = np.sort(values, axis=1)
    cut = values.shape[1] // 4
    return ordered[:, cut : values.shape[1] - cut].mean(1)


def _estimate(value: float, drawn: np.ndarray, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    # Half scenes pull the draws inwards; the interval holds the estimate all the same.
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _counts(tasks: Mapping[str, tuple[int, int]]) -> np.ndarray:
    if not tasks:
        raise ValueError("got no tasks; expected successes and episodes of one or more")
    for name, (wins, episodes) in tasks.items():
        if not 0 <= wins <= episodes or episodes == 0:
            raise ValueError(
                f"task {name} has {wins} successes in {episodes} episodes; expected 1 or more "
                "episodes and 0 to all of them solved"
            )
    return np.array(list(tasks.values()), float)


def _filled(tasks: Mapping[str, PairedTable]) -> list[PairedTable]:
    empty = [name for name, table in tasks.items() if table.scenes == 0]
    if empty or not tasks:
        raise ValueError(f"no scene was run by both policies: {', '.join(empty) or 'no task'}")
    return list(tasks.values())
