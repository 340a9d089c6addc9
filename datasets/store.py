"""A store of episodes: a Zarr v3 folder that several processes may write and read at once.

        lift.zarr/zarr.json                     a Zarr group; attributes.ulna: version, embodiment
        lift.zarr/commits/000000000017.json     the log: an episode exists when its record does
        lift.zarr/checkpoints/...               the log, folded up to some number (a cache)
        lift.zarr/segments/<time>-<random>/     one group per writer, never shared
            images/<camera>   uint8 (rows, height, width, 3)
            state, action     float32 (rows, dimensions), and any other numeric stream

`FORMAT.md` is the whole specification. Readers never look past the log, so reading while others
record is safe.

Next: `writer.py` (adding episodes), `loader.py` (batches for training), `verify.py` (checks).
"""

import json
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from . import commits
from .chunks import DamagedData, array_crc32c, crc32c
from .commits import Commit, EpisodeRecord
from .episode_table import EpisodeTable, newest_checkpoint, undone
from .image_codec import EncodedFrames
from .layout import Layout, read_payloads
from .schema import Embodiment, Episode, Sensor, unknown_name
from .storage import LocalFolder, Storage, open_storage
from .strict_json import decode, encode

FORMAT_VERSION = 2


class Store:
    """Episodes on disk (or in a bucket), read-only. Threads may read one Store at the same time."""

    def __init__(
        self, storage: Storage, embodiment: Embodiment, uuid: str, version: int | None = None
    ) -> None:
        """Use `Store.open` or `Store.create`."""
        self.storage = storage
        self.embodiment = embodiment
        self.uuid = uuid
        self.version = version
        """Last commit that counts; None: all of them."""
        self.damaged_commits: tuple[str, ...] = ()
        """Records of the log that cannot be read, with the reason; their episodes are missing."""
        self._commits: dict[int, Commit] = {}
        self._table = EpisodeTable()
        self._layouts: dict[tuple[str, str], Layout] = {}

    @staticmethod
    def create(location: Path | str, embodiment: Embodiment) -> "Store":
        """Make an empty store. Refuses a path where something is."""
        storage = open_storage(location)
        if storage.exists("zarr.json"):
            raise ValueError(
                f"{location} already is a store with {len(Store.open(location).episodes)} "
                "episodes; add to it with --append, or choose another --out"
            )
        # An interrupted `create` leaves these two folders without episodes: carry on from there.
        if isinstance(storage, LocalFolder) and storage.path.exists() and _foreign(storage):
            raise ValueError(f"{location} exists and is not a store; choose another --out")
        for folder in ("", commits.FOLDER, "segments"):
            storage.make_folder(folder)
        storage.write("segments/zarr.json", group_metadata())
        header = {
            "version": FORMAT_VERSION,
            "uuid": secrets.token_hex(16),
            "embodiment": encode(embodiment),
        }
        storage.sync(["segments", ".."])
        if not storage.put_if_absent("zarr.json", group_metadata(ulna=header)):
            raise ValueError(
                f"{location} was created by another process at this moment; use --append"
            )
        return Store.open(location)

    @staticmethod
    def open(location: Path | str, version: int | None = None) -> "Store":
        """Open the store at a path or address; `version` N: as it was after commit N."""
        return Store.on(open_storage(location), version)

    @staticmethod
    def on(storage: Storage, version: int | None = None) -> "Store":
        """Open the store that lies in `storage`."""
        header = read_header(storage)
        embodiment = decode(Embodiment, header["embodiment"], "embodiment")
        store = Store(storage, embodiment, header["uuid"], version)
        store.refresh()
        return store

    @property
    def location(self) -> str:
        """Path or address, as given."""
        return self.storage.location

    @property
    def path(self) -> Path:
        """The folder of a local store."""
        if not isinstance(self.storage, LocalFolder):
            raise ValueError(f"{self.location} is not a folder of this machine; copy it here first")
        return self.storage.path

    @property
    def episodes(self) -> EpisodeTable:
        """Sorted by task, seed and content, whichever writer finished first. An episode's index
        in this table is its `episode_index`; `refresh` may move it."""
        return self._table

    @property
    def log(self) -> tuple[Commit, ...]:
        """Every commit, in order; reads all of them."""
        found = []
        for number in commits.numbers(self.storage):
            if self.version is None or number <= self.version:
                try:
                    found.append(self._commit(number))
                except DamagedData:
                    continue  # `damaged_commits` and `verify` tell
        return tuple(found)

    def refresh(self) -> None:
        """Take in what was committed since the store was opened."""
        numbers = [
            number
            for number in commits.numbers(self.storage)
            if self.version is None or number <= self.version
        ]
        before = None if self.version is None else self.version + 1
        base = newest_checkpoint(self.storage, below=before)
        while True:
            damaged, later = [], []
            for number in numbers:
                if number <= base.number:
                    continue
                try:
                    later.append(self._commit(number))
                except DamagedData as error:
                    damaged.append(str(error))
            reached = min(undone(later), default=base.number + 1)
            if reached > base.number:
                break
            # An undo reaches back before the checkpoint: fold again from an older one.
            base = newest_checkpoint(self.storage, below=reached)
        if damaged and set(damaged) != set(self.damaged_commits):
            warnings.warn(
                f"{self.location}: {len(damaged)} damaged commit records, their episodes are "
                f"missing: {'; '.join(damaged)}",
                stacklevel=2,
            )
        self.damaged_commits = tuple(damaged)
        self.last_commit = numbers[-1] if numbers else -1
        self._table = base.table.with_commits(later) if later else base.table

    def layout(self, stream: str, record: EpisodeRecord) -> Layout:
        """How the array of a stream is cut and coded."""
        key = (record.segment, stream)
        if key not in self._layouts:
            name = f"{array_folder(record, stream)}/zarr.json"
            try:
                layout = Layout.from_metadata(self.storage.read(name))
                described = record.streams[stream]
                if layout.dtype.name != described.dtype or layout.row_shape != described.shape:
                    raise DamagedData(
                        f"describes {layout.dtype}{layout.row_shape}, the log "
                        f"{described.dtype}{described.shape}"
                    )
            except (DamagedData, FileNotFoundError) as error:
                raise DamagedData(
                    f"segment {record.segment}, stream {stream!r}, file {name}: {error}"
                ) from error
            self._layouts[key] = layout
        return self._layouts[key]

    def stream_files(self, stream: str, record: EpisodeRecord) -> list[str]:
        """Names of the files that hold a stream of an episode."""
        layout = self.layout(stream, record)
        start, rows = record.extent(stream)
        first = start - start % layout.file_rows
        return [
            f"{array_folder(record, stream)}/{layout.file_name(row)}"
            for row in range(first, start + rows, layout.file_rows)
        ]

    def read(
        self, stream: str, episode_index: int, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "rows ..."]:
        """Rows `start:stop` of one stream (`state`, `images/front`, ...).

        Raises DamagedData, which names episode and stream, if the bytes on disk have changed.
        """
        record = self._record(episode_index)
        if stream not in record.streams:
            raise unknown_name(f"stream of episode {episode_index}", stream, record.streams)
        rows = record.extent(stream)[1]
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise ValueError(
                f"rows {start}:{stop} of {stream} in episode {episode_index}, which has {rows}"
            )
        described = record.streams[stream]
        out = np.empty((stop - start, *described.shape), np.dtype(described.dtype))
        self.read_into(stream, episode_index, out, start)
        return out

    def read_into(
        self,
        stream: str,
        episode_index: int,
        out: Shaped[np.ndarray, "rows ..."],
        start: int = 0,
    ) -> None:
        """Like `read`, into `out` (contiguous, of the stream's type), which says how many rows."""
        record = self._record(episode_index)
        described = record.streams[stream]
        if out.shape[1:] != described.shape or out.dtype != np.dtype(described.dtype):
            raise ValueError(
                f"{stream} of episode {episode_index} has rows {described.dtype}{described.shape}, "
                f"the array to fill {out.dtype}{out.shape[1:]}"
            )
        if len(out) == 0:
            return
        layout, first_row, payloads = self._payloads(stream, episode_index, start, len(out))
        done = 0
        for number, payload in enumerate(payloads):
            within = first_row % layout.chunk_rows if number == 0 else 0
            rows = min(layout.chunk_rows - within, len(out) - done)
            try:
                layout.decode(payload, within, out[done : done + rows])
            except DamagedData as error:
                raise _in_episode(error, episode_index, record, stream) from error
            done += rows

    def read_encoded(
        self, camera: str, episode_index: int, start: int = 0, stop: int | None = None
    ) -> EncodedFrames:
        """Frames `start:stop` of a camera as they are stored, without decoding them where the
        codec allows it (see `EncodedFrames.slice`)."""
        record = self._record(episode_index)
        stream = f"images/{camera}"
        if stream not in record.streams:
            raise unknown_name(f"camera of episode {episode_index}", camera, record.cameras)
        stop = record.steps if stop is None else stop
        layout, first_row, payloads = self._payloads(stream, episode_index, start, stop - start)
        assert layout.codec is not None
        height, width, _ = layout.row_shape
        within = first_row % layout.chunk_rows
        frames = EncodedFrames(
            layout.codec,
            within + stop - start,
            height,
            width,
            tuple(bytes(payload) for payload in payloads),
        )
        return frames.slice(within, within + stop - start) if within else frames

    def checksum(self, stream: str, episode_index: int, rows: np.ndarray | None = None) -> int:
        """What `StreamRecord.crc32c` must be; `rows`: the decoded stream, where it is at hand."""
        record = self._record(episode_index)
        layout = self.layout(stream, record)
        if not layout.lossy:
            return array_crc32c(self.read(stream, episode_index) if rows is None else rows)
        _, _, payloads = self._payloads(stream, episode_index, 0, record.extent(stream)[1])
        return payloads_crc32c(payloads)

    def read_episode(self, episode_index: int) -> Episode:
        """The whole episode, equal to what `Writer.add_episode` was given (frames as their codec
        keeps them)."""
        record = self._record(episode_index)
        streams = {name: self.read(name, episode_index) for name in record.streams}

        def below(folder: str) -> dict[str, np.ndarray]:
            found = [name for name in record.streams if name.startswith(f"{folder}/")]
            return {name.removeprefix(f"{folder}/"): streams.pop(name) for name in found}

        images, depth, sensors = below("images"), below("depth"), below("sensors")
        return Episode(
            images=images,
            streams=streams,
            instruction=record.instruction,
            task=record.task,
            seed=record.seed,
            success=record.success,
            info=dict(record.info),
            depth=depth,
            sensors={
                name.removesuffix("/values"): Sensor(
                    sensors[f"{name.removesuffix('/values')}/time_ns"], values
                )
                for name, values in sensors.items()
                if name.endswith("/values")
            },
            paraphrases=record.paraphrases,
            subgoals=record.subgoals,
        )

    def choose(self, episodes: Sequence[int] | None) -> Int64[np.ndarray, " episodes"]:
        """`episodes`, checked; None means all."""
        if episodes is None:
            return np.arange(len(self._table))
        chosen = np.array(list(episodes), np.int64).reshape(-1)
        outside = chosen[(chosen < 0) | (chosen >= len(self._table))]
        if len(outside):
            self._record(int(outside[0]))
        return chosen

    def _payloads(
        self, stream: str, episode_index: int, start: int, rows: int
    ) -> tuple[Layout, int, list[memoryview]]:
        """The chunks that hold rows `start, ...` of a stream, and the first such row."""
        record = self._record(episode_index)
        try:
            layout = self.layout(stream, record)
            first_row = record.extent(stream)[0] + start
            payloads = read_payloads(
                self.storage,
                array_folder(record, stream),
                layout,
                first_row // layout.chunk_rows,
                (first_row + rows - 1) // layout.chunk_rows,
            )
        except (DamagedData, FileNotFoundError) as error:
            raise _in_episode(error, episode_index, record, stream) from error
        return layout, first_row, payloads

    def _commit(self, number: int) -> Commit:
        if number not in self._commits:
            self._commits[number] = commits.read(self.storage, number)
        return self._commits[number]

    def _record(self, episode_index: int) -> EpisodeRecord:
        if not 0 <= episode_index < len(self._table):
            raise ValueError(
                f"episode {episode_index} does not exist: {self.location} holds "
                f"{len(self._table)} episodes, counted from 0"
            )
        return self._table[episode_index]


def array_folder(record: EpisodeRecord, stream: str) -> str:
    """Where the array of a stream lies in its store."""
    return f"segments/{record.segment}/{stream}"


def payloads_crc32c(payloads: Sequence[bytes | memoryview]) -> int:
    """CRC-32C of chunks, one after the other."""
    return crc32c(b"".join(bytes(payload) for payload in payloads))


def group_metadata(**attributes: Any) -> bytes:
    """The `zarr.json` of a Zarr v3 group."""
    return json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1
    ).encode()


def read_header(storage: Storage) -> dict[str, Any]:
    """Version, uuid and embodiment of the store that lies in `storage`, without its log."""
    path = storage.path if isinstance(storage, LocalFolder) else None
    if path is not None and not path.exists():
        near = sorted(p.parent.name for p in path.absolute().parent.glob("*/commits"))
        exists = f" Stores beside it: {', '.join(near)}." if near else ""
        raise ValueError(
            f"there is no store at {path}.{exists} Make one with: ulna collect TASK --out {path}"
        )
    try:
        header = json.loads(storage.read("zarr.json"))["attributes"]["ulna"]
        version = header["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{storage.location} is not an Ulna store: its zarr.json is missing or not ours "
            f"({error!r})"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{storage.location} has store version {version}; this Ulna reads version "
            f"{FORMAT_VERSION}. "
            + ("Update Ulna" if version > FORMAT_VERSION else "Collect or import it again")
        )
    return header


def _in_episode(
    error: Exception, episode_index: int, record: EpisodeRecord, stream: str
) -> DamagedData:
    return DamagedData(
        f"episode {episode_index} (uid {record.uid}, seed {record.seed}), stream {stream!r}: "
        f"{error}"
    )


def _foreign(storage: LocalFolder) -> bool:
    """Whether a folder without zarr.json holds more than an interrupted `create` leaves."""
    if not storage.path.is_dir():
        return True
    names = {name for name in storage.names("") if not name.startswith(".tmp-")}
    return not names <= {commits.FOLDER, "segments"} or bool(commits.numbers(storage))
