"""What a run learns from: one store, or several in fixed proportions, also of different robots.

    one store       WindowLoader: any order, clips, object stores
    several         Mixture: random windows of each, in the proportions of `TrainConfig.weights`

Both give batches as parts `(slot, Batch)`: the robot of a part is `robots[slot]`. Stores of one
robot share its slot, and their statistics are merged.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.action_forms import action_space
from ..datasets.action_stats import network_stats
from ..datasets.gather import Allocate, WindowSpec
from ..datasets.loader import WindowLoader
from ..datasets.mixture import Mixture, Source
from ..datasets.norm_stats import NormStats
from ..datasets.schema import Batch, Embodiment
from ..datasets.store import Store
from ..policies.policy_config import PolicyConfig
from .config import TrainConfig

Parts = tuple[tuple[int, Batch], ...]


class TrainingData:
    """Batches without end, the episodes held out of them, and the statistics of the others."""

    def __init__(
        self,
        config: TrainConfig,
        paths: Sequence[Path],
        rank: int = 0,
        world_size: int = 1,
        allocate: Allocate = np.empty,
    ) -> None:
        if not paths:
            raise ValueError("no store to train on; give --data STORE")
        weights = config.weights or (1.0,) * len(paths)
        if len(weights) != len(paths):
            raise ValueError(f"{len(weights)} weights for {len(paths)} stores; give one per store")
        self.config = config
        stores = self._stores = [Store.open(path) for path in paths]
        specs = self._specs = [window_spec(config.policy, store) for store in stores]
        splits = [
            split_episodes(len(store.episodes), config.held_out_fraction, config.seed)
            for store in stores
        ]
        self.robots: list[Embodiment] = list(dict.fromkeys(s.embodiment for s in stores))
        self.slot_of = [self.robots.index(store.embodiment) for store in stores]
        self.spaces = [action_space(config.actions, robot) for robot in self.robots]
        """How the network sees each robot's actions and state."""
        known = [
            network_stats(store, taught, self.spaces[slot], config.policy.horizon)
            for store, (taught, _), slot in zip(stores, splits, self.slot_of, strict=True)
        ]
        self.stats = [
            NormStats.merged([k for k, s in zip(known, self.slot_of, strict=True) if s == slot])
            for slot in range(len(self.robots))
        ]
        self._taught = [taught for taught, _ in splits]
        self.taught = sum(len(taught) for taught in self._taught)
        shared = {"rank": rank, "world_size": world_size, "allocate": allocate}
        self.source: WindowLoader | Mixture
        if len(stores) == 1:
            self.source = WindowLoader(
                stores[0], specs[0], config.batch_size, config.seed, splits[0][0],
                mode=config.order, cache=config.cache, **shared,
            )  # fmt: skip
            self.windows, self.cache = len(self.source.windows), self.source.cache
        else:
            if config.order != "random":
                raise ValueError(
                    f"several stores are visited at random, not in order {config.order!r}; merge "
                    "stores of one robot with `ulna data merge`"
                )
            sources = [
                Source(store, spec, weight, tuple(taught))
                for store, spec, weight, (taught, _) in zip(
                    stores, specs, weights, splits, strict=True
                )
            ]
            self.source = Mixture(
                sources, config.batch_size, config.seed, cache=config.cache, **shared
            )
            self.windows, self.cache = self.source.windows, self.source.cache
        self._held_out = [
            WindowLoader(store, spec, 1, config.seed, held, prefetch=0, cache=config.cache)
            for store, spec, (_, held) in zip(stores, specs, splits, strict=True)
        ]

    def __next__(self) -> Parts:
        made = next(self.source)
        if isinstance(made, Batch):
            return ((0, made),)
        return tuple((self.slot_of[part.source], part.batch) for part in made)

    def first(self, windows: int) -> list[tuple[int, Batch]]:
        """At most so many random windows of each store, for what must be known before training.
        They are taught ones: what is held out may not even set a scale."""
        rng = np.random.default_rng(self.config.seed)
        found = []
        sources = zip(self.slot_of, self._stores, self._specs, self._taught, strict=True)
        for slot, store, spec, taught in sources:
            some = sorted(rng.permutation(taught)[:windows].tolist())
            loader = WindowLoader(store, spec, 1, 0, some, prefetch=0, cache="none")
            chosen = rng.permutation(len(loader.windows))[:windows]
            found.append((slot, loader.batch_at(np.sort(chosen))))
            loader.close()
        return found

    def held_out(self) -> Iterator[tuple[int, Batch]]:
        """Always the same windows of episodes that are never trained on."""
        config = self.config
        each = max(1, config.held_out_windows // len(self._held_out))
        for slot, loader in zip(self.slot_of, self._held_out, strict=True):
            count = min(each, len(loader.windows))
            chosen = np.random.default_rng(0).permutation(len(loader.windows))[:count]
            for part in np.array_split(chosen, max(1, count // config.batch_size)):
                yield slot, loader.batch_at(part)

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)

    def close(self) -> None:
        for loader in (self.source, *self._held_out):
            loader.close()


def window_spec(policy: PolicyConfig, store: Store) -> WindowSpec:
    """What a policy learns from, around each step of `store`."""
    future = 0
    if policy.future is not None:
        future = policy.future.steps_ahead or policy.horizon
    # A plan to continue is made of what the arm was really sent, where that was recorded.
    known = store.episodes[0].streams if len(store.episodes) else ()
    executed = "action_sent" if policy.realtime.max_delay and "action_sent" in known else ""
    return WindowSpec(policy.horizon, policy.history, future=future, executed_stream=executed)


def split_episodes(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(taught, held out): a seeded share of the episodes, at least one, is never trained on."""
    held = max(1, round(count * fraction))
    if held >= count:
        raise ValueError(
            f"{count} episode(s) are too few to hold {held} out and train on the rest; "
            "collect more (`ulna collect TASK --out STORE --episodes N --append`)"
        )
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())
