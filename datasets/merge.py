"""Several stores into one: files are copied as they are, no frame is decoded.

Segments have names that no other store uses, so merging is copying them and adding the records to
the log. Repeat a merge that was interrupted: what is there already is not added twice.

Next: `edit.py`, `pack.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from .commits import Add
from .schema import require_same_embodiment
from .storage import Storage, copy_files, open_storage
from .store import Store
from .store_header import create_header
from .writer import Writer

EPISODES_PER_COMMIT = 1024
"""A merge cut short keeps what was committed, and a commit is read as a whole."""


def merge(
    sources: Sequence[Store],
    target: Path | str | Storage,
    advance: Callable[[int], None] = lambda episodes: None,
) -> int:
    """Add the episodes of `sources` to the store at `target`, made if it is not there; gives how
    many were added. `advance` is told each time some are.

    Raises ValueError if the stores are not of one embodiment.
    """
    first = sources[0]
    for source in sources[1:]:
        require_same_embodiment(first.embodiment, source.embodiment, source.location)
    storage = open_storage(target) if isinstance(target, Path | str) else target
    out = _open_or_create(storage, first)
    require_same_embodiment(first.embodiment, out.embodiment, out.location)
    present = {record.uid for record in out.episodes}
    added = 0
    with Writer(storage, tool="merge") as writer:
        for source in sources:
            fresh = [record for record in source.episodes if record.uid not in present]
            for begin in range(0, len(fresh), EPISODES_PER_COMMIT):
                records = fresh[begin : begin + EPISODES_PER_COMMIT]
                files: set[str] = set()
                for record in records:
                    for stream in record.streams:
                        files.update(source.stream_files(stream, record))
                _copy(source, out, files)
                writer.commit([Add(record) for record in records])
                present.update(record.uid for record in records)
                added += len(records)
                advance(len(records))
    return added


def _open_or_create(storage: Storage, like: Store) -> Store:
    if not storage.exists("zarr.json"):
        create_header(storage, like.embodiment)
    return Store.on(storage)


def _copy(source: Store, out: Store, files: set[str]) -> None:
    """Files of arrays, and the metadata of the groups and arrays that they belong to."""
    storage = out.storage
    folders: set[PurePosixPath] = set()
    for name in files:
        parents = PurePosixPath(name).parents
        folders.update(p for p in parents if len(p.parts) >= 2)  # below `segments`
    ordered = sorted(folders)
    for folder in ordered:
        storage.make_folder(str(folder))
    copy_files(source.storage, storage, [n for n in sorted(files) if not storage.exists(n)])
    # After the arrays: their metadata never tells of rows that are not there.
    copy_files(source.storage, storage, [f"{folder}/zarr.json" for folder in ordered])
    storage.sync(["segments", *(str(folder) for folder in ordered)])
