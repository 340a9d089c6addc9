"""A pretrained vision-language model as the context: per-layer keys and values, once per step.

    frames --device preprocessing--> vision tower --+
    instruction --tokenizer, once each--> ids ------+--> text layers 1..N --> keys, values of each
                                                                        (policies/trunk.py: Cache)
SmolVLM2, PaliGemma, Qwen2.5-VL and Qwen3-VL through transformers, from a folder or the Hub:

    hf download HuggingFaceTB/SmolVLM2-500M-Video-Instruct --local-dir smolvlm2-500m
    hf download google/paligemma-3b-pt-224 --local-dir paligemma-3b           (after hf auth login)
    hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir qwen2.5-vl-3b
    hf download Qwen/Qwen3-VL-2B-Instruct --local-dir qwen3-vl-2b

The keys and values are those of the model's own text layers; the last layer stops there (its
feed-forward part, the final norm and the language head are neither computed nor kept). What
differs between the families stands in `policies/vlm_families.py`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from .vlm_families import family_of
from .vlm_files import empty_model, find_folder, load_model, read_description, read_processing
from .vlm_images import Resize, to_levels
from .vlm_lora import add_lora, base_state_dict, merged_state_dict
from .vlm_plan import Plan, Planner, check_inputs, present_rows
from .vlm_prompt import Prompt


@dataclass(frozen=True)
class VlmConfig:
    type: Literal["vlm"] = "vlm"
    weights: str = ""
    """Folder of a pretrained VLM, or its Hub id."""
    layers: int = 0
    """Text layers used, from the first; 0: all. SmolVLA uses 16 of SmolVLM2's 32."""
    training: Literal["frozen", "lora", "full"] = "frozen"
    """What of the VLM learns. `full` in bfloat16 loses small steps: set `dtype` to float32."""
    lora_rank: int = 16
    lora_alpha: float = 32.0
    """The adapters' output counts alpha / rank times."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Linear layers of the text model that get adapters."""
    mask: Literal["native", "prefix", "mma", "bidirectional_vision"] = "native"
    """Who sees whom in the context. `native`: as pretrained (causal; PaliGemma: prefix). `mma`
    (AKI): images also see the instruction. `bidirectional_vision` (Croc): images see all images.
    `prefix`: all see all."""
    prompt: str = ""
    """Text around the instruction: a template with {images}, {instruction} and, if wanted, {bos};
    `chat`: the checkpoint's chat template; empty: what the checkpoint was trained with."""
    image_marks: bool = True
    """Whether the tokens that the checkpoint puts around an image are there; SmolVLA has none."""
    image_size: int = 0
    """Side of the square the tower sees (Qwen-VL: square root of the largest area); 0: as in the
    checkpoint's processor. A smaller one is faster."""
    resize: Resize = "processor"
    """`processor`: as pretrained. `pad`: aspect kept, black around (pi0); `pad_left_top`:
    SmolVLA."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the weights and of the keys and values."""


@dataclass
class VlmContext:
    """The context as the action expert sees it."""

    layout: tuple[tuple[str, int], ...]
    """`(group, tokens)` in order; `text` comes more than once if text stands around images."""
    keys: list[Float[Tensor, "batch kv_heads tokens head_dim"]]
    """Per layer, after the rotary embedding."""
    values: list[Float[Tensor, "batch kv_heads tokens head_dim"]]
    valid: Bool[Tensor, "batch tokens"]
    """False at padding of the text and at a missing camera: nobody may look there."""
    next_position: Int64[Tensor, " batch"]
    """Rotary position with which the tokens behind the context go on (on all M-RoPE axes)."""


class VlmBackbone(nn.Module):
    """One pretrained VLM. `files` (a folder that `save_files` wrote) builds it without weights,
    which then come from our own model.safetensors; otherwise `config.weights` is loaded."""

    text_groups = ("text",)

    def __init__(self, config: VlmConfig, files: Path | None = None) -> None:
        super().__init__()
        self.config = config
        dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.dtype]
        folder = find_folder(config.weights) if files is None else files
        build = load_model if files is None else empty_model
        self.model: Any = build(folder, config.layers, dtype)
        tokenizer, settings = read_processing(folder)
        self._description = read_description(folder)
        kind = family_of(self.model.config)
        self.family = kind(self.model.config, settings, tokenizer, config.image_size, config.resize)
        text = self.model.config.text_config
        self.layers: int = text.num_hidden_layers
        self.heads: int = text.num_attention_heads
        self.kv_heads: int = text.num_key_value_heads
        self.head_dim: int = self.text_model.layers[-1].self_attn.head_dim
        self.width: int = text.hidden_size
        self.rope_theta: float = text.rope_parameters["rope_theta"]
        self.planner = Planner(
            self._prompt(tokenizer),
            self.family.native_sight if config.mask == "native" else config.mask,
        )
        self.adapted: tuple[str, ...] = ()
        if config.training == "lora":
            self.adapted = add_lora(
                self.model,
                kind.text_name,
                config.lora_targets,
                config.lora_rank,
                config.lora_alpha,
            )
        else:
            self.model.requires_grad_(config.training == "full")
        self.train(self.training)

    @classmethod
    def from_config(cls, config: VlmConfig, files: Path) -> "VlmBackbone":
        """The architecture alone, from a folder that `save_files` wrote."""
        return cls(config, files)

    @property
    def text_model(self) -> Any:
        return getattr(self.model, family_of(self.model.config).text_name)

    def train(self, mode: bool = True) -> "VlmBackbone":
        """A frozen VLM stays in evaluation mode."""
        super().train(mode)
        if self.config.training == "frozen":
            self.model.eval()
        return self

    # ------------------------------------------------------------------ running

    def context(
        self,
        images: Mapping[str, Tensor],
        instructions: Sequence[str],
        camera_valid: Mapping[str, Tensor] | None = None,
    ) -> VlmContext:
        """Keys and values of one batch of observations.

        `images`: per camera `(batch, height, width, 3)`, uint8 or a float in [0, 1]; cameras stand
        in the sequence in this order. `camera_valid`: per camera `(batch,)` bool, False where the
        frame is missing: it is not encoded there, and not at all if missing in the whole batch.
        """
        check_inputs(images, instructions, camera_valid or {})
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.training != "frozen"):
            present = present_rows(images, camera_valid or {}, len(instructions))
            places = {
                camera: (camera, *self.family.size(*images[camera].shape[1:3]))
                for camera in present
            }
            plan = self.planner(tuple(instructions), places, present, self.device)
            features = self._encode(images, present)
            embeddings, later = self._embed(plan, features, present)
            return self._run(plan, embeddings, later)

    def _run(self, plan: Plan, embeddings: Tensor, later: list[Tensor]) -> VlmContext:
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        extra: dict[str, Any] = {}
        if later:
            # The model adds features at marked places after its first layers; marking all and
            # adding zeros to text is the same and needs no count of places from the device.
            extra["visual_pos_masks"] = torch.ones_like(plan.valid)
            extra["deepstack_visual_embeds"] = [level.flatten(0, 1) for level in later]
        positions = plan.positions
        self.text_model(
            inputs_embeds=embeddings,
            attention_mask=plan.mask,
            position_ids=positions[0] if len(positions) == 1 else positions,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        keys, values = [], []
        for layer in cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None and layer.values is not None
            keys.append(layer.keys)
            values.append(layer.values)
        return VlmContext(plan.columns.layout, keys, values, plan.valid, plan.next_position)

    def _encode(
        self, images: Mapping[str, Tensor], present: Mapping[str, list[bool]]
    ) -> dict[str, list[Tensor]]:
        """Per camera, the features of the frames that are there; equal sizes run as one batch."""
        pixels: dict[str, Tensor] = {}
        for camera, rows in present.items():
            frames = images[camera]
            if not all(rows):
                frames = frames[torch.tensor(rows, device=frames.device)]
            levels = to_levels(camera, frames.to(self.device))
            pixels[camera] = self.family.pixels(levels)
        features: dict[str, list[Tensor]] = {}
        for shape in {tensor.shape[1:] for tensor in pixels.values()}:
            cameras = [camera for camera in pixels if pixels[camera].shape[1:] == shape]
            counts = [len(pixels[camera]) for camera in cameras]
            out = self.family.encode(self.model, torch.cat([pixels[c] for c in cameras]))
            split = [level.split(counts) for level in out]
            for index, camera in enumerate(cameras):
                features[camera] = [level[index] for level in split]
        return features

    def _embed(
        self, plan: Plan, features: dict[str, list[Tensor]], present: Mapping[str, list[bool]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Token embeddings with the image features in their columns, and, where the family has
        them, the features that later layers add."""
        text = self.text_model.get_input_embeddings()(plan.ids)
        depth = max((len(levels) for levels in features.values()), default=1)
        filled: list[Tensor] = []
        for level in range(depth):
            base = text if level == 0 else torch.zeros_like(text)
            parts, at = [], 0
            for camera, (start, stop) in plan.columns.images.items():
                rows = present[camera]
                mine = features[camera][level].to(text.dtype)
                if not all(rows):
                    where = torch.tensor(rows, device=text.device).nonzero()[:, 0]
                    space = text.new_zeros(len(rows), *mine.shape[1:])
                    mine = space.index_copy(0, where, mine)
                parts += [base[:, at:start], mine]
                at = stop
            filled.append(torch.cat([*parts, base[:, at:]], dim=1))
        return filled[0], filled[1:]

    # ------------------------------------------------------------------ inside

    def _prompt(self, tokenizer: Any) -> Prompt:
        template = self.config.prompt or self.family.default_prompt
        if template == "chat" and tokenizer.chat_template is None:
            raise ValueError(
                "this VLM's folder has no chat template; give --policy.context.prompt a template, "
                "such as '{images}{instruction}\\n'"
            )
        if template != "chat" and not (
            template.count("{images}") == 1 and template.count("{instruction}") == 1
        ):
            raise ValueError(
                f"prompt {template!r} must be 'chat' or hold {{images}} and {{instruction}} once"
            )
        marks, image_text = self.family.marks(), self.family.image_text
        if not self.config.image_marks:
            marks = type(marks)(marks.image)
        config = self.model.config
        pad = config.text_config.pad_token_id
        model, family = self.model, self.family
        return Prompt(
            tokenizer,
            template,
            image_text,
            marks,
            0 if pad is None or not 0 <= pad < config.text_config.vocab_size else pad,
            family.count,
            lambda ids, places: family.positions(model, ids, places),
        )

    # ------------------------------------------------------------------ keeping

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def trainable_names(self) -> tuple[str, ...]:
        """Names of the parameters that learn."""
        return tuple(name for name, p in self.named_parameters() if p.requires_grad)

    def merged_state_dict(self) -> dict[str, Tensor]:
        """`state_dict` with the adapters added into the weights, under the pretrained names; it
        fits a backbone built with `training="frozen"` or `"full"`."""
        return {f"model.{name}": tensor for name, tensor in merged_state_dict(self.model).items()}

    def save_files(self, folder: Path) -> None:
        """Write what `from_config` needs: configuration, tokenizer, image processor; no weights."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._description.items():
            (folder / name).write_bytes(content)

    def weights_fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the pretrained weights in use (adapters
        not counted): the same for the same checkpoint, `layers` and `dtype`, however sharded."""
        digest = hashlib.sha256()
        for name, tensor in sorted(base_state_dict(self.model).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy())
        return digest.hexdigest()
