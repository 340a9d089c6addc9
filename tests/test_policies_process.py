"""Processes and samplers against what is known in closed form."""

import math

import pytest
import scipy.stats
import torch

from ulna.policies.process import (
    DiffusionConfig,
    FlowConfig,
    ProcessConfig,
    make_process,
    sample_time,
)
from ulna.policies.sampler import Known, SamplerConfig, sample

MEAN, SPREAD = 2.0, 0.5
DIFFUSIONS = [
    DiffusionConfig(solver=solver, prediction=prediction)
    for solver in ("ddim", "ddpm", "dpm++")
    for prediction in ("epsilon", "sample", "v_prediction")
]


def best_guess(config: ProcessConfig):
    """The output with the smallest expected error if the data is N(MEAN, SPREAD^2)."""

    def flow(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        # E[a - e | x_t = x], jointly Gaussian with x_t
        covariance = time * SPREAD**2 - (1 - time)
        variance = time**2 * SPREAD**2 + (1 - time) ** 2
        return MEAN + covariance / variance * (x - time * MEAN)

    if isinstance(config, FlowConfig):
        return flow
    # squared cosine levels, arXiv 2102.09672 eq. 17, betas at most 0.999
    k = torch.arange(config.noise_steps + 1, dtype=torch.float64) / config.noise_steps
    level = torch.cos((k + 0.008) / 1.008 * torch.pi / 2) ** 2
    alpha = (1 - (1 - level[1:] / level[:-1]).clamp(max=0.999)).cumprod(0).float()

    def diffusion(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        a = alpha[torch.round((1 - time) * config.noise_steps).long() - 1]
        clean = MEAN + a.sqrt() * SPREAD**2 / (a * SPREAD**2 + 1 - a) * (x - a.sqrt() * MEAN)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return {
            "sample": clean,
            "epsilon": noise,
            "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean,
        }[config.prediction]

    return diffusion


def drawn(config: ProcessConfig, steps: int, count: int = 4000) -> torch.Tensor:
    guess = best_guess(config)
    noise = torch.randn(count, 1, 1, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return sample(
        lambda x, t: {"action": guess(x["action"], t["action"][:, None, None])},
        {"action": noise},
        make_process(config),
        {"action": steps},
        generators=generators,
    )["action"]


@pytest.mark.parametrize("config", [FlowConfig(), *DIFFUSIONS], ids=str)
def test_the_best_guess_of_a_gaussian_leads_to_that_gaussian(config: ProcessConfig):
    result = drawn(config, 50)
    # DPM-Solver++ takes noise for data with a signal of e^-4, that is MEAN e^-4 off.
    begins_off = MEAN * math.exp(-4) if getattr(config, "solver", "") == "dpm++" else 0.0
    assert abs(float(result.mean()) - MEAN) < 0.03 + begins_off
    assert abs(float(result.std()) - SPREAD) < 0.05


@pytest.mark.parametrize("config", [FlowConfig(), *DIFFUSIONS], ids=str)
def test_corruption_runs_from_noise_to_data_and_its_target_undoes_it(config: ProcessConfig):
    process = make_process(config)
    data, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    almost, _ = process.corrupt(data, noise, torch.ones(2))
    assert torch.equal(almost, data)
    start, _ = process.corrupt(data, noise, torch.zeros(2))
    assert (start - noise).abs().max() < 0.2
    half = torch.full((2,), 0.5)
    noisy, target = process.corrupt(data, noise, half)
    if isinstance(config, FlowConfig):
        assert torch.allclose(noisy + 0.5 * target, data, atol=1e-6)
    else:
        expected = {"sample": data, "epsilon": noise}.get(config.prediction)
        assert expected is None or torch.equal(target, expected)


@pytest.mark.parametrize("config", [FlowConfig(), DiffusionConfig()], ids=str)
def test_every_token_may_have_its_own_time(config: ProcessConfig):
    process = make_process(config)
    data, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    times = torch.tensor([[0.1, 0.5, 0.9, 1.0], [0.0, 0.2, 0.4, 0.6]])
    noisy, target = process.corrupt(data, noise, times)
    for row in range(2):
        for token in range(4):
            one = (slice(row, row + 1), slice(token, token + 1))
            alone, of_alone = process.corrupt(data[one], noise[one], times[row, token][None])
            assert torch.allclose(noisy[one], alone)
            assert torch.allclose(target[one], of_alone)


def test_training_times_of_diffusion_are_those_its_solver_asks_at():
    process = make_process(DiffusionConfig(noise_steps=50))
    times = process.sample_time(2000, torch.Generator().manual_seed(0))
    assert set(process.solver(50).times) == set(times.tolist())
    times = process.solver(10).times  # not at pure noise, where nothing is to be seen
    assert times == pytest.approx([0.08 + 0.1 * step for step in range(10)])


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


def test_groups_move_in_their_own_steps_and_the_coarse_one_last():
    asked: list[tuple[float, float]] = []

    def network(x, t):
        asked.append((float(t["action"][0]), float(t["future"][0])))
        return {name: torch.ones_like(value) for name, value in x.items()}

    start = {"action": torch.zeros(1, 2, 3), "future": torch.zeros(1, 4, 1)}
    made = sample(network, start, make_process(FlowConfig()), {"action": 2, "future": 6})
    assert asked == [
        pytest.approx(pair)
        for pair in [(0, 0), (0, 1 / 6), (0, 2 / 6), (0.5, 3 / 6), (0.5, 4 / 6), (0.5, 5 / 6)]
    ]
    assert all(torch.allclose(value, torch.ones_like(value)) for value in made.values())


def test_equal_step_counts_are_plain_euler_bit_for_bit():
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))

    def network(x, t):
        drift = x["action"].tanh() @ weight + t["action"][:, None, None]
        return {"action": drift, "future": -x["future"]}

    x = noise
    for step in range(5):
        x = x + (x.tanh() @ weight + step / 5) / 5
    made = sample(
        network,
        {"action": noise, "future": noise},
        make_process(FlowConfig()),
        {"action": 5, "future": 5},
    )
    assert torch.equal(made["action"], x)


def test_given_groups_are_clean_inputs_and_known_tokens_stay():
    seen: list[dict[str, torch.Tensor]] = []

    def network(x, t):
        seen.append({"future": t["future"], "action": t["action"], "x": x["action"]})
        return {name: torch.ones_like(value) for name, value in x.items()}

    mask = torch.tensor([[True, False, False]])
    values = torch.full((1, 3, 1), 7.0)
    made = sample(
        network,
        {"action": torch.zeros(1, 3, 1)},
        make_process(FlowConfig()),
        {"action": 4},
        given={"future": torch.full((1, 2, 2), 5.0)},
        known={"action": Known(values, mask)},
    )
    assert set(made) == {"action"}
    assert made["action"].flatten().tolist() == pytest.approx([7.0, 1.0, 1.0])
    for index, step in enumerate(seen):
        assert step["future"].tolist() == [1.0]
        assert step["action"].tolist() == [[1.0, index / 4, index / 4]]
        assert float(step["x"][0, 0, 0]) == 7.0


def test_a_stochastic_solver_draws_each_row_from_its_own_generator():
    config = DiffusionConfig(solver="ddpm")
    guess = best_guess(config)

    def run(seeds: list[int]) -> torch.Tensor:
        noise = torch.stack(
            [torch.randn(1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
        return sample(
            lambda x, t: {"action": guess(x["action"], t["action"][:, None, None])},
            {"action": noise}, make_process(config), {"action": 5}, generators=generators,
        )["action"]  # fmt: skip

    assert torch.equal(run([1, 2])[0], run([1, 3])[0])
    assert not torch.equal(run([1, 2])[1], run([1, 3])[1])


def test_refusals():
    with pytest.raises(ValueError, match="1 or more"):
        SamplerConfig(steps=0)
    with pytest.raises(ValueError, match="future_steps 6 must be a multiple of steps 4"):
        SamplerConfig(steps=4, future_steps=6)
    flow = make_process(FlowConfig())
    start = {"action": torch.zeros(1, 2, 3), "future": torch.zeros(1, 4, 1)}
    with pytest.raises(ValueError, match="'action' has 4 steps, which do not divide the 6"):
        sample(lambda x, t: x, start, flow, {"action": 4, "future": 6})
    with pytest.raises(ValueError, match="unknown group with a step count 'future'"):
        sample(lambda x, t: x, start, flow, {"action": 4})
    with pytest.raises(ValueError, match="200 sampler steps, but .* 100 noise levels"):
        make_process(DiffusionConfig()).solver(200)
    with pytest.raises(ValueError, match="100 sampler steps of dpm.. do not fit 100 noise"):
        make_process(DiffusionConfig(solver="dpm++")).solver(100)
