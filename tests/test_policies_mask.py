"""Masks expand to what their drawing says, and know what may be cached."""

import pytest
import torch

from ulna.policies.mask import (
    MASKS,
    Mask,
    bidirectional_vision_mask,
    causal_mask,
    joint_mask,
    mutual_mask,
    prefix_mask,
)

CONTEXT = ["text", "state"]


def test_prefix_expands_to_the_drawing():
    layout = [("text", 2), ("state", 1), ("action", 2)]
    mask = prefix_mask(CONTEXT, ["action"]).expand(layout, layout)
    assert mask is not None
    expected = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    ).bool()
    assert torch.equal(mask, expected)


def test_causal_is_block_causal_and_causal_inside():
    layout = [("text", 2), ("state", 1)]
    mask = causal_mask(CONTEXT, ["action"]).expand(layout, layout)
    assert mask is not None
    assert torch.equal(mask, torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool())


def test_a_mask_that_hides_nothing_is_none():
    layout = [("text", 2), ("state", 1)]
    assert prefix_mask(CONTEXT, ["action"]).expand(layout, layout) is None


@pytest.mark.parametrize("make", [prefix_mask, joint_mask, causal_mask])
def test_the_context_is_cacheable_when_only_the_action_is_timed(make):
    assert make(CONTEXT, ["action"]).cacheable(["action"]) == ("text", "state")


def test_time_reaches_a_group_through_another():
    # state sees action (timed), text sees state: neither may be cached.
    mask = Mask({"text": {"state": "full"}, "state": {"action": "full"}, "action": {}, "map": {}})
    assert mask.cacheable(["action"]) == ("map",)


def test_joint_lets_generated_groups_see_each_other_and_prefix_does_not():
    generated = ["action", "future"]
    assert joint_mask(CONTEXT, generated).between("action", "future") == "full"
    assert prefix_mask(CONTEXT, generated).between("action", "future") == "none"


def test_refusals():
    with pytest.raises(ValueError, match="unknown token group 'txt'.*Did you mean 'text'"):
        prefix_mask(CONTEXT, ["action"]).between("txt", "state")
    mask = Mask({"a": {"b": "causal"}, "b": {}})
    with pytest.raises(ValueError, match="equal"):
        mask.expand([("a", 2)], [("b", 3)])


def test_images_see_the_instruction_behind_them_under_mma_and_each_other_under_croc():
    context = ["image.a", "image.b", "text", "state"]
    causal, mutual, vision = (
        make(context, ["action"]) for make in (causal_mask, mutual_mask, bidirectional_vision_mask)
    )
    for mask, sees_text, sees_later_image, inside in (
        (causal, "none", "none", "causal"),
        (mutual, "full", "none", "causal"),
        (vision, "none", "full", "full"),
    ):
        assert mask.between("image.a", "text") == sees_text
        assert mask.between("image.a", "image.b") == sees_later_image
        assert mask.between("image.b", "image.b") == inside
        assert mask.between("text", "image.a") == "full"
        assert mask.between("text", "text") == "causal"
        assert mask.between("image.b", "state") == "none"


@pytest.mark.parametrize("name", MASKS)
def test_no_mask_shows_a_generated_token_to_the_context(name: str):
    context = ["image.a", "text", "state", "image.b"]
    mask = MASKS[name](context, ["action", "future"])
    for row in context:
        assert all(mask.between(row, column) == "none" for column in ("action", "future"))
    assert mask.cacheable(["action", "future"]) == tuple(context)
