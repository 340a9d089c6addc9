"""A convolution block modulated by the instruction (FiLM, arXiv 1709.07871, eq. 1-2)."""

import torch.nn.functional as F
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
