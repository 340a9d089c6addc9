"""Published designs as short functions: each says only where it differs from the others.

    pooled_head   diffusion_policy, Octo   the scene as one vector into a small diffusion head
    in_context    Dita                     one transformer; noisy actions are tokens like the others
    expert        pi0, SmolVLA             a context expert and an action expert, one attention
    frozen        LlamaFusion              `expert` with the context frozen
    modalities    Mixture-of-Transformers  an expert per modality
    dual_stream   DUST                     an action stream and a stream of what will be seen
    mutual        AKI                      causal, but images see the instruction behind them

`ulna train NAME` takes them as recipes (`train/recipes.py`); every field stays a flag.
"""

from collections.abc import Callable
from dataclasses import replace

from .policy_config import PolicyConfig
from .process import DiffusionConfig
from .sampler import SamplerConfig
from .vision import VitConfig
from .world_target import FutureConfig


def pooled_head() -> PolicyConfig:
    """The baseline: mean of the context tokens, a residual MLP as denoiser (DDPM and DDIM, as
    diffusion_policy, arXiv 2303.04137, and Octo, arXiv 2405.12213)."""
    return replace(in_context(), head="pooled", time="concat")


def in_context() -> PolicyConfig:
    """Dita (arXiv 2503.19757): one causal transformer over text, images, a time token and the noisy
    actions; DDPM training, DDIM sampling. Ours differs where its code only simplified: actions
    enter by a linear layer instead of zero padding, the time token by an MLP, and the actions see
    one another in full."""
    return PolicyConfig(
        experts="shared",
        mask="causal",
        time="token",
        vision=VitConfig(),
        process=DiffusionConfig(),
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
