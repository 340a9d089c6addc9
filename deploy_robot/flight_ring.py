"""Memory between the control loop and the flight recorder: whoever writes never waits.

        lane "rows"       [ tick | tick | tick |      |      ]   small, minutes deep
        lane "chunks"     [ chunk | chunk |       ]
        lane "texts"      [ text |      ]
        lane per camera   [ frame | frame |       ]              large, seconds deep
                            ^ taken        ^ put

Every kind of record has a lane of its own, so a disk that falls behind fills the lanes of the
frames first, while the ticks, a few hundred bytes each, still have room for minutes. A full lane
refuses, counts what it refused, and the loop goes on.

`put` is only ever advanced by the writer, after the record is whole, and `taken` only by the
reader, so each side can be killed at any moment: what was put before can be read.

Next: `flight_recorder.py` (the writing side), `flight_process.py` (the reading one).
"""

import mmap
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import numpy as np

from .shared_record import Field, _anonymous_file, _fence

_LINE = 64
_PUT, _LOST, _TAKEN = 0, 1, _LINE // 8
"""Places in the counters of a lane; the reader's are in a cache line of their own."""
_COUNTER_BYTES = 2 * _LINE


@dataclass(frozen=True)
class LaneForm:
    """What one lane holds."""

    name: str
    capacity: int
    """Records that may wait."""
    fields: tuple[Field, ...]
    """Of one record."""


class Lane:
    """A queue of records of one kind, with exactly one writer and one reader."""

    def __init__(self, form: LaneForm, memory: mmap.mmap, offset: int) -> None:
        if form.capacity < 1:
            raise ValueError(f"lane {form.name!r} has room for {form.capacity}; give at least 1")
        self.capacity = form.capacity
        self._counters = np.frombuffer(memory, np.int64, _COUNTER_BYTES // 8, offset)
        self.arrays: dict[str, np.ndarray] = {}
        """By field, `(capacity, ...)`; both sides index them with the slots they are given."""
        offset += _COUNTER_BYTES
        for field in form.fields:
            shape = (form.capacity, *field.shape)
            count = int(np.prod(shape, dtype=np.int64))
            self.arrays[field.name] = np.frombuffer(memory, field.dtype, count, offset).reshape(
                shape
            )
            offset += _padded(count * np.dtype(field.dtype).itemsize)

    # Writing.

    def claim(self) -> int:
        """The slot to fill, or -1 if the lane is full; then the record counts as lost."""
        counters = self._counters
        put = int(counters[_PUT])
        if put - int(counters[_TAKEN]) >= self.capacity:
            counters[_LOST] += 1
            return -1
        _fence()
        return put % self.capacity

    def publish(self) -> int:
        """Hand over what `claim` gave; returns its number, from 1 on."""
        _fence()
        number = int(self._counters[_PUT]) + 1
        self._counters[_PUT] = number
        return number

    # Reading.

    @property
    def put(self) -> int:
        """Records ever published."""
        return int(self._counters[_PUT])

    @property
    def taken(self) -> int:
        """Records ever released."""
        return int(self._counters[_TAKEN])

    @property
    def lost(self) -> int:
        """Records ever refused."""
        return int(self._counters[_LOST])

    @property
    def waiting(self) -> int:
        count = self.put - self.taken
        _fence()
        return count

    def slot(self, number: int) -> int:
        """Where record `number` (from 1 on) lies, while it is neither taken nor still to come."""
        return (number - 1) % self.capacity

    def release(self, upto: int) -> None:
        """Records up to number `upto` are read; their slots may be filled again."""
        if upto > self.taken:
            _fence()
            self._counters[_TAKEN] = upto


class FlightRing:
    """All lanes, in one anonymous memory that is handed over a connection: nothing to unlink, and
    nothing left behind after `kill -9`."""

    def __init__(self, forms: tuple[LaneForm, ...], _descriptor: int | None = None) -> None:
        self.forms = forms
        offsets, total = [], 0
        for form in forms:
            offsets.append(total)
            total += _COUNTER_BYTES + sum(
                _padded(
                    form.capacity
                    * np.dtype(field.dtype).itemsize
                    * int(np.prod(field.shape, dtype=np.int64))
                )
                for field in form.fields
            )
        self.nbytes = total
        ours = _descriptor is None
        if _descriptor is None:
            _descriptor = _anonymous_file()
            os.ftruncate(_descriptor, total)
        self._descriptor = _descriptor
        memory = mmap.mmap(_descriptor, total)
        self.lanes = {
            form.name: Lane(form, memory, offset)
            for form, offset in zip(forms, offsets, strict=True)
        }
        if ours:
            # The pages are there, and mapped here, before the first tick.
            for lane in self.lanes.values():
                for array in lane.arrays.values():
                    array.fill(0)

    def send(self, connection: Connection) -> None:
        """Give this memory to the process at the other end of a duplex `Pipe`."""
        connection.send(self.forms)
        send_handle(connection, self._descriptor, None)

    @classmethod
    def receive(cls, connection: Connection) -> "FlightRing":
        """The ring that the other end gives with `send`."""
        forms = connection.recv()
        return cls(forms, recv_handle(connection))

    def close(self) -> None:
        """Give the memory back. Lanes must not be used afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.lanes = {}


def _padded(size: int) -> int:
    return -(-size // _LINE) * _LINE
