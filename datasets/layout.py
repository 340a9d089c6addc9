"""How one array of a segment is cut into files and chunks, and its `zarr.json`.

        numeric stream    a file is one chunk of 256 rows                     [bytes, zstd, crc32c]
        packed numeric    a file is a shard of 64 such chunks
        depth             a file is a shard of 256 frames, one per chunk      [bytes, zstd, crc32c]
        images            a file is a shard of 256 frames in chunks as the image codec has them

An episode starts on a boundary of 256 rows, so that (packed streams apart) a file belongs to one
episode and is written once.

Next: `store.py` (reading), `writer.py` (writing).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Shaped

from .chunks import (
    ZSTD_LEVEL,
    DamagedData,
    build_shard,
    compress,
    decompress,
    index_bytes,
    padded,
    read_index,
    with_checksum,
    without_checksum,
)
from .image_codec import (
    ImageCodec,
    Jpeg,
    Lossless,
    codec_from_zarr,
    codec_to_zarr,
    decode_frames,
    decode_jpeg,
)
from .image_codec import encode_frames as encode_frames_chunk
from .storage import Storage

CHUNK_ROWS = 256
"""Rows of a slot: where episodes may start, and rows of a numeric chunk."""
PACKED_CHUNKS = 64


@dataclass(frozen=True)
class Layout:
    """One array, apart from its length."""

    dtype: np.dtype
    row_shape: tuple[int, ...]
    codec: ImageCodec | None
    """Of colour frames; None: numbers, with zstd."""
    chunk_rows: int
    file_rows: int
    sharded: bool

    @staticmethod
    def of(dtype: np.dtype, row_shape: tuple[int, ...], codec: ImageCodec | None) -> "Layout":
        """`codec` None: a numeric stream, or depth (uint16 of two axes per row)."""
        if codec is not None:
            if CHUNK_ROWS % codec.frames_per_chunk:
                raise ValueError(
                    f"{codec}: {codec.frames_per_chunk} frames per chunk do not divide "
                    f"{CHUNK_ROWS}; use 1, 2, 4, 8, 16, ..."
                )
            return Layout(dtype, row_shape, codec, codec.frames_per_chunk, CHUNK_ROWS, True)
        if dtype == np.uint16 and len(row_shape) == 2:
            return Layout(dtype, row_shape, None, 1, CHUNK_ROWS, True)
        return Layout(dtype, row_shape, None, CHUNK_ROWS, CHUNK_ROWS, False)

    @property
    def packed(self) -> "Layout":
        """The same, many chunks to a file."""
        if self.sharded:
            return self
        return replace(self, file_rows=CHUNK_ROWS * PACKED_CHUNKS, sharded=True)

    @property
    def lossy(self) -> bool:
        return self.codec is not None and not isinstance(self.codec, Lossless)

    @property
    def slots(self) -> int:
        """Chunks in a file."""
        return self.file_rows // self.chunk_rows

    @cached_property
    def _file_suffix(self) -> str:
        return ".0" * len(self.row_shape)

    def file_name(self, row: int) -> str:
        """Name of the file that holds `row`."""
        return f"c.{row // self.file_rows}{self._file_suffix}"

    def metadata(self, rows: int) -> dict[str, Any]:
        """The `zarr.json` of the array with that many rows."""
        inner = self._chunk_codecs()
        if self.sharded:
            sharding = {
                "chunk_shape": [self.chunk_rows, *self.row_shape],
                "codecs": inner,
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "index_location": "end",
            }
            inner = [{"name": "sharding_indexed", "configuration": sharding}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.row_shape],
            "data_type": self.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.file_rows, *self.row_shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": False if self.dtype == np.bool_ else 0,
            "codecs": inner,
            "attributes": {},
        }

    @staticmethod
    def from_metadata(data: bytes) -> "Layout":
        """Raises DamagedData if this is not the `zarr.json` of an array that we wrote."""
        try:
            content = json.loads(data)
            dtype = np.dtype(content["data_type"])
            row_shape = tuple(content["shape"][1:])
            file_rows = content["chunk_grid"]["configuration"]["chunk_shape"][0]
            codecs, chunk_rows, sharded = content["codecs"], file_rows, False
            if codecs[0]["name"] == "sharding_indexed":
                sharding = codecs[0]["configuration"]
                codecs, chunk_rows, sharded = sharding["codecs"], sharding["chunk_shape"][0], True
            image = dtype == np.uint8 and len(row_shape) == 3 and sharded
            codec = codec_from_zarr(codecs) if image else None
            layout = Layout(dtype, row_shape, codec, chunk_rows, file_rows, sharded)
            expected = layout.metadata(content["shape"][0])
            expected["attributes"] = content["attributes"]  # a checksum, which `verify` compares
            differing = sorted(key for key in expected if expected[key] != content.get(key))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DamagedData(f"is not the metadata of one of our arrays: {error!r}") from error
        if differing:
            raise DamagedData(f"differs from what we write in {', '.join(differing)}")
        return layout

    def _chunk_codecs(self) -> list[dict[str, Any]]:
        if self.codec is not None:
            return codec_to_zarr(self.codec)
        # Zarr wants no byte order for types of one byte.
        endian = {"configuration": {"endian": "little"}} if self.dtype.itemsize > 1 else {}
        return [
            {"name": "bytes", **endian},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ]

    def encode(self, rows: Shaped[np.ndarray, "rows ..."]) -> bytes:
        """The payload of one chunk; a short one is filled up."""
        if self.codec is not None:
            return encode_frames_chunk(self.codec, rows)
        return compress(padded(rows, self.chunk_rows))

    def decode(
        self, payload: bytes | memoryview, first: int, out: Shaped[np.ndarray, "rows ..."]
    ) -> None:
        """Rows `first, first + 1, ...` of a chunk, as many as fit into `out` (contiguous)."""
        if self.codec is not None:
            decode_frames(self.codec, payload, out, first)
        elif len(out) == self.chunk_rows:
            decompress(payload, out)
        else:
            rows = np.empty((self.chunk_rows, *self.row_shape), self.dtype)
            decompress(payload, rows)
            out[:] = rows[first : first + len(out)]

    @cached_property
    def decode_single(self) -> Callable[[memoryview, np.ndarray], None]:
        """Decodes a chunk of one row into an array of `row_shape`; found out once, because a
        loader calls it for every frame."""
        assert self.chunk_rows == 1
        if isinstance(self.codec, Jpeg):
            return decode_jpeg
        return lambda payload, out: self.decode(payload, 0, out[None])

    def encode_all(self, rows: Shaped[np.ndarray, "rows ..."]) -> list[bytes]:
        """Payloads of the chunks of an episode."""
        return [
            self.encode(rows[first : first + self.chunk_rows])
            for first in range(0, len(rows), self.chunk_rows)
        ]

    def files(self, payloads: list[bytes]) -> list[bytes]:
        """The files of an array (from a file boundary on) that holds these chunks."""
        return [
            build_shard(payloads[first : first + self.slots], self.slots)
            if self.sharded
            else with_checksum(payloads[first])
            for first in range(0, len(payloads), self.slots)
        ]


def read_payloads(
    storage: Storage, folder: str, layout: Layout, first_chunk: int, last_chunk: int
) -> list[memoryview]:
    """The chunks `first_chunk` to `last_chunk` (included, counted from the start of the array).

    Of each shard its index and one range of bytes are read. Raises DamagedData or
    FileNotFoundError; the file is named in the message.
    """
    payloads: list[memoryview] = []
    chunk = first_chunk
    while chunk <= last_chunk:
        name = f"{folder}/{layout.file_name(chunk * layout.chunk_rows)}"
        slot = chunk % layout.slots
        count = min(layout.slots - slot, last_chunk + 1 - chunk)
        try:
            payloads += _read_file(storage, name, layout, slot, count)
        except DamagedData as error:
            raise DamagedData(f"file {name}: {error}") from error
        chunk += count
    return payloads


def _read_file(
    storage: Storage, name: str, layout: Layout, slot: int, count: int
) -> list[memoryview]:
    if not layout.sharded:
        return [without_checksum(storage.read(name))]
    index = read_index(storage.read(name, -index_bytes(layout.slots)), layout.slots)
    wanted = index[slot : slot + count].astype(np.int64)
    if (wanted < 0).any():
        raise DamagedData(f"chunks {slot} to {slot + count - 1} are not all in the shard")
    begin, end = int(wanted[:, 0].min()), int(wanted.sum(1).max())
    data = memoryview(storage.read(name, begin, end))
    return [
        without_checksum(data[offset - begin : offset - begin + length])
        for offset, length in wanted.tolist()
    ]
