"""The training option for real-time chunking: a run with it resumes, and a policy so taught
continues a plan that it would else cross."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, INSTRUCTIONS, make_observation
from rich.console import Console
from safetensors.torch import load_file

from ulna.datasets.gather import WindowSpec
from ulna.datasets.loader import WindowLoader
from ulna.datasets.norm_stats import compute_norm_stats
from ulna.datasets.schema import Batch, Episode
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer
from ulna.policies.checkpoint import load_policy
from ulna.policies.policy import Policy
from ulna.policies.realtime_chunking import RealtimeConfig
from ulna.policies.sampler import SamplerConfig
from ulna.train.config import OptimizerConfig, TrainConfig
from ulna.train.loop import train
from ulna.train.optimizer import Ema
from ulna.train.recipes import recipe
from ulna.train.training_data import TrainingData

QUIET = Console(quiet=True)
POLICY = replace(
    CONFIG, horizon=6, execution_horizon=3, realtime=RealtimeConfig(max_delay=3),
    sampler=SamplerConfig(steps=5),
)  # fmt: skip
TINY = replace(
    recipe("debug"), policy=POLICY, precision="fp32", device="cpu", threads=1, batch_size=16
)
DELAY = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In half of the episodes the arm goes one way, in half the other; nothing seen says which."""
    path = tmp_path_factory.mktemp("data") / "store.zarr"
    Store.create(path, EMBODIMENT)
    with Writer(path) as writer:
        for seed in range(12):
            rng = np.random.default_rng(seed)
            images = {
                c.name: np.zeros((10, c.height, c.width, 3), np.uint8) for c in EMBODIMENT.cameras
            }
            side = 0.8 if seed % 2 else -0.8
            streams = {
                "state": np.zeros((10, EMBODIMENT.state_dim), np.float32),
                "action": (side + rng.normal(0, 0.03, (10, EMBODIMENT.action_dim))).astype(
                    np.float32
                ),
            }
            episode = Episode(images, streams, INSTRUCTIONS[0], "made_up", seed, True)
            writer.add_episode(episode)
    return path


def test_a_run_with_it_resumes_to_the_bit(store: Path, tmp_path: Path, monkeypatch):
    train(TINY, store, tmp_path / "straight", QUIET)
    update = Ema.update

    def stop_after_two(self: Ema, model: torch.nn.Module) -> None:
        update(self, model)
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C would

    with monkeypatch.context() as patch:
        patch.setattr(Ema, "update", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, store, tmp_path / "stopped", QUIET)
    train(TINY, store, tmp_path / "stopped", QUIET)
    straight, resumed = (
        load_file(tmp_path / name / "policy/model.safetensors") for name in ("straight", "stopped")
    )
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
    other = replace(TINY, policy=replace(POLICY, realtime=RealtimeConfig(max_delay=2)))
    with pytest.raises(ValueError, match="max_delay: 3 then, 2 now"):
        train(other, store, tmp_path / "stopped", QUIET)


def seams(policy: Policy, mode: str) -> np.ndarray:
    """How far the first free action lies from the plan before it, over seeds and both sides."""
    policy.use_realtime(mode)
    batch = []
    for seed in range(24):
        plan = np.full((4, EMBODIMENT.action_dim), 0.8 if seed % 2 else -0.8, np.float32)
        observation = replace(
            make_observation(), state=np.zeros(EMBODIMENT.state_dim, np.float32),
            images={n: np.zeros_like(x) for n, x in make_observation().images.items()},
            noise_seed=seed, planned=plan, inference_delay=DELAY,
        )  # fmt: skip
        batch.append(observation)
    chunks = policy.act_batch(batch)
    planned = np.stack([o.planned for o in batch if o.planned is not None])
    return np.abs(chunks[:, DELAY] - planned[:, DELAY - 1]).mean(axis=1)


def test_a_taught_policy_continues_the_plan_it_is_given(store: Path, tmp_path: Path):
    config = replace(
        TINY, steps=110, held_out_every=110, save_every=110,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, ema_decay=0.9),
    )  # fmt: skip
    policy = load_policy(train(config, store, tmp_path / "run", QUIET))
    naive = seams(policy, "off")
    assert (naive > 1.0).mean() > 0.25  # it goes either way, whatever is under way
    trained, guided = seams(policy, "trained"), seams(policy, "guided")
    assert (trained < 1.0).all() and trained.mean() < 0.3 * naive.mean()
    assert guided.mean() < 0.5 * naive.mean()


def test_the_plan_that_is_taught_is_what_was_sent(store, tmp_path):
    """Only where a plan is given, and only its given actions."""
    loader = WindowLoader(Store.open(store), WindowSpec(6), 8, 0, prefetch=0)
    batch = loader.batch_at(np.arange(8))
    loader.close()
    torch.manual_seed(0)
    taught = Policy(POLICY, EMBODIMENT, compute_norm_stats(Store.open(store))).eval()
    for parameter in taught.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # untrained heads say 0 to everything

    def loss(executed: np.ndarray | None, policy: Policy = taught) -> float:
        seen = replace(batch, executed_chunk=executed)
        with torch.no_grad():
            return float(policy.loss(seen, torch.Generator().manual_seed(1)))

    as_wanted = loss(None)
    assert loss(batch.action_chunk) == as_wanted
    assert loss(batch.action_chunk + 0.3) != as_wanted
    late = batch.action_chunk.copy()
    late[:, POLICY.realtime.max_delay :] += 0.3  # never given
    assert loss(late) == as_wanted


def test_a_run_takes_the_actions_that_were_sent_where_they_were_recorded(store, tmp_path):
    path = tmp_path / "sent.zarr"
    Store.create(path, EMBODIMENT)
    rng = np.random.default_rng(0)
    with Writer(path) as writer:
        for seed in range(3):
            images = {c.name: np.zeros((9, 16, 16, 3), np.uint8) for c in EMBODIMENT.cameras}
            wanted = rng.uniform(-0.5, 0.5, (9, EMBODIMENT.action_dim)).astype(np.float32)
            streams = {
                "state": np.zeros((9, EMBODIMENT.state_dim), np.float32),
                "action": wanted,
                "action_sent": wanted + 0.25,
            }
            writer.add_episode(Episode(images, streams, INSTRUCTIONS[0], "made_up", seed, True))

    def first(config: TrainConfig, paths: list[Path]) -> list[Batch]:
        data = TrainingData(config, paths)
        parts = next(data)
        data.close()
        return [batch for _, batch in parts]

    (batch,) = first(TINY, [path])
    assert batch.executed_chunk is not None
    np.testing.assert_allclose(batch.executed_chunk, batch.action_chunk + 0.25, atol=1e-6)
    untaught = replace(TINY, policy=replace(POLICY, realtime=RealtimeConfig()))
    assert first(untaught, [path])[0].executed_chunk is None
    mixed = first(TINY, [path, store])  # one of them recorded nothing of the kind
    assert sorted(batch.executed_chunk is None for batch in mixed) == [False, True]
