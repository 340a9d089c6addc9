"""A policy as a folder: weights, what it is, and what it was normalised with. No pickle.

    FOLDER/model.safetensors   parameters and buffers
    FOLDER/config.json         {"format", "policy": PolicyConfig, "robots": [Robot]}
    FOLDER/norm_stats.json     [NormStats] per robot: per stream, with a hash of their source
    FOLDER/tokenizer.json      if the instruction is read by a tokenizer
    FOLDER/vlm/                if there is a pretrained backbone: its config and tokenizer

Loading is strict: a key or a shape that does not fit is an error that names it. Files are written
beside their final name and renamed, so a folder never holds half a checkpoint's file.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..datasets.actions import ActionSpace
from ..datasets.norm_stats import NormStats
from ..datasets.schema import Act, Embodiment, unknown_name
from ..datasets.strict_json import decode, encode
from .policy import Policy
from .policy_config import PolicyConfig

FORMAT = 2


@dataclass(frozen=True)
class Robot:
    """One that the policy acts for."""

    embodiment: Embodiment
    actions: ActionSpace
    """How its actions are given to the network."""


@dataclass(frozen=True)
class CheckpointConfig:
    format: int
    policy: PolicyConfig
    robots: tuple[Robot, ...]


@dataclass(frozen=True)
class CheckpointStats:
    robots: tuple[NormStats, ...]
    """In the order of `CheckpointConfig.robots`."""


def write_json(path: Path, value: object) -> None:
    """Write `value` (dataclasses welcome) atomically."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(encode(value), indent=2) + "\n")
    os.replace(beside, path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically."""
    beside = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside
    )
    os.replace(beside, path)


def save_policy(
    folder: Path,
    policy: Policy,
    stats: NormStats | Sequence[NormStats],
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write `policy` to `folder`; `weights` (such as an EMA) stand in for its own. `stats`: those
    it was made with, one per robot."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", weights or policy.state_dict())
    known = (stats,) if isinstance(stats, NormStats) else tuple(stats)
    write_json(folder / "norm_stats.json", CheckpointStats(known))
    policy.save_files(folder)
    robots = tuple(
        Robot(*pair) for pair in zip(policy.slots.embodiments, policy.slots.spaces, strict=True)
    )
    write_json(folder / "config.json", CheckpointConfig(FORMAT, policy.config, robots))


def load_policy(
    folder: Path | str, device: str = "cpu", embodiment: Embodiment | None = None
) -> Policy:
    """Rebuild the policy in `folder`, in evaluation mode.

    `folder` may also be a training run, whose `policy/` is taken. `embodiment`: the robot to act
    for; None: the first it was trained for. Raises ValueError naming the file and the key that does
    not fit, or how the robot differs.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() and (folder / "policy" / "config.json").exists():
        folder = folder / "policy"
    found = read_json(folder / "config.json")
    written = found.get("format") if isinstance(found, dict) else None
    if isinstance(written, int) and written != FORMAT:
        raise ValueError(
            f"{folder / 'config.json'}: format {written}, this version of ulna reads "
            f"{FORMAT}; use the ulna that wrote it"
        )
    config = decode(CheckpointConfig, found, "config.json")
    stats = decode(CheckpointStats, read_json(folder / "norm_stats.json"), "norm_stats.json")
    policy = Policy(
        config.policy,
        [robot.embodiment for robot in config.robots],
        stats.robots,
        [robot.actions for robot in config.robots],
        files=folder,
    )
    _load_weights(policy, folder / "model.safetensors")
    if embodiment is not None:
        policy.use(embodiment)
    return policy.eval().to(device)


def load_act(
    folder: Path | str,
    device: str = "cpu",
    threads: int | None = 1,
    embodiment: Embodiment | None = None,
    realtime: str | None = None,
) -> Act:
    """The policy in `folder` as a function; for worker processes, which get `threads` each.

    `realtime`: how it joins a chunk to the plan under way (`Policy.use_realtime`); None: as its
    config says."""
    if threads is not None:
        torch.set_num_threads(threads)
    policy = load_policy(folder, device, embodiment)
    return (policy if realtime is None else policy.use_realtime(realtime)).act


def read_json(path: Path) -> object:
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; a policy folder holds model.safetensors, config.json and "
            "norm_stats.json, and `ulna train` writes one"
        )
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def load_weights_into(policy: Policy, folder: Path, fresh: tuple[str, ...] = ()) -> None:
    """Give `policy` the weights of the policy in `folder`, for training on from there.

    Keys that begin with one of `fresh` keep the policy's own values, on either side; everything
    else is as strict as loading. Statistics (normalisers) are the policy's own: they belong to its
    data.
    """
    if not (folder / "model.safetensors").exists():
        folder = folder / "policy"
    own = policy.state_dict()
    kept = tuple(
        name for name in own if (fresh and name.startswith(fresh)) or name.startswith("slots.")
    )
    for beginning in fresh:
        if not any(name.startswith(beginning) for name in own):
            raise unknown_name("beginning of weights", beginning, {n.split(".")[0] for n in own})
    _load_weights(policy, folder / "model.safetensors", kept, fresh)


def _load_weights(
    policy: Policy, path: Path, kept: tuple[str, ...] = (), fresh: tuple[str, ...] = ()
) -> None:
    if not path.exists():
        raise ValueError(f"{path} does not exist: the policy's weights are missing")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut short: {error}") from error
    expected = policy.state_dict()
    if kept or fresh:
        found = {name: x for name, x in found.items() if not (fresh and name.startswith(fresh))}
        found |= {name: expected[name] for name in kept}
    for key in found:
        if key not in expected:
            raise unknown_name(f"key in {path}", key, expected)
    for key, tensor in expected.items():
        if key not in found:
            raise ValueError(f"{path}: the key {key!r} is missing; config.json asks for it")
        if found[key].shape != tensor.shape or found[key].dtype != tensor.dtype:
            raise ValueError(
                f"{path}: {key!r} is {found[key].dtype} {tuple(found[key].shape)}, config.json "
                f"asks for {tensor.dtype} {tuple(tensor.shape)}"
            )
    policy.load_state_dict(found)
