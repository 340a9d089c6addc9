"""What differs between the pretrained VLMs: sizes, image marks, positions, vision tower.

    family        tokens per image               text sees text    positions
    smolvlm       fixed (64 at 512 x 512)        causal            0, 1, 2, ...
    paligemma     fixed (256 at 224 x 224)       all (prefix)      1, 2, 3, ...
    qwen2_5_vl    one per 28 x 28 pixels         causal            time, height, width (M-RoPE)
    qwen3_vl      one per 32 x 32 pixels         causal            M-RoPE; features of three tower
                                                                   layers enter early text layers
Everything else (`policies/vlm.py`) is common. Modules are the checkpoint's own, from transformers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.schema import unknown_name
from .vlm_images import (
    Interpolation,
    PixelNorm,
    Resize,
    area_size,
    longest_edge_size,
    pad_to_square,
    patch_rows,
    resize,
)
from .vlm_prompt import ImageMarks, Place

INTERPOLATION: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic")
"""By Pillow's resampling number, as in a processor's `resample`."""


class Family(ABC):
    """One VLM architecture."""

    text_name = "language_model"
    """The text transformer's attribute."""
    image_text = "<image>"
    """What the chat template writes for an image."""
    native_sight = "causal"
    default_prompt = "chat"
    first_position = 0
    resizes: tuple[Resize, ...] = ("processor", "pad", "pad_left_top")

    def __init__(
        self, config: Any, settings: Any, tokenizer: Any, image_size: int, how: Resize
    ) -> None:
        """`config` and `settings` are the checkpoint's configuration and image processor."""
        self.config = config
        self.settings = settings
        self.tokenizer = tokenizer
        self.how = how
        self.image_size = image_size
        if how not in self.resizes:
            raise ValueError(
                f"{self.config.model_type} has no resize {how!r}: it keeps the aspect ratio by "
                f"itself; use one of: {', '.join(self.resizes)}"
            )
        if settings.resample not in range(len(INTERPOLATION)):
            raise ValueError(
                f"the image processor resamples with Pillow's number {settings.resample}; there is "
                f"{', '.join(f'{i} ({name})' for i, name in enumerate(INTERPOLATION))}"
            )
        levels = 1 / settings.rescale_factor
        self.norm = PixelNorm(
            tuple(mean * levels for mean in settings.image_mean),
            tuple(std * levels for std in settings.image_std),
            INTERPOLATION[int(settings.resample)],
        )
        if image_size:
            self.check_image_size(image_size)

    @abstractmethod
    def check_image_size(self, size: int) -> None:
        """Refuse a size that the tower cannot take."""

    def token_id(self, token: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        if token not in vocabulary:
            raise ValueError(
                f"the tokenizer does not know {token!r}, which {self.config.model_type} needs; "
                "download the checkpoint's tokenizer.json and tokenizer_config.json anew"
            )
        return vocabulary[token]

    def marks(self) -> ImageMarks:
        return ImageMarks(self.config.image_token_id)

    @abstractmethod
    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the tower gets for a frame of `height` x `width`."""

    @abstractmethod
    def count(self, height: int, width: int) -> int:
        """Tokens of an image of that (resized) size."""

    def pixels(
        self, levels: Float[Tensor, "rows 3 height width"]
    ) -> Float[Tensor, "rows 3 new_height new_width"]:
        """Grey levels to the tower's input."""
        height, width = self.size(levels.shape[-2], levels.shape[-1])
        if self.how == "processor":
            levels = self.steps(levels, height, width)
        else:
            levels = pad_to_square(levels, height, left_top=self.how == "pad_left_top")
        return self.norm.apply(levels)

    def steps(self, levels: Tensor, height: int, width: int) -> Tensor:
        """The processor's resizing."""
        return resize(levels, height, width, self.norm.interpolation)

    @abstractmethod
    def encode(
        self, model: Any, pixels: Float[Tensor, "rows 3 height width"]
    ) -> list[Float[Tensor, "rows tokens width"]]:
        """Token features; behind them those that are added after text layers 0, 1, ..."""

    def positions(self, model: Any, ids: list[int], places: Sequence[Place]) -> Tensor:
        """Rotary positions of a row without padding, `(axes, tokens)`."""
        return torch.arange(self.first_position, self.first_position + len(ids))[None]


class SmolVlm(Family):
    """SmolVLM2: one global image, never cut into tiles (as SmolVLA uses it)."""

    text_name = "text_model"

    @property
    def side(self) -> int:
        return self.image_size or self.settings.max_image_size["longest_edge"]

    def check_image_size(self, size: int) -> None:
        step = self.config.vision_config.patch_size * self.config.scale_factor
        largest = self.config.vision_config.image_size
        if size % step or size > largest:
            raise ValueError(
                f"image_size {size}: this checkpoint takes multiples of {step} up to {largest}"
            )

    def marks(self) -> ImageMarks:
        around = self.token_id("<fake_token_around_image>")
        return ImageMarks(
            self.config.image_token_id, (around, self.token_id("<global-img>")), (around,)
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        return self.side, self.side

    def count(self, height: int, width: int) -> int:
        step = self.config.vision_config.patch_size * self.config.scale_factor
        return (height // step) * (width // step)

    def steps(self, levels: Tensor, height: int, width: int) -> Tensor:
        longest = self.settings.size["longest_edge"]
        tall, wide = longest_edge_size(levels.shape[-2], levels.shape[-1], longest)
        levels = resize(levels, tall, wide, self.norm.interpolation)
        return resize(levels, height, width, self.norm.interpolation)

    def encode(self, model: Any, pixels: Tensor) -> list[Tensor]:
        # Not `get_image_features`: it drops images whose every pixel is zero as padding.
        hidden = model.vision_model(pixel_values=pixels.to(model.dtype)).last_hidden_state
        return [model.connector(hidden)]


class PaliGemma(Family):
    """PaliGemma (Gemma 1 inside), as in pi0: prefix attention, image features not scaled."""

    native_sight = "prefix"
    default_prompt = "{images}{bos}{instruction}\n"
    first_position = 1

    def check_image_size(self, size: int) -> None:
        fixed = self.config.vision_config.image_size
        if size != fixed:
            raise ValueError(
                f"image_size {size}: this checkpoint takes {fixed} only; leave image_size at 0"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        side = self.config.vision_config.image_size
        return side, side

    def count(self, height: int, width: int) -> int:
        patch = self.config.vision_config.patch_size
        return (height // patch) * (width // patch)

    def encode(self, model: Any, pixels: Tensor) -> list[Tensor]:
        return [model.get_image_features(pixels.to(model.dtype)).pooler_output]


class QwenVl(Family):
    """Qwen2.5-VL and Qwen3-VL: the grid follows the frame; `image_size` bounds its area."""

    image_text = "<|vision_start|><|image_pad|><|vision_end|>"
    resizes = ("processor",)

    @property
    def factor(self) -> int:
        return self.settings.patch_size * self.settings.merge_size

    def check_image_size(self, size: int) -> None:
        if size < self.factor:
            raise ValueError(f"image_size {size}: one token of this checkpoint is {self.factor}")

    def marks(self) -> ImageMarks:
        config = self.config
        return ImageMarks(
            config.image_token_id, (config.vision_start_token_id,), (config.vision_end_token_id,)
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        least, most = self.settings.size["shortest_edge"], self.settings.size["longest_edge"]
        if self.image_size:
            most = min(most, self.image_size**2)
            least = min(least, most)
        return area_size(height, width, self.factor, least, most)

    def count(self, height: int, width: int) -> int:
        return (height // self.factor) * (width // self.factor)

    def grid(self, height: int, width: int) -> list[int]:
        return [1, height // self.settings.patch_size, width // self.settings.patch_size]

    def encode(self, model: Any, pixels: Tensor) -> list[Tensor]:
        rows, _, height, width = pixels.shape
        settings = self.settings
        patches = patch_rows(
            pixels, settings.patch_size, settings.merge_size, settings.temporal_patch_size
        )
        grid = torch.tensor([self.grid(height, width)] * rows, device=pixels.device)
        out = model.get_image_features(patches.to(model.dtype), grid)
        features = torch.stack(list(out.pooler_output))
        later = getattr(out, "deepstack_features", None) or []
        return [features, *(level.unflatten(0, features.shape[:2]) for level in later)]

    def positions(self, model: Any, ids: list[int], places: Sequence[Place]) -> Tensor:
        row = torch.tensor(ids)[None]
        grids = torch.tensor([self.grid(height, width) for _, height, width in places])
        positions, _ = model.get_rope_index(
            row,
            mm_token_type_ids=(row == self.config.image_token_id).int(),
            image_grid_thw=grids if places else None,
        )
        return positions[:, 0]


FAMILIES: dict[str, type[Family]] = {
    "smolvlm": SmolVlm,
    "paligemma": PaliGemma,
    "qwen2_5_vl": QwenVl,
    "qwen3_vl": QwenVl,
}
TEXT_TYPES = ("llama", "gemma", "qwen2_5_vl_text", "qwen3_vl_text")


def family_of(config: Any) -> type[Family]:
    """The family of a transformers configuration; refuses what is not supported."""
    if config.model_type not in FAMILIES:
        raise unknown_name("pretrained VLM type (`model_type`)", config.model_type, FAMILIES)
    text = config.text_config
    if text.model_type not in TEXT_TYPES:
        raise unknown_name(f"text model of {config.model_type}", text.model_type, TEXT_TYPES)
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise ValueError(
            f"{config.model_type}: its text layers use {', '.join(sorted(kinds))}; only full "
            "attention is supported (set use_sliding_window to false in its config.json)"
        )
    rope = text.rope_parameters.get("rope_type", "default")
    if rope != "default":
        raise ValueError(
            f"{config.model_type}: rotary positions of type {rope!r}; the action expert can "
            "only go on from plain ones ('default')"
        )
    return FAMILIES[config.model_type]
