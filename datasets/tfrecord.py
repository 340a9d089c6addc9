"""TFRecord files and the records in them, without TensorFlow.

        length   uint64        crc32c of the length, masked   uint32
        data     `length` bytes        crc32c of the data, masked   uint32

A record is a serialized `tf.train.Example` (or SequenceExample): a map from a name to a list of
bytes, float32 or int64. The few wire types these need are parsed here on a memory map, because the
generated classes copy every frame and make a Python object of every number.

Next: `import_rlds.py`, which knows what the names mean.
"""

import mmap
import struct
from collections.abc import Container, Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Float32, Int64

Value = Float32[np.ndarray, " values"] | Int64[np.ndarray, " values"] | list[bytes]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class RecordFile:
    """The records of one file by number. Only headers are read until a record is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            empty = path.stat().st_size == 0
            self._data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.damage = ""
        """Why the file cannot be read past its last record; empty if it is whole."""
        self._spans = self._scan()

    def __len__(self) -> int:
        return len(self._spans)

    def record(self, number: int) -> memoryview:
        """Raises ValueError, which names the file and the record, if the bytes have changed."""
        if not 0 <= number < len(self._spans):
            reason = self.damage or "the file ends"
            raise ValueError(
                f"{self.path.name}: record {number} does not exist, {reason} after "
                f"{len(self._spans)} records"
            )
        data = self.unchecked(number)
        start, length = self._spans[number]
        (expected,) = struct.unpack_from("<I", self._data, start + length)
        if masked_crc32c(data) != expected:
            raise ValueError(f"{self.path.name}: the checksum of record {number} does not match")
        return data

    def unchecked(self, number: int) -> memoryview:
        """Like `record`, without reading all of it: for a look at a few small values."""
        start, length = self._spans[number]
        return memoryview(self._data)[start : start + length]

    def _scan(self) -> list[tuple[int, int]]:
        spans, position, size = [], 0, len(self._data)
        while position < size:
            if position + 12 > size:
                self.damage = "it is cut off"
                break
            header = self._data[position : position + 12]
            length, checksum = struct.unpack("<QI", header)
            if masked_crc32c(header[:8]) != checksum:
                self.damage = f"the length at byte {position} is damaged"
                break
            if position + 16 + length > size:
                self.damage = "it is cut off"
                break
            spans.append((position + 12, length))
            position += 16 + length
        return spans


def masked_crc32c(data: bytes | memoryview) -> int:
    """The crc32c, turned by 15 bits and shifted by a constant, as TFRecord keeps it."""
    # google_crc32c takes bytes only.
    crc = google_crc32c.value(bytes(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(data: bytes | memoryview, only: Container[str] | None = None) -> dict[str, Value]:
    """The values of an Example by name; `only` leaves the others untouched.

    The lists of a SequenceExample come out joined along time, as an Example would hold them.
    """
    values: dict[str, Value] = {}
    for number, _, features in _fields(memoryview(data)):
        if number not in (1, 2):
            continue
        for field, _, entry in _fields(features):
            if field != 1:
                continue
            name, content = _map_entry(entry)
            if only is None or name in only:
                values[name] = _feature(content) if number == 1 else _feature_list(content)
    return values


def _map_entry(entry: memoryview) -> tuple[str, memoryview]:
    name, content = "", memoryview(b"")
    for number, _, value in _fields(entry):
        if number == 1:
            name = bytes(value).decode()
        elif number == 2:
            content = value
    return name, content


def _feature_list(data: memoryview) -> Value:
    steps = [_feature(feature) for number, _, feature in _fields(data) if number == 1]
    if steps and isinstance(steps[0], list):
        return [item for step in steps for item in step]
    arrays = [step for step in steps if isinstance(step, np.ndarray)]
    return np.concatenate(arrays) if arrays else []


def _feature(data: memoryview) -> Value:
    """The one list a Feature holds: bytes_list 1, float_list 2, int64_list 3."""
    for kind, _, content in _fields(data):
        parts = [(wire, value) for number, wire, value in _fields(content) if number == 1]
        if kind == 1:
            return [bytes(value) for _, value in parts]
        # Packed lists come in one piece; old writers give every number a field of its own.
        joined = b"".join(bytes(value) for _, value in parts)
        if kind == 2:
            return np.frombuffer(joined, "<f4").astype(np.float32)
        if kind == 3:
            return _varints(joined)
    return []


def _varints(data: bytes) -> Int64[np.ndarray, " values"]:
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 128)
    if len(ends) == len(raw):
        return raw.astype(np.int64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("a number of an Example is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    shifts = 7 * (np.arange(len(raw)) - np.repeat(starts, np.diff(ends, prepend=-1)))
    bits = (raw & 127).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(bits, starts).view(np.int64)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and bytes of each field of a message; nothing is copied."""
    position, size = 0, len(data)
    while position < size:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, position = _varint(data, position)
            end = position + length
        elif wire == _VARINT:
            end = _varint(data, position)[1]
        elif wire in (_FIXED32, _FIXED64):
            end = position + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"not an Example: wire type {wire} at byte {position}")
        if end > size:
            raise ValueError(f"not an Example: field {number} ends at byte {end} of {size}")
        yield number, wire, data[position:end]
        position = end


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError(f"not an Example: no number at byte {position}")
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
