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
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from ..datasets.schema import Camera
from .film_grid import FilmGridConfig
from .image_transforms import drop_cameras, random_shift, to_float
from .instruction_tokens import make_instruction_encoder
from .policy_config import PolicyConfig
from .trunk import Group
from .vision import KeypointVisionConfig, TimmConfig, VisionConfig, VitConfig, make_vision


@dataclass(frozen=True)
class Seen:
    """Observations of a batch, on the policy's device."""

    images: Mapping[str, UInt8[Tensor, "batch history _ _ 3"]]
    state: Float[Tensor, "batch history state_width"]
    """Normalised and padded."""
    instructions: Sequence[str]
    present: Mapping[str, Bool[Tensor, " batch"]]
    """Rows that have the camera; a camera not named is there in all of them."""


class ObservationEncoder(nn.Module):
    """Observations to groups of tokens in trunk width."""

    def __init__(
        self,
        config: PolicyConfig,
        cameras: Sequence[Camera],
        state_width: int,
        files: Path | None = None,
        load_weights: bool = True,
    ) -> None:
        """`cameras` in the size the policy sees; `files`: folder of a saved policy, whose tokenizer
        is used; `load_weights`: read pretrained weights of vision."""
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.cameras = tuple(camera.name for camera in cameras)
        self.instruction = None
        self.vision = nn.ModuleDict()
        if config.backbone is None:
            self._add_own_eyes(cameras, files, load_weights)
        self.uses_state = "state" in config.context_order
        self.state_in = nn.Linear(state_width, width) if self.uses_state else None
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

    def _add_own_eyes(
        self, cameras: Sequence[Camera], files: Path | None, load_weights: bool
    ) -> None:
        config, width = self.config, self.config.trunk.width
        self.instruction = make_instruction_encoder(config.instruction, width, files)
        self.vision = nn.ModuleDict(
            {
                camera.name: make_vision(
                    config.vision, self.instruction.condition_dim, width,
                    camera.height, camera.width, load_weights,
                )
                for camera in cameras
            }
        )  # fmt: skip
        if not _listens(config.vision):
            # Nobody asks for the pooled instruction: a parameter without gradient, said openly,
            # because data-parallel training waits for the gradients of all others.
            self.instruction.to_condition.requires_grad_(False)

    def group_names(self) -> list[str]:
        """All groups in the order of the trunk."""
        names = {
            "text": ["text"],
            "image": [f"image.{name}" for name in self.cameras],
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
        groups: dict[str, list[Group]] = {"text": [], "image": []}
        if self.instruction is not None:
            said = self.instruction(seen.instructions)
            groups["text"] = [Group("text", said.tokens, valid=said.valid)]
            groups["image"] = self._images(seen, said.condition, generator, augment)
        if self.uses_state:
            groups["state"] = [Group("state", self._state(seen, generator, augment, without_state))]
        return [group for kind in self.config.context_order for group in groups[kind]]

    def _images(
        self, seen: Seen, condition: Tensor, generator: torch.Generator | None, augment: bool
    ) -> list[Group]:
        config = self.config
        rows, steps = len(seen.instructions), config.history
        present = self.present(seen, generator, augment)
        condition = condition.repeat_interleave(steps, dim=0)
        groups = []
        for name, encoder in self.vision.items():
            if name not in seen.images or (name in present and not present[name].any()):
                continue
            images, shift = self.augmented(seen.images[name], generator, augment)
            frames = self._brightened(images, generator, augment)
            x = encoder(frames, condition, shift)
            count = x.shape[1]
            if self.history is not None:
                x = (x.unflatten(0, (rows, steps)) + self.history).flatten(1, 2)
            valid = None
            if name in present:
                valid = present[name][:, None].expand(rows, steps * count)
            groups.append(Group(f"image.{name}", x, valid=valid))
        return groups

    def present(
        self, seen: Seen, generator: torch.Generator | None, augment: bool
    ) -> dict[str, Tensor]:
        """Rows that see each camera, camera dropout included; cameras seen by all are left out."""
        present = dict(seen.present)
        if augment and self.config.camera_dropout:
            rows = len(seen.instructions)
            kept = drop_cameras(
                list(seen.images), rows, self.config.camera_dropout, generator, present
            )
            present = {name: keep.to(seen.state.device) for name, keep in kept.items()}
        return present

    def augmented(
        self, images: Tensor, generator: torch.Generator | None, augment: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Frames `(batch, history, height, width, 3)` moved by some pixels, those of one history
        alike, and by how much (batch * history, 2)."""
        pixels, steps = self.config.augment.shift_pixels, images.shape[1]
        if not augment or not pixels:
            return images, None
        stacked = images.permute(0, 2, 3, 1, 4).flatten(3)  # history beside the colours
        stacked, shift = random_shift(stacked, pixels, generator)
        images = stacked.unflatten(3, (steps, 3)).permute(0, 3, 1, 2, 4)
        return images, shift.repeat_interleave(steps, dim=0)

    def _brightened(
        self, images: Tensor, generator: torch.Generator | None, augment: bool
    ) -> Tensor:
        """uint8 frames to (batch * history, 3, height, width) in [-1, 1], a random factor on each
        history."""
        frames, brightness = to_float(images.flatten(0, 1)), self.config.augment.brightness
        if augment and brightness:
            factor = torch.rand(len(images), generator=generator).to(frames.device)
            scale = (1 + brightness * (2 * factor - 1)).repeat_interleave(images.shape[1])
            frames = (frames + 1) * scale[:, None, None, None] - 1
        return frames

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
        case FilmGridConfig() | VitConfig() | TimmConfig():
            return config.film
        case _:
            return False
