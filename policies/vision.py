"""Images to tokens: which encoder a camera has, and the one that looks *for* what was named.

`make_vision` chooses: key points (below), a grid of convolution features
(`policies/film_grid.py`), a small vision transformer or raw patches (`policies/vit.py`), a
pretrained encoder (`policies/timm_vision.py`). Key points:

    image -> overlapping convolutions, each scaled and shifted by the instruction (FiLM)
          -> many attention maps over the image (spatial softmax)
          -> per map: where it looks (x, y) and how strongly it answers there
          -> a few tokens, each a linear view of all maps

The instruction enters before any pooling: without it the encoder would have to carry every object
through to the trunk (a prototype with plain patches and the instruction as one more token reached
3 of 30 scenes, one with FiLM and key points 28 of 30). FiLM: Perez et al., arXiv 1709.07871, eq.
1-2. Spatial softmax: Finn et al., arXiv 1509.06113, section IV.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .film import FilmFeatures
from .film_grid import FilmGridConfig, FilmGridVision
from .timm_vision import TimmConfig, TimmVision
from .vit import PatchConfig, PatchVision, VitConfig, VitVision


@dataclass(frozen=True)
class KeypointVisionConfig:
    type: Literal["keypoints"] = "keypoints"
    width: int = 48
    """Channels of the feature map; a multiple of 8."""
    blocks: int = 2
    """Residual blocks of two 3x3 convolutions."""
    stride: int = 4
    """Pixels between neighbouring features; the stem's kernel is twice as wide, so they overlap."""
    maps: int = 32
    """Attention maps per camera."""
    tokens: int = 4
    """Tokens per camera."""


class KeypointVision(nn.Module):
    """One camera's encoder."""

    def __init__(
        self,
        config: KeypointVisionConfig,
        condition_dim: int,
        trunk_width: int,
        height: int,
        width: int,
    ) -> None:
        super().__init__()
        if height % config.stride or width % config.stride:
            raise ValueError(
                f"images of {height}x{width} do not divide by the stride {config.stride}; "
                "choose --policy.vision.stride or another camera size"
            )
        self.config = config
        self.tokens = config.tokens
        channels = config.width
        self.features = FilmFeatures(channels, config.blocks, config.stride, condition_dim)
        self.maps = nn.Conv2d(channels, config.maps, 1)
        # Maps that start flat all look at the middle and learn nothing for hundreds of steps.
        nn.init.normal_(self.maps.weight, std=4.0 * channels**-0.5)
        self.to_trunk = nn.Linear(3 * config.maps, config.tokens * trunk_width)
        self.embedding = nn.Parameter(torch.randn(config.tokens, trunk_width) * 0.02)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height // config.stride),
            torch.linspace(-1, 1, width // config.stride),
            indexing="ij",
        )
        self.grid: Tensor
        self.register_buffer("grid", torch.stack([x, y], dim=-1).reshape(-1, 2), persistent=False)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
        shift: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch tokens trunk_width"]:
        """Tokens of one camera. `images` in [-1, 1]; `shift` (x, y in units of half an image) is
        where random cropping moved the content, and is taken off the key points again."""
        x = self.features(images, condition)
        logits = self.maps(x).flatten(2).float()  # (batch, maps, cells)
        weights = logits.softmax(dim=-1)
        where = weights @ self.grid  # (batch, maps, 2)
        if shift is not None:
            where = where - shift[:, None]
        strength = (weights * logits).sum(dim=-1, keepdim=True) / 8  # (batch, maps, 1)
        points = torch.cat([2 * where, strength], dim=-1).flatten(1)
        tokens = self.to_trunk(points.to(x.dtype)).unflatten(1, (self.config.tokens, -1))
        return tokens + self.embedding


VisionConfig = KeypointVisionConfig | FilmGridConfig | VitConfig | PatchConfig | TimmConfig
VisionEncoder = KeypointVision | FilmGridVision | VitVision | PatchVision | TimmVision


def make_vision(
    config: VisionConfig,
    condition_dim: int,
    trunk_width: int,
    height: int,
    width: int,
    load_weights: bool = True,
) -> VisionEncoder:
    """The encoder of one camera of `height` by `width` pixels; its `tokens` says how many tokens
    an image becomes. `load_weights=False` leaves pretrained weights unread: for a policy whose own
    weights are loaded next."""
    size = (condition_dim, trunk_width, height, width)
    match config:
        case KeypointVisionConfig():
            return KeypointVision(config, *size)
        case FilmGridConfig():
            return FilmGridVision(config, *size)
        case VitConfig():
            return VitVision(config, *size)
        case PatchConfig():
            return PatchVision(config, *size)
        case TimmConfig():
            return TimmVision(config, *size, load_weights=load_weights)
