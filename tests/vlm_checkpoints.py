"""Tiny, randomly initialised VLM checkpoints on disk, in the format of the real ones on the Hub.

The configurations have the real files' fields and the weights the real files' names (Qwen2.5-VL:
flat configuration; PaliGemma and Qwen2.5-VL: names from before transformers 4.52), so that the
real loading code with its renaming runs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

FAMILIES = ("smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl")
TEXT_LAYERS = 3
CORPUS = ["pick up the red cube and put it on the blue plate", "push the green block left"]
CHAT_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SMOL_MARKS = ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"]

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "<|im_start|>system\nYou help.<|im_end|>\n{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """A checkpoint of `family` in `folder`; its text model has `TEXT_LAYERS` layers."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {
        "smolvlm": [*CHAT_MARKS, *SMOL_MARKS],
        "paligemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<image>"],
        "qwen2_5_vl": [*CHAT_MARKS, *QWEN_MARKS],
        "qwen3_vl": [*CHAT_MARKS, *QWEN_MARKS],
    }[family]
    tokenizer = _gemma_tokenizer(special) if family == "paligemma" else _byte_tokenizer(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    _write(folder / "tokenizer_config.json", _tokenizer_config(family, special))
    _write(folder / "preprocessor_config.json", _image_processor(family))
    if family == "smolvlm":
        _write(
            folder / "processor_config.json",
            {"image_seq_len": 16, "processor_class": "SmolVLMProcessor"},
        )
        (folder / "chat_template.jinja").write_text(SMOL_TEMPLATE)
    if family.startswith("qwen"):  # the real folders still have the older file
        _write(folder / "chat_template.json", {"chat_template": QWEN_TEMPLATE})
        _write(
            folder / "video_preprocessor_config.json",
            {**_image_processor(family), "video_processor_type": _VIDEO[family]},
        )
    _write(folder / "config.json", _config(family, ids, tokenizer.get_vocab_size()))
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    for name, parameter in model.named_parameters():
        # Norms start at one or zero: a mistake in one of them would not show.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.data.mean()), std=0.1)
        elif "embed_tokens" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    weights = {
        _hub_name(family, name): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_VIDEO = {"qwen2_5_vl": "Qwen2VLVideoProcessor", "qwen3_vl": "Qwen3VLVideoProcessor"}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


def _byte_tokenizer(special: list[str]) -> Tokenizer:
    """Byte-level BPE with a few merges, as SmolLM2's and Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _gemma_tokenizer(special: list[str]) -> Tokenizer:
    """SentencePiece-like BPE with byte fallback and no prefix space, as Gemma's."""
    letters = sorted(set("▁\n" + "".join(CORPUS).replace(" ", "▁")))
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)] + letters
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = []
    for pair in (("▁", "p"), ("t", "h"), ("th", "e")):
        vocabulary["".join(pair)] = len(vocabulary)
        merges.append(pair)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(special)
    return tokenizer


def _tokenizer_config(family: str, special: list[str]) -> dict[str, Any]:
    if family == "paligemma":
        return {
            "tokenizer_class": "GemmaTokenizer",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "extra_special_tokens": {"image_token": "<image>"},
            "processor_class": "PaliGemmaProcessor",
        }
    common = {"model_max_length": 8192, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    if family == "smolvlm":
        return {
            **common,
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|im_start|>",
            "unk_token": "<|endoftext|>",
            "extra_special_tokens": {
                "fake_image_token": "<fake_token_around_image>",
                "global_image_token": "<global-img>",
                "image_token": "<image>",
                "end_of_utterance_token": "<end_of_utterance>",
            },
            "processor_class": "SmolVLMProcessor",
        }
    name = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[family]
    return {
        **common,
        "tokenizer_class": "Qwen2Tokenizer",
        "additional_special_tokens": special,
        "processor_class": name,
    }


def _image_processor(family: str) -> dict[str, Any]:
    common = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    if family == "smolvlm":
        return {
            **common,
            **half,
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "do_image_splitting": True,
            "do_pad": True,
            "resample": 1,
            "size": {"longest_edge": 128},
            "max_image_size": {"longest_edge": 32},
        }
    if family == "paligemma":
        return {
            **common,
            **half,
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "PaliGemmaProcessor",
            "image_seq_length": 16,
            "resample": 3,
            "size": {"height": 28, "width": 28},
        }
    patch = 4
    least, most = (4 * patch) ** 2, (12 * patch) ** 2
    common = {**common, "patch_size": patch, "temporal_patch_size": 2, "merge_size": 2}
    if family == "qwen2_5_vl":
        return {
            **common,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "min_pixels": least,
            "max_pixels": most,
        }
    return {
        **common,
        **half,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": least, "longest_edge": most},
    }


def _config(family: str, ids: dict[str, int], vocabulary: int) -> dict[str, Any]:
    vocabulary += -vocabulary % 8
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "torch_dtype": "float32",
    }
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    if family == "smolvlm":
        return {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "model_type": "smolvlm",
            "image_token_id": ids["<image>"],
            "pad_token_id": ids["<|im_end|>"],
            "scale_factor": 2,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "text_config": {
                **text,
                "model_type": "llama",
                "rope_theta": 100000.0,
                "head_dim": 8,
                "pad_token_id": ids["<|im_end|>"],
            },
            "vision_config": {
                **tower,
                "model_type": "smolvlm_vision",
                "num_hidden_layers": 2,
                "image_size": 32,
                "patch_size": 4,
            },
        }
    if family == "paligemma":
        return {
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "model_type": "paligemma",
            "image_token_index": ids["<image>"],
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "hidden_size": 32,
            "projection_dim": 32,
            "vocab_size": vocabulary,
            "torch_dtype": "float32",
            "text_config": {
                **text,
                "model_type": "gemma",
                "hidden_act": "gelu_pytorch_tanh",
                "num_key_value_heads": 1,
                "head_dim": 16,
                "num_image_tokens": 16,
            },
            "vision_config": {
                **tower,
                "model_type": "siglip_vision_model",
                "num_hidden_layers": 2,
                "image_size": 28,
                "patch_size": 7,
                "projection_dim": 32,
                "vision_use_head": False,
            },
        }
    marks = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    if family == "qwen2_5_vl":
        return {
            **text,
            **marks,
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "rope_theta": 1000000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "patch_size": 4,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [1],
                "tokens_per_second": 2,
            },
        }
    return {
        **marks,
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": {
            **text,
            "model_type": "qwen3_vl_text",
            "head_dim": 16,  # heads x head_dim is not the width, as in the real ones
            "rope_theta": 5000000.0,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    }


def _hub_name(family: str, name: str) -> str:
    """The name a weight has in the real file."""
    if family == "paligemma":
        name = name.removeprefix("model.")
        return name.replace("language_model.", "language_model.model.", 1)
    if family == "qwen2_5_vl":
        name = name.replace("model.visual.", "visual.", 1)
        return name.replace("model.language_model.", "model.", 1)
    return name
