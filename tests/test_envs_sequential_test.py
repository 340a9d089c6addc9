"""Looking along the way: false calls are counted exactly, not only simulated."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest

from ulna.envs.comparison import PairedTable, mcnemar, paired_table
from ulna.envs.sequential_test import (
    PairedSequentialTest,
    anytime_p,
    evidence,
    feed_in_order,
)
from ulna.envs.sequential_unpaired import UnpairedSequentialTest, frontier, scores


def run(differs: list[bool], wins: tuple[bool, ...], confidence: float) -> PairedSequentialTest:
    """`differs`: which scenes come out differently; `wins`: B's luck in those."""
    test = PairedSequentialTest(len(differs), confidence)
    luck = iter(wins)
    for different in differs:
        b = next(luck) if different else True
        if test.feed(not b if different else True, b):
            break
    return test


@pytest.mark.parametrize("differs", [[True] * 9, [False, True] * 8, [True] * 6 + [False] * 6])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_every_coin_sequence_counted(differs, confidence):
    """Fair coins, all 2^n of them: calls are as rare as promised and as the test says itself."""
    tosses = sum(differs)
    tests = [
        run(differs, wins, confidence) for wins in itertools.product([False, True], repeat=tosses)
    ]
    called = np.mean([test.verdict is not None for test in tests])
    assert 0 < called <= 1 - confidence + 1e-12
    unstopped = max(test.false_call_chance for test in tests)
    assert called == pytest.approx(unstopped, abs=1e-12)


def test_looking_after_every_scene_stays_within_five_percent_where_a_p_value_does_not():
    rng = np.random.default_rng(0)
    p_value = lru_cache(lambda a, b: mcnemar(PairedTable(0, a, b, 0)))
    sequential = peeking = 0
    for wins in rng.choice([-1, 0, 1], size=(100, 50), p=[0.4, 0.2, 0.4]).tolist():
        test = PairedSequentialTest(50)
        for win in wins:
            if test.feed(win == -1, win == 1):
                break
        sequential += test.verdict is not None
        counted = {(wins[:n].count(-1), wins[:n].count(1)) for n in range(1, 51)}
        peeking += any(p_value(a, b) < 0.05 for a, b in counted)
    assert sequential / 100 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    assert peeking / 100 > 0.1


def test_a_clear_difference_is_found_early_and_a_close_one_about_as_often_as_at_the_end():
    rng = np.random.default_rng(1)
    for shares, least_saved in (([0.05, 0.6, 0.35], 0.5), ([0.12, 0.6, 0.28], 0.1)):
        found = at_end = scenes = 0
        for wins in rng.choice([-1, 0, 1], size=(80, 100), p=shares).tolist():
            test = PairedSequentialTest(100)
            for win in wins:
                if test.feed(win == -1, win == 1):
                    break
            found, scenes = found + (test.verdict == "b"), scenes + test.table.scenes
            table = PairedTable(0, wins.count(-1), wins.count(1), wins.count(0))
            at_end += mcnemar(table) < 0.05
        assert found >= at_end - 8
        assert scenes / 80 <= 100 * (1 - least_saved)


def test_a_and_b_are_treated_alike():
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 120)) < np.array([[0.4], [0.75]])
    forward, backward = PairedSequentialTest(120), PairedSequentialTest(120)
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        forward.feed(x, y)
        backward.feed(y, x)
        if forward.finished:
            break
    assert (forward.verdict, backward.verdict) == ("b", "a")
    assert forward.table.scenes == backward.table.scenes < 120
    assert forward.table == paired_table(a[: forward.table.scenes], b[: forward.table.scenes])


def test_the_end_is_the_end():
    test = PairedSequentialTest(2)
    test.feed(True, True)
    test.feed(True, False)
    assert test.finished and test.verdict is None
    with pytest.raises(ValueError, match="ended after 2 of 2 scenes with verdict None"):
        test.feed(True, True)
    with pytest.raises(ValueError, match="got 0 scenes"):
        PairedSequentialTest(0)


def test_scenes_are_fed_in_their_order_however_they_end():
    """The episodes that end first are the successes; fed as they end they would decide alone."""
    scenes = list(range(100, 160))
    test = PairedSequentialTest(60)
    a, b = dict.fromkeys(scenes, False), {scene: True for scene in scenes[20:]}
    assert feed_in_order(test, scenes, a, b) is None and test.table.scenes == 0
    b |= dict.fromkeys(scenes[:3], True)
    assert feed_in_order(test, scenes, a, b) is None and test.table.scenes == 3
    b |= dict.fromkeys(scenes[3:20], True)
    assert feed_in_order(test, scenes, a, b) == "b"
    assert feed_in_order(test, scenes, a, b) == "b" and test.table.scenes < 20


def test_evidence_is_a_fair_bet():
    """Under fair coins its mean is 1 after any number of tosses."""
    for tosses in (1, 7, 30):
        mean = sum(
            math.comb(tosses, wins) / 2**tosses * math.exp(evidence(tosses - wins, wins))
            for wins in range(tosses + 1)
        )
        assert mean == pytest.approx(1)
    assert evidence(0, 0) == 0 and evidence(2, 9) == evidence(9, 2)


def test_anytime_p_never_falls_back_and_is_seldom_small_by_chance():
    tosses = 10
    small = 0
    for wins in itertools.product([False, True], repeat=tosses):
        small += anytime_p((not w, w) for w in wins) <= 0.1
    assert 0 < small / 2**tosses <= 0.1
    pairs = [(False, True)] * 12 + [(True, False)] * 5 + [(True, True)] * 30
    p = [anytime_p(pairs[:n]) for n in range(len(pairs) + 1)]
    assert p[0] == 1 and p == sorted(p, reverse=True) and p[-1] < 0.01


def calls(limits: np.ndarray, a: float, b: float) -> tuple[float, float]:
    """Chance of any call, and episodes run, for two rates on different scenes (exact)."""
    chances, called, ran = np.ones((1, 1)), 0.0, 0.0
    for n, limit in enumerate(limits, 1):
        grown = np.zeros((n + 1, n + 1))
        for i, p in enumerate((1 - a, a)):
            for j, q in enumerate((1 - b, b)):
                grown[i : i + n, j : j + n] += chances * p * q
        decided = np.abs(scores(n)) >= limit
        now = float(grown[decided].sum())
        called, ran = called + now, ran + n * now
        chances = np.where(decided, 0.0, grown)
    return called, ran + len(limits) * float(chances.sum())


def test_on_different_scenes_no_common_rate_is_called_too_often():
    """At rates the frontier was not made for as well."""
    limits = frontier(40)
    worst = [calls(limits, p, p)[0] for p in np.linspace(0.003, 0.997, 121)]
    assert 0.04 < max(worst) <= 0.05
    found, ran = calls(limits, 0.3, 0.8)
    assert found > 0.98 and ran < 22


def test_the_test_on_different_scenes_follows_its_frontier():
    test = UnpairedSequentialTest(40)
    while test.feed(False, True) is None:
        pass
    assert test.verdict == "b" and 4 < test.pairs < 12 and test.wins_b == test.pairs
    with pytest.raises(ValueError, match="ended after"):
        test.feed(False, True)
    other = UnpairedSequentialTest(40)
    while other.feed(True, False) is None:
        pass
    assert (other.verdict, other.pairs) == ("a", test.pairs)
    with pytest.raises(ValueError, match="1 to 300 episodes"):
        UnpairedSequentialTest(301)
