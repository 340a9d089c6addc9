"""Which encoder a camera has; key points where things are, the words in the features."""

import pytest
import torch

from ulna.policies.vision import (
    FilmGridConfig,
    KeypointVision,
    KeypointVisionConfig,
    PatchConfig,
    TimmConfig,
    VisionConfig,
    VitConfig,
    make_vision,
)

SMALL: dict[str, VisionConfig] = {
    "keypoints": KeypointVisionConfig(width=8, blocks=1, maps=4, tokens=2),
    "film_grid": FilmGridConfig(width=8, blocks=1),
    "vit": VitConfig(width=16, depth=2, heads=2),
    "vit_separate_pooled": VitConfig(overlap=False, width=16, depth=1, heads=2, pool=2),
    "vit_blind": VitConfig(film=False, width=16, depth=1, heads=2),
    "patch": PatchConfig(),
    "timm": TimmConfig(model="test_convnext", weights="none", frozen=False, image_size=64),
}
BLIND = ("vit_blind", "patch")  # what the instruction does not reach


def make_encoder() -> KeypointVision:
    torch.manual_seed(0)
    return KeypointVision(KeypointVisionConfig(width=8, maps=16, tokens=3), 4, 16, 32, 48)


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


@pytest.mark.parametrize("name", SMALL)
def test_every_encoder_gives_its_tokens_and_learns_with_every_parameter(name):
    torch.manual_seed(0)
    encoder = make_vision(SMALL[name], 4, 16, 32, 48)
    images = torch.rand(3, 3, 32, 48) * 2 - 1
    condition = torch.randn(3, 4, requires_grad=True)
    shift = torch.tensor([[0.1, -0.1], [0.0, 0.0], [-0.05, 0.2]])
    tokens = encoder(images, condition, shift)
    assert tokens.shape == (3, encoder.tokens, 16)
    assert torch.isfinite(tokens).all()
    tokens.square().sum().backward()
    silent = [
        key
        for key, parameter in encoder.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert silent == []
    for parameter in encoder.parameters():  # wake what starts at zero
        torch.nn.init.normal_(parameter.data, std=0.2) if not parameter.any() else None
    encoder.eval()
    other = encoder(images, -condition, shift)
    changed = (other - encoder(images, condition, shift)).abs().max() > 1e-5
    assert bool(changed) == (name not in BLIND)


@pytest.mark.parametrize("name", SMALL)
def test_a_row_does_not_depend_on_its_neighbours(name):
    torch.manual_seed(0)
    encoder = make_vision(SMALL[name], 4, 16, 32, 48).eval()
    images, condition = torch.rand(3, 3, 32, 48) * 2 - 1, torch.randn(3, 4)
    together = encoder(images, condition)
    assert torch.allclose(together[1:2], encoder(images[1:2], condition[1:2]), atol=1e-5)


@pytest.mark.parametrize("name", ["keypoints", "film_grid", "vit", "patch", "timm"])
def test_a_shift_of_nothing_is_no_shift(name):
    encoder = make_vision(SMALL[name], 4, 16, 32, 48).eval()
    images, condition = torch.rand(2, 3, 32, 48), torch.randn(2, 4)
    still = encoder(images, condition, torch.zeros(2, 2))
    assert torch.allclose(still, encoder(images, condition), atol=1e-6)
