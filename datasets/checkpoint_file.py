"""A checkpoint: the table of episodes as one Arrow file, mapped into memory and not parsed.

        checkpoints/000000000999.arrow      commits 0 to 999, folded

Rows are sorted as the table is, and beside them stands an index of their uids, so that a row, the
row of an episode and the place of a new one are found by binary search. Of a file of a million
rows a reader touches a few pages.

Every record has a checksum of its own; the columns have one each, compared when a column is first
used. Next: `episode_table.py`.
"""

import bisect
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped, UInt64

from . import commits
from .chunks import DamagedData, crc32c
from .commits import EpisodeRecord
from .storage import LocalFolder, Storage
from .strict_json import encode

FOLDER = "checkpoints"
SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        # The whole record as JSON; the columns above are copies for searching and sorting.
        ("record", pa.large_string()),
        ("crc32c", pa.uint32()),
        # The index of uids, in an order of its own: hashes, ascending, and the row of each.
        ("uid_hash", pa.uint64()),
        ("uid_row", pa.int64()),
    ]
)
_CHECKED = ("uid", "task", "seed", "steps", "uid_hash", "uid_row")


class CheckpointRows:
    """Rows of a checkpoint. Threads may use it at the same time."""

    def __init__(self, table: pa.Table, name: str) -> None:
        """`table`: as `build` makes it; `name`: what an error calls it."""
        self._table, self._name = table, name
        self._checked: set[str] = set()
        self.record = lru_cache(4096)(self._parse)
        """The record of a row. Raises DamagedData."""

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def steps(self) -> Int64[np.ndarray, " rows"]:
        """Steps of the episode of every row; read-only."""
        return self.numbers("steps")

    def rows_of(self, uids: Sequence[str]) -> dict[str, int]:
        """The rows of those episodes that are here."""
        if not len(self) or not uids:
            return {}
        hashes, rows, wanted = self.numbers("uid_hash"), self.numbers("uid_row"), _hashes(uids)
        found = {}
        first = np.searchsorted(hashes, wanted)
        present = np.flatnonzero(hashes[np.minimum(first, len(self) - 1)] == wanted)
        for position in present.tolist():
            place = int(first[position])
            while place < len(self) and hashes[place] == wanted[position]:
                row = int(rows[place])
                if self.record(row).uid == uids[position]:
                    found[uids[position]] = row
                place += 1
        return found

    def places_of(self, keys: Sequence[tuple[str, int, str]]) -> Int64[np.ndarray, " keys"]:
        """Before which row each of these ascending keys (task, seed, uid) stands."""
        if not len(self) or not keys:
            return np.zeros(len(keys), np.int64)
        places: list[int] = []
        low = 0
        tasks, seeds = self._column("task"), self.numbers("seed")
        for task, group in groupby(keys, key=lambda key: key[0]):
            low = _bisect(tasks, task, low, len(self), right=False)
            high = _bisect(tasks, task, low, len(self), right=True)
            chosen = list(group)
            wanted = np.array([seed for _, seed, _ in chosen], np.int64)
            first = low + np.searchsorted(seeds[low:high], wanted, side="left")
            last = low + np.searchsorted(seeds[low:high], wanted, side="right")
            for (_, _, uid), begin, end in zip(chosen, first.tolist(), last.tolist(), strict=True):
                same = begin < end  # episodes of the same task and seed: their uids decide
                places.append(
                    _bisect(self._column("uid"), uid, begin, end, right=False) if same else begin
                )
        return np.array(places, np.int64)

    def arranged(
        self, rows: Int64[np.ndarray, " rows"], more: Sequence[EpisodeRecord]
    ) -> "CheckpointRows":
        """A checkpoint of these rows; row `len(self) + i` stands for `more[i]`."""
        texts = [json.dumps(encode(record), ensure_ascii=False) for record in more]
        added = {
            "uid": _strings([record.uid for record in more], np.int32),
            "task": _strings([record.task for record in more], np.int32),
            "seed": _numbers(np.array([record.seed for record in more], np.int64)),
            "steps": _numbers(np.array([record.steps for record in more], np.int64)),
            "record": _strings(texts, np.int64),
            "crc32c": _numbers(np.array([crc32c(text.encode()) for text in texts], np.uint32)),
        }
        # Checked before they are copied: a flipped bit must not get a new checksum.
        for name in ("uid", "task", "seed", "steps"):
            self._column(name)
        hashes = np.empty(len(self) + len(more), np.uint64)
        hashes[self.numbers("uid_row")] = self.numbers("uid_hash")
        hashes[len(self) :] = _hashes([record.uid for record in more])
        hashes = hashes[rows]
        order = np.argsort(hashes, kind="stable")
        columns = {
            name: _taken(self._table.column(name).chunk(0), added[name], rows) for name in added
        }
        columns |= {"uid_hash": _numbers(hashes[order]), "uid_row": _numbers(order)}
        return CheckpointRows(_with_checksums(columns), self._name)

    def save(self, storage: Storage, name: str) -> None:
        """Put it into a file, durably, if there is none of this name."""
        measure = pa.MockOutputStream()
        _write(self._table, measure)
        # Of the right size from the start: one that grows is copied again and again.
        buffer = pa.allocate_buffer(measure.size())
        _write(self._table, pa.FixedSizeBufferWriter(buffer))
        storage.make_folder(FOLDER)
        storage.put_if_absent(f"{FOLDER}/{name}", memoryview(buffer))

    def check(self) -> None:
        """Compare every column with its checksum. Raises DamagedData."""
        for name in _CHECKED:
            self._column(name)

    def _parse(self, row: int) -> EpisodeRecord:
        # Not through Arrow, which trusts the offsets of a file: a wrong one ends the process.
        column = self._table.column("record").chunk(0)
        begin, end = np.frombuffer(column.buffers()[1], np.int64)[row : row + 2].tolist()
        texts = memoryview(column.buffers()[2])
        text = texts[begin:end] if 0 <= begin <= end <= len(texts) else b""
        if crc32c(text) != self._table.column("crc32c").chunk(0)[row].as_py():
            raise self._damaged(f"row {row}")
        return commits.record_from_json(json.loads(bytes(text)))

    def numbers(self, name: str) -> Shaped[np.ndarray, " rows"]:
        column = self._column(name)
        # Not `to_numpy`, which imports pandas: half a second, and seconds on a cold disk.
        numbers = np.frombuffer(column.buffers()[1], SCHEMA.field(name).type.to_pandas_dtype())
        return numbers[column.offset : column.offset + len(column)]

    def _column(self, name: str) -> Any:
        column = self._table.column(name).chunk(0)
        if name not in self._checked:
            expected = (self._table.schema.metadata or {}).get(name.encode())
            if expected != str(_column_crc32c(column)).encode():
                raise self._damaged(f"the column {name!r}")
            self._checked.add(name)
        return column

    def _damaged(self, what: str) -> DamagedData:
        return DamagedData(
            f"{FOLDER}/{self._name}: {what} is not what was written; delete the folder {FOLDER}: "
            "it is made again from the log"
        )


def no_rows() -> CheckpointRows:
    """The checkpoint of an empty log."""
    none = np.empty(0, np.int64)
    types: dict[str, Any] = {"crc32c": np.uint32, "uid_hash": np.uint64}
    columns = {
        name: _strings([], np.int64 if name == "record" else np.int32)
        if name in ("uid", "task", "record")
        else _numbers(none.astype(types.get(name, np.int64)))
        for name in SCHEMA.names
    }
    return CheckpointRows(_with_checksums(columns), "(none)")


def load_rows(storage: Storage, name: str) -> CheckpointRows:
    """The checkpoint file of this name. Raises DamagedData or FileNotFoundError."""
    if isinstance(storage, LocalFolder):
        source: Any = pa.memory_map(str(storage.path / FOLDER / name))
    else:
        source = pa.py_buffer(storage.read(f"{FOLDER}/{name}"))
    try:
        table = pa.ipc.open_file(source).read_all()
        sound = table.schema.remove_metadata() == SCHEMA and all(map(_is_whole, table.columns))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        # Arrow has many words for a flipped bit in what it keeps about the columns.
        raise DamagedData(f"{FOLDER}/{name}: {error}") from error
    if not sound:
        raise DamagedData(f"{FOLDER}/{name} does not hold the columns that we write")
    rows = CheckpointRows(table, name)
    _ = rows.steps  # compared now: every reader needs them, and all at once
    return rows


def checkpoint_numbers(storage: Storage) -> list[int]:
    """The last commits that checkpoints hold, in order."""
    stems = (name.removesuffix(".arrow") for name in storage.names(FOLDER) if ".arrow" in name)
    return [int(stem) for stem in stems if stem.isdigit()]


def _write(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _taken(base: pa.Array, added: pa.Array, rows: Int64[np.ndarray, " rows"]) -> pa.Array:
    """Rows of both, one after the other; as slices, for few rows are not where they were."""
    if not len(rows):
        return base[:0]
    split = len(base)
    # A run ends where the next row does not follow, and where `added` begins.
    breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] == split)) + 1
    begins, ends = rows[np.append(0, breaks)], rows[np.append(breaks, len(rows)) - 1] + 1
    return pa.concat_arrays(
        [
            base[begin:end] if begin < split else added[begin - split : end - split]
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        ]
    )


def _is_whole(column: pa.ChunkedArray) -> bool:
    """One piece, nothing missing, and buffers as long as it says. Raises ArrowInvalid."""
    if column.num_chunks != 1:
        return False
    piece = column.chunk(0)
    piece.validate()
    numbers = piece.buffers()[1]  # of a text: where it begins
    width = {pa.string(): 4, pa.large_string(): 8}.get(piece.type) or piece.type.byte_width
    even = numbers is None or numbers.size % width == 0
    return even and piece.offset == 0 and piece.null_count == 0 and piece.buffers()[0] is None


def _bisect(column: Any, value: str, low: int, high: int, right: bool) -> int:
    find = bisect.bisect_right if right else bisect.bisect_left
    return find(range(high), value, low, high, key=lambda row: column[row].as_py())


def _hashes(uids: Iterable[str]) -> UInt64[np.ndarray, " uids"]:
    digests = (hashlib.blake2b(uid.encode(), digest_size=8).digest() for uid in uids)
    return np.frombuffer(b"".join(digests), np.uint64)


def _with_checksums(columns: dict[str, pa.Array]) -> pa.Table:
    checksums = {name: str(_column_crc32c(columns[name])) for name in _CHECKED}
    return pa.table(columns, schema=SCHEMA.with_metadata(checksums))


def _column_crc32c(column: pa.Array) -> int:
    # Bytes in use, not those a buffer is rounded up to.
    offset, count = column.offset, len(column)
    buffers = column.buffers()
    if len(buffers) == 2:
        width = column.type.byte_width
        return crc32c(memoryview(buffers[1])[offset * width : (offset + count) * width])
    if not count:
        return 0
    offsets = np.frombuffer(buffers[1], np.int32)[offset : offset + count + 1]
    text = memoryview(buffers[2] or b"")[int(offsets[0]) : int(offsets[-1])]
    return crc32c(np.array([crc32c(offsets - offsets[0]), crc32c(text)], np.uint32))


# Arrow's arrays are made of buffers here: `pa.array` imports pandas, which takes seconds.


def _numbers(values: Shaped[np.ndarray, " rows"]) -> pa.Array:
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _strings(values: Sequence[str], offset: type[np.int32] | type[np.int64]) -> pa.Array:
    coded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, coded)]).astype(offset)
    kind = pa.string() if offset is np.int32 else pa.large_string()
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(coded))]
    return pa.Array.from_buffers(kind, len(values), buffers)
