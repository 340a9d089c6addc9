"""One stream of an episode that is still being recorded: files go out as they fill.

        chunk, chunk, ... --> file in memory --256 rows--> written and synced by a thread
                                                          (the next file fills meanwhile)

At most two files of a stream are in memory: while the second fills, the first is written, and
`add_chunk` waits for it when the second is full too. What comes out is byte by byte what
`Writer.add_episode` writes.

Next: `recorder_threads.py`, which feeds it.
"""

import io
from concurrent.futures import Executor, Future

import numpy as np
from google_crc32c import extend
from jaxtyping import Shaped

from .chunks import MISSING, compress, with_checksum
from .commits import StreamRecord
from .layout import CHUNK_ROWS, Layout
from .storage import Storage
from .writer import array_metadata_bytes


class GrowingStream:
    """Rows of one stream of one episode, from `start` of its array on. For one thread."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        layout: Layout,
        start: int,
        own_rate: bool,
        threads: Executor,
    ) -> None:
        """`own_rate`: it has rows of its own instead of one per step. `threads` write the files."""
        self.layout = layout
        self.start = start
        self.rows = 0
        self._storage = storage
        self._folder = folder
        self._own_rate = own_rate
        self._threads = threads
        self._crc32c = 0
        self._files: list[str] = []
        self._writing: Future[None] | None = None
        self._content = io.BytesIO()
        self._index = np.full((layout.slots, 2), MISSING, "<u8")
        self._chunks = 0
        self._tail = np.zeros((layout.chunk_rows, *layout.row_shape), layout.dtype)
        self._tail_rows = 0

    @property
    def stop(self) -> int:
        """First row of the array that another episode may use."""
        return self.start + -(-self.rows // CHUNK_ROWS) * CHUNK_ROWS

    def add_rows(self, rows: Shaped[np.ndarray, "rows ..."]) -> None:
        """Numbers, to be coded here. Raises OSError if an earlier file could not be written."""
        self._notice()
        self._checksum_rows(rows)
        done = 0
        while done < len(rows):
            count = min(len(rows) - done, self.layout.chunk_rows - self._tail_rows)
            self._tail[self._tail_rows : self._tail_rows + count] = rows[done : done + count]
            self._tail_rows += count
            done += count
            if self._tail_rows == self.layout.chunk_rows:
                self._add_tail()

    def add_chunk(
        self, payload: bytes, frames: Shaped[np.ndarray, "frames height width *channels"]
    ) -> None:
        """A chunk that is coded already, and the frames it was made of; only the last one of the
        episode may be short. Raises OSError if an earlier file could not be written."""
        self._notice()
        if self.layout.lossy:
            self._crc32c = extend(self._crc32c, payload)
        else:
            self._checksum_rows(frames)
        self.rows += len(frames)
        self._put(payload)

    def flush(self) -> None:
        """Have the last file written. Raises OSError if an earlier one could not be."""
        if self._tail_rows:
            self._add_tail()
        if self._chunks:
            self._write_file()

    def finish(self) -> StreamRecord:
        """After `flush`, in any thread: make everything durable, the length of the array too.
        Raises OSError."""
        self._wait()
        metadata = array_metadata_bytes(self.layout, self.start + self.rows)
        self._storage.write(f"{self._folder}/zarr.json", metadata)
        self._storage.sync([self._folder])
        return StreamRecord(
            dtype=self.layout.dtype.name,
            shape=self.layout.row_shape,
            crc32c=self._crc32c,
            rows=self.rows if self._own_rate else None,
            start=self.start if self._own_rate else None,
        )

    def discard(self) -> None:
        """Remove the files that were written; nothing refers to them. Raises OSError."""
        if self._writing is not None:
            self._writing.exception()  # told already, or of no interest now
        for name in self._files:
            self._storage.delete(name)

    def _add_tail(self) -> None:
        self._tail[self._tail_rows :] = 0
        self.rows += self._tail_rows
        self._tail_rows = 0
        self._put(compress(self._tail))

    def _checksum_rows(self, rows: np.ndarray) -> None:
        # The library keeps the interpreter lock, so a frame at a time: 40 us of 480 x 640.
        pieces = rows if rows[:1].nbytes > 4096 else [rows]
        for piece in pieces:
            if piece.size:
                flat = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
                self._crc32c = extend(self._crc32c, flat)

    def _put(self, payload: bytes) -> None:
        chunk = with_checksum(payload)
        self._index[self._chunks] = self._content.tell(), len(chunk)
        self._content.write(chunk)
        self._chunks += 1
        if self._chunks == self.layout.slots:
            self._write_file()

    def _write_file(self) -> None:
        if self.layout.sharded:
            self._content.write(with_checksum(self._index.tobytes()))
        self._wait()
        file_rows = self.layout.file_rows
        row = self.start + len(self._files) * file_rows
        name = f"{self._folder}/{self.layout.file_name(row)}"
        self._files.append(name)
        # `getvalue` of a BytesIO that nobody else writes to gives its memory, not a copy.
        data = self._content.getvalue()
        self._writing = self._threads.submit(self._storage.write, name, data)
        self._content = io.BytesIO()
        self._index = np.full((self.layout.slots, 2), MISSING, "<u8")
        self._chunks = 0

    def _notice(self) -> None:
        # A full disk is told at the next rows, not at the next file.
        if self._writing is not None and self._writing.done():
            self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None
