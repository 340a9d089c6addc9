"""The bytes of a clip: a few coded video frames that can be decoded alone.

A clip is what one chunk of a `Clip` array holds. Little endian:

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

Next: `video_codec.py` (pixels), `video_packets.py` (clips out of existing video files).
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from .chunks import DamagedData

_HEADER = struct.Struct("<4sHHH")
_MAGIC = b"ulv1"
_KEYFRAME = 1 << 31


class Packet(NamedTuple):
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
