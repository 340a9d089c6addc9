"""LeRobotDataset (version 3) as a source of episodes; LeRobot itself is not needed.

        meta/      info.json, stats.json, tasks.parquet, episodes/*/*.parquet
        data/      */*.parquet: numbers, texts and pictures, row after row
        videos/    <feature>/*/*.mp4: many episodes in one file

What goes where stands in `lerobot_format.py`. LeRobot does not record when a step happened: its
`timestamp` is the number of the frame divided by the rate, and `time_ns` is no better. Times that
are not of that kind are kept exactly, as a stream `timestamp`.

Pixels are kept as they are by default: video packets without decoding them, JPEG byte for byte,
PNG without loss. `video="jpeg"` decodes once, here, for training that reads frames at random.

Next: `lerobot_tables.py` (the files), `export_lerobot.py` (back again).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from .image_codec import Clip, EncodedFrames, ImageCodec, Jpeg, Lossless, encode_frames
from .import_fields import (
    Facts,
    Part,
    commands,
    decode_image,
    frames_of,
    joined,
    make_embodiment,
    parse_parts,
)
from .lerobot_features import Features, is_depth
from .lerobot_format import ACTION, STATE, SUCCESS, nominal_time_ns, nominal_timestamps
from .lerobot_joints import JointUnit, in_radians
from .lerobot_tables import Tables, coded_texts, column_array, is_dataset, picture_files
from .lerobot_video import Kept, VideoReader
from .schema import Embodiment, Episode, unknown_name

LOOKED_FOR = "a folder with meta/info.json that names codebase_version and features"

Pixels = Literal["keep", "jpeg", "clip"]
_CODECS: dict[str, ImageCodec] = {"jpeg": Jpeg(), "clip": Clip()}

_INT = np.dtype(np.int64)
_NO_FACTS = Facts()


def recognise(path: Path) -> bool:
    return path.is_dir() and is_dataset(path)


class LeRobotSource:
    """The episodes of one dataset on this machine."""

    def __init__(
        self,
        path: Path | str,
        facts: Facts = _NO_FACTS,
        video: Pixels = "keep",
        pictures: Pixels = "keep",
        joint_unit: JointUnit | None = None,
    ) -> None:
        """`video`: `keep` takes the packets as they are where their keyframes allow it, and
        encodes JPEG where not; `jpeg` and `clip` (H.264) decode and encode anew. `pictures`: the
        same for columns of pictures, where `keep` never loses anything. `joint_unit`: of joint
        positions in the data; they become rad (`lerobot_joints.py`), and the columns as they are
        stay beside them. None: numbers stay what they are."""
        for name, choice in (("video", video), ("pictures", pictures)):
            if choice not in ("keep", *_CODECS):
                raise unknown_name(f"choice for {name}", choice, ["keep", *_CODECS])
        self.path = Path(path)
        self._tables = Tables(self.path)
        self._features = replace(
            Features.of(self._tables.features), converted=joint_unit is not None
        )
        self._facts = facts
        self._video, self._pictures = video, pictures
        self._state = self._parts(facts.state_keys, STATE, "state")
        self._action = self._parts(facts.action_keys, ACTION, "action")
        self._names, self._scales = {}, {}
        for role, parts in (("state", self._state), ("action", self._action)):
            names = self._features.names_of(parts, role)
            self._names[role], self._scales[role] = names, np.ones(len(names))
            if joint_unit is not None:
                low, high = self._extent(parts)
                self._names[role], self._scales[role] = in_radians(names, low, high, role)
        self._joint_unit = joint_unit
        self._notes = self._features.notes(
            self._tables.info.get("robot_type"), self._state, self._action
        )
        self._losses = dict.fromkeys(self._known_losses())
        self._readers: dict[str, VideoReader] = {}
        self.embodiment = self._embodiment()

    @property
    def losses(self) -> tuple[str, ...]:
        """Grows while episodes are read."""
        return tuple(self._losses)

    def keys(self) -> Sequence[str]:
        """The numbers of the episodes."""
        return [f"{number:06d}" for number in self._tables.episode_numbers]

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        number = int(key)
        table = self._tables.episode(number)
        steps = len(table)
        arrays = {
            name: column_array(table, name, shape, dtype)
            for name, (shape, dtype) in self._features.numeric.items()
        }
        streams = self._streams(arrays) | self._times(table, steps)
        texts: dict[str, tuple[str, ...]] = {}
        for name in self._features.texts:
            stream = self._features.streams[name]
            streams[stream], texts[stream] = coded_texts(table, name)
        tasks = [self._task(int(task), key) for task in column_array(table, "task_index", (), _INT)]
        instruction, subgoals = commands([text for text, _ in tasks])
        episode = Episode(
            images={},
            streams=streams,
            instruction=self._facts.instruction or instruction,
            task=self._facts.task or self.path.resolve().name,
            seed=number,  # so that a store has the episodes in the order they have here
            success=bool(arrays[SUCCESS].any()) if SUCCESS in arrays else None,
            info=replace(self._notes, tasks=dict(tasks), texts=texts).to_info(),
            depth={camera: _depth(table, key) for camera, key in self._features.depth.items()},
            subgoals=subgoals,
        )
        return episode, {
            camera: self._frames(camera, table, number, steps) for camera in self._features.cameras
        }

    def _parts(self, keys: tuple[str, ...] | None, usual: str, role: str) -> tuple[Part, ...]:
        numeric = self._features.numeric
        if keys is None and usual not in numeric:
            raise ValueError(
                f"{self.path} has no feature {usual!r}; name the features that make the {role} "
                f"with --{role}-keys. It has: {', '.join(sorted(numeric)) or 'no numbers'}"
            )
        return parse_parts(keys or (usual,), numeric, role)

    def _streams(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        streams = {"state": joined(self._state, arrays), "action": joined(self._action, arrays)}
        if self._joint_unit is not None:
            for role, scales in self._scales.items():
                streams[role] = (streams[role] * scales).astype(np.float32)
        held = {
            STATE: self._features.is_whole(self._state, STATE),
            ACTION: self._features.is_whole(self._action, ACTION),
        }
        for key, rows in arrays.items():
            if not held.get(key):
                shape = self._features.numeric[key][0]
                streams[self._features.streams[key]] = rows[:, 0] if shape == (1,) else rows
        return streams

    def _times(self, table: pa.Table, steps: int) -> dict[str, np.ndarray]:
        """`time_ns`, and `timestamp` where it says more than the number of the frame."""
        stamps = column_array(table, "timestamp", (), np.dtype(np.float32))
        nominal = np.array_equal(stamps, nominal_timestamps(steps, self._tables.fps))
        streams = {} if nominal else {"timestamp": stamps}
        if "time_ns" in self._features.streams:
            return streams
        if nominal:
            return {"time_ns": nominal_time_ns(steps, self._tables.fps)}
        if (np.diff(stamps) >= 0).all():
            streams["time_ns"] = np.rint(stamps.astype(np.float64) * 1e9).astype(np.int64)
        return streams

    def _task(self, task: int, key: str) -> tuple[str, int]:
        if task not in self._tables.tasks:
            raise ValueError(
                f"episode {key} refers to task {task}; meta/tasks.parquet has "
                f"{sorted(self._tables.tasks)}"
            )
        return self._tables.tasks[task], task

    def _frames(self, camera: str, table: pa.Table, number: int, steps: int) -> EncodedFrames:
        key = self._features.cameras[camera]
        size = self._features.camera(camera)
        where = f"episode {number}, {key}"
        if self._features.described[key]["dtype"] == "image":
            return self._from_pictures(picture_files(table, key, where), where)
        file = self._tables.video_file(number, key)
        reader = self._readers.setdefault(camera, VideoReader())
        first = round(file.from_s * self._tables.fps)  # as LeRobot itself finds it
        codec: ImageCodec = _CODECS.get(self._video, Jpeg())
        if self._video == "keep":
            kept = reader.kept_clips(file.path, first, steps)
            if not isinstance(kept, str):
                clip = self._clip_codec(key, kept)
                return EncodedFrames(clip, steps, size.height, size.width, kept.chunks)
            self._losses[f"the exact pixels of {key!r}, encoded as {codec}: {kept}"] = None
        return _encoded(codec, reader.decoded(file.path, first, steps), steps, where)

    def _clip_codec(self, key: str, kept: Kept) -> Clip:
        """With what the dataset says its video was encoded with, where that can be."""
        said = self._features.described[key].get("info") or {}
        crf, preset = said.get("video.crf"), said.get("video.preset")
        try:
            return Clip(
                kept.codec,
                kept.frames_per_chunk,
                crf if isinstance(crf, int) else None,
                None if preset is None else str(preset),
            )
        except ValueError:
            return Clip(kept.codec, kept.frames_per_chunk)

    def _from_pictures(self, files: list[bytes], where: str) -> EncodedFrames:
        if self._pictures in ("keep", "jpeg") and files[0][:2] == b"\xff\xd8":
            frames = frames_of(files, where)
            if isinstance(frames, EncodedFrames):
                return frames
        codec = _CODECS.get(self._pictures, Lossless())
        pictures = (decode_image(file, where) for file in files)
        return _encoded(codec, pictures, len(files), where)

    def _embodiment(self) -> Embodiment:
        low, high = (end * self._scales["action"] for end in self._extent(self._action))
        known = "which says neither units nor frame"
        if self._joint_unit is not None:
            known = f"joints from {self._joint_unit} to rad, gripper 0..100"
        return make_embodiment(
            self._facts,
            self.path,
            robot=self._tables.info.get("robot_type") or "unknown",
            control_hz=self._tables.fps,
            state_names=self._names["state"],
            action_names=self._names["action"],
            limits=(low.tolist(), high.tolist()),
            action_meaning=f"{', '.join(part.key for part in self._action)} of a LeRobotDataset, "
            f"{known}",
            cameras=self._features.cameras_of_robot(),
        )

    def _extent(self, parts: tuple[Part, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest of each entry in the data, as it is there."""
        bounds = [self._bounds(part) for part in parts]
        return np.concatenate([b[0] for b in bounds]), np.concatenate([b[1] for b in bounds])

    def _bounds(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Range of some entries of a feature in the data."""
        width = int(np.prod(self._features.numeric[part.key][0], dtype=int))
        said = self._tables.stats.get(part.key, {})
        low, high = (np.ravel(said.get(name, ())).astype(np.float64) for name in ("min", "max"))
        if len(low) != width or len(high) != width:
            low, high = self._tables.rows.extent(part.key, width)
        return low[part.start : part.stop], high[part.start : part.stop]

    def _known_losses(self) -> Iterable[str]:
        info, described = self._tables.info, self._features.described
        for key in self._features.others:
            kind = "depth frames" if is_depth(described[key]) else "column"
            yield f"the {kind} {key!r} of type {described[key]['dtype']!r}"
        for key in self._features.cameras.values():
            said = described[key].get("info") or {}
            if said.get("has_audio"):
                yield f"the sound in the videos of {key!r}"
            if self._video != "keep" and described[key]["dtype"] == "video":
                yield f"the exact pixels of {key!r}: its video is encoded anew as {self._video}"
            if self._pictures != "keep" and described[key]["dtype"] == "image":
                yield f"the exact pixels of {key!r}: they are encoded as {self._pictures}"
        episodes = len(self._tables.episode_numbers)
        if info.get("splits", {}) not in ({}, {"train": f"0:{episodes}"}):
            yield f"the splits {info['splits']}"
        if info.get("tools"):
            yield "the tool schemas of info.json"
        yield "meta/stats.json: a store computes its statistics from the data"


def _encoded(
    codec: ImageCodec, frames: Iterable[np.ndarray], steps: int, where: str
) -> EncodedFrames:
    """Chunk by chunk: a long episode of large frames does not fit into memory decoded."""
    chunks = []
    shapes = set()
    for some in batched(frames, codec.frames_per_chunk):
        shapes |= {frame.shape for frame in some}
        if len(shapes) > 1:
            raise ValueError(f"{where}: frames of different sizes: {sorted(shapes)}")
        chunks.append(encode_frames(codec, np.stack(some)))
    height, width, _ = shapes.pop()
    return EncodedFrames(codec, steps, height, width, tuple(chunks))


def _depth(table: pa.Table, key: str) -> np.ndarray:
    files = picture_files(table, key, key)
    frames = np.stack([decode_image(file, key, mode=None) for file in files])
    if frames.dtype.kind not in "iu" or frames.min() < 0 or frames.max() > 65535:
        raise ValueError(f"{key} holds {frames.dtype} pictures; expected 16-bit millimetres")
    return frames.astype(np.uint16)
