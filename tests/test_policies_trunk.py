"""The trunk: caching changes nothing, the mask is obeyed, the border refuses."""

import pytest
import torch

from ulna.policies.attention import attend
from ulna.policies.expert import Expert, TrunkConfig
from ulna.policies.mask import causal_mask, joint_mask, prefix_mask
from ulna.policies.trunk import Group, Trunk

CONFIG = TrunkConfig(width=32, depth=3, heads=4)
CONTEXT = ["text", "state"]
TIMES = torch.tensor([0.3, 0.8])
EXPERTS = {"context": Expert(), "action": Expert(time="adaln")}


def make_trunk(make_mask=prefix_mask, experts=None) -> Trunk:
    torch.manual_seed(0)
    trunk = Trunk(CONFIG, experts or EXPERTS, make_mask(CONTEXT, ["action"]), ["action"])
    for parameter in trunk.parameters():  # AdaLN-Zero starts at identity: wake it up
        torch.nn.init.normal_(parameter, std=0.3)
    return trunk.eval()


def make_groups(batch: int = 2) -> tuple[list[Group], Group]:
    """The context groups and an action group."""
    generator = torch.Generator().manual_seed(1)

    def draw(tokens: int) -> torch.Tensor:
        return torch.randn(batch, tokens, CONFIG.width, generator=generator)

    context = [Group("text", draw(3)), Group("state", draw(1))]
    return context, Group("action", draw(5), expert="action", t=TIMES[:batch])


@pytest.mark.parametrize("make_mask", [prefix_mask, joint_mask, causal_mask])
@pytest.mark.parametrize("grad", [True, False])
def test_cached_context_gives_what_the_joint_pass_gives(make_mask, grad):
    trunk = make_trunk(make_mask)
    context, action = make_groups()
    with torch.set_grad_enabled(grad):
        plain = trunk([*context, action])
        cache = trunk.context(context)
        cached = trunk([action], cache)
    assert torch.allclose(cached["action"], plain["action"], atol=1e-5)
    assert torch.allclose(cache.outputs["text"], plain["text"], atol=1e-5)


def test_an_expert_nobody_reads_stops_at_keys_and_values_and_changes_nothing_else():
    full = make_trunk()
    short = make_trunk(experts={"context": Expert(read=False), "action": Expert(time="adaln")})
    missing = full.state_dict().keys() - short.state_dict().keys()
    assert missing and all(".context." in f".{name}." for name in missing)
    short.load_state_dict({k: v for k, v in full.state_dict().items() if k not in missing})
    context, action = make_groups()
    cache = short.context(context)
    assert cache.outputs == {}
    expected = full([*context, action])["action"]
    assert torch.allclose(short([action], cache)["action"], expected, atol=1e-5)
    assert torch.allclose(short([*context, action])["action"], expected, atol=1e-5)


def test_reserved_cache_is_written_in_place_and_equal():
    trunk = make_trunk()
    context, action = make_groups()
    with torch.no_grad():
        cache = trunk.context(context)
        live = cache.reserve(action.length)
        buffers = [tensor.data_ptr() for tensor in live.keys]
        outputs = [trunk([action], live)["action"] for _ in range(3)]
        assert [tensor.data_ptr() for tensor in live.keys] == buffers
        assert torch.allclose(outputs[-1], trunk([action], cache)["action"], atol=1e-5)


def test_repeat_gives_each_draw_its_own_context_row():
    trunk = make_trunk()
    context, action = make_groups()
    twice = Group("action", action.x.repeat_interleave(2, 0), "action", TIMES.repeat_interleave(2))
    cache = trunk.context(context)
    once = trunk([action], cache)["action"]
    assert torch.allclose(
        trunk([twice], cache.repeat(2))["action"], once.repeat_interleave(2, 0), atol=1e-5
    )


def test_the_context_does_not_see_the_action_and_the_action_sees_the_context():
    trunk = make_trunk()
    context, action = make_groups()
    # Not a constant: layer norms would take that off again.
    other = Group("action", action.x.flip(-1), "action", action.t)
    before, after = trunk([*context, action]), trunk([*context, other])
    assert torch.equal(before["text"], after["text"])
    changed = [Group("text", context[0].x.flip(-1)), context[1]]
    assert not torch.allclose(trunk([*changed, action])["action"], before["action"], atol=1e-3)


def test_the_flow_time_changes_the_action_only():
    trunk = make_trunk()
    context, action = make_groups()
    later = Group("action", action.x, "action", TIMES * 0.5)
    before, after = trunk([*context, action]), trunk([*context, later])
    assert not torch.allclose(before["action"], after["action"], atol=1e-4)
    assert torch.equal(before["state"], after["state"])


def test_plain_attention_equals_the_fused_kernel():
    query, key, value = (torch.randn(2, 4, n, 8) for n in (5, 7, 7))
    mask = torch.rand(5, 7) > 0.3
    mask[:, 0] = True
    for choice in (None, mask):
        with torch.no_grad():
            fused = attend(query, key, value, choice)
        assert torch.allclose(attend(query, key, value, choice), fused, atol=1e-5)


def test_refusals():
    trunk = make_trunk()
    context, action = make_groups()
    with pytest.raises(ValueError, match="'action' depends on a flow time"):
        trunk.context([*context, action])
    with pytest.raises(ValueError, match="group 'text': expected tokens .batch, tokens, 32."):
        trunk.context([Group("text", torch.zeros(2, 3, 16))])
    with pytest.raises(ValueError, match="unknown expert of group 'text' 'contxt'"):
        trunk.context([Group("text", context[0].x, expert="contxt")])
    with pytest.raises(ValueError, match="expects a flow time"):
        trunk([*context, Group("action", action.x, "action")])
    with pytest.raises(ValueError, match="batch 2"):
        trunk([Group("action", action.x[:1], "action", TIMES[:1])], trunk.context(context))
    with pytest.raises(ValueError, match="room for 4 live tokens, got 5"):
        with torch.no_grad():
            trunk([action], trunk.context(context).reserve(4))
    with pytest.raises(ValueError, match="not a multiple of its 3 heads"):
        TrunkConfig(width=32, heads=3)
