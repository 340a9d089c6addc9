"""All cameras of an episode as one H.264 film, side by side: one clock, so nothing drifts apart.

        +--------+--------+     rows of equal height; frame k is shown at the capture time of
        | front  | wrist  |     step k, so a gap in the recording is a gap in the film
        +--------+--------+

Next: `view_page.py`, which shows it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Float, UInt8

from .store import Store

MOST_HEIGHT = 480
"""Pixels of a camera's height in the film; larger frames are scaled down."""
MOST_WIDTH = 1600
"""Pixels of the whole film's width."""
CRF = 23
"""x264's own default: to look at, not to learn from."""
KEYFRAME_EVERY = 10
"""Frames; a step back or a click in a plot decodes at most this many."""
_BLOCK = 32
_CLOCK = 90_000
"""Ticks per second of the film's times, the usual number of MPEG."""


@dataclass(frozen=True)
class Tile:
    """One camera's place in the film, as shares of its size."""

    name: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Film:
    mp4: bytes
    width: int
    height: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class _Place:
    stream: str
    left: int
    top: int
    width: int
    height: int


def film(store: Store, episode_index: int, times_s: Float[np.ndarray, " steps"]) -> Film | None:
    """The film of an episode, or None if it has no camera. `times_s`: when each step is shown,
    ascending from 0."""
    places = _places(store, episode_index)
    if not places:
        return None
    # yuv420p wants even sizes.
    width = max(p.left + p.width for p in places) + 1 & ~1
    height = max(p.top + p.height for p in places) + 1 & ~1
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(store.embodiment.control_hz))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(CRF), "preset": "veryfast", "bf": "0"}
        stream.gop_size = KEYFRAME_EVERY
        stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
        # Said and done alike (BT.709, limited range), or colours shift from player to player.
        stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        stream.codec_context.colorspace = stream.codec_context.color_range = 1
        ticks = np.round(times_s * _CLOCK).astype(np.int64)
        canvas = np.zeros((height, width, 3), np.uint8)
        sources = [_frames(store, episode_index, place) for place in places]
        for step, pictures in enumerate(zip(*sources, strict=True)):
            for place, picture in zip(places, pictures, strict=True):
                top, left = place.top, place.left
                canvas[top : top + place.height, left : left + place.width] = picture
            frame = VideoFrame.from_ndarray(canvas, "rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            frame.pts, frame.time_base = int(ticks[step]), Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    tiles = tuple(
        Tile(
            _label(place.stream),
            place.left / width,
            place.top / height,
            place.width / width,
            place.height / height,
        )
        for place in places
    )
    return Film(file.getvalue(), width, height, tiles)


def _label(stream: str) -> str:
    folder, _, camera = stream.partition("/")
    return camera if folder == "images" else f"{camera} (depth)"


def _places(store: Store, episode_index: int) -> list[_Place]:
    record = store.episodes[episode_index]
    sizes = {
        name: described.shape[:2]
        for folder in ("images/", "depth/")
        for name, described in record.streams.items()
        if name.startswith(folder)
    }
    if not sizes:
        return []
    columns = len(sizes) if len(sizes) <= 3 else int(np.ceil(np.sqrt(len(sizes))))
    names = list(sizes)
    rows = [names[first : first + columns] for first in range(0, len(names), columns)]
    tall = min(MOST_HEIGHT, max(height for height, _ in sizes.values()))
    widest = max(sum(sizes[n][1] * tall / sizes[n][0] for n in row) for row in rows)
    tall = max(2, round(tall * min(1.0, MOST_WIDTH / widest)))
    places = []
    for number, row in enumerate(rows):
        left = 0
        for name in row:
            height, width = sizes[name]
            place = _Place(name, left, number * tall, max(2, round(width * tall / height)), tall)
            places.append(place)
            left += place.width
    return places


def _frames(store: Store, index: int, place: _Place) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """The frames of one camera in the size of its tile."""
    steps = store.episodes[index].steps
    scale = 0.0
    for first in range(0, steps, _BLOCK):
        frames = store.read(place.stream, index, first, min(first + _BLOCK, steps))
        for picture in frames:
            if place.stream.startswith("depth/"):
                if not scale and picture.any():
                    # The first frame sets the scale of all: near is bright, unseen is black.
                    scale = float(np.quantile(picture[picture > 0], 0.99))
                near = 255 - 215 * np.clip(picture / (scale or 1.0), 0, 1)
                grey = np.where(picture > 0, near, 0).astype(np.uint8)
                picture = np.repeat(grey[..., None], 3, axis=2)
            if picture.shape[:2] != (place.height, place.width):
                picture = (
                    VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
                    .reformat(place.width, place.height, "rgb24", interpolation="AREA")
                    .to_ndarray()
                )
            yield picture
