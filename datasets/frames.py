"""Chosen frames of a camera, decoded by threads straight into the rows of a batch.

Requests are sorted by place, so that each shard is entered once and a chunk of several frames is
decoded once; a frame that several windows ask for is decoded once and copied.

Next: `loader.py` (which asks), `image_codec.py` (which decodes).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Int64, Shaped

from .chunks import DamagedData
from .layout import CHUNK_ROWS, Layout
from .record_reader import array_folder
from .shards import ShardCache
from .store import Store


@dataclass(frozen=True)
class FramePlan:
    """Which frames a batch needs, in order of place; the same for every camera."""

    wanted: list[tuple[int, int, int]]
    """(episode, step, row of the output) of each different frame."""
    copies: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]] | None
    """Rows of the output that are like other rows: (to, from)."""

    @staticmethod
    def of(
        row: Int64[np.ndarray, " frames"],
        episode: Int64[np.ndarray, " frames"],
        step: Int64[np.ndarray, " frames"],
    ) -> "FramePlan":
        """`row` counts through all episodes, so equal rows are equal frames."""
        order = np.argsort(row, kind="stable")
        fresh = np.ones(len(row), bool)
        fresh[1:] = row[order[1:]] != row[order[:-1]]
        chosen = order[fresh]
        wanted = list(
            zip(episode[chosen].tolist(), step[chosen].tolist(), chosen.tolist(), strict=True)
        )
        if fresh.all():
            return FramePlan(wanted, None)
        source = chosen[np.cumsum(fresh) - 1]
        return FramePlan(wanted, (order[~fresh], source[~fresh]))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the frames of an episode lie."""

    layout: Layout
    folder: str
    start: int
    """First row of the episode in its array."""
    decode_single: Callable[[memoryview, np.ndarray], None] | None
    """Of layouts with one frame per chunk."""
    payloads: dict[int, Callable[[int], memoryview]]
    """How to get at the chunks of the shards that were opened, by number of the file."""


class FrameReader:
    """Frames of one camera (or its depth) of chosen episodes."""

    def __init__(
        self,
        store: Store,
        stream: str,
        episodes: Int64[np.ndarray, " episodes"],
        shards: ShardCache,
        keep_chunks: int = 0,
    ) -> None:
        """`episodes`: indices into `store.episodes`; a plan counts positions in them.
        `keep_chunks`: decoded chunks to keep, for an order that comes back to them soon."""
        self._store, self._stream, self._episodes, self._shards = store, stream, episodes, shards
        self._keep = keep_chunks
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._retired: list[np.ndarray] = []
        self._spare: list[np.ndarray] = []
        self._places: dict[int, _Place] = {}

    def next_batch(self) -> None:
        """Say that nobody reads any more what was decoded before: its memory may be used again."""
        if self._keep:
            with self._lock:
                self._spare, self._retired = self._retired, []

    def read(
        self,
        wanted: Sequence[tuple[int, int, int]],
        out: Shaped[np.ndarray, "frames ..."],
    ) -> None:
        """Fill rows of `out`. Raises DamagedData, which names episode and stream."""
        episode, number, count = -1, 0, len(wanted)
        try:
            while number < count:
                episode, step, target = wanted[number]
                place = self._places.get(episode) or self._enter(episode)
                if place.decode_single is None:
                    end = number + 1
                    while end < count and wanted[end][0] == episode:
                        end += 1
                    self._read_chunks(place, episode, wanted[number:end], out)
                    number = end
                    continue
                # A million times an epoch: no call that can be avoided.
                row = place.start + step
                payload = place.payloads.get(row // CHUNK_ROWS) or self._open(place, row)
                place.decode_single(payload(row % CHUNK_ROWS), out[target])
                number += 1
        except (DamagedData, FileNotFoundError) as error:
            index = int(self._episodes[episode])
            uid = self._store.episodes[index].uid
            raise DamagedData(
                f"episode {index} (uid {uid}), stream {self._stream!r}: {error}"
            ) from error

    def begin(self, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Begin to fetch the chunks of these frames, if they lie in an object store."""
        if self._shards.requests is None:
            return
        for episode, step, _ in wanted:
            place = self._places.get(episode) or self._enter(episode)
            row = place.start + step
            slot = row % CHUNK_ROWS // place.layout.chunk_rows
            name = f"{place.folder}/{place.layout.file_name(row)}"
            self._shards.begin_slot(name, place.layout, slot)

    def files(self, episode: int, first: int, last: int) -> list[tuple[str, Layout]]:
        """The shard files that hold steps `first` to `last` of an episode."""
        place = self._places.get(episode) or self._enter(episode)
        begin = (place.start + first) // CHUNK_ROWS * CHUNK_ROWS
        return [
            (f"{place.folder}/{place.layout.file_name(row)}", place.layout)
            for row in range(begin, place.start + last + 1, CHUNK_ROWS)
        ]

    def _read_chunks(
        self,
        place: _Place,
        episode: int,
        requests: Sequence[tuple[int, int, int]],
        out: np.ndarray,
    ) -> None:
        layout, start = place.layout, place.start
        size = layout.chunk_rows
        for chunk, same in groupby(requests, key=lambda request: (start + request[1]) // size):
            frames = [((start + step) % size, target) for _, step, target in same]
            kept = self._chunks.get((episode, chunk)) if self._keep else None
            if kept is None:
                row = chunk * size
                get = place.payloads.get(row // CHUNK_ROWS) or self._open(place, row)
                payload = get(chunk % layout.slots)
                if not self._keep and len(frames) == 1:
                    within, target = frames[0]
                    layout.decode(payload, within, out[target : target + 1])
                    continue
                # To be kept it is decoded whole; otherwise up to the last frame that is needed.
                kept = self._room(layout)[: size if self._keep else frames[-1][0] + 1]
                layout.decode(payload, 0, kept)
                self._remember((episode, chunk), kept)
            for within, target in frames:
                out[target] = kept[within]

    def _room(self, layout: Layout) -> np.ndarray:
        with self._lock:
            if self._spare and self._spare[-1].shape[1:] == layout.row_shape:
                return self._spare.pop()
        return np.empty((layout.chunk_rows, *layout.row_shape), layout.dtype)

    def _remember(self, key: tuple[int, int], frames: np.ndarray) -> None:
        if self._keep:
            with self._lock:
                self._chunks[key] = frames
                while len(self._chunks) > self._keep:
                    self._retired.append(self._chunks.popitem(last=False)[1])

    def _enter(self, episode: int) -> _Place:
        """Find out where the frames of an episode lie."""
        record = self._store.episodes[int(self._episodes[episode])]
        if self._stream not in record.streams:
            raise ValueError(
                f"episode {int(self._episodes[episode])} (uid {record.uid}) has no stream "
                f"{self._stream!r}; it has {', '.join(record.streams)}"
            )
        layout = self._store.layout(self._stream, record)
        decode = layout.decode_single if layout.chunk_rows == 1 else None
        place = _Place(layout, array_folder(record, self._stream), record.start, decode, {})
        with self._lock:
            # Each entry holds files open beyond the cache's count: only so many of them.
            if len(self._places) >= max(64, self._shards.capacity // 4):
                self._places.clear()
            self._places[episode] = place
        return place

    def _open(self, place: _Place, row: int) -> Callable[[int], memoryview]:
        name = f"{place.folder}/{place.layout.file_name(row)}"
        payload = self._shards.get(name, place.layout).payload
        if self._shards.requests is None:  # what was fetched the cache alone may keep
            place.payloads[row // CHUNK_ROWS] = payload
        return payload


def read_frames(
    readers: Sequence[FrameReader],
    plan: FramePlan,
    outs: Sequence[Shaped[np.ndarray, "frames ..."]],
    threads: ThreadPoolExecutor,
    parts: int,
) -> None:
    """Fill one output per reader; one batch at a time if the readers keep chunks.

    The work is cut into `parts` equal pieces, of which this thread does one.
    """
    for reader in readers:
        reader.next_batch()
    pieces = max(1, -(-parts // len(readers)))
    size = max(1, -(-len(plan.wanted) // pieces))
    jobs = [
        (reader, plan.wanted[first : first + size], out)
        for reader, out in zip(readers, outs, strict=True)
        for first in range(0, len(plan.wanted), size)
    ]
    # Handing work to a thread costs tens of microseconds: only what is to run beside this one.
    own = max(1, len(jobs) // parts)
    pending = [threads.submit(reader.read, wanted, out) for reader, wanted, out in jobs[own:]]
    try:
        for reader, wanted, out in jobs[:own]:
            reader.read(wanted, out)
    finally:
        errors = [job.exception() for job in pending]  # waits: nobody may write into `outs` later
    for error in errors:
        if error is not None:
            raise error
    if plan.copies is not None:
        to, source = plan.copies
        for out in outs:
            out[to] = out[source]
