"""Writes the Parquet and JSON files of a LeRobotDataset (version 3).

Every file is what LeRobot 0.6.1 writes itself: one row group per episode, the schema that Hugging
Face's `datasets` looks for, the texts of tasks as a pandas index (without it LeRobot gives the
number 0 for every text). Statistics are those of the data: LeRobot averages the quantiles of its
episodes, here they are of all rows together, within the bound of `quantile_sketch.py`.

Next: `export_lerobot.py`, which decides what goes into them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped, UInt8

from .lerobot_format import CHUNK_FILES, DATA_FILE_MB, DATA_PATH, EPISODES_PATH, MIB, VISION_NAMES
from .quantile_sketch import StreamSketch

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_EPISODES_PER_GROUP = 500
_MERGE_EVERY = 64


def number_feature(dtype: str, row_shape: tuple[int, ...], names: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(row_shape) or [1], "names": names}


def picture_feature(height: int, width: int, names: Any = None) -> dict[str, Any]:
    return {"dtype": "image", "shape": [height, width, 3], "names": names or VISION_NAMES}


def depth_feature(height: int, width: int) -> dict[str, Any]:
    """16-bit pictures in millimetres."""
    return {
        "dtype": "image",
        "shape": [height, width, 1],
        "names": VISION_NAMES,
        "info": {"is_depth_map": True, "depth_unit": "mm"},
    }


def arrow_schema(features: Mapping[str, dict[str, Any]]) -> pa.Schema:
    """Of the data files; videos have no column."""
    fields, described = [], {}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            continue
        kind, said = _arrow_type(feature)
        fields.append(pa.field(key, kind))
        described[key] = said
    about = json.dumps({"info": {"features": described}})
    return pa.schema(fields, metadata={"huggingface": about})


def _arrow_type(feature: Mapping[str, Any]) -> tuple[pa.DataType, dict[str, Any]]:
    """Of a column, and the same in the words of Hugging Face's `datasets`."""
    dtype, shape = feature["dtype"], feature["shape"]
    if dtype == "image":
        return pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"}
    if dtype == "string":
        return pa.string(), {"dtype": "string", "_type": "Value"}
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    value = {"dtype": dtype, "_type": "Value"}
    if shape == [1]:
        return kind, value
    if len(shape) == 1:
        listed = {"feature": value, "length": shape[0], "_type": "List"}
        return pa.list_(pa.field("element", kind), shape[0]), listed
    for _ in shape:
        kind = pa.list_(pa.field("element", kind))
    return kind, {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}


def column(rows: Shaped[np.ndarray, "rows ..."], kind: pa.DataType) -> pa.Array:
    """Rows of numbers as a column."""
    rows = np.ascontiguousarray(rows)
    if not isinstance(kind, pa.ListType | pa.FixedSizeListType):
        return pa.array(rows.reshape(len(rows)), kind)
    if isinstance(kind, pa.FixedSizeListType):
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind)
    array = pa.array(rows.reshape(-1))
    levels = [kind]
    while isinstance(levels[-1].value_type, pa.ListType):
        levels.append(levels[-1].value_type)
    for axis, level in zip(range(rows.ndim - 1, 0, -1), reversed(levels), strict=True):
        step = rows.shape[axis]
        offsets = np.arange(0, len(array) + 1, step, dtype=np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array, type=level)
    return array


class DataFiles:
    """`data/`: one row group per episode, files of bounded size."""

    def __init__(self, root: Path, schema: pa.Schema) -> None:
        self._root, self.schema = root, schema
        self._writer: pq.ParquetWriter | None = None
        self._path = root
        self._index = -1

    def add(self, columns: Mapping[str, pa.Array]) -> dict[str, int]:
        """Append an episode; gives the columns of the episode table that say where it is."""
        # What is in the file already decides: nothing is written twice to stay below the limit.
        if self._writer is None or self._path.stat().st_size >= DATA_FILE_MB * MIB:
            self._open()
        assert self._writer is not None
        arrays = [columns[name] for name in self.schema.names]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        chunk, file = divmod(self._index, CHUNK_FILES)
        return {"data/chunk_index": chunk, "data/file_index": file}

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        self.close()
        self._index += 1
        chunk, file = divmod(self._index, CHUNK_FILES)
        self._path = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._path, self.schema, compression="snappy")


class EpisodeTable:
    """`meta/episodes/`: one row per episode."""

    def __init__(self, root: Path) -> None:
        self._path = root / EPISODES_PATH.format(chunk_index=0, file_index=0)
        self._path.parent.mkdir(parents=True)
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) >= _EPISODES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._writer and self._writer.schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._rows = []


def write_tasks(root: Path, texts: Sequence[str]) -> None:
    """`meta/tasks.parquet`, as pandas would write it with the texts as its index."""

    def said(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_kind,
            "metadata": None,
        }

    about = {
        "index_columns": ["task"],
        "column_indexes": [said("", "unicode", "object") | {"name": None, "field_name": None}],
        "columns": [said("task_index", "int64", "int64"), said("task", "unicode", "object")],
        "pandas_version": "2.0.0",
    }
    table = pa.table(
        {"task_index": pa.array(range(len(texts)), pa.int64()), "task": pa.array(texts)}
    )
    pq.write_table(
        table.replace_schema_metadata({"pandas": json.dumps(about)}), root / "meta/tasks.parquet"
    )


@dataclass
class Stats:
    """Statistics of all features, episode by episode and together."""

    _sketches: dict[str, list[StreamSketch]] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)
    _colors: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)

    def add_numbers(self, key: str, rows: Shaped[np.ndarray, "rows ..."]) -> dict[str, Any]:
        """The statistics of one episode, which also go into those of all."""
        # Of rows with two axes or more LeRobot makes one statistic per entry of the last one.
        flat = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1)
        sketch = StreamSketch.of(flat.astype(np.float64))
        self._rows[key] = self._rows.get(key, 0) + len(rows)
        sketches = self._sketches.setdefault(key, [])
        sketches.append(sketch)
        if len(sketches) >= _MERGE_EVERY:
            self._sketches[key] = [StreamSketch.merged(sketches)]
        return _sketch_stats(sketch, len(rows))

    def add_pictures(self, key: str, frames: UInt8[np.ndarray, "frames _ _ 3"]) -> dict[str, Any]:
        """Of a sample of the frames of one episode, per colour, from 0 to 1."""
        counts = np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])
        before = self._colors.get(key, (0, np.zeros_like(counts)))
        self._colors[key] = (before[0] + len(frames), before[1] + counts)
        return _color_stats(len(frames), counts)

    def total(self) -> dict[str, dict[str, Any]]:
        total = {
            key: _sketch_stats(StreamSketch.merged(sketches), self._rows[key])
            for key, sketches in self._sketches.items()
        }
        return total | {key: _color_stats(*seen) for key, seen in self._colors.items()}


def _sketch_stats(sketch: StreamSketch, rows_seen: int) -> dict[str, Any]:
    quantiles = sketch.quantiles(list(QUANTILES.values()))
    rows = {"min": sketch.min, "max": sketch.max, "mean": sketch.mean, "std": sketch.std}
    rows |= dict(zip(QUANTILES, quantiles, strict=True))
    said: dict[str, Any] = {name: row.tolist() for name, row in rows.items()}
    return said | {"count": [rows_seen]}


def _color_stats(frames: int, counts: Int64[np.ndarray, "3 256"]) -> dict[str, Any]:
    """From how often each value of each colour occurs: exact."""
    values = np.arange(256) / 255
    total = counts.sum(1)
    mean = counts @ values / total
    rows = {
        "min": [values[np.flatnonzero(row)[0]] for row in counts],
        "max": [values[np.flatnonzero(row)[-1]] for row in counts],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0)),
    }
    below = np.cumsum(counts, axis=1)
    for name, share in QUANTILES.items():
        ranks = np.floor(share * (total - 1))
        rows[name] = [
            values[np.searchsorted(b, r, "right")] for b, r in zip(below, ranks, strict=True)
        ]
    said: dict[str, Any] = {
        name: np.asarray(row, np.float64).reshape(3, 1, 1).tolist() for name, row in rows.items()
    }
    return said | {"count": [frames]}


def flat_stats(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """As columns of the episode table."""
    return {
        f"stats/{key}/{name}": value for key, said in stats.items() for name, value in said.items()
    }
