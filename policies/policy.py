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
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datasets.actions import ActionSpace
from ..datasets.norm_stats import NormStats
from ..datasets.schema import Batch, Embodiment, Observation
from .border import Border
from .embodiment_slots import EmbodimentSlots, masked_mean, resolve_cameras
from .generated_stream import GeneratedStream
from .key_cache import Cache
from .layout import experts_and_mask
from .observation_encoder import ObservationEncoder, Seen
from .policy_config import Objective, PolicyConfig
from .pooled_head import PooledHead, pool
from .process import make_process
from .realtime_chunking import Guidance, RealtimeMode, plan_of, sample_decided, taught_plan
from .sampler import Known, sample
from .trunk import Group, Trunk
from .vlm import VlmBackbone
from .world_target import WorldTarget


class Policy(nn.Module):
    """A vision-language-action policy for one robot, or several of different sizes.

    It acts for the robot of `slot`; `use` chooses it. Batches of training say theirs.
    """

    def __init__(
        self,
        config: PolicyConfig,
        embodiments: Embodiment | Sequence[Embodiment],
        stats: NormStats | Sequence[NormStats],
        spaces: Sequence[ActionSpace] | None = None,
        files: Path | None = None,
    ) -> None:
        """`stats`: of the data of each robot, in the form of its action space (`spaces`; None: all
        as recorded). `files`: folder of a saved policy whose weights are loaded next; then nothing
        pretrained is read."""
        super().__init__()
        self.config = config
        robots = [embodiments] if isinstance(embodiments, Embodiment) else list(embodiments)
        self.slots = EmbodimentSlots(
            robots,
            [stats] if isinstance(stats, NormStats) else list(stats),
            spaces,
            config.normalization,
            config.padded_state or None,
            config.padded_action or None,
        )
        self.slot = 0
        self.realtime: RealtimeMode
        self.use_realtime(config.realtime.mode)
        size = {} if config.image_size is None else {"": config.image_size}
        self.cameras = resolve_cameras(robots, size)
        self.border = Border(config, self.slots, self.cameras)
        self.process = make_process(config.process)
        self.observe = ObservationEncoder(
            config, self.cameras, self.slots.state_width, files, load_weights=files is None
        )
        self.backbone = None
        trunk = config.trunk
        if config.backbone is not None:
            self.backbone = VlmBackbone(config.backbone, None if files is None else files / "vlm")
            trunk = replace(
                trunk,
                depth=self.backbone.layers,
                heads=self.backbone.heads,
                kv_heads=self.backbone.kv_heads,
                head_dim=self.backbone.head_dim,
                positions="rotary",
                rope_theta=self.backbone.rope_theta,
            )
        experts, mask, timed = experts_and_mask(config, self.observe.group_names())
        self.trunk = Trunk(trunk, experts, mask, timed)
        self.pooled_head = self.action = self.future = self.world_target = None
        dim = self.slots.action_width
        if config.head == "pooled":
            taught = config.realtime.max_delay > 0
            self.pooled_head = PooledHead(
                config.pooled_head, trunk.width, config.horizon, dim, taught
            )
        else:
            self.action = GeneratedStream(config, "action", config.horizon, dim, len(robots))
        if config.future is not None:
            own = self.observe
            condition = 0 if own.instruction is None else own.instruction.condition_dim
            self.world_target = WorldTarget(
                config.future, len(self.cameras), dict(own.vision.items()), trunk.width, condition
            )
            self.future = GeneratedStream(
                config, "future", self.world_target.tokens, config.future.features
            )
        if config.freeze_context:
            self.observe.requires_grad_(False)
            for name, parameter in self.trunk.named_parameters():
                if not {"action", "future"} & set(name.split(".")):
                    parameter.requires_grad_(False)

    @property
    def embodiment(self) -> Embodiment:
        """The robot it acts for."""
        return self.slots.embodiments[self.slot]

    def use(self, embodiment: Embodiment, where: str = "this robot") -> "Policy":
        """Act for this robot from now on. Raises ValueError if it was not trained for it."""
        self.slot = self.slots.index(embodiment, where)
        return self

    def use_realtime(self, mode: str) -> "Policy":
        """Join chunks to the plan under way like this from now on: `off`, `trained`, `guided`,
        `identity` or `auto` (`policies/realtime_chunking.py`). Raises ValueError if it cannot."""
        self.realtime = self.config.realtime.resolved(mode, self.config.process)
        return self

    # ------------------------------------------------------------------ teaching

    def forward(
        self,
        parts: Sequence[tuple[int, Batch]],
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
    ) -> Float[Tensor, ""]:
        """Loss of a batch that may hold several robots, as parts `(slot, windows)`: each window
        counts the same. It is called `forward` because data-parallel wrappers call that."""
        rows = [len(batch.instructions) for _, batch in parts]
        losses = [self.loss(batch, generator, objective, slot) for slot, batch in parts]
        total = torch.stack([n * loss for n, loss in zip(rows, losses, strict=True)]).sum()
        return total / sum(rows)

    def loss(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
        slot: int = 0,
    ) -> Float[Tensor, ""]:
        """The weighted sum of `losses`."""
        losses = self.losses(batch, generator, objective, slot)
        if self.config.future is not None:
            losses["future"] = self.config.future.weight * losses["future"]
        return torch.stack(list(losses.values())).sum()

    def losses(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        objective: Objective = "policy",
        slot: int = 0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Squared error of what the network says about each generated group, the ticks past an
        episode's end and actions that are given (real-time chunking) left out.

        `slot`: which robot the batch is of; entries it does not have neither teach nor count.
        `generator` (CPU) draws augmentation, noise and flow times; None uses torch's global one.
        `objective="video"` learns from what is seen alone: the state is a learned token, the
        actions pure noise at t = 0, and only the future counts (DUST's action-free video).
        """
        config, video = self.config, objective == "video"
        valid = self.slots.valid_actions(slot)
        clean = {} if video else {"action": self.chunk(batch, slot)}
        if config.future is not None:
            clean["future"] = self.future_tokens(batch)
        elif video:
            raise ValueError("objective 'video' needs a policy with a future: recipe dual_stream")
        cache = self._context(
            self.border.batch(batch, slot),
            generator if self.training else None,
            self.training,
            video,
        )
        draws = config.noise_draws if self.training else 1
        clean = {name: x.repeat_interleave(draws, dim=0) for name, x in clean.items()}
        rows = next(iter(clean.values())).shape[0]
        device = self.device

        keep = torch.from_numpy(~batch.action_is_pad).repeat_interleave(draws, dim=0)
        decided = None
        if config.realtime.max_delay and not video:
            decided = sample_decided(config.realtime, keep.sum(1), config.horizon, generator)
            if batch.executed_chunk is not None:
                clean["action"] = taught_plan(batch, self.slots, slot, decided, draws)
            keep, decided = keep & ~decided, decided.to(device)
        keep = keep.to(device)

        noisy, times, targets = {}, {}, {}
        tied = config.future is not None and config.future.noise == "tied"
        t = None
        for name, x in clean.items():
            noise = torch.randn(x.shape, generator=generator).to(device)
            if name == "action":
                noise = noise * valid
            if t is None or not tied:
                t = self.process.sample_time(rows, generator).to(device)
            times[name] = t
            if name == "action" and decided is not None:
                times[name] = torch.where(decided, 1.0, t[:, None])
            noisy[name], targets[name] = self.process.corrupt(x, noise, times[name])
        if video:
            shape = (rows, config.horizon, self.slots.action_width)
            noisy["action"] = torch.randn(shape, generator=generator).to(device) * valid
            times["action"] = torch.zeros(rows, device=device)
        output = self.network(cache.repeat(draws), slot)(noisy, times)

        losses = {}
        for name, target in targets.items():
            error = (output[name].float() - target).square()  # (rows, tokens, dim)
            if name == "action":
                losses[name] = masked_mean(error, keep, valid)
            else:
                losses[name] = error.mean()
        return losses

    def calibrate(self, parts: Sequence[tuple[int, Batch]]) -> None:
        """Take from first batches what must be known before training: who looks at the future,
        and its scale."""
        if self.world_target is not None:
            self.world_target.look_with(dict(self.observe.vision.items()))
            self.world_target.calibrate([self.border.future_images(b) for _, b in parts])

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
            self.border.check(observation, self.slot)
        generators = [torch.Generator().manual_seed(o.noise_seed) for o in observations]
        noise = {
            name: torch.stack([torch.randn(size, generator=g) for g in generators]).to(self.device)
            for name, size in self.sizes().items()
        }
        cache = self._context(
            self.border.observations(observations, self.slot), None, augment=False
        )
        plan, known, guide = None, None, None
        if self.realtime != "off":
            config = self.config
            taught = config.realtime.max_delay if self.realtime == "trained" else None
            plan = plan_of(observations, self.slots, self.slot, config.horizon, taught)
            known, guide = plan.joined(self.realtime, config.realtime, config.sampler.steps)
        chunk = self.generate(cache, noise, None, known, generators, guide)["action"]
        chunk = chunk if plan is None else plan.kept(chunk)
        state = torch.from_numpy(np.stack([o.state for o in observations]))
        commands = self.slots.unnormalize_chunk(chunk, state, self.slot).cpu().numpy()
        return commands if plan is None else plan.kept_raw(commands)

    @torch.no_grad()
    def generate(
        self,
        cache: Cache,
        noise: Mapping[str, Tensor],
        given: Mapping[str, Tensor] | None = None,
        known: Mapping[str, Known] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        guide: Guidance | None = None,
    ) -> dict[str, Tensor]:
        """Clean groups, normalised, from noise of the same shapes under this context.

        With `given={"future": tokens}` this is an inverse model (how to get there), with
        `given={"action": chunk}` a forward model (what will be seen); see `policies/sampler.py`.
        """
        steps = {
            "action": self.config.sampler.steps,
            "future": self.config.sampler.future_steps or self.config.sampler.steps,
        }
        noise, valid = dict(noise), self.slots.valid_actions(self.slot)
        if "action" in noise:
            noise["action"] = noise["action"] * valid
        if self.pooled_head is None and not (guide is not None and guide.through_network):
            cache = cache.reserve(self._live_tokens({**noise, **(given or {})}))
        ask = self.network(cache, self.slot)

        def network(x: dict[str, Tensor], t: dict[str, Tensor]) -> dict[str, Tensor]:
            output = ask(x, t)
            # Nothing taught the entries a robot does not have: they stay where they are.
            return {n: v * valid if n == "action" else v for n, v in output.items()}

        return sample(network, noise, self.process, steps, given, known, generators, guide)

    # ------------------------------------------------------------------ inside

    @property
    def device(self) -> torch.device:
        return self.slots.device

    def context(self, batch: Batch, slot: int = 0) -> Cache:
        """The context of a batch, as `act` computes it for observations."""
        return self._context(self.border.batch(batch, slot), None, augment=False)

    def chunk(self, batch: Batch, slot: int = 0) -> Float[Tensor, "batch horizon action_width"]:
        """The batch's actions as the network is to predict them."""
        chunk, state = torch.from_numpy(batch.action_chunk), torch.from_numpy(batch.state)
        return self.slots.normalize_chunk(chunk, state, slot)[0]

    def future_tokens(self, batch: Batch) -> Float[Tensor, "batch tokens features"]:
        """What is to be seen at the end of each window, as clean tokens."""
        assert self.world_target is not None
        return self.world_target(self.border.future_images(batch))

    def network(
        self, cache: Cache, slot: int = 0
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
                    groups += stream.groups(x[name], t[name], slot if name == "action" else 0)
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
                replace(g, expert=g.name.partition(".")[0] if separate else "context")
                for g in groups
            ]
        before = None
        if self.backbone is not None:
            frames = {
                name: self.observe.augmented(images, generator, augment)[0][:, 0]
                for name, images in seen.images.items()
            }
            present = self.observe.present(seen, generator, augment)
            made = self.backbone.context(frames, seen.instructions, present)
            dtype = self.trunk.dtype
            before = Cache(
                made.layout, [k.to(dtype) for k in made.keys], [v.to(dtype) for v in made.values],
                valid=made.valid, next_position=made.next_position,
            )  # fmt: skip
        return self.trunk.context(groups, self.pooled_head is not None, before)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """(tokens, numbers per token) of each generated group."""
        sizes = {"action": (self.config.horizon, self.slots.action_width)}
        if self.world_target is not None and self.config.future is not None:
            sizes["future"] = (self.world_target.tokens, self.config.future.features)
        return sizes

    def save_files(self, folder: Path) -> None:
        """What besides config and weights the policy needs to be rebuilt: tokenizers."""
        if self.observe.instruction is not None:
            self.observe.instruction.save_files(folder)
        if self.backbone is not None:
            (folder / "vlm").mkdir(exist_ok=True)
            self.backbone.save_files(folder / "vlm")

    def _live_tokens(self, groups: Mapping[str, Tensor]) -> int:
        extra = 1 if self.config.time == "token" else 0
        return sum(x.shape[1] + extra for x in groups.values())
