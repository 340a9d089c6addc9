"""The training loop: it learns, it resumes to the bit, it refuses what does not fit."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, INSTRUCTIONS, make_observation, make_store
from rich.console import Console
from safetensors.torch import load_file

from ulna.datasets.loader import WindowLoader
from ulna.datasets.norm_stats import compute_norm_stats
from ulna.datasets.schema import Episode
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer
from ulna.policies.checkpoint import load_policy
from ulna.policies.policy import Policy
from ulna.train.config import OptimizerConfig, TrainConfig
from ulna.train.loop import train
from ulna.train.optimizer import Ema, make_optimizer
from ulna.train.recipes import recipe
from ulna.train.training_data import TrainingData, split_episodes

QUIET = Console(quiet=True)
TINY = replace(
    recipe("debug"), policy=CONFIG, precision="fp32", device="cpu", threads=1, batch_size=8
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store.zarr"
    make_store(path)
    return path


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_stopped_and_resumed_equals_straight_through(store, tmp_path, monkeypatch):
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
    assert json.loads((tmp_path / "stopped/resume/state.json").read_text())["step"] == 2
    train(TINY, store, tmp_path / "stopped", QUIET)

    straight, resumed = (
        load_file(tmp_path / name / "policy/model.safetensors") for name in ("straight", "stopped")
    )
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
    lines = [metrics(tmp_path / name)[-1] for name in ("straight", "stopped")]
    assert lines[0]["held_out_loss"] == lines[1]["held_out_loss"]
    assert lines[0]["learning_rate"] == lines[1]["learning_rate"]


def test_it_learns_to_do_what_the_instruction_says(tmp_path):
    make_store(tmp_path / "store.zarr", obedient=True)
    config = replace(
        TINY, steps=150, held_out_every=150, save_every=150, batch_size=16,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, ema_decay=0.9),
    )  # fmt: skip
    folder = train(config, tmp_path / "store.zarr", tmp_path / "run", QUIET)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]
    policy = load_policy(folder)
    for index, words in enumerate(INSTRUCTIONS):
        chunk = policy.act(replace(make_observation(), instruction=words))
        assert np.abs(chunk - np.eye(3)[index]).mean() < 0.2


def test_the_policy_of_a_run_acts_and_is_the_average(store, tmp_path):
    folder = train(TINY, store, tmp_path / "run", QUIET)
    chunk = load_policy(folder).act(make_observation())
    assert chunk.shape == (CONFIG.horizon, 3) and np.isfinite(chunk).all()
    saved = load_file(folder / "model.safetensors")
    raw = load_file(tmp_path / "run/resume/state.safetensors")
    assert torch.equal(saved["observe.state_in.weight"], raw["ema/observe.state_in.weight"])
    assert not torch.equal(saved["observe.state_in.weight"], raw["model/observe.state_in.weight"])


def test_gradient_accumulation_equals_one_step_by_hand_over_both_batches(store, tmp_path):
    config = replace(TINY, steps=1, gradient_accumulation=2, held_out_every=1)
    train(config, store, tmp_path / "run", QUIET)
    trained = load_file(tmp_path / "run/resume/state.safetensors")

    data = Store.open(store)
    taught, _ = split_episodes(len(data.episodes), config.held_out_fraction, config.seed)
    loader = WindowLoader(data, CONFIG.horizon, 8, config.seed, taught, prefetch=0)
    torch.manual_seed(config.seed)
    policy = Policy(CONFIG, data.embodiment, compute_norm_stats(data, taught)).train()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer, _ = make_optimizer(policy, config.optimizer, config.steps)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003)
    for _ in range(2):
        (policy.loss(next(loader), generator) / 2).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), config.optimizer.gradient_clip)
    optimizer.step()
    moved = 0
    for name, parameter in policy.named_parameters():
        assert torch.allclose(trained[f"model/{name}"], parameter, atol=1e-6), name
        moved += not torch.equal(before[name], parameter)
    assert moved > 0
    # Adam's first step forgets the size of the gradient; its first moment does not.
    for index, state in optimizer.state_dict()["state"].items():
        moment = trained[f"optimizer/{index}/exp_avg"]
        assert torch.allclose(moment, state["exp_avg"], atol=1e-7)


def test_same_seed_same_run_other_seed_other_run(store, tmp_path):
    short = replace(TINY, steps=2)
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(short, seed=seed), store, tmp_path / name, QUIET)
        losses.append(metrics(tmp_path / name)[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_one_process_can_train_in_one_precision_and_then_in_another(store, tmp_path):
    short = replace(TINY, steps=3, held_out_every=3)  # the first output is 0 in any precision
    losses = []
    for precision in ("fp32", "bf16", "fp32"):
        run = tmp_path / f"{precision}_{len(losses)}"
        train(replace(short, precision=precision), store, run, QUIET)
        assert json.loads((run / "train.json").read_text())["precision"] == precision
        losses.append(metrics(run)[-1]["loss"])
    assert losses[0] == losses[2] != losses[1]


def test_decay_is_for_matrices_only():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer, schedule = make_optimizer(model, OptimizerConfig(), steps=11)
    decayed, free = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert [p.ndim for p in free["params"]] == [1, 1, 1] and free["weight_decay"] == 0
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(3e-3)  # one step of warm-up in ten
    assert rates == sorted(rates, reverse=True) and rates[-1] < 3e-4


def test_held_out_episodes_are_disjoint_seeded_and_never_empty():
    taught, held = split_episodes(20, 0.1, seed=0)
    assert len(held) == 2 and sorted(taught + held) == list(range(20))
    assert split_episodes(20, 0.1, seed=0) == (taught, held)
    assert split_episodes(20, 0.1, seed=1)[1] != held
    assert len(split_episodes(2, 0.01, seed=0)[1]) == 1
    with pytest.raises(ValueError, match="1 episode.*--append"):
        split_episodes(1, 0.1, seed=0)


def test_refusals(store, tmp_path):
    train(replace(TINY, steps=1, held_out_every=1), store, tmp_path / "run", QUIET)
    with pytest.raises(ValueError, match="other settings .*batch_size: 8 then, 4 now"):
        train(
            replace(TINY, steps=1, held_out_every=1, batch_size=4), store, tmp_path / "run", QUIET
        )
    with pytest.raises(ValueError, match="unknown recipe 'smal'. Did you mean 'small'"):
        recipe("smal")
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        TrainConfig(steps=0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            train(replace(TINY, device="cuda"), store, tmp_path / "other", QUIET)
    with pytest.raises(ValueError, match="nowhere.zarr"):
        train(TINY, tmp_path / "nowhere.zarr", tmp_path / "third", QUIET)


def test_joints_relative_to_the_chunks_start(tmp_path):
    """Such a policy moves from where the arm is, anywhere; one of absolute targets does not."""
    names = ("pan", "lift", "wrist")
    arm = replace(
        EMBODIMENT, name="arm", state_names=names, action_names=names,
        action_low=(-9.0,) * 3, action_high=(9.0,) * 3,
    )  # fmt: skip
    Store.create(tmp_path / "arm.zarr", arm)
    with Writer(tmp_path / "arm.zarr") as writer:
        for seed in range(4):
            rng = np.random.default_rng(seed)
            path = np.cumsum(rng.uniform(-0.02, 0.02, (12, 3)), axis=0) + rng.uniform(-1, 1, 3)
            streams = {"state": path[:-1].astype("f4"), "action": path[1:].astype("f4")}
            images = {c.name: np.zeros((11, 16, 16, 3), np.uint8) for c in arm.cameras}
            writer.add_episode(Episode(images, streams, INSTRUCTIONS[0], "made_up", seed, True))
    far = {}
    for actions in ("", "chunk_relative"):
        run = tmp_path / (actions or "recorded")
        config = replace(TINY, actions=actions)
        act = load_policy(train(config, tmp_path / "arm.zarr", run, QUIET)).act
        states = [np.full(3, place, np.float32) for place in (-3.0, 3.0)]
        chunks = [act(replace(make_observation(), state=state)) for state in states]
        far[actions] = max(
            float(np.abs(chunk - state).max()) for chunk, state in zip(chunks, states, strict=True)
        )
    assert far["chunk_relative"] < 0.2 and far[""] > 1.0, far
    with pytest.raises(ValueError, match="other settings .*actions"):
        train(replace(TINY, actions="delta"), tmp_path / "arm.zarr", run, QUIET)


def test_a_file_of_actions_that_changed_is_noticed(store, tmp_path):
    said = tmp_path / "forms.toml"
    said.write_text('[[action]]\nkind = "joints"\nentries = ["a0"]\nmode = "absolute"\n')
    config = replace(TINY, steps=1, held_out_every=1, actions=str(said))
    train(config, store, tmp_path / "run", QUIET)
    train(config, store, tmp_path / "run", QUIET)
    said.write_text(said.read_text().replace('mode = "absolute"\n', ""))
    with pytest.raises(ValueError, match="forms.toml says other actions than when the run"):
        train(config, store, tmp_path / "run", QUIET)


SECOND = replace(
    EMBODIMENT,
    name="second",
    state_names=("a", "b"),
    action_names=("p", "q"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    cameras=EMBODIMENT.cameras[:1],
)


@pytest.fixture(scope="module")
def stores(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of one robot, one of another."""
    folder = tmp_path_factory.mktemp("several")
    make_store(folder / "more.zarr", episodes=3)
    make_store(folder / "second.zarr", episodes=4, robot=SECOND)
    return [store, folder / "more.zarr", folder / "second.zarr"]


def test_several_stores_teach_one_policy_and_resume_to_the_bit(stores, tmp_path, monkeypatch):
    config = replace(TINY, weights=(1.0, 1.0, 2.0))
    train(config, stores, tmp_path / "straight", QUIET)
    update = Ema.update

    def stop_after_two(self: Ema, model: torch.nn.Module) -> None:
        update(self, model)
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Ema, "update", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train(config, stores, tmp_path / "stopped", QUIET)
    train(config, stores, tmp_path / "stopped", QUIET)
    straight, resumed = (
        load_file(tmp_path / name / "policy/model.safetensors") for name in ("straight", "stopped")
    )
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    policy = load_policy(tmp_path / "straight", embodiment=SECOND)
    assert [robot.name for robot in policy.slots.embodiments] == ["tiny", "second"]
    assert policy.slots.action_width == 3


def test_mixed_batches_keep_the_weights_and_the_slots(stores):
    config = replace(TINY, weights=(1.0, 1.0, 2.0), held_out_windows=9)
    data = TrainingData(config, stores)
    parts = [next(data) for _ in range(10)]
    rows = {0: 0, 1: 0}
    for part in parts:
        for slot, batch in part:
            rows[slot] += len(batch.instructions)
            assert batch.state.shape[1] == data.robots[slot].state_dim
    assert rows[0] == rows[1] == 40
    assert [slot for slot, _ in data.held_out()] == [0, 0, 1]
    held = np.concatenate([batch.state for slot, batch in data.held_out() if slot == 1])
    first = [batch.state for slot, batch in data.first(5) if slot == 1][0]
    assert len(first) == 5
    assert not (first[:, None] == held[None]).all(-1).any()  # no scale from what is held out
    assert data.stats[0].episodes == 4 + 2  # two stores of one robot, without those held out
    data.close()
    with pytest.raises(ValueError, match="2 weights for 3 stores"):
        TrainingData(replace(config, weights=(1.0, 2.0)), stores)
    with pytest.raises(ValueError, match="at random, not in order 'clip'"):
        TrainingData(replace(config, order="clip"), stores)


def test_training_goes_on_from_a_policy_and_video_teaches_without_actions(store, tmp_path):
    config = replace(TINY, policy=recipe("dual_stream").policy)
    config = replace(
        config,
        policy=replace(
            config.policy, horizon=4, execution_horizon=2, trunk=CONFIG.trunk,
            vision=CONFIG.vision, instruction=CONFIG.instruction,
        ),
    )  # fmt: skip
    video = replace(config, objective="video")
    watched = train(video, store, tmp_path / "video", QUIET)
    start = replace(config, init_from=str(watched), init_fresh=("action.",), steps=1)
    made = train(start, store, tmp_path / "tuned", QUIET)
    one, two = (load_file(folder / "model.safetensors") for folder in (watched, made))
    moved = (one["future.enter.weight"] - two["future.enter.weight"]).abs().max()
    assert 0 < float(moved) < 0.02  # one step from where the other ended
    assert torch.equal(one["world_target.mean"], two["world_target.mean"])
