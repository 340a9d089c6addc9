"""Eyes for the studies of `presets.py`: trained once on where things are, then frozen.

Published designs stand on pretrained image encoders. Here are no weights to download, so a grid of
convolutions that never hears an instruction learns from the simulator's truth where each cube and
the tool are; every arm of every study then gets the same frozen eyes. Because they are frozen,
what they see of each frame is computed once, and the trunk, which is what the studies are about,
can be trained for thousands of steps on one core.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ulna.datasets.loader import WindowLoader
from ulna.datasets.norm_stats import kept_norm_stats
from ulna.datasets.schema import Batch
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.policies.image_transforms import AugmentConfig, to_float
from ulna.policies.policy import Policy
from ulna.policies.presets import expert
from ulna.policies.vision import FilmGridConfig
from ulna.train.training_data import window_spec

EYES = FilmGridConfig(film=False, patch=16)
"""16 tokens per camera of 64 pixels."""
PLAIN = AugmentConfig(shift_pixels=0, brightness=0.0, state_noise=0.0)
"""What is remembered cannot be augmented."""
CUBES = 3
FIRST_CUBE = 10
"""Where the cubes begin in a simulator state: after time, 7 joints and 2 fingers."""


class Locator(nn.Module):
    """Where each thing is, by attention over a camera's tokens: only for the training."""

    def __init__(self, width: int, things: int) -> None:
        super().__init__()
        self.where = nn.Linear(width, things)
        self.what = nn.Linear(width, 2 * things)

    def forward(self, tokens: Tensor) -> Float[Tensor, "batch things 2"]:
        weights = self.where(tokens).softmax(dim=1)  # (batch, tokens, things)
        places = self.what(tokens).unflatten(2, (-1, 2))
        return (weights[..., None] * places).sum(dim=1)


def truth(batch: Batch, base: np.ndarray) -> dict[str, Tensor]:
    """Places in decimetres: from the front that of cubes and tool, at the wrist that of the cubes
    from the tool."""
    state = batch.streams["simulator_state"]
    cubes = np.stack([state[:, FIRST_CUBE + 7 * i :][:, :2] for i in range(CUBES)], axis=1)
    tool = batch.state[:, None, :2] + base[:2]
    front = np.concatenate([cubes, tool], axis=1) * 10
    wrist = np.clip((cubes - tool) * 10, -1, 1)
    return {
        "front": torch.from_numpy(front.astype(np.float32)),
        "wrist": torch.from_numpy(wrist.astype(np.float32)),
    }


def train_eyes(data: Any, path: Path, steps: int, batch: int = 64) -> None:
    """Train the encoders of both cameras on the taught episodes and write them to `path`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    scene = RobosuiteEnv(CUBE_TASKS["pick_named"])
    base = scene.data.xpos[scene.model.body("red_main").id] - scene.cube_pose(0)[0]
    policy = _policy(data)
    eyes = policy.observe.vision
    width = policy.config.trunk.width
    locators = nn.ModuleDict({"front": Locator(width, CUBES + 1), "wrist": Locator(width, CUBES)})
    spec = window_spec(policy.config, data.store)
    loader = WindowLoader(
        data.store, _with_states(spec), 1, 0, list(data.taught), prefetch=0, cache="ram", threads=1
    )
    parameters = [*eyes.parameters(), *locators.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    order = np.random.default_rng(0)
    errors: list[list[float]] = []
    for step in range(1, steps + 1):
        index = np.sort(order.choice(len(loader.windows), batch, replace=False))
        seen = loader.batch_at(index)
        places = truth(seen, base)
        loss, wrong = torch.zeros(()), []
        for name, encoder in eyes.items():
            frames = to_float(torch.from_numpy(seen.images[name]))
            with torch.autocast("cpu", torch.bfloat16):
                tokens = encoder(frames, torch.zeros(batch, policy_condition(policy)))
            off = locators[name](tokens.float()) - places[name]
            loss = loss + off.abs().mean()
            wrong.append(float(off.detach().norm(dim=-1).mean()) * 100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        errors.append(wrong)
        if step % max(1, steps // 8) == 0:
            front, wrist = np.mean(errors, axis=0)
            errors.clear()
            print(f"eyes, step {step}: off by {front:.1f} mm (front), {wrist:.1f} mm (wrist)")
    save_file({k: v.contiguous() for k, v in eyes.state_dict().items()}, str(path))


def policy_condition(policy: Policy) -> int:
    assert policy.observe.instruction is not None
    return policy.observe.instruction.condition_dim


def _policy(data: Any) -> Policy:
    config = replace(expert(), vision=EYES, augment=PLAIN)
    return Policy(config, data.store.embodiment, kept_norm_stats(data.store, data.taught))


def _with_states(spec: Any) -> Any:
    return replace(spec, streams=("simulator_state",))


@torch.no_grad()
def remember(data: Any, eyes: Path, path: Path) -> dict[str, Tensor]:
    """What the eyes see of every frame of the store `(frames, tokens, width)`, by camera; kept in
    `path`."""
    if not path.exists():
        policy = _policy(data)
        policy.observe.vision.load_state_dict(load_file(str(eyes)))
        everyone = list(range(len(data.taught) + len(data.held_out)))
        loader = WindowLoader(
            data.store, window_spec(policy.config, data.store), 1, 0, everyone,
            prefetch=0, cache="none", threads=1,
        )  # fmt: skip
        parts: dict[str, list[Tensor]] = {name: [] for name in policy.observe.vision}
        for rows in np.array_split(np.arange(len(loader.windows)), len(loader.windows) // 256 + 1):
            seen = loader.batch_at(rows)
            for name, encoder in policy.observe.vision.items():
                frames = to_float(torch.from_numpy(seen.images[name]))
                blank = torch.zeros(len(frames), policy_condition(policy))
                parts[name].append(encoder(frames, blank).half())
        save_file({name: torch.cat(tokens) for name, tokens in parts.items()}, str(path))
    return load_file(str(path))


class Remembered(nn.Module):
    """In the place of a camera's encoder: what it saw of the frames of the present batch."""

    def __init__(self, seen: Tensor, rows: np.ndarray) -> None:
        super().__init__()
        self.seen = seen[torch.from_numpy(rows)].float()

    def forward(self, images: Tensor, condition: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.seen


@contextmanager
def remembering(
    policy: Policy, seen: Mapping[str, Tensor], rows: np.ndarray, future_rows: np.ndarray
) -> Iterator[None]:
    """For one batch of these rows of the store: a policy with memories in the place of encoders,
    also of what the future looked like."""
    own, target = dict(policy.observe.vision.items()), policy.world_target
    policy.observe.vision.update({name: Remembered(seen[name], rows) for name in own})
    if target is not None:
        parts = [seen[name][torch.from_numpy(future_rows)].float() for name in own]
        policy.future_tokens = lambda batch: target.standardized(parts)
    try:
        yield
    finally:
        policy.observe.vision.update(own)
        if target is not None:
            del policy.future_tokens


@dataclass(frozen=True)
class Eyes:
    """Trained encoders, and what they saw of every frame of a store."""

    weights: Path
    seen: dict[str, Tensor]


def give_eyes(policy: Policy, eyes: Path) -> None:
    """Load the trained eyes into a policy and freeze them."""
    weights = load_file(str(eyes))
    seen = tuple(f"{name}." for name in policy.observe.vision)
    kept = {k: v for k, v in weights.items() if k.startswith(seen)}
    policy.observe.vision.load_state_dict(kept)
    policy.observe.vision.requires_grad_(False)
