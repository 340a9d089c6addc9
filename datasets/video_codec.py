"""Pixels to short video clips and back, with FFmpeg's libraries through PyAV.

Next: `clip_format.py` (the bytes of a clip), `video_packets.py` (clips out of existing files).
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from .chunks import DamagedData
from .clip_format import Packet, pack_clip, unpack_clip

VideoCodec = Literal["h264", "hevc", "av1"]

# Numbers of ITU-T H.273, which FFmpeg shares.
_RGB, _BT709, _UNSAID, _BT601 = 0, 1, 2, 5
_LIMITED, _FULL = 1, 2
_SAME_AS_BT601 = (_UNSAID, 4, _BT601, 6)

_TO_YUV = 0x20 | 0x40000 | 0x4000
"""swscale's AREA, ACCURATE_RND and FULL_CHR_H_INP: colour is the mean of four pixels, unbiased."""


@dataclass(frozen=True)
class _Encoder:
    library: str
    decoder: str
    crf: int
    max_crf: int
    preset: str
    presets: tuple[str, ...]
    smallest: int
    """Sides below this are refused by the library."""


_X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)
_ENCODERS = {
    "h264": _Encoder("libx264", "h264", 20, 51, "veryfast", _X26X_PRESETS, 16),
    "hevc": _Encoder("libx265", "hevc", 20, 51, "veryfast", _X26X_PRESETS, 64),
    "av1": _Encoder("libsvtav1", "libdav1d", 28, 63, "8", tuple(map(str, range(14))), 64),
}


def check_settings(codec: VideoCodec, crf: int | None, preset: str | None) -> None:
    """Raises ValueError that says what the encoder of `codec` takes."""
    encoder = _ENCODERS[codec]
    if crf is not None and not 0 <= crf <= encoder.max_crf:
        raise ValueError(
            f"crf {crf} for {codec}; use 0 to {encoder.max_crf}, {encoder.crf} is usual"
        )
    if preset is not None and preset not in encoder.presets:
        raise ValueError(f"preset {preset!r} for {codec}; use one of {', '.join(encoder.presets)}")


def encode_clip(
    frames: UInt8[np.ndarray, "frames height width 3"],
    codec: VideoCodec,
    crf: int | None = None,
    preset: str | None = None,
) -> bytes:
    """A clip whose first frame is its only keyframe, without B-frames."""
    encoder = _ENCODERS[codec]
    crf = encoder.crf if crf is None else crf
    preset = encoder.preset if preset is None else preset
    padded = _padded(frames, encoder.smallest)
    # A new encoder per clip: the bytes of a clip then depend on its frames alone.
    context = cast(VideoCodecContext, av.CodecContext.create(encoder.library, "w"))
    context.height, context.width = padded.shape[1:3]
    context.pix_fmt = "yuv420p"
    context.colorspace, context.color_range = _BT601, _LIMITED
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.gop_size = len(frames)
    context.max_b_frames = 0
    context.thread_count = 1
    context.options = _options(codec, crf, preset, len(frames))
    packets = []
    converter = VideoReformatter()
    for number, pixels in enumerate(padded):
        picture = converter.reformat(
            VideoFrame.from_numpy_buffer(pixels, "rgb24"),
            format="yuv420p",
            interpolation=_TO_YUV,
        )
        picture.colorspace, picture.color_range = _BT601, _LIMITED
        picture.pts = number
        packets += context.encode(picture)
    packets += context.encode(None)
    if codec == "av1" and len(packets) != len(frames):
        raise RuntimeError(f"{encoder.library} made {len(packets)} packets of {len(frames)} frames")
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * (len(frames) - 1)
    return pack_clip(
        [Packet(bytes(packet), packet.is_keyframe) for packet in packets], len(frames), True
    )


def _options(codec: VideoCodec, crf: int, preset: str, frames: int) -> dict[str, str]:
    # Tuned for least error, not for looks: what is decoded goes into a network.
    match codec:
        case "h264":
            # Arithmetic coding would save 7 % and cost 40 % more to decode; the deblocking filter
            # costs 15 % and lowers PSNR at this quality; more references or weights bring nothing.
            parameters = (
                f"keyint={frames}:min-keyint={frames}:scenecut=0:bframes=0:threads=1:"
                "cabac=0:no-deblock=1:weightp=0:ref=1"
            )
            return {"crf": str(crf), "preset": preset, "tune": "psnr", "x264-params": parameters}
        case "hevc":
            parameters = (
                f"keyint={frames}:min-keyint={frames}:scenecut=0:bframes=0:pools=none:"
                "frame-threads=1:repeat-headers=1:open-gop=0:log-level=error"
            )
            return {"crf": str(crf), "preset": preset, "tune": "psnr", "x265-params": parameters}
        case "av1":
            os.environ.setdefault("SVT_LOG", "1")  # Errors only; it writes to stderr.
            parameters = f"keyint={frames}:scd=0:lp=1:pred-struct=1:lookahead=0"
            return {"crf": str(crf), "preset": preset, "svtav1-params": parameters}


def _padded(frames: np.ndarray, smallest: int) -> np.ndarray:
    """Even sides of at least `smallest`: the last row and column repeated."""
    missing = [max(side + side % 2, smallest) - side for side in frames.shape[1:3]]
    if not any(missing):
        return np.ascontiguousarray(frames)
    return np.pad(frames, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


_of_thread = threading.local()


def decode_clip(
    data: bytes | bytearray | memoryview,
    codec: VideoCodec,
    out: UInt8[np.ndarray, "frames height width 3"],
    first: int = 0,
) -> None:
    """Frames `first, first + 1, ...` of a clip into `out`, as many as fit.

    Starts at the last keyframe that is early enough and stops after the last frame needed.
    Past the end of the clip its last frame is repeated. Raises DamagedData.
    """
    packets, shown, _ = unpack_clip(data)
    wanted = min(first, shown - 1)
    begin = max(number for number in range(wanted + 1) if packets[number].keyframe)
    last = min(first + len(out), shown) - 1
    number = begin
    filled = 0
    for frame in _decoded(packets[begin:], codec, out.shape[1:3]):
        if number >= wanted:
            _copy_pixels(frame, out[filled])
            filled += 1
        if number >= last:
            break
        number += 1
    else:
        raise DamagedData(f"{number} frames in a clip of {shown}")
    out[filled:] = out[filled - 1]


def _decoded(
    packets: Sequence[Packet], codec: VideoCodec, size: tuple[int, ...]
) -> Iterator[VideoFrame]:
    """Frames in the order of showing. Every thread keeps one decoder per codec and size."""
    context = _kept("decoders", (codec, size), lambda: _decoder(codec))
    try:
        for packet in packets:
            yield from context.decode(av.Packet(cast(bytes, packet.data)))
        yield from context.decode(None)
    except FFmpegError as error:
        raise DamagedData(f"{codec} cannot be decoded: {error}") from error
    finally:
        context.flush_buffers()


def _decoder(codec: VideoCodec) -> VideoCodecContext:
    context = cast(VideoCodecContext, av.CodecContext.create(_ENCODERS[codec].decoder, "r"))
    context.thread_count = 1
    if codec == "av1":
        context.options = {"max_frame_delay": "1"}
    return context


def _copy_pixels(frame: VideoFrame, out: np.ndarray) -> None:
    height, width, _ = out.shape
    if not (height <= frame.height and width <= frame.width):
        raise DamagedData(f"a clip of {frame.width} x {frame.height}, expected {width} x {height}")
    if frame.colorspace == _RGB:
        raise DamagedData("a clip of RGB planes, expected YCbCr")
    loss = _rounding_loss()
    # As two axes and with a row of limits: numpy's other loops are six times slower.
    rows = out.reshape(height, width * 3)
    np.minimum(_to_rgb(frame)[:height, : width * 3], np.full(width * 3, 255 - loss), out=rows)
    np.add(rows, loss, out=rows)


def _to_rgb(frame: VideoFrame) -> np.ndarray:
    """Rows of bytes, maybe with some more at their ends.

    This is swscale's fast way, which takes the nearest colour sample: 22 us at 224 x 224. The ways
    that interpolate colour gain 0 to 1 dB and cost 9 to 20 times as much.
    """
    matrix = _BT601 if frame.colorspace in _SAME_AS_BT601 else frame.colorspace
    full = frame.color_range == _FULL
    # A converter remembers size and matrix, and it is dear to change them.
    key = (matrix, full, frame.format.name, frame.width, frame.height)
    converter = _kept("converters", key, VideoReformatter)
    # It looks at the matrix only if the two sides differ. RGB has none: say another one there.
    picture = converter.reformat(
        frame,
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=_BT601,
        src_color_range=_FULL if full else _LIMITED,
        dst_color_range=_LIMITED,
    )
    plane = picture.planes[0]
    return np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)


@cache
def _rounding_loss() -> np.uint8:
    """Levels by which the fast way is too dark, on this machine: it cuts fractions off in every
    term, 1.0 / 1.4 / 1.1 levels in red / green / blue on x86."""
    rng = np.random.default_rng(0)
    y = rng.integers(80, 180, (32, 32))
    u, v = rng.integers(108, 148, (2, 16, 16))
    planes = np.concatenate([y.ravel(), u.ravel(), v.ravel()]).astype(np.uint8)
    rows = _to_rgb(VideoFrame.from_ndarray(planes.reshape(48, 32), "yuv420p"))
    pixels = rows[:, : 32 * 3].reshape(32, 32, 3)
    # BT.601, limited range.
    luma = 255 / 219 * (y - 16)
    u, v = (255 / 224 * (plane.repeat(2, 0).repeat(2, 1) - 128) for plane in (u, v))
    exact = np.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], -1)
    return np.uint8(max(0, round(float((exact - pixels).mean()))))


def _kept(kind: str, key: tuple[Any, ...], make: Any) -> Any:
    """What this thread made before for `key`, or a new one. At most eight of a kind are kept."""
    kept = _of_thread.__dict__.setdefault(kind, {})
    if key not in kept:
        if len(kept) >= 8:
            kept.clear()
        kept[key] = make()
    return kept[key]
