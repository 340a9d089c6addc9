"""Every preset keeps the promises of a policy, and is the design it says it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, make_batch, make_observation, make_policy, make_stats

from ulna.datasets.schema import Observation
from ulna.policies.checkpoint import load_policy, load_weights_into, save_policy
from ulna.policies.expert import TrunkConfig
from ulna.policies.image_transforms import AugmentConfig, to_float
from ulna.policies.key_cache import Cache
from ulna.policies.policy import Policy
from ulna.policies.policy_config import PolicyConfig
from ulna.policies.pooled_head import PooledHeadConfig
from ulna.policies.presets import PRESETS, dual_stream
from ulna.policies.sampler import Known, SamplerConfig
from ulna.policies.vision import VitConfig
from ulna.policies.world_target import FutureConfig


def small(name: str, **changes: Any) -> PolicyConfig:
    """The preset in the sizes of the tests' tiny robot."""
    made = PRESETS[name]()
    vision = made.vision
    if isinstance(vision, VitConfig):
        vision = replace(vision, patch=4, width=12, depth=1, heads=2)
    else:
        vision = CONFIG.vision
    return replace(
        made,
        horizon=4,
        execution_horizon=2,
        trunk=TrunkConfig(width=16, depth=2, heads=2),
        vision=vision,
        instruction=CONFIG.instruction,
        augment=AugmentConfig(shift_pixels=2),
        pooled_head=PooledHeadConfig(width=16, depth=1),
        future=None if made.future is None else FutureConfig(grid=2, features=3),
        sampler=SamplerConfig(steps=2, future_steps=4 if made.future is not None else 0),
        **changes,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_it_learns_acts_and_comes_back_from_disk(name: str, tmp_path: Path):
    policy = make_policy(config=small(name)).train()
    loss = policy.loss(make_batch(4), torch.Generator().manual_seed(0))
    loss.backward()
    silent = [
        n
        for n, p in policy.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert silent == (["observe.null_state"] if name == "dual_stream" else [])
    policy.eval()
    chunk = policy.act(make_observation())
    assert chunk.shape == (4, 3) and chunk.dtype == np.float32
    assert np.array_equal(policy.act(make_observation()), chunk)
    pair = policy.act_batch([make_observation(), make_observation(5)])
    assert np.allclose(pair[0], chunk, atol=1e-5)
    save_policy(tmp_path / name, policy, make_stats())
    assert np.array_equal(load_policy(tmp_path / name).act(make_observation()), chunk)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("part", ["instruction", "state", "front", "wrist"])
def test_everything_observed_reaches_the_action(name: str, part: str):
    policy, observation = make_policy(config=small(name)), make_observation()
    if part == "instruction":
        changed = replace(observation, instruction="pick up the blue cube")
    elif part == "state":
        changed = replace(observation, state=observation.state[::-1].copy())
    else:
        flipped = observation.images[part][::-1].copy()
        changed = replace(observation, images={**observation.images, part: flipped})

    def said(what: Observation) -> torch.Tensor:
        # Not the chunk: an untrained diffusion runs into the limits, whatever it sees.
        generator = torch.Generator().manual_seed(0)
        noise = {n: torch.randn(1, *z, generator=generator) for n, z in policy.sizes().items()}
        with torch.no_grad():
            cache = policy._context(policy.border.observations([what], 0), None, False)
            return policy.network(cache)(noise, {n: torch.full((1,), 0.5) for n in noise})["action"]

    assert float((said(changed) - said(observation)).abs().max()) > 1e-6


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "pooled_head"])
def test_the_cache_gives_what_computing_everything_gives(name: str):
    policy, batch = make_policy(config=small(name)), make_batch(4)
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(6, *size, generator=generator) for n, size in policy.sizes().items()}
    times = {n: torch.rand(6, generator=generator) for n in noise}
    with torch.no_grad():
        cache = policy.context(batch)
        kept = policy.network(cache)(noise, times)
        groups = policy.observe(policy.border.batch(batch), None, False)
        separate, shared = policy.config.experts == "separate", "context"
        groups = [
            replace(g, expert=g.name.partition(".")[0] if separate else shared) for g in groups
        ]
        streams = [policy.action, policy.future]
        live = [g for s in streams if s is not None for g in s.groups(noise[s.name], times[s.name])]
        whole = policy.trunk([*groups, *live])
    for stream in streams:
        if stream is not None:
            plain = stream.out(whole[stream.name])
            assert float((plain - kept[stream.name]).abs().max()) < 1e-5
    assert {n for n, _ in cache.layout} == set(policy.trunk.cacheable)


@pytest.mark.parametrize("share", ["attention", "all"])
def test_lent_matrices_are_all_used(share: str):
    policy = make_policy(config=replace(small("expert"), share=share)).train()
    policy.loss(make_batch(4), torch.Generator().manual_seed(0)).backward()
    assert [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_shared_matrices_are_one_and_separate_ones_are_not():
    def count(config: PolicyConfig) -> int:
        return sum(p.numel() for p in make_policy(config=config).trunk.parameters())

    base = small("expert")
    tied, ffn_only, full = (
        count(replace(base, share=share)) for share in ("all", "attention", "none")
    )
    assert tied < ffn_only < full
    assert count(small("modalities")) > full


def test_a_frozen_context_stays_bit_for_bit():
    policy = make_policy(config=small("frozen")).train()
    batch = make_batch(4)

    def said() -> list[torch.Tensor]:
        with torch.no_grad():
            cache: Cache = policy.context(batch)
        return [*cache.keys, *cache.values]

    before = said()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], 0.1)
    acted = policy.eval().act(make_observation())
    policy.train()
    for _ in range(3):
        policy.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(x, y) for x, y in zip(before, said(), strict=True))
    assert not np.array_equal(policy.eval().act(make_observation()), acted)


def test_video_teaches_the_future_without_looking_at_actions_or_state():
    policy = make_policy(config=small("dual_stream")).train()
    batch = make_batch(4)
    other = replace(batch, action_chunk=batch.action_chunk * 3, state=batch.state + 1)
    losses = [
        policy.losses(b, torch.Generator().manual_seed(0), "video")["future"]
        for b in (batch, other)
    ]
    assert torch.equal(*losses)
    losses[0].backward()
    assert policy.observe.null_state is not None and policy.observe.state_in is not None
    assert policy.observe.null_state.grad is not None
    assert policy.observe.state_in.weight.grad is None
    with pytest.raises(ValueError, match="recipe dual_stream"):
        make_policy().losses(make_batch(4), None, "video")


def test_the_futures_eyes_are_those_of_the_beginning():
    config = small("dual_stream")
    config = replace(config, future=FutureConfig(features=3, encoder="eyes"))
    policy, batch = make_policy(config=config), make_batch(4)
    policy.calibrate([(0, batch)])
    target = policy.world_target
    assert target is not None
    tokens = policy.future_tokens(batch)
    assert tokens.shape == (6, 4, 3)  # two tokens of each of two cameras
    assert torch.allclose(tokens.mean(0), torch.zeros(4, 3), atol=1e-5)
    images = policy.border.future_images(batch)
    blank = torch.zeros(6, target.condition_dim)
    seen = [policy.observe.vision[n](to_float(x), blank) for n, x in images.items()]
    assert torch.allclose(target.standardized(seen), tokens, atol=1e-6)
    optimizer = torch.optim.SGD(policy.train().parameters(), 0.1)
    policy.loss(batch, torch.Generator().manual_seed(0)).backward()
    optimizer.step()
    policy.eval()
    now = [policy.observe.vision[n](to_float(x), blank) for n, x in images.items()]
    assert not torch.equal(now[0], seen[0])
    assert torch.equal(policy.future_tokens(batch), tokens)


def test_tied_noise_gives_both_streams_one_time_and_independent_noise_does_not():
    times: dict[str, list[dict[str, torch.Tensor]]] = {"tied": [], "independent": []}
    for noise, seen in times.items():
        config = small("dual_stream")
        assert config.future is not None
        policy = make_policy(config=replace(config, future=replace(config.future, noise=noise)))
        network = policy.network

        def watch(cache: Cache, slot: int = 0, network=network, seen=seen):
            ask = network(cache, slot)
            return lambda x, t: (seen.append(t), ask(x, t))[1]

        policy.network = watch
        policy.losses(make_batch(4), torch.Generator().manual_seed(0))
    assert torch.equal(times["tied"][0]["action"], times["tied"][0]["future"])
    assert not torch.equal(times["independent"][0]["action"], times["independent"][0]["future"])


def test_given_future_and_given_action_are_inputs_of_the_same_network():
    policy, batch = make_policy(config=small("dual_stream")), make_batch(4)
    cache = policy.context(batch)
    noise = {n: torch.randn(6, *size) for n, size in policy.sizes().items()}
    clean = policy.future_tokens(batch)
    made = policy.generate(cache, {"action": noise["action"]}, {"future": clean})
    other = policy.generate(cache, {"action": noise["action"]}, {"future": clean + 1})
    assert set(made) == {"action"} and not torch.allclose(made["action"], other["action"])


def test_without_an_eye_on_the_future_two_streams_are_the_expert():
    """Hidden from one another, the action stream does not know that there is a future."""
    config = small("dual_stream")
    policy, batch = make_policy(config=config), make_batch(4)
    cache = policy.context(batch)
    noise = {n: torch.randn(6, *size) for n, size in policy.sizes().items()}
    times = {n: torch.rand(6) for n in noise}
    both = policy.network(cache)(noise, times)["action"]
    alone = policy.network(cache)({"action": noise["action"]}, {"action": times["action"]})
    assert not torch.allclose(both, alone["action"], atol=1e-4)
    sight = {row: dict(columns) for row, columns in policy.trunk.mask.sight.items()}
    sight["action"]["future"] = "none"
    policy.trunk.mask = replace(policy.trunk.mask, sight=sight)
    policy.trunk._masks.clear()
    hidden = policy.network(cache)(noise, times)["action"]
    assert torch.allclose(hidden, alone["action"], atol=1e-5)


def test_known_actions_are_kept_and_shape_the_others():
    policy, batch = make_policy(), make_batch(4)
    cache = policy.context(batch)
    noise = {"action": torch.randn(6, 4, 3)}
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[:, :2] = True
    made = [
        policy.generate(cache, noise, known={"action": Known(values, mask)})["action"]
        for values in (torch.full((6, 4, 3), 0.5), torch.full((6, 4, 3), -0.5))
    ]
    assert torch.equal(made[0][:, :2], torch.full((6, 2, 3), 0.5))
    assert not torch.allclose(made[0][:, 2:], made[1][:, 2:], atol=1e-4)


def test_a_missing_camera_is_left_out_and_not_drawn_black():
    config = replace(CONFIG, camera_dropout=0.5)
    policy, observation = make_policy(config=config), make_observation()
    front = replace(observation, images={"front": observation.images["front"]})
    black = np.zeros_like(observation.images["wrist"])
    drawn = replace(observation, images={**observation.images, "wrist": black})
    alone = policy.act(front)
    assert not np.allclose(alone, policy.act(drawn), atol=1e-4)
    mixed = policy.act_batch([front, observation])
    assert np.allclose(mixed[0], alone, atol=1e-5)
    assert np.allclose(mixed[1], policy.act(observation), atol=1e-5)
    with pytest.raises(ValueError, match="unknown camera 'wrist'"):
        make_policy().act(front)  # never trained without it
    with pytest.raises(ValueError, match="unknown camera 'front'"):
        policy.act(replace(observation, images={}))


def test_camera_dropout_teaches_without_tokens_of_dropped_cameras():
    config = replace(CONFIG, camera_dropout=0.5)
    policy = make_policy(config=config).train()
    seen = policy.border.batch(make_batch(4, rows=32))
    groups = {g.name: g for g in policy.observe(seen, torch.Generator().manual_seed(0), True)}
    there = torch.stack([groups[f"image.{n}"].valid[:, 0] for n in ("front", "wrist")])
    assert there.any(0).all() and 0.2 < float((~there).float().mean()) < 0.5
    policy.loss(make_batch(4, rows=32), torch.Generator().manual_seed(0)).backward()


def test_histories_are_seen_in_their_order():
    config = replace(CONFIG, history=2)
    policy = make_policy(config=config)
    now, before = make_observation(1), make_observation(2)

    def pair(first, second):
        images = {n: np.stack([first.images[n], second.images[n]]) for n in first.images}
        return replace(now, images=images, state=np.stack([first.state, second.state]))

    chunk = policy.act(pair(before, now))
    assert chunk.shape == (4, 3)
    assert not np.allclose(policy.act(pair(now, before)), chunk, atol=1e-4)
    with pytest.raises(ValueError, match=r"expected \(2, 16, 16, 3\)"):
        policy.act(now)
    batch = make_batch(4)
    batch = replace(
        batch,
        images={n: np.stack([x, x[::-1]], 1) for n, x in batch.images.items()},
        state=np.stack([batch.state, batch.state[::-1]], 1),
    )
    policy.train().loss(batch, torch.Generator().manual_seed(0)).backward()
    assert policy.observe.history is not None and policy.observe.history.grad is not None


def test_weights_are_taken_up_strictly_and_fresh_ones_are_left(tmp_path: Path):
    old = make_policy(config=small("dual_stream"))
    save_policy(tmp_path, old, make_stats())
    torch.manual_seed(1)
    new = Policy(old.config, old.embodiment, make_stats())
    own = new.state_dict()["action.enter.weight"].clone()
    load_weights_into(new, tmp_path, fresh=("action.",))
    assert torch.equal(new.state_dict()["action.enter.weight"], own)
    assert torch.equal(new.state_dict()["future.enter.weight"], old.future.enter.weight)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(ValueError, match="unknown beginning of weights 'acton.'"):
        load_weights_into(new, tmp_path, fresh=("acton.",))
    with pytest.raises(ValueError, match="unknown key"):
        load_weights_into(make_policy(), tmp_path)


def test_combinations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="one shared expert cannot be modulated"):
        replace(CONFIG, experts="shared")
    with pytest.raises(ValueError, match="hides the future from the action"):
        replace(dual_stream(), mask="prefix")
    with pytest.raises(ValueError, match="context_order"):
        replace(CONFIG, context_order=("text", "text", "image"))
    with pytest.raises(ValueError, match="needs an action expert of its own"):
        replace(small("in_context"), freeze_context=True)
