"""Pixels: the shift against a loop, key points where things are, the words in the features."""

import pytest
import torch

from ulna.policies.image_transforms import random_shift, to_float
from ulna.policies.vision import KeypointVision, KeypointVisionConfig


def make_encoder() -> KeypointVision:
    torch.manual_seed(0)
    return KeypointVision(KeypointVisionConfig(width=8, maps=16, tokens=3), 4, 16, 32, 48)


def test_random_shift_equals_a_loop_over_pixels():
    images = torch.randint(0, 256, (3, 8, 6, 3), dtype=torch.uint8)
    shifted, offset = random_shift(images, 2, torch.Generator().manual_seed(0))
    assert offset.any()
    for i in range(3):
        dx, dy = round(float(offset[i, 0]) * 6 / 2), round(float(offset[i, 1]) * 8 / 2)
        for y in range(8):
            for x in range(6):
                source = images[i, min(max(y - dy, 0), 7), min(max(x - dx, 0), 5)]
                assert torch.equal(shifted[i, y, x], source)


def test_to_float_spans_minus_one_to_one_channels_first():
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(1, 2, 4, 3)
    floats = to_float(image)
    assert floats.shape == (1, 3, 2, 4)
    assert torch.allclose(floats[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_key_points_follow_the_thing_and_the_shift_is_taken_off_again():
    encoder = make_encoder()
    where: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        where.append(inputs[0].unflatten(1, (-1, 3))[..., :2] / 2)

    encoder.to_trunk.register_forward_pre_hook(keep)
    torch.nn.init.normal_(encoder.maps.weight, std=20.0)  # sharp maps
    image = torch.zeros(1, 3, 32, 48)
    image[:, :, 12:16, 16:20] = 5.0
    moved = image.roll((8, 12), (2, 3))  # by two cells down and three to the right
    offset = torch.tensor([[12 * 2 / 48, 8 * 2 / 32]])
    condition = torch.ones(1, 4)
    encoder(image, condition)
    encoder(moved, condition)
    encoder(moved, condition, offset)
    cell = torch.tensor([2 / (48 / 4 - 1), 2 / (32 / 4 - 1)])  # between neighbours on the grid
    moves = where[1] - where[0]
    followed = (moves - torch.tensor([3.0, 2.0]) * cell).abs().amax(-1) < 0.05
    assert followed.any()  # maps drawn to the thing; others look at the image's edge
    assert torch.allclose(where[2], where[1] - offset[:, None], atol=1e-6)


def test_the_condition_changes_what_is_seen():
    encoder = make_encoder()
    image = torch.randn(1, 3, 32, 48)
    a, b = encoder(image, torch.ones(1, 4)), encoder(image, -torch.ones(1, 4))
    assert (a - b).abs().max() > 1e-3


def test_refuses_images_that_do_not_divide_by_the_stride():
    with pytest.raises(ValueError, match="30x48 do not divide by the stride 4"):
        KeypointVision(KeypointVisionConfig(), 4, 16, 30, 48)
