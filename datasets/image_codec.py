"""Colour frames to the bytes of a chunk and back: lossless, JPEG, or short video clips.

        codec       frames per chunk   for
        Lossless    16                 exact pixels
        Jpeg        1                  frames at random: training on small pictures (the default)
        Clip        8 (or 1, 2, 4, ..) size, large frames, windows with history

A chunk decodes alone. What it is in Zarr's words stands in `codec_to_zarr`.

Next: `video_codec.py` (clips), `zarr_codecs.py` (the same for plain zarr-python).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from .chunks import ZSTD_LEVEL, DamagedData, compress, decompress, padded
from .clip_format import cut_clips
from .schema import unknown_name
from .video_codec import VideoCodec, check_settings, decode_clip, encode_clip

_LOSSLESS_FRAMES = 16
"""Measured on 64 px robosuite frames: 1 / 16 / 32 frames together take 5.2 / 2.2 / 2.1 kB and 29 /
7 / 6 us each to decode, and reading one frame decodes at most this many."""

Subsampling = Literal["420", "444"]
_SAMPLING_FACTORS = {"420": [[2, 2], [1, 1], [1, 1]], "444": [[1, 1], [1, 1], [1, 1]]}
_CHECKSUM = {"name": "crc32c"}
_RESHAPE = {"name": "reshape", "configuration": {"shape": [[0, 1], [2], [3]]}}
"""(1, height, width, 3) to (height, width, 3), which is what the `jpeg` codec takes."""


@dataclass(frozen=True)
class Lossless:
    """Zstandard over 16 frames."""

    type: Literal["lossless"] = "lossless"

    @property
    def frames_per_chunk(self) -> int:
        return _LOSSLESS_FRAMES


@dataclass(frozen=True)
class Jpeg:
    """One baseline JPEG per frame."""

    quality: int = 95
    """0 to 100, as libjpeg counts."""
    subsampling: Subsampling = "420"
    """`420` halves the resolution of colour, `444` keeps it."""
    type: Literal["jpeg"] = "jpeg"

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 100:
            raise ValueError(f"JPEG quality {self.quality} is not within 0 to 100; 95 is usual")

    @property
    def frames_per_chunk(self) -> int:
        return 1


@dataclass(frozen=True)
class Clip:
    """A closed group of pictures per chunk: 8-bit 4:2:0 video without B-frames."""

    codec: VideoCodec = "h264"
    frames: int = 8
    """Frames per chunk. Reading the last one of a clip decodes all of them."""
    crf: int | None = None
    """Constant rate factor on the scale of the encoder, lower is better and larger. None: the
    measured default of `video_codec.py`."""
    preset: str | None = None
    """Of the encoder, such as `veryfast` (x264, x265) or `10` (SVT-AV1). None: the default."""
    type: Literal["clip"] = "clip"

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 256:
            raise ValueError(f"a clip of {self.frames} frames; use 1 to 256, 8 is usual")
        check_settings(self.codec, self.crf, self.preset)

    @property
    def frames_per_chunk(self) -> int:
        return self.frames


ImageCodec = Lossless | Jpeg | Clip


def encode_frames(codec: ImageCodec, frames: UInt8[np.ndarray, "frames height width 3"]) -> bytes:
    """One chunk of 1 to `codec.frames_per_chunk` frames.

    A short Lossless chunk is filled with zeros; a short Clip is read by Zarr as if its last frame
    were repeated.
    """
    if not 1 <= len(frames) <= codec.frames_per_chunk:
        raise ValueError(
            f"{len(frames)} frames for one chunk of {codec}; give 1 to {codec.frames_per_chunk}"
        )
    match codec:
        case Lossless():
            return compress(padded(frames, _LOSSLESS_FRAMES))
        case Jpeg():
            frame = np.ascontiguousarray(frames[0])
            return simplejpeg.encode_jpeg(
                frame, quality=codec.quality, colorsubsampling=codec.subsampling
            )
        case Clip():
            return encode_clip(frames, codec.codec, codec.crf, codec.preset)


def decode_frames(
    codec: ImageCodec,
    data: bytes | bytearray | memoryview,
    out: UInt8[np.ndarray, "frames height width 3"],
    first: int = 0,
) -> None:
    """Frames `first, first + 1, ...` of a chunk into `out` (contiguous), as many as fit.

    Any number of threads may call this; the interpreter lock is free while a library decodes.
    Raises DamagedData if the bytes are not such a chunk.
    """
    assert out.flags.c_contiguous and first + len(out) <= codec.frames_per_chunk
    match codec:
        case Jpeg():
            decode_jpeg(data, out[0])
        case Clip():
            decode_clip(data, codec.codec, out, first)
        case Lossless() if len(out) == _LOSSLESS_FRAMES:
            decompress(memoryview(data), out)
        case Lossless():
            frames = np.empty((_LOSSLESS_FRAMES, *out.shape[1:]), np.uint8)
            decompress(memoryview(data), frames)
            out[:] = frames[first : first + len(out)]


def decode_jpeg(data: Any, out: UInt8[np.ndarray, "height width 3"]) -> None:
    """One JPEG into `out`. Raises DamagedData."""
    try:
        decoded = simplejpeg.decode_jpeg(data, buffer=out)
    except ValueError as error:
        raise DamagedData(f"not a JPEG of {out.shape[1]} x {out.shape[0]}: {error}") from error
    # The library fills as much of a larger buffer as the picture needs.
    if decoded.shape != out.shape:
        raise DamagedData(f"a JPEG of shape {decoded.shape}, expected {out.shape}")


@dataclass(frozen=True)
class EncodedFrames:
    """Frames of one camera over one episode, as they are stored."""

    codec: ImageCodec
    steps: int
    height: int
    width: int
    chunks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        expected = -(-self.steps // self.codec.frames_per_chunk)
        if len(self.chunks) != expected:
            raise ValueError(
                f"{len(self.chunks)} chunks for {self.steps} steps; {self.codec} makes {expected}"
            )

    @staticmethod
    def of(codec: ImageCodec, frames: UInt8[np.ndarray, "steps height width 3"]) -> "EncodedFrames":
        size = codec.frames_per_chunk
        chunks = tuple(
            encode_frames(codec, frames[first : first + size])
            for first in range(0, len(frames), size)
        )
        steps, height, width, _ = frames.shape
        return EncodedFrames(codec, steps, height, width, chunks)

    def decode(self) -> UInt8[np.ndarray, "steps height width 3"]:
        out = np.empty((self.steps, self.height, self.width, 3), np.uint8)
        size = self.codec.frames_per_chunk
        for number, chunk in enumerate(self.chunks):
            decode_frames(self.codec, chunk, out[number * size : (number + 1) * size])
        return out

    def slice(self, start: int, stop: int, reencode: bool = False) -> "EncodedFrames":
        """Steps `start` to `stop` (excluded), with the pixels unchanged.

        Raises ValueError if a Clip does not fit, because `start` is no keyframe; `reencode=True`
        decodes and encodes it again instead, which costs quality once more.
        """
        if not 0 <= start < stop <= self.steps:
            raise ValueError(f"steps {start} to {stop} of an episode of {self.steps}")
        size = self.codec.frames_per_chunk
        if isinstance(self.codec, Clip):
            chunks = cut_clips(self.chunks, start, stop, size)
            if not isinstance(chunks, str):
                return self._with(stop - start, chunks)
            if not reencode:
                raise ValueError(f"{chunks}; cut elsewhere, or pass reencode=True (loses quality)")
        elif isinstance(self.codec, Jpeg) or (
            start % size == 0 and (stop % size == 0 or stop == self.steps)
        ):
            return self._with(stop - start, self.chunks[start // size : -(-stop // size)])
        # What is before the chunk of `start` and after the one of `stop` need not be decoded.
        low, high = start // size, -(-stop // size)
        near = self._with(min(high * size, self.steps) - low * size, self.chunks[low:high])
        frames = near.decode()[start - low * size : stop - low * size]
        return EncodedFrames.of(self.codec, frames)

    def _with(self, steps: int, chunks: Sequence[bytes]) -> "EncodedFrames":
        return EncodedFrames(self.codec, steps, self.height, self.width, tuple(chunks))


def joined(parts: Sequence[EncodedFrames], reencode: bool = False) -> EncodedFrames:
    """Parts of one codec and size, one after the other, with the pixels unchanged.

    Raises ValueError if a Clip but the last one ends in the middle of a chunk and its keyframes do
    not allow another cut; `reencode=True` encodes again instead.
    """
    first = parts[0]
    for part in parts:
        if (part.codec, part.height, part.width) != (first.codec, first.height, first.width):
            raise ValueError(
                f"cannot join {part.codec} of {part.width} x {part.height} to {first.codec} of "
                f"{first.width} x {first.height}; decode and encode one of them"
            )
    size = first.codec.frames_per_chunk
    steps = sum(part.steps for part in parts)
    chunks = [chunk for part in parts for chunk in part.chunks]
    if all(part.steps % size == 0 for part in parts[:-1]):
        return first._with(steps, chunks)
    if isinstance(first.codec, Clip):
        cut = cut_clips(chunks, 0, steps, size)
        if not isinstance(cut, str):
            return first._with(steps, cut)
        if not reencode:
            raise ValueError(f"{cut}; pass reencode=True (loses quality)")
    return EncodedFrames.of(first.codec, np.concatenate([part.decode() for part in parts]))


def codec_to_zarr(codec: ImageCodec) -> list[dict[str, Any]]:
    """The Zarr v3 codecs of a chunk `(frames_per_chunk, height, width, 3)`."""
    match codec:
        case Lossless():
            zstd = {"level": ZSTD_LEVEL, "checksum": False}
            return [{"name": "bytes"}, {"name": "zstd", "configuration": zstd}, _CHECKSUM]
        case Jpeg():
            # As drafted for zarr-extensions (pull request 66), which takes pictures of three axes.
            configuration = {
                "quality": codec.quality,
                "encoded_color_space": "ycbcr",
                "subsampling": _SAMPLING_FACTORS[codec.subsampling],
            }
            return [_RESHAPE, {"name": "jpeg", "configuration": configuration}, _CHECKSUM]
        case Clip():
            settings = asdict(codec).items()
            configuration = {key: value for key, value in settings if value is not None}
            del configuration["type"]
            return [{"name": "ulna.video", "configuration": configuration}, _CHECKSUM]


def codec_from_zarr(codecs: Sequence[dict[str, Any]]) -> ImageCodec:
    """Undo `codec_to_zarr`. Raises ValueError if it did not make these."""
    codec = _guess_codec([codec.get("name", "") for codec in codecs], codecs)
    if codec_to_zarr(codec) != list(codecs):
        raise ValueError(f"codecs {list(codecs)}; expected {codec_to_zarr(codec)}")
    return codec


def _guess_codec(names: list[str], codecs: Sequence[dict[str, Any]]) -> ImageCodec:
    if names[:1] == ["bytes"]:
        return Lossless()
    for name, codec in zip(names, codecs, strict=True):
        configuration = codec.get("configuration", {})
        if name == "jpeg":
            factors = configuration.get("subsampling")
            subsampling: Subsampling = "444" if factors == _SAMPLING_FACTORS["444"] else "420"
            return Jpeg(quality=configuration.get("quality", 95), subsampling=subsampling)
        if name == "ulna.video":
            try:
                return Clip(**configuration)
            except TypeError as error:
                raise ValueError(f"configuration of ulna.video: {error}") from error
    raise unknown_name("image codec", " + ".join(names), ["bytes + zstd", "jpeg", "ulna.video"])
