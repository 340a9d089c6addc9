"""Masks expand to what their drawing says, and know what may be cached."""

import pytest
import torch

from ulna.policies.mask import Mask, causal_mask, joint_mask, prefix_mask

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
