"""Text to ids by any Hugging Face tokenizer, kept with the policy.

A tokenizer named by a Hub id can change or vanish, and one in a local folder is not on the robot.
So its whole definition, the `tokenizer.json` text, is taken once and saved in the policy folder
(`save_files`); the policy read from there (`files=`) asks for nothing else. Only the ids are used:
embeddings are learned from scratch by `policies/instruction_tokens.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

FILE = "tokenizer.json"


@dataclass(frozen=True)
class TokenizerConfig:
    type: Literal["tokenizer"] = "tokenizer"
    tokenizer: str = ""
    """Local folder or Hub id of a tokenizer, such as `google/siglip-base-patch16-224`; read when
    a policy is created, never when it is loaded."""
    max_tokens: int = 32
    """Longest instruction in the tokenizer's tokens; a longer one is refused, not cut."""
    width: int = 64
    tokens: int = 4
    """Tokens given to the trunk, by attention pooling; not used if not `pooled`."""
    pooled: bool = True
    """False gives the trunk one token per id (`max_tokens`, the unused ones masked)."""


def tokenizer_files(config: TokenizerConfig, files: Path | None = None) -> dict[str, bytes]:
    """What a policy folder must hold to read text as `config` says: file name to content.

    `files`, a policy folder, is read instead of `config.tokenizer` if given.
    """
    if files is None:
        return {FILE: _fetch(config.tokenizer).encode()}
    path = files / FILE
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: the policy's tokenizer is missing; it was "
            f"{config.tokenizer!r} and was saved beside config.json"
        )
    return {FILE: path.read_bytes()}


class TextTokenizer:
    """A tokenizer rebuilt from its definition; gives ids or refuses, never cuts, never guesses."""

    def __init__(self, config: TokenizerConfig, files: Path | None = None) -> None:
        self.config = config
        self._files = tokenizer_files(config, files)
        text = self._files[FILE].decode()
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower class
            source = config.tokenizer if files is None else files / FILE
            raise ValueError(f"{source}: not a tokenizer definition: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        model = json.loads(text)["model"]
        if model.get("unk_token") is not None:
            self._unknown = self._tokenizer.token_to_id(model["unk_token"])
        else:
            self._unknown = model.get("unk_id")
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def limit(self) -> int:
        return self.config.max_tokens

    def ids(self, text: str) -> list[int]:
        """Ids without begin and end marks, which say nothing to embeddings learned from scratch."""
        try:
            found = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # such as a word outside a word-level vocabulary
            raise ValueError(
                f"the tokenizer {self.config.tokenizer!r} cannot read {text!r}: {error}"
            ) from error
        self._refuse_unknown(text, found.ids, found.offsets)
        if len(found.ids) > self.limit:
            raise ValueError(
                f"the instruction has {len(found.ids)} tokens, the policy takes {self.limit}: "
                f"{text!r}; shorten it or train with a larger --policy.instruction.max-tokens"
            )
        return found.ids

    def save_files(self, folder: Path) -> None:
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _refuse_unknown(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> None:
        """To the policy all unknown words are one word: it would obey without having understood."""
        known = [span for i, span in zip(ids, spans, strict=True) if i != self._unknown]
        covered = {index for start, end in known for index in range(start, end)}
        lost = "".join(
            letter if index not in covered and letter.isalnum() else " "
            for index, letter in enumerate(text)
        ).split()
        if lost:
            raise ValueError(
                f"the tokenizer {self.config.tokenizer!r} does not know {', '.join(lost)!r} of "
                f"{text!r}; say it in other words or train with a tokenizer that does (the byte "
                "encoder knows all)"
            )


def _fetch(source: str) -> str:
    """The definition of the tokenizer in a folder or on the Hub."""
    if not source:
        raise ValueError(
            "instruction of type 'tokenizer' needs --policy.instruction.tokenizer: a local folder "
            "or a Hub id"
        )
    from transformers import AutoTokenizer  # seconds to import; not needed on a robot

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer {source!r}: expected a folder with tokenizer.json or a Hub id that can "
            f"be reached; {error}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"the tokenizer {source!r} has no tokenizer.json (it is a slow, Python one): it cannot "
            "be kept with the policy; convert it or take another"
        )
    return tokenizer.backend_tokenizer.to_str()
