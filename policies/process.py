"""Flow matching: how a clean action chunk is corrupted, and what the network must say about it.

**The direction of time, once:** t = 0 is noise, t = 1 is the action (as in the papers: Lipman et
al., arXiv 2210.02747; pi0, arXiv 2410.24164). LeRobot and openpi code run it the other way, with
t' = 1 - t and the velocity's sign flipped; whoever converts, converts here.

    x_t = t x + (1 - t) e          e ~ N(0, 1)            the straight path
    v   = x - e                                           its velocity, the network's target
    loss = mean |v_theta(x_t, t) - v|^2
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.schema import unknown_name

TimeLaw = Literal["uniform", "beta", "logit_normal"]


@dataclass(frozen=True)
class FlowConfig:
    type: Literal["flow"] = "flow"
    time_law: TimeLaw = "beta"
    """`beta` is pi0's: t = 0.999 (1 - b), b ~ Beta(1.5, 1): more training on noisy inputs, where
    the chunk's shape is decided. `uniform` and `logit_normal` (SD3) for comparison."""


def sample_time(
    law: TimeLaw, count: int, generator: torch.Generator | None = None
) -> Float[Tensor, " count"]:
    """`count` flow times on the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    if law == "uniform":
        return torch.rand(count, generator=generator, device=device)
    if law == "logit_normal":
        return torch.randn(count, generator=generator, device=device).sigmoid()
    if law == "beta":
        # Beta(a, 1) has the distribution function b^a: its inverse gives a draw from one uniform.
        draw = torch.rand(count, generator=generator, device=device) ** (1 / 1.5)
        return 0.999 * (1 - draw)
    raise unknown_name("time law", law, ["uniform", "beta", "logit_normal"])


def corrupt(
    action: Float[Tensor, "batch horizon action_dim"],
    noise: Float[Tensor, "batch horizon action_dim"],
    t: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch horizon action_dim"], Float[Tensor, "batch horizon action_dim"]]:
    """`(x_t, target velocity)` on the straight path from `noise` to `action`."""
    time = t[:, None, None]
    return time * action + (1 - time) * noise, action - noise
