"""Compare two policies while the episodes run: look after every one, stop when it is decided.

Looking at an ordinary p-value after each episode and stopping at the first one below 0.05 finds a
difference between equal policies in far more than 5 % of evaluations. Two ways that stay valid:

* `PairedSequentialTest`: at most `scenes` scenes are planned, and the 5 % are spent over them a
  little at a time. On the same scenes only those that came out differently count, each a fair coin
  if neither policy is better. What chance alone does is then known exactly, with no unknown rate in
  it, so every part of the 5 % is used, not bounded:

      B's wins minus A's        o o o  <- decided: B        the frontier is where the chance of ever
              ^           . o                               having come here, under fair coins, has
              |       .  .  .                               used up what is allowed until now
              +--------------------> scenes

* `anytime_p`: nothing is planned. Evidence is a bet against the fair coin; the p-value may be
  looked at whenever one likes and episodes added as long as one likes. It pays for it in power.

The idea of spending risk along the way on binary outcomes of robot policies is STEP's (Snyder and
others, RSS 2025, arXiv 2503.10966), for different scenes: `envs/sequential_unpaired.py`.

Next: `envs/comparison.py` (tests for a fixed number of episodes).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.special import betaln

from .comparison import PairedTable
from .intervals import check_confidence

Verdict = Literal["a", "b"]
SPENDING = 1.5
"""Share of the risk allowed after a share x of the scenes: x to this power. 1 stops earliest, more
keeps more for the end. Measured in `benchmarks/sequential.py`."""


class PairedSequentialTest:
    """Which of two policies is better on the same scenes, decided as early as it is sure.

    Feed outcomes in the order of the scenes, never as episodes finish: those that finish first are
    the short ones, which are the successes (`feed_in_order`).
    """

    def __init__(self, scenes: int, confidence: float = 0.95, spending: float = SPENDING) -> None:
        check_confidence(confidence)
        if scenes < 1 or spending <= 0:
            raise ValueError(
                f"got {scenes} scenes and a spending of {spending}; expected 1 or more scenes and "
                "a spending above 0"
            )
        self.scenes = scenes
        self.confidence = confidence
        self.table = PairedTable(0, 0, 0, 0)
        self.verdict: Verdict | None = None
        self.frontier = 1
        """Lead in won scenes from which on it is decided, after what was fed; out of reach while it
        is more than the scenes that differed."""
        self._spending = spending
        self._spent = 0.0
        # Chance, under fair coins, of each lead of B with no decision until now; the lead is the
        # index minus the number of differing scenes.
        self._undecided = np.ones(1)

    @property
    def finished(self) -> bool:
        """Decided, or out of scenes."""
        return self.verdict is not None or self.table.scenes == self.scenes

    @property
    def false_call_chance(self) -> float:
        """Chance that equal policies would have been called different by now."""
        return self._spent

    def feed(self, a: bool, b: bool) -> Verdict | None:
        """Outcomes of the next scene; returns who is better once that is decided."""
        if self.finished:
            raise ValueError(
                f"the test ended after {self.table.scenes} of {self.scenes} scenes with verdict "
                f"{self.verdict}; plan more scenes in a new test, do not add to this one"
            )
        t = self.table
        self.table = PairedTable(
            t.both + (a and b), t.only_a + (a and not b),
            t.only_b + (b and not a), t.neither + (not a and not b),
        )  # fmt: skip
        if a != b:
            # One more toss: half of each lead's chance goes up by one, half down.
            self._undecided = np.convolve(self._undecided, [0.5, 0.0, 0.5])
        self.frontier = self._spend()
        lead = self.table.only_b - self.table.only_a
        if abs(lead) >= self.frontier:
            self.verdict = "b" if lead > 0 else "a"
        return self.verdict

    def _spend(self) -> int:
        """Move the frontier in as far as the risk allowed by now goes; returns its lead."""
        allowed = (1 - self.confidence) * (self.table.scenes / self.scenes) ** self._spending
        tosses = self.table.differing
        frontier = tosses + 1
        while frontier > 1:
            ends = [tosses - frontier + 1, tosses + frontier - 1]
            risk = float(self._undecided[ends].sum())
            if self._spent + risk > allowed:
                break
            self._spent += risk
            self._undecided[ends] = 0.0
            frontier -= 1
        return frontier


def feed_in_order(
    test: PairedSequentialTest,
    scenes: Sequence[int],
    a: Mapping[int, bool],
    b: Mapping[int, bool],
) -> Verdict | None:
    """Feed the scenes that both policies have ended, up to the first one that is still running.

    May be called again as episodes end; it goes on behind what the test has been fed.
    """
    for scene in scenes[test.table.scenes : test.scenes]:
        if test.finished or scene not in a or scene not in b:
            break
        test.feed(a[scene], b[scene])
    return test.verdict


def evidence(wins_a: int, wins_b: int) -> float:
    """Natural logarithm of what one unit bet against "neither is better" has become, over the
    differing scenes: the likelihood under every coin alike (Beta(1, 1)) over that under a fair one.

    Under fair coins the bet never grows in expectation, so it ever exceeds 20 in at most 1 of 20
    evaluations (Ville), however often one looks.
    """
    if min(wins_a, wins_b) < 0:
        raise ValueError(f"got {wins_a} and {wins_b} wins; expected 0 or more")
    return float(betaln(wins_b + 1, wins_a + 1) + (wins_a + wins_b) * math.log(2))


def anytime_p(outcomes: Iterable[tuple[bool, bool]]) -> float:
    """Two-sided p-value of "neither is better" that stays valid under any looking and stopping;
    `outcomes`: (A's, B's) success per scene, in the order of the scenes."""
    wins_a = wins_b = 0
    most = 0.0
    for a, b in outcomes:
        wins_a, wins_b = wins_a + (a and not b), wins_b + (b and not a)
        most = max(most, evidence(wins_a, wins_b))
    return math.exp(-most)
