"""Named runs as functions: a structural choice is a recipe, a number is a flag.

`ulna train NAME --data STORE --out RUN --steps 2000 --policy.horizon 32`
"""

from collections.abc import Callable
from dataclasses import replace

from ..datasets.schema import unknown_name
from ..policies.expert import TrunkConfig
from ..policies.instruction_tokens import ByteInstructionConfig
from ..policies.policy_config import PolicyConfig
from ..policies.presets import BACKBONES, PRESETS
from ..policies.sampler import SamplerConfig
from ..policies.vision import KeypointVisionConfig
from .config import OptimizerConfig, TrainConfig


def small() -> TrainConfig:
    """The small VLA from scratch: what `ulna demo` trains on two CPU cores."""
    return TrainConfig()


def debug() -> TrainConfig:
    """Tiny sizes and few steps: the whole path in seconds, for tests. Learns nothing useful."""
    return replace(
        small(),
        policy=PolicyConfig(
            trunk=TrunkConfig(width=32, depth=1, heads=2),
            vision=KeypointVisionConfig(width=8, blocks=1, maps=4, tokens=2),
            instruction=ByteInstructionConfig(width=16, tokens=2),
            sampler=SamplerConfig(steps=2),
        ),
        steps=4,
        batch_size=8,
        held_out_fraction=0.3,
        held_out_windows=8,
        held_out_every=2,
        save_every=2,
    )


def of_preset(name: str) -> Callable[[], TrainConfig]:
    """The recipe that trains the preset `name` of `policies/presets.py` as `small` is trained."""

    def make() -> TrainConfig:
        return replace(small(), policy=PRESETS[name]())

    make.__doc__ = PRESETS[name].__doc__
    return make


def on_backbone(name: str) -> Callable[[], TrainConfig]:
    """The recipe that trains an action expert on a pretrained VLM: SmolVLA's numbers (arXiv
    2506.01844, section 4) but for the schedule, which is this repository's."""

    def make() -> TrainConfig:
        return replace(
            small(),
            policy=BACKBONES[name](),
            optimizer=OptimizerConfig(peak_learning_rate=1e-4, ema_decay=0.999),
            steps=20_000,
            held_out_every=500,
            save_every=1000,
        )

    make.__doc__ = BACKBONES[name].__doc__
    return make


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "small": small,
    "debug": debug,
    **{name: of_preset(name) for name in PRESETS},
    **{name: on_backbone(name) for name in BACKBONES},
}


def recipe(name: str) -> TrainConfig:
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
