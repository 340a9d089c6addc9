"""Comparing two policies: against scipy and statsmodels on random tables, against published
numbers, and by simulation."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import barnard_exact
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from ulna.envs import comparison
from ulna.envs.comparison import (
    PairedTable,
    barnard,
    mcnemar,
    newcombe,
    newcombe_paired,
    odds_ratio,
    paired_bootstrap,
    paired_table,
    tango,
)
from ulna.envs.comparison_planning import (
    detectable_paired,
    differing_share,
    episodes_for_margin,
    episodes_paired,
    episodes_unpaired,
)
from ulna.envs.comparison_tasks import (
    holm,
    interquartile_mean,
    macro_difference,
    macro_rate,
    pooled,
)
from ulna.envs.intervals import wilson


def random_tables(count: int, most: int = 60) -> list[PairedTable]:
    rng = np.random.default_rng(0)
    return [PairedTable(*(int(v) for v in rng.integers(0, most, 4))) for _ in range(count)]


def test_scenes_are_counted():
    table = paired_table([True, True, True, False, False], [True, False, False, True, False])
    assert table == PairedTable(both=1, only_a=2, only_b=1, neither=1)
    assert (table.scenes, table.differing, table.difference) == (5, 3, -0.2)
    with pytest.raises(ValueError, match="A has outcomes of 1 scenes, B of 2"):
        paired_table([True], [True, False])
    with pytest.raises(ValueError, match="0 or more"):
        PairedTable(1, -1, 0, 0)


def test_mcnemar_is_that_of_statsmodels():
    for t in random_tables(100):
        theirs: Any = their_mcnemar([[t.both, t.only_a], [t.only_b, t.neither]], exact=True)
        assert mcnemar(t) == pytest.approx(float(theirs.pvalue), rel=1e-9, abs=1e-12)
    assert mcnemar(PairedTable(9, 0, 0, 3)) == 1.0
    assert mcnemar(PairedTable(0, 1, 9, 0)) == pytest.approx(2 * 11 / 1024)


def test_barnard_is_that_of_scipy_and_large_tables_take_the_score_test(monkeypatch):
    assert barnard(7, 12, 10, 13)[0] == pytest.approx(
        barnard_exact([[7, 10], [5, 3]]).pvalue, rel=1e-6
    )
    exact, name = barnard(150, 300, 180, 300)
    assert name == "Barnard's exact test"
    monkeypatch.setattr(comparison, "MOST_BARNARD", 100)
    score, name = barnard(150, 300, 180, 300)
    assert name == "score test" and score == pytest.approx(exact, rel=0.1)
    assert score == pytest.approx(float(proportions_ztest([150, 180], [300, 300])[1]))
    assert barnard(0, 5, 0, 9)[0] == barnard(5, 5, 9, 9)[0] == 1.0


def test_newcombe_is_that_of_statsmodels():
    rng = np.random.default_rng(1)
    for _ in range(50):
        n, m = (int(v) for v in rng.integers(2, 80, 2))
        a, b = int(rng.integers(0, n + 1)), int(rng.integers(0, m + 1))
        expected = confint_proportions_2indep(b, m, a, n, method="newcomb", compare="diff")
        found = newcombe(a, n, b, m)
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_newcombe_paired_as_published():
    """Newcombe 1998, table II, method 10; his difference is A minus B."""
    for table, low, high in (
        (PairedTable(36, 12, 2, 0), 0.0569, 0.3404),
        (PairedTable(54, 0, 0, 0), -0.0664, 0.0664),
    ):
        found = newcombe_paired(table)
        assert (-found.high, -found.low) == pytest.approx((low, high), abs=5e-5)


def test_tango_is_the_inverse_of_its_test():
    """At the ends of the interval the score, with the likelihood maximised by brute force instead
    of by the closed form, is the normal quantile."""

    def score(t: PairedTable, delta: float) -> float:
        same = t.both + t.neither

        def loss(q: float) -> float:
            p = q + delta
            return -sum(
                k * math.log(max(v, 1e-300))
                for k, v in ((t.only_b, p), (t.only_a, q), (same, 1 - p - q))
                if k
            )

        low, high = max(0.0, -delta), (1 - delta) / 2
        best: Any = minimize_scalar(
            loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        )
        q = float(best.x)
        deviation = math.sqrt(t.scenes * (2 * q + delta * (1 - delta)))
        return (t.only_b - t.only_a - t.scenes * delta) / deviation

    for t in random_tables(20):
        found = tango(t)
        assert score(t, found.low) == pytest.approx(1.959964, abs=2e-3)
        assert score(t, found.high) == pytest.approx(-1.959964, abs=2e-3)


def test_tango_at_the_edges():
    for t in (PairedTable(0, 0, 10, 0), PairedTable(0, 10, 0, 0), PairedTable(30, 0, 0, 9)):
        found = tango(t)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.1
    nothing = tango(PairedTable(0, 0, 0, 0))
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (-1, 1)
    mirrored = tango(PairedTable(5, 3, 8, 2)), tango(PairedTable(5, 8, 3, 2))
    assert mirrored[0].low == pytest.approx(-mirrored[1].high)


@pytest.mark.parametrize(
    ("method", "least"), [(tango, 0.92), (newcombe_paired, 0.92), (paired_bootstrap, 0.85)]
)
def test_coverage_where_policies_are_good_and_alike(method, least):
    """Rates .94 and .98 on 50 shared scenes: the true difference is inside, as often as said. The
    bootstrap is the worst, which is why it is not the one that is reported."""
    shares = [0.93, 0.01, 0.05, 0.01]  # both, only A, only B, neither
    rng = np.random.default_rng(2)
    drawn = rng.multinomial(50, shares, 150)
    inside = [
        found.low <= 0.04 <= found.high
        for found in (method(PairedTable(*(int(v) for v in row))) for row in drawn)
    ]
    assert np.mean(inside) >= least


def test_bootstrap_agrees_with_tango_on_large_tables():
    table = PairedTable(500, 120, 180, 200)
    boot, score = paired_bootstrap(table), tango(table)
    assert (boot.low, boot.high) == pytest.approx((score.low, score.high), abs=2e-3)
    assert paired_bootstrap(table) == boot


def test_odds():
    found = odds_ratio(PairedTable(10, 2, 12, 6))
    assert found.value == 6 and found.low < 6 < found.high
    # The odds' interval holds 1 exactly when the exact test does not refuse.
    for t in random_tables(60, most=15):
        odds = odds_ratio(t)
        if mcnemar(t) < 0.04 or mcnemar(t) > 0.06:
            assert (odds.low <= 1 <= odds.high) == (mcnemar(t) > 0.05)
    assert odds_ratio(PairedTable(1, 0, 4, 0)).high == math.inf
    assert math.isnan(odds_ratio(PairedTable(1, 0, 0, 0)).value)


@pytest.mark.parametrize(
    ("a", "b", "unpaired", "correlated", "closely"),
    [
        (0.50, 0.60, 388, 275, 160), (0.90, 0.95, 435, 315, 191),
        (0.95, 0.97, 1506, 1071, 634), (0.97, 0.98, 3826, 2704, 1579),
    ],
)  # fmt: skip
def test_episodes_needed_as_known_from_elsewhere(a, b, unpaired, correlated, closely):
    assert episodes_unpaired(a, b) == episodes_unpaired(b, a) == unpaired
    for correlation, needed in ((0.3, correlated), (0.6, closely)):
        assert episodes_paired(b - a, differing_share(a, b, correlation)) == needed


def test_the_power_is_there():
    differing = differing_share(0.8, 0.9, 0.3)
    scenes = episodes_paired(0.1, differing)
    rng = np.random.default_rng(3)
    shares = [(differing - 0.1) / 2, (differing + 0.1) / 2, 1 - differing]
    drawn = rng.multinomial(scenes, shares, 400)
    found = [mcnemar(PairedTable(0, int(a), int(b), int(same))) < 0.05 for a, b, same in drawn]
    assert np.mean(found) == pytest.approx(0.78, abs=0.06)  # exact: a little below the 0.8


def test_what_scenes_can_show():
    found = detectable_paired(100, 0.2)
    assert episodes_paired(found, 0.2) <= 100 < episodes_paired(found * 0.99, 0.2)
    assert detectable_paired(3, 0.1) == 1.0  # nothing
    assert detectable_paired(400, 0.2) < found


def test_margin():
    for method in ("wilson", "clopper_pearson"):
        needed = episodes_for_margin(0.5, 0.05, method=method)
        assert needed == pytest.approx(385, rel=0.05)
    low, high = wilson(round(0.9 * 138), 138)
    assert (high - low) / 2 == pytest.approx(0.05, abs=2e-3)
    assert episodes_for_margin(0.9, 0.05) == pytest.approx(138, abs=6)


def test_macro_rate_counts_tasks_alike():
    found = macro_rate({"easy": (1000, 1000), "hard": (0, 10)})
    assert found.value == 0.5 and 0.49 < found.low < 0.5 < found.high < 0.65
    sure = macro_rate({"one": (20, 20), "two": (20, 20)})
    assert sure.value == sure.high == 1.0 and 0.9 < sure.low < 0.98
    with pytest.raises(ValueError, match="task b has 0 successes in 0 episodes"):
        macro_rate({"a": (1, 2), "b": (0, 0)})


def test_macro_difference_of_one_task_is_that_of_the_task():
    table = PairedTable(300, 40, 80, 100)
    alone, score = macro_difference({"a": table}), tango(table)
    assert (alone.value, alone.low, alone.high) == pytest.approx(
        (score.value, score.low, score.high), abs=4e-3
    )
    both = macro_difference({"a": table, "b": PairedTable(100, 80, 40, 300)})
    assert both.value == 0 and both.high - both.low < alone.high - alone.low
    assert pooled([table, table]) == PairedTable(600, 80, 160, 200)
    with pytest.raises(ValueError, match="no scene was run by both policies: b"):
        macro_difference({"a": table, "b": PairedTable(0, 0, 0, 0)})


def test_one_broken_run_does_not_move_the_interquartile_mean():
    rates = np.full((8, 4), 0.9)
    rates[0] = 0.0
    found = interquartile_mean(rates)
    assert found.value == pytest.approx(0.9) and rates.mean() < 0.8
    assert found.low <= 0.9 <= found.high


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(4)
    for count in (1, 2, 7):
        p = rng.uniform(0, 0.2, count)
        theirs: Any = multipletests(p, method="holm")[1]
        assert holm(p.tolist()) == pytest.approx(theirs.tolist())
    assert holm([]) == []


def test_refusals():
    with pytest.raises(ValueError, match="cannot have a correlation of 0.9; expected"):
        differing_share(0.5, 0.95, 0.9)
    with pytest.raises(ValueError, match="no number of episodes shows a difference of 0"):
        episodes_unpaired(0.5, 0.5)
    with pytest.raises(ValueError, match="no more than what differs"):
        episodes_paired(0.3, 0.2)
    with pytest.raises(ValueError, match="got a power of 80"):
        episodes_paired(0.1, 0.2, power=80.0)
    with pytest.raises(ValueError, match="got a margin of 5"):
        episodes_for_margin(0.9, 5.0)
    with pytest.raises(ValueError, match="got a p-value of 1.5"):
        holm([1.5])
