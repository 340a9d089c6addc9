"""Images to a grid of tokens: a small vision transformer from scratch, and raw patches.

    vit      image -> strided 3x3 convolutions (neighbouring tokens share pixels)
                   -> pre-norm blocks, each scaled and shifted by the instruction (FiLM)
                   -> one token per grid cell, in trunk width
    patch    image -> cut into patches -> one linear: the trunk itself is the vision model

Overlap: a thing smaller than a patch that lies on the seam of two is otherwise cut in half, and
what the tokens say jumps when it moves by a pixel. Positions are sines and cosines of continuous
coordinates, because random cropping moves the content by whole pixels: the shift is taken off the
coordinates, so that a token keeps saying where its content truly is. Which encoder a policy has is
chosen in `policies/vision.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .attention import attend


@dataclass(frozen=True)
class VitConfig:
    type: Literal["vit"] = "vit"
    patch: int = 8
    """Pixels between neighbouring tokens: 8 makes a grid of 8x8 of a 64x64 image."""
    overlap: bool = True
    """Convolutions that reach over the patch's edge (15 pixels wide for 8), in the manner of
    Xiao et al., arXiv 2106.14881; False cuts the image into separate patches."""
    width: int = 96
    depth: int = 4
    """Transformer blocks."""
    heads: int = 3
    ffn_ratio: int = 2
    """Hidden width of a feed-forward block, in multiples of `width`."""
    film: bool = True
    """Whether the instruction modulates every block (starts as identity). Without it the tokens
    are the same whatever was asked, and the trunk must find the named thing in them."""
    pool: int = 1
    """Average this many cells by this many into one token, after all blocks."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"vision width {self.width} is not a multiple of its {self.heads} heads; "
                "choose --policy.vision.width and --policy.vision.heads that divide"
            )


@dataclass(frozen=True)
class PatchConfig:
    type: Literal["patch"] = "patch"
    patch: int = 8
    """Side of a square patch in pixels; each becomes one token."""


def grid_of(height: int, width: int, patch: int, pool: int = 1) -> tuple[int, int]:
    """Rows and columns of cells `patch` pixels wide; refuses images they do not tile."""
    cell = patch * pool
    if height % cell or width % cell:
        pooled = f" and the pool {pool} ({cell} pixels)" if pool > 1 else ""
        raise ValueError(
            f"images of {height}x{width} do not divide by the patch {patch}{pooled}; "
            "choose --policy.vision.patch or another camera size"
        )
    return height // patch, width // patch


class GridPosition(nn.Module):
    """Sines and cosines of each cell's place; half of the features say the row, half the column."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(
                f"2-D positions need a width that is a multiple of 4, got {width}; "
                "change --policy.vision.width or --policy.trunk.width"
            )
        # Periods from 4 cells (a shift of half a cell is an eighth of it) to 4 images (never
        # ambiguous within one).
        period = 4.0 * max(rows, columns) ** torch.linspace(0, 1, width // 4)
        half_image = torch.tensor([columns / 2, rows / 2])  # in cells
        self.frequency: Tensor
        self.x: Tensor
        self.y: Tensor
        self.register_buffer(
            "frequency", 2 * math.pi * half_image[:, None] / period, persistent=False
        )
        self.register_buffer("x", (2 * torch.arange(columns) + 1) / columns - 1, persistent=False)
        self.register_buffer("y", (2 * torch.arange(rows) + 1) / rows - 1, persistent=False)

    def forward(
        self, shift: Float[Tensor, "batch 2"] | None = None
    ) -> Float[Tensor, "rows_of_batch cells width"]:
        """Features of every cell, with batch 1 if nothing was shifted. `shift` (x, y in units of
        half an image) is where the content was moved to and is taken off."""
        x, y = self.x[None], self.y[None]
        if shift is not None:
            x, y = x - shift[:, :1], y - shift[:, 1:]
        features = []
        for place, frequency in ((y, self.frequency[1]), (x, self.frequency[0])):
            angle = place[..., None] * frequency
            features.append(torch.cat([angle.sin(), angle.cos()], dim=-1))
        rows, columns = len(self.y), len(self.x)
        along_y = features[0][:, :, None].expand(-1, -1, columns, -1)
        along_x = features[1][:, None].expand(-1, rows, -1, -1)
        return torch.cat([along_y, along_x], dim=-1).flatten(1, 2)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map that starts as zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def pool_cells(x: Tensor, rows: int, pool: int) -> Tensor:
    """Means over `pool` by `pool` neighbouring cells, `(batch, cells, width)` in and out."""
    if pool == 1:
        return x
    grid = rearrange(x, "batch (rows columns) width -> batch width rows columns", rows=rows)
    return F.avg_pool2d(grid, pool).flatten(2).transpose(1, 2)


def overlapping_stem(patch: int, width: int) -> nn.Sequential:
    """Stride-2 convolutions (and one of the odd rest) from pixels to a map `patch` times smaller,
    each kernel reaching over its stride; channels double on the way to `width`."""
    twos = (patch & -patch).bit_length() - 1
    strides = [2] * twos + [patch >> twos] * (patch >> twos > 1)
    layers: list[nn.Module] = []
    inputs = 3
    for index, stride in enumerate(strides):
        outputs = max(8, width >> (len(strides) - 1 - index))
        outputs = width if index == len(strides) - 1 else outputs
        kernel = 3 if stride == 2 else stride + 2
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1)
        # The default initialisation halves the signal at every layer.
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.SiLU()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])


def cut(images: Tensor, patch: int) -> Tensor:
    """`(batch, cells, pixels)`: every patch's colours in a row."""
    return rearrange(
        images,
        "batch colour (rows y) (columns x) -> batch (rows columns) (y x colour)",
        y=patch,
        x=patch,
    )


class VitBlock(nn.Module):
    """Attention among all cells, then a feed-forward block, both modulated by the instruction."""

    def __init__(self, config: VitConfig, condition_dim: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, config.ffn_ratio * width)
        self.ffn_out = nn.Linear(config.ffn_ratio * width, width)
        self.film = zero_linear(condition_dim, 4 * width) if config.film else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        film = None if self.film is None else self.film(condition)[:, None].chunk(4, dim=-1)
        if film is not None:
            normed = torch.addcmul(film[1], normed, 1 + film[0])
        query, key, value = rearrange(
            self.qkv(normed),
            "batch cells (three heads features) -> three batch heads cells features",
            three=3,
            heads=self.heads,
        )
        attended = attend(query, key, value, None)
        x = x + self.attention_out(
            rearrange(attended, "batch heads cells features -> batch cells (heads features)")
        )
        normed = self.ffn_norm(x)
        if film is not None:
            normed = torch.addcmul(film[3], normed, 1 + film[2])
        return x + self.ffn_out(F.gelu(self.ffn_in(normed), approximate="tanh"))


class VitVision(nn.Module):
    """One camera's vision transformer; every grid cell stays a token unless `pool` says less."""

    def __init__(
        self, config: VitConfig, condition_dim: int, trunk_width: int, height: int, width: int
    ) -> None:
        super().__init__()
        rows, columns = grid_of(height, width, config.patch, config.pool)
        self.config = config
        self.rows = rows
        self.tokens = rows * columns // config.pool**2
        if config.overlap:
            self.stem = overlapping_stem(config.patch, config.width)
        else:
            self.stem = nn.Linear(3 * config.patch**2, config.width)
        self.stem_norm = nn.LayerNorm(config.width)
        self.position = GridPosition(rows, columns, config.width)
        self.blocks = nn.ModuleList(VitBlock(config, condition_dim) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.to_trunk = nn.Linear(config.width, trunk_width)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
        shift: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch tokens trunk_width"]:
        """Tokens of one camera, row by row. `images` in [-1, 1]; `shift` (x, y in units of half an
        image) is where random cropping moved the content, and is taken off the positions."""
        if self.config.overlap:
            x = self.stem(images.contiguous(memory_format=torch.channels_last))
            x = x.flatten(2).transpose(1, 2)
        else:
            x = self.stem(cut(images, self.config.patch))
        x = self.stem_norm(x)
        x = x + self.position(shift).to(x.dtype)
        for block in self.blocks:
            x = block(x, condition)
        return self.to_trunk(pool_cells(self.norm(x), self.rows, self.config.pool))


class PatchVision(nn.Module):
    """Encoder-free: raw patches through one linear (SOLO, arXiv 2407.06438; EVE, 2406.11832)."""

    def __init__(
        self, config: PatchConfig, condition_dim: int, trunk_width: int, height: int, width: int
    ) -> None:
        super().__init__()
        rows, columns = grid_of(height, width, config.patch)
        self.config = config
        self.tokens = rows * columns
        self.to_trunk = nn.Linear(3 * config.patch**2, trunk_width)
        self.position = GridPosition(rows, columns, trunk_width)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
        shift: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch tokens trunk_width"]:
        """Tokens of one camera, row by row; as `VitVision`, but `condition` is not used: the
        instruction meets the patches in the trunk."""
        x = self.to_trunk(cut(images, self.config.patch))
        return x + self.position(shift).to(x.dtype)
