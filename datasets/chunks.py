"""The bytes of a chunk and of a shard: zstd, CRC-32C, and the index of a shard.

        chunk        payload + crc32c (4 bytes)                       Zarr codecs [..., crc32c]
        shard        chunk, chunk, ..., then per chunk offset and length (uint64 each) + crc32c

What stands here is plain Zarr v3: `zarr.open_group` reads the same numbers (tests use it as the
oracle). It is written out because every episode then is a known set of whole files, which can be
synced in order, and because reading costs microseconds per frame instead of a millisecond.

Next: `layout.py` (how an array is cut into files), `image_codec.py` (how frames are coded).
"""

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt64
from numcodecs.zstd import Zstd

ZSTD_LEVEL = 1
"""Level 3 saves 5 % and costs 19 % more; blosc-lz4 decodes in 3 us, not 7, for 1.8 x the size."""
MISSING = 2**64 - 1
"""Offset and length of a chunk that a shard does not hold."""


class DamagedData(ValueError):
    """Stored bytes that are not what was written."""


def crc32c(data: Any) -> int:
    """CRC-32C of any contiguous buffer."""
    # The library takes bytes and numpy arrays, not memoryviews; this is a view, not a copy.
    return google_crc32c.value(np.frombuffer(data, np.uint8))


def array_crc32c(rows: Shaped[np.ndarray, " *shape"]) -> int:
    """CRC-32C of an array's bytes in C order."""
    return crc32c(np.ascontiguousarray(rows))


def with_checksum(payload: bytes) -> bytes:
    return payload + crc32c(payload).to_bytes(4, "little")


def without_checksum(data: bytes | memoryview) -> memoryview:
    """The payload. Raises DamagedData if it is not what the checksum was taken of."""
    view = memoryview(data)
    if len(view) < 4 or crc32c(view[:-4]) != int.from_bytes(view[-4:], "little"):
        raise DamagedData("the checksum does not match")
    return view[:-4]


def compress(rows: Shaped[np.ndarray, " *shape"]) -> bytes:
    return bytes(Zstd(level=ZSTD_LEVEL).encode(np.ascontiguousarray(rows)))


def decompress(payload: bytes | memoryview, out: Shaped[np.ndarray, " *shape"]) -> None:
    """Undo `compress` into `out` (contiguous). Raises DamagedData."""
    try:
        Zstd().decode(payload, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedData(f"cannot be decompressed to {out.dtype}{out.shape}: {error}") from error


def padded(rows: Shaped[np.ndarray, "rows ..."], length: int) -> Shaped[np.ndarray, "length ..."]:
    """`rows`, followed by zeros up to `length`."""
    if len(rows) == length:
        return np.ascontiguousarray(rows)
    out = np.zeros((length, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out


def build_shard(payloads: Sequence[bytes | memoryview | None], slots: int) -> bytes:
    """A shard of `slots` chunks; what is None, or beyond the given payloads, is missing."""
    index = np.full((slots, 2), MISSING, "<u8")
    parts = []
    offset = 0
    for number, payload in enumerate(payloads):
        if payload is None:
            continue
        chunk = with_checksum(bytes(payload))
        index[number] = offset, len(chunk)
        parts.append(chunk)
        offset += len(chunk)
    return b"".join([*parts, with_checksum(index.tobytes())])


def index_bytes(slots: int) -> int:
    return slots * 16 + 4


def read_index(tail: bytes | memoryview, slots: int) -> UInt64[np.ndarray, "slots 2"]:
    """Offset and length per chunk, from a buffer that ends where the shard ends."""
    size = index_bytes(slots)
    if len(tail) < size:
        raise DamagedData(f"{len(tail)} bytes long, shorter than a shard index")
    return np.frombuffer(without_checksum(memoryview(tail)[-size:]), "<u8").reshape(slots, 2)
