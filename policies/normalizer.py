"""Statistics as buffers: what the network sees has mean 0 and deviation 1 per entry."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Mean and deviation per entry, with a floor: an entry that never moved in the data is not
    blown up by dividing by (almost) nothing."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], floor: float = 1e-2) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).clamp(min=floor))

    def normalize(self, x: Float[Tensor, "*rows entries"]) -> Float[Tensor, "*rows entries"]:
        return (x - self.mean) / self.std

    def unnormalize(self, x: Float[Tensor, "*rows entries"]) -> Float[Tensor, "*rows entries"]:
        return x * self.std + self.mean
