"""CSV and Parquet tables with one row per step; errors name the file, the column and the row.

Next: `import_images.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from jaxtyping import Shaped

from .schema import unknown_name


def tables_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in (".csv", ".parquet"))


@dataclass(frozen=True, eq=False)
class Table:
    """One table, or the rows of one episode of it."""

    path: Path
    content: pa.Table
    first_row: int = 0

    @staticmethod
    def read(path: Path) -> "Table":
        try:
            if path.suffix.lower() == ".parquet":
                return Table(path, pa_parquet.read_table(path))
            # Only an empty cell is missing; `nan` is a number, and the store refuses it.
            convert = pa_csv.ConvertOptions(null_values=[""])
            return Table(path, pa_csv.read_csv(path, convert_options=convert))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} cannot be read as a table: {error}") from error

    def __len__(self) -> int:
        return self.content.num_rows

    @property
    def names(self) -> list[str]:
        return list(self.content.column_names)

    def has(self, name: str) -> bool:
        return name in self.names

    def columns(self, prefix: str) -> list[str]:
        return [name for name in self.names if name.startswith(prefix)]

    def other_groups(self) -> dict[str, list[str]]:
        """Columns that are not state, action, image or episode, by what stands before the dot."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            group = name.split(".", 1)[0]
            if name != "episode" and group not in ("state", "action", "image"):
                groups.setdefault(group, []).append(name)
        # A text among numbers would spoil the group: each of its columns stands alone then.
        split: dict[str, list[str]] = {}
        for group, columns in groups.items():
            alike = not any(self.is_text(column) for column in columns) or len(columns) == 1
            split.update({group: columns} if alike else {column: [column] for column in columns})
        return split

    def is_text(self, name: str) -> bool:
        kind = self._column(name).type
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    def texts(self, name: str) -> list[str]:
        if not self.is_text(name):
            raise ValueError(
                f"{self.path}: column {name!r} holds {self._column(name).type}, expected text"
            )
        return [text or "" for text in self._column(name).to_pylist()]

    def numbers(self, columns: Sequence[str]) -> Shaped[np.ndarray, "steps columns"]:
        """Raises ValueError for a cell that is empty or not a number."""
        arrays = []
        for name in columns:
            column = self._column(name)
            kind = column.type
            if not (
                pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            ):
                raise self._bad_cell(name)
            if column.null_count:
                row = pc.index(column.is_null(), True).as_py()
                raise ValueError(f"{self.path}: column {name!r} is empty in {self._row(row)}")
            arrays.append(column.to_numpy())
        dtype = np.result_type(*arrays)
        return np.stack([array.astype(dtype) for array in arrays], axis=1)

    def episodes(self) -> list[str]:
        """Values of the column `episode`, in order of appearance."""
        if not self.has("episode"):
            raise ValueError(
                f"{self.path} is the only table and has no column 'episode'; it has "
                f"{', '.join(self.names)}"
            )
        return list(self._spans)

    def only(self, episode: str) -> "Table":
        if episode not in self._spans:
            raise unknown_name("episode", episode, self._spans)
        first, rows = self._spans[episode]
        return Table(self.path, self.content.slice(first, rows), first)

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        spans: dict[str, tuple[int, int]] = {}
        values = [str(value) for value in self._column("episode").to_pylist()]
        start = 0
        for row in range(1, len(values) + 1):
            if row == len(values) or values[row] != values[start]:
                if values[start] in spans:
                    raise ValueError(
                        f"{self.path}: rows of episode {values[start]} stand in two places, the "
                        f"second from {self._row(start)} on; sort the table by episode"
                    )
                spans[values[start]] = (start, row - start)
                start = row
        return spans

    def _column(self, name: str) -> pa.ChunkedArray:
        if not self.has(name):
            raise unknown_name(f"column of {self.path}", name, self.names)
        return self.content.column(name)

    def _bad_cell(self, name: str) -> ValueError:
        for row, value in enumerate(self._column(name).to_pylist()):
            if value is None:
                return ValueError(f"{self.path}: column {name!r} is empty in {self._row(row)}")
            try:
                float(value)
            except (TypeError, ValueError):
                return ValueError(
                    f"{self.path}: column {name!r} holds {value!r} in {self._row(row)}; expected "
                    "a number"
                )
        kind = self._column(name).type
        return ValueError(f"{self.path}: column {name!r} holds {kind}, expected numbers")

    def _row(self, row: int) -> str:
        """As a person counts in the file."""
        row += self.first_row
        return f"line {row + 2}" if self.path.suffix.lower() == ".csv" else f"row {row}"
