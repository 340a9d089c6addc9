"""Statistics as buffers: what the network sees of every entry is (x - offset) / scale.

    mode        offset               scale
    mean_std    mean                 max(std, floor)
    quantiles   (q01 + q99) / 2      max((q99 - q01) / 2, floor)      q01 -> -1, q99 -> +1
    min_max     (min + max) / 2      max((max - min) / 2, floor)      min -> -1, max -> +1
    none        0                    1

Nothing is cut off: beyond the quantiles lie numbers beyond +-1. The floor is in the stream's unit.
An entry that hardly moved in the data has a tiny spread, and dividing by it would turn a deviation
of a millimetre on the robot into thousands; with the floor it stays small.

**LeRobot** divides by std + 1e-8 and multiplies by std, so its inverse is off by 1e-8 / std, and by
q99 - q01 unless that is exactly 0 (then by 1e-8): equal to ours to rounding where the spread is
above the floor. With `floor=1e-8` ours are its numbers wherever the spread is above `STD_FLOOR` of
`norm_stats.py`; on entries that never moved its numbers are of no use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datasets.norm_stats import StreamStats
from ..datasets.schema import unknown_name

NormMode = Literal["mean_std", "quantiles", "min_max", "none"]
FLOOR = 1e-2
"""For states: in m and rad, what sensors and calibrations are off by."""


@dataclass(frozen=True)
class NormalizationConfig:
    state: NormMode = "mean_std"
    action: NormMode = "mean_std"
    """`quantiles` as pi0.5: insensitive to outliers; `mean_std` as pi0 and SmolVLA."""
    state_floor: float = FLOOR
    """Smallest scale of a state entry, in its unit."""
    action_floor: float = 1e-3
    """Of an action entry: smaller, for steps of a few mm per tick are small in m and yet all there
    is to learn."""

    def __post_init__(self) -> None:
        if not (self.state_floor > 0 and self.action_floor > 0):
            raise ValueError(
                f"floors must be positive, got state_floor {self.state_floor} and action_floor "
                f"{self.action_floor}"
            )


class Normalizer(nn.Module):
    """Offset and scale per entry, as the buffers `mean` and `std` whatever the mode (so that
    checkpoints of all modes have the same keys). They stay float32 when the module is cast."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        floor: float = FLOOR,
        name: str = "entries",
    ) -> None:
        """`name`: what is normalised, for messages."""
        super().__init__()
        self.name = name
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).clamp(min=floor))
        if self.mean.shape != self.std.shape or not bool((self.std > 0).all()):
            raise ValueError(
                f"{name}: {len(mean)} offsets and {len(std)} scales, with floor {floor}; expected "
                "as many of both, scales and floor positive"
            )

    @staticmethod
    def of(
        stats: StreamStats,
        mode: NormMode = "mean_std",
        floor: float = FLOOR,
        name: str = "entries",
    ) -> "Normalizer":
        """By the statistics of a stream."""
        match mode:
            case "mean_std":
                return Normalizer(stats.mean, stats.std, floor, name)
            case "quantiles":
                return Normalizer(*_middle_and_half(stats.q01, stats.q99), floor, name)
            case "min_max":
                return Normalizer(*_middle_and_half(stats.min, stats.max), floor, name)
            case "none":
                return Normalizer(
                    [0.0] * len(stats.mean), [1.0] * len(stats.mean), floor=1.0, name=name
                )
        raise unknown_name("normalization", mode, ("mean_std", "quantiles", "min_max", "none"))

    def normalize(self, x: Float[Tensor, "*rows entries"]) -> Float[Tensor, "*rows entries"]:
        self._check(x, (torch.float32,))
        return (x - self.mean) / self.std

    def unnormalize(self, x: Float[Tensor, "*rows entries"]) -> Float[Tensor, "*rows entries"]:
        """float32, also of what a network computed in half precision."""
        self._check(x, (torch.float32, torch.bfloat16, torch.float16))
        return x.float() * self.std + self.mean

    def _check(self, x: Tensor, dtypes: Sequence[torch.dtype]) -> None:
        if x.dtype not in dtypes:
            raise ValueError(
                f"{self.name}: expected {' or '.join(str(d) for d in dtypes)}, got {x.dtype}; "
                "normalise the store's float32 numbers, and cast afterwards"
            )
        if x.shape[-1:] != self.mean.shape:
            raise ValueError(
                f"{self.name}: expected {len(self.mean)} entries, got shape {tuple(x.shape)}"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Normalizer":
        # A policy cast to bfloat16 would round its statistics to 3 digits: follow the device only.
        exact = {name: buffer for name, buffer in self.named_buffers() if not buffer.is_meta}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self


def _middle_and_half(
    low: Sequence[float], high: Sequence[float]
) -> tuple[list[float], list[float]]:
    pairs = list(zip(low, high, strict=True))
    return [(a + b) / 2 for a, b in pairs], [(b - a) / 2 for a, b in pairs]
