"""Flow matching against what is known in closed form."""

import pytest
import scipy.stats
import torch

from ulna.policies.process import corrupt, sample_time
from ulna.policies.sampler import SamplerConfig, integrate


def test_the_path_runs_from_noise_to_action():
    action, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    start, velocity = corrupt(action, noise, torch.zeros(2))
    end, _ = corrupt(action, noise, torch.ones(2))
    assert torch.equal(start, noise)
    assert torch.equal(end, action)
    half, _ = corrupt(action, noise, torch.full((2,), 0.5))
    assert torch.allclose(half + 0.5 * velocity, action, atol=1e-6)


def test_beta_times_follow_the_law_of_pi0():
    t = sample_time("beta", 20_000, torch.Generator().manual_seed(0))
    # b = 1 - t / 0.999 ~ Beta(1.5, 1)
    assert scipy.stats.kstest(1 - t.numpy() / 0.999, scipy.stats.beta(1.5, 1).cdf).pvalue > 0.01
    assert abs(float(t.mean()) - 0.4) < 0.01


@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
def test_other_laws_lie_in_the_unit_interval_around_a_half(law):
    t = sample_time(law, 20_000, torch.Generator().manual_seed(0))
    assert 0 <= float(t.min()) and float(t.max()) <= 1
    assert abs(float(t.mean()) - 0.5) < 0.01


def test_integrating_the_exact_field_of_a_gaussian_gives_that_gaussian():
    mean, spread = 2.0, 0.5

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # E[a - e | x_t = x] for a ~ N(mean, spread^2), e ~ N(0, 1), jointly Gaussian with x_t.
        time = t[:, None, None]
        covariance = time * spread**2 - (1 - time)
        variance = time**2 * spread**2 + (1 - time) ** 2
        return mean + covariance / variance * (x - time * mean)

    noise = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    result = integrate(velocity, noise, steps=200)
    assert abs(float(result.mean()) - mean) < 0.02
    assert abs(float(result.std()) - spread) < 0.02


def test_refusals():
    with pytest.raises(ValueError, match="1 or more"):
        SamplerConfig(steps=0)
