"""A store of episodes: a Zarr v3 folder that several processes may write and read at once.

        lift.zarr/zarr.json                     a Zarr group; attributes.ulna: version, embodiment
        lift.zarr/commits/000000000017.json     the log: an episode exists when its record does
        lift.zarr/segments/<time>-<random>/     one group per writer, never shared
            images/<camera>   uint8 (rows, height, width, 3)
            state, action     float32 (rows, dimensions), and any other numeric stream
                              every episode starts on a chunk boundary (256 rows)

Readers never look past the log, so reading while others record is safe.

Next: `writer.py` (adding episodes), `loader.py` (batches for training), `verify.py` (checks).
"""

import json
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from . import commits
from .chunks import CHUNK_ROWS, DamagedData, chunk_file, is_image, read_chunk, read_shard
from .commits import EpisodeRecord
from .durable import put_if_absent, sync_folder, write_file
from .schema import Embodiment, Episode, unknown_name
from .strict_json import decode, encode

FORMAT_VERSION = 1


class Store:
    """Episodes on disk, read-only. Threads may read one Store at the same time."""

    def __init__(self, path: Path, embodiment: Embodiment, uuid: str) -> None:
        """Use `Store.open` or `Store.create`."""
        self.path = path
        self.embodiment = embodiment
        self.uuid = uuid
        self.damaged_commits: tuple[str, ...] = ()
        """Records of the log that cannot be read, with the reason; their episodes are missing."""
        self._by_number: dict[int, EpisodeRecord] = {}
        self._sorted: tuple[EpisodeRecord, ...] = ()

    @staticmethod
    def create(path: Path | str, embodiment: Embodiment) -> "Store":
        """Make an empty store. Refuses a path where something is."""
        path = Path(path)
        if (path / "zarr.json").exists():
            raise ValueError(
                f"{path} already is a store with {len(Store.open(path).episodes)} episodes; "
                "add to it with --append, or choose another --out"
            )
        # An interrupted `create` leaves these two folders without episodes: carry on from there.
        if path.exists() and (not path.is_dir() or _foreign(path)):
            raise ValueError(f"{path} exists and is not a store; choose another --out")
        for folder in (path, path / "commits", path / "segments"):
            folder.mkdir(parents=True, exist_ok=True)
        write_file(path / "segments" / "zarr.json", group_metadata())
        header = {
            "version": FORMAT_VERSION,
            "uuid": secrets.token_hex(16),
            "embodiment": encode(embodiment),
        }
        for folder in (path / "segments", path.absolute().parent):
            sync_folder(folder)
        if not put_if_absent(path / "zarr.json", group_metadata(ulna=header)):
            raise ValueError(f"{path} was created by another process at this moment; use --append")
        return Store.open(path)

    @staticmethod
    def open(path: Path | str) -> "Store":
        path = Path(path)
        header = _read_header(path)
        store = Store(path, decode(Embodiment, header["embodiment"], "embodiment"), header["uuid"])
        store.refresh()
        return store

    @property
    def episodes(self) -> tuple[EpisodeRecord, ...]:
        """Sorted by task, seed and content, whichever writer finished first. An episode's index
        in this table is its `episode_index`; `refresh` may move it."""
        return self._sorted

    def refresh(self) -> None:
        """Take in what was committed since the store was opened."""
        folder = self.path / "commits"
        damaged = []
        for number in commits.numbers(folder):
            if number in self._by_number:
                continue
            try:
                self._by_number[number] = commits.read(commits.commit_path(folder, number))
            except DamagedData as error:
                damaged.append(str(error))
        if damaged and set(damaged) != set(self.damaged_commits):
            warnings.warn(
                f"{self.path}: {len(damaged)} damaged commit records, their episodes are missing: "
                f"{'; '.join(damaged)}",
                stacklevel=2,
            )
        self.damaged_commits = tuple(damaged)
        self._sorted = tuple(
            sorted(
                self._by_number.values(), key=lambda record: (record.task, record.seed, record.uid)
            )
        )

    def stream_file(self, stream: str, record: EpisodeRecord, row: int = 0) -> Path:
        """The chunk file that holds row `row` (counted within the episode) of a stream."""
        name = chunk_file(record.start + row, len(record.streams[stream].shape))
        return self.path / "segments" / record.segment / stream / name

    def read(
        self, stream: str, episode_index: int, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "steps ..."]:
        """Rows `start:stop` of one stream (`state`, `images/front`, ...) as they were written.

        Raises DamagedData, which names episode and stream, if the bytes on disk have changed.
        """
        record = self._record(episode_index)
        if stream not in record.streams:
            raise unknown_name(f"stream of episode {episode_index}", stream, record.streams)
        stop = record.steps if stop is None else stop
        if not 0 <= start <= stop <= record.steps:
            raise ValueError(
                f"rows {start}:{stop} of episode {episode_index}, which has {record.steps} steps"
            )
        described = record.streams[stream]
        out = np.empty((stop - start, *described.shape), np.dtype(described.dtype))
        self.read_into(stream, episode_index, out, start)
        return out

    def read_into(
        self,
        stream: str,
        episode_index: int,
        out: Shaped[np.ndarray, "steps ..."],
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
        read_rows = read_shard if is_image(described.shape, out.dtype) else read_chunk
        done = 0
        while done < len(out):
            first = (start + done) % CHUNK_ROWS
            rows = min(CHUNK_ROWS - first, len(out) - done)
            path = self.stream_file(stream, record, start + done)
            try:
                read_rows(path, first, out[done : done + rows])
            except (DamagedData, FileNotFoundError) as error:
                raise DamagedData(
                    f"episode {episode_index} (uid {record.uid}, seed {record.seed}), stream "
                    f"{stream!r}, file {path.relative_to(self.path)}: {error}"
                ) from error
            done += rows

    def read_episode(self, episode_index: int) -> Episode:
        """The whole episode, equal to what `Writer.add_episode` was given."""
        record = self._record(episode_index)
        streams = {name: self.read(name, episode_index) for name in record.streams}
        images = {name: streams.pop(f"images/{name}") for name in record.cameras}
        return Episode(
            images=images,
            streams=streams,
            instruction=record.instruction,
            task=record.task,
            seed=record.seed,
            success=record.success,
            info=dict(record.info),
        )

    def choose(self, episodes: Sequence[int] | None) -> tuple[int, ...]:
        """`episodes`, checked; None means all."""
        if episodes is None:
            return tuple(range(len(self._sorted)))
        for index in episodes:
            self._record(index)
        return tuple(int(index) for index in episodes)

    def _record(self, episode_index: int) -> EpisodeRecord:
        if not 0 <= episode_index < len(self._sorted):
            raise ValueError(
                f"episode {episode_index} does not exist: {self.path} holds "
                f"{len(self._sorted)} episodes, counted from 0"
            )
        return self._sorted[episode_index]


def group_metadata(**attributes: Any) -> bytes:
    """The `zarr.json` of a Zarr v3 group."""
    return json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1
    ).encode()


def read_embodiment(path: Path | str) -> Embodiment:
    """The robot a store belongs to, without reading its log."""
    return decode(Embodiment, _read_header(Path(path))["embodiment"], "embodiment")


def _read_header(path: Path) -> dict[str, Any]:
    if not path.exists():
        near = sorted(p.parent.name for p in path.absolute().parent.glob("*/commits"))
        exists = f" Stores beside it: {', '.join(near)}." if near else ""
        raise ValueError(
            f"there is no store at {path}.{exists} Make one with: ulna collect TASK --out {path}"
        )
    try:
        header = json.loads((path / "zarr.json").read_bytes())["attributes"]["ulna"]
        version = header["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not an Ulna store: its zarr.json is missing or not ours ({error!r})"
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has store version {version}; this Ulna reads up to {FORMAT_VERSION}. "
            "Update Ulna"
        )
    return header


def _foreign(path: Path) -> bool:
    """Whether a folder without zarr.json holds more than an interrupted `create` leaves."""
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".tmp-")}
    if not names <= {"commits", "segments"}:
        return True
    return any((path / "commits").glob("*.json"))
