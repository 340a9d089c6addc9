"""Folders of image files with CSV or Parquet tables as a source of episodes.

        dataset/ulna_import.json                        what tables cannot say: fields of `Facts`
        dataset/episode_0000/steps.csv                  one row per step; or steps.parquet
        dataset/episode_0000/meta.json                  optional: instruction, task, success, seed;
                                                        anything else goes into the episode's info
        dataset/episode_0000/frames/front/000000.jpg    one file per row, in the order of the names

or one table for all, with a column `episode`, and the paths of the images in columns:

        dataset/steps.parquet        episode, state.*, action.*, image.front, ...

Columns:  `state.<name>`, `action.<name>`   joined, in the order of the table (needed)
          `image.<camera>`                  path of the frame, from the table's folder
          `time_ns` or `time_s`             capture time of the step
          `instruction`                     text; sub-goals if it changes within an episode
          `<name>` or `<name>.<entry>`      any other numbers: streams of their own

The folder `frames` may be called `images` or left out (`episode_0000/front/*.jpg`); the table may
have any name if it is the only one there. JPEG files go into the store byte for byte.

Next: `import_tables.py` (reading and checking the tables), `import_episodes.py` (the engine).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .image_codec import EncodedFrames
from .import_fields import (
    Facts,
    commands,
    frame_size,
    frames_of,
    make_embodiment,
    renamed,
    stream_names,
)
from .import_tables import Table, tables_in
from .import_texts import text_info
from .schema import Camera, Embodiment, Episode, unknown_name
from .strict_json import decode

LOOKED_FOR = (
    "a folder with ulna_import.json, or with steps.csv or steps.parquet, or one per episode"
)

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def recognise(path: Path) -> bool:
    if not path.is_dir():
        return False
    if (path / "ulna_import.json").is_file():
        return True
    folders = [path, *(folder for folder in path.iterdir() if folder.is_dir())]
    return any((folder / f"steps.{e}").is_file() for folder in folders for e in ("csv", "parquet"))


class ImagesSource:
    """The episodes below one folder."""

    def __init__(self, path: Path, facts: Facts | None = None) -> None:
        self.path = Path(path)
        said = self.path / "ulna_import.json"
        self._facts = decode(Facts, _json(said), said.name) if said.is_file() else Facts()
        for field in fields(Facts):  # flags go before the file
            if facts is not None and getattr(facts, field.name) is not None:
                self._facts = replace(self._facts, **{field.name: getattr(facts, field.name)})
        self._one_table = self._find_table(self.path)
        if self._one_table is None:
            folders = sorted(
                (folder for folder in self.path.iterdir() if folder.is_dir()), key=_natural
            )
            self._tables = {f.name: t for f in folders if (t := self._find_table(f)) is not None}
            self._without = [f.name for f in folders if f.name not in self._tables]
            if not self._tables:
                raise ValueError(f"{path} has no table: expected {LOOKED_FOR}")
        else:
            self._tables, self._without = {}, []
        first = self._table(self.keys()[0])
        self._states = first.columns("state.")
        self._actions = first.columns("action.")
        for prefix, columns in (("state", self._states), ("action", self._actions)):
            if not columns:
                raise ValueError(
                    f"{first.path} has no column {prefix}.<name>; it has {', '.join(first.names)}"
                )
        self._losses: dict[str, None] = {}
        if self._without:
            self._lose(f"folders without a table, left out: {', '.join(self._without)}")
        if not self._facts.instruction and not first.has("instruction"):
            self._lose("instructions are only where meta.json gives one; else use --instruction")

    @property
    def losses(self) -> tuple[str, ...]:
        return tuple(self._losses)

    def keys(self) -> Sequence[str]:
        return list(self._tables) if self._one_table is None else self._all.episodes()

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        table = self._table(key)
        meta = self._episode_meta(key)
        streams: dict[str, np.ndarray] = {
            "state": table.numbers(self._states).astype(np.float32),
            "action": table.numbers(self._actions).astype(np.float32),
        }
        exact = {"state": self._states, "action": self._actions}
        others: dict[str, np.ndarray] = {}
        for name, columns in exact.items():
            rows = table.numbers(columns)
            if not np.can_cast(rows.dtype, np.float32, "safe"):
                others[name] = rows
        instruction, subgoals = "", ()
        info: dict[str, str | int | float | bool] = {}
        for name, columns in table.other_groups().items():
            if table.is_text(columns[0]):
                texts = table.texts(columns[0])
                if name == "instruction":
                    instruction, subgoals = commands(texts)
                else:
                    info[name] = text_info(texts)
            elif name == "time_ns":
                streams["time_ns"] = table.numbers(columns)[:, 0].astype(np.int64)
            else:
                rows = table.numbers(columns)
                others[name] = rows[:, 0] if columns == [name] else rows
        names = stream_names(others)
        streams.update({names[name]: rows for name, rows in others.items()})
        if "time_ns" not in streams and "time_s" in others:
            streams["time_ns"] = np.rint(others["time_s"].astype(np.float64) * 1e9).astype(np.int64)
        info.update(renamed(names))
        known = ("instruction", "task", "seed", "success")
        info.update(
            {
                name: value if isinstance(value, str | int | float | bool) else json.dumps(value)
                for name, value in meta.items()
                if name not in known
            }
        )
        images: dict[str, np.ndarray] = {}
        encoded: dict[str, EncodedFrames] = {}
        for camera, frames in self._frames(table, key).items():
            if isinstance(frames, EncodedFrames):
                encoded[camera] = frames
            else:
                images[camera] = frames
        success = meta.get("success")
        if success is not None and not isinstance(success, bool):
            raise ValueError(f"meta.json of {key}: success is {success!r}, expected true or false")
        return (
            Episode(
                images=images,
                streams=streams,
                instruction=str(self._facts.instruction or meta.get("instruction") or instruction),
                task=str(self._facts.task or meta.get("task") or self.path.name),
                seed=int(meta.get("seed", list(self.keys()).index(key))),
                success=success,
                info=info,
                subgoals=subgoals,
            ),
            encoded,
        )

    @cached_property
    def embodiment(self) -> Embodiment:
        keys = self.keys()
        first = self._table(keys[0])
        low, high = [], []
        for key in keys:
            try:
                rows = self._table(key).numbers(self._actions).astype(np.float32)
            except ValueError:
                continue  # `episode` tells
            if len(rows):
                low.append(rows.min(axis=0))
                high.append(rows.max(axis=0))
        if not low:
            raise ValueError(f"{self.path}: no table has a row with actions")
        cameras = tuple(
            Camera(camera, *frame_size(frames))
            for camera, frames in self._frames(first, keys[0], rows=1).items()
        )
        return make_embodiment(
            self._facts,
            self.path,
            robot=self.path.name,
            control_hz=None,
            state_names=tuple(name.removeprefix("state.") for name in self._states),
            action_names=tuple(name.removeprefix("action.") for name in self._actions),
            limits=(np.min(low, axis=0).tolist(), np.max(high, axis=0).tolist()),
            action_meaning="as recorded",
            cameras=cameras,
        )

    @cached_property
    def _all(self) -> Table:
        assert self._one_table is not None
        return Table.read(self._one_table)

    def _table(self, key: str) -> Table:
        if self._one_table is not None:
            return self._all.only(key)
        if key not in self._tables:
            raise unknown_name("episode", key, self._tables)
        return Table.read(self._tables[key])

    def _find_table(self, folder: Path) -> Path | None:
        tables = tables_in(folder)
        named = [table for table in tables if table.stem == "steps"]
        if len(named or tables) > 1:
            raise ValueError(
                f"{folder} has several tables: {', '.join(t.name for t in tables)}; call the one "
                "with the steps steps.csv or steps.parquet"
            )
        return (named or tables or [None])[0]

    def _episode_meta(self, key: str) -> Mapping[str, Any]:
        path = self.path / key / "meta.json"
        if self._one_table is not None or not path.is_file():
            return {}
        return _json(path)

    def _frames(
        self, table: Table, key: str, rows: int | None = None
    ) -> dict[str, "EncodedFrames | np.ndarray"]:
        """Frames of every camera; `rows`: only of the first so many steps."""
        found: dict[str, list[Path]] = {}
        for column in table.columns("image."):
            files = [table.path.parent / text for text in table.texts(column)]
            found[column.removeprefix("image.")] = files
        if self._one_table is None:
            for folder in _camera_folders(self.path / key):
                files = sorted(
                    (f for f in folder.iterdir() if f.suffix.lower() in _IMAGE_ENDINGS),
                    key=_natural,
                )
                if len(files) != len(table):
                    raise ValueError(
                        f"{folder} holds {len(files)} images; {table.path.name} has {len(table)} "
                        "rows: expected one image per row"
                    )
                found.setdefault(folder.name, files)
        names = stream_names(found)
        return {names[camera]: _load(files[:rows]) for camera, files in found.items()}

    def _lose(self, sentence: str) -> None:
        self._losses[sentence] = None


def _camera_folders(episode: Path) -> list[Path]:
    for name in ("frames", "images"):
        if (episode / name).is_dir():
            episode = episode / name
            break
    return sorted(
        folder
        for folder in episode.iterdir()
        if folder.is_dir() and any(f.suffix.lower() in _IMAGE_ENDINGS for f in folder.iterdir())
    )


def _load(files: Sequence[Path]) -> "EncodedFrames | np.ndarray":
    data = []
    for row, file in enumerate(files):
        if not file.is_file():
            raise ValueError(f"the image of row {row}, {file}, does not exist")
        data.append(file.read_bytes())
    return frames_of(data, str(files[0].parent) if files else "no images")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; expected an object")
    return content


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """So that frame 9 comes before frame 10, with or without zeros in front."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], path.name
