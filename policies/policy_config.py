"""Every choice a policy is made of. Published designs are values of it: `policies/presets.py`."""

from dataclasses import dataclass, field
from typing import Literal

from .expert import TrunkConfig
from .image_transforms import AugmentConfig
from .instruction_tokens import ByteInstructionConfig, InstructionConfig
from .normalizer import NormalizationConfig
from .pooled_head import PooledHeadConfig
from .process import FlowConfig, ProcessConfig
from .realtime_chunking import RealtimeConfig
from .sampler import SamplerConfig
from .vision import KeypointVisionConfig, VisionConfig
from .vlm import VlmConfig
from .world_target import FutureConfig

MaskName = Literal["prefix", "joint", "causal", "mma", "bidirectional_vision"]
Objective = Literal["policy", "video"]


@dataclass(frozen=True)
class PolicyConfig:
    horizon: int = 16
    """Actions predicted per chunk."""
    execution_horizon: int = 6
    """Actions executed before the next chunk (LeRobot: `n_action_steps`)."""
    head: Literal["tokens", "pooled"] = "tokens"
    """`tokens`: the noisy chunk is a group of the trunk; `pooled`: a small network beside it that
    sees one embedding of the scene (the baseline)."""
    mask: MaskName = "prefix"
    """Which token groups see which: `policies/mask.py`."""
    experts: Literal["shared", "context_action", "separate"] = "context_action"
    """One parameter set for all groups (Dita); one for the context and one per generated group
    (pi0, DUST); one per modality (Mixture-of-Transformers)."""
    share: Literal["none", "attention", "all"] = "none"
    """Which matrices the action expert shares with the context expert: none (deep separation),
    those of the attention (only feed-forwards are separate), or all."""
    time: Literal["adaln", "token", "concat"] = "adaln"
    """How a generated group learns its flow time: modulated layers (DiT, DUST), a token of its own
    (Dita), or joined to the embedding of each action (pi0)."""
    action_expert_width: int = 0
    """Features per token of the action expert; 0: the trunk's. Heads stay as large as they are."""
    private_depth: int = 0
    """Layers after the joint ones in which each generated group sees only itself (DUST)."""
    context_order: tuple[Literal["text", "image", "state"], ...] = ("text", "image", "state")
    """Order of the context groups; it matters under causal masks. Without `state` the policy does
    not see the state."""
    history: int = 1
    """Observations the policy sees: this tick's and those of the ticks before (LeRobot:
    `n_obs_steps`)."""
    image_size: tuple[int, int] | None = None
    """Height and width the policy sees; frames of another size are resized, their aspect kept.
    None: as recorded."""
    padded_state: int = 0
    """Entries the network has for a state, of which a robot uses the first; 0: as many as the
    largest robot needs (pi0 and SmolVLA: 32, so that other robots can be added)."""
    padded_action: int = 0
    """Likewise for an action."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    backbone: VlmConfig | None = None
    """A pretrained VLM as the context, in the place of `vision` and `instruction`; the trunk then
    takes over its heads and layers, and `trunk.width` is the action expert's."""
    camera_dropout: float = 0.0
    """Probability that a training sample lacks a camera; above 0 the policy also acts when a
    camera is missing, whose tokens are then left out."""
    freeze_context: bool = False
    """Train only the generated groups' experts and projections (LlamaFusion's recipe; pi0 with a
    frozen backbone)."""
    noise_draws: int = 2
    """Independent (noise, flow time) draws per training observation. The context is computed once
    for all of them, so each is far cheaper than another sample."""
    future: FutureConfig | None = None
    """A second generated group that predicts what will be seen (DUST); None: none."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    vision: VisionConfig = field(default_factory=KeypointVisionConfig)
    instruction: InstructionConfig = field(default_factory=ByteInstructionConfig)
    pooled_head: PooledHeadConfig = field(default_factory=PooledHeadConfig)
    process: ProcessConfig = field(default_factory=FlowConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    realtime: RealtimeConfig = field(default_factory=RealtimeConfig)
    """How a new chunk is joined to the actions under way while it was computed."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.execution_horizon <= self.horizon:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} must lie in 1..horizon "
                f"({self.horizon}); change --policy.execution-horizon or --policy.horizon"
            )
        if self.noise_draws < 1 or self.history < 1:
            raise ValueError(
                f"noise_draws {self.noise_draws} and history {self.history} must be 1 or more"
            )
        if not 0 <= self.camera_dropout < 1:
            raise ValueError(f"camera_dropout must lie in 0..1, got {self.camera_dropout}")
        order = self.context_order
        if len(set(order)) != len(order) or not {"text", "image"} <= set(order):
            raise ValueError(
                f"context_order {order} must name text and image once each, and state at most once"
            )
        if self.realtime.max_delay >= self.horizon:
            raise ValueError(
                f"realtime.max_delay {self.realtime.max_delay} leaves nothing of a chunk of "
                f"{self.horizon} to predict; change --policy.realtime.max-delay or --policy.horizon"
            )
        self.realtime.resolved(self.realtime.mode, self.process)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.experts == "shared" and self.time == "adaln" and self.head == "tokens":
            raise ValueError(
                "one shared expert cannot be modulated by a flow time that its context tokens do "
                "not have; use time 'token' or 'concat', or experts 'context_action' with share "
                "'all'"
            )
        if self.share != "none" and self.experts != "context_action":
            raise ValueError("share says what 'context_action' experts have in common")
        if self.share != "none" and (self.action_expert_width or self.private_depth):
            raise ValueError("an expert of its own width or private layers can share nothing")
        if self.head == "pooled" and self.future is not None:
            raise ValueError("the pooled head predicts actions only; use head 'tokens'")
        if self.future is not None and self.mask != "joint":
            raise ValueError(
                f"mask {self.mask!r} hides the future from the action; use mask 'joint'"
            )
        if self.future is not None and self.future.encoder == "eyes" and self.backbone is not None:
            raise ValueError(
                "the encoders of a pretrained backbone cannot be copied as the future's eyes; use "
                "--policy.future.encoder random"
            )
        if self.experts == "shared" and self.freeze_context:
            raise ValueError("freeze_context needs an action expert of its own")
        if self.backbone is not None and (
            self.experts != "context_action"
            or self.share != "none"
            or self.head == "pooled"
            or self.history > 1
        ):
            raise ValueError(
                "a pretrained backbone goes with experts 'context_action', share 'none', head "
                "'tokens' and history 1"
            )

    @property
    def generated(self) -> tuple[str, ...]:
        return ("action",) if self.future is None else ("action", "future")
