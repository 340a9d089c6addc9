"""Rows of a stream to the bytes of a Zarr v3 chunk file, and back.

        numeric stream   one chunk of 256 rows:   [bytes, zstd, crc32c]
        images           one shard of 256 frames: inner chunks of 16 frames, each as above,
                         then the shard index (offset and length per inner chunk, crc32c)

An episode starts on a chunk boundary, so a file belongs to one episode and is written once. What
stands here is plain Zarr: `zarr.open_group` reads the same numbers (tests use it as the oracle).
It is written out because every episode then is a known set of whole files, which can be synced
in order, and because reading costs 10 us per frame instead of a millisecond per chunk.

Next: `store.py` (reading), `writer.py` (writing).
"""

import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Shaped, UInt8
from numcodecs.zstd import Zstd

CHUNK_ROWS = 256
INNER_ROWS = 16
"""Frames compressed together. Measured on 64 px robosuite frames: 1 / 16 / 32 frames take 5.2 /
2.2 / 2.1 kB and 29 / 7 / 6 us each to decode, and a random read decodes at most this many."""
ZSTD_LEVEL = 1
"""Level 3 saves 5 % and costs 19 % more; blosc-lz4 decodes in 3 us, not 7, for 1.8 x the size."""
MISSING = 2**64 - 1
_INNER_CHUNKS = CHUNK_ROWS // INNER_ROWS
_INDEX_BYTES = _INNER_CHUNKS * 16 + 4


class DamagedData(ValueError):
    """Stored bytes that are not what was written."""


def crc32c(data: Any) -> int:
    """CRC-32C of any contiguous buffer."""
    # The library takes bytes and numpy arrays, not memoryviews; this is a view, not a copy.
    return google_crc32c.value(np.frombuffer(data, np.uint8))


def array_crc32c(rows: Shaped[np.ndarray, " *shape"]) -> int:
    """CRC-32C of an array's bytes in C order."""
    return crc32c(np.ascontiguousarray(rows))


def chunk_file(row: int, row_dims: int) -> str:
    """Name of the chunk file that holds `row` of an array with `row_dims` axes per row."""
    return "c." + ".".join([str(row // CHUNK_ROWS)] + ["0"] * row_dims)


def array_metadata(rows: int, row_shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """The `zarr.json` of a stream: images (uint8 of three axes per row) are sharded."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *row_shape],
        "data_type": dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [CHUNK_ROWS, *row_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype == np.bool_ else 0,
        "codecs": _shard_codecs(row_shape) if is_image(row_shape, dtype) else _codecs(dtype),
        "attributes": {},
    }


def is_image(row_shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether rows of this shape and type are stored as sharded frames."""
    return dtype == np.uint8 and len(row_shape) == 3


def _codecs(dtype: np.dtype) -> list[dict[str, Any]]:
    # Zarr wants no byte order for types of one byte.
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return [
        {"name": "bytes", **endian},
        {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        {"name": "crc32c"},
    ]


def _shard_codecs(row_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    sharding = {
        "chunk_shape": [INNER_ROWS, *row_shape],
        "codecs": _codecs(np.dtype(np.uint8)),
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


def encode_chunk(rows: Shaped[np.ndarray, "steps *row_shape"]) -> bytes:
    """At most CHUNK_ROWS rows of a numeric stream as one chunk; the rest of it is zero."""
    return _encode(_padded(rows, CHUNK_ROWS))


def encode_shard(frames: UInt8[np.ndarray, "steps height width channels"]) -> bytes:
    """At most CHUNK_ROWS frames as one shard; inner chunks past the end are left out."""
    index = np.full((_INNER_CHUNKS, 2), MISSING, "<u8")
    parts: list[bytes] = []
    offset = 0
    for inner, first in enumerate(range(0, len(frames), INNER_ROWS)):
        part = _encode(_padded(frames[first : first + INNER_ROWS], INNER_ROWS))
        parts.append(part)
        index[inner] = offset, len(part)
        offset += len(part)
    return b"".join([*parts, _with_checksum(index.tobytes())])


def read_chunk(
    path: Path, first: int, out: Shaped[np.ndarray, "steps *row_shape"]
) -> Shaped[np.ndarray, "steps *row_shape"]:
    """Fill `out` with the rows `first, first + 1, ...` of the chunk file at `path`."""
    rows = np.empty((CHUNK_ROWS, *out.shape[1:]), out.dtype)
    _decode(path.read_bytes(), rows)
    out[:] = rows[first : first + len(out)]
    return out


def read_shard(
    path: Path, first: int, out: UInt8[np.ndarray, "steps height width channels"]
) -> UInt8[np.ndarray, "steps height width channels"]:
    """Fill `out` with the frames `first, first + 1, ...` of the shard file at `path`.

    Reads the index and one range of bytes; decodes only the inner chunks that are needed.
    """
    stop = first + len(out)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _INDEX_BYTES:
            raise DamagedData(f"{size} bytes long, shorter than a shard index")
        raw_index = os.pread(file.fileno(), _INDEX_BYTES, size - _INDEX_BYTES)
        index = np.frombuffer(_without_checksum(raw_index), "<u8").reshape(_INNER_CHUNKS, 2)
        inner_chunks = range(first // INNER_ROWS, -(-stop // INNER_ROWS))
        if any(int(index[inner, 0]) == MISSING for inner in inner_chunks):
            raise DamagedData(f"frames {first}:{stop} are not in the shard")
        begin = int(index[inner_chunks[0], 0])
        end = int(index[inner_chunks[-1]].sum())
        data = memoryview(os.pread(file.fileno(), end - begin, begin))
    for inner in inner_chunks:
        offset = int(index[inner, 0]) - begin
        encoded = data[offset : offset + int(index[inner, 1])]
        low, high = inner * INNER_ROWS, (inner + 1) * INNER_ROWS
        if first <= low and high <= stop:
            _decode(encoded, out[low - first : high - first])
            continue
        frames = np.empty((INNER_ROWS, *out.shape[1:]), np.uint8)
        _decode(encoded, frames)
        used = slice(max(first, low), min(stop, high))
        out[used.start - first : used.stop - first] = frames[used.start - low : used.stop - low]
    return out


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    if len(rows) == length:
        return np.ascontiguousarray(rows)
    padded = np.zeros((length, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _encode(rows: np.ndarray) -> bytes:
    return _with_checksum(bytes(Zstd(level=ZSTD_LEVEL).encode(rows)))


def _decode(data: bytes | memoryview, out: np.ndarray) -> None:
    """Undo `_encode` into `out` (contiguous)."""
    payload = _without_checksum(data)
    try:
        Zstd().decode(payload, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedData(f"cannot be decompressed to {out.dtype}{out.shape}: {error}") from error


def _with_checksum(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(4, "little")


def _without_checksum(data: bytes | memoryview) -> memoryview:
    view = memoryview(data)
    if len(view) < 4 or crc32c(view[:-4]) != int.from_bytes(view[-4:], "little"):
        raise DamagedData("the checksum does not match")
    return view[:-4]
