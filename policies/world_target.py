"""What the future looks like, as a few tokens: the second stream of a world-model policy (DUST).

    frame `steps_ahead` ticks later --frozen encoder--> features --pool--> grid x grid tokens per
                                                        camera, of mean 0 and deviation 1

DUST (arXiv 2510.27607) takes its VLM's image encoder, 64 tokens. Here the encoder is a frozen one
of random convolutions, so that nothing is downloaded: it keeps where which colour is, which is what
a scene of a few objects consists of. Its weights are in the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .image_transforms import to_float


@dataclass(frozen=True)
class FutureConfig:
    type: Literal["future"] = "future"
    steps_ahead: int = 0
    """Control ticks between the observation and the frame that is predicted; 0: the horizon."""
    grid: int = 4
    """Tokens per side and camera."""
    features: int = 16
    """Numbers per token."""
    weight: float = 1.0
    """Weight of the future's loss beside the action's (DUST: 1; 0.2 was far worse)."""
    noise: Literal["independent", "tied"] = "independent"
    """Whether future and action have flow times of their own in training. `tied` is the ablation:
    such a network was never shown a clean future beside a noisy action."""


class WorldTarget(nn.Module):
    """The frozen encoder and the statistics of what it gives."""

    def __init__(self, config: FutureConfig, cameras: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = cameras * config.grid**2
        generator = torch.Generator().manual_seed(0)
        widths = (3, 2 * config.features, 2 * config.features, config.features)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.orthogonal_(layer.weight, gain=1.4, generator=generator)
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.zeros(config.features))

    @torch.no_grad()
    def calibrate(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Take mean and deviation of each feature from these frames, once, before training."""
        features = torch.cat([self._features(images).flatten(0, 1) for images in batches])
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def forward(
        self, images: dict[str, UInt8[Tensor, "batch height width 3"]]
    ) -> Float[Tensor, "batch tokens features"]:
        """Tokens of all cameras, one camera after the other. Raises if never calibrated."""
        if not self.std.all():
            raise ValueError(
                "the targets of the future have no statistics yet; call policy.calibrate(batch) "
                "once before training (train/loop.py does)"
            )
        return (self._features(images) - self.mean) / self.std

    def _features(self, images: dict[str, Tensor]) -> Tensor:
        parts = []
        for frames in images.values():
            x = to_float(frames).float()
            for layer in self.convolutions:
                x = torch.tanh(layer(x))
            x = F.adaptive_avg_pool2d(x, self.config.grid)
            parts.append(
                rearrange(x, "batch features rows columns -> batch (rows columns) features")
            )
        return torch.cat(parts, dim=1)
