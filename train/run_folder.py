"""A training run on disk: config, curves, the policy so far, and where to go on.

    RUN/train.json           the TrainConfig, the store it was trained on, device and precision
    RUN/metrics.jsonl        one line per logged step
    RUN/policy/              the averaged weights as a checkpoint (`policies/checkpoint.py`)
    RUN/resume/              raw weights, optimizer, averages, generators, position in the data

A resumed run continues bit for bit (same hardware, same number of threads). Everything is
safetensors and JSON; each resume point is written beside the old one and then put in its place.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..datasets.actions import ActionSpace
from ..datasets.strict_json import decode
from ..policies.checkpoint import read_json, save_tensors, write_json
from .config import TrainConfig
from .optimizer import Ema


@dataclass(frozen=True)
class RunRecord:
    config: TrainConfig
    store: str
    """The store as it was named when the run began."""
    device: str
    precision: str
    actions: tuple[ActionSpace, ...] = ()
    """Per robot, what `config.actions` meant when the run began."""


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.policy = path / "policy"
        self.resume = path / "resume"
        self.metrics = path / "metrics.jsonl"

    def begin(self, record: RunRecord) -> None:
        """Make the folder, or check that a run found there is the same run."""
        saved = self.path / "train.json"
        if saved.exists():
            before = decode(RunRecord, read_json(saved), "train.json")
            if before.config != record.config:
                changed = _differences(before.config, record.config)
                raise ValueError(
                    f"{self.path} holds a run with other settings ({changed}); "
                    "give the same ones to resume it, or another --out"
                )
            if before.actions and before.actions != record.actions:
                raise ValueError(
                    f"{record.config.actions} says other actions than when the run in {self.path} "
                    "began; restore it to resume the run, or give another --out"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(saved, record)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        ema: Ema,
        generator: torch.Generator,
        position: dict[str, Any],
        elapsed_s: float,
    ) -> None:
        """Write a resume point in place of the last one."""
        beside = self.path / "resume.partial"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"ema/{k}": v for k, v in ema.weights.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors["generator"] = generator.get_state()
        tensors["torch_generator"] = torch.get_rng_state()
        save_tensors(beside / "state.safetensors", tensors)
        write_json(
            beside / "state.json",
            {
                "step": step,
                "schedule": {k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"},
                "ema_updates": ema.updates,
                "position": position,
                "elapsed_s": elapsed_s,
                "metrics_bytes": self.metrics.stat().st_size if self.metrics.exists() else 0,
            },
        )
        old = self.path / "resume.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.resume.exists():
            os.replace(self.resume, old)
        os.replace(beside, self.resume)
        shutil.rmtree(old, ignore_errors=True)

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        ema: Ema,
        generator: torch.Generator,
    ) -> dict[str, Any] | None:
        """Restore the last resume point in place; None if there is none."""
        folder = self.resume
        if not folder.exists() and (self.path / "resume.old").exists():
            folder = self.path / "resume.old"  # stopped between the two renames of `save`
        if not folder.exists():
            return None
        facts: Any = read_json(folder / "state.json")
        tensors = load_file(folder / "state.safetensors")
        model.load_state_dict(_under(tensors, "model/"))
        ema.weights = {k: v.to(ema.weights[k].device) for k, v in _under(tensors, "ema/").items()}
        ema.updates = facts["ema_updates"]
        state = optimizer.state_dict()
        state["state"] = {}
        for key, tensor in _under(tensors, "optimizer/").items():
            index, _, name = key.partition("/")
            state["state"].setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict(state)
        schedule.load_state_dict({**facts["schedule"], "lr_lambdas": [None]})
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch_generator"])
        if self.metrics.exists():  # lines written after the resume point will be written again
            os.truncate(self.metrics, facts["metrics_bytes"])
        return facts

    def log(self, line: dict[str, float | int]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _differences(before: Any, after: Any, where: str = "") -> str:
    """Names of the fields in which two configs of one kind differ, with both values."""
    found = []
    for name, old in vars(before).items():
        new = getattr(after, name)
        if old == new:
            continue
        if hasattr(old, "__dataclass_fields__") and type(old) is type(new):
            found.append(_differences(old, new, f"{where}{name}."))
        else:
            found.append(f"{where}{name}: {old!r} then, {new!r} now")
    return "; ".join(found)
