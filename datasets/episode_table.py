"""The table of episodes: what the log amounts to, sorted by task, seed and content.

Folding a log of a million episodes again at every start would take a minute, so every thousandth
commit leaves a checkpoint: the table so far as an Arrow file, mapped into memory and not parsed.
A table is that file plus the few records that came after it.

        checkpoints/000000000999.arrow      commits 0 to 999, folded
        commits/000000001000.json ...       the rest

A checkpoint is a cache: delete all of them, and the log still tells everything.

Next: `store.py`.
"""

import bisect
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int64

from . import commits
from .chunks import DamagedData, crc32c
from .commits import Add, Change, Commit, Delete, EpisodeRecord, Forget, Move, Undo
from .storage import LocalFolder, Storage
from .strict_json import encode

_compute: Any = pyarrow.compute  # its functions are made at run time, types do not see them

FOLDER = "checkpoints"
CHECKPOINT_COMMITS = 1000
_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        # The whole record as JSON; the columns above are copies for searching and sorting.
        ("record", pa.large_string()),
        ("crc32c", pa.uint32()),
    ]
)


class EpisodeTable(Sequence[EpisodeRecord]):
    """Episodes in order; a record is made when it is asked for."""

    def __init__(self, base: pa.Table | None = None) -> None:
        """`base`: a checkpoint's table."""
        self._base = base
        base_rows = 0 if base is None else base.num_rows
        self._base_rows = base_rows
        self._extra: list[EpisodeRecord] = []
        self._order: Int64[np.ndarray, " episodes"] = np.arange(base_rows)
        """Row of the base, or `base_rows` + position in `_extra`, per episode."""
        self._from_base = lru_cache(4096)(self._parse)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> EpisodeRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EpisodeRecord, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return self._at(int(self._order[index]))

    def __iter__(self) -> Iterator[EpisodeRecord]:
        return (self._at(int(row)) for row in self._order)

    @property
    def steps(self) -> Int64[np.ndarray, " episodes"]:
        """Steps of every episode."""
        extra = np.array([record.steps for record in self._extra], np.int64)
        return np.concatenate([self._column("steps"), extra])[self._order]

    def index_of(self, uid: str) -> int | None:
        """Where the episode `uid` stands; None if it does not exist."""
        for position, record in enumerate(self._extra):
            if record.uid == uid:
                found = np.flatnonzero(self._order == self._base_rows + position)
                return int(found[0]) if len(found) else None
        if self._base is None:
            return None
        row = _compute.index(self._base.column("uid"), uid).as_py()
        found = np.flatnonzero(self._order == row) if row >= 0 else []
        return int(found[0]) if len(found) else None

    def with_commits(self, later: Sequence[Commit]) -> "EpisodeTable":
        """The table after these commits (which say nothing against commits before them)."""
        effective = _effective(later)
        ops = [op for commit in effective for op in commit.ops]
        added = {op.episode.uid for op in ops if isinstance(op, Add)}
        touched = {op.uid for op in ops if isinstance(op, Delete | Change | Move)} - added
        rows = self._rows_of(touched)
        changed = {uid: self._at(row) for uid, row in rows.items()}
        for op in ops:
            match op:
                case Add():
                    changed[op.episode.uid] = op.episode
                case Delete():
                    changed.pop(op.uid, None)
                case Change() if op.uid in changed:
                    changed[op.uid] = _relabelled(changed[op.uid], op)
                case Move() if op.uid in changed:
                    changed[op.uid] = _moved(changed[op.uid], op)
                case _:  # an edit of an episode that another edit removed, an Undo, a Forget
                    pass
        table = EpisodeTable(self._base)
        # Records this table has beyond its base stay, unless they were touched.
        kept = [record for record in self._live_extra() if record.uid not in touched]
        table._extra = sorted([*kept, *changed.values()], key=lambda record: record.key)
        gone = np.array([row for row in rows.values() if row < self._base_rows], np.int64)
        base_order = self._order[self._order < self._base_rows]
        base_order = base_order[~np.isin(base_order, gone)] if len(gone) else base_order
        places = [
            bisect.bisect_left(base_order, record.key, key=self._base_key)
            for record in table._extra
        ]
        numbers = self._base_rows + np.arange(len(table._extra))
        table._order = np.insert(base_order, np.array(places, np.int64), numbers)
        return table

    def to_arrow(self) -> pa.Table:
        """The columns of a checkpoint."""
        texts = [json.dumps(encode(record), ensure_ascii=False) for record in self._extra]
        columns = [
            [record.uid for record in self._extra],
            [record.task for record in self._extra],
            [record.seed for record in self._extra],
            [record.steps for record in self._extra],
            texts,
            [crc32c(text.encode()) for text in texts],
        ]
        extra = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
        )
        base = [] if self._base is None else [self._base.replace_schema_metadata()]
        return pa.concat_tables([*base, extra]).combine_chunks().take(self._order)

    def _at(self, row: int) -> EpisodeRecord:
        if row >= self._base_rows:
            return self._extra[row - self._base_rows]
        return self._from_base(row)

    def _parse(self, row: int) -> EpisodeRecord:
        assert self._base is not None
        text = self._base.column("record")[row].as_py()
        if crc32c(text.encode()) != self._base.column("crc32c")[row].as_py():
            raise DamagedData(
                f"row {row} of the newest checkpoint of the log has changed; delete the folder "
                f"{FOLDER}: it is made again from the log"
            )
        return commits.record_from_json(json.loads(text))

    def _base_key(self, row: int) -> tuple[str, int, str]:
        assert self._base is not None
        return tuple(self._base.column(name)[int(row)].as_py() for name in ("task", "seed", "uid"))

    def _rows_of(self, uids: set[str]) -> dict[str, int]:
        """Where these episodes lie in this table's rows; those that are not there are left out."""
        rows = {}
        live = set(self._order[self._order >= self._base_rows].tolist())
        for position, record in enumerate(self._extra):
            if record.uid in uids and self._base_rows + position in live:
                rows[record.uid] = self._base_rows + position
        rest = sorted(uids - set(rows))
        if rest and self._base is not None:
            column = self._base.column("uid")
            matches = _compute.index_in(column, value_set=pa.array(rest)).combine_chunks()
            for row in np.flatnonzero(_compute.is_valid(matches).to_numpy(zero_copy_only=False)):
                rows[rest[matches[int(row)].as_py()]] = int(row)
            present = np.isin(list(rows.values()), self._order)
            rows = {u: r for (u, r), here in zip(rows.items(), present, strict=True) if here}
        return rows

    def _live_extra(self) -> Iterable[EpisodeRecord]:
        for row in self._order[self._order >= self._base_rows]:
            yield self._extra[int(row) - self._base_rows]

    def _column(self, name: str) -> np.ndarray:
        if self._base is None:
            return np.empty(0, np.int64)
        return self._base.column(name).to_numpy()


@dataclass(frozen=True)
class Checkpoint:
    """A folded log."""

    number: int
    """Last commit in it; -1: nothing."""
    table: EpisodeTable


def newest_checkpoint(storage: Storage, below: int | None = None) -> Checkpoint:
    """The newest usable checkpoint whose last commit is below `below` (None: any)."""
    names = [n for n in storage.names(FOLDER) if n.endswith(".arrow") and n[:-6].isdigit()]
    for name in reversed(names):
        number = int(name.removesuffix(".arrow"))
        if below is not None and number >= below:
            continue
        try:
            return Checkpoint(number, EpisodeTable(_load(storage, f"{FOLDER}/{name}")))
        except (pa.ArrowInvalid, DamagedData, FileNotFoundError):
            continue  # a cache that cannot be read: the one before it, or the log, tells the same
    return Checkpoint(-1, EpisodeTable())


def write_checkpoint(storage: Storage, number: int, table: EpisodeTable) -> None:
    """Keep `table`, the fold of all commits up to `number`, and drop all but one older one."""
    arrow = table.to_arrow()
    steps = arrow.column("steps").to_numpy()
    arrow = arrow.replace_schema_metadata({"steps_crc32c": str(crc32c(steps))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, arrow.schema) as writer:
        writer.write_table(arrow.combine_chunks())
    storage.make_folder(FOLDER)
    storage.put_if_absent(f"{FOLDER}/{number:012d}.arrow", sink.getvalue().to_pybytes())
    for name in storage.names(FOLDER)[:-2]:
        if name.endswith(".arrow"):
            storage.delete(f"{FOLDER}/{name}")


def undone(later: Sequence[Commit]) -> set[int]:
    """Numbers of the commits that an effective `Undo` names, within `later` or before it."""
    numbers: set[int] = set()
    for commit in sorted(later, key=lambda commit: -commit.number):
        if commit.number not in numbers:
            numbers |= {op.number for op in commit.ops if isinstance(op, Undo)}
    return numbers


def _effective(later: Sequence[Commit]) -> list[Commit]:
    """Commits in order, without what was undone or forgotten.

    Where arrays lie is no matter of opinion: a `Move` counts whatever is undone, and what was
    forgotten stays away.
    """
    without = undone(later)
    forgotten = {uid for c in later for op in c.ops if isinstance(op, Forget) for uid in op.uids}

    def counts(commit: Commit, op: commits.Op) -> bool:
        if isinstance(op, Add) and op.episode.uid in forgotten:
            return False
        return commit.number not in without or isinstance(op, Move)

    kept = [
        replace(commit, ops=tuple(op for op in commit.ops if counts(commit, op)))
        for commit in sorted(later, key=lambda commit: commit.number)
    ]
    return [*kept, Commit(-1, "", "", tuple(Delete(uid) for uid in sorted(forgotten)))]


def _load(storage: Storage, name: str) -> pa.Table:
    if isinstance(storage, LocalFolder):
        source: Any = pa.memory_map(str(storage.path / name))
    else:
        source = pa.py_buffer(storage.read(name))
    table = pa.ipc.open_file(source).read_all()
    if table.schema.remove_metadata() != _SCHEMA:
        raise DamagedData(f"{name} has the columns {table.schema.names}, not ours")
    steps = table.column("steps").to_numpy()
    if (table.schema.metadata or {}).get(b"steps_crc32c") != str(crc32c(steps)).encode():
        raise DamagedData(f"{name}: the checksum of the column `steps` does not match")
    return table


def _relabelled(record: EpisodeRecord, change: Change) -> EpisodeRecord:
    labels = ("task", "instruction", "success", "paraphrases", "subgoals")
    given = {name: getattr(change, name) for name in labels if getattr(change, name) is not None}
    return replace(record, **given, info={**record.info, **change.info})


def _moved(record: EpisodeRecord, move: Move) -> EpisodeRecord:
    streams = {
        name: replace(stream, start=move.sensor_starts.get(name, stream.start))
        for name, stream in record.streams.items()
    }
    return replace(record, segment=move.segment, start=move.start, streams=streams)
