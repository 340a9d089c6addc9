"""MessagePack as the remote policies speak it: plain values, arrays, nothing that can run.

    pieces(message)  -> [bytes, memoryview, bytes, ...]    large tensors are never copied
    unpack(data)     -> dict                               tensors are views into `data`

    tensor, ours       {"dtype": "<f4", "shape": [8, 7], "data": bytes}
    array, openpi's    {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [8, 7]}
    scalar, openpi's   {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f8"}

Reading is our own and not the `msgpack` package's because of what strangers may send: that one
builds a list of a hundred bytes for every byte that says "an empty list", and it copies tensors.
Here every value counts against a budget before it is made, and extension types do not exist.

Next: `remote_messages.py` (our messages), `remote_openpi.py` (openpi's).
"""

import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

MOST_VALUES = 4096
"""In one message; ours have about 20 per camera, and about 15 per entry of an embodiment."""
MOST_DEPTH = 12
MOST_TEXT = 1 << 16
"""Bytes of one string."""
MOST_DIMENSIONS = 5
_WHOLE_ABOVE = 4096
"""Buffers above this many bytes stay pieces of their own."""

_NAMES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
DTYPES = {name: np.dtype(name) for name in _NAMES}
"""All there are. No objects, no strings, no structures, no foreign byte order."""

_FIXED = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_LENGTHS = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class _Reader:
    """One message; every method raises ValueError for what is not as it should be."""

    def __init__(self, data: bytes | bytearray | memoryview, budget: int) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._budget = budget

    def message(self) -> Any:
        value = self._value(MOST_DEPTH)
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes after the end of the message")
        return value

    def _value(self, depth: int) -> Any:
        self._budget -= 1
        if self._budget < 0 or depth < 0:
            raise ValueError("more values, or nested deeper, than any message of this protocol has")
        code = self._number(1)
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code < 0x90:
            return self._map(code & 0x0F, depth)
        if code < 0xA0:
            return self._list(code & 0x0F, depth)
        if code < 0xC0:
            return self._text(code & 0x1F)
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _FIXED:
            kind = _FIXED[code]
            return kind.unpack(self._take(kind.size))[0]
        if code in _BINARY:
            return self._take(self._number(_BINARY[code]))
        if code in _TEXT:
            return self._text(self._number(_TEXT[code]))
        if code in _LISTS:
            return self._list(self._number(_LISTS[code]), depth)
        if code in _MAPS:
            return self._map(self._number(_MAPS[code]), depth)
        raise ValueError(f"type byte {code:#x}: extension types are not part of this protocol")

    def _take(self, length: int) -> memoryview:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise ValueError(f"the message ends {self._at - len(self._data)} bytes too early")
        return self._data[start : self._at]

    def _number(self, size: int) -> int:
        return _LENGTHS[size].unpack(self._take(size))[0]

    def _text(self, length: int) -> str:
        if length > MOST_TEXT:
            raise ValueError(f"a string of {length} bytes; at most {MOST_TEXT}")
        return str(self._take(length), "utf-8")  # UnicodeDecodeError is a ValueError

    def _list(self, length: int, depth: int) -> list[Any]:
        self._afford(length)
        return [self._value(depth - 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> dict[Any, Any]:
        self._afford(2 * length)
        found: dict[Any, Any] = {}
        for _ in range(length):
            key = self._value(depth - 1)
            if isinstance(key, memoryview):
                key = bytes(key[:MOST_TEXT])
            if not isinstance(key, str | bytes) or key in found:
                raise ValueError(f"map key {short(key)} is no text, or stands there twice")
            found[key] = self._value(depth - 1)
        return found

    def _afford(self, values: int) -> None:
        if values > self._budget:
            raise ValueError(f"a list or map of {values} entries; at most {MOST_VALUES} values")


def unpack(data: bytes | bytearray | memoryview, budget: int = MOST_VALUES) -> Any:
    """The value in `data`; byte strings come as views into it. Raises ValueError, nothing else."""
    return _Reader(data, budget).message()


def pieces(value: Any) -> list[bytes | memoryview]:
    """`value` packed; joined together it is one MessagePack value."""
    found: list[bytes | memoryview] = []
    small = bytearray()
    _write(value, small, found)
    if small:
        found.append(bytes(small))
    return found


def packed(value: Any) -> bytes:
    return b"".join(pieces(value))


def _write(value: Any, small: bytearray, found: list[bytes | memoryview]) -> None:
    if isinstance(value, Mapping):
        small += msgpack.Packer().pack_map_header(len(value))
        for key, item in value.items():
            _write(key, small, found)
            _write(item, small, found)
    elif isinstance(value, list | tuple):
        small += msgpack.Packer().pack_array_header(len(value))
        for item in value:
            _write(item, small, found)
    elif isinstance(value, memoryview) and value.nbytes > _WHOLE_ABOVE:
        small += struct.pack(">BI", 0xC6, value.nbytes)
        found.append(bytes(small))
        small.clear()
        found.append(value)
    elif value is None or isinstance(value, bool | int | float | str | bytes | memoryview):
        small += _scalar(value)
    else:
        raise TypeError(f"{type(value).__name__} cannot be sent; only plain values and tensors")


def _scalar(value: Any) -> bytes:
    done = msgpack.packb(value, use_bin_type=True)
    assert isinstance(done, bytes)
    return done


def tensor(array: np.ndarray) -> dict[str, Any]:
    """`array` as a message holds it; its memory is shared, so send before it changes."""
    plain = _plain(array)
    return {"dtype": plain.dtype.str, "shape": list(plain.shape), "data": _bytes_of(plain)}


def openpi_array(array: np.ndarray) -> dict[bytes, Any]:
    """The same in openpi's form."""
    plain = _plain(array)
    return {
        b"__ndarray__": True,
        b"data": _bytes_of(plain),
        b"dtype": plain.dtype.str,
        b"shape": list(plain.shape),
    }


def read_tensor(value: Any, where: str) -> np.ndarray:
    """The array in a message of ours; a view, which may be read-only."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data"}:
        raise ValueError(f"{where}: expected a tensor (dtype, shape, data), got {short(value)}")
    return _array(value["dtype"], value["shape"], value["data"], where)


def read_openpi(value: Any, where: str = "message") -> Any:
    """`value` with openpi's arrays and scalars in it made real; they are views."""
    if isinstance(value, list):
        return [read_openpi(item, where) for item in value]
    if isinstance(value, memoryview):
        return bytes(value)
    if not isinstance(value, dict):
        return value
    if b"__ndarray__" in value:
        return _array(value.get(b"dtype"), value.get(b"shape"), value.get(b"data"), where)
    if b"__npgeneric__" in value:
        kind, number = _dtype(value.get(b"dtype"), where), value.get(b"data")
        if not isinstance(number, bool | int | float):
            raise ValueError(f"{where}: a {kind} scalar of {short(number)}")
        try:
            return kind.type(number)
        except OverflowError as error:
            raise ValueError(f"{where}: {number} is no {kind}") from error
    return {key: read_openpi(item, f"{where}[{short(key)}]") for key, item in value.items()}


def short(value: Any) -> str:
    """What a stranger sent, fit for a message of one line."""
    if isinstance(value, dict | list | memoryview):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype.newbyteorder("<").str not in DTYPES:
        raise ValueError(f"an array of dtype {array.dtype} cannot be sent; known: {list(DTYPES)}")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _dtype(name: Any, where: str) -> np.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"{where}: dtype {short(name)}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def _array(name: Any, shape: Any, data: Any, where: str) -> np.ndarray:
    kind = _dtype(name, where)
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{where}: shape {short(shape)}; at most {MOST_DIMENSIONS} dimensions")
    count = 1
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= 1 << 30:
            raise ValueError(f"{where}: a dimension of {short(size)}")
        count *= size
    if not isinstance(data, memoryview) or len(data) != count * kind.itemsize:
        raise ValueError(
            f"{where}: {kind} {tuple(shape)} needs {count * kind.itemsize} bytes, got {short(data)}"
        )
    return np.frombuffer(data, kind).reshape(shape)
