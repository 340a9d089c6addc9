"""The raw episodes in everybody's format, each written by its own library.

        ulna_jpeg95.zarr, ulna_jpeg90.zarr, ...    Ulna's store, one per image codec
        jpeg95.blobs                               the same frames as bare JPEGs
        lerobot/                                   LeRobotDataset v3, its writer and defaults
        diffusion_policy.zarr                      ReplayBuffer, its writer under zarr 2

A format is there when its `<name>.json` is. Next: `loader_competitors.py` (who reads them).
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from loader_data import CAMERAS, CONTROL_HZ, SIZE, Raw, read_raw, write_note
from rich.progress import track

ULNA_FORMATS = ("ulna_jpeg95", "ulna_jpeg90", "ulna_jpeg80", "ulna_clip", "ulna_lossless")
FORMATS = (*ULNA_FORMATS, "jpeg95_blobs", "lerobot", "diffusion_policy")


@dataclass(frozen=True)
class Written:
    """What writing a format took."""

    image_bytes_per_frame: float


def written(data: Path, name: str) -> Written | None:
    """How a format was written; None if it is not there."""
    note = data / f"{name}.json"
    return Written(**json.loads(note.read_text())) if note.exists() else None


def write_format(data: Path, name: str) -> Written:
    """Write one format, unless it is there; `diffusion_policy` only inside its own interpreter."""
    found = written(data, name)
    if found is not None:
        return found
    raw = read_raw(data)
    write, target, pictures = _writer_of(data, name)
    if target.is_dir():
        shutil.rmtree(target)
    print(f"write {name}", flush=True)
    write(raw, target)
    size = sum(path.stat().st_size for path in target.parent.glob(pictures) if path.is_file())
    result = Written(size / (raw.steps * len(CAMERAS)))
    write_note(data / f"{name}.json", asdict(result))
    return result


def _writer_of(data: Path, name: str) -> tuple[Callable[[Raw, Path], None], Path, str]:
    """How to write a format, where, and which files hold its pictures."""
    if name in ULNA_FORMATS:
        codec = name.removeprefix("ulna_")
        target = data / f"{name}.zarr"
        return (
            lambda raw, path: write_ulna(raw, path, codec),
            target,
            f"{name}.zarr/segments/*/images/**/*",
        )
    if name == "jpeg95_blobs":
        return _write_blobs, data / "jpeg95.blobs", "jpeg95.blobs"
    if name == "lerobot":
        return (lambda raw, path: write_lerobot(raw, path)), data / name, "lerobot/videos/**/*"
    if name == "diffusion_policy":
        target = data / "diffusion_policy.zarr"
        return write_replay_buffer, target, "diffusion_policy.zarr/data/camera_*/*"
    raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")


def episodes_of(raw: Raw) -> Iterator[tuple[int, slice]]:
    for index, (start, length) in enumerate(zip(raw.starts, raw.lengths, strict=True)):
        yield index, slice(int(start), int(start) + length)


def write_ulna(raw: Raw, path: Path, codec: str) -> None:
    from ulna.datasets.image_codec import Clip, Jpeg, Lossless
    from ulna.datasets.store import Store
    from ulna.datasets.writer import Writer
    from ulna.envs.robosuite_env import embodiment_of

    qualities = {f"jpeg{quality}": Jpeg(quality) for quality in (95, 90, 80)}
    codecs = {**qualities, "clip": Clip(), "lossless": Lossless()}
    Store.create(path, embodiment_of("near", SIZE))
    frames = {camera: raw.frames(camera) for camera in CAMERAS}
    with Writer(path, image_codec=codecs[codec]) as writer:
        for index, rows in track(list(episodes_of(raw)), codec):
            writer.add_episode(ulna_episode(raw, index, rows, frames))


def ulna_episode(raw: Raw, index: int, rows: slice, frames: dict[str, np.ndarray]):
    """One episode as Ulna's writer takes it."""
    from ulna.datasets.schema import Episode

    time_ns = np.arange(rows.stop - rows.start, dtype=np.int64) * (10**9 // CONTROL_HZ)
    numbers = {name: raw.numbers(name)[rows] for name in ("state", "action")}
    return Episode(
        images={camera: np.asarray(all_frames[rows]) for camera, all_frames in frames.items()},
        streams={**numbers, "time_ns": time_ns},
        instruction=raw.instructions[index],
        task=raw.tasks[index],
        seed=raw.seeds[index],
        success=None,
    )


def _write_blobs(raw: Raw, path: Path) -> None:
    """Frames `camera, step` as JPEGs end to end, and where each begins."""
    import simplejpeg

    ends = [0]
    with path.open("wb") as file:
        for camera in CAMERAS:
            for frame in track(raw.frames(camera), f"jpeg {camera}"):
                file.write(simplejpeg.encode_jpeg(frame, quality=95, colorsubsampling="420"))
                ends.append(file.tell())
    np.array(ends, np.int64).tofile(path.with_suffix(".offsets"))


def read_blobs(data: Path) -> list[bytes]:
    """Every JPEG: all of the first camera, then all of the second."""
    everything = (data / "jpeg95.blobs").read_bytes()
    offsets = np.fromfile(data / "jpeg95.offsets", np.int64)
    return [everything[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def lerobot_features(raw: Raw, size: tuple[int, int] = (SIZE, SIZE)) -> dict[str, dict]:
    """The columns of a LeRobotDataset; a camera's key is `observation.images.<camera>`."""
    video = {"dtype": "video", "shape": (*size, 3), "names": ["height", "width", "channels"]}
    widths = {"observation.state": raw.state_dim, "action": raw.action_dim}
    return {f"observation.images.{camera}": video for camera in CAMERAS} | {
        key: {"dtype": "float32", "shape": (width,), "names": [f"{key}_{i}" for i in range(width)]}
        for key, width in widths.items()
    }


def write_lerobot(raw: Raw, path: Path, streaming: bool = False) -> None:
    """As `lerobot-record` does by default, four image threads per camera included."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset.create(
        "ulna/benchmark",
        CONTROL_HZ,
        lerobot_features(raw),
        root=path,
        robot_type="panda",
        image_writer_threads=4 * len(CAMERAS),
        streaming_encoding=streaming,
    )
    frames = {camera: raw.frames(camera) for camera in CAMERAS}
    numbers = {name: raw.numbers(name) for name in ("state", "action")}
    for index, rows in track(list(episodes_of(raw)), "lerobot"):
        for step in range(rows.start, rows.stop):
            row = {f"observation.images.{c}": np.asarray(frames[c][step]) for c in CAMERAS}
            row |= {"observation.state": numbers["state"][step], "action": numbers["action"][step]}
            dataset.add_frame({**row, "task": raw.instructions[index]})
        dataset.save_episode()
    dataset.finalize()


def write_replay_buffer(raw: Raw, path: Path) -> None:
    """Its ReplayBuffer with its default compressor (LZ4), a chunk per frame as its own image
    conversions write. (Their JPEG 2000 is smaller and several times slower to read.)"""
    from diffusion_policy.common.replay_buffer import ReplayBuffer  # type: ignore[import-not-found]

    buffer = ReplayBuffer.create_from_path(str(path), mode="a")
    frames = {camera: raw.frames(camera) for camera in CAMERAS}
    numbers = {name: raw.numbers(name) for name in ("state", "action")}
    chunks = {f"camera_{camera}": (1, SIZE, SIZE, 3) for camera in CAMERAS}
    # A chunk of all steps, as its conversions leave numbers.
    chunks |= {name: rows.shape for name, rows in numbers.items()}
    for _, rows in track(list(episodes_of(raw)), "diffusion_policy"):
        episode = {f"camera_{c}": np.asarray(frames[c][rows]) for c in CAMERAS}
        episode |= {name: all_rows[rows] for name, all_rows in numbers.items()}
        buffer.add_episode(episode, chunks=chunks, compressors="default")


if __name__ == "__main__":  # a process of its own, because formats need different libraries
    write_format(Path(sys.argv[1]), sys.argv[2])
