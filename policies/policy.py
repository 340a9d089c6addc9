"""**Read first.** A policy: `loss(batch)` teaches it, `act(observation)` runs it.

    instruction, images, state --ObservationEncoder--> context groups
                                                        |  once per control step, kept as a Cache
    noise --> group action (and future) ----------------+--> trunk --> velocity or noise --> chunk
              each with its flow time

Which design this is, is said by `PolicyConfig` (`policies/policy_config.py`); published ones are in
`policies/presets.py`. `policies/trunk.py` explains groups and caching, `policies/process.py` the
corruption and its direction of time.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datasets.norm_stats import NormStats
from ..datasets.schema import Batch, Embodiment, Observation, unknown_name
from .attention import time_features
from .expert import Expert
from .key_cache import Cache
from .mask import MASKS, Mask
from .normalizer import Normalizer
from .observation_encoder import ObservationEncoder, Seen
from .policy_config import Objective, PolicyConfig
from .pooled_head import PooledHead, pool
from .process import make_process
from .sampler import Known, sample
from .trunk import Group, Trunk
from .world_target import WorldTarget


class Policy(nn.Module):
    """A vision-language-action policy for one embodiment, normalising by `stats` of its data."""

    def __init__(self, config: PolicyConfig, embodiment: Embodiment, stats: NormStats) -> None:
        super().__init__()
        self.config = config
        self.embodiment = embodiment
        self.process = make_process(config.process)
        state, action = stats.stream("state"), stats.stream("action")
        self.state_normalizer = Normalizer(state.mean, state.std)
        self.action_normalizer = Normalizer(action.mean, action.std)
        self.observe = ObservationEncoder(config, embodiment)
        context = self.observe.group_names()
        experts, mask, timed = _experts_and_mask(config, context)
        self.trunk = Trunk(config.trunk, experts, mask, timed)
        self.pooled_head = self.action = self.future = self.world_target = None
        dim = embodiment.action_dim
        if config.head == "pooled":
            self.pooled_head = PooledHead(
                config.pooled_head, config.trunk.width, config.horizon, dim
            )
        else:
            self.action = _Stream(config, "action", config.horizon, dim)
        if config.future is not None:
            self.world_target = WorldTarget(config.future, len(embodiment.cameras))
            self.future = _Stream(
                config, "future", self.world_target.tokens, config.future.features
            )
        if config.freeze_context:
            self.observe.requires_grad_(False)
            for name, parameter in self.trunk.named_parameters():
                if not {"action", "future"} & set(name.split(".")):
                    parameter.requires_grad_(False)

    # ------------------------------------------------------------------ teaching

    def forward(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
    ) -> Float[Tensor, ""]:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(batch, generator, objective)

    def loss(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
    ) -> Float[Tensor, ""]:
        """The weighted sum of `losses`."""
        losses = self.losses(batch, generator, objective)
        weight = self.config.future.weight if self.config.future is not None else 1.0
        return sum(
            (weight if name == "future" else 1.0) * value for name, value in losses.items()
        ) + torch.zeros(())  # fmt: skip

    def losses(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
    ) -> dict[str, Float[Tensor, ""]]:
        """Squared error of what the network says about each generated group, the ticks past an
        episode's end left out.

        `generator` (CPU) draws augmentation, noise and flow times; None uses torch's global one.
        `objective="video"` learns from what is seen alone: the state is a learned token, the
        actions pure noise at t = 0, and only the future counts (DUST's action-free video).
        """
        config, video = self.config, objective == "video"
        clean = {} if video else {"action": self._chunk(batch)}
        if config.future is not None:
            clean["future"] = self.future_tokens(batch)
        elif video:
            raise ValueError("objective 'video' needs a policy with a future: recipe dual_stream")
        cache = self._context(
            self._seen_batch(batch), generator if self.training else None, self.training, video
        )
        draws = config.noise_draws if self.training else 1
        clean = {name: x.repeat_interleave(draws, dim=0) for name, x in clean.items()}
        rows = next(iter(clean.values())).shape[0]
        device = self.device

        noisy, times, targets = {}, {}, {}
        tied = config.future is not None and config.future.noise == "tied"
        t = None
        for name, x in clean.items():
            noise = torch.randn(x.shape, generator=generator).to(device)
            if t is None or not tied:
                t = self.process.sample_time(rows, generator).to(device)
            times[name] = t
            noisy[name], targets[name] = self.process.corrupt(x, noise, t)
        if video:
            shape = (rows, config.horizon, self.embodiment.action_dim)
            noisy["action"] = torch.randn(shape, generator=generator).to(device)
            times["action"] = torch.zeros(rows, device=device)
        output = self.network(cache.repeat(draws))(noisy, times)

        losses = {}
        for name, target in targets.items():
            error = (output[name].float() - target).square().mean(dim=-1)  # (rows, tokens)
            if name == "action":
                keep = torch.from_numpy(~batch.action_is_pad).to(device)
                keep = keep.repeat_interleave(draws, dim=0)
                losses[name] = (error * keep).sum() / keep.sum()
            else:
                losses[name] = error.mean()
        return losses

    def calibrate(self, batch: Batch) -> None:
        """Take from a first batch what must be known before training: the scale of the future."""
        if self.world_target is not None:
            self.world_target.calibrate(self._future_images(batch))

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
        generators = [torch.Generator().manual_seed(o.noise_seed) for o in observations]
        noise = {
            name: torch.stack([torch.randn(size, generator=g) for g in generators]).to(self.device)
            for name, size in self._sizes().items()
        }
        cache = self._context(self._seen(observations), None, augment=False)
        chunk = self.generate(cache, noise, generators=generators)["action"]
        chunk = self.action_normalizer.unnormalize(chunk)
        low = torch.tensor(self.embodiment.action_low, device=self.device)
        high = torch.tensor(self.embodiment.action_high, device=self.device)
        return chunk.clamp(low, high).float().cpu().numpy()

    @torch.no_grad()
    def generate(
        self,
        cache: Cache,
        noise: Mapping[str, Tensor],
        given: Mapping[str, Tensor] | None = None,
        known: Mapping[str, Known] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """Clean groups, normalised, from noise of the same shapes under this context.

        With `given={"future": tokens}` this is an inverse model (how to get there), with
        `given={"action": chunk}` a forward model (what will be seen); see `policies/sampler.py`.
        """
        steps = {
            "action": self.config.sampler.steps,
            "future": self.config.sampler.future_steps or self.config.sampler.steps,
        }
        groups = {**noise, **(given or {})}
        if self.pooled_head is None:
            cache = cache.reserve(self._live_tokens(groups))
        network = self.network(cache)
        return sample(network, noise, self.process, steps, given, known, generators)

    # ------------------------------------------------------------------ inside

    @property
    def device(self) -> torch.device:
        return self.action_normalizer.mean.device

    def context(self, batch: Batch) -> Cache:
        """The context of a batch, as `act` computes it for observations."""
        return self._context(self._seen_batch(batch), None, augment=False)

    def future_tokens(self, batch: Batch) -> Float[Tensor, "batch tokens features"]:
        """What is to be seen at the end of each window, as clean tokens."""
        assert self.world_target is not None
        return self.world_target(self._future_images(batch))

    def network(
        self, cache: Cache
    ) -> Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]:
        """What the sampler asks at every step, under one context."""
        head = self.pooled_head
        if head is not None:
            embedding = pool(cache)
            return lambda x, t: {"action": head(x["action"], t["action"], embedding)}
        streams = {"action": self.action, "future": self.future}

        def ask(x: dict[str, Tensor], t: dict[str, Tensor]) -> dict[str, Tensor]:
            groups: list[Group] = []
            for name, stream in streams.items():
                if stream is not None and name in x:
                    groups += stream.groups(x[name], t[name])
            features = self.trunk(groups, cache)
            return {
                name: stream.out(features[name])
                for name, stream in streams.items()
                if stream is not None and name in x
            }

        return ask

    def _context(
        self, seen: Seen, generator: torch.Generator | None, augment: bool, video: bool = False
    ) -> Cache:
        groups = self.observe(seen, generator, augment, without_state=video)
        if self.config.experts != "context_action":
            separate = self.config.experts == "separate"
            groups = [
                Group(
                    g.name, g.x, g.name.partition(".")[0] if separate else "context", None, g.valid
                )
                for g in groups
            ]
        return self.trunk.context(groups, read=self.pooled_head is not None)

    def _chunk(self, batch: Batch) -> Tensor:
        chunk = torch.from_numpy(batch.action_chunk).to(self.device)
        return self.action_normalizer.normalize(chunk)

    def _seen_batch(self, batch: Batch) -> Seen:
        images = {
            name: torch.from_numpy(batch.images[name]).to(self.device)
            for name in self.observe.vision
            if name in batch.images
        }
        state = torch.from_numpy(batch.state).to(self.device)
        if self.config.history == 1:
            images = {name: frames[:, None] for name, frames in images.items()}
            state = state[:, None]
        return Seen(images, self.state_normalizer.normalize(state), batch.instructions, {})

    def _seen(self, observations: Sequence[Observation]) -> Seen:
        one = self.config.history == 1
        images, present = {}, {}
        for name in self.observe.vision:
            camera = self.embodiment.camera(name)
            shape = (self.config.history, camera.height, camera.width, 3)
            there = [name in o.images for o in observations]
            if not any(there):
                continue
            frames = [
                o.images[name].reshape(shape) if name in o.images else np.zeros(shape, np.uint8)
                for o in observations
            ]
            images[name] = torch.from_numpy(np.stack(frames)).to(self.device)
            if not all(there):
                present[name] = torch.tensor(there, device=self.device)
        state = torch.from_numpy(np.stack([o.state for o in observations])).to(self.device)
        state = self.state_normalizer.normalize(state[:, None] if one else state)
        return Seen(images, state, tuple(o.instruction for o in observations), present)

    def _future_images(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(batch.future_images[name]).to(self.device)
            for name in self.observe.vision
        }

    def _sizes(self) -> dict[str, tuple[int, int]]:
        sizes = {"action": (self.config.horizon, self.embodiment.action_dim)}
        if self.world_target is not None and self.config.future is not None:
            sizes["future"] = (self.world_target.tokens, self.config.future.features)
        return sizes

    def _live_tokens(self, groups: Mapping[str, Tensor]) -> int:
        extra = 1 if self.config.time == "token" else 0
        return sum(x.shape[1] + extra for x in groups.values())

    def _check(self, observation: Observation) -> None:
        history = self.config.history
        before = () if history == 1 else (history,)
        names = [camera.name for camera in self.embodiment.cameras]
        if not set(names) & set(observation.images):
            raise unknown_name("camera", names[0], observation.images)
        for camera in self.embodiment.cameras:
            if camera.name not in observation.images:
                if self.config.camera_dropout:
                    continue
                raise unknown_name("camera", camera.name, observation.images)
            shape = observation.images[camera.name].shape
            expected = (*before, camera.height, camera.width, 3)
            if shape != expected:
                raise ValueError(
                    f"image {camera.name!r}: expected {expected} as in training, got {shape}; "
                    "render or resize to the policy's size"
                )
            if observation.images[camera.name].dtype != np.uint8:
                raise ValueError(
                    f"image {camera.name!r}: expected uint8 RGB, got "
                    f"{observation.images[camera.name].dtype}"
                )
        if observation.state.shape != (*before, self.embodiment.state_dim):
            raise ValueError(
                f"state: expected {self.embodiment.state_dim} entries "
                f"({', '.join(self.embodiment.state_names)}), got shape {observation.state.shape}"
            )


class _Stream(nn.Module):
    """The way of one generated group into the trunk and out of it."""

    def __init__(self, config: PolicyConfig, name: str, tokens: int, dim: int) -> None:
        super().__init__()
        self.name, self.time_kind = name, config.time
        self.expert = "context" if config.experts == "shared" else name
        width = config.trunk.width
        if name == "action" and config.experts != "shared":
            width = config.action_width or width
        self.enter = nn.Linear(dim, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
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
        self.width = width
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def groups(self, noisy: Tensor, t: Tensor) -> list[Group]:
        tokens = self.enter(noisy) + self.position
        if self.time_in is None:
            return [Group(self.name, tokens, self.expert, t)]
        features = time_features(t, self.width).to(tokens.dtype)
        if self.time_kind == "concat":
            features = (features[:, None] if t.ndim == 1 else features).expand_as(tokens)
            tokens = self.time_in(torch.cat([tokens, features], dim=-1))
            return [Group(self.name, tokens, self.expert, t)]
        if t.ndim > 1:
            raise ValueError(
                "one time token cannot carry a time per action (real-time chunking); train a "
                "policy with time 'adaln' or 'concat'"
            )
        clock = self.time_in(features)[:, None]
        return [
            Group(f"{self.name}_time", clock, self.expert, t),
            Group(self.name, tokens, self.expert, t),
        ]

    def out(self, features: Tensor) -> Tensor:
        return self.leave(features)


def _experts_and_mask(
    config: PolicyConfig, context: list[str]
) -> tuple[dict[str, Expert], Mask, list[str]]:
    """The trunk's experts, who sees whom, and which groups carry a flow time."""
    generated = [] if config.head == "pooled" else list(config.generated)
    mask, timed = MASKS[config.mask](context, generated), list(generated)
    if config.time == "token":
        sight = {row: dict(columns) for row, columns in mask.sight.items()}
        for name in generated:
            # A group sees its own clock, and the clock what its group sees.
            for row in generated:
                if sight[row].get(name, "none") != "none":
                    sight[row][f"{name}_time"] = "full"
            sight[f"{name}_time"] = dict(sight[name])
        mask, timed = Mask(sight), [*timed, *(f"{name}_time" for name in generated)]
    pooled = config.head == "pooled"
    if config.experts == "shared":
        return {"context": Expert(time="tokens")}, mask, timed
    if config.experts == "separate":
        kinds = dict.fromkeys(name.partition(".")[0] for name in context)
        experts = {kind: Expert(read=pooled) for kind in kinds}
    else:
        experts = {"context": Expert(read=pooled)}
    for name in generated:
        experts[name] = Expert(
            time="adaln" if config.time == "adaln" else "tokens",
            width=config.action_width if name == "action" else 0,
            private_depth=config.private_depth,
            attention_of="context" if config.share in ("attention", "all") else "",
            ffn_of="context" if config.share == "all" else "",
        )
    return experts, mask, timed
