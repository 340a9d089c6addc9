"""The studies of `presets.py`: what is trained, and what is measured on it.

Each study is a function (arm, seed, scale, work folder) -> figures, run in a process of its own.
`scale` multiplies the training steps; below 1 it is a rehearsal.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from presets_eyes import EYES, PLAIN
from presets_training import (
    TASK,
    Data,
    Fit,
    Windows,
    demonstrations,
    episodes_for,
    eyes_for,
    fit,
    held_out_losses,
    parameters,
    save,
    trainable,
)

from ulna.datasets.schema import Batch
from ulna.envs.parallel import run_episodes
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.rollout import evaluation_seeds
from ulna.envs.tasks import make_env
from ulna.policies.checkpoint import load_act, load_policy
from ulna.policies.expert import TrunkConfig
from ulna.policies.policy import Policy
from ulna.policies.pooled_head import PooledHeadConfig
from ulna.policies.presets import expert, in_context, mutual, pooled_head
from ulna.policies.process import DiffusionConfig, FlowConfig

ROLLOUTS = 100
LANGUAGE_STEPS = 3000
MASKS_STEPS = 1500


# ---------------------------------------------------------------- in context against pooled


def language(arm: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """Dita's claim: actions as tokens among the image tokens, or one embedding of them."""
    data = demonstrations(work, TASK, episodes_for(scale))
    eyes = eyes_for(work, data, scale)
    withheld = {"context_order": ("text", "image"), "vision": EYES, "augment": PLAIN}
    config = {
        "in_context": lambda: replace(in_context(), **withheld),
        "in_context_epsilon": lambda: replace(in_context(), process=DiffusionConfig(), **withheld),
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

    how = Fit(round(LANGUAGE_STEPS * scale))
    policy, log = fit(config, data, how, seed, note=note, eyes=eyes)
    folder = work / "policies" / f"language-{arm}-{seed}"
    save(policy, data, folder)
    calm = demonstrations(work, TASK, episodes_for(scale), quiet=True)
    ends = end_points(policy, calm, max(4, round(40 * scale)))
    scenes = evaluation_seeds(seed, max(2, round(ROLLOUTS * min(1, scale))))
    results = run_episodes(
        TASK, partial(load_act, folder), [(scene, None) for scene in scenes], 1,
        config.execution_horizon, keep_states=False,
    )  # fmt: skip
    return {
        "parameters": trainable(policy),
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
    data = demonstrations(work, TASK, episodes_for(scale))
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
    data = demonstrations(work, TASK, episodes_for(scale))
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
    data = demonstrations(work, task, episodes_for(scale), quiet=True)
    config = replace(
        mutual(),
        mask=mask,
        context_order=("image", "text"),
        vision=EYES,
        augment=PLAIN,
    )
    how = Fit(round(MASKS_STEPS * scale), batch=32, earliest=6, cameras=("front",))
    held = Windows(data, data.held_out, config, how)
    taught = Windows(data, data.taught, config, how)

    def note(_step: int, policy: Policy) -> dict[str, float]:
        return {"held_out": round(held_out_losses(policy, held, 256)["action"], 4)}

    policy, log = fit(config, data, how, seed, note=note, eyes=eyes_for(work, data, scale))
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
