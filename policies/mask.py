"""Who sees whom: a small matrix over group names, expanded to tokens once per layout.

    prefix (pi0):   text image state action        rows look at columns
       text          full  full  full   .
       image         full  full  full   .           the context is one bidirectional block,
       state         full  full  full   .           the generated groups see it and themselves,
       action        full  full  full  full         nothing in the context sees a noisy token

A group may be computed once per control step and cached if neither it nor anything it can see,
directly or through others, carries a flow time; `cacheable` reads that from the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from ..datasets.schema import unknown_name

Sight = Literal["none", "full", "causal"]


@dataclass(frozen=True)
class Mask:
    """`sight[row][column]`: how the tokens of group `row` see those of group `column`.

    `causal` means: token i sees tokens 0..i; between two groups it needs equal lengths.
    """

    sight: Mapping[str, Mapping[str, Sight]]

    def between(self, row: str, column: str) -> Sight:
        if row not in self.sight:
            raise unknown_name("token group", row, self.sight)
        return self.sight[row].get(column, "none")

    def expand(
        self, rows: Sequence[tuple[str, int]], columns: Sequence[tuple[str, int]]
    ) -> Bool[Tensor, "row_tokens column_tokens"] | None:
        """Token-level mask for runs of `(group, length)`; None when everything is seen (the
        attention kernels are fastest without a mask)."""
        blocks = [
            torch.cat([self._block(row, n, column, m) for column, m in columns], dim=1)
            for row, n in rows
        ]
        mask = torch.cat(blocks, dim=0)
        return None if bool(mask.all()) else mask

    def _block(self, row: str, n: int, column: str, m: int) -> Tensor:
        sight = self.between(row, column)
        if sight == "full":
            return torch.ones(n, m, dtype=torch.bool)
        if sight == "none":
            return torch.zeros(n, m, dtype=torch.bool)
        if n != m:
            raise ValueError(
                f"causal sight from {row!r} ({n} tokens) to {column!r} ({m} tokens) needs equal "
                "lengths; use 'full' or 'none'"
            )
        return torch.ones(n, m, dtype=torch.bool).tril()

    def cacheable(self, timed: Sequence[str]) -> tuple[str, ...]:
        """The groups that no flow time reaches, given the names of those that carry one."""
        reached = set(timed)
        grew = True
        while grew:
            grew = False
            for row, columns in self.sight.items():
                if row not in reached and any(
                    kind != "none" and column in reached for column, kind in columns.items()
                ):
                    reached.add(row)
                    grew = True
        return tuple(name for name in self.sight if name not in reached)


def prefix_mask(context: Sequence[str], generated: Sequence[str]) -> Mask:
    """pi0 / PaliGemma: the context sees itself; a generated group sees it and itself."""
    sight: dict[str, dict[str, Sight]] = {row: dict.fromkeys(context, "full") for row in context}
    for row in generated:
        sight[row] = {**dict.fromkeys(context, "full"), row: "full"}
    return Mask(sight)


def joint_mask(context: Sequence[str], generated: Sequence[str]) -> Mask:
    """DUST: as `prefix_mask`, and the generated groups see one another."""
    sight: dict[str, dict[str, Sight]] = {row: dict.fromkeys(context, "full") for row in context}
    for row in generated:
        sight[row] = dict.fromkeys([*context, *generated], "full")
    return Mask(sight)


def causal_mask(context: Sequence[str], generated: Sequence[str]) -> Mask:
    """Dita: block-causal over the listed order, causal inside the context groups; the generated
    groups are full inside, since a noisy chunk is denoised as a whole."""
    order = [*context, *generated]
    sight: dict[str, dict[str, Sight]] = {}
    for i, row in enumerate(order):
        sight[row] = dict.fromkeys(order[:i], "full")
        sight[row][row] = "full" if row in generated else "causal"
    return Mask(sight)


def mutual_mask(context: Sequence[str], generated: Sequence[str]) -> Mask:
    """AKI's modality-mutual attention: as `causal_mask`, and images see the instruction although
    it comes after them."""
    sight = {row: dict(columns) for row, columns in causal_mask(context, generated).sight.items()}
    for row in context:
        if _is_image(row):
            sight[row].update({name: "full" for name in context if name == "text"})
    return Mask(sight)


def bidirectional_vision_mask(context: Sequence[str], generated: Sequence[str]) -> Mask:
    """Croc: as `causal_mask`, and images see one another and themselves in full."""
    sight = {row: dict(columns) for row, columns in causal_mask(context, generated).sight.items()}
    images = [name for name in context if _is_image(name)]
    for row in images:
        sight[row].update(dict.fromkeys(images, "full"))
    return Mask(sight)


def _is_image(name: str) -> bool:
    return name == "image" or name.startswith("image.")


MASKS = {
    "prefix": prefix_mask,
    "joint": joint_mask,
    "causal": causal_mask,
    "mma": mutual_mask,
    "bidirectional_vision": bidirectional_vision_mask,
}
