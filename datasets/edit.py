"""Changing what a store says, without rewriting what it holds: every edit is a commit.

        delete, relabel         a line in the log
        split                   the parts are views of the same arrays
        join                    a view again where the parts lie side by side, else new arrays
        undo                    the last edit counts no more

Nothing is removed from the disk before `garbage.py` is told to.

Next: `commits.py` (the operations), `pack.py`, `garbage.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from .commits import Add, Change, Commit, Delete, EpisodeRecord, Forget, Move, Op, Undo
from .episode_table import EpisodeTable
from .image_codec import EncodedFrames, joined
from .schema import Episode, Sensor, Subgoal
from .store import Store
from .writer import Writer, new_uid


def delete(writer: Writer, store: Store, episodes: Sequence[int]) -> int:
    """Take episodes out of the store; gives the commit's number."""
    ops = [Delete(store.record(index).uid) for index in _chosen(store, episodes)]
    return writer.commit(ops)


def select(writer: Writer, store: Store, keep: Callable[[EpisodeRecord], bool]) -> int | None:
    """Delete the episodes for which `keep` says False; None if there are none."""
    gone = [index for index, record in enumerate(store.episodes) if not keep(record)]
    return delete(writer, store, gone) if gone else None


def relabel(
    writer: Writer,
    store: Store,
    episodes: Sequence[int],
    instruction: str | None = None,
    task: str | None = None,
    success: bool | None = None,
    paraphrases: tuple[str, ...] | None = None,
    subgoals: tuple[Subgoal, ...] | None = None,
    info: dict[str, str | int | float | bool] | None = None,
) -> int:
    """Give episodes other labels; None leaves one as it is. Gives the commit's number."""
    labels = {
        "instruction": instruction,
        "task": task,
        "success": success,
        "paraphrases": paraphrases,
        "subgoals": subgoals,
    }
    given = {name: label for name, label in labels.items() if label is not None}
    if not given and not info:
        raise ValueError(f"no new label was given; give one of {', '.join(labels)} or info")
    chosen = _chosen(store, episodes)
    for index in chosen:
        steps = store.record(index).steps
        for subgoal in subgoals or ():
            if not 0 <= subgoal.start < subgoal.stop <= steps:
                raise ValueError(
                    f"subgoal {subgoal.instruction!r} covers the steps {subgoal.start} to "
                    f"{subgoal.stop}; episode {index} has {steps}"
                )
    return writer.commit(
        [Change(store.record(index).uid, **given, info=info or {}) for index in chosen]
    )


def split(writer: Writer, store: Store, episode: int, at: Sequence[int]) -> int:
    """Cut an episode before each of the steps `at`; its parts take its place, in one commit.

    Nothing is copied. Sensors with their own rate are cut at the capture times of the steps.
    """
    record = store.record(episode)
    cuts = [0, *sorted(set(at)), record.steps]
    if len(cuts) == 2 or any(not 0 < cut < record.steps for cut in cuts[1:-1]):
        raise ValueError(
            f"cannot cut episode {episode} of {record.steps} steps at {list(at)}; "
            f"give steps from 1 to {record.steps - 1}"
        )
    parts = [_part(store, record, start, stop) for start, stop in pairwise(cuts)]
    return writer.commit([Delete(record.uid), *(Add(part) for part in parts)])


def join(writer: Writer, store: Store, episodes: Sequence[int], reencode: bool = False) -> int:
    """Make one episode of several, in the given order, with the labels of the first and
    the success of the last.

    Parts of one former episode become that episode again; others are copied, their frames as they
    are coded. `reencode`: allow video to be coded once more where its clips do not fit together
    (see `image_codec.joined`). Capture times must run on from part to part.
    """
    records = [store.record(index) for index in _chosen(store, episodes)]
    if len(records) < 2:
        raise ValueError("give at least two episodes to join")
    for record in records[1:]:
        if _kinds(record) != _kinds(records[0]):
            raise ValueError(
                f"episode {record.uid} has the streams {', '.join(record.streams)}; "
                f"{records[0].uid} has {', '.join(records[0].streams)} (or other shapes)"
            )
    whole = _side_by_side(store, records)
    if whole is None:
        episode, encoded = _copied(store, records, reencode)
        whole = writer.store_episode(episode, encoded)
    return writer.commit([*(Delete(record.uid) for record in records), Add(whole)])


def undo(writer: Writer, store: Store, number: int | None = None) -> int:
    """Make a commit count no more: number `number`, or the last edit. Gives the new number.

    Undoing an undo brings the edit back. Raises ValueError if there is nothing to undo, or if it
    would need an episode that was forgotten.
    """
    log = {commit.number: commit for commit in store.log}
    if number is None:
        without = {op.number for c in log.values() for op in c.ops if isinstance(op, Undo)}
        edits = [n for n, c in log.items() if n not in without and _is_edit(c.ops)]
        if not edits:
            raise ValueError(f"{store.location}: no edit to undo")
        number = max(edits)
    if number not in log:
        raise ValueError(f"{store.location} has no commit {number}; its last is {max(log)}")
    if any(isinstance(op, Move) for op in log[number].ops):
        raise ValueError(
            f"commit {number} moved arrays (pack); that changes nothing but their place"
        )
    _refuse_forgotten(store, log, number)
    return writer.commit([Undo(number)])


def _refuse_forgotten(store: Store, log: dict[int, Commit], number: int) -> None:
    """Undoing a split, say, takes its parts away; the whole must be there to take their place."""
    gone = {uid for c in log.values() for op in c.ops if isinstance(op, Forget) for uid in op.uids}
    if not gone:
        return
    kept = [
        replace(c, ops=tuple(op for op in c.ops if not isinstance(op, Forget)))
        for c in log.values()
    ]
    after = EpisodeTable().with_commits([*kept, Commit(max(log) + 1, "", "", (Undo(number),))])
    missing = sorted(gone & {record.uid for record in after})
    if missing:
        raise ValueError(
            f"{store.location}: commit {number} cannot be undone any more: the arrays of "
            f"{len(missing)} episodes it would bring back (first {missing[0]}) were given up by "
            "`ulna data gc`"
        )


def _is_edit(ops: Sequence[Op]) -> bool:
    return any(isinstance(op, Delete | Change) for op in ops)


def _chosen(store: Store, episodes: Sequence[int]) -> list[int]:
    chosen = [int(index) for index in store.choose(episodes)]
    if not chosen:
        raise ValueError(f"{store.location}: no episodes were given")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"an episode was given twice: {chosen}")
    return chosen


def _kinds(record: EpisodeRecord) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (stream.dtype, stream.shape) for name, stream in record.streams.items()}


def _part(store: Store, record: EpisodeRecord, start: int, stop: int) -> EpisodeRecord:
    """Steps `start:stop` as an episode of its own, a view of the same arrays."""
    times = None
    if any(stream.rows is not None for stream in record.streams.values()):
        if "time_ns" not in record.streams:
            raise ValueError(
                f"episode {record.uid} has sensors with their own rate and no stream time_ns; "
                "nobody can say which of their samples belong to which part"
            )
        times = store.reader.read("time_ns", record)
    streams = {}
    for name, stream in record.streams.items():
        if stream.rows is None:
            streams[name] = stream
            continue
        assert times is not None
        clock = store.reader.read(f"{name.rsplit('/', 1)[0]}/time_ns", record)
        low = int(np.searchsorted(clock, times[start])) if start else 0
        high = int(np.searchsorted(clock, times[stop])) if stop < record.steps else stream.rows
        streams[name] = replace(stream, start=record.extent(name)[0] + low, rows=high - low)
    part = replace(
        record,
        start=record.start + start,
        steps=stop - start,
        streams=streams,
        subgoals=tuple(
            Subgoal(max(s.start, start) - start, min(s.stop, stop) - start, s.instruction)
            for s in record.subgoals
            if s.start < stop and s.stop > start
        ),
        info={**record.info, "split_from": record.uid, "split_start": start},
    )
    return _with_checksums(store, part)


def _with_checksums(store: Store, record: EpisodeRecord) -> EpisodeRecord:
    streams = {
        name: replace(stream, crc32c=store.reader.checksum(name, record))
        for name, stream in record.streams.items()
    }
    record = replace(record, streams=streams)
    return replace(record, uid=new_uid(record))


def _side_by_side(store: Store, records: list[EpisodeRecord]) -> EpisodeRecord | None:
    """The records as one view, if their rows follow each other in the same arrays."""
    for one, other in pairwise(records):
        follows = one.segment == other.segment and all(
            sum(one.extent(name)) == other.extent(name)[0] for name in one.streams
        )
        if not follows:
            return None
    steps = sum(record.steps for record in records)
    streams = {
        name: stream
        if stream.rows is None
        else replace(stream, rows=sum(record.extent(name)[1] for record in records))
        for name, stream in records[0].streams.items()
    }
    info = {k: v for k, v in records[0].info.items() if k not in ("split_from", "split_start")}
    whole = replace(
        records[0],
        steps=steps,
        success=records[-1].success,
        streams=streams,
        subgoals=_joined_subgoals(records),
        info=info,
    )
    return _with_checksums(store, whole)


def _copied(
    store: Store, records: list[EpisodeRecord], reencode: bool
) -> tuple[Episode, dict[str, EncodedFrames]]:
    """The rows of all records, one after the other; frames stay coded."""

    def rows(name: str) -> np.ndarray:
        return np.concatenate([store.reader.read(name, record) for record in records])

    first = records[0]
    plain = [name for name in first.streams if "/" not in name]
    sensors = [n.split("/")[1] for n in first.streams if n.endswith("/values")]
    encoded = {
        name: joined([store.reader.read_encoded(f"images/{name}", r) for r in records], reencode)
        for name in first.cameras
    }
    episode = Episode(
        images={},
        streams={name: rows(name) for name in plain},
        instruction=first.instruction,
        task=first.task,
        seed=first.seed,
        success=records[-1].success,
        info={**first.info, "joined_from": " ".join(record.uid for record in records)},
        depth={n.split("/")[1]: rows(n) for n in first.streams if n.startswith("depth/")},
        sensors={
            name: Sensor(rows(f"sensors/{name}/time_ns"), rows(f"sensors/{name}/values"))
            for name in sensors
        },
        paraphrases=first.paraphrases,
        subgoals=_joined_subgoals(records),
    )
    return episode, encoded


def _joined_subgoals(records: list[EpisodeRecord]) -> tuple[Subgoal, ...]:
    found, offset = [], 0
    for record in records:
        found += [
            Subgoal(s.start + offset, s.stop + offset, s.instruction) for s in record.subgoals
        ]
        offset += record.steps
    return tuple(found)
