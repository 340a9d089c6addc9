"""Images to tokens by any encoder of the `timm` library: DINOv2, SigLIP, ConvNeXt, ResNet, ...

    image -> the encoder's own size and normalisation -> its last features, one per grid cell
          -> norm, FiLM from the instruction, mean over `pool` x `pool` cells
          -> one linear to trunk width, plus 2-D positions

Weights are safetensors only, from a file or the Hub, and must fit the model key by key (its
classifier aside). `timm` is an optional dependency: the extra `timm`.
"""

import difflib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .vit import GridPosition, pool_cells, zero_linear


@dataclass(frozen=True)
class TimmConfig:
    type: Literal["timm"] = "timm"
    model: str = "vit_small_patch14_dinov2.lvd142m"
    """A name of `timm.list_models()`, with or without the tag behind the dot, which says whose
    weights and normalisation."""
    weights: str = "hub"
    """`hub` (the model's page, safetensors only), `none` (random), or a .safetensors file."""
    frozen: bool = True
    """Whether the encoder stays as it is, and in evaluation mode. What follows it is trained."""
    image_size: int = 224
    """Side in pixels that images are resized to, for the encoder; 0: what the model was made for
    (518 for DINOv2, which is 1369 tokens)."""
    film: bool = True
    """Whether the instruction modulates the features before pooling (starts as identity)."""
    pool: int = 1
    """Average this many cells by this many into one token."""


def require_timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise ValueError(
            "vision of type 'timm' needs the library timm, which is not installed; "
            "`uv add timm` or install ulna[timm]"
        )
    import timm

    return timm


class TimmVision(nn.Module):
    """One camera's encoder. `load_weights=False` builds it without touching `config.weights`: for
    policies read from a folder, whose own weights follow."""

    def __init__(
        self,
        config: TimmConfig,
        condition_dim: int,
        trunk_width: int,
        height: int,
        width: int,
        load_weights: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.model, card = _create(config)
        if load_weights and config.weights != "none":
            _load(self.model, _weights_file(config, card), card)
        side = config.image_size or card.input_size[-1]
        self.image_size = (side, side)
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        self.scale: Tensor
        self.offset: Tensor
        # [-1, 1] to what the encoder saw: ((x + 1) / 2 - mean) / std
        self.register_buffer("scale", (0.5 / std)[:, None, None], persistent=False)
        self.register_buffer("offset", ((0.5 - mean) / std)[:, None, None], persistent=False)

        self.rows, columns, features = self._probe()
        if self.rows % config.pool or columns % config.pool:
            raise ValueError(
                f"{config.model} gives a grid of {self.rows}x{columns} at {side} pixels, which "
                f"does not divide by the pool {config.pool}; change --policy.vision.pool or "
                "--policy.vision.image-size"
            )
        self.norm = nn.LayerNorm(features)
        self.film = zero_linear(condition_dim, 2 * features) if config.film else None
        self.to_trunk = nn.Linear(features, trunk_width)
        self.position = GridPosition(self.rows // config.pool, columns // config.pool, trunk_width)
        self.tokens = self.rows * columns // config.pool**2
        self.train()

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        condition: Float[Tensor, "batch condition_dim"],
        shift: Float[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch tokens trunk_width"]:
        """Tokens of one camera, row by row. `images` in [-1, 1], of any size; `shift` (x, y in
        units of half an image) is where random cropping moved the content, and is taken off the
        positions added here (the encoder's own say where the pixels are)."""
        # An image of another aspect is squeezed, not cut: nothing of the scene is lost, and where
        # things are stays the same fraction of the image.
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            x, _, _ = self._cells(images * self.scale + self.offset)
        x = self.norm(x)
        if self.film is not None:
            scale, offset = self.film(condition)[:, None].chunk(2, dim=-1)
            x = torch.addcmul(offset, x, 1 + scale)
        x = self.to_trunk(pool_cells(x, self.rows, self.config.pool))
        return x + self.position(shift).to(x.dtype)

    def train(self, mode: bool = True) -> "TimmVision":
        """As always, but a frozen encoder keeps its statistics and drops nothing."""
        super().train(mode)
        if self.config.frozen:
            self.model.eval()
        return self

    def _cells(self, images: Tensor) -> tuple[Tensor, int, int]:
        """The encoder's last features `(batch, cells, features)`, and the grid's rows and columns.

        Transformers give tokens, after class and register tokens; convolutional ones a map.
        """
        x = self.model.forward_features(images)
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{self.config.model} gives a {type(x).__name__}, not one map of features"
            )
        if x.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                x = x.permute(0, 3, 1, 2)
            return x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3]
        x = x[:, getattr(self.model, "num_prefix_tokens", 0) :]
        # The input is square, so the grid is.
        side = round(x.shape[1] ** 0.5)
        if x.ndim != 3 or side * side != x.shape[1]:
            raise ValueError(
                f"{self.config.model}: features of shape {tuple(x.shape)} are not a square grid; "
                "take a model whose last features are a map"
            )
        return x, side, side

    def _probe(self) -> tuple[int, int, int]:
        """Rows, columns and features, by running one image; parameters that do not take part
        (pooling heads, their norms) are frozen, so that none is left without a gradient."""
        self.model.eval().requires_grad_(not self.config.frozen)
        with torch.set_grad_enabled(not self.config.frozen):
            cells, rows, columns = self._cells(torch.zeros(1, 3, *self.image_size))
            if not self.config.frozen:
                cells.sum().backward()
                for parameter in self.model.parameters():
                    parameter.requires_grad_(parameter.grad is not None)
                    parameter.grad = None
        return rows, columns, cells.shape[-1]


def _create(config: TimmConfig) -> tuple[Any, Any]:
    """The bare model and timm's card of it (sizes, normalisation, where its weights are)."""
    timm = require_timm()
    names = set(timm.list_models()) | set(timm.list_pretrained())
    if config.model not in names:
        near = difflib.get_close_matches(config.model, names, n=5, cutoff=0.4)
        raise ValueError(
            f"unknown timm model {config.model!r}. Nearest: {', '.join(near) or 'none'}; "
            "`timm.list_models()` names them all"
        )
    card = timm.models.get_pretrained_cfg(config.model)
    if not card.input_size or len(card.mean) != 3:
        raise ValueError(f"{config.model} does not take RGB images; its card says {card}")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if config.image_size and card.fixed_input_size:
        options["img_size"] = config.image_size
    model = timm.create_model(config.model, **options)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    side = config.image_size or card.input_size[-1]
    if patch is not None and side % patch[0]:
        raise ValueError(
            f"image_size {side} does not divide by the patches of {config.model} ({patch[0]} "
            f"pixels); use --policy.vision.image-size {max(1, side // patch[0]) * patch[0]}"
        )
    return model, card


def _weights_file(config: TimmConfig, card: Any) -> Path:
    if config.weights == "hub":
        return _from_hub(config, card)
    path = Path(config.weights)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"vision weights {config.weights!r}: expected 'hub', 'none' or a .safetensors file; "
            "other formats can run code when read, so convert the file with safetensors first"
        )
    if not path.exists():
        raise ValueError(f"vision weights {path} do not exist")
    return path


def _from_hub(config: TimmConfig, card: Any) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not card.hf_hub_id:
        raise ValueError(
            f"{config.model} has no weights on the Hub; use --policy.vision.weights none, a file, "
            "or another tag of `timm.list_pretrained()`"
        )
    # timm's own loader would fall back to a pickle where there is no safetensors file.
    listed = card.hf_hub_filename or "model.safetensors"
    name = {
        "pytorch_model.bin": "model.safetensors",
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    }.get(listed, listed)
    if not name.endswith(".safetensors"):
        raise ValueError(
            f"{config.model}: the weights {name!r} of {card.hf_hub_id} are not safetensors; "
            "convert them and give the file as --policy.vision.weights"
        )
    try:
        return Path(hf_hub_download(card.hf_hub_id, name))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{config.model}: no {name} of {card.hf_hub_id} could be had: {error}; without a "
            "network give a local .safetensors file as --policy.vision.weights"
        ) from error


def _load(model: Any, path: Path, card: Any) -> None:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut short: {error}") from error
    # What timm does to published files: names of other frameworks, positions of another size.
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        tensors = adapt(tensors, model)
    classifier = card.classifier or ()
    for name in (classifier,) if isinstance(classifier, str) else classifier:
        tensors = {key: x for key, x in tensors.items() if not key.startswith(f"{name}.")}
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & tensors.keys())
        if tensors[key].shape != expected[key].shape
    ]
    complaints = [
        f"{kind}: {', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}"
        for kind, keys in (("missing", missing), ("surplus", surplus), ("misshapen", wrong))
        if keys
    ]
    if complaints:
        raise ValueError(
            f"{path} does not fit {card.architecture or type(model).__name__}; "
            f"{'; '.join(complaints)}"
        )
    model.load_state_dict(tensors)
