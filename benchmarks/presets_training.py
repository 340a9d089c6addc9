"""Short trainings for `presets.py`: one thread, chosen windows, fixed seeds."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from presets_eyes import Eyes, give_eyes, remember, remembering, train_eyes

from ulna.datasets.loader import WindowLoader
from ulna.datasets.norm_stats import kept_norm_stats
from ulna.datasets.schema import Batch
from ulna.datasets.store import Store
from ulna.envs.collect import QUIET, collect
from ulna.policies.checkpoint import save_policy
from ulna.policies.policy import Policy
from ulna.policies.policy_config import Objective, PolicyConfig
from ulna.train.config import OptimizerConfig
from ulna.train.hardware import choose_precision
from ulna.train.optimizer import Ema, make_optimizer
from ulna.train.training_data import window_spec

TASK = "pick_named"
EPISODES = 400
WORLD_EPISODES = 1600
"""A policy that predicts both what it does and what it sees learns 350 episodes by heart."""
EYES_STEPS = 1500


@dataclass(frozen=True)
class Data:
    """A store, split: `taught` episodes teach, `held_out` ones never do."""

    name: str
    store: Store
    taught: tuple[int, ...]
    held_out: tuple[int, ...]

    def first(self, episodes: int) -> "Data":
        return replace(self, taught=self.taught[:episodes])


def episodes_for(scale: float, wanted: int = EPISODES) -> int:
    return wanted if scale >= 1 else 32


def demonstrations(work: Path, task: str, episodes: int, quiet: bool = False) -> Data:
    """`episodes` demonstrations of `task`, collected once; every eighth is held out. `quiet`: the
    expert undisturbed, so that a chunk depends on the scene alone."""
    name = f"{task}-quiet" if quiet else task
    if episodes == WORLD_EPISODES:
        name += "-many"
    path = work / f"{name}.zarr"
    if not path.exists():
        noise = QUIET if quiet else None
        collect(
            task, work / f"{name}.collecting.zarr", episodes, workers=2, resume=True, noise=noise
        )
        (work / f"{name}.collecting.zarr").rename(path)
    store = Store.open(path)
    everyone = range(episodes)
    return Data(
        name,
        store,
        tuple(i for i in everyone if i % 8),
        tuple(i for i in everyone if i % 8 == 0),
    )


@dataclass(frozen=True)
class Fit:
    """How long and on what a policy is trained."""

    steps: int
    batch: int = 32
    rate: float = 2e-3
    earliest: int | None = None
    """Only windows that begin before this step of their episode; None: all."""
    objective: Objective = "policy"
    cameras: tuple[str, ...] | None = None
    """Cameras the policy sees; None: all."""
    instruction: str | None = None
    """Said in every window instead of its own; None: its own."""


def eyes_for(work: Path, data: Data, scale: float) -> Eyes:
    """The eyes of all studies and what they see of this store; made once per work folder."""
    weights = work / "eyes.safetensors"
    if not weights.exists():
        disturbed = demonstrations(work, TASK, episodes_for(scale))
        train_eyes(disturbed, weights, max(8, round(EYES_STEPS * scale)))
    return Eyes(weights, remember(data, weights, work / f"seen-{data.name}.safetensors"))


class Windows:
    """Batches of chosen windows of some episodes, in a random order that the seed decides."""

    def __init__(
        self,
        data: Data,
        episodes: Sequence[int],
        config: PolicyConfig,
        how: Fit | None = None,
        pictures: bool = True,
    ) -> None:
        """`pictures`: whether frames are read; without, black ones of the right size stand in."""
        how = how or Fit(0)
        self.instruction = how.instruction
        spec = replace(window_spec(config, data.store), streams=("simulator_state",))
        self.black = {}
        if not pictures:
            self.black = {c.name: (c.height, c.width, 3) for c in data.store.embodiment.cameras}
            spec = replace(spec, cameras=(), future=0)
        self.loader = WindowLoader(
            data.store, spec, 1, 0, list(episodes), prefetch=0, cache="ram", threads=1
        )
        windows = self.loader.windows
        index = np.arange(len(windows))
        place = windows.episodes(index)
        step = index - windows.first_rows(place)
        lengths = np.array([record.steps for record in data.store.episodes])
        episode = np.asarray(episodes)[place]
        self.row = (np.cumsum(lengths) - lengths)[episode] + step
        """Row of the store in which each window begins."""
        ahead = config.horizon if config.future is None else config.future.steps_ahead
        left = lengths[episode] - 1 - step
        self.future_row = self.row + np.minimum(ahead or config.horizon, left)
        self.index = index if how.earliest is None else index[step < how.earliest]

    def batch(self, index: np.ndarray) -> Batch:
        batch = self.loader.batch_at(index)
        if self.black:
            black = {n: np.zeros((len(index), *size), np.uint8) for n, size in self.black.items()}
            batch = replace(batch, images=black)
        if self.instruction is None:
            return batch
        return replace(batch, instructions=(self.instruction,) * len(index))

    def some(self, count: int, seed: int = 0) -> Batch:
        order = np.random.default_rng(seed).permutation(len(self.index))
        return self.batch(np.sort(self.index[order[:count]]))


def fit(
    config: PolicyConfig,
    data: Data,
    how: Fit,
    seed: int,
    prepare: Callable[[Policy], None] | None = None,
    note: Callable[[int, Policy], dict[str, float] | None] | None = None,
    eyes: Eyes | None = None,
) -> tuple[Policy, list[dict[str, Any]]]:
    """A policy trained from `seed`, with its averaged weights, and its log.

    `prepare` may give it weights to start from; `note(step, averaged policy)` adds to the log
    eight times on the way. With `eyes` its encoders are those, frozen.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    stats = kept_norm_stats(data.store, data.taught)
    embodiment = data.store.embodiment
    if how.cameras is not None:
        seen = tuple(camera for camera in embodiment.cameras if camera.name in how.cameras)
        embodiment = replace(embodiment, cameras=seen)
    policy = Policy(config, embodiment, stats)
    if eyes is not None:
        give_eyes(policy, eyes.weights)
    taught = Windows(data, data.taught, config, how, pictures=eyes is None)
    if config.future is not None:
        pictured = taught if eyes is None else Windows(data, data.taught, config, how)
        policy.calibrate([(0, pictured.some(256))])
    if prepare is not None:
        prepare(policy)
    optimizer, schedule = make_optimizer(
        policy, OptimizerConfig(peak_learning_rate=how.rate), how.steps
    )
    ema = Ema(policy, 0.99)
    generator = torch.Generator().manual_seed(seed + 1)
    order = np.random.default_rng(seed)
    half = choose_precision("auto", "cpu") == "bf16"
    log: list[dict[str, Any]] = []
    recent: list[float] = []
    began = time.perf_counter()
    policy.train()
    for step in range(1, how.steps + 1):
        index = np.sort(order.choice(taught.index, how.batch, replace=False))
        batch = taught.batch(index)
        rows = taught.row[index], taught.future_row[index]
        with (
            nullcontext() if eyes is None else remembering(policy, eyes.seen, *rows),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            loss = policy.loss(batch, generator, how.objective)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.update(policy)
        recent.append(float(loss.detach()))
        if step % max(1, how.steps // 8) == 0:
            line: dict[str, Any] = {"step": step, "loss": round(float(np.mean(recent)), 4)}
            recent.clear()
            if note is not None:
                averaged = _averaged(policy, ema)
                line |= note(step, averaged) or {}
            line["seconds"] = round(time.perf_counter() - began, 1)
            log.append(line)
            print(line, flush=True)
    return _averaged(policy, ema), log


def _averaged(policy: Policy, ema: Ema) -> Policy:
    twin = copy.deepcopy(policy)
    twin.load_state_dict(ema.state_dict(policy))
    return twin.eval()


@torch.no_grad()
def held_out_losses(
    policy: Policy, windows: Windows, count: int = 512, objective: Objective = "policy"
) -> dict[str, float]:
    """Mean loss per group on fixed windows with fixed noise, four draws each, fp32."""
    order = np.random.default_rng(1).permutation(len(windows.index))[:count]
    generator = torch.Generator().manual_seed(0)
    totals: dict[str, float] = {}
    parts = np.array_split(np.sort(windows.index[order]), max(1, count // 128))
    for part in parts:
        batch = windows.batch(part)
        for _ in range(4):
            for name, value in policy.losses(batch, generator, objective).items():
                totals[name] = totals.get(name, 0.0) + float(value) / (4 * len(parts))
    return totals


def save(policy: Policy, data: Data, folder: Path) -> None:
    save_policy(folder, policy, kept_norm_stats(data.store, data.taught))


def parameters(policy: Policy) -> int:
    return sum(p.numel() for p in policy.parameters())


def trainable(policy: Policy) -> int:
    return sum(p.numel() for p in policy.parameters() if p.requires_grad)
