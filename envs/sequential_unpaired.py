"""Compare two policies on different scenes while the episodes run, as on a real robot, where no
scene comes back: one episode of each in turn, looking after every pair, stopping when decided.

The purpose of STEP (Snyder and others, RSS 2025, arXiv 2503.10966), reached in a plain way. Equal
policies may have any common success rate p, so the frontier must hold for all of them:

    for each number of pairs n, over a grid of p: the chance of every outcome (wins of A, wins of B)
    that has not been decided yet; the most lopsided ones are decided from now on, as long as the
    chance of a false call by now stays within what is allowed by now, for the worst p.

With the same scenes for both, `envs/sequential_test.py` needs fewer episodes.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from .intervals import check_confidence
from .sequential_test import SPENDING, Verdict

MOST_EPISODES = 300
"""Per policy; working out the frontier grows with the cube of them (13 s here)."""
RATES = 48
"""Common success rates for which the frontier is made to hold, from 0 to 1/2; the rest by symmetry
of success and failure."""
KEPT = 0.98
"""Share of the risk that is spent: the rest is for rates between those of the grid."""


class UnpairedSequentialTest:
    """Which of two policies is better on different scenes, decided as early as it is sure.

    Pairs are fed in the order in which they were started, and the two episodes of a pair are run
    one after the other in random order, so that a drifting robot or light harms both alike.
    """

    def __init__(self, episodes: int, confidence: float = 0.95, spending: float = SPENDING) -> None:
        self.episodes = episodes
        """Planned, per policy."""
        self.pairs = self.wins_a = self.wins_b = 0
        self.verdict: Verdict | None = None
        self._frontier = frontier(episodes, confidence, spending)

    @property
    def finished(self) -> bool:
        """Decided, or out of episodes."""
        return self.verdict is not None or self.pairs == self.episodes

    def feed(self, a: bool, b: bool) -> Verdict | None:
        """Outcomes of the next episode of each; returns who is better once that is decided."""
        if self.finished:
            raise ValueError(
                f"the test ended after {self.pairs} of {self.episodes} pairs with verdict "
                f"{self.verdict}; plan more episodes in a new test, do not add to this one"
            )
        self.pairs, self.wins_a, self.wins_b = self.pairs + 1, self.wins_a + a, self.wins_b + b
        score = scores(self.pairs)[self.wins_a, self.wins_b]
        if abs(score) >= self._frontier[self.pairs - 1]:
            self.verdict = "b" if score > 0 else "a"
        return self.verdict


@lru_cache(maxsize=16)
def frontier(
    episodes: int, confidence: float = 0.95, spending: float = SPENDING
) -> Float[np.ndarray, " episodes"]:
    """Score (standardised difference of wins) from which on it is decided, after each pair."""
    check_confidence(confidence)
    if not 1 <= episodes <= MOST_EPISODES or spending <= 0:
        raise ValueError(
            f"got {episodes} episodes per policy and a spending of {spending}; expected 1 to "
            f"{MOST_EPISODES} episodes and a spending above 0. Beyond, compare on the same scenes "
            "(PairedSequentialTest has no limit) or fix the number and use Barnard's test"
        )
    # Evenly in the angle whose sine is the root of the rate: there every rate is as hard to tell
    # from its neighbour as any other.
    rates = np.sin(np.linspace(0, math.pi / 4, RATES + 1)[1:]) ** 2
    chances = np.ones((RATES, 1, 1))
    spent = np.zeros(RATES)
    result = np.full(episodes, np.inf)
    for pairs in range(1, episodes + 1):
        chances = _another_pair(chances, rates)
        allowed = KEPT * (1 - confidence) * (pairs / episodes) ** spending
        lopsided = np.abs(scores(pairs)).ravel()
        order = np.argsort(-lopsided, kind="stable")
        ordered = lopsided[order]
        risks = spent[:, None] + np.cumsum(chances.reshape(RATES, -1)[:, order], axis=1)
        # Outcomes that are equally lopsided are decided together or not at all.
        ends = np.flatnonzero(np.diff(ordered, append=-1.0) < 0)
        fits = (risks[:, ends].max(0) <= allowed) & (ordered[ends] > 0)
        if fits.any():
            last = ends[np.flatnonzero(fits)[-1]]
            result[pairs - 1] = ordered[last]
            spent = risks[:, last]
            chances.reshape(RATES, -1)[:, order[: last + 1]] = 0.0
    result.setflags(write=False)
    return result


def _another_pair(
    chances: Float[np.ndarray, "rates wins_a wins_b"], rates: Float[np.ndarray, " rates"]
) -> np.ndarray:
    p = rates[:, None, None]
    for axis in (1, 2):
        lost, won = [(0, 0)] * 3, [(0, 0)] * 3
        lost[axis], won[axis] = (0, 1), (1, 0)
        chances = np.pad(chances * (1 - p), lost) + np.pad(chances * p, won)
    return chances


@lru_cache(maxsize=MOST_EPISODES)
def scores(pairs: int) -> Float[np.ndarray, "wins_a wins_b"]:
    """Standardised difference of wins, B minus A, of every outcome of `pairs` episodes each."""
    wins = np.arange(pairs + 1)
    total = wins[:, None] + wins[None]
    variance = total * (2 * pairs - total) / (2 * pairs)
    difference = (wins[None] - wins[:, None]).astype(float)
    # Rounded, so that outcomes that are equally lopsided are equal.
    return np.round(difference / np.sqrt(np.maximum(variance, 1e-12)), 9)
