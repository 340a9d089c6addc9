"""Short video clips, each decodable alone.

A clip is what one chunk of a `Clip` array holds. Bytes, little endian:

        offset  what
        0       "ulv1"
        4       uint16  frames to show (a reader that wants more repeats the last one)
        6       uint16  packets, at least as many
        8       uint16  1 if packet k shows frame k, 0 if they come in another order (B-frames)
        10      uint32 per packet: length, plus 2**31 if it is a keyframe
        ...     the packets: H.264 and HEVC as Annex B with parameter sets before every keyframe,
                AV1 as temporal units with the sequence header in every keyframe

Packet 0 is a keyframe and groups are closed: what follows a keyframe needs nothing before it and
is shown after it, so a keyframe that is packet k shows frame k. Colour is said by the bitstream;
unsaid means BT.601 in limited range, which is what our own clips have and say.

Next: `video_packets.py` (clips out of existing video files).
"""

import os
import struct
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

VideoCodec = Literal["h264", "hevc", "av1"]

_HEADER = struct.Struct("<4sHHH")
_MAGIC = b"ulv1"
_KEYFRAME = 1 << 31

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
    "h264": _Encoder("libx264", "h264", 18, 51, "veryfast", _X26X_PRESETS, 16),
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


@dataclass(frozen=True)
class Packet:
    """A coded frame."""

    data: bytes | memoryview
    keyframe: bool


def pack_clip(packets: Sequence[Packet], shown: int, in_order: bool) -> bytes:
    """The bytes of a clip that shows `shown` frames."""
    assert packets[0].keyframe and 0 < shown <= len(packets)
    header = _HEADER.pack(_MAGIC, shown, len(packets), in_order)
    lengths = [len(packet.data) | (_KEYFRAME if packet.keyframe else 0) for packet in packets]
    table = struct.pack(f"<{len(lengths)}I", *lengths)
    return b"".join([header, table, *(packet.data for packet in packets)])


def unpack_clip(data: bytes | bytearray | memoryview) -> tuple[list[Packet], int, bool]:
    """Packets, frames shown, and whether packet k shows frame k. Raises DamagedData."""
    view = memoryview(data)
    if len(view) < _HEADER.size:
        raise DamagedData(f"{len(view)} bytes long, shorter than the header of a clip")
    magic, shown, count, in_order = _HEADER.unpack_from(view)
    begin = _HEADER.size + 4 * count
    if magic != _MAGIC or not 0 < shown <= count or len(view) < begin:
        raise DamagedData(f"not a clip: starts with {bytes(view[: _HEADER.size])!r}")
    packets = []
    for entry in struct.unpack_from(f"<{count}I", view, _HEADER.size):
        end = begin + (entry & ~_KEYFRAME)
        packets.append(Packet(view[begin:end], bool(entry & _KEYFRAME)))
        begin = end
    if begin != len(view) or not packets[0].keyframe:
        raise DamagedData(f"not a clip: packets of {begin} bytes in {len(view)}")
    return packets, shown, bool(in_order)


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
    context = av.CodecContext.create(encoder.library, "w")
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
    # Tuned for error, not for looks: what is decoded goes into a network.
    match codec:
        case "h264":
            parameters = f"keyint={frames}:min-keyint={frames}:scenecut=0:bframes=0:threads=1"
            return {"crf": str(crf), "preset": preset, "tune": "psnr", "x264-params": parameters}
        case "hevc":
            parameters = (
                f"keyint={frames}:min-keyint={frames}:scenecut=0:bframes=0:pools=none:"
                "frame-threads=1:repeat-headers=1:open-gop=0:log-level=error"
            )
            return {"crf": str(crf), "preset": preset, "tune": "psnr", "x265-params": parameters}
        case "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only, it writes to stderr
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
            yield from context.decode(av.Packet(packet.data))
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
    else:
        context.options = {"err_detect": "explode"}
    return context


def _copy_pixels(frame: VideoFrame, out: np.ndarray) -> None:
    height, width, _ = out.shape
    if not (height <= frame.height and width <= frame.width):
        raise DamagedData(f"a clip of {frame.width} x {frame.height}, expected {width} x {height}")
    if frame.colorspace == _RGB:
        raise DamagedData("a clip of RGB planes, expected YCbCr")
    rows = _to_rgb(frame)[:height, :width]
    loss = _rounding_loss()
    np.minimum(rows, 255 - loss, out=out)
    np.add(out, loss, out=out)


def _to_rgb(frame: VideoFrame) -> np.ndarray:
    """swscale's fast way, which takes the nearest colour sample: 22 us at 224 x 224. The ways
    that interpolate colour gain 0 to 1 dB and cost 9 to 20 times as much."""
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
    rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)
    return rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


@cache
def _rounding_loss() -> np.uint8:
    """Levels by which the fast way is too dark, on this machine: it cuts fractions off in every
    term, 1.0 / 1.4 / 1.1 levels in red / green / blue on x86."""
    rng = np.random.default_rng(0)
    y, u, v = (
        rng.integers(low, high, (32, 32)) for low, high in ((80, 180), (108, 148), (108, 148))
    )
    u, v = (plane[:16, :16].repeat(2, 0).repeat(2, 1) for plane in (u, v))
    planes = np.concatenate(
        [y.ravel(), u[::2, ::2].ravel(), v[::2, ::2].ravel()], dtype=np.uint8, casting="unsafe"
    )
    pixels = _to_rgb(VideoFrame.from_ndarray(planes.reshape(48, 32), "yuv420p"))
    # BT.601, limited range.
    luma = 255 / 219 * (y - 16)
    u, v = 255 / 224 * (u - 128), 255 / 224 * (v - 128)
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


def cut_clips(
    chunks: Sequence[bytes], start: int, stop: int, frames_per_chunk: int
) -> list[bytes] | str:
    """Frames `start` to `stop` of consecutive clips as clips of `frames_per_chunk`, unre-encoded.

    A string that says why, if a clip would not begin on a keyframe.
    """
    packets: list[Packet] = []
    ordered = True
    position = 0
    for chunk in chunks:
        found, shown, in_order = unpack_clip(chunk)
        if position + len(found) > start and position < stop:
            ordered &= in_order
        if shown < len(found) and position + shown < stop:
            return f"frame {position + shown} is followed by packets that are not shown"
        packets += found[:shown] if in_order else found
        position += shown
    return packets_to_clips(packets, start, stop, frames_per_chunk, ordered)


def packets_to_clips(
    packets: Sequence[Packet], start: int, stop: int, frames_per_chunk: int, in_order: bool
) -> list[bytes] | str:
    """Frames `start` to `stop` as clips; a string that says why, if keyframes do not allow it."""
    clips = []
    for begin in range(start, stop, frames_per_chunk):
        if not packets[begin].keyframe:
            return f"frame {begin} is no keyframe, so no clip can begin there"
        end = min(begin + frames_per_chunk, stop)
        reach = end
        while not in_order and reach < len(packets) and not packets[reach].keyframe:
            reach += 1
        clips.append(pack_clip(packets[begin:reach], end - begin, in_order))
    return clips
