"""Video in the store against LeRobot's: bytes, quality, and the cost of decoding every frame.

    uv run python benchmarks/clips.py [--data FOLDER]       after loader.py, whose episodes it reads

Both read all frames of some episodes in order, in one thread, which is the best case of LeRobot's
files (sorted requests, no seeking). Ours are H.264 clips of 8 frames at the defaults, theirs what
`LeRobotDataset` 0.6.1 writes (AV1, g=2, crf 30). CPU time, in turn, medians over the repeats.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tyro
from competitor_environment import environment
from loader_competitors import CAMERAS, _video_decoder
from loader_data import default_folder, read_raw
from loader_formats import written
from record import Benchmark

from ulna.datasets.store import Store

BATCH = 64
"""Frames per request to LeRobot's files."""


def main(repeats: int = 7, episodes: int = 20, data: Path | None = None) -> None:
    """Measure, print a table, store the result.

    Args:
        repeats: How often each is measured.
        episodes: How many of the episodes are decoded.
        data: Folder of the benchmark's episodes (see loader.py).
    """
    folder = data or default_folder()
    for name in ("ulna_clip", "lerobot"):
        if written(folder, name) is None:
            raise ValueError(f"{folder} has no {name} data; run benchmarks/loader.py first")
    if "LD_LIBRARY_PATH" not in os.environ or os.environ.get("ULNA_CLIPS") != "1":
        # torchcodec finds its FFmpeg only through the environment of a new process.
        where = {**environment("lerobot", folder, None), "ULNA_CLIPS": "1"}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=where).returncode)
    benchmark = Benchmark("clips", quick=False)
    raw = read_raw(folder).first(episodes)
    store = Store.open(folder / "ulna_clip.zarr")
    place = {(e.task, e.seed): index for index, e in enumerate(store.episodes)}
    chosen = [place[key] for key in zip(raw.tasks, raw.seeds, strict=True)][: len(raw.lengths)]
    figures, ratios, lines = {}, {}, []
    for camera in CAMERAS:
        truth = read_raw(folder).frames(camera)[: raw.steps]
        theirs = _Theirs(folder, camera, raw.steps)
        ours = _Ours(store, camera, chosen)
        facts: dict[str, dict[str, float]] = {"ulna": {}, "lerobot": {}}
        times: dict[str, list[float]] = {"ulna": [], "lerobot": []}
        for number in range(repeats + 1):
            for name, reader in (("ulna", ours), ("lerobot", theirs)):
                spent, frames = reader.read()
                if number == 0:  # to warm up, and to compare with the truth
                    error = np.square(frames.astype(np.float32) - truth).mean(dtype=np.float64)
                    facts[name]["psnr_db"] = float(10 * np.log10(255**2 / error))
                else:
                    times[name].append(spent / raw.steps * 1e6)
        for name, reader in (("ulna", ours), ("lerobot", theirs)):
            facts[name]["cpu_us_per_frame"] = statistics.median(times[name])
            facts[name]["bytes_per_frame"] = reader.bytes_per_frame
            row = facts[name]
            lines.append([camera, name, *(f"{row[key]:.1f}" for key in row)])
        pairs = zip(times["ulna"], times["lerobot"], strict=True)
        ratios[f"decode_{camera}"] = statistics.median(a / b for a, b in pairs)
        ratios[f"bytes_{camera}"] = ours.bytes_per_frame / theirs.bytes_per_frame
        figures[camera] = facts
    benchmark.table(
        "all frames in order", ["camera", "video", "PSNR dB", "CPU us/frame", "B/frame"], lines
    )
    figures["frames"] = raw.steps
    benchmark.finish(ratios, figures)


class _Ours:
    def __init__(self, store: Store, camera: str, episodes: list[int]) -> None:
        self._frames = [store.read_encoded(camera, index) for index in episodes]
        self._out = np.empty((sum(f.steps for f in self._frames), 224, 224, 3), np.uint8)
        size = sum(len(chunk) for frames in self._frames for chunk in frames.chunks)
        self.bytes_per_frame = size / len(self._out)

    def read(self) -> tuple[float, np.ndarray]:
        from ulna.datasets.image_codec import decode_frames

        began, row = time.process_time(), 0
        for frames in self._frames:
            size = frames.codec.frames_per_chunk
            for number, chunk in enumerate(frames.chunks):
                rows = min(size, frames.steps - number * size)
                decode_frames(frames.codec, chunk, self._out[row : row + rows])
                row += rows
        return time.process_time() - began, self._out


class _Theirs:
    def __init__(self, data: Path, camera: str, steps: int) -> None:
        self._decoder = _video_decoder(data / "lerobot", camera)
        self._out = np.empty((steps, 3, 224, 224), np.uint8)
        root = data / "lerobot" / "videos" / f"observation.images.{camera}"
        size = sum(file.stat().st_size for file in root.rglob("*.mp4"))
        total = json.loads((data / "lerobot" / "meta" / "info.json").read_text())["total_frames"]
        self.bytes_per_frame = size / total

    def read(self) -> tuple[float, np.ndarray]:
        spent = 0.0
        for first in range(0, len(self._out), BATCH):
            stop = min(first + BATCH, len(self._out))
            began = time.process_time()
            got = self._decoder.get_frames_in_range(first, stop).data
            spent += time.process_time() - began  # our copy of them is not its work
            self._out[first:stop] = got.numpy()
        return spent, self._out.transpose(0, 2, 3, 1)


if __name__ == "__main__":
    tyro.cli(main)
