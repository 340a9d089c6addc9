"""Keys and values of the context, kept over the denoising steps of one control step."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass
class Cache:
    """Keys and values of the context, `(batch, kv_heads, tokens, head_dim)` per layer.

    `reserve` appends room for the live tokens once, so that a denoising loop writes its keys and
    values in place and nothing grows or is copied from step to step.
    """

    layout: tuple[tuple[str, int], ...]
    """`(group, tokens)` in order."""
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Final features of the context groups whose expert is read."""
    valid: Bool[Tensor, "batch tokens"] | None = None
    """Tokens that exist, in the order of `layout`; None: all."""
    next_position: Int64[Tensor, " batch"] | None = None
    """Rotary position at which the live tokens go on; None: the number of cached tokens."""
    reserved: int = 0
    """Live tokens there is room for behind the context."""

    @property
    def tokens(self) -> int:
        return sum(length for _, length in self.layout)

    @property
    def batch(self) -> int:
        return self.keys[0].shape[0]

    def reserve(self, live_tokens: int) -> "Cache":
        """A copy with room for `live_tokens`. For inference: writing in place has no gradient."""

        def widen(tensors: list[Tensor]) -> list[Tensor]:
            return [F.pad(tensor.detach(), (0, 0, 0, live_tokens)) for tensor in tensors]

        return Cache(
            self.layout, widen(self.keys), widen(self.values), self.outputs, self.valid,
            self.next_position, reserved=live_tokens,
        )  # fmt: skip

    def repeat(self, draws: int) -> "Cache":
        """Each batch row `draws` times in a row: several noise draws share one context."""
        if draws == 1:
            return self

        def spread(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(draws, dim=0)

        return Cache(
            self.layout,
            [spread(tensor) for tensor in self.keys],
            [spread(tensor) for tensor in self.values],
            {name: spread(tensor) for name, tensor in self.outputs.items()},
            None if self.valid is None else spread(self.valid),
            None if self.next_position is None else spread(self.next_position),
            self.reserved,
        )

    def followed_by(self, after: "Cache") -> "Cache":
        """One context of two, `after` computed behind this one."""
        valid = None
        if self.valid is not None or after.valid is not None:
            parts = [
                cache.keys[0].new_ones(cache.batch, cache.tokens, dtype=torch.bool)
                if cache.valid is None
                else cache.valid
                for cache in (self, after)
            ]
            valid = torch.cat(parts, dim=1)
        position = None if self.next_position is None else self.next_position + after.tokens
        return Cache(
            self.layout + after.layout,
            [torch.cat(pair, dim=2) for pair in zip(self.keys, after.keys, strict=True)],
            [torch.cat(pair, dim=2) for pair in zip(self.values, after.values, strict=True)],
            {**self.outputs, **after.outputs},
            valid,
            position,
        )

    def join(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The context's keys and values of layer `index`, followed by the live ones."""
        if self.reserved == 0:
            joined_key = torch.cat([self.keys[index], key], dim=2)
            return joined_key, torch.cat([self.values[index], value], dim=2)
        if key.shape[2] != self.reserved:
            raise ValueError(
                f"the cache has room for {self.reserved} live tokens, got {key.shape[2]}; "
                "call Cache.reserve with the right number"
            )
        self.keys[index][:, :, self.tokens :] = key
        self.values[index][:, :, self.tokens :] = value
        return self.keys[index], self.values[index]
