"""Real-time chunking: a new chunk that continues the actions under way instead of jumping.

    tick               k    k+1  k+2  k+3  k+4  k+5  k+6  k+7  k+8  k+9
    planned            p0   p1   p2   p3   p4   p5                        left of the plan at k
    executed meanwhile |- d = 2 -|                                        `inference_delay`
    the new chunk      p0   p1   q2   q3   q4   q5   q6   q7   q8   q9    horizon 10
    linear weight      1    1    4/5  3/5  2/5  1/5  0    0    0    0     how much p counts for q

    mode       how q follows p                                           costs
    trained    the network was taught with the first d actions given     nothing
    guided     each step is pulled towards p through the network (VJP)   a backward pass per step
    identity   likewise, the network's Jacobian taken for the unit one   nothing
    off        not at all

`trained` is arXiv 2512.05964; `guided` is arXiv 2506.07339, for any flow policy. Flow time runs as
in `process.py`, 0 = noise and 1 = action: the papers' direction, opposite to pi0's code. All of it
happens in the network's action space, where `planned` is written anew relative to the state of the
new observation. In every mode but `off` the first d actions of the answer are the planned ones.

Next: `policies/sampler.py`, `policies/policy.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..datasets.schema import Batch, Observation, unknown_name
from .embodiment_slots import EmbodimentSlots
from .process import DiffusionConfig, ProcessConfig
from .sampler import Known, Network

RealtimeMode = Literal["off", "trained", "guided", "identity"]
WeightLaw = Literal["exponential", "linear", "prefix"]


@dataclass(frozen=True)
class RealtimeConfig:
    max_delay: int = 0
    """Teach the policy to continue a plan: of every taught chunk the first 0 to `max_delay` actions
    are given as they are and left out of the loss. 0: not taught."""
    delays: Literal["uniform", "exponential"] = "uniform"
    """How many of them: all counts alike, or in proportion to exp(-count)."""
    mode: Literal["auto", "off", "trained", "guided", "identity"] = "auto"
    """How a chunk is joined to the plan it is given; `auto`: `trained` if it was, else `off`."""
    weights: WeightLaw = "exponential"
    """How the pull of `guided` and `identity` fades between the delay and the plan's end; `prefix`
    pulls at the delay's actions only."""
    guidance_limit: float = 5.0
    """Largest factor of the pull (the paper's beta: 5, with 5 steps). The number of sampler steps
    is a limit too, for more than the whole error in the last step would overshoot."""

    def __post_init__(self) -> None:
        if self.max_delay < 0 or not self.guidance_limit > 0:
            raise ValueError(
                f"realtime: max_delay {self.max_delay} must be 0 or more and guidance_limit "
                f"{self.guidance_limit} positive"
            )
        if self.mode == "trained" and not self.max_delay:
            raise ValueError("realtime mode 'trained' needs --policy.realtime.max-delay above 0")

    def resolved(self, wanted: str, process: ProcessConfig) -> RealtimeMode:
        """The mode that `wanted` names. Raises ValueError if this policy cannot act in it."""
        if wanted == "auto":
            return "trained" if self.max_delay else "off"
        for mode in get_args(RealtimeMode):
            if mode != wanted:
                continue
            if mode == "trained" and not self.max_delay:
                raise ValueError(
                    "realtime 'trained': this policy was not taught to continue a plan; teach it "
                    "with `ulna train RECIPE --policy.realtime.max-delay 8 --init-from RUN`, or "
                    "use 'guided', which works with any flow policy"
                )
            if mode in ("guided", "identity") and isinstance(process, DiffusionConfig):
                raise ValueError(
                    f"realtime {mode!r} guides the velocity of a flow; this policy was trained "
                    "by diffusion. Use 'off', or teach it with --policy.realtime.max-delay 8 and "
                    "use 'trained'"
                )
            return mode
        raise unknown_name("realtime mode", wanted, ("auto", *get_args(RealtimeMode)))


def sample_decided(
    config: RealtimeConfig,
    real: Int64[Tensor, " rows"],
    horizon: int,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "rows horizon"]:
    """Which actions of taught chunks are given, on the CPU: the first few of each row, and never
    all of its `real` ones (an episode's end may cut a chunk short)."""
    law = torch.ones(config.max_delay + 1)
    if config.delays == "exponential":
        law = torch.exp(-torch.arange(config.max_delay + 1.0))
    count = torch.multinomial(law, len(real), replacement=True, generator=generator)
    count = torch.minimum(count, (real - 1).clamp(min=0))
    return torch.arange(horizon) < count[:, None]


def taught_plan(
    batch: Batch,
    slots: EmbodimentSlots,
    slot: int,
    decided: Bool[Tensor, "rows horizon"],
    draws: int,
) -> Float[Tensor, "rows horizon action_width"]:
    """The batch's chunks, each `draws` times, normalised; their decided actions are those that were
    really done (`Batch.executed_chunk`).

    Where demonstrations were disturbed, what the expert wanted next answers disturbances that
    nobody who acts will know of: a network given *that* as its plan takes any deviation in it for a
    disturbance. What was done, and what was right thereafter, is what it will be asked.
    """
    chunk, executed, state = (
        torch.from_numpy(values).repeat_interleave(draws, dim=0)
        for values in (batch.action_chunk, batch.executed_chunk, batch.state)
    )
    chunk = torch.where(decided[:, :, None], executed, chunk)
    return slots.normalize_chunk(chunk, state, slot)[0]


def plan_weights(
    delay: Int64[Tensor, " batch"],
    end: Int64[Tensor, " batch"],
    horizon: int,
    law: WeightLaw = "exponential",
) -> Float[Tensor, "batch horizon"]:
    """How much the plan counts for each action of the new chunk (arXiv 2506.07339, eq. 5).

    1 for those executed before the answer is there (`delay`), 0 where the plan has ended (`end`),
    falling between: the linear law is drawn at the top of this file.
    """
    tick = torch.arange(horizon, device=delay.device)
    begin, stop = torch.minimum(delay, end)[:, None], end[:, None]
    c = ((stop - tick) / (stop - begin + 1)).clamp(0, 1)
    match law:
        case "linear":
            weight = c
        case "exponential":
            weight = c * torch.expm1(c) / (math.e - 1)
        case "prefix":
            weight = torch.zeros_like(c)
        case _:
            raise unknown_name("realtime weights", law, get_args(WeightLaw))
    weight = torch.where(tick < begin, 1.0, weight)
    return torch.where(tick < stop, weight, 0.0)


def guidance_gain(t: Float[Tensor, " batch"], limit: float) -> Float[Tensor, " batch"]:
    """Factor of the pull at flow time `t` (eq. 2 to 4): (1 - t) / (t r^2), at most `limit`, where
    r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) is the variance left in an action of unit variance."""
    gain = (t.square() + (1 - t).square()) / (t * (1 - t))
    return torch.where((t > 0) & (t < 1), gain, torch.inf).clamp(max=limit)


@dataclass(frozen=True)
class Guidance:
    """Turns the velocity of the actions so that the chunk it leads to keeps to a plan."""

    target: Float[Tensor, "batch horizon action_width"]
    """The plan, normalised; looked at where `weights` are above 0."""
    weights: Float[Tensor, "batch horizon"]
    limit: float
    through_network: bool = True
    """False: the Jacobian of the network is taken for the unit matrix."""
    group: str = "action"

    def __call__(
        self, network: Network, x: dict[str, Tensor], t: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What `network` says, the actions' velocity corrected (eq. 1)."""
        if self.through_network and torch.is_inference_mode_enabled():
            raise ValueError(
                "realtime 'guided' differentiates the network, which torch.inference_mode forbids; "
                "call act without it (it keeps no graph), or use 'identity'"
            )
        time = t[self.group][:, None, None]
        with torch.set_grad_enabled(self.through_network):
            noisy = x[self.group].detach().requires_grad_(self.through_network)
            output = network({**x, self.group: noisy}, t)
            clean = noisy + (1 - time) * output[self.group]
            error = (self.target - clean.detach()) * self.weights[:, :, None]
            pull = error
            if self.through_network:
                (pull,) = torch.autograd.grad(clean, noisy, error)
        output = {name: value.detach() for name, value in output.items()}
        gain = guidance_gain(t[self.group], self.limit)[:, None, None]
        return {**output, self.group: output[self.group] + gain * pull}


@dataclass(frozen=True)
class Plan:
    """What is decided of the chunks of a batch; a row without a plan has length 0."""

    raw: tuple[Float[np.ndarray, "_ action_dim"], ...]
    """Per row the actions executed before the answer is there."""
    values: Float[Tensor, "batch horizon action_width"]
    """The plan as the network sees actions, relative to the state now; its last action repeated
    behind its end, 0 in rows without one."""
    delay: Int64[Tensor, " batch"]
    length: Int64[Tensor, " batch"]

    @property
    def decided(self) -> Bool[Tensor, "batch horizon"]:
        tick = torch.arange(self.values.shape[1], device=self.values.device)
        return tick < self.delay[:, None]

    def joined(
        self, mode: RealtimeMode, config: RealtimeConfig, steps: int
    ) -> tuple[dict[str, Known] | None, Guidance | None]:
        """What keeps the actions to it in a solver of `steps` steps. It depends on the mode alone,
        so that whether one row has a plan changes nothing for the others."""
        if mode == "trained":
            return {"action": Known(self.values, self.decided)}, None
        weights = plan_weights(self.delay, self.length, self.values.shape[1], config.weights)
        limit = min(config.guidance_limit, float(steps))
        return None, Guidance(self.values, weights, limit, mode == "guided")

    def kept(
        self, chunk: Float[Tensor, "batch horizon action_width"]
    ) -> Float[Tensor, "batch horizon action_width"]:
        """The chunk with what is decided in its place, for actions that are relative to the ones
        before them continue from there."""
        return torch.where(self.decided[:, :, None], self.values.to(chunk.dtype), chunk)

    def kept_raw(
        self, chunk: Float[np.ndarray, "batch horizon action_dim"]
    ) -> Float[np.ndarray, "batch horizon action_dim"]:
        """Likewise with commands, to the bit: not normalised and back."""
        chunk = chunk.copy()
        for row, decided in enumerate(self.raw):
            chunk[row, : len(decided)] = decided
        return chunk


def plan_of(
    observations: Sequence[Observation],
    slots: EmbodimentSlots,
    slot: int,
    horizon: int,
    max_delay: int | None = None,
) -> Plan:
    """The plans of a batch of observations of robot `slot`, cut to `horizon` actions.

    A delay beyond the plan's end counts to its end. `max_delay`: the longest that was taught.
    """
    robot = slots.embodiments[slot]
    low, high = (np.array(side, np.float32) for side in (robot.action_low, robot.action_high))
    values = torch.zeros(len(observations), horizon, slots.action_width, device=slots.device)
    delays, lengths, raw = [], [], []
    for row, observation in enumerate(observations):
        planned = _checked(observation, robot.action_dim)[:horizon]
        delay = min(observation.inference_delay, len(planned))
        if max_delay is not None and delay > max_delay:
            raise ValueError(
                f"inference_delay {delay}: this policy was taught to continue at most {max_delay} "
                "planned actions; look again sooner, or teach it with --policy.realtime.max-delay "
                f"{delay}"
            )
        delays.append(delay)
        lengths.append(len(planned))
        raw.append(np.clip(planned[:delay], low, high))
        if len(planned):
            # Each row by itself: what its neighbours plan must not touch it in the last bit.
            behind = np.repeat(planned[-1:], horizon - len(planned), axis=0)
            chunk = torch.from_numpy(np.concatenate([planned, behind])[None])
            state = torch.from_numpy(observation.state.astype(np.float32)[None])
            values[row] = slots.normalize_chunk(chunk, state, slot)[0][0]
    made = [torch.tensor(numbers, device=slots.device) for numbers in (delays, lengths)]
    return Plan(tuple(raw), values, *made)


def _checked(observation: Observation, action_dim: int) -> Float[np.ndarray, "planned action_dim"]:
    planned = observation.planned
    if observation.inference_delay < 0:
        raise ValueError(f"inference_delay {observation.inference_delay} must be 0 or more")
    if planned is None:
        return np.zeros((0, action_dim), np.float32)
    if planned.ndim != 2 or planned.shape[1] != action_dim:
        raise ValueError(
            f"planned: expected actions of {action_dim} entries, one row each, got shape "
            f"{planned.shape}"
        )
    if not np.isfinite(planned).all():
        raise ValueError("planned: some actions are NaN or infinite; nothing can continue them")
    return planned.astype(np.float32)
