"""The codecs of our images for plain zarr-python: `reshape`, `jpeg` and `ulna.video`.

        zarr_codecs.register()
        zarr.open_group("lift.zarr/segments/...")["images/front"][0]

Where Ulna is installed, zarr finds them by their entry points, without `register`. The first two
are drafts of zarr-extensions (pull request 66), so that others can read our pictures; zarr-python
3.4 brings neither. Our own reader does not pass here: zarr costs a millisecond per chunk.

Next: `image_codec.py` (what they call).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec
from zarr.codecs import Crc32cCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.dtype import UInt8
from zarr.registry import register_codec

from .image_codec import Clip, ImageCodec, Jpeg, codec_from_zarr, codec_to_zarr, decode_frames
from .image_codec import encode_frames as encode_chunk

_CHECKSUM = Crc32cCodec().to_dict()


@dataclass(frozen=True)
class ReshapeCodec(ArrayArrayCodec):
    """`reshape`: the same elements in C order under another shape."""

    shape: tuple[int | tuple[int, ...], ...]
    """Per output axis: its size, the input axes it is the product of, or one -1 for what is
    left."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ReshapeCodec":
        shape = data["configuration"]["shape"]
        return cls(tuple(tuple(axis) if isinstance(axis, Sequence) else axis for axis in shape))

    def to_dict(self) -> dict[str, Any]:
        shape = [list(axis) if isinstance(axis, tuple) else axis for axis in self.shape]
        return {"name": "reshape", "configuration": {"shape": shape}}

    def resolve_metadata(self, chunk_spec: ArraySpec) -> ArraySpec:
        return replace(chunk_spec, shape=self._output_shape(chunk_spec.shape))

    def _output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        named = [axis for entry in self.shape if isinstance(entry, tuple) for axis in entry]
        fits = named == sorted(set(named)) and all(0 <= axis < len(shape) for axis in named)
        output = [
            entry if isinstance(entry, int) else math.prod(shape[axis] for axis in entry if fits)
            for entry in self.shape
        ]
        if output.count(-1) == 1:
            known = math.prod(size for size in output if size != -1)
            output[output.index(-1)] = math.prod(shape) // known if known else 0
        # Each named block of axes must stand where it stood, so that nothing is transposed.
        fits = fits and math.prod(output) == math.prod(shape)
        for place, entry in enumerate(self.shape):
            if fits and isinstance(entry, tuple) and entry:
                fits = math.prod(output[:place]) == math.prod(shape[: entry[0]])
        if not fits:
            raise ValueError(f"reshape to {self.shape} does not fit a chunk of shape {shape}")
        return tuple(output)

    def _decode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        return chunk_data.reshape(chunk_spec.shape)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer | None:
        return chunk_data.reshape(self._output_shape(chunk_spec.shape))

    async def _decode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer | None:
        return self._encode_sync(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return input_byte_length


@dataclass(frozen=True)
class _FramesCodec(ArrayBytesCodec):
    """Chunks of uint8 RGB pictures."""

    codec: ImageCodec

    def to_dict(self) -> dict[str, Any]:
        return next(entry for entry in codec_to_zarr(self.codec) if entry["name"] == self._name())

    @classmethod
    def _name(cls) -> str:
        raise NotImplementedError

    def _frames(self, chunk: np.ndarray) -> np.ndarray:
        """The chunk as (frames, height, width, 3), a view of it."""
        raise NotImplementedError

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> "_FramesCodec":
        if not isinstance(array_spec.dtype, UInt8):
            raise ValueError(f"{self._name()} stores uint8, got {array_spec.dtype}")
        if array_spec.shape[-1:] != (3,):
            raise ValueError(f"{self._name()} stores RGB, got chunks of shape {array_spec.shape}")
        return self

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        chunk = np.empty(chunk_spec.shape, np.uint8)
        data = np.ascontiguousarray(chunk_data.as_numpy_array())
        decode_frames(self.codec, memoryview(data).cast("B"), self._frames(chunk))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(chunk)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        chunk = np.ascontiguousarray(chunk_data.as_numpy_array())
        payload = encode_chunk(self.codec, self._frames(chunk))
        return chunk_spec.prototype.buffer.from_bytes(payload)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return self._encode_sync(chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size depends on the pictures")


@dataclass(frozen=True)
class JpegCodec(_FramesCodec):
    """`jpeg`: one picture (height, width, 3), colour as YCbCr 4:2:0 or 4:4:4."""

    @classmethod
    def _name(cls) -> str:
        return "jpeg"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "JpegCodec":
        # The draft's default.
        settings = {"subsampling": [[2, 2], [1, 1], [1, 1]], **data["configuration"]}
        around = codec_to_zarr(Jpeg())
        return cls(codec_from_zarr([around[0], {**data, "configuration": settings}, around[-1]]))

    def _frames(self, chunk: np.ndarray) -> np.ndarray:
        if chunk.ndim != 3:
            raise ValueError(
                f"jpeg stores pictures (height, width, 3), got a chunk of shape {chunk.shape}; "
                "put a reshape codec before it"
            )
        return chunk[None]


@dataclass(frozen=True)
class VideoCodec(_FramesCodec):
    """`ulna.video`: a clip (frames, height, width, 3), see `video_codec.py`."""

    @classmethod
    def _name(cls) -> str:
        return "ulna.video"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "VideoCodec":
        return cls(codec_from_zarr([data, _CHECKSUM]))

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> "VideoCodec":
        assert isinstance(self.codec, Clip)
        if len(array_spec.shape) != 4 or array_spec.shape[0] != self.codec.frames:
            raise ValueError(
                f"clips of {self.codec.frames} frames, got chunks of shape {array_spec.shape}"
            )
        super().evolve_from_array_spec(array_spec)
        return self

    def _frames(self, chunk: np.ndarray) -> np.ndarray:
        return chunk


def register() -> None:
    """Make plain zarr-python read and write our images in this process. Any number of times."""
    register_codec("reshape", ReshapeCodec)
    register_codec("jpeg", JpegCodec)
    register_codec("ulna.video", VideoCodec)
