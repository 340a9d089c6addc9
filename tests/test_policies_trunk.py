"""The trunk: caching changes nothing, the mask is obeyed, the border refuses."""

from dataclasses import replace

import pytest
import torch

from ulna.policies.attention import attend, rotate
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


def test_per_token_times_are_those_of_each_token():
    trunk = make_trunk()
    context, action = make_groups()
    cache = trunk.context(context)
    same = replace(action, t=TIMES[:, None].expand(2, 5))
    assert torch.allclose(
        trunk([same], cache)["action"], trunk([action], cache)["action"], atol=1e-6
    )
    times = TIMES[:, None].expand(2, 5).clone()
    times[:, 2] = 1.0
    mixed = trunk([replace(action, t=times)], cache)["action"]
    assert not torch.allclose(mixed[:, 2], trunk([action], cache)["action"][:, 2], atol=1e-3)


def test_tokens_that_do_not_exist_are_seen_by_nobody_and_give_no_nan():
    trunk = make_trunk()
    context, action = make_groups()
    valid = torch.tensor([[True, True, False], [False, False, False]])
    half = [replace(context[0], valid=valid), context[1]]
    made = trunk([action], trunk.context(half))["action"]
    noise = context[0].x + torch.randn_like(context[0].x) * ~valid[:, :, None]
    other = [Group("text", noise, valid=valid), context[1]]
    assert torch.allclose(trunk([action], trunk.context(other))["action"], made, atol=1e-6)
    assert torch.isfinite(made).all()
    # A row without that group at all gives the same.
    alone = trunk.context([replace(context[1], x=context[1].x[1:])])
    last = Group("action", action.x[1:], "action", TIMES[1:])
    assert torch.allclose(trunk([last], alone)["action"], made[1:], atol=1e-5)
    live = trunk.context(half).reserve(action.length)
    with torch.no_grad():
        assert torch.allclose(trunk([action], live)["action"], made, atol=1e-5)


def build(config: TrunkConfig, experts: dict[str, Expert] = EXPERTS) -> Trunk:
    torch.manual_seed(0)
    trunk = Trunk(config, experts, prefix_mask(CONTEXT, ["action"]), ["action"])
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return trunk.eval()


@pytest.mark.parametrize(
    "changes",
    [{"positions": "rotary"}, {"kv_heads": 2}, {"head_dim": 6}, {"kv_heads": 1, "head_dim": 16}],
    ids=str,
)
def test_cached_equals_whole_for_rotary_positions_and_shared_keys(changes: dict):
    trunk = build(replace(CONFIG, **changes))
    context, action = make_groups()
    whole = trunk([*context, action])["action"]
    cache = trunk.context(context, read=False)
    assert torch.allclose(trunk([action], cache)["action"], whole, atol=1e-4)
    assert cache.keys[0].shape[1] == (changes.get("kv_heads") or CONFIG.heads)
    with torch.no_grad():
        live = cache.reserve(action.length)
        assert torch.allclose(trunk([action], live)["action"], whole, atol=1e-4)


def test_rotary_attention_looks_at_distance_alone():
    trunk = build(replace(CONFIG, positions="rotary"))
    context, action = make_groups()
    cache = trunk.context(context)
    plain = trunk([action], cache)["action"]
    query, key = torch.randn(2, 1, 1, 3, 8)

    def score(offset: int) -> torch.Tensor:
        at = torch.arange(3)[None] + offset
        return rotate(query, at, 1e4) @ rotate(key, at, 1e4).transpose(-1, -2)

    assert torch.allclose(score(0), score(41), atol=1e-4)
    cache.next_position = torch.tensor([9, 9])  # as if more had stood between
    assert not torch.allclose(trunk([action], cache)["action"], plain, atol=1e-3)


def test_an_expert_of_its_own_width_meets_the_others_in_the_attention():
    experts = {"context": Expert(), "action": Expert(time="adaln", width=20)}
    trunk = build(CONFIG, experts)
    context, action = make_groups()
    narrow = replace(action, x=action.x[..., :20])
    made = trunk([*context, narrow])
    assert made["action"].shape == (2, 5, 20) and made["text"].shape[-1] == CONFIG.width
    cached = trunk([narrow], trunk.context(context))["action"]
    assert torch.allclose(cached, made["action"], atol=1e-4)


def test_private_layers_see_their_own_group_alone():
    experts = {
        "context": Expert(),
        "action": Expert(time="adaln", private_depth=2),
        "future": Expert(time="adaln"),
    }
    torch.manual_seed(0)
    trunk = Trunk(CONFIG, experts, joint_mask(CONTEXT, ["action", "future"]), ["action", "future"])
    context, action = make_groups()
    future = Group("future", torch.randn(2, 4, CONFIG.width), "future", TIMES)
    cache = trunk.context(context)
    with torch.no_grad():  # joint layers that change nothing: what is left is private
        for name, parameter in trunk.named_parameters():
            parameter.normal_(std=0.2)
            if "layers" in name and ("out" in name or "down" in name):
                parameter.zero_()
    before = trunk([action, future], cache)
    after = trunk([action, replace(future, x=-future.x)], cache)
    assert torch.allclose(before["action"], after["action"], atol=1e-6)
    assert not torch.allclose(before["future"], after["future"], atol=1e-3)
    shuffled = trunk([replace(action, x=action.x.flip(1)), future], cache)["action"]
    assert torch.allclose(shuffled.flip(1), before["action"], atol=1e-5)  # but its own it sees
    changed = action.x.clone()
    changed[:, 0] = changed[:, 0].flip(-1)
    other = trunk([replace(action, x=changed), future], cache)["action"]
    assert not torch.allclose(other[:, 1], before["action"][:, 1], atol=1e-4)


def test_a_context_of_another_model_stands_before_the_groups():
    trunk = build(CONFIG)
    context, action = make_groups()
    whole = trunk.context(context)
    first = trunk.context(context[:1])
    behind = trunk.context(context[1:], before=first)
    assert behind.layout == whole.layout
    # `text` sees `state` only where both run at once, so compare what `state` itself says.
    assert torch.allclose(behind.keys[0], whole.keys[0], atol=1e-6)
    assert trunk([action], behind)["action"].shape == action.x.shape
    with pytest.raises(ValueError, match="a context of 2 layers before a trunk of 3"):
        trunk.context(context, before=replace(first, keys=first.keys[:2]))


@pytest.mark.parametrize("heads_of_keys", [4, 2])
def test_every_kernel_gives_the_same_attention(heads_of_keys: int):
    query, mask = torch.randn(2, 4, 5, 8), torch.rand(2, 1, 5, 7) > 0.3
    mask[..., 0] = True
    key, value = torch.randn(2, 2, heads_of_keys, 7, 8)
    with torch.no_grad():
        for choice in (None, mask, mask[0, 0]):
            made = [attend(query, key, value, choice, k) for k in ("plain", "fused", "flex")]
            assert torch.allclose(made[0], made[1], atol=1e-5)
            assert torch.allclose(made[0], made[2], atol=1e-5)


def test_sharing_is_checked():
    def make(**experts: Expert) -> Trunk:
        return Trunk(CONFIG, experts, prefix_mask(CONTEXT, ["action"]))

    with pytest.raises(ValueError, match="Did you mean 'context'"):
        make(context=Expert(), action=Expert(ffn_of="contxt"))
    with pytest.raises(ValueError, match="width 16 cannot share"):
        make(context=Expert(), action=Expert(ffn_of="context", width=16))
    with pytest.raises(ValueError, match="private layers are its own"):
        make(context=Expert(), action=Expert(ffn_of="context", private_depth=1))
    with pytest.raises(ValueError, match="shares itself"):
        make(a=Expert(), b=Expert(ffn_of="a"), c=Expert(ffn_of="b"))
    trunk = make_trunk()
    context, action = make_groups()
    with pytest.raises(ValueError, match="flow time of shape .2,. or .2, 5., got .2, 3."):
        trunk([replace(action, t=torch.zeros(2, 3))], trunk.context(context))
    whole = replace(action)
    object.__setattr__(whole, "x", action.x.long())  # past the check of annotations in tests
    with pytest.raises(ValueError, match="group 'action': expected floats"):
        trunk([whole], trunk.context(context))
