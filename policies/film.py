"""Convolution features modulated by the instruction (FiLM, arXiv 1709.07871, eq. 1-2)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FilmBlock(nn.Module):
    """Residual pair of 3x3 convolutions, modulated per channel by the condition, if it has one."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = None
        if condition_dim:
            self.film = nn.Linear(condition_dim, 2 * width)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if self.film is None:
            return x + self.second(F.silu(self.first(self.norm(x))))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return x + self.second(F.silu(self.first(self.norm(x)) * (1 + scale) + shift))


class FilmFeatures(nn.Module):
    """Pixels to a map of `width` channels, `stride` times smaller; the first kernel is twice as
    wide as the stride, so neighbours overlap."""

    def __init__(self, width: int, blocks: int, stride: int, condition_dim: int) -> None:
        """`condition_dim` 0: nothing modulates."""
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2 * stride, stride=stride, padding=stride // 2)
        self.blocks = nn.ModuleList(FilmBlock(width, condition_dim) for _ in range(blocks))
        self.norm = nn.GroupNorm(8, width)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
    ) -> Float[Tensor, "batch channels rows columns"]:
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x, condition)
        return F.silu(self.norm(x))
