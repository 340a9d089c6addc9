"""Low-rank adapters in a VLM's text layers, through peft, and the weights with them merged in.

    y = W x + (alpha / rank) B A x        A random, B zero: the start is the pretrained model

Hu et al., arXiv 2106.09685, section 4.1. The base stays in its type; A and B are float32, since
steps of a usual learning rate would vanish in bfloat16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..datasets.schema import unknown_name


def add_lora(
    model: nn.Module, text_name: str, targets: Sequence[str], rank: int, alpha: float
) -> tuple[str, ...]:
    """Put adapters at the linear layers called `targets` in the text layers of `model`, in place.

    Everything else is frozen. Returns the adapted layers' names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = {
        name: name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{text_name}.layers.")
    }
    for target in targets:
        if target not in linear.values():
            raise unknown_name("LoRA target", target, sorted(set(linear.values())))
    if rank < 1:
        raise ValueError(f"lora_rank must be 1 or more, got {rank}")
    names = tuple(name for name, leaf in linear.items() if leaf in targets)
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names), lora_dropout=0.0),  # type: ignore[arg-type]
        model,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
        if is_adapter(name):
            parameter.data = parameter.data.float()
    return names


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Weights under their pretrained names, adapters added in; `model` is left as it is."""
    from peft.tuners.lora import Linear

    merged = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not is_adapter(name)
    }
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            key = f"{name}.weight"
            delta = module.get_delta_weight("default")
            merged[key] = (merged[key].float() + delta.float()).to(merged[key].dtype)
    return merged


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The pretrained weights under their own names, without adapters."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not is_adapter(name)
    }
