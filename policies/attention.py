"""Attention between tokens, whichever kernel computes it, and rotary positions.

Next: `policies/trunk.py` (which tokens meet here).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

Kernel = Literal["auto", "fused", "plain", "flex"]
"""`fused`: torch's scaled_dot_product_attention; `plain`: matrix products written out; `flex`:
torch's flex_attention, whose blocks of unseen tokens cost nothing once it is compiled; `auto`:
plain while training on a CPU, fused everywhere else."""


def attend(
    query: Float[Tensor, "batch heads tokens features"],
    key: Float[Tensor, "batch kv_heads seen features"],
    value: Float[Tensor, "batch kv_heads seen features"],
    mask: Tensor | None,
    kernel: Kernel = "auto",
) -> Float[Tensor, "batch heads tokens features"]:
    """Scaled dot-product attention; `mask` (bool, broadcast to batch, heads, tokens, seen) says
    what is seen. Fewer heads of keys than of queries: neighbours share one (arXiv 2305.13245).

    While training on a CPU the plain product is the default: the fused kernel's backward pass took
    8.6 times as long there for 16 x 37 tokens in bf16 (torch 2.11).
    """
    if kernel == "auto":
        plain = query.device.type == "cpu" and torch.is_grad_enabled()
        kernel = "plain" if plain else "fused"
    groups = query.shape[1] // key.shape[1]
    if kernel == "fused":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=groups > 1
        )
    if kernel == "flex":
        return _flex(query, key, value, mask, groups)
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(value.dtype) @ value


def _flex(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, groups: int
) -> Float[Tensor, "batch heads tokens features"]:
    blocks = None
    if mask is not None:
        tokens, seen = query.shape[2], key.shape[2]
        table = mask.expand(-1, -1, tokens, seen) if mask.ndim == 4 else mask[None, None]
        per_row = table.shape[0] > 1

        blocks = create_block_mask(
            lambda row, head, i, j: table[row if per_row else 0, 0, i, j],
            table.shape[0] if per_row else None, None, tokens, seen, device=query.device,
        )  # fmt: skip
    attended = flex_attention(query, key, value, block_mask=blocks, enable_gqa=groups > 1)
    assert isinstance(attended, Tensor)
    return attended


def rotate(
    x: Float[Tensor, "batch heads tokens features"],
    position: Int64[Tensor, "rows tokens"],
    theta: float,
) -> Float[Tensor, "batch heads tokens features"]:
    """Rotary positions (RoFormer, arXiv 2104.09864, eq. 34), halves paired as in Llama: feature k
    turns with feature k + features / 2 by position * theta ** (-2 k / features)."""
    half = x.shape[-1] // 2
    exponent = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angle = position.float()[:, None, :, None] * theta**-exponent
    cosine, sine = angle.cos(), angle.sin()
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x.dtype)


def time_features(t: Float[Tensor, "*rows"], width: int) -> Float[Tensor, "*rows width"]:
    """Sine and cosine of the flow time at periods from 4e-3 to 4 (pi0, arXiv 2410.24164)."""
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, width // 2, device=t.device)
    angle = 2 * math.pi * t.float()[..., None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
