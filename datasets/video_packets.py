"""The coded frames of an existing video file as clips, without decoding them.

        with VideoPackets("file-000.mp4") as video:
            clips = video.clips(first_frame=1200, frames=300, frames_per_chunk=8)
            if isinstance(clips, str): ...      # why not; decode and encode instead

Costs reading the file, about a thousandth of encoding it again, and loses nothing. Frames are
counted in the order of showing, from 0 at the first one.

Next: `clip_format.py` (what a clip is).
"""

from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from .clip_format import Packet, packets_to_clips
from .video_codec import VideoCodec

_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


class VideoPackets:
    """One video stream of a file, read by frame ranges. Not for several threads at once."""

    def __init__(self, path: Path | str, stream: int = 0) -> None:
        """Reads the whole file once, for the places of its keyframes."""
        self._container = av.open(str(path))
        self._stream: Any = self._container.streams.video[stream]
        context = self._stream.codec_context
        self.height: int = context.height
        self.width: int = context.width
        self.codec_name: str = context.codec.canonical_name
        packets: list[tuple[Any, ...]] = [
            (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
            for packet in self._container.demux(self._stream)
            if packet.size
        ]
        self.frames = len(packets)
        self.problem = self._find_problem(packets)
        """Why no clip can be cut out of this file; empty if some can."""
        if self.problem:
            return
        self._in_order = all(a[0] < b[0] for a, b in zip(packets, packets[1:], strict=False))
        self.keyframes = np.flatnonzero([packet[2] for packet in packets])
        """Numbers of the frames where a clip can begin."""
        self._keyframe_pts = [packets[number][0] for number in self.keyframes]

    def _find_problem(self, packets: list[tuple[Any, ...]]) -> str:
        if self.codec_name not in ("h264", "hevc", "av1"):
            return f"the codec is {self.codec_name}; clips are h264, hevc or av1"
        if not packets or not packets[0][2]:
            return "it does not begin with a keyframe"
        if any(pts is None or dts is None for pts, dts, *_ in packets):
            return "some frames have no time"
        if any(discard for *_, discard in packets):
            return "an edit list hides some of its frames"
        # What follows a keyframe must be shown after it, what precedes it before it: otherwise
        # the groups are open, and counting packets is not counting frames.
        latest, newest_keyframe = packets[0][0] - 1, packets[0][0]
        for pts, _, keyframe, _ in packets:
            if keyframe and pts < latest:
                return "its groups of pictures are open"
            newest_keyframe = pts if keyframe else newest_keyframe
            if pts < newest_keyframe:
                return "its groups of pictures are open"
            latest = max(latest, pts)
        return ""

    @property
    def codec(self) -> VideoCodec:
        assert not self.problem
        return cast(VideoCodec, self.codec_name)

    def clips(self, first_frame: int, frames: int, frames_per_chunk: int) -> list[bytes] | str:
        """Chunks of a `Clip` array; a string that says why, if that cannot be.

        Every `frames_per_chunk`-th frame from `first_frame` on must be a keyframe.
        """
        if self.problem:
            return self.problem
        stop = first_frame + frames
        if not (0 <= first_frame < stop <= self.frames):
            return f"frames {first_frame} to {stop} of a video of {self.frames}"
        for number in range(first_frame, stop, frames_per_chunk):
            place = int(np.searchsorted(self.keyframes, number))
            if place == len(self.keyframes) or self.keyframes[place] != number:
                return f"frame {number} is no keyframe, so no clip can begin there"
        place = int(np.searchsorted(self.keyframes, first_frame))
        after = int(np.searchsorted(self.keyframes, stop))
        end = int(self.keyframes[after]) if after < len(self.keyframes) else self.frames
        packets = self._read(self._keyframe_pts[place], end - first_frame)
        if isinstance(packets, str):
            return packets
        return packets_to_clips(packets, 0, frames, frames_per_chunk, self._in_order)

    def _read(self, pts: int, count: int) -> list[Packet] | str:
        """`count` packets from the keyframe shown at `pts` on."""
        self._container.seek(pts, stream=self._stream, backward=True)
        name = _FILTERS.get(self.codec_name)
        bitstream = BitStreamFilterContext(name, self._stream) if name else None
        packets: list[Packet] = []
        for packet in self._container.demux(self._stream):
            if not packet.size or (not packets and packet.pts != pts):
                continue
            # The filter gives one packet for one, and forgets the flag of some.
            keyframe = packet.is_keyframe
            for ready in bitstream.filter(packet) if bitstream else [packet]:
                packets.append(Packet(bytes(ready), keyframe))
            if len(packets) == count:
                break
        if len(packets) != count:
            return f"{len(packets)} packets where {count} were counted"
        if self.codec_name == "av1":
            return _with_sequence_headers(packets, self._stream.codec_context.extradata)
        return packets

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> "VideoPackets":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def packets_to_chunks(
    path: Path | str, stream: int, first_frame: int, frames: int, frames_per_chunk: int
) -> list[bytes] | str:
    """`VideoPackets.clips` of one range, for a file that is read once."""
    with VideoPackets(path, stream) as video:
        return video.clips(first_frame, frames, frames_per_chunk)


def _with_sequence_headers(packets: list[Packet], configuration: bytes | None) -> list[Packet]:
    """AV1 in MP4 may keep its sequence header in `av1C` alone: four bytes, then the header."""
    header = (configuration or b"")[4:]
    complete = []
    for packet in packets:
        if packet.keyframe and 1 not in _unit_types(packet.data):
            packet = Packet(header + packet.data, True)
        complete.append(packet)
    return complete


def _unit_types(data: bytes | memoryview) -> set[int]:
    """Types of the units (OBUs) in a temporal unit; 1 is a sequence header."""
    types = set()
    place = 0
    while place < len(data):
        first = data[place]
        types.add(first >> 3 & 15)
        place += 2 if first & 4 else 1
        if not first & 2:  # Without a length it is the last one.
            break
        length = shift = 0
        while True:
            byte = data[place]
            length |= (byte & 127) << shift
            shift, place = shift + 7, place + 1
            if byte < 128:
                break
        place += length
    return types
