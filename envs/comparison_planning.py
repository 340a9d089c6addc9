"""How many episodes are needed: to know a rate, to see a difference.

                              .50 / .60   .90 / .95   .95 / .97     episodes per policy to see the
    different scenes             388         435        1506        difference in 4 of 5 tries
    same scenes, r = 0.3         275         315        1071        r: correlation of the two
    same scenes, r = 0.6         160         191         634        policies' outcomes per scene

Next: `envs/comparison.py` (the tests), `envs/sequential_test.py` (needing fewer by looking).
"""

import math

from scipy.stats import norm

from .intervals import check_confidence, interval


def episodes_for_margin(
    rate: float, margin: float, confidence: float = 0.95, method: str = "wilson"
) -> int:
    """Fewest episodes whose interval is at most `margin` wide to each side (half of its width), at
    a rate of about `rate` (0.05 for 5 points)."""
    _check_rate(rate)
    if not 0 < margin < 0.5:
        raise ValueError(f"got a margin of {margin}; expected between 0 and 0.5, such as 0.05")

    def enough(episodes: int) -> bool:
        low, high = interval(round(rate * episodes), episodes, confidence, method)
        return (high - low) / 2 <= margin

    most = 1
    while not enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def episodes_unpaired(
    rate_a: float, rate_b: float, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Episodes per policy, on different scenes, to see that the rates differ, `power` of the time
    (normal approximation of the two-sided score test)."""
    difference = _check_rates(rate_a, rate_b)
    mean = (rate_a + rate_b) / 2
    null = math.sqrt(2 * mean * (1 - mean))
    alternative = math.sqrt(rate_a * (1 - rate_a) + rate_b * (1 - rate_b))
    return _needed(null, alternative, difference, power, confidence)


def differing_share(rate_a: float, rate_b: float, correlation: float) -> float:
    """Share of scenes that come out differently for two policies whose outcomes on a scene have
    this `correlation`. ValueError where two such rates cannot be so correlated."""
    _check_rate(rate_a)
    _check_rate(rate_b)
    spread = math.sqrt(rate_a * (1 - rate_a) * rate_b * (1 - rate_b))
    both = rate_a * rate_b + correlation * spread
    most, least = min(rate_a, rate_b), max(0.0, rate_a + rate_b - 1)
    if not least - 1e-12 <= both <= most + 1e-12:
        low, high = ((edge - rate_a * rate_b) / spread for edge in (least, most))
        raise ValueError(
            f"outcomes of rates {rate_a} and {rate_b} cannot have a correlation of {correlation}; "
            f"expected {low:.2f} to {high:.2f}"
        )
    return rate_a + rate_b - 2 * both


def episodes_paired(
    difference: float, differing: float, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Scenes, run by both policies, to see a `difference` of rates (0.1 for 10 points) `power` of
    the time, if a share `differing` of scenes comes out differently (`differing_share`, or what was
    seen). Normal approximation of McNemar's test."""
    if not 0 < abs(difference) <= differing <= 1:
        raise ValueError(
            f"got a difference of {difference} with {differing} of scenes differing; expected a "
            "difference that is not 0 and no more than what differs, which is at most 1"
        )
    null = math.sqrt(differing)
    alternative = math.sqrt(max(0.0, differing - difference**2))
    return _needed(null, alternative, abs(difference), power, confidence)


def detectable_paired(
    scenes: int, differing: float, power: float = 0.8, confidence: float = 0.95
) -> float:
    """Smallest difference of rates that `scenes` shared scenes show `power` of the time; 1.0 if
    they cannot show any. Where the difference is more than `differing`, more scenes differ too."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        needed = episodes_paired(middle, max(differing, middle), power, confidence)
        low, high = (low, middle) if needed <= scenes else (middle, high)
    return high


def _needed(
    null: float, alternative: float, difference: float, power: float, confidence: float
) -> int:
    """Episodes for a z-test whose standard deviations per episode are these."""
    check_confidence(confidence)
    if not 0 < power < 1:
        raise ValueError(f"got a power of {power}; expected between 0 and 1, such as 0.8")
    wanted = norm.ppf(0.5 + confidence / 2) * null + norm.ppf(power) * alternative
    return math.ceil((wanted / difference) ** 2 - 1e-9)


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"got a rate of {rate}; expected between 0 and 1, such as 0.9")


def _check_rates(rate_a: float, rate_b: float) -> float:
    _check_rate(rate_a)
    _check_rate(rate_b)
    if rate_a == rate_b:
        raise ValueError(f"both rates are {rate_a}; no number of episodes shows a difference of 0")
    return abs(rate_b - rate_a)
