"""Adding episodes to a store, wholly or not at all.

        encode -> write and sync the chunk files -> grow the arrays -> sync their folders
               -> commit with one put-if-absent -> sync the log       (now the episode exists)

A crash before the commit leaves files that nothing refers to; after it the episode is complete.
Every writer owns a segment, so processes share nothing but the log.

Next: `commits.py` (the log), `layout.py` (the files), `recorder.py` (step by step, in real time).
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import commits
from .checkpoint_file import checkpoint_numbers
from .chunks import array_crc32c
from .commits import Add, EpisodeRecord, Op, StreamRecord
from .episode_check import check_episode
from .episode_table import CHECKPOINT_OPS, checkpoint_is_due, write_checkpoint
from .image_codec import EncodedFrames, ImageCodec, Jpeg
from .layout import CHUNK_ROWS, Layout
from .record_reader import payloads_crc32c
from .schema import Embodiment, Episode
from .sealed_json import seal_zarr
from .storage import Storage, open_storage
from .store import Store
from .store_header import group_metadata, read_header
from .strict_json import encode

Signature = tuple[tuple[str, Layout], ...]

DEFAULT_CODEC: ImageCodec = Jpeg()


@dataclass(frozen=True)
class Prepared:
    """One stream of an episode, coded and ready to be written."""

    layout: Layout
    rows: int
    payloads: list[bytes]
    crc32c: int
    own_rate: bool = False
    """Whether it has rows of its own instead of one per step."""


@dataclass
class _Segment:
    """A group of arrays that grow together; all episodes in it have the same streams."""

    name: str
    next_row: dict[str, int] = field(default_factory=dict)
    """Per stream; those with one row per step move together."""


class Writer:
    """Appends episodes to a store. One per process (or thread); any number at once on one store.
    Use it in a `with` statement."""

    def __init__(
        self,
        location: Path | str | Storage,
        image_codec: ImageCodec | Mapping[str, ImageCodec] = DEFAULT_CODEC,
        tool: str = "writer",
        threads: int = 4,
    ) -> None:
        """`image_codec`: for all cameras, or one per camera name. `tool`: what the log calls us."""
        self.storage = open_storage(location) if isinstance(location, Path | str) else location
        self.embodiment, _ = read_header(self.storage)
        # Whoever made the store, or the last commits, may have been killed before the names were
        # on the disk; who goes on from there relies on them.
        self.storage.sync(["", commits.FOLDER])
        self.tool = tool
        self.image_codec = image_codec
        self.episodes_added = 0
        self._process = os.getpid()
        self._segments: dict[Signature, _Segment] = {}
        folded = max(checkpoint_numbers(self.storage), default=-1)
        self._next_number = max(commits.numbers(self.storage, after=folded), default=folded) + 1
        self._operations = 0
        """Committed since we last thought of a checkpoint."""
        # Coding releases the interpreter lock, syncing is waiting: both go side by side.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ulna-writer")
        self._checkpoint: Future[None] | None = None

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

    def add_episode(
        self, episode: Episode, encoded: Mapping[str, EncodedFrames] | None = None
    ) -> str:
        """Store an episode and give its uid. When this returns, the episode is on the disk.

        `encoded`: frames of cameras that are coded already and are not in `episode.images`.
        Raises ValueError if the episode does not fit the embodiment, OSError if it cannot be
        written; in both cases nothing of it is in the store, and the writer stays usable.
        """
        return self.add_episodes([(episode, encoded or {})])[0]

    def add_episodes(
        self, episodes: Iterable[tuple[Episode, Mapping[str, EncodedFrames]]]
    ) -> list[str]:
        """Store several episodes with one commit: all of them, or none."""
        records = [self.store_episode(episode, encoded) for episode, encoded in episodes]
        self.commit([Add(record) for record in records])
        self.episodes_added += len(records)
        return [record.uid for record in records]

    def store_episode(
        self, episode: Episode, encoded: Mapping[str, EncodedFrames]
    ) -> EpisodeRecord:
        """Write the arrays of an episode, durably; it exists once `commit` adds its record."""
        if os.getpid() != self._process:
            raise ValueError("a Writer was used after a fork; make one Writer in each process")
        check_episode(episode, self.embodiment, encoded)
        return self.write_prepared(episode, self.prepare(episode, encoded))

    def prepare(
        self, episode: Episode, encoded: Mapping[str, EncodedFrames]
    ) -> dict[str, Prepared]:
        """Code every stream of an episode."""
        jobs: dict[str, Future[Prepared]] = {}
        for name, rows in episode.streams.items():
            jobs[name] = self._threads.submit(prepare_rows, rows)
        for name, frames in episode.depth.items():
            jobs[f"depth/{name}"] = self._threads.submit(prepare_rows, frames)
        for name, sensor in episode.sensors.items():
            for part, rows in (("values", sensor.values), ("time_ns", sensor.time_ns)):
                jobs[f"sensors/{name}/{part}"] = self._threads.submit(
                    prepare_rows, rows, own_rate=True
                )
        prepared = {f"images/{name}": prepare_encoded(frames) for name, frames in encoded.items()}
        for name, frames in episode.images.items():
            prepared[f"images/{name}"] = self._prepare_images(frames, self.codec_of(name))
        prepared.update({name: job.result() for name, job in jobs.items()})
        return dict(sorted(prepared.items()))

    def codec_of(self, camera: str) -> ImageCodec:
        """How frames of a camera are coded."""
        if isinstance(self.image_codec, Mapping):
            return self.image_codec.get(camera, DEFAULT_CODEC)
        return self.image_codec

    def write_prepared(self, episode: Episode, streams: dict[str, Prepared]) -> EpisodeRecord:
        """Write the files of an episode and make them durable; `commit` makes it exist.

        Raises OSError; then its files are removed again.
        """
        try:
            return self._write(episode, streams)
        except OSError as error:
            raise self.not_stored(episode.seed, error) from error

    def not_stored(self, seed: int, error: OSError) -> OSError:
        """The error that tells the user what is lost and what is not."""
        return OSError(
            error.errno,
            f"the episode of seed {seed} could not be stored in {self.storage.location} "
            f"({error.strerror}); the {self.episodes_added} episodes this writer added before are "
            "safe. Free some space or mend the disk, then go on with --append",
        )

    def commit(self, ops: Sequence[Op]) -> int:
        """Append to the log; gives the commit's number. From here on nothing may be deleted: an
        interrupt may come after the commit took effect."""
        try:
            number = commits.append(self.storage, ops, self._next_number, self.tool)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the log of {self.storage.location} could not be written ({error.strerror}); the "
                f"{self.episodes_added} episodes this writer added before are safe. Free some "
                "space or mend the disk, then go on with --append",
            ) from error
        first, self._next_number = self._next_number, number + 1
        # Other writers' commits count as well, as far as this one met them.
        self._operations += max(len(ops), number + 1 - first)
        if self._operations >= CHECKPOINT_OPS and (
            self._checkpoint is None or self._checkpoint.done()
        ):
            # In the background: it concerns the next `Store.open`, not this episode.
            self._operations = 0
            self._checkpoint = self._threads.submit(checkpoint, self.storage)
        return number

    def _write(self, episode: Episode, streams: dict[str, Prepared]) -> EpisodeRecord:
        segment = self._segment(streams)
        starts = {name: segment.next_row[name] for name in streams}
        for name, stream in streams.items():
            # Taken even if writing fails: a slot is never used twice.
            segment.next_row[name] += -(-stream.rows // CHUNK_ROWS) * CHUNK_ROWS
        jobs = [
            self._threads.submit(
                _write_stream, self.storage, f"segments/{segment.name}/{name}", stream, starts[name]
            )
            for name, stream in streams.items()
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            wait(jobs)
            for name, stream in streams.items():
                for file, _ in _files(f"segments/{segment.name}/{name}", stream, starts[name]):
                    self.storage.delete(file)
            raise
        start = next(starts[name] for name, stream in streams.items() if not stream.own_rate)
        records = {
            name: StreamRecord(
                dtype=stream.layout.dtype.name,
                shape=stream.layout.row_shape,
                crc32c=stream.crc32c,
                rows=stream.rows if stream.own_rate else None,
                start=starts[name] if stream.own_rate else None,
            )
            for name, stream in streams.items()
        }
        record = EpisodeRecord(
            uid="",
            task=episode.task,
            instruction=episode.instruction,
            seed=episode.seed,
            steps=episode.steps,
            success=episode.success,
            segment=segment.name,
            start=start,
            streams=records,
            info=dict(episode.info),
            paraphrases=episode.paraphrases,
            subgoals=episode.subgoals,
        )
        return replace(record, uid=new_uid(record))

    def _prepare_images(self, frames: np.ndarray, codec: ImageCodec) -> Prepared:
        """Chunk by chunk in the threads: frames are most of the work."""
        layout = Layout.of(frames.dtype, frames.shape[1:], codec)
        size = layout.chunk_rows
        pieces = [frames[first : first + size] for first in range(0, len(frames), size)]
        # Several chunks to a job, or the queue costs more than the coding.
        each = max(1, -(-len(pieces) // 16))
        jobs = [
            self._threads.submit(lambda part: [layout.encode(piece) for piece in part], part)
            for part in (pieces[first : first + each] for first in range(0, len(pieces), each))
        ]
        payloads = [payload for job in jobs for payload in job.result()]
        checksum = payloads_crc32c(payloads) if layout.lossy else array_crc32c(frames)
        return Prepared(layout, len(frames), payloads, checksum)

    def _segment(self, streams: dict[str, Prepared]) -> _Segment:
        """The segment for episodes with these streams; made when first needed."""
        signature = tuple((name, stream.layout) for name, stream in streams.items())
        known = self._segments.get(signature)
        # Once all its episodes are packed, `gc` removes a segment that was long left alone.
        if known is not None and self.storage.exists(f"segments/{known.name}/zarr.json"):
            return known
        name = new_segment(self.storage, self.embodiment, streams)
        self._segments[signature] = _Segment(name, dict.fromkeys(streams, 0))
        return self._segments[signature]


def new_segment(storage: Storage, embodiment: Embodiment, streams: Iterable[str]) -> str:
    """Make the group of a new segment, durable, with folders for its arrays; gives its name."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    root = Path("segments") / name
    arrays = [root / stream for stream in streams]
    groups = sorted({root, *(p for a in arrays for p in a.parents if p.is_relative_to(root))})
    for group in groups:
        storage.make_folder(str(group))
        about = {"embodiment": encode(embodiment)} if group == root else {}
        storage.write(f"{group}/zarr.json", group_metadata(**about))
    for array in arrays:
        storage.make_folder(str(array))
    storage.sync(["segments", *(str(group) for group in groups)])
    return name


def checkpoint(storage: Storage, always: bool = False) -> None:
    """Fold the log as it is now into a checkpoint, if it is whole and the last one is long ago."""
    store = Store.on(storage)
    due = checkpoint_is_due(store.operations_since_checkpoint, len(store.episodes))
    if store.last_commit >= 0 and not store.damaged_commits and (due or always):
        write_checkpoint(storage, store.last_commit, store.episodes)


def prepare_rows(rows: np.ndarray, own_rate: bool = False) -> Prepared:
    """Code a numeric stream or depth frames."""
    rows = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    layout = Layout.of(rows.dtype, rows.shape[1:], None)
    return Prepared(layout, len(rows), layout.encode_all(rows), array_crc32c(rows), own_rate)


def prepare_encoded(frames: EncodedFrames) -> Prepared:
    """Frames that are coded already, as they are."""
    shape = (frames.height, frames.width, 3)
    layout = Layout.of(np.dtype(np.uint8), shape, frames.codec)
    if not layout.lossy:
        checksum = array_crc32c(frames.decode())
    else:
        checksum = payloads_crc32c(frames.chunks)
    return Prepared(layout, frames.steps, list(frames.chunks), checksum)


def _files(folder: str, stream: Prepared, start: int) -> list[tuple[str, bytes]]:
    files = stream.layout.files(stream.payloads)
    size = stream.layout.file_rows
    return [
        (f"{folder}/{stream.layout.file_name(start + number * size)}", data)
        for number, data in enumerate(files)
    ]


def _write_stream(storage: Storage, folder: str, stream: Prepared, start: int) -> None:
    """Write one stream's files and grow its array."""
    for name, data in _files(folder, stream, start):
        storage.write(name, data)
    storage.write(f"{folder}/zarr.json", array_metadata_bytes(stream.layout, start + stream.rows))
    storage.sync([folder])


def array_metadata_bytes(layout: Layout, rows: int) -> bytes:
    """The `zarr.json` of an array."""
    return seal_zarr(layout.metadata(rows))


def new_uid(record: EpisodeRecord) -> str:
    """Begins with the content, so that sorting by uid does not depend on when it was written."""
    content: list[Any] = [record.task, record.seed, record.instruction, record.success]
    content += [list(record.streams), [stream.crc32c for stream in record.streams.values()]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{digest}-{secrets.token_hex(4)}"
