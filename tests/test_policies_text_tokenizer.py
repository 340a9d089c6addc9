"""Tokenizers built here: read through transformers, kept with the policy, strict about words."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ulna.policies.instruction_tokens import make_instruction_encoder
from ulna.policies.text_tokenizer import TextTokenizer, TokenizerConfig, tokenizer_files

SENTENCES = [
    f"{verb} the {colour} {thing}"
    for verb in ("pick up", "push")
    for colour, thing in (
        ("red", "cube"), ("green", "ball"), ("blue", "mug"), ("small", "plate"), ("tall", "can"),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A word-level tokenizer and a byte-level BPE, saved as transformers saves them."""
    word = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    word.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    word.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    word.train_from_iterator(
        SENTENCES, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"])
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=300,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<pad>"],
        ),
    )
    root = tmp_path_factory.mktemp("tokenizers")
    made = {
        "word": PreTrainedTokenizerFast(
            tokenizer_object=word, unk_token="[UNK]", pad_token="[PAD]"
        ),
        "bpe": PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>"),
    }
    for name, tokenizer in made.items():
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in made}


def make(folder: Path, **options: int) -> TextTokenizer:
    return TextTokenizer(TokenizerConfig(tokenizer=str(folder), **options))  # pyright: ignore


@pytest.mark.parametrize("name", ["word", "bpe"])
def test_ids_are_those_of_transformers(folders, name):
    reference = PreTrainedTokenizerFast.from_pretrained(folders[name])
    text = make(folders[name])
    for sentence in SENTENCES:
        assert text.ids(sentence) == reference.encode(sentence, add_special_tokens=False)
    assert text.vocabulary == len(reference)


def test_the_policy_folder_is_all_that_is_needed(folders, tmp_path):
    config = TokenizerConfig(tokenizer=str(folders["bpe"]), width=16, tokens=2)
    torch.manual_seed(0)
    first = make_instruction_encoder(config, 8).eval()
    first.save_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == tokenizer_files(config)["tokenizer.json"]

    elsewhere = TokenizerConfig(tokenizer="/gone/away", width=16, tokens=2)
    second = make_instruction_encoder(elsewhere, 8, files=tmp_path).eval()
    second.load_state_dict(first.state_dict())
    words = ["push the red cube", "pick up the ünknown Ding 7"]
    for one, other in zip(first(words)[:2], second(words)[:2], strict=True):
        assert torch.equal(one, other)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="the policy's tokenizer is missing; it was '/gone/away'"):
        make_instruction_encoder(elsewhere, 8, files=tmp_path)


def test_a_saved_truncation_or_padding_is_not_obeyed(folders, tmp_path):
    tokenizer = Tokenizer.from_file(str(folders["word"] / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = TextTokenizer(TokenizerConfig(), files=tmp_path)
    assert len(text.ids("pick up the red cube")) == 5


def test_a_longer_instruction_is_refused_not_cut(folders):
    text = make(folders["word"], max_tokens=4)
    assert len(text.ids("push the red cube")) == 4
    with pytest.raises(ValueError, match="has 5 tokens, the policy takes 4: 'pick up the red"):
        text.ids("pick up the red cube")


def test_unknown_words_are_refused_by_name(folders):
    text = make(folders["word"])
    assert text.ids("Push THE red cube") == text.ids("push the red cube")
    with pytest.raises(ValueError, match="does not know 'purple, hat' of 'push the purple hat'"):
        text.ids("push the purple hat")
    assert make(folders["bpe"]).ids("push the purple hat")


def test_letters_a_tokenizer_would_drop_in_silence_are_refused(tmp_path):
    plain = Tokenizer(models.BPE())  # no bytes, no unknown token: what it lacks is left out
    plain.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    plain.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    plain.save(str(tmp_path / "tokenizer.json"))
    assert plain.encode("fox").ids == []
    text = TextTokenizer(TokenizerConfig(), files=tmp_path)
    assert text.ids("push the red cube")
    with pytest.raises(ValueError, match="does not know"):
        text.ids("push the fox")


@pytest.mark.parametrize("name", ["word", "bpe"])
def test_an_empty_instruction_is_refused(folders, name):
    config = TokenizerConfig(tokenizer=str(folders[name]), width=8, tokens=1)
    with pytest.raises(ValueError, match="the instruction is empty"):
        make_instruction_encoder(config, 8)([""])


def test_tokenizers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a local folder or a Hub id"):
        TextTokenizer(TokenizerConfig())
    with pytest.raises(ValueError, match="no tokenizer .*expected a folder with tokenizer.json"):
        make(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer definition"):
        TextTokenizer(TokenizerConfig(), files=tmp_path)
