"""How clean data is corrupted, what the network must say about it, and how a step is undone.

**The direction of time, once:** t = 0 is noise, t = 1 is the action (as in the papers: Lipman et
al., arXiv 2210.02747; pi0, arXiv 2410.24164). LeRobot and openpi code run it the other way, with
t' = 1 - t and the velocity's sign flipped; diffusion papers count steps k = 0 (almost clean) to
K - 1 (noise). Whoever converts, converts here: t = 1 - (k + 1) / K.

    flow       x_t = t x + (1 - t) e      target x - e                e ~ N(0, 1)
    diffusion  x_k = sqrt(a_k) x + sqrt(1 - a_k) e    target e, x or v (diffusers' schedulers)

Every group has its own times, one per batch row or one per token (real-time chunking: tokens that
are already decided have t = 1 and are not noised).

Next: `policies/sampler.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from jaxtyping import Bool, Float
from torch import Tensor

from ..datasets.schema import unknown_name

TimeLaw = Literal["uniform", "beta", "logit_normal"]


@dataclass(frozen=True)
class FlowConfig:
    type: Literal["flow"] = "flow"
    time_law: TimeLaw = "beta"
    """`beta` is pi0's: t = 0.999 (1 - b), b ~ Beta(1.5, 1): more training on noisy inputs, where
    the chunk's shape is decided. `uniform` and `logit_normal` (SD3) for comparison."""


@dataclass(frozen=True)
class DiffusionConfig:
    type: Literal["diffusion"] = "diffusion"
    noise_steps: int = 100
    """K: noise levels in training."""
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    """How the levels are spread: squared cosine (arXiv 2102.09672, eq. 17) is diffusion_policy's
    and Dita's for fine-tuning."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network says: the noise, the clean data, or the velocity of arXiv 2202.00512."""
    solver: Literal["ddim", "ddpm", "dpm++"] = "ddim"
    """How steps are undone: DDIM (arXiv 2010.02502), ancestral DDPM (arXiv 2006.11239), or
    DPM-Solver++ of second order (arXiv 2211.01095)."""
    clip: float = 5.0
    """Largest size of an entry of the estimated clean data, in units of the normalised action;
    keeps the first, noisiest steps from running away. 0: none."""

    def __post_init__(self) -> None:
        if self.noise_steps < 2:
            raise ValueError(f"noise_steps must be 2 or more, got {self.noise_steps}")


ProcessConfig = FlowConfig | DiffusionConfig


@runtime_checkable
class Solver(Protocol):
    """One group's way from noise to data in a fixed number of steps."""

    times: tuple[float, ...]
    """Flow time at which the network is asked, per step."""

    def advance(
        self, x: Tensor, output: Tensor, index: int, generators: Sequence[torch.Generator] | None
    ) -> Tensor:
        """`x` after step `index`; `generators` (one per row) draw what a stochastic solver adds."""
        ...


@runtime_checkable
class Process(Protocol):
    """What connects clean data and noise."""

    def sample_time(
        self, count: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, " count"]:
        """Times for training, on the generator's device."""
        ...

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`(noisy, target)` of `x` (batch, tokens, dim) at times `t` (batch) or (batch, tokens)."""
        ...

    def solver(self, steps: int) -> Solver: ...


def make_process(config: ProcessConfig) -> Process:
    match config:
        case FlowConfig():
            return FlowProcess(config)
        case DiffusionConfig():
            return DiffusionProcess(config)


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


class FlowProcess:
    """The straight path from noise to data, and Euler's steps along it."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config

    def sample_time(
        self, count: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, " count"]:
        return sample_time(self.config.time_law, count, generator)

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        time = _per_token(t)
        return time * x + (1 - time) * noise, x - noise

    def solver(self, steps: int) -> Solver:
        return EulerSolver(steps)


class EulerSolver:
    """x <- x + v / steps at t = 0, 1/steps, ..., (steps - 1)/steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times = tuple(step / steps for step in range(steps))

    def advance(
        self, x: Tensor, output: Tensor, index: int, generators: Sequence[torch.Generator] | None
    ) -> Tensor:
        return x + output / self.steps


_SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}


class DiffusionProcess:
    """Denoising diffusion through diffusers' schedulers."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self._levels = _scheduler(config)

    def sample_time(
        self, count: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, " count"]:
        device = generator.device if generator is not None else torch.device("cpu")
        levels = self.config.noise_steps
        k = torch.randint(0, levels, (count,), generator=generator, device=device)
        return _time_of(k, levels)

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        k = torch.round((1 - _per_token(t)) * self.config.noise_steps).long() - 1
        k = k.expand(*x.shape[:2], 1).reshape(-1)  # one level per token
        rows, noise_rows = x.reshape(-1, x.shape[-1]), noise.reshape(-1, x.shape[-1])
        clean = (k < 0)[:, None]  # t = 1: a token that is decided
        k = k.clamp(min=0)
        noisy = self._levels.add_noise(rows, noise_rows, k)  # pyright: ignore[reportArgumentType]
        target = {
            "epsilon": lambda: noise_rows,
            "sample": lambda: rows,
            "v_prediction": lambda: self._levels.get_velocity(rows, noise_rows, k),  # pyright: ignore[reportArgumentType]
        }[self.config.prediction]()
        return torch.where(clean, rows, noisy).view_as(x), target.view_as(x)

    def solver(self, steps: int) -> Solver:
        return SchedulerSolver(self.config, steps)


class SchedulerSolver:
    """One run of a diffusers scheduler."""

    def __init__(self, config: DiffusionConfig, steps: int) -> None:
        if steps > config.noise_steps:
            raise ValueError(
                f"{steps} sampler steps, but the policy was trained with {config.noise_steps} "
                "noise levels; use --policy.sampler.steps of at most that"
            )
        self.stochastic = config.solver == "ddpm"
        self._scheduler = _SCHEDULERS[config.solver].from_config(
            _scheduler(config).config, **_solver_options(config)
        )
        self._scheduler.set_timesteps(steps)
        self._steps = self._scheduler.timesteps
        if len(self._steps.unique()) < steps:
            raise ValueError(
                f"{steps} sampler steps of {config.solver} do not fit {config.noise_steps} noise "
                "levels: some would be asked twice; use fewer --policy.sampler.steps"
            )
        levels = config.noise_steps
        self.times = tuple(float(time) for time in _time_of(self._steps, levels))

    def advance(
        self, x: Tensor, output: Tensor, index: int, generators: Sequence[torch.Generator] | None
    ) -> Tensor:
        noise = {"generator": list(generators)} if self.stochastic and generators else {}
        return self._scheduler.step(output, self._steps[index], x, **noise).prev_sample


def _scheduler(config: DiffusionConfig) -> DDPMScheduler:
    """The one that knows the noise levels; the solvers are made from its config."""
    return DDPMScheduler(
        num_train_timesteps=config.noise_steps,
        beta_schedule=config.schedule,
        prediction_type=config.prediction,
        clip_sample=config.clip > 0,
        clip_sample_range=config.clip or 1.0,
        # Not "trailing", which asks at pure noise first: there noise is all there is to see, and
        # clean data estimated from it is the network's error divided by almost nothing.
        timestep_spacing="leading",
    )


def _solver_options(config: DiffusionConfig) -> dict[str, Any]:
    if config.solver != "dpm++":
        return {}
    # It has no clip, so it begins where data is seen at all (log of signal over noise above -4);
    # with few steps its last one is of first order, as its authors advise.
    return {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "lower_order_final": True,
        "timestep_spacing": "linspace",
        "lambda_min_clipped": -4.0,
    }


def _time_of(k: Tensor, levels: int) -> Float[Tensor, " count"]:
    return 1 - (k.float() + 1) / levels


def split_decided(
    t: Float[Tensor, "batch *tokens"],
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, "batch tokens"] | None]:
    """Times per token as one time per row and which tokens are decided, that is have t = 1; those
    of a row that are not must share one time. Times per row have none decided (None)."""
    return (t, None) if t.ndim == 1 else (t.amin(dim=1), t >= 1)


def _per_token(t: Tensor) -> Tensor:
    """(batch) or (batch, tokens) to what multiplies (batch, tokens, dim)."""
    return t[:, None, None] if t.ndim == 1 else t[:, :, None]
