"""Is one policy better than the other? Two policies on the same scenes, or on different ones.

                      B solved   B failed
        A solved        both      only_a          Same scenes: only those that came out differently
        A failed       only_b     neither         say anything. If neither policy is better, each
                                                  of them is a fair coin (exact McNemar test).

Next: `envs/comparison_planning.py` (how many episodes), `envs/sequential_test.py` (stopping when it
is decided), `envs/comparison_tasks.py` (several tasks, several comparisons).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool
from scipy.optimize import brentq
from scipy.stats import barnard_exact, binomtest, norm

from .intervals import check_confidence, clopper_pearson, wilson

MOST_BARNARD = 500
"""Episodes per policy up to which Barnard's exact test is computed: its time grows with the square
of them (a second here). Beyond, its score statistic is as good as normal, and that is used."""


@dataclass(frozen=True)
class PairedTable:
    """Outcomes of two policies on the same scenes, counted."""

    both: int
    only_a: int
    only_b: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.only_a, self.only_b, self.neither) < 0:
            raise ValueError(f"counts of scenes are 0 or more, got {self}")

    @property
    def scenes(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def differing(self) -> int:
        """Scenes that one policy solved and the other did not."""
        return self.only_a + self.only_b

    @property
    def difference(self) -> float:
        """Success rate of B minus that of A, in [-1, 1]; nan without scenes."""
        return (self.only_b - self.only_a) / self.scenes if self.scenes else math.nan


@dataclass(frozen=True)
class Estimate:
    """A number and between what it lies."""

    value: float
    low: float
    high: float


def paired_table(
    a: Bool[np.ndarray, " scenes"] | Sequence[bool], b: Bool[np.ndarray, " scenes"] | Sequence[bool]
) -> PairedTable:
    """Count the successes of two policies on the same scenes in the same order."""
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"A has outcomes of {first.size} scenes, B of {second.size}; expected the same scenes"
        )
    return PairedTable(
        both=int((first & second).sum()),
        only_a=int((first & ~second).sum()),
        only_b=int((~first & second).sum()),
        neither=int((~first & ~second).sum()),
    )


def mcnemar(table: PairedTable) -> float:
    """Exact two-sided p-value of "neither is better": differing scenes as tosses of a fair coin.

    Valid if the number of scenes was fixed beforehand, whatever tasks they are of.
    """
    if table.differing == 0:
        return 1.0
    return float(binomtest(table.only_b, table.differing, 0.5).pvalue)


def odds_ratio(table: PairedTable, confidence: float = 0.95) -> Estimate:
    """How often B won a differing scene for each time A did (conditional odds; exact interval)."""
    check_confidence(confidence)
    if table.differing == 0:
        return Estimate(math.nan, 0.0, math.inf)
    low, high = clopper_pearson(table.only_b, table.differing, confidence)
    value = table.only_b / table.only_a if table.only_a else math.inf
    return Estimate(value, _odds(low), _odds(high))


def tango(table: PairedTable, confidence: float = 0.95) -> Estimate:
    """B's rate minus A's on the same scenes, with Tango's score interval.

    The differences that a score test on paired outcomes does not refuse (Tango, Statistics in
    Medicine 17, 1998). It agrees with McNemar's (asymptotic) test about 0 and keeps its coverage
    where outcomes seldom differ, as those of two good policies do.
    """
    check_confidence(confidence)
    if table.scenes == 0:
        return Estimate(math.nan, -1.0, 1.0)
    z = float(norm.ppf(0.5 + confidence / 2))

    def excess(delta: float, side: int) -> float:
        return _tango_score(table, delta) - side * z

    value = table.difference
    # The score falls as the supposed difference grows: one root on each side of the estimate.
    end = 1 - 1e-12
    low = -1.0 if excess(-end, 1) <= 0 else _root(lambda d: excess(d, 1), -end, value)
    high = 1.0 if excess(end, -1) >= 0 else _root(lambda d: excess(d, -1), value, end)
    return Estimate(value, low, high)


def newcombe_paired(table: PairedTable, confidence: float = 0.95) -> Estimate:
    """B's rate minus A's on the same scenes, from Wilson's interval of each and the correlation of
    their outcomes (Newcombe, Statistics in Medicine 17, 1998, paired method 10)."""
    if table.scenes == 0:
        return Estimate(math.nan, -1.0, 1.0)
    n = table.scenes
    wins_a, wins_b = table.both + table.only_a, table.both + table.only_b
    rate_a, rate_b = wins_a / n, wins_b / n
    low_a, high_a = wilson(wins_a, n, confidence)
    low_b, high_b = wilson(wins_b, n, confidence)
    margins = wins_a * (n - wins_a) * wins_b * (n - wins_b)
    cross = table.both * table.neither - table.only_a * table.only_b
    if cross > 0:  # correction for continuity of a positive correlation
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(margins) if margins else 0.0
    down, up = rate_b - low_b, high_a - rate_a
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    down, up = rate_a - low_a, high_b - rate_b
    above = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    value = table.difference
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above))


def paired_bootstrap(
    table: PairedTable, confidence: float = 0.95, draws: int = 20_000, seed: int = 0
) -> Estimate:
    """B's rate minus A's on the same scenes, by drawing scenes (pairs) anew.

    Too short where few scenes differ (none differing gives no width at all): `tango` is reported,
    this is a second opinion and the way to averages over tasks (`envs/comparison_tasks.py`).
    """
    check_confidence(confidence)
    if table.scenes == 0:
        return Estimate(math.nan, -1.0, 1.0)
    same = table.both + table.neither
    shares = np.array([table.only_a, table.only_b, same]) / table.scenes
    # Drawing scenes with replacement is drawing their counts from a multinomial.
    drawn = np.random.default_rng(seed).multinomial(table.scenes, shares, draws)
    differences = (drawn[:, 1] - drawn[:, 0]) / table.scenes
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Estimate(table.difference, float(low), float(high))


def newcombe(
    wins_a: int, episodes_a: int, wins_b: int, episodes_b: int, confidence: float = 0.95
) -> Estimate:
    """B's rate minus A's on different scenes, from Wilson's interval of each (Newcombe, Statistics
    in Medicine 17, 1998, unpaired method 10)."""
    low_a, high_a = wilson(wins_a, episodes_a, confidence)
    low_b, high_b = wilson(wins_b, episodes_b, confidence)
    if episodes_a == 0 or episodes_b == 0:
        return Estimate(math.nan, -1.0, 1.0)
    rate_a, rate_b = wins_a / episodes_a, wins_b / episodes_b
    value = rate_b - rate_a
    below = math.hypot(rate_b - low_b, high_a - rate_a)
    above = math.hypot(high_b - rate_b, rate_a - low_a)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above))


def barnard(wins_a: int, episodes_a: int, wins_b: int, episodes_b: int) -> tuple[float, str]:
    """Two-sided p-value of "neither is better" on different scenes, and the test it is of.

    Barnard's exact test, which is uniformly more powerful here than Fisher's; beyond
    `MOST_BARNARD` episodes the score test that it is built on.
    """
    for wins, episodes in ((wins_a, episodes_a), (wins_b, episodes_b)):
        if not 0 <= wins <= episodes:
            raise ValueError(f"got {wins} successes in {episodes} episodes; expected 0 to all")
    pooled = (wins_a + wins_b) / max(1, episodes_a + episodes_b)
    exact = max(episodes_a, episodes_b) <= MOST_BARNARD
    name = "Barnard's exact test" if exact else "score test"
    if pooled in (0.0, 1.0) or min(episodes_a, episodes_b) == 0:
        return 1.0, name
    if exact:
        table = [[wins_a, wins_b], [episodes_a - wins_a, episodes_b - wins_b]]
        return float(min(1.0, barnard_exact(table).pvalue)), name
    spread = math.sqrt(pooled * (1 - pooled) * (1 / episodes_a + 1 / episodes_b))
    z = (wins_b / episodes_b - wins_a / episodes_a) / spread
    return float(2 * norm.sf(abs(z))), name


def _tango_score(table: PairedTable, delta: float) -> float:
    """Standardised distance of the table from a true difference `delta` (B minus A)."""
    n, b, c = table.scenes, table.only_b, table.only_a
    # Likelihood's best share of scenes only A wins, if the difference is delta: the root of
    # 2n q^2 + (-b - c + (2n - b + c) delta) q - c delta (1 - delta) = 0  (Tango's equation 9).
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    distance = b - c - n * delta
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    # Without its full report brentq gives a number; its annotation allows both.
    return float(cast(float, brentq(function, low, high)))


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf
