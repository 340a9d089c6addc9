"""Adding episodes to a store, wholly or not at all.

        encode -> write and sync the chunk files -> grow the arrays -> sync their folders
               -> commit record by link(2) -> sync the log            (now the episode exists)

A crash before the link leaves files that nothing refers to; after it the episode is complete.
Every writer owns a segment, so processes share nothing but the log.

Next: `commits.py` (the log), `chunks.py` (the bytes).
"""

import hashlib
import json
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import commits
from .chunks import (
    CHUNK_ROWS,
    array_crc32c,
    array_metadata,
    chunk_file,
    encode_chunk,
    encode_shard,
    is_image,
)
from .commits import EpisodeRecord, StreamRecord
from .durable import sync_folder, write_file
from .schema import Embodiment, Episode, unknown_name
from .store import group_metadata, read_embodiment
from .strict_json import encode

Signature = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass
class _Segment:
    """A group of arrays that grow together; all episodes in it have the same streams."""

    name: str
    folder: Path
    next_row: int = 0


class Writer:
    """Appends episodes to the store at `store_path`. One per process (or thread); any number at
    once on one store. Use it in a `with` statement."""

    def __init__(self, store_path: Path | str) -> None:
        self.path = Path(store_path)
        self.embodiment = read_embodiment(self.path)
        self.episodes_added = 0
        self._process = os.getpid()
        self._segments: dict[Signature, _Segment] = {}
        self._next_number = max(commits.numbers(self.path / "commits"), default=-1) + 1
        # Syncing is waiting: the files of an episode are synced side by side.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="ulna-writer")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads. What was added is safe without it."""
        self._threads.shutdown()

    def add_episode(self, episode: Episode) -> str:
        """Store an episode and give its uid. When this returns, the episode is on the disk.

        Raises ValueError if the episode does not fit the embodiment, OSError if it cannot be
        written; in both cases nothing of it is in the store, and the writer stays usable.
        """
        if os.getpid() != self._process:
            raise ValueError("a Writer was used after a fork; make one Writer in each process")
        check_episode(episode, self.embodiment)
        streams = {name: _little_endian(rows) for name, rows in episode.streams.items()}
        for camera, frames in episode.images.items():
            streams[f"images/{camera}"] = frames
        try:
            uid = self._write(episode, dict(sorted(streams.items())))
        except OSError as error:
            raise OSError(
                error.errno,
                f"the episode of seed {episode.seed} could not be stored in {self.path} "
                f"({error.strerror}); the {self.episodes_added} episodes this writer added before "
                "are safe. Free some space or mend the disk, then go on with --append",
            ) from error
        self.episodes_added += 1
        return uid

    def _write(self, episode: Episode, streams: dict[str, np.ndarray]) -> str:
        segment = self._segment(streams)
        start = segment.next_row
        # Taken even if writing fails: a slot is never used twice.
        segment.next_row += -(-episode.steps // CHUNK_ROWS) * CHUNK_ROWS
        jobs = [
            self._threads.submit(_write_stream, segment.folder / name, rows, start)
            for name, rows in streams.items()
        ]
        try:
            checksums = [job.result() for job in jobs]
        except BaseException:
            wait(jobs)
            for name, rows in streams.items():
                _discard(segment.folder / name, rows, start)
            raise
        record = EpisodeRecord(
            uid=_uid(episode, streams, checksums),
            task=episode.task,
            instruction=episode.instruction,
            seed=episode.seed,
            steps=episode.steps,
            success=episode.success,
            segment=segment.name,
            start=start,
            streams={
                name: StreamRecord(rows.dtype.name, rows.shape[1:], checksum)
                for (name, rows), checksum in zip(streams.items(), checksums, strict=True)
            },
            info=dict(episode.info),
        )
        # From here on nothing may be deleted: an interrupt may come after the link.
        self._next_number = 1 + commits.append(self.path / "commits", record, self._next_number)
        return record.uid

    def _segment(self, streams: dict[str, np.ndarray]) -> _Segment:
        """The segment for episodes with these streams; made when first needed."""
        signature = tuple((name, rows.dtype.name, rows.shape[1:]) for name, rows in streams.items())
        if signature in self._segments:
            return self._segments[signature]
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        folder = self.path / "segments" / name
        folders = {folder, *(parent for n in streams for parent in (folder / n).parents)}
        groups = sorted(f for f in folders if f.is_relative_to(folder))
        for group in groups:
            group.mkdir()
            about = {"embodiment": encode(self.embodiment)} if group == folder else {}
            write_file(group / "zarr.json", group_metadata(**about))
        for stream in streams:
            (folder / stream).mkdir()
        for group in [self.path / "segments", *groups]:
            sync_folder(group)
        self._segments[signature] = _Segment(name, folder)
        return self._segments[signature]


def check_episode(episode: Episode, embodiment: Embodiment) -> None:
    """Raise ValueError with what does not fit the embodiment or cannot be stored."""
    for name in ("state", "action"):
        if name not in episode.streams:
            raise ValueError(
                f"the episode has no stream {name!r}; it has {', '.join(sorted(episode.streams))}"
            )
    steps = episode.steps
    if steps == 0:
        raise ValueError(f"the episode of seed {episode.seed} has no steps")
    dims = {"state": embodiment.state_dim, "action": embodiment.action_dim}
    for name, rows in episode.streams.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "images":
            raise ValueError(f"stream name {name!r}: use small letters, digits and underscores")
        if rows.dtype.kind not in "biuf":
            raise ValueError(f"stream {name!r} has type {rows.dtype}; only numbers can be stored")
        if rows.ndim == 0 or len(rows) != steps:
            raise ValueError(
                f"stream {name!r} has shape {rows.shape}; the actions have {steps} rows"
            )
        if name in dims and (rows.dtype != np.float32 or rows.shape != (steps, dims[name])):
            raise ValueError(
                f"stream {name!r} is {rows.dtype}{rows.shape}; {embodiment.name} expects "
                f"float32{(steps, dims[name])}"
            )
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            step = int(np.argwhere(~np.isfinite(rows))[0][0])
            raise ValueError(f"stream {name!r} holds NaN or infinity, first at step {step}")
    if "time_ns" in episode.streams:
        _check_time(episode.streams["time_ns"])
    _check_images(episode, embodiment, steps)
    for key, value in episode.info.items():
        if not isinstance(value, str | int | float | bool) or value != value:
            raise ValueError(f"info {key!r} is {value!r}; expected text, a number or true/false")


def _check_time(time_ns: np.ndarray) -> None:
    if time_ns.dtype != np.int64 or time_ns.ndim != 1:
        raise ValueError(
            f"stream 'time_ns' is {time_ns.dtype}{time_ns.shape}, expected int64 (steps,)"
        )
    if (np.diff(time_ns) < 0).any():
        step = int(np.argmax(np.diff(time_ns) < 0)) + 1
        raise ValueError(f"stream 'time_ns' runs backwards at step {step}")


def _check_images(episode: Episode, embodiment: Embodiment, steps: int) -> None:
    cameras = {camera.name: camera for camera in embodiment.cameras}
    for name, frames in episode.images.items():
        if name not in cameras:
            raise unknown_name(f"camera (embodiment {embodiment.name})", name, cameras)
        expected = (steps, cameras[name].height, cameras[name].width, 3)
        if frames.dtype != np.uint8 or frames.shape != expected:
            raise ValueError(
                f"camera {name!r} gave {frames.dtype}{frames.shape}; {embodiment.name} with "
                f"{steps} steps expects uint8{expected}"
            )
    missing = sorted(set(cameras) - set(episode.images))
    if missing:
        raise ValueError(
            f"the episode lacks the frames of {', '.join(missing)}; it has "
            f"{', '.join(sorted(episode.images)) or 'no camera'}"
        )


def _write_stream(folder: Path, rows: np.ndarray, start: int) -> int:
    """Write one stream's chunk files and grow its array; gives the CRC of the rows."""
    encode_rows = encode_shard if is_image(rows.shape[1:], rows.dtype) else encode_chunk
    for first in range(0, len(rows), CHUNK_ROWS):
        path = folder / chunk_file(start + first, rows.ndim - 1)
        write_file(path, encode_rows(rows[first : first + CHUNK_ROWS]))
    metadata = array_metadata(start + len(rows), rows.shape[1:], rows.dtype)
    write_file(folder / "zarr.json", json.dumps(metadata, indent=1).encode())
    sync_folder(folder)
    return array_crc32c(rows)


def _discard(folder: Path, rows: np.ndarray, start: int) -> None:
    """Give back the space of an episode that was not committed."""
    for first in range(0, len(rows), CHUNK_ROWS):
        (folder / chunk_file(start + first, rows.ndim - 1)).unlink(missing_ok=True)


def _uid(episode: Episode, streams: dict[str, np.ndarray], checksums: list[int]) -> str:
    """Begins with the content, so that sorting by uid does not depend on when it was written."""
    content: list[Any] = [episode.task, episode.seed, episode.instruction, episode.success]
    content += [list(streams), checksums]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{digest}-{secrets.token_hex(4)}"


def _little_endian(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
