"""Pixels at the policy's border: their size, uint8 to floats, and what training draws at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
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
    images: UInt8[Tensor, "batch height width channels"],
    pixels: int,
    generator: torch.Generator | None = None,
) -> tuple[UInt8[Tensor, "batch height width channels"], Float[Tensor, "batch 2"]]:
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


def resize_with_pad(
    images: UInt8[Tensor, "*batch _ _ 3"], height: int, width: int
) -> UInt8[Tensor, "*batch {height} {width} 3"]:
    """Frames of another size made to fit, aspect kept, centred, the rest black; on their device.

    Antialiased: a thin thing that falls between two samples does not vanish.
    """
    *batch, from_height, from_width, _ = images.shape
    if (from_height, from_width) == (height, width):
        return images
    scale = min(height / from_height, width / from_width)
    inner_height = max(1, round(from_height * scale))
    inner_width = max(1, round(from_width * scale))
    frames = images.reshape(-1, from_height, from_width, 3).permute(0, 3, 1, 2).float()
    if (inner_height, inner_width) != (from_height, from_width):
        size = (inner_height, inner_width)
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    right, bottom = width - inner_width - left, height - inner_height - top
    frames = F.pad(frames.round().clamp(0, 255).to(torch.uint8), (left, right, top, bottom))
    return frames.permute(0, 2, 3, 1).reshape(*batch, height, width, 3)


def drop_cameras(
    names: Sequence[str],
    rows: int,
    probability: float,
    generator: torch.Generator | None = None,
    present: Mapping[str, Bool[Tensor, " {rows}"]] | None = None,
) -> dict[str, Bool[Tensor, " {rows}"]]:
    """Which cameras each row of a batch sees: True where it does.

    Every camera of every row is left out with `probability`; where that would leave a row blind,
    one camera, drawn evenly from those the row has (`present`; not named: it has it), stays. What
    is left out is masked: a black image would be an image.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"camera dropout must lie in 0..1, got {probability}")
    if not names:
        return {}
    has = torch.ones(rows, len(names), dtype=torch.bool)
    for index, name in enumerate(names):
        if present is not None and name in present:
            has[:, index] = present[name].cpu()
    seen = has & (torch.rand(has.shape, generator=generator) >= probability)
    stays = torch.where(has, torch.rand(has.shape, generator=generator), -1.0).argmax(dim=1)
    blind = ~seen.any(dim=1) & has.any(dim=1)
    seen[blind, stays[blind]] = True
    return {name: seen[:, index] for index, name in enumerate(names)}
