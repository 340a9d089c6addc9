"""One expert: the parameters that a group's tokens use in the trunk's layers.

        x --norm--modulate--> q k v --(attention with everyone)--> out --gate--> + x
          --norm--modulate--> FFN ----------------------------------------gate--> + x

Experts may share their matrices: with `attention_of` and `ffn_of` naming another expert, the three
separations of LlamaFusion's ablation (arXiv 2412.15188: none, FFN only, attention and FFN) and
Mixture-of-Transformers (arXiv 2411.04996, all of it per modality) are one switch. Norms and the
modulation by flow time are always the expert's own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Modulation = tuple[Tensor, ...]
"""Shift, scale, gate of the attention, then of the feed-forward."""


@dataclass(frozen=True)
class Condition:
    """Flow times as features of an expert's width."""

    time: Float[Tensor, "batch _ width"]
    """One time per row, or one per token."""
    decided: Bool[Tensor, "batch tokens 1"] | None = None
    """Tokens that have t = 1 whatever `time` says; None: none."""
    clean: Float[Tensor, "1 1 width"] | None = None
    """Features of t = 1."""


@dataclass(frozen=True)
class TrunkConfig:
    width: int = 128
    """Features per token."""
    depth: int = 4
    """Layers in which all groups meet."""
    heads: int = 4
    kv_heads: int = 0
    """Heads of keys and values; 0: as many as `heads`. Set to a pretrained backbone's."""
    head_dim: int = 0
    """Features per head; 0: width / heads."""
    ffn_ratio: int = 4
    """Hidden width of a feed-forward block, in multiples of the expert's width."""
    positions: Literal["learned", "rotary"] = "learned"
    """`learned`: whoever makes tokens adds embeddings; `rotary`: besides, queries and keys are
    turned by their place in the sequence."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    kernel: Literal["auto", "fused", "plain", "flex"] = "auto"
    """Who computes attention: `policies/attention.py`."""

    def __post_init__(self) -> None:
        if self.head_dim == 0 and self.width % self.heads:
            raise ValueError(
                f"trunk width {self.width} is not a multiple of its {self.heads} heads; "
                "choose --policy.trunk.width and --policy.trunk.heads that divide"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} heads of keys; choose "
                "--policy.trunk.kv-heads that divides --policy.trunk.heads"
            )
        if self.positions == "rotary" and self.features % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {self.features}")

    @property
    def features(self) -> int:
        """Features per head."""
        return self.head_dim or self.width // self.heads

    @property
    def key_heads(self) -> int:
        return self.kv_heads or self.heads


@dataclass(frozen=True)
class Expert:
    """A parameter set of the trunk."""

    time: Literal["none", "adaln", "tokens"] = "none"
    """`none`: its groups are clean. `adaln`: each carries a flow time that modulates its layers
    (AdaLN-Zero). `tokens`: they may carry one, but it enters through tokens alone (Dita, pi0)."""
    read: bool = True
    """Whether the final features of its groups are used. If not, the last layer stops at their
    keys and values, which is all that others see of them."""
    width: int = 0
    """Features per token; 0: the trunk's."""
    private_depth: int = 0
    """Layers after the joint ones in which its groups see only themselves."""
    attention_of: str = ""
    """Expert whose attention matrices it uses; empty: its own."""
    ffn_of: str = ""
    """Expert whose feed-forward matrices it uses; empty: its own."""


class Attention(nn.Module):
    """The matrices around the attention."""

    def __init__(self, config: TrunkConfig, width: int, seen_only: bool) -> None:
        super().__init__()
        total = (config.heads + 2 * config.key_heads) * config.features
        self.qkv = nn.Linear(width, total, bias=False)
        self.out = None if seen_only else nn.Linear(config.heads * config.features, width)


class FeedForward(nn.Module):
    def __init__(self, config: TrunkConfig, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, config.ffn_ratio * width)
        self.down = nn.Linear(config.ffn_ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class ExpertLayer(nn.Module):
    """What one expert owns in one layer; shared matrices live with their owner."""

    def __init__(
        self,
        config: TrunkConfig,
        expert: Expert,
        seen_only: bool = False,
        lends_attention: bool = False,
        lends_ffn: bool = False,
    ) -> None:
        """`seen_only`: its own tokens stop at keys and values here; what it lends it has still."""
        super().__init__()
        width = expert.width or config.width
        modulated = expert.time == "adaln"
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.attention = self.ffn = self.ffn_norm = self.modulation = None
        if not expert.attention_of:
            self.attention = Attention(config, width, seen_only and not lends_attention)
        if not expert.ffn_of and (lends_ffn or not seen_only):
            self.ffn = FeedForward(config, width)
        if seen_only:
            return
        self.ffn_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        if modulated:
            # AdaLN-Zero (DiT, arXiv 2212.09748, section 3.2): gates start at zero, so that layers
            # start as the identity.
            self.modulation = nn.Linear(width, 6 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Condition | None) -> Modulation | None:
        """`condition`: None for clean groups."""
        if self.modulation is None or condition is None:
            return None
        modulation = self.modulation(condition.time)
        if condition.decided is not None:
            # Two products of one row each, not one per token: cheaper, and a token that is not
            # decided gets to the bit what it would get if none were.
            clean = self.modulation(condition.clean)
            modulation = torch.where(condition.decided, clean, modulation)
        return modulation.chunk(6, dim=-1)


class SharedLayer:
    """One expert in one layer with all its matrices, whoever owns them."""

    def __init__(self, own: ExpertLayer, attention: Attention, ffn: FeedForward | None) -> None:
        self.own, self.attention, self.ffn = own, attention, ffn

    def before_attention(self, x: Tensor, modulation: Modulation | None) -> Tensor:
        normed = self.own.attention_norm(x)
        if modulation is not None:
            normed = normed * (1 + modulation[1]) + modulation[0]
        return self.attention.qkv(normed)

    def after_attention(self, x: Tensor, attended: Tensor, modulation: Modulation | None) -> Tensor:
        assert self.attention.out is not None and self.ffn is not None
        assert self.own.ffn_norm is not None
        update = self.attention.out(attended)
        x = x + (update if modulation is None else modulation[2] * update)
        normed = self.own.ffn_norm(x)
        if modulation is not None:
            normed = normed * (1 + modulation[4]) + modulation[3]
        update = self.ffn(normed)
        return x + (update if modulation is None else modulation[5] * update)
