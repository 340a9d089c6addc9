"""A policy as a folder: exact there and back, and strict about everything that does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import make_observation, make_policy, make_stats
from safetensors.torch import load_file, save_file

from ulna.policies.checkpoint import load_act, load_policy, save_policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(tmp_path / "policy", make_policy(), make_stats())
    return tmp_path / "policy"


def test_there_and_back_gives_the_same_actions(folder: Path):
    expected = make_policy().act(make_observation())
    assert np.array_equal(load_policy(folder).act(make_observation()), expected)
    assert np.array_equal(load_policy(folder.parent).act(make_observation()), expected)
    assert np.array_equal(load_act(folder, threads=None)(make_observation()), expected)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "norm_stats.json",
    ]


def edit_weights(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_a_surplus_and_a_misshaped_key_are_named(folder: Path):
    original = (folder / "model.safetensors").read_bytes()
    edit_weights(folder, lambda t: t.pop("action.leave.bias"))
    with pytest.raises(ValueError, match="'action.leave.bias' is missing"):
        load_policy(folder)
    (folder / "model.safetensors").write_bytes(original)
    edit_weights(folder, lambda t: t.update({"action.leave.bais": t["action.leave.bias"].clone()}))
    with pytest.raises(ValueError, match="'action.leave.bais'. Did you mean 'action.leave.bias'"):
        load_policy(folder)
    (folder / "model.safetensors").write_bytes(original)
    edit_weights(
        folder, lambda t: t.update({"action.leave.bias": t["action.leave.bias"][:1].clone()})
    )
    with pytest.raises(ValueError, match=r"'action.leave.bias' is torch.float32 \(1,\).*\(3,\)"):
        load_policy(folder)
    (folder / "model.safetensors").write_bytes(original[:-100])
    with pytest.raises(ValueError, match="cut short"):
        load_policy(folder)


def test_a_config_that_does_not_fit_is_named(folder: Path):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["policy"]["trunk"]["widht"] = config["policy"]["trunk"].pop("width")
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="key in config.json.policy.trunk 'widht'.*'width'"):
        load_policy(folder)
    config["policy"]["trunk"] = {"width": "wide"}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json.policy.trunk.width: expected int, got str"):
        load_policy(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_policy(folder)


def test_a_folder_without_a_policy_says_what_belongs_there(tmp_path: Path):
    with pytest.raises(ValueError, match="config.json does not exist.*ulna train"):
        load_policy(tmp_path)
