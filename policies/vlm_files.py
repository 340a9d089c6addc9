"""A pretrained VLM's folder: found, read strictly, cut to what is used, and described again.

    FOLDER/config.json  model*.safetensors  tokenizer.json  tokenizer_config.json
           preprocessor_config.json  processor_config.json  chat_template.jinja

Strict: a weight that the architecture lacks or that the file lacks is an error that names it,
except for what is left out on purpose (layers past the last one used, the language head). Only
safetensors are read and no code of a checkpoint is run.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .vlm_families import FAMILIES, family_of

DESCRIPTION = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that, with our own weights, are enough to build the backbone again."""
EXAMPLE = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"


def find_folder(weights: str) -> Path:
    """The local folder of `weights`, which is one or a Hub id (downloaded into the Hub's cache)."""
    if not weights:
        raise ValueError(
            "the VLM backbone has no weights: give --policy.context.weights a folder or a Hub id, "
            f"such as {EXAMPLE}"
        )
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise ValueError(
                f"{folder} is not a pretrained VLM: it has no config.json (it holds {found}); "
                f"download one with: hf download {EXAMPLE} --local-dir {folder}"
            )
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise ValueError(
            f"{weights!r} is neither a folder nor a Hub id (owner/name); "
            f"download one with: hf download {EXAMPLE} --local-dir {weights}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(weights, allow_patterns=["*.safetensors", *INDEX]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the VLM {weights!r} is no folder here and could not be fetched from the Hub "
            f"({reason}); on a machine with network run: hf download {weights} --local-dir "
            f"{weights.split('/')[-1]} and give that folder (gated ones need `hf auth login`)"
        ) from error


INDEX = [*DESCRIPTION, "model.safetensors.index.json"]


def read_config(folder: Path, layers: int) -> tuple[Any, int]:
    """The configuration cut to `layers` text layers (0: all), and how many the checkpoint has."""
    from transformers import AutoConfig

    path = folder / "config.json"
    try:
        model_type = json.loads(path.read_text()).get("model_type", "")
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if model_type not in FAMILIES:
        raise ValueError(
            f"{path}: model_type {model_type!r} is not a supported VLM; there is: "
            f"{', '.join(FAMILIES)}"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    family_of(config)
    text = config.text_config
    total = text.num_hidden_layers
    if not 0 <= layers <= total:
        raise ValueError(f"{path}: {total} text layers, got layers {layers}; use 0 to {total}")
    text.num_hidden_layers = layers or total
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: layers or total]
    return config, total


def load_model(folder: Path, layers: int, dtype: torch.dtype) -> Any:
    """The checkpoint's model without language head, cut to `layers`, weights in `dtype`."""
    from transformers import AutoModelForImageTextToText

    config, total = read_config(folder, layers)
    read: Any = AutoModelForImageTextToText.from_pretrained
    try:
        model, report = read(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # only to name them below
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(
            f"{folder} has no readable model.safetensors (other weight formats are refused, they "
            f"can hold code): {str(error).splitlines()[0]}"
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"{folder}: its model.safetensors is damaged or cut short ({error}); "
            "download the checkpoint anew"
        ) from error
    surplus = [
        key
        for key in report["unexpected_keys"]
        if not _left_out(key, config.text_config.num_hidden_layers, total)
    ]
    for kind, keys in (
        ("lack", report["missing_keys"]),
        ("hold the unknown", surplus),
        ("have another shape for", [key for key, *_ in report["mismatched_keys"]]),
    ):
        if keys:
            names = ", ".join(sorted(map(str, keys))[:5])
            raise ValueError(
                f"{folder}: the weights {kind} {names} ({len(keys)} in all); config.json and "
                "model.safetensors do not belong together, download the checkpoint anew"
            )
    return cut(model)


def empty_model(folder: Path, layers: int, dtype: torch.dtype) -> Any:
    """The same architecture from the description alone; its weights are still undefined."""
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    config, _ = read_config(folder, layers)
    with no_init_weights():
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    return cut(model)


def _left_out(key: str, layers: int, total: int) -> bool:
    """Whether truncation is why the model has no place for `key`."""
    if key.startswith("lm_head.") or ".lm_head." in key:
        return True
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    tower = re.search(r"vision|visual", key)
    return bool(layer and not tower and layers <= int(layer[1]) < total)


class Nothing(nn.Module):
    """Stands where a module of the last layer stood whose output nobody reads: zeros."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.features)


def cut(full: Any) -> Any:
    """Drop the language head and, in the last layer, all but what makes keys and values."""
    model = full.model
    text = getattr(model, family_of(full.config).text_name)
    last = text.layers[-1]
    attention = last.self_attn
    width = text.config.hidden_size
    attention.q_proj = Nothing(text.config.num_attention_heads * attention.head_dim)
    attention.o_proj = Nothing(width)
    if hasattr(attention, "q_norm"):
        attention.q_norm = nn.Identity()
    last.mlp = Nothing(width)
    last.post_attention_layernorm = nn.Identity()
    text.norm = nn.Identity()
    return model


def read_description(folder: Path) -> dict[str, bytes]:
    """The small files of `folder` by name, for a checkpoint of ours."""
    return {name: (folder / name).read_bytes() for name in DESCRIPTION if (folder / name).exists()}


def read_processing(folder: Path) -> tuple[Any, Any]:
    """Tokenizer (with the chat template) and image settings of the checkpoint."""
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        settings = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}: its tokenizer or image processor cannot be read "
            f"({str(error).strip().splitlines()[0]}); it needs tokenizer.json, "
            "tokenizer_config.json and preprocessor_config.json"
        ) from error
    old = folder / "chat_template.json"
    if tokenizer.chat_template is None and old.exists():
        tokenizer.chat_template = json.loads(old.read_text())["chat_template"]
    return tokenizer, settings
