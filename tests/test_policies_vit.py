"""The small vision transformer: smooth under a pixel's move, places exact, words not yet heard."""

import pytest
import torch

from ulna.policies.vit import (
    GridPosition,
    PatchConfig,
    PatchVision,
    VitConfig,
    VitVision,
    overlapping_stem,
)


def make_vit(config: VitConfig, height: int = 32, width: int = 48) -> VitVision:
    torch.manual_seed(0)
    return VitVision(config, 4, 16, height, width).eval()


def stem_features(encoder: VitVision, images: torch.Tensor) -> torch.Tensor:
    """What the stem alone makes of images: `(batch, cells, width)`."""
    kept = []
    hook = encoder.stem_norm.register_forward_pre_hook(lambda _m, inputs: kept.append(inputs[0]))
    encoder(images, torch.zeros(len(images), 4))
    hook.remove()
    return kept[0]


@torch.no_grad()
def strengths(overlap: bool) -> torch.Tensor:
    """How strongly each cell answers, `(place, cells)`, while a 2x2 dot moves to the right pixel by
    pixel through the middle of the second row of patches."""
    encoder = make_vit(VitConfig(overlap=overlap, width=16, heads=2), 32, 32)
    images = torch.zeros(16, 3, 32, 32)
    for i in range(16):
        images[i, :, 11:13, 5 + i : 7 + i] = 1.0
    change = stem_features(encoder, images) - stem_features(encoder, torch.zeros(1, 3, 32, 32))
    return change.norm(dim=-1)


def test_overlapping_patches_hand_a_thing_over_pixel_by_pixel():
    def largest_jump(overlap: bool) -> float:
        """Of a cell's share in the answer, from one pixel to the next."""
        answer = strengths(overlap)
        return float((answer / answer.sum(dim=1, keepdim=True)).diff(dim=0).abs().max())

    assert largest_jump(overlap=True) < 0.3
    assert largest_jump(overlap=False) > 0.4  # a seam is crossed in two steps, half of the dot each


def test_overlapping_patches_see_a_thing_from_more_than_one_cell():
    assert ((strengths(overlap=False) > 1e-6).sum(dim=1) <= 2).all()
    shared = (strengths(overlap=True) > 1e-6).sum(dim=1)
    assert (shared >= 2).all() and shared.float().mean() > 2.5


def test_film_starts_as_identity_and_wakes():
    encoder = make_vit(VitConfig(width=16, depth=2, heads=2))
    plain = make_vit(VitConfig(width=16, depth=2, heads=2, film=False))
    plain.load_state_dict(
        {key: x for key, x in encoder.state_dict().items() if ".film." not in key}
    )
    images, condition = torch.rand(2, 3, 32, 48), torch.randn(2, 4)
    assert torch.equal(encoder(images, condition), plain(images, condition))
    for key, parameter in encoder.named_parameters():
        if key.endswith("film.weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    assert (encoder(images, condition) - plain(images, condition)).abs().max() > 1e-3


def test_positions_move_with_the_shift_and_are_told_apart():
    position = GridPosition(4, 6, 32)
    still = position(None)[0]
    one_cell = torch.tensor([[2 / 6, 2 / 4]])  # a cell to the right and one down
    moved = position(one_cell)[0].reshape(4, 6, 32)
    assert torch.allclose(moved[1:, 1:], still.reshape(4, 6, 32)[:-1, :-1], atol=1e-5)
    distance = torch.cdist(still, still) + torch.eye(24) * 9
    assert distance.min() > 0.5
    near = position(torch.tensor([[0.5 / 6, 0.0]]))[0]
    assert 0.05 < (near - still).norm(dim=-1).min() < distance.min()  # a quarter of a cell shows


@pytest.mark.parametrize("overlap", [True, False])
def test_content_moved_by_whole_patches_keeps_its_tokens_when_the_shift_is_told(overlap):
    """Random cropping by one patch permutes the cells; told of it, each still says the same."""
    encoder = make_vit(VitConfig(width=16, depth=0, heads=2, overlap=overlap), 32, 48)
    image = torch.zeros(1, 3, 32, 48)
    image[:, :, 9:15, 17:23] = torch.rand(3, 6, 6)
    moved = image.roll((8, 16), (2, 3))
    shift = torch.tensor([[16 * 2 / 48, 8 * 2 / 32]])
    condition = torch.zeros(1, 4)
    before = encoder(image, condition).reshape(4, 6, 16)
    after = encoder(moved, condition, shift).reshape(4, 6, 16)
    assert torch.allclose(after[2, 4], before[1, 2], atol=1e-4)
    untold = encoder(moved, condition).reshape(4, 6, 16)
    assert (untold[2, 4] - before[1, 2]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("patch", "side"), [(2, 16), (4, 84), (8, 64), (12, 84), (14, 84), (7, 84)]
)
def test_the_stem_halves_and_rests(patch, side):
    stem = overlapping_stem(patch, 32)
    assert stem(torch.zeros(1, 3, side, side)).shape == (1, 32, side // patch, side // patch)


def test_pooling_is_the_mean_of_neighbouring_cells():
    whole = make_vit(VitConfig(width=16, depth=1, heads=2))
    pooled = make_vit(VitConfig(width=16, depth=1, heads=2, pool=2))
    pooled.load_state_dict(whole.state_dict())
    images, condition = torch.rand(2, 3, 32, 48), torch.randn(2, 4)
    cells = whole(images, condition).reshape(2, 2, 2, 3, 2, 16)
    means = cells.mean(dim=(2, 4)).flatten(1, 2)
    assert pooled.tokens == 6
    assert torch.allclose(pooled(images, condition), means, atol=1e-5)


def test_a_patch_token_is_a_linear_view_of_its_patch_alone():
    torch.manual_seed(0)
    encoder = PatchVision(PatchConfig(patch=8), 4, 16, 16, 24)
    condition = torch.zeros(1, 4)
    image = torch.rand(1, 3, 16, 24)
    changed = image.clone()
    changed[:, :, 8:, 16:] = 0.0  # the last patch
    difference = (encoder(image, condition) - encoder(changed, condition)).abs().amax(dim=-1)[0]
    assert difference[5] > 1e-3 and not difference[:5].any()
    assert sum(p.numel() for p in encoder.parameters()) == 8 * 8 * 3 * 16 + 16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VitVision(VitConfig(), 4, 16, 60, 64), "60x64 do not divide by the patch 8"),
        (lambda: VitVision(VitConfig(pool=3), 4, 16, 64, 64), "the pool 3 .24 pixels."),
        (lambda: PatchVision(PatchConfig(patch=7), 4, 16, 64, 64), "divide by the patch 7"),
        (lambda: VitConfig(width=96, heads=5), "width 96 is not a multiple of its 5 heads"),
        (lambda: PatchVision(PatchConfig(), 4, 18, 64, 64), "multiple of 4, got 18"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
