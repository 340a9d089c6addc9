"""The baseline that in-context denoising replaced: one embedding into a small diffusion head.

        context tokens --mean--> embedding --+
        noisy chunk, flow time --------------+--> residual MLP --> output

As Octo's (arXiv 2405.12213, section III-A) and diffusion_policy's heads, it sees the scene only
through one vector per control step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .attention import time_features
from .key_cache import Cache


@dataclass(frozen=True)
class PooledHeadConfig:
    width: int = 256
    depth: int = 3
    """Residual blocks of two layers."""


class PooledHead(nn.Module):
    def __init__(
        self, config: PooledHeadConfig, trunk_width: int, horizon: int, action_dim: int
    ) -> None:
        super().__init__()
        self.horizon, self.time_width = horizon, trunk_width
        width = config.width
        self.enter = nn.Linear(horizon * action_dim + 2 * trunk_width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(config.depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(config.depth))
        self.leave = nn.Linear(width, horizon * action_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch horizon action_dim"],
        t: Float[Tensor, " batch"],
        embedding: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch horizon action_dim"]:
        time = time_features(t, self.time_width).to(noisy.dtype)
        x = self.enter(torch.cat([noisy.flatten(1), time, embedding], dim=-1))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return self.leave(x).unflatten(1, (self.horizon, -1))


def pool(cache: Cache) -> Float[Tensor, "batch width"]:
    """Mean over all context tokens that exist."""
    tokens = torch.cat([cache.outputs[name] for name, _ in cache.layout], dim=1)
    if cache.valid is None:
        return tokens.mean(dim=1)
    weight = cache.valid[:, :, None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)
