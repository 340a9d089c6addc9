"""From a batch's instructions and cameras to what the text layers need: ids, positions, mask.

A plan depends on words and sizes only, not on pixels, so a control loop makes it once per
instruction; it stays on the device. The sequence itself: `policies/vlm_prompt.py`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..datasets.schema import unknown_name
from .vlm_prompt import Columns, Place, Prompt

KEPT = 16
"""Plans kept; a control loop uses one."""


@dataclass(frozen=True)
class Plan:
    """A layout on the device, with its mask."""

    columns: Columns
    ids: Int64[Tensor, "batch tokens"]
    positions: Int64[Tensor, "axes batch tokens"]
    valid: Bool[Tensor, "batch tokens"]
    next_position: Int64[Tensor, " batch"]
    mask: Bool[Tensor, "batch 1 tokens tokens"]


class Planner:
    """Makes plans and keeps the last few."""

    def __init__(self, prompt: Prompt, kind: str) -> None:
        """`kind`: which columns see which, see `sight`."""
        self.prompt = prompt
        self.kind = kind
        self._kept: OrderedDict[tuple, Plan] = OrderedDict()

    def __call__(
        self,
        instructions: tuple[str, ...],
        places: Mapping[str, Place],
        present: Mapping[str, list[bool]],
        device: torch.device,
    ) -> Plan:
        """`present`: per camera of `places`, which rows have it."""
        rows_with = tuple(tuple(rows) for rows in present.values())
        key = (instructions, tuple(places.values()), rows_with, device)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # A plan made while acting in inference mode must also serve a training step.
        with torch.inference_mode(False):
            plan = self._make(instructions, places, present, device)
        self._kept[key] = plan
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return plan

    def _make(
        self,
        instructions: tuple[str, ...],
        places: Mapping[str, Place],
        present: Mapping[str, list[bool]],
        device: torch.device,
    ) -> Plan:
        rows = [
            self.prompt.row(
                instruction, tuple(places[camera] for camera in places if present[camera][index])
            )
            for index, instruction in enumerate(instructions)
        ]
        columns = self.prompt.columns(rows, list(places.values()))
        ids = columns.ids.clone()
        for start, stop in columns.images.values():
            ids[:, start:stop] = 0  # image ids may lie outside the embedding; features come there
        return Plan(
            columns,
            ids.to(device),
            columns.positions.to(device),
            columns.valid.to(device),
            columns.next_position.to(device),
            sight(columns, self.kind).to(device),
        )


def sight(columns: Columns, kind: str) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """Which column (last axis) each column sees.

        mma          text image text          bidirectional_vision
          text        \\     .    .            text       \\    .    .
          image       all    \\   all          image      all  all   .
          text        all   all   \\           text       all  all   \\        (\\: causal)

    A token nobody may look at sees itself, so that its softmax stays finite.
    """
    image = torch.cat(
        [
            torch.full((n,), group.startswith("image."), dtype=torch.bool)
            for group, n in columns.layout
        ]
    )
    tokens = len(image)
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    if kind == "prefix":
        seen[:] = True
    elif kind == "mma":
        seen |= image[:, None] & ~image
    elif kind == "bidirectional_vision":
        seen |= image[:, None] & image
    elif kind != "causal":
        raise unknown_name("VLM mask", kind, ["native", "prefix", "mma", "bidirectional_vision"])
    seen = seen & columns.valid[:, None, :] | torch.eye(tokens, dtype=torch.bool)
    return seen[:, None]


def present_rows(
    images: Mapping[str, Tensor], camera_valid: Mapping[str, Tensor], batch: int
) -> dict[str, list[bool]]:
    """Per camera that at least one row has: which rows have it."""
    present = {
        camera: camera_valid[camera].tolist() if camera in camera_valid else [True] * batch
        for camera in images
    }
    return {camera: rows for camera, rows in present.items() if any(rows)}


def check_inputs(
    images: Mapping[str, Tensor],
    instructions: Sequence[str],
    camera_valid: Mapping[str, Tensor],
) -> None:
    """Refuse shapes that do not fit together, naming the camera."""
    batch = len(instructions)
    for camera, frames in images.items():
        if frames.ndim != 4 or frames.shape[0] != batch or frames.shape[3] != 3:
            raise ValueError(
                f"image {camera!r}: expected ({batch}, height, width, 3) for {batch} "
                f"instructions, got {tuple(frames.shape)}"
            )
    for camera, valid in camera_valid.items():
        if camera not in images:
            raise unknown_name("camera of camera_valid", camera, images)
        if valid.shape != (batch,) or valid.dtype != torch.bool:
            raise ValueError(
                f"camera_valid {camera!r}: expected {batch} bools, got {valid.dtype} "
                f"{tuple(valid.shape)}"
            )
