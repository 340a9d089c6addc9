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
from .process import split_decided


@dataclass(frozen=True)
class PooledHeadConfig:
    width: int = 256
    depth: int = 3
    """Residual blocks of two layers."""


class PooledHead(nn.Module):
    def __init__(
        self,
        config: PooledHeadConfig,
        trunk_width: int,
        horizon: int,
        action_dim: int,
        realtime: bool = False,
    ) -> None:
        """`realtime`: it is told which actions of the chunk are decided (real-time chunking)."""
        super().__init__()
        self.horizon, self.time_width, self.realtime = horizon, trunk_width, realtime
        width, told = config.width, horizon if realtime else 0
        self.enter = nn.Linear(horizon * action_dim + 2 * trunk_width + told, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(config.depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(config.depth))
        self.leave = nn.Linear(width, horizon * action_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch horizon action_dim"],
        t: Float[Tensor, "batch *horizon"],
        embedding: Float[Tensor, "batch width"],
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """Times as `GeneratedStream` takes them: t = 1 marks actions that are decided."""
        t, decided = split_decided(t)
        if decided is not None and not self.realtime:
            raise ValueError(
                "this pooled head knows one time per chunk and no action that is decided (real-"
                "time chunking); train it with --policy.realtime.max-delay"
            )
        marks: list[Tensor] = []
        if self.realtime:
            none = noisy.new_zeros(noisy.shape[:2])
            marks = [none if decided is None else decided.to(noisy.dtype)]
        time = time_features(t, self.time_width).to(noisy.dtype)
        x = self.enter(torch.cat([noisy.flatten(1), time, embedding, *marks], dim=-1))
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
