"""The studies of `presets.py`: what is trained, and what is measured on it.

Each study is a function (arm, seed, scale, work folder) -> figures, run in a process of its own.
`scale` multiplies the training steps; below 1 it is a rehearsal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from presets_training import (
    Data,
    Fit,
    Windows,
    demonstrations,
    fit,
    held_out_losses,
    parameters,
    save,
    trainable,
)  # fmt: skip

from ulna.datasets.schema import Batch
from ulna.envs.parallel import run_episodes
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.rollout import evaluation_seeds
from ulna.envs.tasks import make_env
from ulna.policies.checkpoint import load_act, load_policy
from ulna.policies.expert import TrunkConfig
from ulna.policies.policy import Policy
from ulna.policies.pooled_head import PooledHeadConfig
from ulna.policies.presets import dual_stream, expert, in_context, mutual, pooled_head
from ulna.policies.process import FlowConfig
from ulna.policies.sampler import SamplerConfig
from ulna.policies.vision import FilmGridConfig
from ulna.policies.world_target import FutureConfig

TASK = "pick_named"
EPISODES = 400
ROLLOUTS = 100


@dataclass(frozen=True)
class Study:
    arms: tuple[str, ...]
    run: Callable[[str, int, float, Path], dict[str, Any]]


# ---------------------------------------------------------------- in context against pooled


def language(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """Dita's claim: actions as tokens among the image tokens, or one embedding of them."""
    data = demonstrations(work, TASK, max(16, round(EPISODES * min(1, scale))))
    withheld = {"context_order": ("text", "image"), "vision": FilmGridConfig()}
    config = {
        "in_context": lambda: replace(in_context(), **withheld),
        "in_context_flow": lambda: replace(in_context(), process=FlowConfig(), **withheld),
        # As many parameters: what the chunk's tokens cost in the trunk goes into the head.
        "pooled_head": lambda: replace(
            pooled_head(),
            trunk=TrunkConfig(depth=2),
            pooled_head=PooledHeadConfig(width=120, depth=3),
            **withheld,
        ),
    }[arm]()
    held = Windows(data, data.held_out, config)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        return {"held_out": round(held_out_losses(policy, held, 256)["action"], 4)}

    policy, log = fit(config, data, Fit(round(1200 * scale), batch=32), seed, note=note)
    folder = work / "policies" / f"language-{arm}-{seed}"
    save(policy, data, folder)
    calm = demonstrations(work, TASK, len(data.taught) + len(data.held_out), quiet=True)
    ends = end_points(policy, calm, max(4, round(40 * scale)))
    scenes = evaluation_seeds(seed, max(2, round(ROLLOUTS * min(1, scale))))
    results = run_episodes(
        TASK, partial(load_act, folder), [(scene, None) for scene in scenes], 1,
        config.execution_horizon, keep_states=False,
    )  # fmt: skip
    return {
        "parameters": parameters(policy),
        "held_out_loss": log[-1]["held_out"],
        "end_point_mm": ends,
        "successes": [bool(r.success) for r in results],
        "log": log,
    }


def end_points(policy: Policy, data: Data, episodes: int) -> float:
    """Mean distance (mm, in the plane of the table) between the tool and the named cube after a
    chunk was executed without looking, from states 16 ticks before the undisturbed expert was over
    the cube."""
    env = make_env(TASK, data.store.embodiment.render_profile)
    assert isinstance(env, RobosuiteEnv)
    distances = []
    for episode in data.held_out[:episodes]:
        record = data.store.episodes[episode]
        states = data.store.read("simulator_state", episode)
        env.restore(states[0], record.instruction)
        cube = env.cube_pose(env.named_cube())[0][:2].copy()
        tool = data.store.read("state", episode)[:, :2]
        over = np.flatnonzero(np.linalg.norm(tool - cube, axis=1) < 0.015)
        if not len(over) or over[0] < policy.config.horizon:
            continue
        start = int(over[0]) - policy.config.horizon
        env.restore(states[start], record.instruction)
        for action in policy.act(replace(env.observe(), noise_seed=episode)):
            env.step(action)
        distances.append(float(np.linalg.norm(env.tool_pose()[0][:2] - cube)))
    env.close()
    return 1000 * float(np.mean(distances))


# ---------------------------------------------------------------- experts


def separation(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """LlamaFusion's ablation: what the action expert shares with the context expert."""
    data = demonstrations(work, TASK, max(16, round(EPISODES * min(1, scale))))
    config = replace(expert(), share={"tied": "all", "ffn_only": "attention", "full": "none"}[arm])
    held = Windows(data, data.held_out, config)
    policy, log = fit(config, data, Fit(round(600 * scale), batch=32), seed)
    return {
        "parameters": parameters(policy),
        "held_out_loss": held_out_losses(policy, held)["action"],
        "log": log,
    }


def frozen(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """What the context says before and after a training that leaves it frozen, or does not."""
    data = demonstrations(work, TASK, max(16, round(EPISODES * min(1, scale))))
    before = load_policy(base(seed, scale, work, data))
    config = replace(expert(), freeze_context=arm == "frozen")

    def prepare(policy: Policy) -> None:
        weights = before.state_dict()
        fresh = policy.state_dict()  # the action expert begins anew
        kept = {k: v if "action" in k.split(".") else weights[k] for k, v in fresh.items()}
        policy.load_state_dict(kept)

    policy, log = fit(config, data, Fit(round(400 * scale), batch=32), seed, prepare)
    held = Windows(data, data.held_out, config)
    batch = held.some(64)
    with torch.no_grad():
        old, new = before.context(batch), policy.context(batch)
    drift = max(
        float((x - y).abs().max())
        for x, y in zip([*old.keys, *old.values], [*new.keys, *new.values], strict=True)
    )
    return {
        "context_drift": drift,
        "trainable_share": trainable(policy) / parameters(policy),
        "held_out_loss": held_out_losses(policy, held)["action"],
        "log": log,
    }


def base(seed: int, scale: float, work: Path, data: Data) -> Path:
    """The policy that `frozen` starts from: trained once per seed."""
    folder = work / "policies" / f"base-{seed}"
    if not (folder / "config.json").exists():
        policy, _ = fit(expert(), data, Fit(round(600 * scale), batch=32), seed)
        save(policy, data, folder)
    return folder


# ---------------------------------------------------------------- masks


def masks(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """AKI: images before the instruction, under a causal mask, with and without sight of it.

    The first windows of an undisturbed expert, whose chunks say little but where the named cube is.
    """
    mask, task = arm.split("/")
    data = demonstrations(work, task, max(16, round(EPISODES * min(1, scale))), quiet=True)
    config = replace(
        mutual(),
        mask=mask,
        context_order=("image", "text"),
        vision=FilmGridConfig(film=False),
        noise_draws=4,
    )
    how = Fit(round(1500 * scale), batch=32, earliest=6, cameras=("front",))
    held = Windows(data, data.held_out, config, how)
    taught = Windows(data, data.taught, config, how)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        return {"held_out": round(held_out_losses(policy, held, 256)["action"], 4)}

    policy, log = fit(config, data, how, seed, note=note)
    return {
        "probe_mm": probe(policy, data, taught, held),
        "held_out_loss": log[-1]["held_out"],
        "log": log,
    }


def named_places(batch: Batch, cubes: tuple[str, ...]) -> np.ndarray:
    """Where the named cube is at each window (m, world, in the plane of the table)."""
    states = batch.streams["simulator_state"]
    named = [
        next((i for i, name in enumerate(cubes) if name in words.split()), 0)
        for words in batch.instructions
    ]
    # time, 7 arm joints, 2 fingers, then position and quaternion of each cube
    first = np.array(named) * 7 + 10
    return np.stack([states[np.arange(len(states)), first + axis] for axis in (0, 1)], axis=1)


@torch.no_grad()
def probe(policy: Policy, data: Data, taught: Windows, held: Windows) -> float:
    """Error (mm) of the best linear map from what the image tokens offer to others in the last
    layer (their values) to the place of the named cube; ridge, its strength chosen on a part of
    the taught episodes."""
    cubes = ("red", "green", "blue")

    def features(windows: Windows, count: int) -> tuple[np.ndarray, np.ndarray]:
        xs, ys = [], []
        for seed in range(count // 128):
            batch = windows.some(128, 100 + seed)
            cache = policy.context(batch)
            start = 0
            for name, length in cache.layout:
                if name.startswith("image."):
                    x = cache.values[-1][:, :, start : start + length]
                    xs.append(x.flatten(1).numpy())
                start += length
            ys.append(named_places(batch, cubes))
        return np.concatenate(xs).astype(np.float64), np.concatenate(ys)

    x, y = features(taught, 1536)
    x_held, y_held = features(held, 512)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, x_held = (x - mean) / scale, (x_held - mean) / scale
    center = y.mean(0)
    cut = len(x) * 3 // 4

    def error(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, ridge: float) -> float:
        kernel = a @ a.T
        weights = np.linalg.solve(
            kernel + ridge * np.trace(kernel) / len(a) * np.eye(len(a)), b - center
        )
        return float(np.linalg.norm(c @ (a.T @ weights) + center - d, axis=1).mean())

    ridges = [10.0**power for power in range(-4, 3)]
    best = min(ridges, key=lambda r: error(x[:cut], y[:cut], x[cut:], y[cut:], r))
    return 1000 * error(x, y, x_held, y_held, best)


# ---------------------------------------------------------------- two streams


def world(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """DUST's independent noise against tied noise, by conditional errors on held-out windows.

    Nobody says which cube is meant, so what will be done is open until the future tells, and what
    will be seen until the action does.
    """
    data = demonstrations(work, TASK, max(16, round(EPISODES * min(1, scale))), quiet=True)
    config = replace(
        dual_stream(),
        future=FutureConfig(noise=arm, grid=2),  # pyright: ignore[reportArgumentType]
        sampler=SamplerConfig(steps=4),
        noise_draws=4,
    )
    how = Fit(round(1500 * scale), batch=32, earliest=12, instruction="pick up a cube")
    held = Windows(data, data.held_out, config, how)
    windows = held.some(256)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        return conditional_errors(policy, windows)

    policy, log = fit(config, data, how, seed, note=note)
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
    data = demonstrations(work, TASK, max(32, round(EPISODES * min(1, scale))))
    config = dual_stream()
    few = data.first(20 if scale >= 1 else 8)
    held = Windows(data, data.held_out, config)
    prepare = None
    log: list[dict[str, Any]] = []
    if arm == "video_first":
        rest = replace(data, taught=data.taught[20 if scale >= 1 else 8 :][:200])
        how = Fit(round(400 * scale), batch=32, objective="video")
        watched, log = fit(config, rest, how, seed)
        weights = watched.state_dict()

        def take(policy: Policy) -> None:
            own = policy.state_dict()
            policy.load_state_dict(
                {k: own[k] if k.startswith("slots.") else v for k, v in weights.items()}
            )

        prepare = take
    policy, tuned = fit(config, few, Fit(round(300 * scale), batch=32), seed, prepare)
    losses = held_out_losses(policy, held)
    return {"held_out_loss": losses["action"], "future_loss": losses["future"], "log": log + tuned}


STUDIES = {
    "language": Study(("in_context", "pooled_head", "in_context_flow"), language),
    "world": Study(("independent", "tied"), world),
    "separation": Study(("tied", "ffn_only", "full"), separation),
    "frozen": Study(("frozen", "dense"), frozen),
    "masks": Study(("mma/pick_named", "causal/pick_named", "mma/lift", "causal/lift"), masks),
    "video": Study(("video_first", "scratch"), video),
}
