"""What a recorder expects of every step and every sample, checked before anything is copied.

An episode with one NaN cannot be stored. Told at the step it costs that step; told at the end it
would cost the episode.

Next: `recorder.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from .episode_check import check_name
from .image_codec import ImageCodec
from .layout import Layout
from .schema import Embodiment, unknown_name

Row = Shaped[np.ndarray, "..."] | np.generic | float | int
"""One row of a stream. A Python number counts as int64, float64 or bool."""


@dataclass(frozen=True)
class Rows:
    """What one row of a stream is."""

    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    """Of one row: `(7,)` for seven joints, `()` for a number."""


_TIME = Rows("int64")


class Form:
    """The streams of an episode, and what a row of each is."""

    def __init__(
        self, robot: Embodiment, streams: Mapping[str, Rows], sensors: Mapping[str, Rows]
    ) -> None:
        """`streams` besides those that every episode has. Raises ValueError."""
        self._images = {c.name: Rows("uint8", (c.height, c.width, 3)) for c in robot.cameras}
        self._depth = {
            c.name: Rows("uint16", (c.height, c.width)) for c in robot.cameras if c.depth_unit_m > 0
        }
        self._streams = {
            "state": Rows("float32", (robot.state_dim,)),
            "action": Rows("float32", (robot.action_dim,)),
            "time_ns": _TIME,
        }
        self._sensors = dict(sensors)
        for name, kind in streams.items():
            if name in self._streams:
                raise ValueError(f"stream {name!r} is always recorded; leave it out of `streams`")
            _check_declared("stream", name, kind)
            if name.endswith("time_ns") and kind != _TIME:
                raise ValueError(f"stream {name!r} holds times: declare it as Rows('int64')")
            self._streams[name] = kind
        for name, kind in sensors.items():
            _check_declared("sensor", name, kind)
        self.frames = {f"images/{name}": kind for name, kind in self._images.items()}
        self.frames |= {f"depth/{name}": kind for name, kind in self._depth.items()}
        self.step = self.frames | self._streams
        """By name in the store: what comes with every step."""
        self.samples = {
            name: {f"sensors/{name}/time_ns": _TIME, f"sensors/{name}/values": kind}
            for name, kind in sensors.items()
        }
        """By sensor, then by name in the store."""

    def layouts(self, codec_of: Callable[[str], ImageCodec]) -> dict[str, Layout]:
        """How each stream is stored; `codec_of` a camera."""
        kinds = dict(self.step)
        for parts in self.samples.values():
            kinds |= parts
        layouts = {}
        for name, kind in kinds.items():
            camera = name.removeprefix("images/")
            codec = codec_of(camera) if camera != name else None
            layouts[name] = Layout.of(np.dtype(kind.dtype), kind.shape, codec)
        return layouts

    def check_step(
        self,
        images: Mapping[str, Row],
        depth: Mapping[str, Row],
        streams: Mapping[str, Row],
        last_time_ns: Mapping[str, int],
    ) -> None:
        """Raises ValueError that says what does not fit. `last_time_ns` by stream."""
        _check_names("frame of camera", images, self._images)
        _check_names("depth of camera", depth, self._depth)
        _check_names("row of stream", streams, self._streams)
        for name, frame in images.items():
            _check_row("the frame of camera", name, self._images[name], frame)
        for name, frame in depth.items():
            _check_row("the depth of camera", name, self._depth[name], frame)
        for name, value in streams.items():
            _check_row("stream", name, self._streams[name], value)
            if name.endswith("time_ns"):
                _check_time(name, int(value), last_time_ns.get(name))

    def check_sample(
        self, sensor: str, time_ns: int, values: Row, last_time_ns: Mapping[str, int]
    ) -> None:
        """Raises ValueError that says what does not fit."""
        _check_row("sensor", sensor, self._sensors[sensor], values)
        _check_time(f"sensors/{sensor}", time_ns, last_time_ns.get(f"sensors/{sensor}"))


def _check_declared(what: str, name: str, kind: Rows) -> None:
    check_name(what, name)
    try:
        dtype = np.dtype(kind.dtype)
    except TypeError as error:
        raise ValueError(f"{what} {name!r}: {error}; say it as numpy does, 'float32'") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"{what} {name!r} has type {kind.dtype}; only numbers can be stored")
    if dtype.name != kind.dtype:  # a byte order, or one type under two names
        raise ValueError(f"{what} {name!r} has type {kind.dtype!r}; say {dtype.name!r}")


def _check_names(what: str, got: Mapping[str, object], expected: Mapping[str, Rows]) -> None:
    if got.keys() == expected.keys():
        return
    for name in got.keys() - expected.keys():
        raise unknown_name(what, name, expected)
    missing = ", ".join(sorted(expected.keys() - got.keys()))
    raise ValueError(f"the step has no {what} {missing}; every step needs all of them")


def _check_row(what: str, name: str, kind: Rows, value: Row) -> None:
    row = np.asarray(value)
    if row.dtype != kind.dtype or row.shape != kind.shape:
        raise ValueError(
            f"{what} {name!r} is {row.dtype}{row.shape}, expected {kind.dtype}{kind.shape}; "
            "convert it, or declare the stream as it is"
        )
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        raise ValueError(f"{what} {name!r} holds NaN or infinity")


def _check_time(name: str, time_ns: int, last_ns: int | None) -> None:
    if last_ns is not None and time_ns < last_ns:
        raise ValueError(
            f"the times of {name!r} run backwards, from {last_ns} to {time_ns}; use a monotonic "
            "clock"
        )
