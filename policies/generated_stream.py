"""The way of one generated group (actions, the future) into the trunk and out of it.

    noisy numbers --linear--> tokens + position (+ which robot)   + flow time, in one of three ways
    trunk's features --linear--> what the process asks for

Next: `policies/policy.py` (which asks), `policies/trunk.py`.
"""

import torch
from torch import Tensor, nn

from .attention import time_features
from .policy_config import PolicyConfig
from .process import split_decided
from .trunk import Group


class GeneratedStream(nn.Module):
    """The way of one generated group into the trunk and out of it."""

    def __init__(
        self, config: PolicyConfig, name: str, tokens: int, dim: int, robots: int = 1
    ) -> None:
        """`robots`: with more than one, tokens say whose they are."""
        super().__init__()
        self.name, self.time_kind = name, config.time
        self.expert = "context" if config.experts == "shared" else name
        width = config.trunk.width
        if name == "action" and config.experts != "shared":
            width = config.action_expert_width or width
        self.enter = nn.Linear(dim, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.robot = nn.Parameter(torch.randn(robots, width) * 0.02) if robots > 1 else None
        self.time_in = None
        if config.time == "token":
            self.time_in = nn.Sequential(
                nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
        elif config.time == "concat":
            # pi0 (arXiv 2410.24164, appendix B): W3 swish(W2 concat(W1 a, features of t))
            self.time_in = nn.Sequential(
                nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)
            )
        self.decided = None
        if config.time == "token" and name == "action" and config.realtime.max_delay:
            # One clock for all cannot say which actions have arrived already: a mark on them can.
            self.decided = nn.Parameter(torch.randn(width) * 0.02)
        self.width = width
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def groups(self, noisy: Tensor, t: Tensor, slot: int = 0) -> list[Group]:
        """`noisy` (batch, tokens, dim) at times `t` (batch), or (batch, tokens) with t = 1 for
        tokens that are decided and one time for the others of a row; `slot`: whose."""
        t, decided = split_decided(t)
        tokens = self.enter(noisy) + self.position
        if self.robot is not None:
            tokens = tokens + self.robot[slot]
        if self.time_in is None:
            return [Group(self.name, tokens, self.expert, t, decided=decided)]
        features = time_features(t, self.width).to(tokens.dtype)
        if self.time_kind == "concat":
            features = features[:, None].expand_as(tokens)
            if decided is not None:
                clean = time_features(t.new_ones(1, 1), self.width).to(tokens.dtype)
                features = torch.where(decided[:, :, None], clean, features)
            tokens = self.time_in(torch.cat([tokens, features], dim=-1))
            return [Group(self.name, tokens, self.expert, t)]
        if decided is not None:
            if self.decided is None:
                raise ValueError(
                    "one time token cannot carry a time per action (real-time chunking); train a "
                    "policy with time 'adaln' or 'concat', or with --policy.realtime.max-delay"
                )
            tokens = torch.where(decided[:, :, None], tokens + self.decided, tokens)
        clock = self.time_in(features)[:, None]
        return [
            Group(f"{self.name}_time", clock, self.expert, t),
            Group(self.name, tokens, self.expert, t),
        ]

    def out(self, features: Tensor) -> Tensor:
        return self.leave(features)
