"""Published designs as short functions: each says only where it differs from the others.

    pooled_head   diffusion_policy, Octo   the scene as one vector into a small diffusion head
    in_context    Dita                     one transformer; noisy actions are tokens like the others
    expert        pi0, SmolVLA             a context expert and an action expert, one attention
    frozen        LlamaFusion              `expert` with the context frozen
    modalities    Mixture-of-Transformers  an expert per modality
    dual_stream   DUST                     an action stream and a stream of what will be seen
    mutual        AKI                      causal, but images see the instruction behind them

    smolvlm, paligemma, qwen_vl            an action expert on a pretrained VLM (`BACKBONES`)

`ulna train NAME` takes them as recipes (`train/recipes.py`); every field stays a flag.
"""

from collections.abc import Callable
from dataclasses import replace

from .expert import TrunkConfig
from .policy_config import PolicyConfig
from .process import DiffusionConfig
from .sampler import SamplerConfig
from .vision import VitConfig
from .vlm import VlmConfig
from .world_target import FutureConfig


def pooled_head() -> PolicyConfig:
    """The baseline: mean of the context tokens, a residual MLP as denoiser (DDPM and DDIM, as
    diffusion_policy, arXiv 2303.04137, and Octo, arXiv 2405.12213)."""
    return replace(in_context(), head="pooled", time="concat")


def in_context() -> PolicyConfig:
    """Dita (arXiv 2503.19757): one causal transformer over text, images, a time token and the noisy
    actions; DDPM training, DDIM sampling. Ours differs where its code only simplified: actions
    enter by a linear layer instead of zero padding, the time token by an MLP, and the actions see
    one another in full; and it predicts velocities, where Dita predicts the noise: at high noise,
    where is decided what to do, noise has next to nothing to teach (85 against 15 of 100 scenes
    after the same training, one seed, CHANGELOG.md)."""
    return PolicyConfig(
        experts="shared",
        mask="causal",
        time="token",
        vision=VitConfig(),
        process=DiffusionConfig(prediction="v_prediction"),
        sampler=SamplerConfig(steps=10),
    )


def expert() -> PolicyConfig:
    """pi0 (arXiv 2410.24164) and SmolVLA (arXiv 2506.01844): the context is one bidirectional
    block with parameters of its own, the action expert sees it through the attention."""
    return PolicyConfig()


def frozen() -> PolicyConfig:
    """LlamaFusion (arXiv 2412.15188): as `expert`, the context's parameters untouched. Start it
    from a trained policy (`--init-from`)."""
    return replace(expert(), freeze_context=True)


def modalities() -> PolicyConfig:
    """Mixture-of-Transformers (arXiv 2411.04996): text, images, state and actions each have all
    their matrices to themselves; they meet in the attention."""
    return replace(expert(), experts="separate")


def dual_stream() -> PolicyConfig:
    """DUST (arXiv 2510.27607): actions and the embedding of the frame after them are denoised side
    by side with independent times, meet in the joint layers and then have private ones."""
    base = PolicyConfig()
    return replace(
        base,
        mask="joint",
        future=FutureConfig(),
        trunk=replace(base.trunk, depth=3),
        private_depth=1,
        sampler=SamplerConfig(steps=4, future_steps=16),
    )


def mutual() -> PolicyConfig:
    """AKI (arXiv 2503.04606): images come first and still see the instruction, in an otherwise
    causal trunk."""
    return replace(
        PolicyConfig(),
        mask="mma",
        context_order=("image", "text", "state"),
        vision=VitConfig(film=False),
    )


PRESETS: dict[str, Callable[[], PolicyConfig]] = {
    "pooled_head": pooled_head,
    "in_context": in_context,
    "expert": expert,
    "frozen": frozen,
    "modalities": modalities,
    "dual_stream": dual_stream,
    "mutual": mutual,
}


def smolvlm() -> PolicyConfig:
    """SmolVLA-shaped: the first 16 text layers of SmolVLM2-500M, frozen, as SmolVLA prompts it, and
    an action expert of three quarters of its width (arXiv 2506.01844)."""
    return _on(
        VlmConfig(
            weights="HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
            layers=16,
            prompt="{images}{instruction}\n",
            image_marks=False,
            resize="pad_left_top",
        ),
        width=720,
    )


def paligemma() -> PolicyConfig:
    """pi0-shaped: PaliGemma, frozen, and an action expert of half its width."""
    return _on(VlmConfig(weights="google/paligemma-3b-pt-224", resize="pad"), width=1024)


def qwen_vl() -> PolicyConfig:
    """The first half of Qwen2.5-VL-3B with LoRA adapters; images see the instruction (AKI)."""
    return _on(
        VlmConfig(
            weights="Qwen/Qwen2.5-VL-3B-Instruct", layers=18, training="lora", mask="mma",
            image_size=224,
        ),
        width=1024,
    )  # fmt: skip


def _on(backbone: VlmConfig, width: int) -> PolicyConfig:
    return PolicyConfig(
        horizon=50,
        execution_horizon=25,
        backbone=backbone,
        trunk=TrunkConfig(width=width),
        sampler=SamplerConfig(steps=10),
    )


BACKBONES: dict[str, Callable[[], PolicyConfig]] = {
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "qwen_vl": qwen_vl,
}
"""Policies on pretrained VLMs. `backbone.weights` is a Hub id or the folder of a download; the
commands stand in `policies/vlm.py`."""
