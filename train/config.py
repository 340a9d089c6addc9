"""What one training run is: every number of it, saved with the run."""

from dataclasses import dataclass, field
from typing import Literal

from ..policies.policy_config import Objective, PolicyConfig


@dataclass(frozen=True)
class OptimizerConfig:
    peak_learning_rate: float = 3e-3
    """Top of the one-cycle schedule (Smith & Topin, arXiv 1708.07120)."""
    warmup_fraction: float = 0.1
    """Share of the steps spent rising to the peak; the rest anneals to zero by a cosine."""
    weight_decay: float = 1e-2
    """AdamW decay on matrices; biases, norms and embeddings of one dimension are left alone."""
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    ema_decay: float = 0.995
    """Per-step decay of the averaged weights, the ones that are evaluated and deployed."""


@dataclass(frozen=True)
class TrainConfig:
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 1300
    """Optimizer steps of the whole run, also when it is resumed."""
    batch_size: int = 64
    """Windows per step and process."""
    gradient_accumulation: int = 1
    """Batches summed into one optimizer step."""
    weights: tuple[float, ...] = ()
    """Shares of the windows that come from each store, relative to one another; empty: equal."""
    actions: str = ""
    """How the network sees actions (`datasets/action_forms.py`): `delta` or `chunk_relative` for
    joint targets, or a TOML file that names the entries; empty: as recorded."""
    objective: Objective = "policy"
    """`video` learns from what is seen alone, without actions and states (a policy with a future
    only); what it learned is taken up with `init_from`."""
    init_from: str = ""
    """Policy folder whose weights the run starts from; empty: from scratch. Keys and shapes must
    be those of `policy`, or be named in `init_fresh`."""
    init_fresh: tuple[str, ...] = ()
    """Beginnings of the names of weights not to take from `init_from`, such as `action`."""
    seed: int = 0
    """Initial weights, order of the data, augmentation, noise and the held-out episodes."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Autocast type. `auto` takes bf16 where the hardware computes in it (AVX512-BF16, AMX, CUDA
    from Ampere on) and fp32 elsewhere; which one it was is printed and saved."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is cuda if torch sees one; asking for cuda without one is an error."""
    threads: int = 0
    """CPU threads of torch; 0: all cores this process may use."""
    order: Literal["random", "clip", "stream"] = "random"
    """In which order windows come (`datasets/shuffle.py`): `clip` for stores of video, `stream` for
    object stores, which are then read a shard at a time."""
    cache: Literal["auto", "ram", "none"] = "auto"
    """Whether decoded frames stay in memory; `auto` if they fit into a quarter of what is free."""
    held_out_fraction: float = 0.04
    """Share of the episodes never trained on, for the held-out loss."""
    held_out_windows: int = 256
    """Windows of those episodes the held-out loss is taken over."""
    held_out_every: int = 100
    """Steps between held-out losses."""
    save_every: int = 200
    """Steps between resume points."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "gradient_accumulation",
            "held_out_every",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must lie in 0..1, got {self.held_out_fraction}")
