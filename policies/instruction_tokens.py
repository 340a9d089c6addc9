"""Text to tokens, byte by byte: nothing to download, no word unknown.

A batch holds few different instructions, so each distinct one is encoded once and gathered.
The pooled vector modulates the image encoder (`policies/vision.py`); the tokens enter the trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class ByteInstructionConfig:
    type: Literal["bytes"] = "bytes"
    max_bytes: int = 64
    """Longest instruction in UTF-8 bytes; a longer one is refused, not cut."""
    width: int = 64
    tokens: int = 4
    """Tokens given to the trunk, by attention pooling over the bytes."""


class ByteInstructionEncoder(nn.Module):
    """Byte embeddings, two convolutions over neighbours (letters to words), attention pooling."""

    def __init__(self, config: ByteInstructionConfig, trunk_width: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.byte_embedding = nn.Embedding(257, width, padding_idx=256)
        self.position = nn.Parameter(torch.randn(config.max_bytes, width) * 0.02)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=5, padding=2) for _ in range(2)
        )
        self.query = nn.Parameter(torch.randn(config.tokens, width) * width**-0.5)
        self.to_trunk = nn.Linear(width, trunk_width)
        self.to_condition = nn.Linear(config.tokens * width, width)

    @property
    def condition_dim(self) -> int:
        return self.config.width

    def forward(
        self, instructions: Sequence[str]
    ) -> tuple[Float[Tensor, "batch text_tokens width"], Float[Tensor, "batch condition_dim"]]:
        """Trunk tokens and the pooled condition vector of each instruction."""
        distinct = sorted(set(instructions))
        row = {text: index for index, text in enumerate(distinct)}
        device = self.position.device
        select = torch.tensor([row[text] for text in instructions], device=device)
        codes = torch.stack([self._codes(text) for text in distinct]).to(device)
        valid = (codes != 256)[:, None, :]  # (distinct, 1, bytes)
        x = (self.byte_embedding(codes) + self.position).transpose(1, 2)
        for convolution in self.convolutions:
            x = x + F.silu(convolution(x * valid))
        scores = torch.einsum("kw,nwb->nkb", self.query, x) * x.shape[1] ** -0.5
        weights = scores.float().masked_fill(~valid, float("-inf")).softmax(dim=-1)
        pooled = torch.einsum("nkb,nwb->nkw", weights.to(x.dtype), x)  # (distinct, tokens, width)
        return self.to_trunk(pooled)[select], self.to_condition(pooled.flatten(1))[select]

    def _codes(self, text: str) -> Tensor:
        data = text.encode()
        limit = self.config.max_bytes
        if not data:
            raise ValueError("the instruction is empty; say what the arm should do")
        if len(data) > limit:
            raise ValueError(
                f"the instruction has {len(data)} bytes, the policy takes {limit}: {text!r}; "
                "shorten it or train with a larger --policy.instruction.max-bytes"
            )
        codes = torch.full((limit,), 256)
        codes[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return codes
