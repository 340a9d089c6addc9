"""How late a policy's answers are, in control ticks: simulated, so that it can be repeated.

The environment always steps at its control rate. An answer asked for at tick k is released at tick
k + delay, however long it really took to compute:

    tick        0    1    2    3    4    5
    asked       |...................|          delay 4: released at the beginning of tick 4
    lost        |......................X       never released; asked again after `timeout_ticks`

The delay is a pure function of (episode seed, number of the request), so an episode under delay
depends on its seed alone, as every other one does.

Next: `envs/chunk_execution.py` (what the arm does meanwhile).
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..datasets.schema import unknown_name

_STREAM = 31
"""Keeps these draws apart from the scene's, which come from the same seed."""
_EPSILON = 1e-9
"""0.1 s at 20 Hz are 2 ticks, not the 3 that rounding errors would make of it."""


@dataclass(frozen=True)
class DelayModel:
    """Delay of every request of an episode, and which answers are lost."""

    kind: Literal["constant", "trace", "lognormal"] = "constant"
    ticks: int = 0
    """Delay of kind `constant`, in control ticks."""
    trace_s: tuple[float, ...] = ()
    """Of kind `trace`: measured latencies, replayed in their order from a place that the episode's
    seed draws (latency comes in streaks, which drawing each anew would destroy)."""
    median_s: float = 0.0
    """Of kind `lognormal`: half of the answers take longer."""
    sigma: float = 0.0
    """Of kind `lognormal`: standard deviation of the latency's logarithm."""
    burst_probability: float = 0.0
    """Chance that a burst of slow answers begins at a request."""
    burst_requests: int = 3
    """How many answers a burst slows down."""
    burst_ticks: int = 8
    """What a burst adds to the delay."""
    loss_probability: float = 0.0
    """Chance that an answer never comes."""
    timeout_ticks: int = 20
    """After this long without an answer the policy is asked anew."""

    def __post_init__(self) -> None:
        kinds = ("constant", "trace", "lognormal")
        if self.kind not in kinds:
            raise unknown_name("kind of delay", self.kind, kinds)
        if self.kind == "trace" and not self.trace_s:
            raise ValueError("a delay of kind 'trace' needs trace_s, the latencies in seconds")
        least = min((self.ticks, self.median_s, self.sigma, *self.trace_s))
        if least < 0 or self.burst_ticks < 0:
            raise ValueError(f"a delay is {least} or burst_ticks {self.burst_ticks}; use 0 or more")
        if not all(math.isfinite(value) for value in (self.median_s, self.sigma, *self.trace_s)):
            raise ValueError("a latency is not finite; a lost answer is said by loss_probability")
        for name in ("burst_probability", "loss_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if self.loss_probability == 1.0:
            raise ValueError("loss_probability is 1: no answer would ever come; use less")
        if self.timeout_ticks < 1 or self.burst_requests < 1:
            raise ValueError(
                f"timeout_ticks is {self.timeout_ticks}, burst_requests {self.burst_requests}; "
                "expected 1 or more"
            )

    def delay_ticks(self, episode_seed: int, request: int, control_hz: float) -> int | None:
        """Ticks until the answer to request number `request` (from 0); None: it is lost."""
        if self.loss_probability and _uniform(episode_seed, request, 1) < self.loss_probability:
            return None
        delay = self.ticks if self.kind == "constant" else 0
        if self.kind != "constant":
            latency = self._latency_s(episode_seed, request)
            # An answer is of use from the first tick that begins after it came.
            delay = math.ceil(latency * control_hz - _EPSILON)
        if self.burst_probability:
            first = max(0, request - self.burst_requests + 1)
            begins = (_uniform(episode_seed, r, 2) for r in range(first, request + 1))
            delay += self.burst_ticks * (min(begins) < self.burst_probability)
        return delay

    def _latency_s(self, episode_seed: int, request: int) -> float:
        if self.kind == "trace":
            start = int(_uniform(episode_seed, 0, 3) * len(self.trace_s))
            return self.trace_s[(start + request) % len(self.trace_s)]
        normal = np.random.default_rng([_STREAM, episode_seed, request, 4]).normal()
        return self.median_s * math.exp(self.sigma * normal)

    @property
    def is_zero(self) -> bool:
        """Whether every answer is there at once."""
        return self == replace(DelayModel(), timeout_ticks=self.timeout_ticks)

    def __str__(self) -> str:
        """A short name for tables, such as `4` or `lognormal:0.12:0.4`; `parse_delay` reads it."""
        match self.kind:
            case "constant":
                words = [str(self.ticks)]
            case "lognormal":
                words = [f"lognormal:{self.median_s:g}:{self.sigma:g}"]
            case "trace":
                words = [f"trace:{len(self.trace_s)}x{np.median(self.trace_s):.3g}s"]
        if self.burst_probability:
            words.append(f"burst:{self.burst_probability:g}:{self.burst_ticks}")
        if self.loss_probability:
            words.append(f"loss:{self.loss_probability:g}")
        return "+".join(words)


NO_DELAY = DelayModel()


def parse_delay(text: str) -> DelayModel:
    """A delay as said on a command line; parts are joined by `+`.

        4                    four ticks, always
        lognormal:0.12:0.4   seconds (median) and spread
        trace:FILE           a JSON list of measured seconds, replayed
        burst:0.1:8          one request in ten begins a burst of slow answers, 8 ticks more each
        loss:0.05            one answer in twenty never comes

    Raises ValueError that says which part is not understood.
    """
    delay = NO_DELAY
    for part in text.split("+"):
        kind, *values = part.strip().split(":", 1 if part.strip().startswith("trace") else -1)
        try:
            match kind, values:
                case "lognormal", [median, sigma]:
                    delay = replace(
                        delay, kind="lognormal", median_s=float(median), sigma=float(sigma)
                    )
                case "trace", [file]:
                    seconds = tuple(float(value) for value in json.loads(Path(file).read_text()))
                    delay = replace(delay, kind="trace", trace_s=seconds)
                case "burst", [chance, ticks]:
                    delay = replace(delay, burst_probability=float(chance), burst_ticks=int(ticks))
                case "loss", [chance]:
                    delay = replace(delay, loss_probability=float(chance))
                case _, []:
                    delay = replace(delay, ticks=int(kind))
                case _:
                    raise ValueError("not one of the forms")
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"delay {part!r} is not understood ({error}); use ticks such as 4, "
                "lognormal:MEDIAN_S:SIGMA, trace:FILE, burst:CHANCE:TICKS or loss:CHANCE, "
                "joined by +"
            ) from error
    return delay


def _uniform(episode_seed: int, request: int, what: int) -> float:
    return float(np.random.default_rng([_STREAM, episode_seed, request, what]).random())
