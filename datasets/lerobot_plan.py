"""What a store becomes as a LeRobotDataset, decided before anything is written.

A LeRobotDataset has the same features in all episodes; what only some have, and what LeRobot has
no words for, is left out and listed in `Plan.losses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .commits import EpisodeRecord
from .image_codec import Clip
from .lerobot_format import (
    ACTION,
    AUTOMATIC,
    INFO_KEY,
    STATE,
    SUCCESS,
    Notes,
    key_of,
    key_of_camera,
    nominal_time_ns,
    nominal_timestamps,
)
from .lerobot_tasks import task_order, task_stretches
from .lerobot_video import SMALLEST_AV1, coded_size, packets_of
from .lerobot_write import depth_feature, number_feature, picture_feature
from .schema import Camera, unknown_name
from .store import Store
from .video_codec import VideoCodec

Pixels = Literal["keep", "encode", "pictures"]
_TOLERANCE_S = 1e-4
"""How far LeRobot lets a timestamp be from that of a frame of video."""
_MM = 1e-3
_MOST_AXES = 5
_BOOKKEEPING = {INFO_KEY, "source", "source_key"}


@dataclass(frozen=True)
class CameraPlan:
    """How the frames of one camera go into the dataset."""

    name: str
    key: str
    how: Literal["kept", "encoded", "pictures"]
    codec: VideoCodec | None
    """Of the video; None: a column of pictures."""
    stored: Clip | None = None
    """What kept video was encoded with, as far as the store knows."""


@dataclass(frozen=True)
class Plan:
    """What an export writes."""

    fps: int
    robot_type: str | None
    features: dict[str, dict[str, Any]]
    streams: dict[str, str]
    """Feature of each stream that is carried over."""
    success_key: str
    """Feature to write the success of episodes into; empty: none."""
    own_timestamps: bool
    """Whether a stream `timestamp` says when steps happened."""
    cameras: tuple[CameraPlan, ...]
    depth: dict[str, str]
    """Feature of the depth frames of cameras."""
    tasks: tuple[str, ...]
    losses: tuple[str, ...]


def make_plan(store: Store, chosen: Sequence[int], video: Pixels, fps: int | None) -> Plan:
    """Looks at the log, and at the times, of the chosen episodes."""
    if video not in ("keep", "encode", "pictures"):
        raise unknown_name("choice for video", video, ["keep", "encode", "pictures"])
    if not chosen:
        raise ValueError(f"{store.location} has no episodes to export")
    rate = _whole_rate(store, fps)
    records = [store.episodes[index] for index in chosen]
    every = [Notes.from_info(record.info) for record in records]
    notes = every[0]
    losses: list[str] = []
    streams, success_key = _streams(store, chosen, records, every, rate, losses)
    features = _number_features(store, records[0], notes, streams)
    texts = {name for name in streams if all(name in one.texts for one in every)}
    for name in texts:
        features[streams[name]] |= {"dtype": "string"}
    if success_key:
        features[success_key] = number_feature("bool", (), None)
    cameras = tuple(
        _camera_plan(store, chosen, records, camera, notes, video, losses)
        for camera in store.embodiment.cameras
    )
    for camera in cameras:
        size = store.embodiment.camera(camera.name)
        feature = picture_feature(size.height, size.width, notes.names.get(camera.key))
        features[camera.key] = feature | ({"dtype": "video"} if camera.codec else {})
    depth = _depth(store, features, losses)
    own_timestamps = _own_timestamps(store, chosen, records, cameras, rate, losses)
    for name in AUTOMATIC:
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = number_feature(dtype, (), None)
    tasks = task_order(records, every, losses)
    _note_losses(store, records, losses)
    robot_type = notes.robot_type if len({one.robot_type for one in every}) == 1 else None
    return Plan(
        fps=rate,
        robot_type=robot_type or store.embodiment.name,
        features=features,
        streams=streams,
        success_key=success_key,
        own_timestamps=own_timestamps,
        cameras=cameras,
        depth=depth,
        tasks=tasks,
        losses=tuple(dict.fromkeys(losses)),
    )


def _whole_rate(store: Store, fps: int | None) -> int:
    rate = store.embodiment.control_hz
    if fps is None and rate != int(rate):
        raise ValueError(
            f"LeRobot knows whole frames per second only and {store.embodiment.name} runs at "
            f"{rate:g} Hz; say with --fps what the dataset is to be called "
            f"({round(rate)} is nearest, steps are not resampled)"
        )
    if fps is not None and fps < 1:
        raise ValueError(f"{fps} frames per second; expected 1 or more")
    return int(rate) if fps is None else fps


def _streams(
    store: Store,
    chosen: Sequence[int],
    records: Sequence[EpisodeRecord],
    every: Sequence[Notes],
    rate: int,
    losses: list[str],
) -> tuple[dict[str, str], str]:
    """Feature of every stream to carry over, and of success if it needs one."""
    first = records[0]
    names = [name for name in first.streams if "/" not in name and name != "timestamp"]
    names = [name for name in names if not all(name in notes.derived for notes in every)]
    kinds = {name: (first.streams[name].dtype, first.streams[name].shape) for name in names}
    for record in records[1:]:
        for name in sorted({n for n in record.streams if "/" not in n} - {"timestamp", *kinds}):
            losses.append(f"stream {name!r}, which not all episodes have")
        for name in list(kinds):
            there = record.streams.get(name)
            if there is None or (there.dtype, there.shape) != kinds[name]:
                losses.append(f"stream {name!r}, which not all episodes have, of one shape")
                del kinds[name]
    for name in [name for name, (_, shape) in kinds.items() if len(shape) > _MOST_AXES]:
        losses.append(f"stream {name!r}, which has more than {_MOST_AXES} axes")
        del kinds[name]
    if "time_ns" in kinds and _times_say_nothing(store, chosen, records, rate):
        del kinds["time_ns"]
    elif "time_ns" in kinds:
        losses.append(
            f"capture times as the times of LeRobot, which are the number of the frame / {rate}; "
            "they are in the column time_ns, which its tools do not look at"
        )
    keys = {
        name: next((n.keys[name] for n in every if name in n.keys), key_of(name)) for name in kinds
    }
    # The usual two first, as people expect them.
    order = sorted(kinds, key=lambda name: (name != "state", name != "action"))
    known = [record.success is not None for record in records]
    if any(known) and not all(known):
        losses.append("success, which is known of some episodes only")
    needs = all(known) and SUCCESS not in keys.values()
    return {name: keys[name] for name in order}, SUCCESS if needs else ""


def _times_say_nothing(
    store: Store, chosen: Sequence[int], records: Sequence[EpisodeRecord], rate: int
) -> bool:
    """Whether all `time_ns` follow from what LeRobot gets anyway."""
    for index, record in zip(chosen, records, strict=True):
        times = store.read("time_ns", index)
        if "timestamp" in record.streams:
            stamps = store.read("timestamp", index).astype(np.float64)
            expected = np.rint(stamps * 1e9).astype(np.int64)
        else:
            expected = nominal_time_ns(record.steps, float(rate))
        if not np.array_equal(times, expected):
            return False
    return True


def _number_features(
    store: Store, record: EpisodeRecord, notes: Notes, streams: dict[str, str]
) -> dict[str, dict[str, Any]]:
    usual = {
        STATE: list(store.embodiment.state_names),
        ACTION: list(store.embodiment.action_names),
    }
    features = {}
    for name, key in streams.items():
        described = record.streams[name]
        names = notes.names[key] if key in notes.names else usual.get(key)
        features[key] = number_feature(described.dtype, described.shape, names)
    return features


def _camera_plan(
    store: Store,
    chosen: Sequence[int],
    records: Sequence[EpisodeRecord],
    camera: Camera,
    notes: Notes,
    video: Pixels,
    losses: list[str],
) -> CameraPlan:
    stream = f"images/{camera.name}"
    key = notes.keys.get(stream, key_of_camera(camera.name))
    codecs = {store.layout(stream, record).codec for record in records}
    was_pictures = camera.name in notes.image_columns
    if video == "pictures" or (video == "keep" and was_pictures):
        return CameraPlan(camera.name, key, "pictures", None)
    if video == "keep" and all(isinstance(codec, Clip) for codec in codecs):
        clips = [codec for codec in codecs if isinstance(codec, Clip)]
        kinds: set[VideoCodec] = {clip.codec for clip in clips}
        packets = packets_of(store.read_encoded(camera.name, chosen[0]))
        if len(kinds) == 1 and packets is not None:
            kind = kinds.pop()
            if coded_size(packets, kind) == (camera.height, camera.width):
                return CameraPlan(camera.name, key, "kept", kind, clips[0])
    if camera.height % 2 or camera.width % 2 or min(camera.height, camera.width) < SMALLEST_AV1:
        return CameraPlan(camera.name, key, "pictures", None)
    losses.append(f"the exact pixels of camera {camera.name!r}, encoded as AV1 like LeRobot does")
    return CameraPlan(camera.name, key, "encoded", "av1")


def _depth(store: Store, features: dict[str, dict[str, Any]], losses: list[str]) -> dict[str, str]:
    found = {}
    for camera in store.embodiment.cameras:
        if camera.depth_unit_m == _MM:
            found[camera.name] = f"{key_of_camera(camera.name)}_depth"
            features[found[camera.name]] = depth_feature(camera.height, camera.width)
        elif camera.depth_unit_m > 0:
            losses.append(
                f"depth of camera {camera.name!r} in units of {camera.depth_unit_m} m; LeRobot's "
                "pictures of depth are in millimetres"
            )
    return found


def _own_timestamps(
    store: Store,
    chosen: Sequence[int],
    records: Sequence[EpisodeRecord],
    cameras: Sequence[CameraPlan],
    rate: int,
    losses: list[str],
) -> bool:
    """Whether the stream `timestamp` can be LeRobot's, which finds frames of video by it."""
    own = [i for i, record in zip(chosen, records, strict=True) if "timestamp" in record.streams]
    if any(camera.codec is not None for camera in cameras):
        for index in own:
            stamps = store.read("timestamp", index)
            off = np.abs(stamps - nominal_timestamps(len(stamps), float(rate))).max()
            if off > _TOLERANCE_S:
                losses.append(
                    f"the stream 'timestamp': it is up to {off:.4f} s from the frames of video, "
                    f"and LeRobot refuses more than {_TOLERANCE_S} s"
                )
                return False
    return bool(own)


def _note_losses(store: Store, records: Sequence[EpisodeRecord], losses: list[str]) -> None:
    """What LeRobot has no words for."""
    if any(record.paraphrases for record in records):
        losses.append("other wordings of the instructions")
    if any(
        record.subgoals and record.instruction not in {text for *_, text in task_stretches(record)}
        for record in records
    ):
        losses.append("the instruction of episodes whose sub-goals say something else throughout")
    sensors = {
        name.split("/")[1] for r in records for name in r.streams if name.startswith("sensors/")
    }
    if sensors:
        losses.append(f"sensors with a rate of their own: {', '.join(sorted(sensors))}")
    info = {key for record in records for key in record.info} - _BOOKKEEPING
    if info:
        losses.append(f"info of episodes: {', '.join(sorted(info))}")
    if any(not Notes.from_info(record.info).tasks for record in records):
        losses.append("task name and seed of episodes")
    losses.append(
        "of the embodiment: limits and meaning of actions, frame, order of quaternions, joint "
        "limits, calibration of cameras"
    )
    losses.append("the history of the store (versions, edits)")
