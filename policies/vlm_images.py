"""Camera frames to what a pretrained vision tower was trained on, in tensor code on the device.

    frame (height, width, 3) --resize--> (rows, 3, height', width') --(x - mean) / std--> tower

The sizes, the mean and the std are those of the checkpoint's own image processor; a test holds the
result against that processor. Resizing is done in float and rounded to whole grey levels, so that
a CPU and a GPU agree.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

Resize = Literal["processor", "pad", "pad_left_top"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class PixelNorm:
    """What the tower expects of a pixel, in units of grey levels 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"

    def apply(
        self, levels: Float[Tensor, "rows 3 height width"]
    ) -> Float[Tensor, "rows 3 height width"]:
        mean = torch.tensor(self.mean, device=levels.device)[:, None, None]
        std = torch.tensor(self.std, device=levels.device)[:, None, None]
        return (levels - mean) / std


def to_levels(
    camera: str, frames: Shaped[Tensor, "rows height width 3"]
) -> Float[Tensor, "rows 3 height width"]:
    """Grey levels 0..255 as float32; `frames` is uint8, or floating point in [0, 1]."""
    if frames.dtype == torch.uint8:
        return frames.permute(0, 3, 1, 2).float()
    if frames.is_floating_point():
        return frames.permute(0, 3, 1, 2).float() * 255
    raise ValueError(
        f"image {camera!r}: got {frames.dtype}, expected uint8 in 0..255 or a float in 0..1"
    )


def resize(
    levels: Float[Tensor, "rows 3 height width"],
    height: int,
    width: int,
    interpolation: Interpolation,
) -> Float[Tensor, "rows 3 new_height new_width"]:
    """Resample as an 8-bit image is: along the width, whole levels again, then along the height.

    The rounding in between matters where a bicubic kernel overshoots: on white noise without it
    single pixels were 15 levels off.
    """
    for size in ((levels.shape[-2], width), (height, width)):
        if levels.shape[-2:] == size:
            continue
        if interpolation == "nearest":
            levels = F.interpolate(levels, size=size, mode="nearest")
            continue
        if interpolation == "lanczos":
            levels = _lanczos(levels, *size)
        else:
            levels = F.interpolate(
                levels, size=size, mode=interpolation, align_corners=False, antialias=True
            )
        levels = levels.clamp(0, 255).round()
    return levels


def _lanczos(levels: Tensor, height: int, width: int) -> Tensor:
    """Along the one axis that changes; torch has no such kernel."""
    # Under autocast the product would run in bfloat16, which has fewer levels than the image.
    with torch.autocast(levels.device.type, enabled=False):
        if levels.shape[-1] != width:
            return levels @ lanczos_weights(levels.shape[-1], width, levels.device).T
        return lanczos_weights(levels.shape[-2], height, levels.device) @ levels


@lru_cache(maxsize=64)
def lanczos_weights(old: int, new: int, device: torch.device) -> Float[Tensor, "new old"]:
    """How much each old pixel counts in each new one: sinc(x) sinc(x / 3) within 3 lobes, wider by
    the scale when shrinking (as Pillow does it)."""
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    x = (torch.arange(old, dtype=torch.float64) + 0.5 - centre) / stretch
    weights = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float().to(device)


def pad_to_square(
    levels: Float[Tensor, "rows 3 height width"],
    size: int,
    left_top: bool,
) -> Float[Tensor, "rows 3 size size"]:
    """Keep the aspect ratio and fill with black: around the image (pi0) or `left_top` (SmolVLA).

    Bilinear without antialiasing, as LeRobot's two policies do it.
    """
    height, width = levels.shape[-2:]
    ratio = max(width / size, height / size)
    new_height, new_width = int(height / ratio), int(width / ratio)
    out = F.interpolate(levels, size=(new_height, new_width), mode="bilinear", align_corners=False)
    missing_y, missing_x = size - new_height, size - new_width
    share = 1 if left_top else 2
    top, left = missing_y // share, missing_x // share
    return F.pad(out, (left, missing_x - left, top, missing_y - top))


def longest_edge_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """SmolVLM's first resize: the longer side becomes `longest`, the other one even."""
    if width >= height:
        short = int(longest / (width / height))
        return max(short + short % 2, 1), longest
    short = int(longest * (width / height))
    return longest, max(short + short % 2, 1)


def area_size(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Qwen-VL's size: sides in multiples of `factor`, area within bounds, aspect nearly kept."""
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        tall = max(factor, math.floor(height / scale / factor) * factor)
        wide = max(factor, math.floor(width / scale / factor) * factor)
    elif tall * wide < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * scale / factor) * factor
        wide = math.ceil(width * scale / factor) * factor
    return tall, wide


def patch_rows(
    pixels: Float[Tensor, "rows 3 height width"], patch: int, merge: int, repeats: int
) -> Float[Tensor, "patches values"]:
    """Qwen-VL's input: one row per patch, the `merge` x `merge` patches that become one token next
    to each other; a still image stands `repeats` times along time."""
    rows, channels, height, width = pixels.shape
    blocks = pixels.reshape(
        rows,
        channels,
        height // patch // merge,
        merge,
        patch,
        width // patch // merge,
        merge,
        patch,
    )
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (rows, y, x, my, mx, channel, py, px)
    blocks = blocks.unsqueeze(6).expand(*(-1,) * 6, repeats, -1, -1)
    return blocks.reshape(-1, channels * repeats * patch * patch)
