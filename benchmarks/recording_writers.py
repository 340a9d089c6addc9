"""One way of recording in a process of its own: episodes in, everything on the disk, one JSON line.

    python recording_writers.py '{"writer": "ulna", "data": "...", "out": "...", "episodes": 3}'

        ulna, ulna_clip, ulna_lossless    Writer.add_episode, synced to the disk, by image codec
        ulna_recorder                     Recorder.add_step, as fast as it takes steps
        lerobot, lerobot_streaming        add_frame, save_episode, finalize, as lerobot-record
        diffusion_policy                  ReplayBuffer.add_episode with its default compressor

Next: `recording.py` (the comparison).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from loader_data import CAMERAS, SIZE, Raw, read_raw
from loader_formats import (
    episodes_of,
    ulna_episode,
    write_lerobot,
    write_replay_buffer,
    write_ulna,
)
from loader_measure import cpu_s


@dataclass(frozen=True)
class Recorded:
    """What recording the episodes took."""

    steps_per_s: float
    cpu_ms: float
    """Per step, of all threads and processes."""
    bytes_per_frame: float


def record_steps(raw: Raw, path: Path) -> None:
    """Every step by itself; a step that finds the queue full is offered again."""
    from ulna.datasets.recorder import Recorder
    from ulna.datasets.store import Store
    from ulna.datasets.writer import Writer
    from ulna.envs.robosuite_env import embodiment_of

    Store.create(path, embodiment_of("near", SIZE))
    frames = {camera: raw.frames(camera) for camera in CAMERAS}
    with Writer(path) as writer, Recorder(writer) as recorder:
        for index, rows in episodes_of(raw):
            episode = ulna_episode(raw, index, rows, frames)
            recorder.begin(episode.instruction, episode.task, episode.seed)
            for step in range(episode.steps):
                images = {camera: rows[step] for camera, rows in episode.images.items()}
                streams = {name: rows[step] for name, rows in episode.streams.items()}
                while not recorder.add_step(images, streams):
                    time.sleep(0.002)
            recorder.end()


WRITERS: dict[str, Callable[[Raw, Path], None]] = {
    "ulna": lambda raw, path: write_ulna(raw, path, "jpeg95"),
    "ulna_clip": lambda raw, path: write_ulna(raw, path, "clip"),
    "ulna_lossless": lambda raw, path: write_ulna(raw, path, "lossless"),
    "ulna_recorder": record_steps,
    "lerobot": lambda raw, path: write_lerobot(raw, path, streaming=False),
    "lerobot_streaming": lambda raw, path: write_lerobot(raw, path, streaming=True),
    "diffusion_policy": write_replay_buffer,
}


def record(writer: str, data: Path, out: Path, episodes: int) -> Recorded:
    """Record the first `episodes` raw episodes into `out`."""
    raw = read_raw(data).first(episodes)
    for camera in CAMERAS:
        raw.frames(camera).max()  # from the disk into memory, before the clock starts
    # Loading libraries is not recording: one episode of a few steps first.
    WRITERS[writer](raw.first(1, steps=4), out / "warm_up")
    cpu_before, began = cpu_s(), time.perf_counter()
    WRITERS[writer](raw, out / "recorded")
    wall, cpu = time.perf_counter() - began, cpu_s() - cpu_before
    size = sum(file.stat().st_size for file in (out / "recorded").rglob("*") if file.is_file())
    return Recorded(raw.steps / wall, 1e3 * cpu / raw.steps, size / (raw.steps * len(CAMERAS)))


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    found = record(
        request["writer"], Path(request["data"]), Path(request["out"]), request["episodes"]
    )
    print(json.dumps(asdict(found)), flush=True)
    os._exit(0)
