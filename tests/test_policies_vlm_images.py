"""Preprocessing on the device against the processors of transformers and LeRobot's padding."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoImageProcessor
from vlm_checkpoints import FAMILIES, write_checkpoint

from ulna.policies.vlm import VlmBackbone, VlmConfig
from ulna.policies.vlm_images import area_size, pad_to_square, patch_rows, resize, to_levels

SIZES = ((40, 52), (61, 33), (24, 90), (128, 96))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("vlm_images")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


def noise(height: int, width: int, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_processor(checkpoints, family) -> None:
    """Within one grey level in single pixels, on white noise (Pillow and torch round their weights
    to fixed point); SmolVLM's processor is Pillow's Lanczos, the others are torch's bicubic."""
    backbone = VlmBackbone(VlmConfig(weights=str(checkpoints[family]), dtype="float32"))
    processor = AutoImageProcessor.from_pretrained(checkpoints[family])
    mine_of = backbone.family
    level = 1 / min(mine_of.norm.std)
    for height, width in SIZES:
        images = noise(height, width)
        options = {"do_image_splitting": False} if family == "smolvlm" else {}
        given = [image.permute(2, 0, 1) for image in images]
        theirs = processor(images=given, return_tensors="pt", **options)
        mine = mine_of.pixels(to_levels("front", images))
        if family.startswith("qwen"):
            mine = patch_rows(mine, 4, 2, 2)
            tall, wide = mine_of.size(height, width)
            assert theirs["image_grid_thw"].tolist() == [[1, tall // 4, wide // 4]] * 2
        pixels = theirs["pixel_values"].reshape(mine.shape)
        error = (mine - pixels).abs()
        assert error.max() <= 1.01 * level
        assert error.mean() <= 0.02 * level
        floats = mine_of.pixels(to_levels("front", images.float() / 255))
        if family.startswith("qwen"):
            floats = patch_rows(floats, 4, 2, 2)
        assert (floats - mine).abs().max() < 1e-3


def lerobot_images() -> ModuleType:
    """LeRobot's file alone: importing its package `policies` takes 15 s."""
    package = importlib.util.find_spec("lerobot")
    assert package is not None and package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "policies" / "common" / "vla_utils.py"
    spec = importlib.util.spec_from_file_location("lerobot_vla_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", SIZES)
def test_padding_equals_lerobot(size) -> None:
    theirs = lerobot_images()
    unit = noise(*size).permute(0, 3, 1, 2).float() / 255
    left_top = pad_to_square(unit * 255, 64, left_top=True)
    expected = theirs.resize_with_pad(unit, 64, 64, pad_value=0)
    torch.testing.assert_close(left_top / 255, expected, atol=1e-5, rtol=0)
    around = pad_to_square(unit * 255, 64, left_top=False)
    expected = theirs.resize_with_pad_torch(unit, 64, 64)
    torch.testing.assert_close(around / 255, expected, atol=1e-5, rtol=0)


def test_padded_images_enter_the_vlm(checkpoints) -> None:
    """SmolVLA's way changes what the tower sees, and black is the processor's black."""
    images = {"front": noise(24, 90)}
    plain = VlmBackbone(VlmConfig(weights=str(checkpoints["smolvlm"]), dtype="float32"))
    padded = VlmBackbone(
        VlmConfig(weights=str(checkpoints["smolvlm"]), dtype="float32", resize="pad_left_top")
    )
    pixels = padded.family.pixels(to_levels("front", images["front"]))
    assert pixels.shape[-2:] == (32, 32)
    assert torch.equal(pixels[:, :, :16], torch.full((2, 3, 16, 32), -1.0))
    keys = plain.context(images, ("go", "go")).keys[-1]
    assert not torch.allclose(keys, padded.context(images, ("go", "go")).keys[-1], atol=1e-3)


def test_qwen_area_bounds() -> None:
    assert area_size(100, 100, 28, 56 * 56, 1280 * 28 * 28) == (112, 112)
    tall, wide = area_size(2000, 3000, 28, 56 * 56, 1280 * 28 * 28)
    assert tall * wide <= 1280 * 28 * 28 and tall % 28 == wide % 28 == 0
    tall, wide = area_size(10, 20, 28, 56 * 56, 1280 * 28 * 28)
    assert tall * wide >= 56 * 56


def test_lanczos_is_not_rounded_by_autocast() -> None:
    levels = noise(40, 52).permute(0, 3, 1, 2).float()
    plain = resize(levels, 32, 32, "lanczos")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(levels, 32, 32, "lanczos"), plain)
