"""What the features of a LeRobotDataset become in a store, decided once for all episodes."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .import_fields import Part
from .lerobot_format import (
    ACTION,
    AUTOMATIC,
    STATE,
    VISION_NAMES,
    Notes,
    camera_of,
    entry_names,
    key_of,
    key_of_camera,
    stream_of,
)
from .schema import Camera

DEPTH_UNIT_M = 1e-3
"""LeRobot's 16-bit depth frames are in millimetres."""


@dataclass(frozen=True)
class Features:
    """The `features` of info.json, sorted by what they are."""

    described: dict[str, dict[str, Any]]
    numeric: dict[str, tuple[tuple[int, ...], np.dtype]] = field(default_factory=dict)
    """Shape of a row and type."""
    texts: list[str] = field(default_factory=list)
    cameras: dict[str, str] = field(default_factory=dict)
    """Feature of each camera."""
    depth: dict[str, str] = field(default_factory=dict)
    """Feature of the depth frames of a camera."""
    others: list[str] = field(default_factory=list)
    streams: dict[str, str] = field(default_factory=dict)
    """Stream of each numeric feature and text, for those that get one of their own."""
    converted: bool = False
    """State and action are in other units than their features, which therefore stay beside them."""

    @staticmethod
    def of(described: dict[str, dict[str, Any]]) -> "Features":
        found = Features(described)
        for key, feature in described.items():
            kind = feature["dtype"]
            if key in AUTOMATIC:
                continue
            if kind in ("video", "image"):
                if is_depth(feature):
                    found.others.append(key)
                else:
                    found.cameras[camera_of(key, set(found.cameras))] = key
            elif kind == "string":
                found.texts.append(key)
            elif kind in np.sctypeDict and np.dtype(kind).kind in "biuf":
                found.numeric[key] = (tuple(feature["shape"]), np.dtype(kind))
            else:
                found.others.append(key)
        for camera, key in found.cameras.items():
            seen = described.get(f"{key}_depth", {})
            if is_depth(seen) and found._fits_store(seen, camera):
                found.depth[camera] = f"{key}_depth"
                found.others.remove(f"{key}_depth")
        for key in (*found.numeric, *found.texts):
            found.streams[key] = found._stream_name(key)
        return found

    def is_whole(self, parts: tuple[Part, ...], usual: str) -> bool:
        """Whether `state` or `action` is one feature, the usual one, and all there is of it."""
        shape, dtype = self.numeric[parts[0].key]
        whole = parts == (Part(usual),) and len(shape) == 1 and dtype == np.float32
        return whole and not self.converted

    def names_of(self, parts: tuple[Part, ...], role: str) -> tuple[str, ...]:
        """A name per entry of `state` or `action`."""
        names: list[str] = []
        for part in parts:
            width = int(np.prod(self.numeric[part.key][0], dtype=int))
            prefix = role if len(parts) == 1 else part.key
            every = entry_names(self.described[part.key].get("names"), width, prefix)
            names += every[part.start : part.stop]
        if len(set(names)) < len(names):
            names = [f"{role}_{index}" for index in range(len(names))]
        return tuple(names)

    def camera(self, name: str) -> Camera:
        key = self.cameras[name]
        shape, names = self.described[key]["shape"], self.described[key].get("names")
        if isinstance(names, list) and {"height", "width"} <= set(names) and len(shape) == 3:
            return Camera(name, shape[names.index("height")], shape[names.index("width")])
        if len(shape) != 3:
            raise ValueError(f"feature {key!r} of frames has shape {shape}; expected three numbers")
        channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
        return Camera(name, *(shape[1:] if channels_first else shape[:2]))

    def cameras_of_robot(self) -> tuple[Camera, ...]:
        return tuple(
            replace(self.camera(name), depth_unit_m=DEPTH_UNIT_M if name in self.depth else 0.0)
            for name in self.cameras
        )

    def _fits_store(self, depth: dict[str, Any], camera: str) -> bool:
        """Whether depth frames are 16-bit pictures, in the unit and size we keep them."""
        size = self.camera(camera)
        millimetres = (depth.get("info") or {}).get("depth_unit") == "mm"
        same_size = sorted(depth["shape"]) == sorted((size.height, size.width, 1))
        return depth["dtype"] == "image" and millimetres and same_size

    def notes(
        self, robot_type: str | None, state: tuple[Part, ...], action: tuple[Part, ...]
    ) -> Notes:
        """What is the same for all episodes and cannot be told from a store."""
        whole = {STATE: self.is_whole(state, STATE), ACTION: self.is_whole(action, ACTION)}
        usual: dict[str, Any] = {
            STATE: list(self.names_of(state, "state")) if whole[STATE] else None,
            ACTION: list(self.names_of(action, "action")) if whole[ACTION] else None,
            **dict.fromkeys(self.cameras.values(), VISION_NAMES),
        }
        kept = [*self.numeric, *self.texts, *self.cameras.values()]
        names = {key: self.described[key].get("names") for key in kept}
        keys = {
            s: key for key, s in self.streams.items() if not whole.get(key) and key_of(s) != key
        }
        keys |= {
            f"images/{camera}": key
            for camera, key in self.cameras.items()
            if key_of_camera(camera) != key
        }
        return Notes(
            robot_type=robot_type,
            names={key: value for key, value in names.items() if value != usual.get(key)},
            keys=keys,
            image_columns=tuple(
                camera
                for camera, key in self.cameras.items()
                if self.described[key]["dtype"] == "image"
            ),
            derived=tuple(key_to_stream(key) for key, is_it in whole.items() if not is_it),
        )

    def _stream_name(self, key: str) -> str:
        if key == "time_ns" and self.numeric.get(key) == ((1,), np.dtype(np.int64)):
            return "time_ns"  # capture times, as our own export writes them
        taken = {"state", "action", "timestamp", "time_ns", *self.streams.values()}
        # The rule would give `state` and `action`, which are made by joining.
        name = stream_of("observation.state_" if key == STATE else key, taken)
        if key == ACTION:
            name = stream_of("action_", taken)
        # In a store, names with this ending mean capture times.
        return f"{name}_value" if name.endswith("time_ns") else name


def key_to_stream(key: str) -> str:
    return "state" if key == STATE else "action"


def is_depth(feature: dict[str, Any]) -> bool:
    said = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(said.get("is_depth_map") or said.get("video.is_depth_map"))
