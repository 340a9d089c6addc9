"""What an episode must be to go into a store: shapes, types, names, times. Nothing is repaired."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from .image_codec import EncodedFrames
from .schema import Embodiment, Episode, Subgoal, unknown_name


def check_episode(
    episode: Episode, embodiment: Embodiment, encoded: Mapping[str, EncodedFrames] | None = None
) -> None:
    """Raise ValueError with what does not fit the embodiment or cannot be stored.

    `encoded`: frames of cameras that are coded already and are not in `episode.images`.
    """
    for name in ("state", "action"):
        if name not in episode.streams:
            raise ValueError(
                f"the episode has no stream {name!r}; it has {', '.join(sorted(episode.streams))}"
            )
    steps = episode.steps
    if steps == 0:
        raise ValueError(f"the episode of seed {episode.seed} has no steps")
    dims = {"state": embodiment.state_dim, "action": embodiment.action_dim}
    for name, rows in episode.streams.items():
        check_name("stream", name)
        _check_numbers(f"stream {name!r}", rows)
        if len(rows) != steps:
            raise ValueError(
                f"stream {name!r} has shape {rows.shape}; the actions have {steps} rows"
            )
        if name in dims and (rows.dtype != np.float32 or rows.shape != (steps, dims[name])):
            raise ValueError(
                f"stream {name!r} is {rows.dtype}{rows.shape}; {embodiment.name} expects "
                f"float32{(steps, dims[name])}"
            )
        if name.endswith("time_ns"):
            _check_time(f"stream {name!r}", rows)
    for name, sensor in episode.sensors.items():
        check_name("sensor", name)
        _check_numbers(f"sensor {name!r}", sensor.values)
        _check_time(f"sensor {name!r}", sensor.time_ns)
        if len(sensor.values) != len(sensor.time_ns) or len(sensor.time_ns) == 0:
            raise ValueError(
                f"sensor {name!r} has {len(sensor.values)} values and {len(sensor.time_ns)} times; "
                "expected as many of both, and at least one"
            )
    _check_images(episode, embodiment, steps, encoded or {})
    _check_depth(episode, embodiment, steps)
    check_labels(episode.info, episode.subgoals, steps)


def check_name(kind: str, name: str) -> None:
    """Raise ValueError if a stream or sensor cannot be called so."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("images", "depth", "sensors"):
        raise ValueError(f"{kind} name {name!r}: use small letters, digits and underscores")


def _check_numbers(what: str, rows: np.ndarray) -> None:
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{what} has type {rows.dtype}; only numbers can be stored")
    if rows.ndim == 0:
        raise ValueError(f"{what} is a single number; expected one row per step")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        step = int(np.argwhere(~np.isfinite(rows))[0][0])
        raise ValueError(f"{what} holds NaN or infinity, first at step {step}")


def _check_time(what: str, time_ns: np.ndarray) -> None:
    if time_ns.dtype != np.int64 or time_ns.ndim != 1:
        raise ValueError(f"{what} is {time_ns.dtype}{time_ns.shape}, expected int64 (steps,)")
    if (np.diff(time_ns) < 0).any():
        step = int(np.argmax(np.diff(time_ns) < 0)) + 1
        raise ValueError(f"{what} runs backwards at step {step}")


def _check_images(
    episode: Episode, embodiment: Embodiment, steps: int, encoded: Mapping[str, EncodedFrames]
) -> None:
    cameras = {camera.name: camera for camera in embodiment.cameras}
    given = {name: frames.shape for name, frames in episode.images.items()}
    for name, frames in episode.images.items():
        if frames.dtype != np.uint8:
            raise ValueError(f"camera {name!r} gave {frames.dtype}, expected uint8")
    for name, frames in encoded.items():
        if name in given:
            raise ValueError(f"camera {name!r} was given twice, decoded and encoded")
        given[name] = (frames.steps, frames.height, frames.width, 3)
    for name, shape in given.items():
        if name not in cameras:
            raise unknown_name(f"camera (embodiment {embodiment.name})", name, cameras)
        expected = (steps, cameras[name].height, cameras[name].width, 3)
        if shape != expected:
            raise ValueError(
                f"camera {name!r} gave uint8{shape}; {embodiment.name} with {steps} steps expects "
                f"uint8{expected}"
            )
    missing = sorted(set(cameras) - set(given))
    if missing:
        raise ValueError(
            f"the episode lacks the frames of {', '.join(missing)}; it has "
            f"{', '.join(sorted(given)) or 'no camera'}"
        )


def _check_depth(episode: Episode, embodiment: Embodiment, steps: int) -> None:
    wanted = {camera.name: camera for camera in embodiment.cameras if camera.depth_unit_m > 0}
    for name, frames in episode.depth.items():
        if name not in wanted:
            raise unknown_name("camera with depth", name, wanted)
        expected = (steps, wanted[name].height, wanted[name].width)
        if frames.dtype != np.uint16 or frames.shape != expected:
            raise ValueError(
                f"depth of camera {name!r} is {frames.dtype}{frames.shape}; expected "
                f"uint16{expected}, in units of {wanted[name].depth_unit_m} m"
            )
    missing = sorted(set(wanted) - set(episode.depth))
    if missing:
        raise ValueError(f"the episode lacks the depth frames of {', '.join(missing)}")


def check_labels(info: Mapping[str, object], subgoals: Sequence[Subgoal], steps: int) -> None:
    """Raise ValueError if labels of an episode of `steps` steps cannot be stored."""
    for key, value in info.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, str | int | float | bool) or not finite:
            raise ValueError(f"info {key!r} is {value!r}; expected text, a number or true/false")
    for subgoal in subgoals:
        if not 0 <= subgoal.start < subgoal.stop <= steps:
            raise ValueError(
                f"subgoal {subgoal.instruction!r} covers the steps {subgoal.start} to "
                f"{subgoal.stop} of an episode of {steps}"
            )
    for one, other in pairwise(subgoals):
        if other.start < one.stop:
            raise ValueError(
                f"subgoal {other.instruction!r} begins at step {other.start}, before "
                f"{one.instruction!r} ends at {one.stop}; give them in order, without overlap"
            )
