"""The trunk: named groups of tokens, a parameter set (expert) per group, one shared attention.

    group     expert     flow time         layer l:  every group: its expert's norm, q k v
    text      context    -                           all groups:  one attention under the mask
    image.*   context    -                           every group: its expert's output, FFN
    state     context    -
    action    action     t                           a group with t is modulated by AdaLN-Zero

One expert for all groups is a plain transformer (Dita); two are pi0 / LlamaFusion /
Mixture-of-Transformers; which design it is, is said by the groups and the mask, not by a class.
Groups no flow time reaches (`Mask.cacheable`) are run once by `context`, and their keys and values
are kept for all denoising steps. Mask first: `policies/mask.py`; then `policies/process.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..datasets.schema import unknown_name
from .mask import Mask


@dataclass(frozen=True)
class TrunkConfig:
    width: int = 128
    """Features per token."""
    depth: int = 4
    """Layers."""
    heads: int = 4
    ffn_ratio: int = 4
    """Hidden width of a feed-forward block, in multiples of `width`."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"trunk width {self.width} is not a multiple of its {self.heads} heads; "
                "choose --policy.trunk.width and --policy.trunk.heads that divide"
            )


@dataclass(frozen=True)
class Expert:
    """A parameter set of the trunk."""

    timed: bool = False
    """Whether its groups carry a flow time."""
    read: bool = True
    """Whether the final features of its groups are used. If not, the last layer stops at their
    keys and values, which is all that others see of them."""


@dataclass(frozen=True)
class Group:
    """A named run of tokens entering the trunk."""

    name: str
    x: Float[Tensor, "batch tokens width"]
    expert: str = "context"
    """Which parameter set its tokens use."""
    t: Float[Tensor, " batch"] | None = None
    """Flow time (0 noise, 1 data); None: clean."""

    @property
    def length(self) -> int:
        return self.x.shape[1]


@dataclass
class Cache:
    """Keys and values of the context, `(batch, heads, tokens, head_width)` per layer.

    `reserve` appends room for the live tokens once, so that a denoising loop writes its keys and
    values in place and nothing grows or is copied from step to step.
    """

    layout: tuple[tuple[str, int], ...]
    """`(group, tokens)` in order."""
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Final features of the context groups whose expert is read."""
    reserved: int = 0
    """Live tokens there is room for behind the context."""

    @property
    def tokens(self) -> int:
        return sum(length for _, length in self.layout)

    def reserve(self, live_tokens: int) -> "Cache":
        """A copy with room for `live_tokens`. For inference: writing in place has no gradient."""

        def widen(tensors: list[Tensor]) -> list[Tensor]:
            return [F.pad(tensor.detach(), (0, 0, 0, live_tokens)) for tensor in tensors]

        return Cache(
            self.layout, widen(self.keys), widen(self.values), self.outputs, reserved=live_tokens
        )

    def repeat(self, draws: int) -> "Cache":
        """Each batch row `draws` times in a row: several noise draws share one context."""
        if draws == 1:
            return self
        keys = [tensor.repeat_interleave(draws, dim=0) for tensor in self.keys]
        values = [tensor.repeat_interleave(draws, dim=0) for tensor in self.values]
        return Cache(self.layout, keys, values, self.outputs, self.reserved)


def time_features(t: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sine and cosine of the flow time at periods from 4e-3 to 4 (pi0, arXiv 2410.24164)."""
    half = width // 2
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, half, device=t.device)
    angle = 2 * math.pi * t.float()[:, None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, `(batch, heads, tokens, features)`.

    While training on a CPU the plain product is used: the fused kernel's backward pass took 8.6
    times as long there for 16 x 37 tokens in bf16 (torch 2.11). Everywhere else the fused kernel.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(value.dtype) @ value


class ExpertLayer(nn.Module):
    """One expert's parameters in one layer: norms, q k v, output, feed-forward, modulation."""

    def __init__(self, config: TrunkConfig, timed: bool, seen_only: bool) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=not timed)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.seen_only = seen_only
        if seen_only:
            self.modulation = None
            return
        self.attention_out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, elementwise_affine=not timed)
        self.ffn_in = nn.Linear(width, config.ffn_ratio * width)
        self.ffn_out = nn.Linear(config.ffn_ratio * width, width)
        # AdaLN-Zero (DiT, arXiv 2212.09748, section 3.2): gates start at zero, layers at identity.
        self.modulation = nn.Linear(width, 6 * width) if timed else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Tensor | None) -> tuple[Tensor, ...] | None:
        """(shift, scale, gate) of attention, then of the feed-forward; None for clean groups."""
        if self.modulation is None or condition is None:
            return None
        return self.modulation(condition)[:, None].chunk(6, dim=-1)

    def before_attention(self, x: Tensor, modulation: tuple[Tensor, ...] | None) -> Tensor:
        normed = self.attention_norm(x)
        if modulation is not None:
            normed = normed * (1 + modulation[1]) + modulation[0]
        return self.qkv(normed)

    def after_attention(
        self, x: Tensor, attended: Tensor, modulation: tuple[Tensor, ...] | None
    ) -> Tensor:
        update = self.attention_out(attended)
        x = x + (update if modulation is None else modulation[2] * update)
        normed = self.ffn_norm(x)
        if modulation is not None:
            normed = normed * (1 + modulation[4]) + modulation[3]
        update = self.ffn_out(F.gelu(self.ffn_in(normed), approximate="tanh"))
        return x + (update if modulation is None else modulation[5] * update)


class Trunk(nn.Module):
    """Layers of experts under one attention."""

    def __init__(self, config: TrunkConfig, experts: dict[str, Expert], mask: Mask) -> None:
        super().__init__()
        self.config = config
        self.mask = mask
        self.experts = dict(experts)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: ExpertLayer(
                        config, expert.timed, not expert.read and index == config.depth - 1
                    )
                    for name, expert in experts.items()
                }
            )
            for index in range(config.depth)
        )
        self.final_norm = nn.ModuleDict(
            {name: nn.LayerNorm(config.width) for name, expert in experts.items() if expert.read}
        )
        self.time_embedding = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU())
                for name, expert in experts.items()
                if expert.timed
            }
        )
        self._masks: dict[tuple, Tensor | None] = {}

    def context(self, groups: Sequence[Group]) -> Cache:
        """Run the groups that no flow time reaches, once, and keep their keys and values."""
        timed = [group.name for group in groups if group.t is not None]
        cacheable = self.mask.cacheable(timed)
        for group in groups:
            if group.t is not None or group.name not in cacheable:
                raise ValueError(
                    f"group {group.name!r} depends on a flow time and cannot be cached; "
                    f"cacheable under this mask: {', '.join(cacheable) or 'none'}"
                )
        cache = Cache(tuple((group.name, group.length) for group in groups))
        cache.outputs = self._run(groups, None, keep=cache)
        return cache

    def forward(
        self, groups: Sequence[Group], cache: Cache | None = None
    ) -> dict[str, Float[Tensor, "batch tokens width"]]:
        """Final features, by name, of the groups whose expert is read; `cache` stands for the
        context before them."""
        if cache is not None and cache.keys[0].shape[0] != groups[0].x.shape[0]:
            raise ValueError(
                f"the cached context has batch {cache.keys[0].shape[0]}, the groups "
                f"{groups[0].x.shape[0]}; use Cache.repeat for several draws per observation"
            )
        return self._run(groups, cache, keep=None)

    def _run(
        self, groups: Sequence[Group], cache: Cache | None, keep: Cache | None
    ) -> dict[str, Tensor]:
        """All layers over `groups`, with `cache` before them; keys and values go into `keep`."""
        runs = self._merge(groups)
        live = tuple((group.name, group.length) for group in groups)
        mask = self._mask(live, (cache.layout if cache else ()) + live, groups[0].x.device)
        hidden = [torch.cat([group.x for group in run], dim=1) for run in runs]
        lengths = [x.shape[1] for x in hidden]
        conditions = [self._condition(run[0]) for run in runs]
        for index in range(self.config.depth):
            experts = [self._expert(index, run[0].expert) for run in runs]
            modulations = [
                expert.modulate(condition)
                for expert, condition in zip(experts, conditions, strict=True)
            ]
            packed = [
                expert.before_attention(x, modulation)
                for expert, x, modulation in zip(experts, hidden, modulations, strict=True)
            ]
            query, key, value = rearrange(
                packed[0] if len(packed) == 1 else torch.cat(packed, dim=1),
                "batch tokens (three heads features) -> three batch heads tokens features",
                three=3,
                heads=self.config.heads,
            )
            if keep is not None:
                keep.keys.append(key)
                keep.values.append(value)
            if all(expert.seen_only for expert in experts):
                return {}
            if cache is not None:
                key, value = _join(cache, index, key, value)
            attended = rearrange(
                attend(query, key, value, mask),
                "batch heads tokens features -> batch tokens (heads features)",
            ).split(lengths, dim=1)
            hidden = [
                x if expert.seen_only else expert.after_attention(x, part, modulation)
                for expert, x, part, modulation in zip(
                    experts, hidden, attended, modulations, strict=True
                )
            ]
        outputs: dict[str, Tensor] = {}
        for run, x in zip(runs, hidden, strict=True):
            if not self.experts[run[0].expert].read:
                continue
            parts = self.final_norm[run[0].expert](x).split([group.length for group in run], dim=1)
            outputs.update({group.name: part for group, part in zip(run, parts, strict=True)})
        return outputs

    def _expert(self, index: int, name: str) -> ExpertLayer:
        layer = self.layers[index]
        assert isinstance(layer, nn.ModuleDict)
        expert = layer[name]
        assert isinstance(expert, ExpertLayer)
        return expert

    def _merge(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Neighbours with the same parameters and the same time run as one, for larger GEMMs."""
        runs: list[list[Group]] = []
        for group in groups:
            if group.expert not in self.experts:
                raise unknown_name(f"expert of group {group.name!r}", group.expert, self.experts)
            timed = self.experts[group.expert].timed
            if (group.t is not None) != timed:
                expected = "a" if timed else "no"
                raise ValueError(
                    f"group {group.name!r}: expert {group.expert!r} expects {expected} flow time"
                )
            if group.x.shape[-1] != self.config.width:
                raise ValueError(
                    f"group {group.name!r}: expected tokens of width {self.config.width}, "
                    f"got shape {tuple(group.x.shape)}"
                )
            if runs and runs[-1][0].expert == group.expert and runs[-1][0].t is group.t:
                runs[-1].append(group)
            else:
                runs.append([group])
        return runs

    def _condition(self, group: Group) -> Tensor | None:
        if group.t is None:
            return None
        embedding = self.time_embedding[group.expert]
        return embedding(time_features(group.t, self.config.width))

    def _mask(self, rows: tuple, columns: tuple, device: torch.device) -> Tensor | None:
        key = (rows, columns, device)
        if key not in self._masks:
            mask = self.mask.expand(rows, columns)
            self._masks[key] = None if mask is None else mask.to(device)
        return self._masks[key]


def _join(cache: Cache, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The context's keys and values of layer `index` followed by the live ones."""
    if cache.reserved == 0:
        joined_key = torch.cat([cache.keys[index], key], dim=2)
        return joined_key, torch.cat([cache.values[index], value], dim=2)
    if key.shape[2] != cache.reserved:
        raise ValueError(
            f"the cache has room for {cache.reserved} live tokens, got {key.shape[2]}; "
            "call Cache.reserve with the right number"
        )
    cache.keys[index][:, :, cache.tokens :] = key
    cache.values[index][:, :, cache.tokens :] = value
    return cache.keys[index], cache.values[index]
