"""How sure a success rate is. Next: `envs/comparison.py` (how sure a difference is)."""

from collections.abc import Callable

from scipy.stats import beta, binomtest

from ..datasets.schema import unknown_name


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate: (low, high), both in [0, 1].

    The one that is reported: on average over rates it covers what it says, and it is short.
    Without episodes nothing is known: (0, 1).
    """
    _check(successes, episodes, confidence)
    if episodes == 0:
        return 0.0, 1.0
    interval = binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval: it covers the rate at least as often as it says for every rate, and is
    wider for it. For safety cases ("at least 99 %"), where Wilson's average is not enough."""
    _check(successes, episodes, confidence)
    tail = (1 - confidence) / 2
    failures = episodes - successes
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, failures + 1))
    high = 1.0 if failures == 0 else float(beta.ppf(1 - tail, successes + 1, failures))
    return low, high


def beta_interval(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between the quantiles of what is believed after the episodes, if every rate was as likely
    before them: a Beta(1, 1) prior. What some model cards report."""
    _check(successes, episodes, confidence)
    tail = (1 - confidence) / 2
    belief = beta(successes + 1, episodes - successes + 1)
    return float(belief.ppf(tail)), float(belief.ppf(1 - tail))


INTERVALS: dict[str, Callable[[int, int, float], tuple[float, float]]] = {
    "wilson": wilson,
    "clopper_pearson": clopper_pearson,
    "beta": beta_interval,
}


def interval(
    successes: int, episodes: int, confidence: float = 0.95, method: str = "wilson"
) -> tuple[float, float]:
    """The interval called `method` (a name of `INTERVALS`)."""
    if method not in INTERVALS:
        raise unknown_name("interval", method, INTERVALS)
    return INTERVALS[method](successes, episodes, confidence)


def _check(successes: int, episodes: int, confidence: float) -> None:
    if not 0 <= successes <= episodes:
        raise ValueError(f"got {successes} successes in {episodes} episodes; expected 0 to all")
    check_confidence(confidence)


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"got a confidence of {confidence}; expected between 0 and 1, such as .95")
