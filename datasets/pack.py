"""Fewer, larger files: the numbers of many episodes in one shard.

An episode is recorded as one small file per numeric stream, because it must be on the disk before
it counts. Packing copies those chunks, as they are coded, into shards of 64; frames keep their
files under another name. Labels, uids and checksums stay; `garbage.py` removes the old files later.

Next: `layout.py`, `garbage.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .chunks import build_shard
from .commits import EpisodeRecord, Move
from .layout import CHUNK_ROWS, PACKED_CHUNKS, Layout
from .record_reader import RecordReader
from .store import Store
from .writer import Writer, array_metadata_bytes, new_segment

Key = tuple[tuple[str, Layout], ...]


@dataclass
class _Array:
    """One array of the new segment while it is written."""

    layout: Layout
    next_row: int = 0
    pending: list[memoryview | None] = field(default_factory=list)
    """Chunks of the shard that is not full yet."""


def pack(
    writer: Writer,
    store: Store,
    episodes: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda episodes: None,
) -> int:
    """Pack the chosen episodes (None: all that are not packed); gives how many were moved.

    Each group of episodes with the same streams becomes one segment, with one commit at its end:
    cut short, it leaves only files that nothing refers to.
    """
    groups: dict[Key, list[EpisodeRecord]] = {}
    for index in store.choose(episodes):
        record = store.record(int(index))
        key = tuple((name, store.layout(name, record)) for name in record.streams)
        if any(layout.packed != layout for _, layout in key):
            groups.setdefault(key, []).append(record)
    moved = 0
    for key, records in groups.items():
        arrays = {name: _Array(layout.packed) for name, layout in key}
        segment = new_segment(store.storage, store.embodiment, arrays)
        moves = []
        for record in records:
            moves.append(_move(store, record, segment, arrays))
            advance(1)
        for name, array in arrays.items():
            _finish(store, f"segments/{segment}/{name}", array)
        writer.commit(moves)
        moved += len(moves)
    return moved


def _move(store: Store, record: EpisodeRecord, segment: str, arrays: dict[str, _Array]) -> Move:
    """Give the rows of an episode a place in the new arrays."""
    start = None
    sensor_starts: dict[str, int] = {}
    for name, array in arrays.items():
        old_start, rows = record.extent(name)
        within = old_start % CHUNK_ROWS  # a view may begin within a slot
        new_start = array.next_row + within
        folder = f"segments/{segment}/{name}"
        if array.layout.file_rows == CHUNK_ROWS:
            _link(store, record, name, folder, array.next_row)
        else:
            _copy_chunks(store.reader, record, name, folder, array)
        slots = -(-(within + rows) // CHUNK_ROWS)
        array.next_row += slots * CHUNK_ROWS
        if record.streams[name].rows is None:
            assert start in (None, new_start), "streams with one row per step move together"
            start = new_start
        else:
            sensor_starts[name] = new_start
    assert start is not None
    return Move(record.uid, segment, start, sensor_starts)


def _link(store: Store, record: EpisodeRecord, name: str, folder: str, first_row: int) -> None:
    layout = store.layout(name, record)
    for number, file in enumerate(store.stream_files(name, record)):
        store.storage.link(file, f"{folder}/{layout.file_name(first_row + number * CHUNK_ROWS)}")


def _copy_chunks(
    reader: RecordReader, record: EpisodeRecord, name: str, folder: str, array: _Array
) -> None:
    _, _, payloads = reader.payloads(name, record)
    array.pending += payloads
    row = array.next_row + len(payloads) * CHUNK_ROWS - len(array.pending) * CHUNK_ROWS
    while len(array.pending) >= PACKED_CHUNKS:
        data = build_shard(array.pending[:PACKED_CHUNKS], PACKED_CHUNKS)
        reader.storage.write(f"{folder}/{array.layout.file_name(row)}", data)
        del array.pending[:PACKED_CHUNKS]
        row += array.layout.file_rows


def _finish(store: Store, folder: str, array: _Array) -> None:
    if array.pending:
        row = array.next_row - len(array.pending) * CHUNK_ROWS
        data = build_shard(array.pending, PACKED_CHUNKS)
        store.storage.write(f"{folder}/{array.layout.file_name(row)}", data)
    store.storage.write(f"{folder}/zarr.json", array_metadata_bytes(array.layout, array.next_row))
    store.storage.sync([folder])


def packed_share(store: Store) -> float:
    """Share of the episodes whose numbers are packed."""
    packed = sum(
        all((layout := store.layout(name, record)).packed == layout for name in record.streams)
        for record in store.episodes
    )
    return packed / max(1, len(store.episodes))
