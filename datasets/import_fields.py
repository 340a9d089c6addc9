"""What the importers share: from the named arrays of a source to the streams of an episode.

A store asks for `state` and `action` in float32; sources hold many arrays of many types. The chosen
ones are joined, and whatever joining would change (columns left out, float64) is kept beside them
as a stream of its own, bit for bit.

Next: `import_robomimic.py`, the simplest importer; `import_episodes.py`, which drives them.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import simplejpeg
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from .image_codec import EncodedFrames, Jpeg
from .schema import Camera, Embodiment, Episode, Subgoal, unknown_name


@runtime_checkable
class Source(Protocol):
    """A dataset to import. Every worker process opens its own from the same arguments."""

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def losses(self) -> tuple[str, ...]:
        """What cannot be carried over, in sentences. May grow while episodes are read."""
        ...

    def keys(self) -> Sequence[str]:
        """One key per episode, in order; the same whenever the same data is opened."""
        ...

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        """The episode, and the cameras whose frames need no encoding (not in its `images`)."""
        ...


@dataclass(frozen=True)
class Facts:
    """What a source may not say about itself. None: take what the source says."""

    robot: str | None = None
    """Name of the embodiment."""
    task: str | None = None
    instruction: str | None = None
    """Command of every episode."""
    control_hz: float | None = None
    """Commands per second."""
    state_keys: tuple[str, ...] | None = None
    """Arrays joined into `state`, in order; `agent[:2]` takes the first two columns."""
    action_keys: tuple[str, ...] | None = None
    """Arrays joined into `action`."""
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    """Smallest and largest value the controller obeys, per action entry or one for all."""
    action_meaning: str | None = None
    action_frame: str | None = None
    quaternion_order: Literal["", "wxyz", "xyzw"] | None = None

    def need[T](self, value: T | None, name: str, path: Path, example: str) -> T:
        """`value`, or the error that says which flag gives what the source leaves open."""
        if value is None:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{path} does not say {name!r}; give it with {flag} {example}")
        return value


@dataclass(frozen=True)
class Part:
    """Some columns of one array of the source."""

    key: str
    start: int | None = None
    stop: int | None = None

    @staticmethod
    def parse(text: str) -> "Part":
        match = re.fullmatch(r"([^\[\]]+)(?:\[(\d*):(\d*)\])?", text)
        if match is None:
            raise ValueError(
                f"{text!r} is not a key such as eef_pos, or columns such as state[0:2]"
            )
        start, stop = (int(bound) if bound else None for bound in match.groups()[1:])
        return Part(match[1], start, stop)

    def of(self, rows: Shaped[np.ndarray, "steps ..."]) -> Shaped[np.ndarray, "steps columns"]:
        return rows.reshape(len(rows), -1)[:, self.start : self.stop]

    def changes(self, rows: np.ndarray) -> bool:
        """Whether `of(rows)` in float32 would not hold everything. Depends on the type alone, so
        that all episodes of a source have the same streams."""
        cut = self.start is not None or self.stop is not None
        return cut or rows.ndim != 2 or not np.can_cast(rows.dtype, np.float32, "safe")


def parse_parts(keys: Iterable[str], known: Iterable[str], role: str) -> tuple[Part, ...]:
    """`keys` as parts of existing arrays. Raises ValueError that lists what exists."""
    parts, known = tuple(Part.parse(key) for key in keys), tuple(known)
    for part in parts:
        if part.key not in known:
            raise unknown_name(f"array for --{role}-keys", part.key, known)
    return parts


def joined(
    parts: Sequence[Part], arrays: Mapping[str, np.ndarray]
) -> Float32[np.ndarray, "steps columns"]:
    return np.concatenate([part.of(arrays[part.key]).astype(np.float32) for part in parts], axis=1)


_AXES = {
    r".*quat(ernion)?": {"xyzw": ("qx", "qy", "qz", "qw"), "wxyz": ("qw", "qx", "qy", "qz")},
    r".*(axis_angle|rotvec|ori)": {"": ("rx_rad", "ry_rad", "rz_rad")},
    r".*(eef|ee|tool|tcp)_pos(ition)?": {"": ("x_m", "y_m", "z_m")},
}


def column_names(
    parts: Sequence[Part], arrays: Mapping[str, np.ndarray], quaternion_order: str = ""
) -> tuple[str, ...]:
    """A name per column of `joined(parts, arrays)`; units only where the key tells them."""
    names: list[str] = []
    for part in parts:
        width = int(np.prod(arrays[part.key].shape[1:], dtype=int))
        suffixes = [str(column) for column in range(width)] if width > 1 else [""]
        for pattern, orders in _AXES.items():
            axes = orders.get("", orders.get(quaternion_order))
            if axes is not None and len(axes) == width and re.fullmatch(pattern, part.key.lower()):
                suffixes = list(axes)
        name = part.key.rsplit("/", 1)[-1]
        chosen = suffixes[part.start : part.stop]
        names += [f"{name}_{suffix}" if suffix else name for suffix in chosen]
    return tuple(names)


def stream_names(keys: Iterable[str]) -> dict[str, str]:
    """A stream name for each array of the source: small letters, digits and underscores."""
    names: dict[str, str] = {}
    for key in keys:
        name = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
        if not name[:1].isalpha() or name in ("state", "action", "images", "depth", "sensors"):
            name = f"source_{name}"
        # Names that end in time_ns are capture times in a store; a source may mean another thing.
        name = f"{name}_value" if name.endswith("time_ns") else name
        number = 2
        while name in names.values():
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        names[key] = name
    return names


def streams_of(
    state: Sequence[Part], action: Sequence[Part], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`state`, `action` and a stream for every array they do not hold bit for bit; and what to
    note in `Episode.info` about names."""
    parts = (*state, *action)
    whole = {part.key for part in parts if not part.changes(arrays[part.key])}
    names = stream_names(name for name in arrays if name not in whole)
    streams = {"state": joined(state, arrays), "action": joined(action, arrays)}
    streams.update({stream: arrays[name] for name, stream in names.items()})
    return streams, renamed(names)


def default_keys(
    presets: Sequence[tuple[str, ...]], known: Iterable[str], path: Path, role: str
) -> tuple[str, ...]:
    """The first of the usual choices that the source has in full."""
    known = sorted(known)
    for preset in presets:
        if set(preset) <= set(known):
            return preset
    raise ValueError(
        f"{path} has none of the usual arrays for the {role}; name them, in order, with "
        f"--{role}-keys. Known: {', '.join(known) or 'none'}"
    )


def renamed(names: Mapping[str, str]) -> dict[str, str]:
    """For `Episode.info`: which streams had another name in the source, as JSON."""
    changed = {name: key for key, name in names.items() if name != key}
    return {"source_names": json.dumps(changed)} if changed else {}


def text_runs(texts: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first step, step after the last, text) of every stretch with one text."""
    runs = [(text, len(list(group))) for text, group in groupby(texts)]
    starts = np.cumsum([0, *(length for _, length in runs)]).tolist()
    return [(starts[i], starts[i + 1], text) for i, (text, _) in enumerate(runs)]


def commands(texts: Sequence[str]) -> tuple[str, tuple[Subgoal, ...]]:
    """The instruction of an episode from one text per step; sub-goals if they change."""
    runs = text_runs(texts)
    if len(runs) < 2:
        return texts[0], ()
    return texts[0], tuple(Subgoal(*run) for run in runs)


def frames_of(
    files: Sequence[bytes], where: str
) -> EncodedFrames | UInt8[np.ndarray, "steps height width 3"]:
    """One image file per step as frames. Colour JPEG of one size stays as it is, byte for byte."""
    headers = set()
    for step, data in enumerate(files):
        if not data[:2] == b"\xff\xd8":
            break
        try:
            headers.add(simplejpeg.decode_jpeg_header(data))
        except ValueError as error:
            raise ValueError(f"{where}, step {step}: a damaged JPEG: {error}") from error
    else:
        height, width, colors, subsampling = next(iter(headers))
        if len(headers) == 1 and colors == "YCbCr" and subsampling in ("420", "444"):
            codec = Jpeg(subsampling=subsampling)  # the quality it was made with is not in the file
            return EncodedFrames(codec, len(files), height, width, tuple(files))
    decoded = [decode_image(data, f"{where}, step {step}") for step, data in enumerate(files)]
    shapes = sorted({frame.shape for frame in decoded})
    if len(shapes) > 1:
        raise ValueError(f"{where}: frames of different sizes in one episode: {shapes}")
    return np.stack(decoded)


def decode_image(data: bytes, where: str, mode: str | None = "RGB") -> np.ndarray:
    """An image file as an array; `mode` None keeps grey and 16 bits."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode) if mode else image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{where}: not a readable image ({len(data)} bytes): {error}") from error


def frame_size(frames: "EncodedFrames | np.ndarray") -> tuple[int, int]:
    if isinstance(frames, EncodedFrames):
        return frames.height, frames.width
    return frames.shape[1], frames.shape[2]


def make_embodiment(
    facts: Facts,
    path: Path,
    robot: str,
    control_hz: float | None,
    state_names: tuple[str, ...],
    action_names: tuple[str, ...],
    limits: tuple[Sequence[float], Sequence[float]],
    action_meaning: str,
    cameras: tuple[Camera, ...],
    quaternion_order: str = "",
    limits_seen: bool = True,
) -> Embodiment:
    """The robot of a source, `facts` first. `limits_seen`: they are the range in the data, not
    what the controller obeys; the embodiment then says so."""
    given = (facts.action_low, facts.action_high)
    low, high = (
        tuple(float(value) for value in (limits[i] if side is None else side))
        for i, side in enumerate(given)
    )
    low, high = (side * len(action_names) if len(side) == 1 else side for side in (low, high))
    for name, side in (("--action-low", low), ("--action-high", high)):
        if len(side) != len(action_names):
            raise ValueError(
                f"{name} has {len(side)} numbers; expected 1 or one for each of the "
                f"{len(action_names)} action entries {', '.join(action_names)}"
            )
    meaning = action_meaning if facts.action_meaning is None else facts.action_meaning
    if limits_seen and None in given:
        meaning += "; action_low and action_high are the range seen in the data"
    order = quaternion_order if facts.quaternion_order is None else facts.quaternion_order
    return Embodiment(
        name=facts.robot or robot,
        control_hz=facts.need(facts.control_hz or control_hz, "control_hz", path, "20"),
        state_names=state_names,
        action_names=action_names,
        action_low=low,
        action_high=high,
        action_meaning=meaning,
        cameras=cameras,
        action_frame=facts.action_frame or "",
        quaternion_order="wxyz" if order == "wxyz" else "xyzw" if order == "xyzw" else "",
    )


FACT_NAMES = frozenset(field.name for field in fields(Facts))
