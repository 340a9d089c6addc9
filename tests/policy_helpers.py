"""A tiny policy and what it is fed, shared by the tests of `policies` and `train`."""

from pathlib import Path

import numpy as np
import torch

from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.schema import Batch, Camera, Embodiment, Episode, Observation
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer
from ulna.policies.expert import TrunkConfig
from ulna.policies.image_transforms import AugmentConfig
from ulna.policies.instruction_tokens import ByteInstructionConfig
from ulna.policies.policy import Policy
from ulna.policies.policy_config import PolicyConfig
from ulna.policies.sampler import SamplerConfig
from ulna.policies.vision import KeypointVisionConfig

EMBODIMENT = Embodiment(
    name="tiny",
    control_hz=20.0,
    state_names=tuple(f"s{i}" for i in range(5)),
    action_names=tuple(f"a{i}" for i in range(3)),
    action_low=(-1.0,) * 3,
    action_high=(1.0,) * 3,
    action_meaning="made up",
    cameras=(Camera("front", 16, 16), Camera("wrist", 16, 16)),
)
CONFIG = PolicyConfig(
    horizon=4,
    execution_horizon=2,
    trunk=TrunkConfig(width=16, depth=2, heads=2),
    vision=KeypointVisionConfig(width=8, blocks=1, maps=4, tokens=2),
    instruction=ByteInstructionConfig(width=16, tokens=2),
    sampler=SamplerConfig(steps=2),
    augment=AugmentConfig(shift_pixels=2),
)
INSTRUCTIONS = ("pick up the red cube", "pick up the green cube", "pick up the blue cube")


def make_stats() -> NormStats:
    rng = np.random.default_rng(0)
    state = stream_stats(rng.normal(size=(100, EMBODIMENT.state_dim)))
    action = stream_stats(rng.normal(size=(100, EMBODIMENT.action_dim)))
    return NormStats({"state": state, "action": action}, source="made up", episodes=1)


def make_policy(wake: bool = True, config: PolicyConfig = CONFIG) -> Policy:
    """`wake`: random weights where the policy starts with zeros, so that all inputs matter."""
    torch.manual_seed(0)
    policy = Policy(config, EMBODIMENT, make_stats())
    policy.calibrate([(0, make_batch(config.horizon))])
    if wake:
        for parameter in policy.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    return policy.eval()


def make_observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {
        camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in EMBODIMENT.cameras
    }
    state = rng.normal(size=EMBODIMENT.state_dim).astype(np.float32)
    return Observation(images, state, INSTRUCTIONS[0], noise_seed=7)


def make_batch(horizon: int, rows: int = 6) -> Batch:
    rng = np.random.default_rng(0)
    seen = [make_observation(seed) for seed in range(rows)]
    is_pad = np.zeros((rows, horizon), bool)
    is_pad[0, -2:] = True
    chunk = rng.normal(size=(rows, horizon, EMBODIMENT.action_dim)).astype(np.float32)
    return Batch(
        images={name: np.stack([o.images[name] for o in seen]) for name in seen[0].images},
        state=np.stack([o.state for o in seen]),
        action_chunk=chunk,
        action_is_pad=is_pad,
        instructions=tuple(INSTRUCTIONS[i % 3] for i in range(rows)),
        future_images={
            name: rng.integers(0, 256, (rows, 16, 16, 3), np.uint8) for name in seen[0].images
        },
    )


def make_store(
    path: Path,
    episodes: int = 6,
    steps: int = 10,
    obedient: bool = False,
    robot: Embodiment = EMBODIMENT,
) -> Store:
    """A store of random episodes of the tiny embodiment; `obedient`: the instruction, and nothing
    else, says what the action is."""
    store = Store.create(path, robot)
    with Writer(path) as writer:
        for seed in range(episodes):
            rng = np.random.default_rng(seed)
            images = {
                c.name: rng.integers(0, 256, (steps, c.height, c.width, 3), dtype=np.uint8)
                for c in robot.cameras
            }
            streams = {
                "state": rng.normal(size=(steps, robot.state_dim)).astype(np.float32),
                "action": rng.uniform(-1, 1, (steps, robot.action_dim)).astype(np.float32),
            }
            words = INSTRUCTIONS[seed % 3]
            if obedient:
                streams["action"] = np.eye(3, dtype=np.float32)[np.full(steps, seed % 3)]
            writer.add_episode(Episode(images, streams, words, "made_up", seed, True))
    store.refresh()
    return store
