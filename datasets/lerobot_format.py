"""The words of a LeRobotDataset (version 3), for `import_lerobot.py` and `export_lerobot.py`.

        LeRobot                                     Ulna
        observation.state, action                   streams `state`, `action`
        observation.images.<camera>                 frames of <camera>
        <any.other.key>                             stream `any__other__key`
        timestamp = frame_index / fps               stream `time_ns`
        task                                        instruction, or sub-goals if there are several
        text columns                                stream of codes; the texts in `Notes`

A name that this rule cannot turn back is kept in `Notes`, which travel in the `info` of an episode
with everything else that LeRobot says and a store has no place for; export reads them again.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .strict_json import decode, encode

VERSION = "v3.0"
INFO_KEY = "lerobot"
"""Of `Episode.info`: the Notes, as JSON."""
STATE = "observation.state"
ACTION = "action"
IMAGE_PREFIX = "observation.images."
AUTOMATIC = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that LeRobot fills in itself."""
SUCCESS = "next.success"
VISION_NAMES = ["height", "width", "channels"]

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_FILES = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
MIB = 1 << 20

_RESERVED = {"state", "action", "images", "depth", "sensors"}


@dataclass(frozen=True)
class Notes:
    """What LeRobot knows of an episode and a store has no place for."""

    robot_type: str | None = None
    tasks: dict[str, int] = field(default_factory=dict)
    """`task_index` of each text of this episode."""
    names: dict[str, Any] = field(default_factory=dict)
    """`names` of the features for which they are not the usual ones."""
    keys: dict[str, str] = field(default_factory=dict)
    """Feature of a stream or of `images/<camera>`, where the rule does not give it."""
    image_columns: tuple[str, ...] = ()
    """Cameras that were columns of pictures, not videos."""
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The texts that the codes of a stream stand for."""
    derived: tuple[str, ...] = ()
    """`state` or `action`, where they were made of features that have streams of their own."""

    def to_info(self) -> dict[str, str | int | float | bool]:
        said = {name: value for name, value in encode(self).items() if value}
        return {INFO_KEY: json.dumps(said, ensure_ascii=False)} if said else {}

    @staticmethod
    def from_info(info: dict[str, str | int | float | bool]) -> "Notes":
        """Empty for an episode that did not come from LeRobot."""
        return decode(Notes, json.loads(str(info.get(INFO_KEY, "{}"))), f"info {INFO_KEY!r}")


def stream_of(key: str, taken: set[str]) -> str:
    """Name of the stream for a feature; not one of `taken`."""
    if key == STATE:
        return "state"
    if key == ACTION:
        return "action"
    name = re.sub(r"[^a-z0-9_]", "_", key.replace(".", "__").lower())
    name = name if re.match(r"[a-z]", name) else f"feature_{name}"
    while name in taken or name in _RESERVED:
        name += "_"
    return name


def key_of(stream: str) -> str:
    """Name of the feature for a stream, by the rule."""
    known = {"state": STATE, "action": ACTION}
    return known.get(stream, stream.replace("__", "."))


def camera_of(key: str, taken: set[str]) -> str:
    """Name of the camera for a feature of pictures; not one of `taken`."""
    name = key.removeprefix(IMAGE_PREFIX).removeprefix("observation.")
    name = re.sub(r"[^a-z0-9_]", "_", name.lower())
    name = name if re.match(r"[a-z]", name) else f"camera_{name}"
    while name in taken:
        name += "_"
    return name


def key_of_camera(camera: str) -> str:
    return f"{IMAGE_PREFIX}{camera}"


def entry_names(names: Any, dims: int, prefix: str) -> tuple[str, ...]:
    """One name per entry of a vector, whatever form LeRobot's `names` has."""
    if isinstance(names, dict):
        values = list(names.values())
        if len(values) == 1 and isinstance(values[0], list):
            names = values[0]
        elif all(isinstance(value, int) for value in values):
            names = sorted(names, key=names.__getitem__)
        elif all(isinstance(value, list) for value in values):
            names = [f"{group}.{name}" for group, inner in names.items() for name in inner]
    if isinstance(names, list | tuple) and len(names) == dims and len(set(map(str, names))) == dims:
        return tuple(str(name) for name in names)
    return tuple(f"{prefix}_{index}" for index in range(dims))


def nominal_timestamps(steps: int, fps: float) -> np.ndarray:
    """What LeRobot writes for time: it invents it from the number of the frame."""
    return (np.arange(steps) / fps).astype(np.float32)


def nominal_time_ns(steps: int, fps: float) -> np.ndarray:
    return np.rint(np.arange(steps) * (1e9 / fps)).astype(np.int64)


def runs(values: np.ndarray) -> Sequence[tuple[int, int]]:
    """Half-open stretches in which a column does not change."""
    if not len(values):
        return []
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *(int(edge) for edge in edges), len(values)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))
