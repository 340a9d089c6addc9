"""From noise to data: several groups at once, each in its own number of steps.

        action, 4 steps   |           |           |           |           |
        future, 8 steps   |     |     |     |     |     |     |     |     |
        network asked     ^     ^     ^     ^     ^     ^     ^     ^

The finest group decides how often the network is asked; a coarser one moves on at the end of each
of its own steps, with what the network says then, that is with the finer groups furthest along
(DUST's asynchronous joint sampling, arXiv 2510.27607). With equal counts it is the plain solver.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..datasets.schema import unknown_name
from .process import Process

Network = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
"""(noisy tokens by group, times by group) -> output by group, all (batch, tokens, dim)."""


@runtime_checkable
class Guide(Protocol):
    """Asks the network and turns its answer about one group (`policies/realtime_chunking.py`)."""

    @property
    def group(self) -> str: ...

    def __call__(
        self, network: Network, x: dict[str, Tensor], t: dict[str, Tensor]
    ) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class SamplerConfig:
    steps: int = 8
    """Steps from noise to action; each is one pass of the action expert."""
    future_steps: int = 0
    """Steps of the future's stream (DUST), a multiple of `steps`; 0: as many. More of them make
    actions better and agree less with the sampled future; 4 to 8 times is a good trade."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler steps must be 1 or more, got {self.steps}")
        if self.future_steps % self.steps:
            raise ValueError(
                f"future_steps {self.future_steps} must be a multiple of steps {self.steps}"
            )


@dataclass(frozen=True)
class Known:
    """Tokens of a group that are decided already, such as the actions under way when a chunk is
    joined to the one before it."""

    values: Tensor
    """(batch, tokens, dim), normalised; looked at where `mask` holds."""
    mask: Tensor
    """(batch, tokens) bool."""


def sample(
    network: Network,
    noise: Mapping[str, Tensor],
    process: Process,
    steps: Mapping[str, int],
    given: Mapping[str, Tensor] | None = None,
    known: Mapping[str, Known] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    guide: Guide | None = None,
) -> dict[str, Tensor]:
    """Solve every group of `noise` in its `steps`; returns the clean groups.

    `given` groups are clean inputs at t = 1: with the future given the network is an inverse
    model, with the action given a forward model. `known` tokens keep their values and have t = 1.
    `generators`, one per batch row, feed stochastic solvers. `guide` asks in the network's place
    where its group moves on.
    """
    given, known = dict(given or {}), dict(known or {})
    for name in noise:
        if name not in steps:
            raise unknown_name("group with a step count", name, steps)
    for name in known:
        if name not in noise:
            raise unknown_name("group with known tokens", name, noise)
    finest = max(steps[name] for name in noise)
    for name in noise:
        if finest % steps[name]:
            raise ValueError(
                f"group {name!r} has {steps[name]} steps, which do not divide the {finest} of the "
                "finest group"
            )
    solvers = {name: process.solver(steps[name]) for name in noise}
    x = {name: _keep(value, known.get(name)) for name, value in noise.items()}
    clean_times = {
        name: torch.ones(len(value), device=value.device) for name, value in given.items()
    }
    for tick in range(finest):
        index = {name: tick * steps[name] // finest for name in x}
        t = {
            name: _times(value, solvers[name].times[index[name]], known.get(name))
            for name, value in x.items()
        }
        moving = [name for name in x if (tick + 1) * steps[name] % finest == 0]
        guided = guide is not None and guide.group in moving
        ask = partial(guide, network) if guide is not None and guided else network
        output = ask({**x, **given}, {**t, **clean_times})
        for name in moving:
            moved = solvers[name].advance(x[name], output[name], index[name], generators)
            x[name] = _keep(moved, known.get(name))
    return x


def _times(x: Tensor, time: float, known: Known | None) -> Tensor:
    t = torch.full((len(x),), time, device=x.device)
    if known is None:
        return t
    return torch.where(known.mask, 1.0, t[:, None])


def _keep(x: Tensor, known: Known | None) -> Tensor:
    return x if known is None else torch.where(known.mask[:, :, None], known.values, x)
