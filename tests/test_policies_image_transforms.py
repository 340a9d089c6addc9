"""Pixels: the shift against a loop, padding against arithmetic, cameras never all dropped."""

import pytest
import torch

from ulna.policies.image_transforms import drop_cameras, random_shift, resize_with_pad, to_float


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


def test_resize_with_pad_keeps_the_aspect_and_the_centre():
    wide = torch.full((2, 30, 60, 3), 200, dtype=torch.uint8)
    out = resize_with_pad(wide, 40, 40)
    assert out.shape == (2, 40, 40, 3) and out.dtype == torch.uint8
    assert (out[:, 10:30] == 200).all()  # 30x60 becomes 20x40, ten rows of black above and below
    assert not out[:, :10].any() and not out[:, 30:].any()
    tall = resize_with_pad(torch.full((60, 30, 3), 7, dtype=torch.uint8), 30, 30)
    assert (tall[:, 7:22] == 7).all() and int(tall.sum()) == 7 * 30 * 15 * 3


def test_resize_with_pad_leaves_frames_that_fit_and_only_pads_smaller_aspects():
    images = torch.randint(0, 256, (2, 3, 16, 24, 3), dtype=torch.uint8)  # with history
    assert resize_with_pad(images, 16, 24) is images
    padded = resize_with_pad(images, 20, 24)
    assert torch.equal(padded[..., 2:18, :, :], images)


def test_resize_with_pad_is_antialiased():
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 254
    out = resize_with_pad(stripes, 16, 16).int()
    assert ((out - 127).abs() <= 8)[:, :, 1:-1].all()


def test_cameras_are_dropped_as_often_as_asked_and_never_all():
    names = ("front", "wrist", "side")
    seen = drop_cameras(names, 20_000, 0.3, torch.Generator().manual_seed(0))
    table = torch.stack([seen[name] for name in names])
    assert table.any(dim=0).all()
    kept = 0.7 + 0.3**3 / 3  # dropped by 0.3, brought back where all three were
    assert ((table.float().mean(dim=1) - kept).abs() < 0.015).all()
    again = drop_cameras(names, 20_000, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(again["wrist"], seen["wrist"])
    pair = table[0] & table[1]
    assert abs(float(pair.float().mean()) - 0.49) < 0.015  # independently


def test_a_row_keeps_a_camera_that_it_has():
    lacks = torch.arange(60) % 3 != 0  # every third row has no wrist camera
    seen = drop_cameras(("front", "wrist"), 60, 0.9, present={"wrist": lacks})
    assert not seen["wrist"][~lacks].any()
    assert (seen["front"] | seen["wrist"]).all()
    nothing = drop_cameras(("front",), 4, 0.5, present={"front": torch.tensor([False] * 4)})
    assert not nothing["front"].any()


def test_stacked_frames_are_shifted_alike():
    frames = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    shifted, _ = random_shift(torch.cat([frames, frames], dim=-1), 3)
    assert torch.equal(shifted[..., :3], shifted[..., 3:])


def test_camera_dropout_at_its_ends():
    every = drop_cameras(("a", "b"), 50, 0.0)
    assert every["a"].all() and every["b"].all()
    single = drop_cameras(("a", "b"), 50, 1.0)
    assert (single["a"] ^ single["b"]).all()
    assert drop_cameras((), 4, 0.5) == {}
    with pytest.raises(ValueError, match="0..1, got 1.5"):
        drop_cameras(("a",), 4, 1.5)
