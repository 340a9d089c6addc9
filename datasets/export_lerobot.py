"""A store as a LeRobotDataset (version 3), which LeRobot's own reader takes.

        plan      one pass over the log: features that all episodes share, texts of tasks, cameras
        episodes  one at a time: rows, pictures, packets of video, statistics
        at last   info.json, and the folder gets its name: it is whole or it is not there

Video that is stored as clips keeps its packets; a camera that was a column of pictures becomes one
again; other frames are encoded as LeRobot does (AV1). Numbers are carried bit for bit. Written
here, not through LeRobot's writer: that one invents timestamps, takes no packets, numbers the
tasks of an episode in the order of a Python set and turns every JPEG into a PNG.

Next: `lerobot_plan.py`, `lerobot_write.py`, `lerobot_video.py`.
"""

import io
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from .commits import EpisodeRecord
from .image_codec import Jpeg
from .lerobot_format import (
    CHUNK_FILES,
    DATA_FILE_MB,
    DATA_PATH,
    MIB,
    VERSION,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    Notes,
    nominal_timestamps,
)
from .lerobot_plan import CameraPlan, Pixels, Plan, make_plan
from .lerobot_tasks import task_stretches
from .lerobot_video import VideoFiles, encode_as_lerobot, packets_of, video_info
from .lerobot_write import (
    DataFiles,
    EpisodeTable,
    Stats,
    arrow_schema,
    column,
    flat_stats,
    write_tasks,
)
from .store import Store

_BLOCK = 32
"""Frames decoded at a time."""
_STATS_FRAMES = 20
"""Frames of an episode that statistics of colours look at, evenly spread."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and what it could not write."""

    path: Path
    episodes: int
    frames: int
    cameras: dict[str, str]
    """How the frames of each camera went: `kept`, `encoded`, `pictures`."""
    losses: tuple[str, ...]
    """What of the store the dataset does not hold, in sentences."""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.episodes} episodes, {self.frames} frames"]
        lines += [f"  camera {name}: {how}" for name, how in self.cameras.items()]
        return "\n".join([*lines, *(f"  not carried over: {loss}" for loss in self.losses)])


def export_lerobot(
    store: Store,
    out: Path | str,
    episodes: Sequence[int] | None = None,
    video: Pixels = "keep",
    fps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write `episodes` (all by default, in this order) of `store` into the new folder `out`.

    `video`: `keep` as said above; `encode`: every camera as AV1; `pictures`: every camera as a
    column of pictures (JPEG as stored, else PNG). `fps`: what the dataset calls its rate, where
    the embodiment's is not a whole number; steps are not resampled. `progress` is told how many
    episodes are done, and of how many.

    Raises ValueError if the store cannot be said in LeRobot's words.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists already; choose another --out")
    chosen = [int(index) for index in store.choose(episodes)]
    plan = make_plan(store, chosen, video, fps)
    partial = out.absolute().parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    (partial / "meta").mkdir(parents=True)
    try:
        frames = _write(store, chosen, plan, partial, progress)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    cameras = {camera.name: camera.how for camera in plan.cameras}
    return ExportReport(out, len(chosen), frames, cameras, plan.losses)


def _write(
    store: Store,
    chosen: Sequence[int],
    plan: Plan,
    root: Path,
    progress: Callable[[int, int], None] | None,
) -> int:
    data = DataFiles(root, arrow_schema(plan.features))
    table, stats = EpisodeTable(root), Stats()
    videos = {
        camera.name: VideoFiles(
            root, VIDEO_PATH, camera.key, plan.fps, camera.codec, int(VIDEO_FILE_MB * MIB)
        )
        for camera in plan.cameras
        if camera.codec is not None
    }
    first = 0
    try:
        for number, index in enumerate(chosen):
            record = store.episodes[index]
            rows, texts = _rows(store, index, record, number, first, plan)
            columns = {
                key: column(values, data.schema.field(key).type) for key, values in rows.items()
            }
            columns |= {key: pa.array(values, pa.string()) for key, values in texts.items()}
            said = {key: stats.add_numbers(key, values) for key, values in rows.items()}
            row: dict[str, Any] = {
                "episode_index": number,
                "tasks": list(dict.fromkeys(text for *_, text in task_stretches(record))),
                "length": record.steps,
                "dataset_from_index": first,
                "dataset_to_index": first + record.steps,
            }
            for camera in plan.cameras:
                if camera.codec is None:
                    columns[camera.key] = _pictures(store, index, camera)
                else:
                    packets = _packets(store, index, camera, plan.fps)
                    row |= videos[camera.name].add(packets, CHUNK_FILES)
                said[camera.key] = stats.add_pictures(camera.key, _sample(store, index, camera))
            for camera, key in plan.depth.items():
                columns[key] = _depth_pictures(store.read(f"depth/{camera}", index))
            row |= data.add(columns)
            table.add(row | flat_stats(said))
            first += record.steps
            if progress is not None:
                progress(number + 1, len(chosen))
    finally:
        data.close()
        table.close()
        for files in videos.values():
            files.close()
    write_tasks(root, plan.tasks)
    _write_json(root / "meta/stats.json", stats.total())
    _write_json(root / "meta/info.json", _info(plan, root, len(chosen), first))
    return first


def _rows(
    store: Store, index: int, record: EpisodeRecord, number: int, first: int, plan: Plan
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The numbers and the texts of an episode, by feature."""
    steps = record.steps
    rows: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    notes = Notes.from_info(record.info)
    for stream, key in plan.streams.items():
        values = store.read(stream, index)
        if plan.features[key]["dtype"] == "string":
            texts[key] = [notes.texts[stream][code] for code in values.tolist()]
        else:
            rows[key] = values
    if plan.success_key:
        rows[plan.success_key] = np.zeros(steps, np.bool_)
        rows[plan.success_key][-1] = bool(record.success)
    stamps = nominal_timestamps(steps, float(plan.fps))
    if plan.own_timestamps and "timestamp" in record.streams:
        stamps = store.read("timestamp", index)
    numbers = {text: task for task, text in enumerate(plan.tasks)}
    tasks = np.empty(steps, np.int64)
    for start, stop, text in task_stretches(record):
        tasks[start:stop] = numbers[text]
    rows["timestamp"] = stamps
    rows["frame_index"] = np.arange(steps)
    rows["episode_index"] = np.full(steps, number)
    rows["index"] = np.arange(first, first + steps)
    rows["task_index"] = tasks
    return rows, texts


def _decoded(store: Store, index: int, camera: CameraPlan) -> Iterator[np.ndarray]:
    steps = store.episodes[index].steps
    for start in range(0, steps, _BLOCK):
        yield from store.read(f"images/{camera.name}", index, start, min(start + _BLOCK, steps))


def _packets(store: Store, index: int, camera: CameraPlan, fps: int) -> list[Any]:
    if camera.how == "kept":
        packets = packets_of(store.read_encoded(camera.name, index))
        if packets is None:
            raise ValueError(
                f"episode {index}, camera {camera.name!r}: its video has frames that are not "
                "stored in the order they are shown; export with --video encode"
            )
        return packets
    return encode_as_lerobot(_decoded(store, index, camera), fps)


def _pictures(store: Store, index: int, camera: CameraPlan) -> pa.Array:
    frames = store.read_encoded(camera.name, index)
    if isinstance(frames.codec, Jpeg):
        return _picture_column([bytes(chunk) for chunk in frames.chunks], "jpg")
    files = [_png(Image.fromarray(pixels)) for pixels in _decoded(store, index, camera)]
    return _picture_column(files, "png")


def _depth_pictures(frames: np.ndarray) -> pa.Array:
    return _picture_column([_png(Image.fromarray(pixels)) for pixels in frames], "png")


def _picture_column(files: Sequence[bytes], ending: str) -> pa.Array:
    paths = [f"frame-{number:06d}.{ending}" for number in range(len(files))]
    arrays = [pa.array(files, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(arrays, names=["bytes", "path"])


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _sample(store: Store, index: int, camera: CameraPlan) -> np.ndarray:
    steps = store.episodes[index].steps
    chosen = np.unique(np.linspace(0, steps - 1, _STATS_FRAMES).astype(int)).tolist()
    return np.concatenate(
        [store.read(f"images/{camera.name}", index, step, step + 1) for step in chosen]
    )


def _info(plan: Plan, root: Path, episodes: int, frames: int) -> dict[str, Any]:
    features = {key: dict(feature) for key, feature in plan.features.items()}
    for camera in plan.cameras:
        if camera.codec is not None:
            path = VIDEO_PATH.format(video_key=camera.key, chunk_index=0, file_index=0)
            features[camera.key]["info"] = video_info(root / path, plan.fps, camera.stored)
    return {
        "codebase_version": VERSION,
        "robot_type": plan.robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": len(plan.tasks),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": plan.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(camera.codec for camera in plan.cameras) else None,
        "features": features,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
