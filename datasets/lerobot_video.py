"""The MP4 files of a LeRobotDataset: packets out of them and into them, without decoding.

A file holds the frames of many episodes at a constant rate; frame n is shown at n / fps, which is
how LeRobot finds it. Every episode begins on a keyframe in what LeRobot and this file write, so
the packets of an episode stand for themselves.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from .clip_format import Packet, unpack_clip
from .image_codec import Clip, EncodedFrames
from .video_codec import VideoCodec, decode_clip
from .video_packets import VideoPackets

_CLIP_FRAMES = (8, 16, 32)
"""Sizes of clips to try. A reader starts at the last keyframe inside a clip, so a large one costs
nothing but bytes read; beyond 32 frames per keyframe random access is no use."""

# What LeRobot 0.6.1 encodes with when nothing is chosen.
DEFAULT_ENCODER = "libsvtav1"
SMALLEST_AV1 = 64
DEFAULT_OPTIONS = {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "fast-decode=0"}


@dataclass(frozen=True)
class Kept:
    """The packets of an episode as clips, and what they are."""

    codec: VideoCodec
    frames_per_chunk: int
    chunks: tuple[bytes, ...]


class VideoReader:
    """Frames out of the files of one feature; keeps the last file open, for episodes follow one
    another in it."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._video: VideoPackets | None = None

    def kept_clips(self, path: Path, first: int, steps: int) -> Kept | str:
        """Frames `first, ...` of a file as clips, unchanged; or why that cannot be."""
        video = self._open(path)
        reason = ""
        for size in _CLIP_FRAMES:
            clips = video.clips(first, steps, size)
            if not isinstance(clips, str):
                return Kept(video.codec, size, tuple(clips))
            reason = f"{path.name}, cut into clips of {size} frames: {clips}"
        return reason

    def decoded(
        self, path: Path, first: int, steps: int
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Frames `first, ...` of a file, a group of pictures at a time."""
        video = self._open(path)
        stop = first + steps
        if video.problem or stop > video.frames:
            raise ValueError(
                f"{path} cannot be read: "
                f"{video.problem or f'it has {video.frames} frames, not {stop}'}; encode its "
                "dataset anew with LeRobot's own tool, lerobot-edit-dataset"
            )
        edges = [*video.keyframes.tolist(), video.frames]
        for begin, end in pairwise(edges):
            low, high = max(first, begin), min(stop, end)
            if low < high:
                clips = video.clips(begin, end - begin, end - begin)
                if isinstance(clips, str):
                    raise ValueError(f"{path} cannot be read: {clips}")
                out = np.empty((high - low, video.height, video.width, 3), np.uint8)
                decode_clip(clips[0], video.codec, out, low - begin)
                yield from out

    def _open(self, path: Path) -> VideoPackets:
        if self._video is None or self._path != path:
            if self._video is not None:
                self._video.close()
            self._path, self._video = path, VideoPackets(path)
        return self._video


def packets_of(frames: EncodedFrames) -> list[Packet] | None:
    """The packets of stored clips, one per frame; None if they are not in the order of showing."""
    assert isinstance(frames.codec, Clip)
    packets: list[Packet] = []
    for number, chunk in enumerate(frames.chunks):
        found, shown, in_order = unpack_clip(chunk)
        wanted = min(frames.codec.frames, frames.steps - number * frames.codec.frames)
        if not in_order or shown < wanted:
            return None
        packets += found[:wanted]
    return packets


def encode_as_lerobot(frames: Iterator[np.ndarray], fps: int) -> list[Packet]:
    """One episode in LeRobot's default encoding: AV1, a keyframe every second frame."""
    buffer = io.BytesIO()
    stream: VideoStream | None = None
    with av.open(buffer, "w", format="mp4") as file:
        for pixels in frames:
            if stream is None:
                os.environ.setdefault("SVT_LOG", "1")  # else it writes a page per episode to stderr
                added = file.add_stream(DEFAULT_ENCODER, fps, options=DEFAULT_OPTIONS)
                stream = cast(VideoStream, added)
                stream.pix_fmt = "yuv420p"
                stream.height, stream.width = pixels.shape[:2]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        assert stream is not None
        file.mux(stream.encode())
    buffer.seek(0)
    made = av.open(buffer, "r")
    try:
        packets = made.demux(made.streams.video[0])
        return [Packet(bytes(packet), packet.is_keyframe) for packet in packets if packet.size]
    finally:
        made.close()


class VideoFiles:
    """Writes the videos of one feature, many episodes to a file of bounded size."""

    def __init__(self, root: Path, path: str, key: str, fps: int, codec: VideoCodec, limit: int):
        self._root, self._path, self._key, self._fps = root, path, key, fps
        self.codec: VideoCodec = codec
        self._limit = limit
        self._index = -1
        self._bytes = limit
        self._frames = 0
        self._file: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def add(self, packets: Sequence[Packet], chunk_files: int) -> dict[str, int | float]:
        """Append an episode; gives the columns of the episode table that say where it is."""
        size = sum(len(packet.data) for packet in packets)
        if self._bytes + size > self._limit and (self._file is None or self._frames):
            self._open(packets, chunk_files)
        assert self._file is not None and self._stream is not None
        first = self._frames
        for packet in packets:
            out = av.Packet(bytes(packet.data))
            out.time_base = Fraction(1, self._fps)
            out.pts = out.dts = self._frames
            out.duration = 1
            out.is_keyframe = packet.keyframe
            out.stream = self._stream
            self._file.mux(out)
            self._frames += 1
        self._bytes += size
        return {
            f"videos/{self._key}/chunk_index": self._index // chunk_files,
            f"videos/{self._key}/file_index": self._index % chunk_files,
            f"videos/{self._key}/from_timestamp": first / self._fps,
            f"videos/{self._key}/to_timestamp": self._frames / self._fps,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, packets: Sequence[Packet], chunk_files: int) -> None:
        self.close()
        self._index += 1
        self._bytes = self._frames = 0
        path = self._root / self._path.format(
            video_key=self._key,
            chunk_index=self._index // chunk_files,
            file_index=self._index % chunk_files,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        template = _template(packets, self.codec)
        self._file = av.open(str(path), "w")
        self._stream = self._file.add_stream_from_template(template.streams.video[0], opaque=True)
        self._stream.time_base = Fraction(1, self._fps)
        template.close()


def _template(packets: Sequence[Packet], codec: VideoCodec) -> InputContainer:
    """The first packets as a raw stream, which says the parameters of the video."""
    delimiter = b"\x12\x00" if codec == "av1" else b""
    raw = b"".join(delimiter + bytes(packet.data) for packet in packets[:8])
    return av.open(io.BytesIO(raw), "r", format="obu" if codec == "av1" else codec)


def coded_size(packets: Sequence[Packet], codec: VideoCodec) -> tuple[int, int]:
    """Height and width of the frames in the bitstream."""
    template = _template(packets, codec)
    video = template.streams.video[0]
    size = video.height, video.width
    template.close()
    return size


def video_info(path: Path, fps: int, codec: Clip | None) -> dict[str, Any]:
    """What info.json says about the videos of a feature; `codec`: as the frames were stored, None
    if they were encoded for the dataset."""
    file = av.open(str(path))
    video = file.streams.video[0]
    said: dict[str, Any] = {
        "video.height": video.height,
        "video.width": video.width,
        "video.codec": video.codec_context.codec.canonical_name,
        "video.pix_fmt": video.codec_context.pix_fmt,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "is_depth_map": False,
    }
    file.close()
    if codec is None:
        said |= {"video.g": 2, "video.crf": 30, "video.preset": 12, "video.fast_decode": 0}
        return said | {"video.video_backend": "pyav", "video.extra_options": {}}
    said |= {} if codec.crf is None else {"video.crf": codec.crf}
    if codec.preset is not None:
        said["video.preset"] = int(codec.preset) if codec.preset.isdecimal() else codec.preset
    return said
