"""The sequence a VLM reads: instruction and image places, aligned in columns over a batch.

    row 0:  User: | <fake><global> i i i i <fake> | pick up the red cube  <end> Assistant:
    row 1:  User: |  .       .     . . . .   .    | push  .   .   .   .   <end> Assistant:
            text    image.front (missing in row 1)  text, padded where a row is shorter

Each row is tokenised and gets its positions alone, with the cameras it has; padding and missing
cameras are columns that nobody sees. So a row does not depend on its neighbours in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

Place = tuple[str, int, int]
"""A camera's image in a row: its name and its height and width after resizing."""


@dataclass(frozen=True)
class Row:
    """One observation's sequence: text, image, text, ..., text. Positions are already its own."""

    texts: tuple[tuple[int, ...], ...]
    """Token ids before each image and after the last one."""
    places: tuple[Place, ...]
    positions: Int64[Tensor, "axes tokens"]


@dataclass(frozen=True)
class Columns:
    """A batch of rows in common columns."""

    layout: tuple[tuple[str, int], ...]
    ids: Int64[Tensor, "batch tokens"]
    valid: Bool[Tensor, "batch tokens"]
    positions: Int64[Tensor, "axes batch tokens"]
    next_position: Int64[Tensor, " batch"]
    images: dict[str, tuple[int, int]]
    """Per camera: first and past-the-last column of its image features (markers not counted)."""


@dataclass(frozen=True)
class ImageMarks:
    """Token ids the checkpoint puts around each image, and the one that stands for a feature."""

    image: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Prompt:
    """Instruction to token ids with places for images, once per distinct instruction."""

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        image_text: str,
        marks: ImageMarks,
        pad: int,
        count: Callable[[int, int], int],
        positions: Callable[[list[int], Sequence[Place]], Tensor],
    ) -> None:
        """`image_text` is what the chat template writes for an image; `count` says how many
        features an image of a (resized) height and width gives; `positions` those of a row."""
        self.tokenizer = tokenizer
        self.template = template
        self.image_text = image_text
        self.marks = marks
        self.pad = pad
        self.count = count
        self.positions = positions
        self.row = lru_cache(maxsize=4096)(self._row)
        self._special = tuple(
            str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
        )

    def text(self, instruction: str, images: int) -> str:
        """The whole prompt as text, with `image_text` where an image goes."""
        if not instruction.strip():
            raise ValueError("the instruction is empty; say what the arm should do")
        for token in (self.image_text, *self._special):
            if token in instruction:
                raise ValueError(
                    f"the instruction holds {token!r}, a control token of the VLM: {instruction!r};"
                    " take it out"
                )
        if self.template != "chat":
            bos = self.tokenizer.bos_token or ""
            return (
                self.template.replace("{bos}", bos)
                .replace("{images}", self.image_text * images)
                .replace("{instruction}", instruction)
            )
        content: list[dict] = [{"type": "image"} for _ in range(images)]
        content.append({"type": "text", "text": instruction})
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def image_ids(self, place: Place) -> list[int]:
        marks = self.marks
        return [*marks.before, *[marks.image] * self.count(*place[1:]), *marks.after]

    def _row(self, instruction: str, places: tuple[Place, ...]) -> Row:
        parts = self.text(instruction, len(places)).split(self.image_text)
        if len(parts) != len(places) + 1:
            raise ValueError(
                f"the prompt template wrote {len(parts) - 1} image places for {len(places)} images;"
                " it must write {images} once"
            )
        # Special tokens cut a text before it is tokenised, so its parts may be taken one by one.
        texts = [
            self.tokenizer.encode(part, add_special_tokens=False) if part else [] for part in parts
        ]
        ids = list(texts[0])
        for place, text in zip(places, texts[1:], strict=True):
            ids += self.image_ids(place) + text
        return Row(tuple(map(tuple, texts)), places, self.positions(ids, places))

    def columns(self, rows: Sequence[Row], cameras: Sequence[Place]) -> Columns:
        """Lay `rows` side by side; `cameras` are those that at least one row has, in order."""
        names = [camera for camera, _, _ in cameras]
        slots: list[list[tuple[int, ...]]] = [[] for _ in range(len(cameras) + 1)]
        for row in rows:
            # A row's text before an image stands before that camera; its last text stands last.
            mine = {names.index(place[0]): row.texts[i] for i, place in enumerate(row.places)}
            mine[len(cameras)] = row.texts[-1]
            for slot, texts in enumerate(slots):
                texts.append(mine.get(slot, ()))
        layout: list[tuple[str, int]] = []
        ids: list[Tensor] = []
        valid: list[Tensor] = []
        images: dict[str, tuple[int, int]] = {}
        start = 0
        for slot, texts in enumerate(slots):
            length = max(map(len, texts))
            if length:
                layout.append(("text", length))
                ids.append(
                    torch.tensor([[*text, *[self.pad] * (length - len(text))] for text in texts])
                )
                used = torch.tensor([len(text) for text in texts])
                valid.append(torch.arange(length) < used[:, None])
                start += length
            if slot < len(cameras):
                image = torch.tensor(self.image_ids(cameras[slot]))
                camera = names[slot]
                has = torch.tensor([camera in [place[0] for place in row.places] for row in rows])
                ids.append(torch.where(has[:, None], image, self.pad))
                valid.append(has[:, None].expand(-1, len(image)))
                before, after = len(self.marks.before), len(self.marks.after)
                images[camera] = (start + before, start + len(image) - after)
                layout.append((f"image.{camera}", len(image)))
                start += len(image)
        all_valid = torch.cat(valid, dim=1)
        positions = torch.zeros(rows[0].positions.shape[0], *all_valid.shape, dtype=torch.long)
        for index, row in enumerate(rows):
            positions[:, index, all_valid[index]] = row.positions
        return Columns(
            layout=tuple(layout),
            ids=torch.cat(ids, dim=1),
            valid=all_valid,
            positions=positions,
            next_position=torch.stack([row.positions.max() + 1 for row in rows]),
            images=images,
        )
