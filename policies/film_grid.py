"""Images to a grid of tokens by convolutions that the instruction modulates.

    image -> overlapping convolutions with FiLM (those of `KeypointVision`) -> strided convolution
          -> one token per cell, with its place

What `KeypointVision` boils down to a few points stays a grid here: for trunks that look for
themselves. From little data it learns faster than a vision transformer, for convolutions need not
learn that neighbours belong together.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .film import FilmFeatures
from .vit import GridPosition, grid_of


@dataclass(frozen=True)
class FilmGridConfig:
    type: Literal["film_grid"] = "film_grid"
    width: int = 48
    """Channels of the feature map; a multiple of 8."""
    blocks: int = 2
    """Residual blocks of two 3x3 convolutions."""
    stride: int = 4
    """Pixels between neighbouring features; the stem's kernel is twice as wide."""
    patch: int = 8
    """Pixels between neighbouring tokens, a multiple of `stride`."""
    film: bool = True
    """Whether the instruction modulates the blocks; without it the trunk must find what is
    named."""

    def __post_init__(self) -> None:
        if self.patch % self.stride:
            raise ValueError(
                f"patch {self.patch} is not a multiple of the stride {self.stride}; change "
                "--policy.vision.patch or --policy.vision.stride"
            )


class FilmGridVision(nn.Module):
    """One camera's encoder."""

    def __init__(
        self,
        config: FilmGridConfig,
        condition_dim: int,
        trunk_width: int,
        height: int,
        width: int,
    ) -> None:
        super().__init__()
        rows, columns = grid_of(height, width, config.patch)
        self.config = config
        self.tokens = rows * columns
        channels, step = config.width, config.patch // config.stride
        self.features = FilmFeatures(
            channels, config.blocks, config.stride, condition_dim if config.film else 0
        )
        # As in vit.py: each cell also sees its neighbours' edge.
        self.down = nn.Conv2d(channels, 2 * channels, step + 2, stride=step, padding=1)
        self.position = GridPosition(rows, columns, trunk_width)
        self.to_trunk = nn.Linear(2 * channels, trunk_width)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
        shift: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch tokens trunk_width"]:
        """Tokens of one camera, row by row. `images` in [-1, 1]; `shift` (x, y in units of half an
        image) is where random cropping moved the content, and is taken off the positions."""
        x = F.silu(self.down(self.features(images, condition))).flatten(2).transpose(1, 2)
        return self.to_trunk(x) + self.position(shift).to(x.dtype)
