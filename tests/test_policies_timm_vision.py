"""Encoders of timm: files written here, read by the real code; a ViT, a CNN and a channels-last
one. No network."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ulna.policies.timm_vision import TimmConfig, TimmVision

timm = pytest.importorskip("timm")
VIT, CNN, NHWC = "test_vit2", "test_convnext", "swin_tiny_patch4_window7_224"


def write_weights(path: Path, model: str, classes: int = 3, **options: object) -> Any:
    """A random `model` with its classifier, as published ones have it, saved to `path`."""
    torch.manual_seed(1)
    source = timm.create_model(model, num_classes=classes, **options).eval()
    save_file({key: x.contiguous() for key, x in source.state_dict().items()}, path)
    return source


def make(model: str, weights: str = "none", side: int = 64, **options: bool | int) -> TimmVision:
    torch.manual_seed(0)
    config = TimmConfig(model=model, weights=weights, image_size=side, **options)  # pyright: ignore
    return TimmVision(config, 4, 16, 48, 64)


@pytest.mark.parametrize(("model", "tokens"), [(VIT, 16), (CNN, 4)])
def test_a_local_file_gives_the_features_of_the_model_it_came_from(tmp_path, model, tokens):
    options = {"img_size": 64} if model == VIT else {}
    source = write_weights(tmp_path / "w.safetensors", model, **options)
    encoder = make(model, str(tmp_path / "w.safetensors")).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(source.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = source.forward_features((images - mean) / std)
    if model == VIT:
        assert source.num_prefix_tokens > 0
        expected = expected[:, source.num_prefix_tokens :]
    else:
        expected = expected.flatten(2).transpose(1, 2)
    seen = []
    encoder.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    out = encoder(2 * images - 1, torch.zeros(2, 4))
    assert out.shape == (2, tokens, 16) == (2, encoder.tokens, 16)
    assert torch.allclose(seen[0], expected, atol=1e-4)


def test_a_map_with_channels_last_is_read_row_by_row():
    options = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1)}
    small = timm.create_model(NHWC, num_classes=0, num_heads=(1, 1, 1, 1), **options).eval()
    encoder = make(CNN)
    encoder.model = small
    images = torch.rand(1, 3, 64, 64)
    cells, rows, columns = encoder._cells(images)
    expected = small.forward_features(images)
    assert expected.shape == (1, 2, 2, 128) and (rows, columns) == (2, 2)
    assert torch.equal(cells, expected.reshape(1, 4, 128))


def test_positions_of_another_size_are_resampled(tmp_path):
    write_weights(tmp_path / "w.safetensors", VIT, img_size=96)
    encoder = make(VIT, str(tmp_path / "w.safetensors"), side=64)
    assert encoder.model.pos_embed.abs().sum() > 0
    assert encoder.tokens == 16


@pytest.mark.parametrize("model", [VIT, "test_resnet"])
def test_frozen_has_no_gradients_and_keeps_its_statistics(model):
    encoder = make(model).train()
    assert not encoder.model.training and encoder.training
    before = {key: x.clone() for key, x in encoder.model.state_dict().items()}
    encoder(torch.rand(2, 3, 48, 64), torch.randn(2, 4)).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in encoder.model.parameters())
    assert encoder.to_trunk.weight.grad is not None
    assert all(torch.equal(x, before[key]) for key, x in encoder.model.state_dict().items())
    free = make(model, frozen=False).train()
    assert free.model.training


def test_a_parameter_that_takes_no_part_is_not_trained():
    encoder = make(CNN, frozen=False)
    idle = {key for key, p in encoder.model.named_parameters() if not p.requires_grad}
    assert idle == {"head.norm.weight", "head.norm.bias"}
    assert all(p.grad is None for p in encoder.model.parameters())


def test_film_starts_as_identity_and_pooling_follows_it():
    encoder = make(VIT, pool=2).eval()
    images, condition = torch.rand(1, 3, 48, 64), torch.randn(1, 4)
    assert encoder.tokens == 4 and encoder.film is not None
    assert torch.equal(encoder(images, condition), encoder(images, -condition))
    torch.nn.init.normal_(encoder.film.weight, std=0.3)
    assert (encoder(images, condition) - encoder(images, -condition)).abs().max() > 1e-3


def test_weights_are_left_alone_when_the_policy_brings_its_own():
    config = TimmConfig(model=VIT, weights="gone.safetensors", image_size=64)
    TimmVision(config, 4, 16, 48, 64, load_weights=False)
    with pytest.raises(ValueError, match="gone.safetensors do not exist"):
        TimmVision(config, 4, 16, 48, 64)


def test_the_hub_is_asked_for_safetensors_only(tmp_path, monkeypatch):
    asked = []
    write_weights(tmp_path / "w.safetensors", "test_vit")

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / "w.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    make("test_vit.r160_in1k", weights="hub", side=160)
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]


def test_files_that_do_not_fit_are_refused_by_key(tmp_path):
    path = tmp_path / "w.safetensors"
    source = write_weights(path, VIT, img_size=64)
    good = {key: x.contiguous() for key, x in source.state_dict().items()}
    key = "blocks.0.norm1.weight"
    norm = good.pop(key)
    save_file(good, path)
    with pytest.raises(ValueError, match="missing: blocks.0.norm1.weight"):
        make(VIT, str(path))
    save_file({**good, key: norm[:-1].contiguous()}, path)
    with pytest.raises(ValueError, match="misshapen: blocks.0.norm1.weight is .63,., not .64,."):
        make(VIT, str(path))
    save_file({**good, key: norm, "norm.wait": norm.clone()}, path)
    with pytest.raises(ValueError, match="surplus: norm.wait"):
        make(VIT, str(path))
    path.write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(ValueError, match="not a safetensors file"):
        make(VIT, str(path))


@pytest.mark.parametrize(
    ("model", "weights", "side", "words"),
    [
        ("vit_smal_patch14_dinov2", "none", 64, "Nearest: .*vit_small_patch14_dinov2"),
        (VIT, "weights.pth", 64, "expected 'hub', 'none' or a .safetensors file"),
        (VIT, "none", 60, "60 does not divide .*image-size 48"),
        ("test_vit2.none_such", "none", 64, "unknown timm model"),
    ],
)
def test_refusals(model, weights, side, words):
    with pytest.raises(ValueError, match=words):
        make(model, weights, side)


def test_without_timm_it_says_how_to_get_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else found(name)
    )
    with pytest.raises(ValueError, match="uv add timm"):
        make(VIT)
