"""Instructions to tokens: what each says, which tokens count, what is refused."""

import pytest
import torch

from ulna.policies.instruction_tokens import (
    ByteInstructionConfig,
    InstructionEncoder,
    make_instruction_encoder,
)

WORDS = ["pick up the red cube", "push the blue mug away", "pick up the red cube"]


def make(**options: int) -> InstructionEncoder:
    torch.manual_seed(0)
    config = ByteInstructionConfig(width=16, tokens=3, **options)  # pyright: ignore
    return make_instruction_encoder(config, 8).eval()


def test_pooled_tokens_all_count_and_equal_words_give_equal_tokens():
    tokens, condition, valid = make()(WORDS)
    assert tokens.shape == (3, 3, 8) and condition.shape == (3, 16) and valid is None
    assert torch.equal(tokens[0], tokens[2]) and torch.equal(condition[0], condition[2])
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


@pytest.mark.parametrize("pooled", [True, False])
def test_an_instruction_does_not_depend_on_the_others_of_its_batch(pooled):
    encoder = make(pooled=pooled)
    together, alone = encoder(WORDS), encoder(WORDS[1:2])
    assert torch.allclose(together.tokens[1], alone.tokens[0], atol=1e-6)
    assert torch.allclose(together.condition[1], alone.condition[0], atol=1e-6)


def test_not_pooled_gives_a_token_per_byte_and_says_which_count():
    encoder = make(pooled=False, max_bytes=24)
    tokens, condition, valid = encoder(WORDS)
    assert encoder.tokens == 24 and tokens.shape == (3, 24, 8) and condition.shape == (3, 16)
    assert valid is not None
    assert valid.sum(dim=1).tolist() == [len(text) for text in WORDS]
    assert valid[0, : len(WORDS[0])].all() and not tokens[~valid].any()


def test_room_for_longer_instructions_changes_nothing():
    short, long = make(max_bytes=24), make(max_bytes=48)
    weights = short.state_dict()
    longer = torch.cat([weights["position"], torch.randn(24, 16)])
    long.load_state_dict({**weights, "position": longer})
    assert torch.allclose(short(WORDS).tokens, long(WORDS).tokens, atol=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
def test_every_parameter_learns(pooled):
    encoder = make(pooled=pooled)
    tokens, condition, _ = encoder(WORDS)
    (tokens.square().sum() + condition.square().sum()).backward()
    silent = [k for k, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "the instruction is empty"), ("ü" * 33, "has 66 bytes, the policy takes 64")],
)
def test_refusals(text, words):
    with pytest.raises(ValueError, match=words):
        make()([text])


def test_bytes_need_no_files(tmp_path):
    make().save_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
