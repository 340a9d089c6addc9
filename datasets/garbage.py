"""Giving back space: files that nothing refers to, and, when told, what was deleted.

Two kinds of files are in nobody's way but take space: those of writers that were killed, with the
old files of what was packed; and those of deleted episodes, which stay so that the deletion can be
undone. The first kind goes after a grace period, the second only when asked for, and then the log
says so first.
"""

import time
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import commits
from .commits import Add, Commit, EpisodeRecord, Forget, Move
from .durable import TEMPORARY_PREFIX
from .episode_table import EpisodeTable
from .store import Store
from .writer import Writer

GRACE_S = 24 * 3600.0
"""Age below which a file is left alone: it may belong to an episode that is being recorded."""


@dataclass(frozen=True)
class Freed:
    """What was removed, or would be."""

    files: int
    bytes: int
    forgotten: int
    """Deleted episodes whose deletion cannot be undone any more."""


def collect_garbage(
    writer: Writer,
    store: Store,
    forget_deleted: bool = False,
    grace_s: float = GRACE_S,
    dry_run: bool = False,
) -> Freed:
    """Remove files that no episode needs; `dry_run` only counts.

    `forget_deleted`: also those of deleted episodes, for good. Raises ValueError if a record of
    the log is damaged: nobody knows then what it referred to.
    """
    store.refresh()
    if store.damaged_commits or commits.numbers(store.storage) != list(range(len(store.log))):
        raise ValueError(
            f"{store.location}: the log is not whole, so nothing may be removed; see `ulna data "
            "verify`"
        )
    # A commit of a writer that was killed may be seen and not be on the disk yet; nothing may be
    # removed in the name of a log that a power cut takes back.
    store.storage.sync([commits.FOLDER])
    live = {record.uid for record in store.episodes}
    every = _all_records(store)
    deleted = [record for record in every if record.uid not in live]
    kept = [record for record in every if not forget_deleted or record.uid in live]
    if forget_deleted and deleted and not dry_run:
        writer.commit([Forget(tuple(record.uid for record in deleted))])
    needed = {
        file
        for record in kept
        for name in record.streams
        for file in store.stream_files(name, record)
    }
    segments = {record.segment for record in kept}
    oldest = time.time() - grace_s
    files = freed = 0
    for file in list(store.storage.walk("")):
        if file.modified_s <= oldest and _is_garbage(file.name, needed, segments):
            files, freed = files + 1, freed + file.size
            if not dry_run:
                store.storage.delete(file.name)
    if not dry_run:
        store.storage.remove_empty_folders("segments", grace_s)
    return Freed(files, freed, len(deleted) if forget_deleted else 0)


def _all_records(store: Store) -> list[EpisodeRecord]:
    """Every episode that was ever added and not forgotten, where its arrays lie now."""
    kept = (Add, Move, Forget)
    log = [
        Commit(c.number, c.time, c.tool, tuple(op for op in c.ops if isinstance(op, kept)))
        for c in store.log
    ]
    return list(EpisodeTable().with_commits(log))


def _is_garbage(name: str, needed: set[str], segments: set[str]) -> bool:
    path = PurePosixPath(name)
    if path.name.startswith(TEMPORARY_PREFIX):
        return True
    if path.parts[0] != "segments" or len(path.parts) < 3:
        return False
    if path.name.startswith("c."):
        return name not in needed
    # Metadata of a segment of which nothing is left.
    return path.name == "zarr.json" and path.parts[1] not in segments
