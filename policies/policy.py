"""**Read first.** A policy: `loss(batch)` teaches it, `act(observation)` runs it.

    instruction --bytes--> text tokens ----------------+
                     |  pooled                          |        context: once per control step
    images.* --FiLM--+--> key-point tokens per camera --+--+
    state ----linear--> one token ----------------------+  |
                                                            v
    noise --> action tokens, flow time t --> action expert sees it all --> velocity --> chunk

Which design this is, is said by `PolicyConfig.mask` and the experts; `policies/trunk.py` explains
groups and caching, `policies/process.py` the flow and its direction of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datasets.norm_stats import NormStats
from ..datasets.schema import Batch, Embodiment, Observation, unknown_name
from .image_transforms import AugmentConfig, random_shift, to_float
from .instruction_tokens import ByteInstructionConfig, ByteInstructionEncoder
from .mask import MASKS
from .normalizer import Normalizer
from .process import FlowConfig, corrupt, sample_time
from .sampler import SamplerConfig, integrate
from .trunk import Cache, Expert, Group, Trunk, TrunkConfig
from .vision import KeypointVision, KeypointVisionConfig


@dataclass(frozen=True)
class PolicyConfig:
    horizon: int = 16
    """Actions predicted per chunk."""
    execution_horizon: int = 6
    """Actions executed before the next chunk (LeRobot: `n_action_steps`)."""
    mask: Literal["prefix", "joint", "causal"] = "prefix"
    """Which token groups see which: `policies/mask.py`."""
    noise_draws: int = 2
    """Independent (noise, flow time) draws per training observation. The context is computed once
    for all of them, so each is far cheaper than another sample."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    vision: KeypointVisionConfig = field(default_factory=KeypointVisionConfig)
    instruction: ByteInstructionConfig = field(default_factory=ByteInstructionConfig)
    process: FlowConfig = field(default_factory=FlowConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.execution_horizon <= self.horizon:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} must lie in 1..horizon "
                f"({self.horizon}); change --policy.execution-horizon or --policy.horizon"
            )
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws must be 1 or more, got {self.noise_draws}")


class Policy(nn.Module):
    """A vision-language-action policy for one embodiment, normalising by `stats` of its data."""

    def __init__(self, config: PolicyConfig, embodiment: Embodiment, stats: NormStats) -> None:
        super().__init__()
        self.config = config
        self.embodiment = embodiment
        state, action = stats.stream("state"), stats.stream("action")
        self.state_normalizer = Normalizer(state.mean, state.std)
        self.action_normalizer = Normalizer(action.mean, action.std)
        width = config.trunk.width
        self.instruction_encoder = ByteInstructionEncoder(config.instruction, width)
        self.vision = nn.ModuleDict(
            {
                camera.name: KeypointVision(
                    config.vision,
                    self.instruction_encoder.condition_dim,
                    width,
                    camera.height,
                    camera.width,
                )
                for camera in embodiment.cameras
            }
        )
        self.state_in = nn.Linear(embodiment.state_dim, width)
        self.action_in = nn.Linear(embodiment.action_dim, width)
        self.action_position = nn.Parameter(torch.randn(config.horizon, width) * 0.02)
        self.action_out = nn.Linear(width, embodiment.action_dim)
        nn.init.zeros_(self.action_out.weight)
        nn.init.zeros_(self.action_out.bias)
        context = ["text", *(f"image.{name}" for name in self.vision), "state"]
        self.trunk = Trunk(
            config.trunk,
            experts={"context": Expert(read=False), "action": Expert(timed=True)},
            mask=MASKS[config.mask](context, ["action"]),
        )

    # ------------------------------------------------------------------ teaching

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(batch, generator)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Flow-matching loss over the batch, the ticks past an episode's end left out.

        `generator` (CPU) draws augmentation, noise and flow times; None uses torch's global one.
        """
        config, device = self.config, self.action_position.device
        images = {name: torch.from_numpy(batch.images[name]).to(device) for name in self.vision}
        state = torch.from_numpy(batch.state).to(device)
        chunk = self.action_normalizer.normalize(torch.from_numpy(batch.action_chunk).to(device))
        keep = torch.from_numpy(~batch.action_is_pad).to(device)

        cache = self._context(
            images,
            state,
            batch.instructions,
            generator if self.training else None,
            augment=self.training,
        )
        draws = config.noise_draws if self.training else 1
        chunk, keep = (x.repeat_interleave(draws, dim=0) for x in (chunk, keep))
        noise = torch.randn(chunk.shape, generator=generator).to(device)
        t = sample_time(config.process.time_law, len(chunk), generator).to(device)
        noisy, target = corrupt(chunk, noise, t)
        velocity = self._velocity(noisy, t, cache.repeat(draws))
        error = (velocity.float() - target).square().mean(dim=-1)  # (batch * draws, horizon)
        return (error * keep).sum() / keep.sum()

    # ------------------------------------------------------------------ acting

    def act(self, observation: Observation) -> Float[np.ndarray, "horizon action_dim"]:
        """The action chunk for one observation, float32, within the embodiment's limits.

        The same observation (its `noise_seed` included) gives the same chunk.
        """
        return self.act_batch([observation])[0]

    @torch.no_grad()
    def act_batch(
        self, observations: Sequence[Observation]
    ) -> Float[np.ndarray, "batch horizon action_dim"]:
        """Chunks for several observations; each row depends on its own observation alone."""
        for observation in observations:
            self._check(observation)
        device = self.action_position.device
        images = {
            name: torch.from_numpy(np.stack([o.images[name] for o in observations])).to(device)
            for name in self.vision
        }
        state = torch.from_numpy(np.stack([o.state for o in observations])).to(device)
        instructions = tuple(o.instruction for o in observations)
        noise = torch.stack([self._noise(o.noise_seed) for o in observations]).to(device)
        cache = self._context(images, state, instructions, None, augment=False)
        live = cache.reserve(self.config.horizon)
        chunk = integrate(lambda x, t: self._velocity(x, t, live), noise, self.config.sampler.steps)
        chunk = self.action_normalizer.unnormalize(chunk)
        low = torch.tensor(self.embodiment.action_low, device=device)
        high = torch.tensor(self.embodiment.action_high, device=device)
        return chunk.clamp(low, high).float().cpu().numpy()

    # ------------------------------------------------------------------ inside

    def _context(
        self,
        images: dict[str, Tensor],
        state: Tensor,
        instructions: Sequence[str],
        generator: torch.Generator | None,
        augment: bool,
    ) -> Cache:
        augmentation = self.config.augment
        text, condition = self.instruction_encoder(instructions)
        groups = [Group("text", text)]
        for name, encoder in self.vision.items():
            pixels, shift = images[name], None
            if augment and augmentation.shift_pixels:
                pixels, shift = random_shift(pixels, augmentation.shift_pixels, generator)
            frames = to_float(pixels)
            if augment and augmentation.brightness:
                factor = torch.rand(len(frames), generator=generator).to(frames.device)
                scale = 1 + augmentation.brightness * (2 * factor - 1)
                frames = (frames + 1) * scale[:, None, None, None] - 1
            groups.append(Group(f"image.{name}", encoder(frames, condition, shift)))
        state = self.state_normalizer.normalize(state)
        if augment and augmentation.state_noise:
            noise = torch.randn(state.shape, generator=generator).to(state.device)
            state = state + augmentation.state_noise * noise
        groups.append(Group("state", self.state_in(state)[:, None]))
        return self.trunk.context(groups)

    def _velocity(self, noisy: Tensor, t: Tensor, cache: Cache) -> Tensor:
        tokens = self.action_in(noisy) + self.action_position
        out = self.trunk([Group("action", tokens, expert="action", t=t)], cache)["action"]
        return self.action_out(out)

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.config.horizon, self.embodiment.action_dim, generator=generator)

    def _check(self, observation: Observation) -> None:
        for camera in self.embodiment.cameras:
            if camera.name not in observation.images:
                raise unknown_name("camera", camera.name, observation.images)
            shape = observation.images[camera.name].shape
            if shape != (camera.height, camera.width, 3):
                raise ValueError(
                    f"image {camera.name!r}: expected ({camera.height}, {camera.width}, 3) as in "
                    f"training, got {shape}; render or resize to the policy's size"
                )
        if observation.state.shape != (self.embodiment.state_dim,):
            raise ValueError(
                f"state: expected {self.embodiment.state_dim} entries "
                f"({', '.join(self.embodiment.state_names)}), got shape {observation.state.shape}"
            )
