"""Text to tokens: bytes by default (nothing to download, no word unknown), any tokenizer else.

    text -> ids (bytes, or `policies/text_tokenizer.py`) -> embeddings + positions
         -> two convolutions over neighbours (letters to words, words to phrases)
         -> attention pooling --+--> a few trunk tokens   (or one per id, if not `pooled`)
                                +--> one condition vector, which modulates the image encoders

In training each distinct instruction of a batch is encoded once and gathered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .text_tokenizer import TextTokenizer, TokenizerConfig


@dataclass(frozen=True)
class ByteInstructionConfig:
    type: Literal["bytes"] = "bytes"
    max_bytes: int = 64
    """Longest instruction in UTF-8 bytes; a longer one is refused, not cut."""
    width: int = 64
    tokens: int = 4
    """Tokens given to the trunk, by attention pooling over the bytes; not used if not `pooled`."""
    pooled: bool = True
    """False gives the trunk one token per byte (`max_bytes`, the unused ones masked)."""


InstructionConfig = ByteInstructionConfig | TokenizerConfig


class ByteIds:
    """UTF-8 bytes as ids."""

    vocabulary = 256

    def __init__(self, config: ByteInstructionConfig) -> None:
        self.limit = config.max_bytes

    def ids(self, text: str) -> list[int]:
        data = text.encode()
        if len(data) > self.limit:
            raise ValueError(
                f"the instruction has {len(data)} bytes, the policy takes {self.limit}: {text!r}; "
                "shorten it or train with a larger --policy.instruction.max-bytes"
            )
        return list(data)

    def save_files(self, folder: Path) -> None:
        """Bytes need no files."""


class EncodedInstructions(NamedTuple):
    tokens: Float[Tensor, "batch text_tokens trunk_width"]
    condition: Float[Tensor, "batch condition_dim"]
    """The instruction in one vector."""
    valid: Bool[Tensor, "batch text_tokens"] | None
    """False where a token is only padding; None if all count."""


class InstructionEncoder(nn.Module):
    """One encoder over ids, whatever made them of the text."""

    def __init__(
        self, config: InstructionConfig, trunk_width: int, files: Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        match config:
            case ByteInstructionConfig():
                self.text = ByteIds(config)
            case TokenizerConfig():
                self.text = TextTokenizer(config, files)
        width, self.padding = config.width, self.text.vocabulary
        self.embedding = nn.Embedding(self.padding + 1, width, padding_idx=self.padding)
        self.position = nn.Parameter(torch.randn(self.text.limit, width) * 0.02)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=5, padding=2) for _ in range(2)
        )
        self.query = nn.Parameter(torch.randn(config.tokens, width) * width**-0.5)
        self.to_trunk = nn.Linear(width, trunk_width)
        self.to_condition = nn.Linear(config.tokens * width, width)

    @property
    def condition_dim(self) -> int:
        return self.config.width

    @property
    def tokens(self) -> int:
        """Tokens that enter the trunk, masked ones included."""
        return self.config.tokens if self.config.pooled else self.text.limit

    def save_files(self, folder: Path) -> None:
        """Write what the policy folder must hold beside the weights, for `files=` to read."""
        self.text.save_files(folder)

    def forward(self, instructions: Sequence[str]) -> EncodedInstructions:
        """Trunk tokens and the condition vector of each instruction, and which tokens count."""
        # A batch of training holds few different instructions. Where a policy acts, each row is
        # encoded for itself: shapes, and with them the last bits, must not depend on neighbours.
        distinct = sorted(set(instructions)) if self.training else list(instructions)
        row = {text: index for index, text in enumerate(distinct)}
        device = self.position.device
        rows = [row[text] for text in instructions] if self.training else range(len(distinct))
        select = torch.tensor(list(rows), device=device)
        ids = torch.stack([self._ids(text) for text in distinct]).to(device)
        valid = ids != self.padding  # (distinct, ids)
        mask = valid[:, None]
        x = (self.embedding(ids) + self.position).transpose(1, 2)  # (distinct, width, ids)
        for convolution in self.convolutions:
            x = x + F.silu(convolution(x * mask))
        scores = torch.einsum("kw,nwi->nki", self.query, x) * x.shape[1] ** -0.5
        weights = scores.float().masked_fill(~mask, float("-inf")).softmax(dim=-1)
        pooled = torch.einsum("nki,nwi->nkw", weights.to(x.dtype), x)  # (distinct, tokens, width)
        condition = self.to_condition(pooled.flatten(1))[select]
        if self.config.pooled:
            return EncodedInstructions(self.to_trunk(pooled)[select], condition, None)
        # Padding is zeroed, so that it says nothing even where a mask is forgotten.
        tokens = self.to_trunk(x.transpose(1, 2)) * valid[:, :, None]
        return EncodedInstructions(tokens[select], condition, valid[select])

    def _ids(self, text: str) -> Tensor:
        ids = self.text.ids(text)
        if not ids:
            raise ValueError("the instruction is empty; say what the arm should do")
        return F.pad(torch.tensor(ids), (0, self.text.limit - len(ids)), value=self.padding)


def make_instruction_encoder(
    config: InstructionConfig, trunk_width: int, files: Path | None = None
) -> InstructionEncoder:
    """The encoder for `config`. `files`: the policy folder it is read from, if it is."""
    return InstructionEncoder(config, trunk_width, files)
