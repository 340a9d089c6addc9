"""The studies of `presets.py` on policies that also predict what they will see."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from presets_eyes import EYES, PLAIN
from presets_training import (
    TASK,
    WORLD_EPISODES,
    Data,
    Fit,
    Windows,
    demonstrations,
    episodes_for,
    eyes_for,
    fit,
    held_out_losses,
)

from ulna.datasets.schema import Batch
from ulna.envs.tasks import make_env
from ulna.policies.policy import Policy
from ulna.policies.presets import dual_stream
from ulna.policies.sampler import SamplerConfig
from ulna.policies.world_target import FutureConfig

WORLD_STEPS = 2000
VIDEO_STEPS, FINE_TUNING_STEPS = 1200, 500


def world(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """DUST's independent noise against tied noise, by conditional errors on held-out windows.

    Nobody says which cube is meant, so what will be done is open until the future tells, and what
    will be seen until the action does.
    """
    data = demonstrations(work, TASK, episodes_for(scale, WORLD_EPISODES), quiet=True)
    config = replace(
        dual_stream(),
        vision=EYES,
        augment=PLAIN,
        future=FutureConfig(noise=arm, encoder="eyes"),  # pyright: ignore[reportArgumentType]
        sampler=SamplerConfig(steps=4),
    )
    how = Fit(round(WORLD_STEPS * scale), batch=32, earliest=12, instruction="pick up a cube")
    held = Windows(data, data.held_out, config, how)
    windows = held.some(256)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        return conditional_errors(policy, windows)

    policy, log = fit(config, data, how, seed, note=note, eyes=eyes_for(work, data, scale))
    asynchronous = {
        steps: conditional_errors(policy, windows, future_steps=steps)["action"]
        for steps in (4, 16, 32)
    }
    return {
        **conditional_errors(policy, windows),
        "action_by_future_steps": asynchronous,
        "retrieval_among_32": own_future(policy, data, held, max(32, round(128 * min(1, scale)))),
        "log": log,
    }


@torch.no_grad()
def conditional_errors(policy: Policy, batch: Batch, future_steps: int = 0) -> dict[str, float]:
    """Mean squared error, normalised, of the action given the true future (`inverse`), of the
    future given the true action (`forward`), and of both generated together."""
    policy.config = replace(
        policy.config, sampler=SamplerConfig(policy.config.sampler.steps, future_steps)
    )
    cache = policy.context(batch)
    clean = {"action": policy.chunk(batch), "future": policy.future_tokens(batch)}
    keep = torch.from_numpy(~batch.action_is_pad)
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in clean.items()}

    def error(name: str, made: dict[str, torch.Tensor]) -> float:
        wrong = (made[name] - clean[name]).square().mean(-1)
        value = (wrong * keep).sum() / keep.sum() if name == "action" else wrong.mean()
        return round(float(value), 5)

    both = policy.generate(cache, noise)
    inverse = policy.generate(cache, {"action": noise["action"]}, {"future": clean["future"]})
    forward = policy.generate(cache, {"future": noise["future"]}, {"action": clean["action"]})
    return {
        "action": error("action", both),
        "future": error("future", both),
        "inverse": error("action", inverse),
        "forward": error("future", forward),
    }


@torch.no_grad()
def own_future(policy: Policy, data: Data, held: Windows, count: int) -> float:
    """How often the frame that really follows the sampled chunk is, among 32 such frames, the
    nearest to the future that was sampled with it."""
    env = make_env(TASK, data.store.embodiment.render_profile)
    assert policy.world_target is not None
    sampled, real = [], []
    for part in range(count // 32):
        batch = held.some(32, 500 + part)
        cache = policy.context(batch)
        generator = torch.Generator().manual_seed(part)
        noise = {
            name: torch.randn(32, *size, generator=generator)
            for name, size in policy.sizes().items()
        }
        made = policy.generate(cache, noise)
        chunks = policy.slots.unnormalize_chunk(
            made["action"], torch.from_numpy(batch.state), 0
        ).numpy()
        frames: dict[str, list[np.ndarray]] = {name: [] for name in policy.observe.vision}
        for row, chunk in enumerate(chunks):
            # Which cube is named changes neither the physics nor the picture.
            env.restore(batch.streams["simulator_state"][row], "pick up the red cube")
            for action in chunk.astype(np.float32):
                env.step(action)
            seen = env.observe()
            for name, images in frames.items():
                images.append(seen.images[name])
        stacked = {name: torch.from_numpy(np.stack(images)) for name, images in frames.items()}
        sampled.append(made["future"].flatten(1))
        real.append(policy.world_target(stacked).flatten(1))
    env.close()
    right = [
        float((torch.cdist(x, y).argmin(1) == torch.arange(len(x))).float().mean())
        for x, y in zip(sampled, real, strict=True)
    ]
    return float(np.mean(right))


def video(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """DUST's pre-training: 200 episodes without actions first, then 20 with them."""
    data = demonstrations(work, TASK, episodes_for(scale))
    eyes = eyes_for(work, data, scale)
    config = replace(dual_stream(), vision=EYES, augment=PLAIN, future=FutureConfig(encoder="eyes"))
    few = data.first(20 if scale >= 1 else 8)
    held = Windows(data, data.held_out, config)
    prepare = None
    log: list[dict[str, Any]] = []
    if arm == "video_first":
        rest = replace(data, taught=data.taught[20 if scale >= 1 else 8 :][:200])
        how = Fit(round(VIDEO_STEPS * scale), batch=32, objective="video")
        watched, log = fit(config, rest, how, seed, eyes=eyes)
        weights = watched.state_dict()

        def take(policy: Policy) -> None:
            own = policy.state_dict()
            policy.load_state_dict(
                {k: own[k] if k.startswith("slots.") else v for k, v in weights.items()}
            )

        prepare = take
    how = Fit(round(FINE_TUNING_STEPS * scale), batch=32)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        losses = held_out_losses(policy, held, 256)
        return {f"held_out_{name}": value for name, value in losses.items()}

    policy, tuned = fit(config, few, how, seed, prepare, note, eyes)
    losses = held_out_losses(policy, held)
    # Twenty demonstrations are soon known by heart: the end alone would compare who overfits more.
    return {
        "held_out_loss": losses["action"],
        "future_loss": losses["future"],
        "best_held_out_loss": min(line["held_out_action"] for line in tuned),
        "log": log + tuned,
    }
