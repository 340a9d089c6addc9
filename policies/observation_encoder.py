"""What was seen and said, as context groups of the trunk.

    instruction --bytes or tokenizer--> group `text`
                     |  pooled
    images.* --FiLM--+--> group `image.<camera>`, history frames oldest first
    state ----linear----> group `state`

A camera that is missing gives no tokens: its group is left out, or, where only some rows of a batch
lack it, its tokens are marked as not there. It is never drawn as a black picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from ..datasets.schema import Embodiment
from .image_transforms import drop_cameras, random_shift, to_float
from .instruction_tokens import ByteInstructionEncoder
from .policy_config import PolicyConfig
from .trunk import Group
from .vision import KeypointVisionConfig, VisionConfig, VitConfig, make_vision


@dataclass(frozen=True)
class Seen:
    """Observations of a batch, on the policy's device."""

    images: Mapping[str, UInt8[Tensor, "batch history _ _ 3"]]
    state: Float[Tensor, "batch history state_dim"]
    """Normalised."""
    instructions: Sequence[str]
    present: Mapping[str, Bool[Tensor, " batch"]]
    """Rows that have the camera; a camera not named is there in all of them."""


class ObservationEncoder(nn.Module):
    """Observations to groups of tokens in trunk width."""

    def __init__(self, config: PolicyConfig, embodiment: Embodiment) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.instruction = ByteInstructionEncoder(config.instruction, width)
        self.vision = nn.ModuleDict(
            {
                camera.name: make_vision(
                    config.vision, self.instruction.condition_dim, width,
                    camera.height, camera.width,
                )
                for camera in embodiment.cameras
            }
        )  # fmt: skip
        if not _listens(config.vision):
            # Nobody asks for the pooled instruction: a parameter without gradient, said openly,
            # because data-parallel training waits for the gradients of all others.
            self.instruction.to_condition.requires_grad_(False)
        self.uses_state = "state" in config.context_order
        self.state_in = nn.Linear(embodiment.state_dim, width) if self.uses_state else None
        self.null_state = (
            nn.Parameter(torch.randn(width) * 0.02)
            if self.uses_state and config.future is not None
            else None
        )
        self.history = (
            nn.Parameter(torch.randn(config.history, 1, width) * 0.02)
            if config.history > 1
            else None
        )

    def group_names(self) -> list[str]:
        """All groups in the order of the trunk."""
        names = {
            "text": ["text"],
            "image": [f"image.{name}" for name in self.vision],
            "state": ["state"],
        }
        return [name for kind in self.config.context_order for name in names[kind]]

    def forward(
        self,
        seen: Seen,
        generator: torch.Generator | None,
        augment: bool,
        without_state: bool = False,
    ) -> list[Group]:
        """Groups of this observation; `augment` draws from `generator` (CPU, None: torch's own).

        `without_state` puts a learned token in the state's place: video has no state.
        """
        tokens, condition = self.instruction(seen.instructions)
        groups = {"text": [Group("text", tokens)]}
        groups["image"] = self._images(seen, condition, generator, augment)
        if self.uses_state:
            groups["state"] = [Group("state", self._state(seen, generator, augment, without_state))]
        return [group for kind in self.config.context_order for group in groups[kind]]

    def _images(
        self, seen: Seen, condition: Tensor, generator: torch.Generator | None, augment: bool
    ) -> list[Group]:
        config = self.config
        rows, steps = len(seen.instructions), config.history
        present = dict(seen.present)
        if augment and config.camera_dropout:
            kept = drop_cameras(list(seen.images), rows, config.camera_dropout, generator)
            for name, keep in kept.items():
                keep = keep.to(condition.device)
                present[name] = present[name] & keep if name in present else keep
        condition = condition.repeat_interleave(steps, dim=0)
        groups = []
        for name, encoder in self.vision.items():
            if name not in seen.images or (name in present and not present[name].any()):
                continue
            frames, shift = self._augmented(seen.images[name], generator, augment)
            x = encoder(frames, condition, shift)
            count = x.shape[1]
            if self.history is not None:
                x = (x.unflatten(0, (rows, steps)) + self.history).flatten(1, 2)
            valid = None
            if name in present:
                valid = present[name][:, None].expand(rows, steps * count)
            groups.append(Group(f"image.{name}", x, valid=valid))
        return groups

    def _augmented(
        self, images: Tensor, generator: torch.Generator | None, augment: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Frames (batch * history, 3, height, width); all of one history are changed alike."""
        settings, steps = self.config.augment, images.shape[1]
        shift = None
        if augment and settings.shift_pixels:
            stacked = images.permute(0, 2, 3, 1, 4).flatten(3)  # history beside the colours
            stacked, shift = random_shift(stacked, settings.shift_pixels, generator)
            images = stacked.unflatten(3, (steps, 3)).permute(0, 3, 1, 2, 4)
            shift = shift.repeat_interleave(steps, dim=0)
        frames = to_float(images.flatten(0, 1))
        if augment and settings.brightness:
            factor = torch.rand(len(images), generator=generator).to(frames.device)
            scale = (1 + settings.brightness * (2 * factor - 1)).repeat_interleave(steps)
            frames = (frames + 1) * scale[:, None, None, None] - 1
        return frames, shift

    def _state(
        self, seen: Seen, generator: torch.Generator | None, augment: bool, without: bool
    ) -> Tensor:
        assert self.state_in is not None
        rows, steps = seen.state.shape[:2]
        if without:
            assert self.null_state is not None
            x = self.null_state.expand(rows, steps, -1)
        else:
            state = seen.state
            if augment and self.config.augment.state_noise:
                noise = torch.randn(state.shape, generator=generator).to(state.device)
                state = state + self.config.augment.state_noise * noise
            x = self.state_in(state)
        return x if self.history is None else x + self.history[:, 0]


def _listens(config: VisionConfig) -> bool:
    """Whether the encoder is modulated by the instruction."""
    match config:
        case KeypointVisionConfig():
            return True
        case VitConfig():
            return config.film
        case _:
            return False
