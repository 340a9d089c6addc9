"""What Ulna's loader is measured against: each reads the same episodes as its users would.

    LeRobot            LeRobotDataset 0.6.1, AV1 video, uint8, torch DataLoader, as lerobot-train
    IdealLeRobot       the least any reader of its files must do: one sorted call per mp4 and batch
    DiffusionPolicy    its ReplayBuffer, compressed in memory, and its SequenceSampler
    JpegBound          simplejpeg in a tight loop on every core: nothing but decoding
    RawTake            one `np.take` of raw frames in memory: what no decoder can beat

A loader's `batches` never end and give the number of samples in each; `frames` shows what its
pictures look like. Next: `loader_ours.py`, `loader_measure.py` (the process around one loader).
"""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from loader_data import CAMERAS, CONTROL_HZ, SIZE, read_raw
from loader_formats import read_blobs

BATCH = 64


@dataclass(frozen=True)
class Sample:
    """What a policy asks for: all cameras and the state, and a chunk of actions."""

    history: int
    horizon: int


SAMPLES = {"s1": Sample(history=1, horizon=16), "s2": Sample(history=2, horizon=50)}


class Loader(Protocol):
    def batches(self) -> Iterator[int]: ...

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """Frames `rows` (counted over all episodes) as this loader decodes them."""
        ...


class LeRobot:
    """As `lerobot-train` 0.6.1 builds it: uint8 frames, spawned persistent workers, prefetch 4."""

    def __init__(self, data: Path, sample: Sample, workers: int) -> None:
        import torch
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        ticks: dict[str, range] = {"action": range(sample.horizon)}
        if sample.history > 1:
            past = range(1 - sample.history, 1)
            ticks |= {f"observation.images.{camera}": past for camera in CAMERAS}
            ticks["observation.state"] = past
        self._root = data / "lerobot"
        dataset = LeRobotDataset(
            "ulna/benchmark",
            root=self._root,
            delta_timestamps={key: [i / CONTROL_HZ for i in due] for key, due in ticks.items()},
            return_uint8=True,
        )
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )
        _require_dtype(cast(Any, dataset[0])[f"observation.images.{CAMERAS[0]}"], "torch.uint8")

    def batches(self) -> Iterator[int]:
        while True:
            for batch in self._loader:
                yield len(batch["action"])

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        return decoded_video(self._root, camera, rows)


class IdealLeRobot:
    """No Arrow, no items, no collate: each batch is one sorted request to each camera's file."""

    def __init__(self, data: Path, sample: Sample, workers: int) -> None:
        self._root = data / "lerobot"
        self._decoders = [_video_decoder(self._root, camera) for camera in CAMERAS]
        self._history = sample.history
        raw = read_raw(data)
        self._first = np.repeat(raw.starts, raw.lengths)  # first row of the episode of each row
        self._threads = ThreadPoolExecutor(len(CAMERAS))

    def batches(self) -> Iterator[int]:
        rng = np.random.default_rng()
        while True:
            rows = rng.choice(len(self._first), BATCH, replace=False)
            ages = np.arange(self._history)
            wanted = np.maximum(rows[:, None] - ages, self._first[rows, None])
            indices = np.unique(wanted).tolist()
            list(
                self._threads.map(
                    lambda decoder, i=indices: decoder.get_frames_at(i), self._decoders
                )
            )
            yield BATCH

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        return decoded_video(self._root, camera, rows)


class DiffusionPolicy:
    """Its buffer and sampler around a Dataset like its own image datasets.

    `as_float` gives float32 pictures in [0, 1], channels first, as every one of its datasets does;
    without it they stay as they are stored, which is faster and which they do not offer.
    """

    def __init__(self, data: Path, sample: Sample, workers: int, as_float: bool) -> None:
        import torch
        import zarr
        from diffusion_policy.common.replay_buffer import (  # type: ignore[import-not-found]
            ReplayBuffer,
        )
        from diffusion_policy.common.sampler import (  # type: ignore[import-not-found]
            SequenceSampler,
        )

        keys = [*(f"camera_{camera}" for camera in CAMERAS), "state", "action"]
        memory: Any = zarr.MemoryStore()  # type: ignore[attr-defined]  # of zarr 2
        path = str(data / "diffusion_policy.zarr")
        self._buffer = ReplayBuffer.copy_from_path(path, store=memory, keys=keys)
        sampler = SequenceSampler(
            self._buffer,
            sequence_length=sample.history - 1 + sample.horizon,
            pad_before=sample.history - 1,
            pad_after=sample.horizon - 1,
            keys=keys,
            key_first_k={key: sample.history for key in keys if key != "action"},
        )
        self._loader = torch.utils.data.DataLoader(
            cast(Any, _SequenceDataset(sampler, sample.history, as_float)),
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def batches(self) -> Iterator[int]:
        while True:
            for batch in self._loader:
                yield len(batch["action"])

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        stored = self._buffer[f"camera_{camera}"]
        return np.stack([stored[int(row)] for row in rows])


class _SequenceDataset:
    """A torch Dataset (by its two methods) of its sampler's sequences."""

    def __init__(self, sampler: Any, history: int, as_float: bool) -> None:
        self._sampler = sampler
        self._history = history
        self._as_float = as_float

    def __len__(self) -> int:
        return len(self._sampler)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        sequence = self._sampler.sample_sequence(index)
        item = {"action": sequence["action"], "state": sequence["state"][: self._history]}
        for camera in CAMERAS:
            pictures = sequence[f"camera_{camera}"][: self._history]
            if self._as_float:
                item[camera] = np.moveaxis(pictures, -1, 1).astype(np.float32) / 255.0
            else:
                item[camera] = pictures.copy()  # lets go of the sampler's much longer array
        return {key: torch.from_numpy(value) for key, value in item.items()}


class JpegBound:
    """Every core decodes random frames into one frame's memory, and that is all it does."""

    def __init__(self, data: Path, sample: Sample, workers: int) -> None:
        self._blobs = read_blobs(data)
        self._steps = len(self._blobs) // len(CAMERAS)
        self._per_sample = len(CAMERAS) * sample.history
        self._decoded = [0] * workers

    def batches(self) -> Iterator[int]:
        for number in range(len(self._decoded)):
            threading.Thread(target=self._decode_forever, args=(number,), daemon=True).start()
        given = 0
        while True:
            # Threads that wait for each other at the end of a batch would be a lower bound.
            time.sleep(0.02)
            samples = sum(self._decoded) // self._per_sample
            yield samples - given
            given = samples

    def _decode_forever(self, number: int) -> None:
        from simplejpeg import decode_jpeg

        pick = random.Random(number)
        frame = np.empty((SIZE, SIZE, 3), np.uint8)
        while True:
            order = pick.sample(self._blobs, 64)
            for blob in order:
                decode_jpeg(blob, "RGB", buffer=frame)
            self._decoded[number] += len(order)

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        from simplejpeg import decode_jpeg

        first = CAMERAS.index(camera) * self._steps
        return np.stack([decode_jpeg(self._blobs[first + row], "RGB") for row in rows])


class RawTake:
    """Uncompressed frames in memory, one gather per camera into arrays that exist."""

    def __init__(self, data: Path, sample: Sample, workers: int) -> None:
        raw = read_raw(data)
        self._frames = {camera: np.asarray(raw.frames(camera)) for camera in CAMERAS}
        self._numbers = [raw.numbers("state"), raw.numbers("action")]
        self._history, self._horizon = sample.history, sample.horizon
        self._first = np.repeat(raw.starts, raw.lengths)
        self._last = np.repeat(raw.starts + raw.lengths, raw.lengths) - 1
        for frames in self._frames.values():
            frames.max()  # so that every page is in memory

    def batches(self) -> Iterator[int]:
        rng = np.random.default_rng()
        state, action = self._numbers
        shape = (BATCH, self._history, SIZE, SIZE, 3)
        out = {camera: np.empty(shape, np.uint8) for camera in CAMERAS}
        while True:
            rows = rng.choice(len(state), BATCH, replace=False)[:, None]
            past = np.maximum(rows + np.arange(1 - self._history, 1), self._first[rows])
            due = np.minimum(rows + np.arange(self._horizon), self._last[rows])
            for camera, frames in self._frames.items():
                frames.take(past, 0, out[camera], "clip")  # "clip" writes into `out` directly
            state.take(past, 0)
            action.take(due, 0)
            yield BATCH

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        return self._frames[camera][rows]


def decoded_video(root: Path, camera: str, rows: np.ndarray) -> np.ndarray:
    """Frames of a LeRobotDataset whose episodes all lie in one mp4 per camera."""
    pictures = _video_decoder(root, camera).get_frames_at(rows.tolist()).data
    return pictures.numpy().transpose(0, 2, 3, 1)


def _video_decoder(root: Path, camera: str) -> Any:
    from torchcodec.decoders import VideoDecoder

    files = sorted((root / "videos" / f"observation.images.{camera}").rglob("*.mp4"))
    if len(files) != 1:
        raise ValueError(
            f"{root} has {len(files)} video files of camera {camera}, expected 1; use fewer "
            "--episodes (a file holds 200 MB)"
        )
    return VideoDecoder(str(files[0]), seek_mode="approximate", num_ffmpeg_threads=1)


def _require_dtype(tensor: Any, expected: str) -> None:
    if str(tensor.dtype) != expected:
        raise ValueError(f"the frames are {tensor.dtype}, expected {expected}")
