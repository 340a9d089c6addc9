"""AdamW, the one-cycle schedule and the averaged weights."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from .config import OptimizerConfig


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, steps: int
) -> tuple[torch.optim.AdamW, LRScheduler]:
    """AdamW with decay on matrices only, and its one-cycle schedule over `steps`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.peak_learning_rate, betas=(0.9, 0.95), fused=True
    )
    rise = max(1, round(steps * config.warmup_fraction))

    def one_cycle(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise + 1) / max(1, steps - rise))))

    schedule = LambdaLR(optimizer, one_cycle)
    return optimizer, schedule


class Ema:
    """Averaged weights: after each step, average <- decay * average + (1 - decay) * weights.

    The decay starts low, as (1 + n) / (10 + n), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in _weights(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in _weights(model):
            averages.append(self.weights[name])
            values.append(value.detach())
        torch._foreach_lerp_(averages, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state dict with the averages in place of the weights."""
        return {**model.state_dict(), **self.weights}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that learn; a frozen backbone needs no average, and no second copy in memory."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
