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

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from . import commits
from .chunks import DamagedData
from .commits import Commit, EpisodeRecord, Forget, Move
from .episode_table import EpisodeTable, newest_checkpoint, undone
from .image_codec import EncodedFrames
from .layout import Layout
from .record_reader import RecordReader
from .schema import Embodiment, Episode, Sensor
from .storage import LocalFolder, Storage, open_storage
from .store_header import create_header, read_header


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
        self.last_commit = -1
        """Number of the newest commit that was taken in; -1: none."""
        self.operations_since_checkpoint = 0
        """What the log says after its newest checkpoint that `refresh` could use."""
        self._reader = RecordReader(storage)

    @staticmethod
    def create(location: Path | str, embodiment: Embodiment) -> "Store":
        """Make an empty store. Refuses a path where something is."""
        storage = open_storage(location)
        if storage.exists("zarr.json"):
            raise ValueError(
                f"{location} already is a store with {len(Store.open(location).episodes)} "
                "episodes; add to it with --append, or choose another --out"
            )
        if not create_header(storage, embodiment):
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
        store = Store(storage, *read_header(storage), version)
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
                    known = self._commits.get(number)
                    found.append(commits.read(self.storage, number) if known is None else known)
                except DamagedData:
                    continue  # `damaged_commits` and `verify` tell
        return tuple(found)

    def refresh(self) -> None:
        """Take in what was committed since the store was opened."""
        base = newest_checkpoint(
            self.storage, below=None if self.version is None else self.version + 1
        )
        while True:
            numbers = commits.numbers(self.storage, after=base.number)
            last = numbers[-1] if numbers else base.number
            version = last if self.version is None else self.version
            damaged, later = [], []
            for commit in self._read_commits(numbers):
                if isinstance(commit, Commit):
                    later.append(_as_of(commit, version))
                else:
                    damaged.append(str(commit))
            reached = min(undone(later), default=base.number + 1)
            # An undo that reaches back before the checkpoint: fold again from an older one; and
            # so if the checkpoint turns out to be damaged.
            if reached > base.number:
                try:
                    table = base.table.with_commits(later) if later else base.table
                    break
                except DamagedData:
                    reached = base.number
            base = newest_checkpoint(self.storage, below=reached)
        if damaged and set(damaged) != set(self.damaged_commits):
            warnings.warn(
                f"{self.location}: {len(damaged)} damaged commit records, their episodes are "
                f"missing: {'; '.join(damaged)}",
                stacklevel=2,
            )
        self.damaged_commits = tuple(damaged)
        self.last_commit = last
        self.operations_since_checkpoint = sum(len(commit.ops) for commit in later)
        self._commits = {commit.number: self._commits[commit.number] for commit in later}
        self._table = table

    def layout(self, stream: str, record: EpisodeRecord) -> Layout:
        """How the array of a stream is cut and coded."""
        return self._reader.layout(stream, record)

    def stream_files(self, stream: str, record: EpisodeRecord) -> list[str]:
        """Names of the files that hold a stream of an episode."""
        return self._reader.files(stream, record)

    @property
    def reader(self) -> RecordReader:
        """Reads by record instead of by number."""
        return self._reader

    def read(
        self, stream: str, episode_index: int, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "rows ..."]:
        """Rows `start:stop` of one stream (`state`, `images/front`, ...).

        Raises DamagedData, which names episode and stream, if the bytes on disk have changed.
        """
        return self._reader.read(stream, self.record(episode_index), start, stop)

    def read_into(
        self,
        stream: str,
        episode_index: int,
        out: Shaped[np.ndarray, "rows ..."],
        start: int = 0,
    ) -> None:
        """Like `read`, into `out` (contiguous, of the stream's type), which says how many rows."""
        self._reader.read_into(stream, self.record(episode_index), out, start)

    def read_encoded(self, camera: str, episode_index: int) -> EncodedFrames:
        """All frames of a camera as they are stored, not decoded."""
        return self._reader.read_encoded(f"images/{camera}", self.record(episode_index))

    def read_episode(self, episode_index: int) -> Episode:
        """The whole episode, equal to what `Writer.add_episode` was given (frames as their codec
        keeps them)."""
        record = self.record(episode_index)
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
            self.record(int(outside[0]))
        return chosen

    def _read_commits(self, numbers: Sequence[int]) -> list[Commit | DamagedData]:
        """These commits, or what is wrong with them."""
        unknown = [number for number in numbers if number not in self._commits]
        if len(unknown) < 2 or isinstance(self.storage, LocalFolder):
            return [self._commit(number) for number in numbers]
        # A request takes tens of milliseconds, and there may be a thousand.
        with ThreadPoolExecutor(32, "ulna-log") as threads:
            return list(threads.map(self._commit, numbers))

    def _commit(self, number: int) -> Commit | DamagedData:
        if number not in self._commits:
            try:
                self._commits[number] = commits.read(self.storage, number)
            except DamagedData as error:
                return error
        return self._commits[number]

    def record(self, episode_index: int) -> EpisodeRecord:
        """What the log says of an episode. Raises ValueError if there is none of this number."""
        if not 0 <= episode_index < len(self._table):
            raise ValueError(
                f"episode {episode_index} does not exist: {self.location} holds "
                f"{len(self._table)} episodes, counted from 0"
            )
        return self._table[episode_index]


def _as_of(commit: Commit, version: int) -> Commit:
    """A commit as an earlier version sees it: not its labels, but where the arrays lie now."""
    if commit.number <= version:
        return commit
    return replace(commit, ops=tuple(op for op in commit.ops if isinstance(op, Move | Forget)))
