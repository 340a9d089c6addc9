"""Chosen frames of a camera, decoded by threads straight into the rows of a batch.

Requests are sorted by place, so that each shard is entered once and a chunk of several frames is
decoded once; a frame that several windows ask for is decoded once and copied.

Next: `loader.py` (which asks), `image_codec.py` (which decodes).
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
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
        self._places: OrderedDict[int, tuple[Layout, str, int]] = OrderedDict()

    def read(
        self,
        wanted: Sequence[tuple[int, int, int]],
        out: Shaped[np.ndarray, "frames ..."],
    ) -> None:
        """Fill rows of `out`. Raises DamagedData, which names episode and stream."""
        begin = 0
        while begin < len(wanted):
            episode = wanted[begin][0]
            end = begin + 1
            while end < len(wanted) and wanted[end][0] == episode:
                end += 1
            layout, folder, start = self._place(episode)
            try:
                if layout.chunk_rows == 1:
                    self._read_single(layout, folder, start, wanted[begin:end], out)
                else:
                    self._read_chunks(layout, folder, start, episode, wanted[begin:end], out)
            except (DamagedData, FileNotFoundError) as error:
                index = int(self._episodes[episode])
                uid = self._store.episodes[index].uid
                raise DamagedData(
                    f"episode {index} (uid {uid}), stream {self._stream!r}: {error}"
                ) from error
            begin = end

    def files(self, episode: int, first: int, last: int) -> list[tuple[str, Layout]]:
        """The shard files that hold steps `first` to `last` of an episode."""
        layout, folder, start = self._place(episode)
        begin = (start + first) // CHUNK_ROWS * CHUNK_ROWS
        return [
            (f"{folder}/{layout.file_name(row)}", layout)
            for row in range(begin, start + last + 1, CHUNK_ROWS)
        ]

    def _read_single(
        self,
        layout: Layout,
        folder: str,
        start: int,
        requests: Sequence[tuple[int, int, int]],
        out: np.ndarray,
    ) -> None:
        decode, file_rows = layout.decode_single, layout.file_rows
        row_stop, payload, first = -1, None, 0
        for _, step, target in requests:
            row = start + step
            if row >= row_stop or payload is None:
                first = row - row % file_rows
                row_stop = first + file_rows
                payload = self._shards.get(f"{folder}/{layout.file_name(row)}", layout).payload
            decode(payload(row - first), out[target])

    def _read_chunks(
        self,
        layout: Layout,
        folder: str,
        start: int,
        episode: int,
        requests: Sequence[tuple[int, int, int]],
        out: np.ndarray,
    ) -> None:
        size = layout.chunk_rows
        for chunk, same in groupby(requests, key=lambda request: (start + request[1]) // size):
            frames = [((start + step) % size, target) for _, step, target in same]
            kept = self._chunks.get((episode, chunk)) if self._keep else None
            if kept is None:
                name = f"{folder}/{layout.file_name(chunk * size)}"
                payload = self._shards.get(name, layout).payload(chunk % layout.slots)
                if not self._keep and len(frames) == 1:
                    within, target = frames[0]
                    layout.decode(payload, within, out[target : target + 1])
                    continue
                # To be kept it is decoded whole; otherwise up to the last frame that is needed.
                rows = size if self._keep else frames[-1][0] + 1
                kept = np.empty((rows, *layout.row_shape), layout.dtype)
                layout.decode(payload, 0, kept)
                self._remember((episode, chunk), kept)
            for within, target in frames:
                out[target] = kept[within]

    def _remember(self, key: tuple[int, int], frames: np.ndarray) -> None:
        if self._keep:
            with self._lock:
                self._chunks[key] = frames
                while len(self._chunks) > self._keep:
                    self._chunks.popitem(last=False)

    def _place(self, episode: int) -> tuple[Layout, str, int]:
        place = self._places.get(episode)
        if place is None:
            record = self._store.episodes[int(self._episodes[episode])]
            if self._stream not in record.streams:
                raise ValueError(
                    f"episode {int(self._episodes[episode])} (uid {record.uid}) has no stream "
                    f"{self._stream!r}; it has {', '.join(record.streams)}"
                )
            layout = self._store.layout(self._stream, record)
            place = (layout, array_folder(record, self._stream), record.start)
            with self._lock:
                self._places[episode] = place
                while len(self._places) > 65536:
                    self._places.popitem(last=False)
        return place


def read_frames(
    readers: Sequence[FrameReader],
    plan: FramePlan,
    outs: Sequence[Shaped[np.ndarray, "frames ..."]],
    threads: ThreadPoolExecutor,
    parts: int,
) -> None:
    """Fill one output per reader, the work cut into `parts` equal pieces of which this thread
    does one."""
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
