"""The table of episodes: what the log amounts to, sorted by task, seed and content.

Folding a log of a million episodes again at every start would take a minute, so now and then a
writer leaves a checkpoint, the table so far. A table is that checkpoint plus the few records that
came after it:

        rows of the checkpoint     0  1  2  3  4  5
        removed since                 x
        records since                      a     b         each with its place
        the table                  0  2  a  3  b  4  5

Nothing here is as long as the checkpoint, so opening costs the same for a thousand episodes and
for a million; places are found by binary search.

A checkpoint is a cache: delete all of them, and the log still tells everything.

Next: `checkpoint_file.py` (the file), `store.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Int64

from . import commits
from .checkpoint_file import FOLDER, CheckpointRows, checkpoint_numbers, load_rows, no_rows
from .chunks import DamagedData
from .commits import Add, Change, Commit, Delete, EpisodeRecord, Forget, Move, Undo
from .storage import Storage

CHECKPOINT_OPS = 1000


if TYPE_CHECKING:
    _Records = Sequence[EpisodeRecord]
else:
    # beartype would look at an item wherever a table is passed, and reading one may raise.
    _Records = Sequence


class EpisodeTable(_Records):
    """Episodes in order; a record is made when it is asked for."""

    def __init__(self, base: CheckpointRows | None = None) -> None:
        """`base`: rows of a checkpoint; None: no episodes."""
        self._base = no_rows() if base is None else base
        self._extra: list[EpisodeRecord] = []
        """Records after the checkpoint, in order."""
        self._removed: Int64[np.ndarray, " removed"] = np.empty(0, np.int64)
        """Rows of the base that count no more, ascending."""
        self._places: Int64[np.ndarray, " extra"] = np.empty(0, np.int64)
        """Index in the table of each extra record, ascending."""
        self._extra_of: dict[str, int] = {}
        """Position in `_extra` by uid."""

    def __len__(self) -> int:
        return len(self._base) - len(self._removed) + len(self._extra)

    @overload
    def __getitem__(self, index: int) -> EpisodeRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EpisodeRecord, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return self._at(index + len(self) if index < 0 else int(index))

    def __iter__(self) -> Iterator[EpisodeRecord]:
        return (self._at(index) for index in range(len(self)))

    @property
    def steps(self) -> Int64[np.ndarray, " episodes"]:
        """Steps of every episode."""
        steps = self._base.steps
        if len(self._removed):
            steps = np.delete(steps, self._removed)
        if self._extra:
            extra = np.array([record.steps for record in self._extra], np.int64)
            # `insert` counts in what it inserts into, `_places` in the result.
            steps = np.insert(steps, self._places - np.arange(len(extra)), extra)
        return steps

    def index_of(self, uid: str) -> int | None:
        """Where the episode `uid` stands; None if it does not exist."""
        if uid in self._extra_of:
            return int(self._places[self._extra_of[uid]])
        row = self._base.rows_of([uid]).get(uid)
        if row is None:
            return None
        removed = int(np.searchsorted(self._removed, row))
        if removed < len(self._removed) and self._removed[removed] == row:
            return None
        place = row - removed
        return place + int(np.searchsorted(self._gaps(), place, side="right"))

    def with_commits(self, later: Sequence[Commit]) -> "EpisodeTable":
        """The table after these commits (which undo none before them)."""
        ops = _effective(later)
        named = dict.fromkeys(uid for op in ops for uid in _uids(op))
        rows = self._base.rows_of(list(named))
        gone = set(self._removed.tolist())
        changed = {uid: self._base.record(row) for uid, row in rows.items() if row not in gone} | {
            record.uid: record for record in self._extra
        }
        # In place of `_extra`, which it begins with.
        for op in ops:
            match op:
                case Add():
                    changed[op.episode.uid] = op.episode
                case Delete():
                    changed.pop(op.uid, None)
                case Forget():
                    for uid in op.uids:
                        changed.pop(uid, None)
                case Change() if op.uid in changed:
                    changed[op.uid] = _relabelled(changed[op.uid], op)
                case Move() if op.uid in changed:
                    changed[op.uid] = _moved(changed[op.uid], op)
                case _:  # an edit of an episode that another edit removed, or an Undo
                    pass
        table = EpisodeTable(self._base)
        table._extra = sorted(changed.values(), key=lambda record: record.key)
        table._extra_of = {record.uid: i for i, record in enumerate(table._extra)}
        table._removed = np.array(sorted(gone | set(rows.values())), np.int64)
        places = self._base.places_of([record.key for record in table._extra])
        places = places - np.searchsorted(table._removed, places)
        table._places = places + np.arange(len(places))
        return table

    def checkpoint_rows(self) -> CheckpointRows:
        """This table as rows of a checkpoint."""
        rows = np.delete(np.arange(len(self._base)), self._removed)
        extra = len(self._base) + np.arange(len(self._extra))
        return self._base.arranged(np.insert(rows, self._gaps(), extra), self._extra)

    def _at(self, index: int) -> EpisodeRecord:
        before = int(np.searchsorted(self._places, index))
        if before < len(self._places) and self._places[before] == index:
            return self._extra[before]
        # The row that stands at `place` among those that are left: as many rows further as were
        # removed before it.
        place = index - before
        left_before = self._removed - np.arange(len(self._removed))
        return self._base.record(place + int(np.searchsorted(left_before, place, side="right")))

    def _gaps(self) -> Int64[np.ndarray, " extra"]:
        """Before which of the rows that are left each extra record stands."""
        return self._places - np.arange(len(self._places))


@dataclass(frozen=True)
class Checkpoint:
    """A folded log."""

    number: int
    """Last commit in it; -1: nothing."""
    table: EpisodeTable


def newest_checkpoint(storage: Storage, below: int | None = None) -> Checkpoint:
    """The newest usable checkpoint whose last commit is below `below` (None: any)."""
    for number in reversed(checkpoint_numbers(storage)):
        if below is not None and number >= below:
            continue
        try:
            return Checkpoint(number, EpisodeTable(load_rows(storage, _file_name(number))))
        except (DamagedData, FileNotFoundError):
            continue  # a cache that cannot be read: the one before it, or the log, tells the same
    return Checkpoint(-1, EpisodeTable())


def load_checkpoint(storage: Storage, number: int) -> EpisodeTable:
    """The table in the checkpoint of commit `number`, all of its columns compared with their
    checksums. Raises DamagedData or FileNotFoundError."""
    rows = load_rows(storage, _file_name(number))
    rows.check()
    return EpisodeTable(rows)


def write_checkpoint(storage: Storage, number: int, table: EpisodeTable) -> None:
    """Keep `table`, the fold of all commits up to `number`, and drop all but one older one."""
    # A checkpoint that outlives commits it folded, in a power cut, would leave a gap in the log.
    storage.sync([commits.FOLDER])
    table.checkpoint_rows().save(storage, _file_name(number))
    for old in checkpoint_numbers(storage)[:-2]:
        storage.delete(f"{FOLDER}/{_file_name(old)}")


def checkpoint_is_due(operations: int, episodes: int) -> bool:
    """Whether `operations` after the newest checkpoint are worth another one.

    Reading the log at each start costs 20 us per operation, writing a checkpoint 1 us per episode:
    waiting longer as the store grows keeps both small.
    """
    return operations >= max(CHECKPOINT_OPS, isqrt(episodes))


def _file_name(number: int) -> str:
    return f"{number:012d}.arrow"


def undone(later: Sequence[Commit]) -> set[int]:
    """Numbers of the commits that an effective `Undo` names, within `later` or before it."""
    numbers: set[int] = set()
    for commit in sorted(later, key=lambda commit: -commit.number):
        if commit.number not in numbers:
            numbers |= {op.number for op in commit.ops if isinstance(op, Undo)}
    return numbers


def _effective(later: Sequence[Commit]) -> list[commits.Op]:
    """Operations in order, without what was undone.

    Where arrays lie is no matter of opinion: a `Move` and a `Forget` count whatever is undone.
    """
    without = undone(later)
    return [
        op
        for commit in sorted(later, key=lambda commit: commit.number)
        for op in commit.ops
        if commit.number not in without or isinstance(op, Move | Forget)
    ]


def _uids(op: commits.Op) -> tuple[str, ...]:
    match op:
        case Add():
            return (op.episode.uid,)
        case Forget():
            return op.uids
        case Undo():
            return ()
        case _:
            return (op.uid,)


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
