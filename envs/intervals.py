"""How sure a success rate is. Next: `envs/rollout.py` (where the episodes come from)."""

from scipy.stats import binomtest


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a success rate: (low, high), both in [0, 1].

    Without episodes nothing is known: (0, 1).
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"got {successes} successes in {episodes} episodes; expected 0 to all")
    if episodes == 0:
        return 0.0, 1.0
    interval = binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
