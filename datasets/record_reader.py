"""Reading the streams that a record of the log describes, wherever their arrays lie.

Next: `store.py` (episodes by number), `layout.py` (files and chunks).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Shaped

from .chunks import DamagedData, array_crc32c, crc32c
from .commits import EpisodeRecord
from .image_codec import EncodedFrames
from .layout import Layout, read_payloads
from .schema import unknown_name
from .storage import Storage


class RecordReader:
    """Streams of records. Threads may use one at the same time.

    Every error of the data is a DamagedData that names episode, stream and file.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._layouts: dict[tuple[str, str], Layout] = {}

    def layout(self, stream: str, record: EpisodeRecord) -> Layout:
        """How the array of a stream is cut and coded."""
        key = (record.segment, stream)
        if key not in self._layouts:
            name = f"{array_folder(record, stream)}/zarr.json"
            with _named(record, stream):
                try:
                    layout = Layout.from_metadata(self.storage.read(name))
                except DamagedData as error:
                    raise DamagedData(f"file {name}: {error}") from error
                described = record.streams[stream]
                if layout.dtype.name != described.dtype or layout.row_shape != described.shape:
                    raise DamagedData(
                        f"file {name}: describes {layout.dtype}{layout.row_shape}, the log "
                        f"{described.dtype}{described.shape}"
                    )
            self._layouts[key] = layout
        return self._layouts[key]

    def files(self, stream: str, record: EpisodeRecord) -> list[str]:
        """Names of the files that hold a stream of an episode."""
        layout = self.layout(stream, record)
        start, rows = record.extent(stream)
        first = start - start % layout.file_rows
        return [
            f"{array_folder(record, stream)}/{layout.file_name(row)}"
            for row in range(first, start + rows, layout.file_rows)
        ]

    def payloads(
        self, stream: str, record: EpisodeRecord, start: int = 0, rows: int | None = None
    ) -> tuple[Layout, int, list[memoryview]]:
        """The chunks that hold rows `start, ...` of a stream, and the first such row within the
        first of them."""
        if stream not in record.streams:
            raise unknown_name(f"stream of {_name(record)}", stream, record.streams)
        layout = self.layout(stream, record)
        first_row = record.extent(stream)[0] + start
        rows = record.extent(stream)[1] - start if rows is None else rows
        with _named(record, stream):
            payloads = read_payloads(
                self.storage,
                array_folder(record, stream),
                layout,
                first_row // layout.chunk_rows,
                (first_row + rows - 1) // layout.chunk_rows,
            )
        return layout, first_row % layout.chunk_rows, payloads

    def read_into(
        self,
        stream: str,
        record: EpisodeRecord,
        out: Shaped[np.ndarray, "rows ..."],
        start: int = 0,
    ) -> None:
        """Rows `start, ...` into `out` (contiguous, of the stream's type), which says how many."""
        described = record.streams[stream]
        if out.shape[1:] != described.shape or out.dtype != np.dtype(described.dtype):
            raise ValueError(
                f"{stream} of {_name(record)} has rows {described.dtype}{described.shape}, the "
                f"array to fill {out.dtype}{out.shape[1:]}"
            )
        if len(out) == 0:
            return
        layout, within, payloads = self.payloads(stream, record, start, len(out))
        done = 0
        with _named(record, stream):
            for payload in payloads:
                rows = min(layout.chunk_rows - within, len(out) - done)
                layout.decode(payload, within, out[done : done + rows])
                done += rows
                within = 0

    def read(
        self, stream: str, record: EpisodeRecord, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "rows ..."]:
        """Rows `start:stop` of a stream."""
        if stream not in record.streams:
            raise unknown_name(f"stream of {_name(record)}", stream, record.streams)
        rows = record.extent(stream)[1]
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise ValueError(
                f"rows {start}:{stop} of {stream} in {_name(record)}, which has {rows}"
            )
        described = record.streams[stream]
        out = np.empty((stop - start, *described.shape), np.dtype(described.dtype))
        self.read_into(stream, record, out, start)
        return out

    def read_encoded(self, stream: str, record: EpisodeRecord) -> EncodedFrames:
        """Colour frames as they are stored, without decoding them where the codec allows it (see
        `EncodedFrames.slice`)."""
        layout, within, payloads = self.payloads(stream, record)
        assert layout.codec is not None
        height, width, _ = layout.row_shape
        chunks = tuple(bytes(payload) for payload in payloads)
        frames = EncodedFrames(layout.codec, within + record.steps, height, width, chunks)
        return frames.slice(within, within + record.steps) if within else frames

    def checksum(
        self,
        stream: str,
        record: EpisodeRecord,
        rows: Shaped[np.ndarray, "rows ..."] | None = None,
    ) -> int:
        """What `StreamRecord.crc32c` must be; `rows`: the decoded stream, where it is at hand."""
        if not self.layout(stream, record).lossy:
            return array_crc32c(self.read(stream, record) if rows is None else rows)
        return payloads_crc32c(self.payloads(stream, record)[2])


def array_folder(record: EpisodeRecord, stream: str) -> str:
    """Where the array of a stream lies in its store."""
    return f"segments/{record.segment}/{stream}"


def payloads_crc32c(payloads: Sequence[bytes | memoryview]) -> int:
    """CRC-32C of chunks, one after the other."""
    return crc32c(b"".join(bytes(payload) for payload in payloads))


def _name(record: EpisodeRecord) -> str:
    return f"episode {record.uid} (seed {record.seed})"


@contextmanager
def _named(record: EpisodeRecord, stream: str) -> Iterator[None]:
    """Say which episode and stream an error of the data belongs to."""
    try:
        yield
    except (DamagedData, FileNotFoundError) as error:
        raise DamagedData(f"{_name(record)}, stream {stream!r}: {error}") from error
