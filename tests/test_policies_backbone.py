"""A pretrained VLM as the context of a policy, and a policy for two robots."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, make_batch, make_observation, make_stats
from vlm_checkpoints import write_checkpoint

from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.schema import Batch, Camera, Observation
from ulna.policies.checkpoint import load_policy, save_policy
from ulna.policies.expert import TrunkConfig
from ulna.policies.policy import Policy
from ulna.policies.presets import BACKBONES
from ulna.policies.vlm import VlmConfig

FAMILIES = ("smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl")
SECOND = replace(
    EMBODIMENT,
    name="second",
    state_names=("a", "b"),
    action_names=("p", "q", "r", "s", "t"),
    action_low=(-2.0,) * 5,
    action_high=(2.0,) * 5,
    cameras=(Camera("front", 24, 32),),
)


def wake(policy: Policy) -> Policy:
    for parameter in policy.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return policy.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm") / request.param
    write_checkpoint(folder, request.param)
    return folder


def with_backbone(weights: Path, **changes: Any) -> Policy:
    torch.manual_seed(0)
    backbone = VlmConfig(weights=str(weights), dtype="float32", **changes)
    return wake(Policy(replace(CONFIG, backbone=backbone), EMBODIMENT, make_stats()))


def test_a_policy_on_a_backbone_learns_acts_and_needs_no_weights_folder_later(
    weights: Path, tmp_path: Path
):
    policy, batch = with_backbone(weights), make_batch(4)
    policy.train().loss(batch, torch.Generator().manual_seed(0)).backward()
    taught = {n.partition(".")[0] for n, p in policy.named_parameters() if p.grad is not None}
    assert taught == {"observe", "trunk", "action"}
    observation = make_observation()
    chunk = policy.eval().act(observation)
    assert chunk.shape == (4, 3)
    for part in ("instruction", "state", "front", "wrist"):
        if part == "instruction":
            other = replace(observation, instruction="pick up the blue cube")
        elif part == "state":
            other = replace(observation, state=observation.state[::-1].copy())
        else:
            flipped = observation.images[part][::-1].copy()
            other = replace(observation, images={**observation.images, part: flipped})
        assert np.abs(policy.act(other) - chunk).max() > 1e-7, part
    pair = policy.act_batch([make_observation(3), observation])
    assert np.allclose(pair[1], chunk, atol=1e-4)
    save_policy(tmp_path / "policy", policy, make_stats())
    away = weights.with_name(weights.name + "-away")
    weights.rename(away)
    try:
        assert np.allclose(load_policy(tmp_path / "policy").act(observation), chunk, atol=1e-6)
    finally:
        away.rename(weights)


def test_lora_and_full_training_reach_the_backbone(weights: Path):
    for training, expected in (("lora", "lora_"), ("full", "backbone.")):
        policy = with_backbone(weights, training=training).train()
        policy.loss(make_batch(4), torch.Generator().manual_seed(0)).backward()
        grown = [n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()]
        assert any(expected in name for name in grown)


@pytest.mark.parametrize("name", BACKBONES)
def test_its_presets_build_on_a_small_checkpoint_of_their_family(name: str, tmp_path: Path):
    family = {"smolvlm": "smolvlm", "paligemma": "paligemma", "qwen_vl": "qwen2_5_vl"}[name]
    write_checkpoint(tmp_path / family, family)
    config = BACKBONES[name]()
    assert config.backbone is not None
    small = replace(
        config,
        backbone=replace(config.backbone, weights=str(tmp_path / family), layers=2, image_size=0),
        trunk=TrunkConfig(width=24),
        horizon=4,
        execution_horizon=2,
    )
    policy = wake(Policy(small, EMBODIMENT, make_stats()))
    chunk = policy.act(make_observation())
    assert chunk.shape == (4, 3) and np.isfinite(chunk).all()
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.train().loss(make_batch(4), torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss)


def two_robots() -> Policy:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    second = NormStats(
        {
            "state": stream_stats(rng.normal(size=(50, 2))),
            "action": stream_stats(rng.normal(size=(50, 5))),
        },
        "made up",
        1,
    )
    config = replace(CONFIG, image_size=(16, 16), padded_action=6)
    return wake(Policy(config, [EMBODIMENT, SECOND], [make_stats(), second]))


def batch_of_second(rows: int = 4) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        images={"front": rng.integers(0, 256, (rows, 24, 32, 3), np.uint8)},
        state=rng.normal(size=(rows, 2)).astype(np.float32),
        action_chunk=rng.normal(size=(rows, 4, 5)).astype(np.float32),
        action_is_pad=np.zeros((rows, 4), bool),
        instructions=("pick up the red cube",) * rows,
    )


def test_one_policy_learns_from_and_acts_for_two_robots(tmp_path: Path):
    policy = two_robots().train()
    losses = [
        policy.loss(make_batch(4), torch.Generator().manual_seed(0)),
        policy.loss(batch_of_second(), torch.Generator().manual_seed(0), slot=1),
    ]
    (losses[0] + losses[1]).backward()
    silent = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    policy.eval()
    first = policy.act(make_observation())
    assert first.shape == (4, 3)
    rng = np.random.default_rng(2)
    seen = Observation(
        {"front": rng.integers(0, 256, (24, 32, 3), np.uint8)},
        np.zeros(2, np.float32), "pick up the red cube", 3,
    )  # fmt: skip
    second = policy.use(SECOND).act(seen)
    assert second.shape == (4, 5) and np.abs(second).max() <= 2
    save_policy(tmp_path, policy, [make_stats(), make_stats_of(policy)])
    again = load_policy(tmp_path, embodiment=SECOND)
    assert np.array_equal(again.act(seen), second)
    assert np.array_equal(load_policy(tmp_path).act(make_observation()), first)
    with pytest.raises(ValueError, match="none of the embodiments.*'tiny', 'second'"):
        load_policy(tmp_path, embodiment=replace(SECOND, name="third"))


def make_stats_of(policy: Policy) -> NormStats:
    """Statistics whose normalisers are those of the second robot: the weights overwrite them."""
    rng = np.random.default_rng(1)
    return NormStats(
        {
            "state": stream_stats(rng.normal(size=(50, 2))),
            "action": stream_stats(rng.normal(size=(50, 5))),
        },
        "made up",
        1,
    )


def test_entries_a_robot_lacks_neither_teach_nor_count():
    policy = two_robots()
    batch, generator = make_batch(4), torch.Generator()
    loss = policy.loss(batch, generator.manual_seed(0))
    assert policy.action is not None
    with torch.no_grad():  # what is said of entries 3 to 5 must not matter to a robot of three
        policy.action.leave.weight[3:] = 100.0
        policy.action.enter.weight[:, 3:] = 100.0
    assert torch.equal(policy.loss(batch, generator.manual_seed(0)), loss)
    chunk = policy.act(make_observation())
    with torch.no_grad():
        policy.action.leave.bias[3:] = -50.0
    assert np.array_equal(policy.act(make_observation()), chunk)
