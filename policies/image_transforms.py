"""Pixels at the policy's border: uint8 frames to floats, and the random shift used in training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class AugmentConfig:
    shift_pixels: int = 4
    """Each training image is moved by up to this many pixels, its own draw per sample and camera,
    edges repeated (DrQ, arXiv 2004.13649, section 3.1). Key points are moved back, so where a
    thing is stays true while which pixels show it varies."""
    brightness: float = 0.1
    """Each training image is scaled by a factor in 1 +- this."""
    state_noise: float = 0.05
    """Standard deviation added to the normalised state, so that the policy does not read the
    phase of the demonstration off it."""


def to_float(
    images: UInt8[Tensor, "batch height width 3"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch 3 height width"]:
    """uint8 RGB to [-1, 1], channels first in shape and last in memory."""
    return (images.to(dtype) * (2 / 255) - 1).permute(0, 3, 1, 2)


def random_shift(
    images: UInt8[Tensor, "batch height width 3"],
    pixels: int,
    generator: torch.Generator | None = None,
) -> tuple[UInt8[Tensor, "batch height width 3"], Float[Tensor, "batch 2"]]:
    """Shifted images and where their content went, `(x, y)` in units of half an image.

    One gather for the whole batch; rows and columns past the edge repeat it.
    """
    batch, height, width, _ = images.shape
    device = images.device
    draw = torch.randint(-pixels, pixels + 1, (batch, 2), generator=generator).to(device)
    rows = (torch.arange(height, device=device) - draw[:, 1:]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) - draw[:, :1]).clamp(0, width - 1)
    index = torch.arange(batch, device=device)[:, None, None]
    shifted = images[index, rows[:, :, None], columns[:, None, :]]
    return shifted, draw.float() * torch.tensor([2 / width, 2 / height], device=device)
