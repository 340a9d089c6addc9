"""Intervals of rates: against other people's code, and that they cover what they say."""

import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from ulna.envs.intervals import INTERVALS, beta_interval, clopper_pearson, interval, wilson

TABLES = [(0, 1), (1, 1), (0, 20), (20, 20), (9, 10), (47, 50), (97, 100), (1500, 2000)]


@pytest.mark.parametrize(("successes", "episodes"), TABLES)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_statsmodels_has_the_same(successes, episodes, confidence):
    for method, theirs in ((wilson, "wilson"), (clopper_pearson, "beta")):
        expected = proportion_confint(successes, episodes, 1 - confidence, theirs)
        assert method(successes, episodes, confidence) == pytest.approx(expected, abs=1e-9), theirs


@pytest.mark.parametrize(
    ("episodes", "rate", "halves"),
    [(10, 0.9, (19, 22, 20)), (50, 0.9, (8.5, 9.2, 8.5)), (500, 0.9, (2.6, 2.7, 2.6))],
)
def test_half_widths_known_from_elsewhere(episodes, rate, halves):
    """In points, as measured for this project before there was any code of it."""
    for method, half in zip(("wilson", "clopper_pearson", "beta"), halves, strict=True):
        low, high = interval(round(rate * episodes), episodes, method=method)
        assert 50 * (high - low) == pytest.approx(half, abs=0.51 if half > 15 else 0.05)


@pytest.mark.parametrize("episodes", [5, 20, 50])
def test_coverage(episodes):
    """Clopper-Pearson covers every rate; Wilson and Beta on average over rates."""
    rates = [i / 200 for i in range(1, 200)]
    covered = {name: [] for name in INTERVALS}
    for name in INTERVALS:
        found = [interval(k, episodes, method=name) for k in range(episodes + 1)]
        for rate in rates:
            inside = [k for k, (low, high) in enumerate(found) if low <= rate <= high]
            covered[name].append(float(binom.pmf(inside, episodes, rate).sum()))
    assert min(covered["clopper_pearson"]) >= 0.95
    assert min(covered["wilson"]) < 0.95  # the average is what it promises
    for name in ("wilson", "beta"):
        assert sum(covered[name]) / len(rates) == pytest.approx(0.95, abs=0.01), name


def test_beta_is_the_posterior_of_a_flat_prior():
    # One success of one: density 2p, so the quantiles are square roots.
    assert beta_interval(1, 1, 0.9) == pytest.approx((0.05**0.5, 0.95**0.5))


def test_without_episodes_nothing_is_known():
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
    assert beta_interval(0, 0, 0.9) == pytest.approx((0.05, 0.95))


def test_refusals():
    for method in INTERVALS.values():
        with pytest.raises(ValueError, match="got 3 successes in 2 episodes"):
            method(3, 2, 0.95)
        with pytest.raises(ValueError, match="got a confidence of 95"):
            method(1, 2, 95.0)
    with pytest.raises(ValueError, match="unknown interval 'wilsn'. Did you mean 'wilson'"):
        interval(1, 2, method="wilsn")
