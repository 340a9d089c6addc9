"""Reading VLM folders strictly, rebuilding without them, and what learns in them."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from vlm_checkpoints import FAMILIES, write_checkpoint

from ulna.policies.vlm import VlmBackbone, VlmConfig

WORDS = ("pick up the red cube", "push left")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("vlm_files")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


@pytest.fixture
def folder(checkpoints, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(checkpoints["smolvlm"], tmp_path / "smolvlm"))


def build(folder: Path, **config: object) -> VlmBackbone:
    return VlmBackbone(VlmConfig(weights=str(folder), dtype="float32", **config))  # type: ignore[arg-type]


def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"front": torch.randint(0, 256, (2, 40, 52, 3), dtype=torch.uint8, generator=generator)}


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# ---------------------------------------------------------------------- strictness


@pytest.mark.parametrize("layers", [0, 1])
def test_missing_surplus_and_misshapen_weights_are_named(folder, layers) -> None:
    key = "model.text_model.layers.0.self_attn.k_proj.weight"
    whole = load_file(folder / "model.safetensors")

    rewrite(folder, lambda weights: weights.pop(key))
    with pytest.raises(ValueError, match=r"the weights lack model\.text_model\.layers\.0.*k_proj"):
        build(folder, layers=layers)
    save_file(
        whole | {"model.text_model.layers.0.rogue": torch.ones(2)}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"hold the unknown model\.text_model\.layers\.0\.rogue"):
        build(folder, layers=layers)
    save_file(
        whole | {"model.vision_model.encoder.layers.2.layer_norm1.bias": torch.ones(16)},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"hold the unknown .*vision_model.encoder.layers.2"):
        build(folder, layers=layers)
    save_file(whole | {key: torch.ones(3, 3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"have another shape for .*k_proj\.weight \(1 in all"):
        build(folder, layers=layers)


def test_other_weight_formats_are_refused(folder) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no readable model\.safetensors"):
        build(folder)


def test_a_truncated_file_is_named(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        build(folder)


def test_wrong_folders_say_what_to_do(folder, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="no weights: give"):
        VlmBackbone(VlmConfig())
    with pytest.raises(ValueError, match=r"neither a folder nor a Hub id.*hf download"):
        build(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json \(it holds nothing\).*hf download"):
        build(tmp_path / "empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"hf download ulna/not-there --local-dir not-there"):
        VlmBackbone(VlmConfig(weights="ulna/not-there"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(ValueError, match=r"'llava' is not a supported VLM.*smolvlm, paligemma"):
        build(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        build(folder)


def test_unsupported_insides_are_refused(checkpoints, folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="3 text layers, got layers 4"):
        build(folder, layers=4)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rotary positions of type 'linear'"):
        build(folder)
    qwen = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "qwen"))
    config = json.loads((qwen / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    (qwen / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="sliding_attention; only full"):
        build(qwen)


def test_a_checkpoint_without_tokenizer_is_refused(folder) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"needs tokenizer\.json"):
        build(folder)


# ---------------------------------------------------------------------- rebuilding


@pytest.mark.parametrize("family", FAMILIES)
def test_rebuilt_from_files_and_weights(checkpoints, family, tmp_path) -> None:
    """Without the original folder: configuration and tokenizer from ours, weights from ours."""
    source = Path(shutil.copytree(checkpoints[family], tmp_path / "gone"))
    backbone = build(source, layers=2).eval()
    backbone.save_files(tmp_path / "ours")
    save_file(backbone.state_dict(), tmp_path / "ours" / "model.safetensors")
    shutil.rmtree(source)
    again = VlmBackbone.from_config(backbone.config, tmp_path / "ours").eval()
    again.load_state_dict(load_file(tmp_path / "ours" / "model.safetensors"))
    first, second = (b.context(images(), WORDS) for b in (backbone, again))
    assert first.layout == second.layout
    for one, other in zip(first.keys + first.values, second.keys + second.values, strict=True):
        assert torch.equal(one, other)
    assert again.weights_fingerprint() == backbone.weights_fingerprint()


def test_a_copy_runs_alone(checkpoints) -> None:
    """As a moving average of the weights needs it."""
    backbone = build(checkpoints["qwen3_vl"]).eval()
    before = backbone.context(images(), WORDS).keys[-1]
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert torch.equal(twin.context(images(), WORDS).keys[-1], before)


def test_fingerprint_follows_the_pretrained_weights(checkpoints) -> None:
    plain = build(checkpoints["smolvlm"])
    lora = build(checkpoints["smolvlm"], training="lora")
    assert plain.weights_fingerprint() == lora.weights_fingerprint()
    assert (
        build(checkpoints["smolvlm"], layers=2).weights_fingerprint() != plain.weights_fingerprint()
    )
    before = plain.weights_fingerprint()
    with torch.no_grad():
        next(plain.parameters()).view(-1)[0] += 1e-3
    assert plain.weights_fingerprint() != before


# ---------------------------------------------------------------------- learning


class Expert(nn.Module):
    """Stands for the action expert: attends to all keys and values."""

    def __init__(self, backbone: VlmBackbone) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(backbone.kv_heads, 4, backbone.head_dim) * 0.1)

    def forward(self, context) -> torch.Tensor:
        loss = torch.zeros(())
        for key, value in zip(context.keys, context.values, strict=True):
            scores = self.query @ key.transpose(-1, -2)
            scores = scores.masked_fill(~context.valid[:, None, None], float("-inf"))
            loss = loss + (scores.softmax(-1) @ value).square().mean()
        return loss


def step(backbone: VlmBackbone, lr: float = 1e-2) -> torch.Tensor:
    torch.manual_seed(0)
    backbone.train()
    expert = Expert(backbone)
    learned = [p for p in [*backbone.parameters(), *expert.parameters()] if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=lr)
    loss = expert(backbone.context(images(), WORDS))
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_stays_bit_identical(checkpoints, family) -> None:
    backbone = build(checkpoints[family])
    before = backbone.context(images(), WORDS)
    step(backbone)
    after = backbone.context(images(), WORDS)
    assert backbone.training and not backbone.model.training
    assert not backbone.trainable_names()
    for one, other in zip(before.keys + before.values, after.keys + after.values, strict=True):
        assert torch.equal(one, other) and not other.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_starts_as_the_model_learns_and_merges(checkpoints, family) -> None:
    plain = build(checkpoints[family], layers=2).eval().context(images(), WORDS)
    backbone = build(checkpoints[family], layers=2, training="lora", lora_rank=2)
    text = backbone.family.text_name
    start = backbone.eval().context(images(), WORDS)
    assert torch.equal(start.keys[-1].detach(), plain.keys[-1])
    adapted = {f"{text}.layers.0.self_attn.{p}_proj" for p in "qkvo"}
    adapted |= {f"{text}.layers.1.self_attn.{p}_proj" for p in "kv"}  # the last stops there
    assert set(backbone.adapted) == adapted
    expected = {f"model.{n}.lora_{side}.default.weight" for n in adapted for side in "AB"}
    assert set(backbone.trainable_names()) == expected
    weights = {n: p.clone() for n, p in backbone.named_parameters() if not p.requires_grad}
    step(backbone)  # A gets a gradient only once B is no longer zero
    for name, parameter in backbone.named_parameters():
        if ".lora_B." in name:
            assert parameter.any(), name
            nn.init.normal_(parameter, std=0.05)
    backbone.zero_grad()
    step(backbone, lr=0)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, weights[name])
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    learned = backbone.eval().context(images(), WORDS)
    assert (learned.keys[-1] - plain.keys[-1]).abs().max() > 1e-4
    merged = build(checkpoints[family], layers=2).eval()
    merged.load_state_dict(backbone.merged_state_dict())
    flat = merged.context(images(), WORDS)
    torch.testing.assert_close(flat.keys[-1], learned.keys[-1].detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.values[-1], learned.values[-1].detach(), atol=1e-5, rtol=0)


def test_lora_in_bfloat16_learns_in_float32(checkpoints, tmp_path) -> None:
    config = VlmConfig(
        weights=str(checkpoints["smolvlm"]), training="lora", lora_targets=("k_proj",)
    )
    backbone = VlmBackbone(config)
    kinds = {p.requires_grad: p.dtype for p in backbone.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert backbone.context(images(), WORDS).keys[-1].dtype == torch.bfloat16
    backbone.save_files(tmp_path)
    again = VlmBackbone.from_config(config, tmp_path)
    again.load_state_dict(backbone.state_dict())
    assert {n: p.dtype for n, p in again.named_parameters()} == {
        n: p.dtype for n, p in backbone.named_parameters()
    }
    with pytest.raises(ValueError, match="LoRA target"):
        build(checkpoints["smolvlm"], training="lora", lora_targets=("k_porj",))
    with pytest.raises(ValueError, match="lora_rank"):
        build(checkpoints["smolvlm"], training="lora", lora_rank=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_reaches_every_weight(checkpoints, family) -> None:
    """Also what data-parallel wrappers need: no parameter without a gradient. And acting before
    learning leaves nothing behind that a backward pass could not use."""
    backbone = build(checkpoints[family], training="full")
    with torch.inference_mode():
        backbone.context(images(), WORDS)
    step(backbone)
    idle = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not idle
