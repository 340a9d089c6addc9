"""The trunk: named groups of tokens, a parameter set (expert) per group, one shared attention.

    group     expert     flow time         joint layer:   every group: its expert's norm, q k v
    text      context    -                                all groups:  one attention under the mask
    image.*   context    -                                every group: its expert's output, FFN
    state     context    -
    action    action     t_a               private layer: a group meets only its own expert's groups
    future    future     t_f               a group with t is modulated by AdaLN-Zero

One expert for all groups is a plain transformer (Dita); two are pi0 / LlamaFusion; one per group is
Mixture-of-Transformers; action and future beside a context are DUST. Which design it is, is said by
the groups and the mask, not by a class. Groups no flow time reaches (`Mask.cacheable`) are run once
by `context`, and their keys and values are kept for all denoising steps.

Next: `policies/expert.py` (the layers), `policies/mask.py`, `policies/key_cache.py`,
`policies/process.py` (what flow time is).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..datasets.schema import unknown_name
from .attention import attend, rotate, time_features
from .expert import (
    Attention,
    Condition,
    Expert,
    ExpertLayer,
    FeedForward,
    SharedLayer,
    TrunkConfig,
)
from .key_cache import Cache
from .mask import Mask


@dataclass(frozen=True)
class Group:
    """A named run of tokens entering the trunk."""

    name: str
    x: Float[Tensor, "batch tokens width"]
    expert: str = "context"
    """Which parameter set its tokens use."""
    t: Float[Tensor, "batch *tokens"] | None = None
    """Flow time (0 noise, 1 data) of the group, or of each of its tokens; None: clean."""
    valid: Bool[Tensor, "batch tokens"] | None = None
    """Tokens that exist; nobody sees the others. None: all."""
    decided: Bool[Tensor, "batch tokens"] | None = None
    """Tokens that are clean already and have t = 1 whatever `t` says. None: none."""

    @property
    def length(self) -> int:
        return self.x.shape[1]


class Trunk(nn.Module):
    """Layers of experts under one attention."""

    def __init__(
        self,
        config: TrunkConfig,
        experts: dict[str, Expert],
        mask: Mask,
        timed: Sequence[str] = (),
    ) -> None:
        """`timed`: the groups that will carry a flow time; what sees them cannot be cached."""
        super().__init__()
        self.config = config
        self.mask = mask
        self.cacheable = mask.cacheable(timed)
        """Groups that no flow time reaches: run once per control step."""
        self.experts = dict(experts)
        _check_sharing(self.experts, config)
        lending = {expert.attention_of for expert in experts.values()}
        lending_ffn = {expert.ffn_of for expert in experts.values()}

        def make(name: str, last: bool) -> ExpertLayer:
            seen_only = last and not experts[name].read
            return ExpertLayer(
                config, experts[name], seen_only, name in lending, name in lending_ffn
            )

        self.layers = nn.ModuleList(
            nn.ModuleDict({name: make(name, index == config.depth - 1) for name in experts})
            for index in range(config.depth)
        )
        self.private = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    ExpertLayer(config, expert) for _ in range(expert.private_depth)
                )
                for name, expert in experts.items()
                if expert.private_depth
            }
        )
        widths = {name: expert.width or config.width for name, expert in experts.items()}
        self.final_norm = nn.ModuleDict(
            {name: nn.LayerNorm(widths[name]) for name, e in experts.items() if e.read}
        )
        self.time_embedding = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(widths[name], widths[name]), nn.SiLU())
                for name, expert in experts.items()
                if expert.time == "adaln"
            }
        )
        self._masks: dict[tuple, Tensor | None] = {}

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def context(
        self, groups: Sequence[Group], read: bool = True, before: Cache | None = None
    ) -> Cache:
        """Run the groups that no flow time reaches, once, and keep their keys and values.

        `read=False`: nobody wants their final features, so the last layer stops at keys and values.
        `before`: keys and values of a context that another model computed; `groups` come after it.
        """
        if before is not None and len(before.keys) != self.config.depth:
            raise ValueError(
                f"a context of {len(before.keys)} layers before a trunk of {self.config.depth}"
            )
        if before is not None and not groups:
            return before
        for group in groups:
            if group.t is not None or group.name not in self.cacheable:
                raise ValueError(
                    f"group {group.name!r} depends on a flow time and cannot be cached; "
                    f"cacheable under this mask: {', '.join(self.cacheable) or 'none'}"
                )
        cache = Cache(tuple((group.name, group.length) for group in groups), valid=_valid(groups))
        cache.outputs = self._run(groups, before, keep=cache, read=read)
        return cache if before is None else before.followed_by(cache)

    def forward(
        self, groups: Sequence[Group], cache: Cache | None = None
    ) -> dict[str, Float[Tensor, "batch tokens width"]]:
        """Final features, by name, of the groups whose expert is read; `cache` stands for the
        context before them."""
        if cache is not None and cache.batch != groups[0].x.shape[0]:
            raise ValueError(
                f"the cached context has batch {cache.batch}, the groups "
                f"{groups[0].x.shape[0]}; use Cache.repeat for several draws per observation"
            )
        return self._run(groups, cache, keep=None)

    def _run(
        self, groups: Sequence[Group], cache: Cache | None, keep: Cache | None, read: bool = True
    ) -> dict[str, Tensor]:
        """All layers over `groups`, with `cache` before them; keys and values go into `keep`."""
        config = self.config
        runs = self._merge(groups)
        names = [run[0].expert for run in runs]
        wanted = [read and self.experts[name].read for name in names]
        mask = self._visible(groups, cache)
        position = self._positions(groups, cache)
        hidden = [torch.cat([group.x for group in run], dim=1) for run in runs]
        lengths = [x.shape[1] for x in hidden]
        conditions = [self._condition(run[0]) for run in runs]
        for index in range(config.depth):
            layers = [self._layer(self.layers[index], name) for name in names]
            modulations = [
                layer.own.modulate(condition)
                for layer, condition in zip(layers, conditions, strict=True)
            ]
            packed = [
                layer.before_attention(x, modulation)
                for layer, x, modulation in zip(layers, hidden, modulations, strict=True)
            ]
            query, key, value = self._heads(packed, position)
            if keep is not None:
                keep.keys.append(key)
                keep.values.append(value)
            last = index == config.depth - 1
            if last and not any(wanted):
                return {}
            if cache is not None:
                key, value = cache.join(index, key, value)
            attended = rearrange(
                attend(query, key, value, mask, config.kernel),
                "batch heads tokens features -> batch tokens (heads features)",
            ).split(lengths, dim=1)
            hidden = [
                layer.after_attention(x, part, modulation) if want or not last else x
                for layer, x, part, modulation, want in zip(
                    layers, hidden, attended, modulations, wanted, strict=True
                )
            ]
        outputs: dict[str, Tensor] = {}
        for run, x, condition, want in zip(runs, hidden, conditions, wanted, strict=True):
            if want:
                x = self._private(run, x, condition)
                x = self.final_norm[run[0].expert](x)
                parts = x.split([group.length for group in run], dim=1)
                outputs.update({group.name: part for group, part in zip(run, parts, strict=True)})
        return outputs

    def _private(self, run: list[Group], x: Tensor, condition: Condition | None) -> Tensor:
        """The layers in which the groups of one run see only one another."""
        name = run[0].expert
        if not self.experts[name].private_depth:
            return x
        mask = self._visible(run, None)
        position = self._positions(run, None)
        layers = self.private[name]
        assert isinstance(layers, nn.ModuleList)
        for own in layers:
            assert isinstance(own, ExpertLayer) and own.attention is not None
            layer = SharedLayer(own, own.attention, own.ffn)
            modulation = own.modulate(condition)
            packed = layer.before_attention(x, modulation)
            query, key, value = self._heads([packed], position)
            attended = rearrange(
                attend(query, key, value, mask, self.config.kernel),
                "batch heads tokens features -> batch tokens (heads features)",
            )
            x = layer.after_attention(x, attended, modulation)
        return x

    def _heads(
        self, packed: list[Tensor], position: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(batch, heads, tokens, features)` of all runs together."""
        config = self.config
        tokens = packed[0] if len(packed) == 1 else torch.cat(packed, dim=1)
        joined = rearrange(
            tokens,
            "batch tokens (heads features) -> batch heads tokens features",
            features=config.features,
        )
        query, key, value = joined.split([config.heads, config.key_heads, config.key_heads], dim=1)
        if position is not None:
            query = rotate(query, position, config.rope_theta)
            key = rotate(key, position, config.rope_theta)
        return query, key, value

    def _layer(self, layer: nn.Module, name: str) -> SharedLayer:
        assert isinstance(layer, nn.ModuleDict)
        own = layer[name]
        assert isinstance(own, ExpertLayer)
        attention, ffn = own.attention, own.ffn
        expert = self.experts[name]
        if expert.attention_of:
            owner = layer[expert.attention_of]
            assert isinstance(owner, ExpertLayer)
            attention = owner.attention
        if expert.ffn_of:
            owner = layer[expert.ffn_of]
            assert isinstance(owner, ExpertLayer)
            ffn = owner.ffn
        assert isinstance(attention, Attention) and (ffn is None or isinstance(ffn, FeedForward))
        return SharedLayer(own, attention, ffn)

    def _merge(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Neighbours with the same parameters and the same time run as one, for larger GEMMs."""
        runs: list[list[Group]] = []
        for group in groups:
            if group.expert not in self.experts:
                raise unknown_name(f"expert of group {group.name!r}", group.expert, self.experts)
            expert = self.experts[group.expert]
            if expert.time != "tokens" and (group.t is not None) != (expert.time == "adaln"):
                expected = "a" if expert.time == "adaln" else "no"
                raise ValueError(
                    f"group {group.name!r}: expert {group.expert!r} expects {expected} flow time"
                )
            width = expert.width or self.config.width
            if group.x.ndim != 3 or group.x.shape[-1] != width:
                raise ValueError(
                    f"group {group.name!r}: expected tokens (batch, tokens, {width}), "
                    f"got shape {tuple(group.x.shape)}"
                )
            if not group.x.is_floating_point():
                raise ValueError(f"group {group.name!r}: expected floats, got {group.x.dtype}")
            if group.t is not None and group.t.shape not in (group.x.shape[:1], group.x.shape[:2]):
                raise ValueError(
                    f"group {group.name!r}: expected a flow time of shape "
                    f"{tuple(group.x.shape[:1])} or {tuple(group.x.shape[:2])}, "
                    f"got {tuple(group.t.shape)}"
                )
            if runs and _alike(runs[-1][0], group, expert):
                runs[-1].append(group)
            else:
                runs.append([group])
        return runs

    def _condition(self, group: Group) -> Condition | None:
        if group.t is None or self.experts[group.expert].time != "adaln":
            return None

        def embedded(t: Tensor) -> Tensor:
            features = time_features(t, self.experts[group.expert].width or self.config.width)
            return self.time_embedding[group.expert](features)

        time = embedded(group.t)
        time = time[:, None] if group.t.ndim == 1 else time
        if group.decided is None:
            return Condition(time)
        return Condition(time, group.decided[:, :, None], embedded(group.t.new_ones(1, 1)))

    def _positions(self, groups: Sequence[Group], cache: Cache | None) -> Tensor | None:
        """Place of each token in the sequence, `(1 or batch, tokens)`, for rotary positions."""
        if self.config.positions != "rotary":
            return None
        device = groups[0].x.device
        steps = torch.arange(sum(group.length for group in groups), device=device)[None]
        if cache is None:
            return steps
        if cache.next_position is not None:
            return cache.next_position[:, None] + steps
        return cache.tokens + steps

    def _visible(self, groups: Sequence[Group], cache: Cache | None) -> Tensor | None:
        """Which of (cached and) live tokens each live token sees; None: all."""
        live = tuple((group.name, group.length) for group in groups)
        layout = cache.layout if cache is not None else ()
        key = (live, layout, groups[0].x.device)
        if key not in self._masks:
            expanded = self.mask.expand(live, layout + live)
            self._masks[key] = None if expanded is None else expanded.to(groups[0].x.device)
        mask, valid = self._masks[key], _valid(groups)
        before = cache.valid if cache is not None else None
        if valid is None and before is None:
            return mask
        rows = groups[0].x.shape[0]
        tokens = sum(length for _, length in live)
        if valid is None:
            valid = torch.ones(rows, tokens, dtype=torch.bool, device=groups[0].x.device)
        exists = valid
        if cache is not None:
            if before is None:
                before = valid.new_ones(rows, cache.tokens)
            exists = torch.cat([before, valid], dim=1)
        seen = exists[:, None, :]
        if mask is not None:
            seen = seen & mask
        # A token that does not exist sees itself, or its softmax over nothing would be NaN.
        own = torch.eye(tokens, dtype=torch.bool, device=valid.device)
        own = torch.nn.functional.pad(own, (exists.shape[1] - tokens, 0))
        return (seen | own)[:, None]


def _alike(first: Group, second: Group, expert: Expert) -> bool:
    """Whether two groups may run as one: nothing in the layers tells them apart."""
    if first.expert != second.expert:
        return False
    if expert.time == "tokens":
        return True
    if first.decided is not None or second.decided is not None:
        return False
    return first.t is second.t and (first.t is None or first.t.ndim == 1)


def _valid(groups: Sequence[Group]) -> Tensor | None:
    if all(group.valid is None for group in groups):
        return None
    parts = [
        torch.ones(group.x.shape[:2], dtype=torch.bool, device=group.x.device)
        if group.valid is None
        else group.valid
        for group in groups
    ]
    return torch.cat(parts, dim=1)


def _check_sharing(experts: dict[str, Expert], config: TrunkConfig) -> None:
    for name, expert in experts.items():
        for owner in filter(None, (expert.attention_of, expert.ffn_of)):
            if owner not in experts:
                raise unknown_name(f"expert that {name!r} shares with", owner, experts)
            if experts[owner].attention_of or experts[owner].ffn_of:
                raise ValueError(f"expert {name!r} shares with {owner!r}, which shares itself")
            widths = [experts[n].width or config.width for n in (name, owner)]
            if widths[0] != widths[1]:
                raise ValueError(
                    f"expert {name!r} of width {widths[0]} cannot share matrices with {owner!r} "
                    f"of width {widths[1]}"
                )
        if (expert.attention_of or expert.ffn_of) and expert.private_depth:
            raise ValueError(f"expert {name!r}: private layers are its own; share nothing there")
