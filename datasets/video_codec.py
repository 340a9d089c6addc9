"""Pixels to short video clips and back, with FFmpeg's libraries through PyAV.

Next: `clip_format.py` (the bytes of a clip), `video_packets.py` (clips out of existing files).
"""

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
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
# At these defaults 32 rendered frames with sensor noise are 0.3 to 0.9 dB nearer to the truth than
# LeRobot's default (AV1, g=2, crf 30, preset 12, read by torchcodec), and of H.264 they take 0.48
# to 0.71 of its bytes and 0.41 to 0.51 of the CPU time of reading all of them in one call.
_ENCODERS = {
    # Smaller pictures are padded: of 16 and 48 px x264 now and then makes other bytes.
    "h264": _Encoder("libx264", "h264", 22, 51, "veryfast", _X26X_PRESETS, 64),
    "hevc": _Encoder("libx265", "hevc", 22, 51, "veryfast", _X26X_PRESETS, 64),
    "av1": _Encoder("libsvtav1", "libdav1d", 32, 63, "8", tuple(map(str, range(14))), 64),
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
    brighter = _dark_levels()
    for number, pixels in enumerate(padded):
        picture = converter.reformat(
            VideoFrame.from_numpy_buffer(pixels, "rgb24"),
            format="yuv420p",
            interpolation=_TO_YUV,
        )
        luma = _rows(picture)
        np.minimum(luma, 255 - brighter, out=luma)
        np.add(luma, brighter, out=luma)
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
            # Arithmetic coding would save 6 % and cost 40 % more to decode; the deblocking filter
            # costs 10 % and lowers PSNR at this quality; more references or weights bring nothing.
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
    with closing(_decoded(packets[begin:], codec, out.shape[1:3])) as frames:
        for frame in frames:
            if number >= wanted:
                kind = (frame.colorspace, frame.color_range, frame.format.name)
                converter = _kept(_Converter, *kind, frame.height, frame.width)
                converter.copy(frame, out[filled])
                filled += 1
            if number >= last:
                break
            number += 1
        else:
            raise DamagedData(f"{number} frames in a clip of {shown}")
    out[filled:] = out[filled - 1]


def _decoded(
    packets: Sequence[Packet], codec: VideoCodec, size: tuple[int, ...]
) -> Generator[VideoFrame]:
    """Frames in the order of showing. Every thread keeps one decoder per codec and size."""
    context = _kept(_decoder, codec, *size)
    # A stream that does not name its colours would be given those of the clip before it.
    context.colorspace, context.color_range = _UNSAID, 0
    try:
        for packet in packets:
            yield from context.decode(av.Packet(cast(bytes, packet.data)))
        yield from context.decode(None)
    except FFmpegError as error:
        raise DamagedData(f"{codec} cannot be decoded: {error}") from error
    finally:
        context.flush_buffers()


def _decoder(codec: VideoCodec, height: int, width: int) -> VideoCodecContext:
    # The size is not said to it, but a decoder that meets another one starts anew.
    context = cast(VideoCodecContext, av.CodecContext.create(_ENCODERS[codec].decoder, "r"))
    context.thread_count = 1
    if codec == "av1":
        context.options = {"max_frame_delay": "1"}
    return context


class _Converter:
    """Frames of one kind to RGB. For one thread; it is dear to make and to turn to another kind.

    It goes swscale's fast way, which takes the nearest colour sample and is 1.2 levels too dark:
    22 us at 224 x 224. The exact ways gain 0 to 1 dB and cost 9 to 20 times as much. Every reader
    on FFmpeg goes this way, LeRobot's too, so a video taken over shows the pixels it showed there.
    """

    def __init__(
        self, matrix: int, color_range: int, pixel_format: str, height: int, width: int
    ) -> None:
        if matrix == _RGB:
            raise DamagedData(f"a clip of {pixel_format}, expected YCbCr")
        self._reformatter = VideoReformatter()
        # It looks at the matrix only if the two sides differ. RGB has none: say another one there.
        self._settings = {
            "src_colorspace": _BT601 if matrix in _SAME_AS_BT601 else matrix,
            "dst_colorspace": _BT601,
            "src_color_range": _FULL if color_range == _FULL else _LIMITED,
            "dst_color_range": _LIMITED,
        }
        self._size = height, width

    def copy(self, frame: VideoFrame, out: np.ndarray) -> None:
        """The upper left part of the frame into `out`."""
        height, width, _ = out.shape
        if height > self._size[0] or width > self._size[1]:
            got = f"{self._size[1]} x {self._size[0]}"
            raise DamagedData(f"a clip of {got}, expected {width} x {height}")
        picture = self._reformatter.reformat(frame, format="rgb24", **self._settings)
        # Two axes: numpy is much slower along an innermost axis of three.
        out.reshape(height, width * 3)[:] = _rows(picture)[:height, : width * 3]


def _rows(picture: VideoFrame) -> np.ndarray:
    """The first plane, with what FFmpeg keeps at the ends of rows."""
    plane = picture.planes[0]
    return np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)


@cache
def _dark_levels() -> np.uint8:
    """Levels of luma that the fast way loses on this machine: it cuts fractions off in every term.
    On x86 1; red / green / blue become 1.0 / 1.4 / 1.1 levels darker. The encoder adds it."""
    colours = np.random.default_rng(0).integers(60, 190, (16, 16, 3), np.uint8)
    colours = colours.repeat(2, 0).repeat(2, 1)
    frame = VideoReformatter().reformat(
        VideoFrame.from_ndarray(colours, "rgb24"), format="yuv420p", interpolation=_TO_YUV
    )
    back = np.empty_like(colours)
    _Converter(_BT601, _LIMITED, "yuv420p", 32, 32).copy(frame, back)
    lost = float((colours.astype(float) - back).mean()) * 219 / 255
    return np.uint8(max(0, round(lost)))


def _kept(make: Callable[..., Any], *key: Any) -> Any:
    """`make(*key)`, or what this thread made of it before. At most eight of a kind are kept."""
    kept = _of_thread.__dict__.setdefault(make.__name__, {})
    if key not in kept:
        if len(kept) >= 8:
            kept.clear()
        kept[key] = make(*key)
    return kept[key]
