"""What the future looks like, as a few tokens: the second stream of a world-model policy (DUST).

    frame `steps_ahead` ticks later --frozen encoder--> tokens of mean 0 and deviation 1

DUST (arXiv 2510.27607) takes its VLM's image encoder, 64 tokens. `eyes` is that: the policy's own
image encoders as they are when training begins, which is worth it if they have learned before.
`random`, the default, is a frozen encoder of random convolutions, so that nothing is needed: it
keeps where which colour is, which is what a scene of a few objects consists of. Its weights are in
the checkpoint.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .image_transforms import to_float
from .vision import VisionEncoder


@dataclass(frozen=True)
class FutureConfig:
    type: Literal["future"] = "future"
    steps_ahead: int = 0
    """Control ticks between the observation and the frame that is predicted; 0: the horizon."""
    encoder: Literal["random", "eyes"] = "random"
    """Who looks at that frame: random convolutions, or a frozen copy of the policy's own encoders
    (all their tokens; an instruction they listen to is left blank)."""
    grid: int = 4
    """Tokens per side and camera of the random encoder."""
    features: int = 16
    """Numbers per token."""
    weight: float = 1.0
    """Weight of the future's loss beside the action's (DUST: 1; 0.2 was far worse)."""
    noise: Literal["independent", "tied"] = "independent"
    """Whether future and action have flow times of their own in training. `tied` is the ablation:
    such a network was never shown a clean future beside a noisy action."""


class WorldTarget(nn.Module):
    """The frozen encoder and the statistics of what it gives."""

    def __init__(
        self,
        config: FutureConfig,
        cameras: int,
        eyes: Mapping[str, nn.Module] | None = None,
        trunk_width: int = 0,
        condition_dim: int = 0,
    ) -> None:
        """`eyes`: the policy's encoders by camera, with tokens of `trunk_width`, that take a
        condition of `condition_dim`; not needed by `random`."""
        super().__init__()
        self.config, self.condition_dim = config, condition_dim
        generator = torch.Generator().manual_seed(0)
        self.convolutions = nn.ModuleList()
        self.eyes = nn.ModuleDict()
        if config.encoder == "random":
            self.tokens = cameras * config.grid**2
            widths = (3, 2 * config.features, 2 * config.features, config.features)
            for before, after in zip(widths[:-1], widths[1:], strict=True):
                layer = nn.Conv2d(before, after, 4, stride=2, padding=1)
                assert layer.bias is not None
                nn.init.orthogonal_(layer.weight, gain=1.4, generator=generator)
                nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
                self.convolutions.append(layer)
        else:
            assert eyes, "a policy without encoders of its own has no eyes to copy"
            self.tokens = sum(cast(VisionEncoder, encoder).tokens for encoder in eyes.values())
            self.eyes.update({name: copy.deepcopy(encoder) for name, encoder in eyes.items()})
            self.project = nn.Linear(trunk_width, config.features, bias=False)
            nn.init.orthogonal_(self.project.weight, generator=generator)
        self.requires_grad_(False)
        # Each token of the eyes has its own mean, its place in the picture, which is no news.
        rows = (self.tokens,) if config.encoder == "eyes" else ()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(*rows, config.features))
        self.register_buffer("std", torch.zeros(*rows, config.features))

    @torch.no_grad()
    def look_with(self, eyes: Mapping[str, nn.Module]) -> None:
        """Take over the weights that the policy's encoders have now."""
        for name, encoder in self.eyes.items():
            encoder.load_state_dict(eyes[name].state_dict())

    @torch.no_grad()
    def calibrate(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Take mean and deviation of each feature from these frames, once, before training."""
        features = torch.cat([self._features(images) for images in batches])
        if self.config.encoder == "random":
            features = features.flatten(0, 1)
        self.mean.copy_(features.mean(0))
        # A token that never changes must not be blown up to count as much as the others.
        std = features.std(0)
        self.std.copy_(std.clamp(min=max(1e-3, 0.1 * float(std.square().mean().sqrt()))))

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

    def standardized(
        self, seen: Sequence[Float[Tensor, "batch _ trunk_width"]]
    ) -> Float[Tensor, "batch tokens features"]:
        """The targets from what the eyes saw of each camera, for who kept that."""
        features = torch.cat([self.project(tokens) for tokens in seen], dim=1)
        return (features - self.mean) / self.std

    def _features(self, images: dict[str, Tensor]) -> Tensor:
        parts = []
        for name, frames in images.items():
            x = to_float(frames).float()
            if self.eyes:
                blank = x.new_zeros(len(x), self.condition_dim)
                parts.append(self.project(self.eyes[name](x, blank).float()))
                continue
            for layer in self.convolutions:
                x = torch.tanh(layer(x))
            x = F.adaptive_avg_pool2d(x, self.config.grid)
            parts.append(
                rearrange(x, "batch features rows columns -> batch (rows columns) features")
            )
        return torch.cat(parts, dim=1)
