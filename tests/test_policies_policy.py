"""The policy's border and its promises: shapes, limits, repeatability, what the loss looks at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, make_batch, make_observation, make_policy


def test_act_gives_a_chunk_within_the_limits():
    policy = make_policy()
    assert policy.action is not None
    torch.nn.init.normal_(policy.action.leave.weight, std=5.0)  # far outside without the clamp
    chunk = policy.act(make_observation())
    assert chunk.shape == (policy.config.horizon, EMBODIMENT.action_dim)
    assert chunk.dtype == np.float32
    assert (chunk >= EMBODIMENT.action_low).all() and (chunk <= EMBODIMENT.action_high).all()
    assert (np.abs(chunk) == 1).any()


def test_the_noise_seed_decides_the_chunk():
    policy, observation = make_policy(), make_observation()
    again = policy.act(observation)
    torch.manual_seed(123)  # the global generator must not matter
    assert np.array_equal(policy.act(observation), again)
    assert not np.array_equal(policy.act(replace(observation, noise_seed=8)), again)


def test_a_row_does_not_depend_on_its_neighbours():
    policy = make_policy()
    first, second, third = (make_observation(seed) for seed in (1, 2, 3))
    pair, other = policy.act_batch([first, second]), policy.act_batch([first, third])
    assert np.array_equal(pair[0], other[0])
    assert np.allclose(pair[1], policy.act(second), atol=1e-5)


@pytest.mark.parametrize("part", ["instruction", "state", "front", "wrist"])
def test_everything_observed_reaches_the_action(part):
    policy, observation = make_policy(), make_observation()
    if part == "instruction":
        changed = replace(observation, instruction="pick up the blue cube")
    elif part == "state":
        changed = replace(observation, state=observation.state[::-1].copy())
    else:
        images = {**observation.images, part: observation.images[part][::-1].copy()}
        changed = replace(observation, images=images)
    difference = np.abs(policy.act(changed) - policy.act(observation)).max()
    assert difference > 1e-6


def test_the_loss_reaches_every_parameter_and_no_tick_past_the_end():
    policy = make_policy().train()
    batch = make_batch(policy.config.horizon)
    velocities: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        velocities.append(output)

    assert policy.action is not None
    policy.action.leave.register_forward_hook(keep)
    loss = policy.loss(batch, torch.Generator().manual_seed(0))
    velocities[0].retain_grad()
    loss.backward()
    silent = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert velocities[0].grad is not None
    pulled = velocities[0].grad.abs().sum(-1) > 0  # (rows * draws, horizon)
    expected = torch.from_numpy(~batch.action_is_pad).repeat_interleave(CONFIG.noise_draws, 0)
    assert torch.equal(pulled, expected)


def test_an_untrained_policy_has_the_loss_of_predicting_zero_velocity():
    # Zero output: E|x - e|^2 = Var(x) + Var(e) = 2 for normalised actions of unit variance.
    policy = make_policy(wake=False).train()
    batch = make_batch(policy.config.horizon, rows=256)
    assert abs(float(policy.loss(batch).detach()) - 2.0) < 0.1


def test_evaluation_loss_uses_no_augmentation():
    policy, batch = make_policy().eval(), make_batch(4)
    losses = [
        float(policy.loss(batch, torch.Generator().manual_seed(3)).detach()) for _ in range(2)
    ]
    assert losses[0] == losses[1]
    torch.manual_seed(99)
    assert float(policy.loss(batch, torch.Generator().manual_seed(3)).detach()) == losses[0]


def test_refusals():
    policy, good = make_policy(), make_observation()
    with pytest.raises(ValueError, match="unknown camera 'wrist'.*Known: front, wrists"):
        policy.act(
            replace(good, images={"front": good.images["front"], "wrists": good.images["wrist"]})
        )
    small = {**good.images, "wrist": np.zeros((8, 16, 3), np.uint8)}
    with pytest.raises(ValueError, match=r"image 'wrist': expected \(16, 16, 3\)"):
        policy.act(replace(good, images=small))
    with pytest.raises(ValueError, match=r"state: expected 5 entries \(s0, s1"):
        policy.act(replace(good, state=np.zeros(4, np.float32)))
    with pytest.raises(ValueError, match="instruction has 90 bytes, the policy takes 64"):
        policy.act(replace(good, instruction="x" * 90))
    with pytest.raises(ValueError, match="instruction is empty"):
        policy.act(replace(good, instruction=""))
    with pytest.raises(ValueError, match="execution_horizon 9 must lie in 1..horizon"):
        replace(policy.config, execution_horizon=9)
