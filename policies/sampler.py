"""Integrate a velocity field from noise to an action chunk."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Velocity = Callable[
    [Float[Tensor, "batch horizon action_dim"], Float[Tensor, " batch"]],
    Float[Tensor, "batch horizon action_dim"],
]


@dataclass(frozen=True)
class SamplerConfig:
    steps: int = 8
    """Euler steps from noise (t = 0) to action (t = 1); each is one pass of the action expert."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler steps must be 1 or more, got {self.steps}")


def integrate(
    velocity: Velocity, noise: Float[Tensor, "batch horizon action_dim"], steps: int
) -> Float[Tensor, "batch horizon action_dim"]:
    """Euler: x <- x + v(x, t) / steps at t = 0, 1/steps, ..., (steps - 1)/steps."""
    x = noise
    for step in range(steps):
        t = torch.full((x.shape[0],), step / steps, device=x.device)
        x = x + velocity(x, t) / steps
    return x
