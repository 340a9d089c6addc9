"""Newest-value memory between two processes: one writes, one reads, neither ever waits.

    header   [ latest version | sequence of slot 0 | sequence of slot 1 | heartbeat ]
    slot 0   [ field | field | ... ]        version 2, 4, 6 ...
    slot 1   [ field | field | ... ]        version 1, 3, 5 ...

A sequence is odd while its slot is being written and twice the version when it is whole. The
writer fills the slot that is not the latest, then names it the latest; the reader copies the
latest and keeps the copy only if the sequence did not move meanwhile. So a reader is disturbed
only by a writer that publishes twice during one copy, and then it simply copies again.

The memory has no name: it is an anonymous file whose descriptor is handed over a connection, so
there is nothing to unlink and nothing left behind even after `kill -9`.
"""

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import numpy as np

_HEADER_BYTES = 64
_VERSION, _SEQUENCE, _HEARTBEAT = 0, 1, 3
_ATTEMPTS = 8
_fence_lock = threading.Lock()
_fence_lock.acquire()


def _fence() -> None:
    """Keep the memory accesses before and after in order, on every processor.

    x86 keeps stores in order by itself; ARM does not. Releasing and taking a lock is the one
    store-release, load-acquire pair the standard library offers. About 60 ns.
    """
    _fence_lock.release()
    _fence_lock.acquire()


@dataclass(frozen=True)
class Field:
    """One array of a record."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


class SharedRecord:
    """Named arrays in memory shared by exactly one writing and any number of reading processes."""

    def __init__(self, fields: tuple[Field, ...], _descriptor: int | None = None) -> None:
        self.fields = fields
        offsets, size = [], 0
        for field in fields:
            offsets.append(size)
            length = np.dtype(field.dtype).itemsize * int(np.prod(field.shape, dtype=np.int64))
            size += -(-length // 64) * 64  # cache lines are not shared between fields
        total = _HEADER_BYTES + 2 * size
        if _descriptor is None:
            _descriptor = _anonymous_file()
            os.ftruncate(_descriptor, total)
        self._descriptor = _descriptor
        memory = mmap.mmap(_descriptor, total)
        self._header = np.frombuffer(memory, dtype=np.int64, count=8)
        self._slots = tuple(
            {
                field.name: np.frombuffer(
                    memory,
                    dtype=field.dtype,
                    count=int(np.prod(field.shape, dtype=np.int64)),
                    offset=_HEADER_BYTES + slot * size + offset,
                ).reshape(field.shape)
                for field, offset in zip(fields, offsets, strict=True)
            }
            for slot in (0, 1)
        )

    # Writing (one process only).

    def begin(self) -> dict[str, np.ndarray]:
        """The arrays to fill with the next version, `array[...] = value`; then `commit`."""
        version = int(self._header[_VERSION]) + 1
        slot = version & 1
        self._header[_SEQUENCE + slot] = 2 * version - 1
        _fence()
        return self._slots[slot]

    def commit(self) -> int:
        """Make what `begin` gave the latest; returns its version (1, 2, ...)."""
        version = int(self._header[_VERSION]) + 1
        _fence()
        self._header[_SEQUENCE + (version & 1)] = 2 * version
        _fence()
        self._header[_VERSION] = version
        return version

    def beat(self) -> None:
        """Show that the writer lives, also when it has nothing to publish."""
        self._header[_HEARTBEAT] = time.monotonic_ns()

    # Reading.

    @property
    def version(self) -> int:
        """Version of the latest whole record; 0 before the first."""
        return int(self._header[_VERSION])

    @property
    def beat_ns(self) -> int:
        """Monotonic clock at the writer's last beat; 0 before the first."""
        return int(self._header[_HEARTBEAT])

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays of the right shapes, to read into."""
        return {field.name: np.zeros(field.shape, field.dtype) for field in self.fields}

    def read(self, into: Mapping[str, np.ndarray]) -> int:
        """Copy the latest record; returns its version, or 0 if there is none.

        0 also when the writer overtook the reader `_ATTEMPTS` times in a row, which takes a
        writer thousands of times faster than any robot; then `into` holds no consistent record.
        """
        for _ in range(_ATTEMPTS):
            version = int(self._header[_VERSION])
            if version == 0:
                return 0
            slot = version & 1
            sequence = self._header[_SEQUENCE + slot]
            _fence()
            if sequence != 2 * version:
                continue
            source = self._slots[slot]
            for name, target in into.items():
                target[...] = source[name]
            _fence()
            if self._header[_SEQUENCE + slot] == 2 * version:
                return version
        return 0

    # Handing over.

    def send(self, connection: Connection) -> None:
        """Give this memory to the process at the other end of a duplex `Pipe`."""
        connection.send(self.fields)
        send_handle(connection, self._descriptor, None)

    @classmethod
    def receive(cls, connection: Connection) -> "SharedRecord":
        """The record that the other end gives with `send`."""
        fields = connection.recv()
        return cls(fields, recv_handle(connection))

    def close(self) -> None:
        """Give the memory back. Arrays got from this record must not be used afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            # The mapping goes with the last array that shows it.
            self._slots, self._header = (), np.zeros(8, dtype=np.int64)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ulna_record", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix="ulna_record_")
    os.unlink(path)
    return descriptor
