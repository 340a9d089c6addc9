"""The append-only log of a store: small JSON files, numbered without gaps.

        commits/000000000000.json, commits/000000000001.json, ...

A commit is a list of operations that take effect together. An episode exists when an `Add` of it
is in the log; its arrays were durable before. Labels, deletions and repacking are further commits,
so nothing is ever rewritten and every edit can be undone. A commit appears with one put-if-absent,
which fails when the number is taken: any number of writers append without a lock, the loser takes
the next number.

Next: `episode_table.py`, which folds the log into a table of episodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from .schema import Subgoal
from .sealed_json import seal, unseal
from .storage import LocalFolder, Storage
from .strict_json import decode, encode

FOLDER = "commits"
_LOOK_AHEAD = 64


@dataclass(frozen=True)
class StreamRecord:
    """One stream of one episode."""

    dtype: str
    shape: tuple[int, ...]
    """Of one row, without the time axis."""
    crc32c: int
    """Ties the record to its arrays: of the rows in C order, or, where frames are coded with loss
    (JPEG, video), of the coded chunks one after the other."""
    rows: int | None = None
    """Rows of a sensor with a rate of its own; None: one per step of the episode."""
    start: int | None = None
    """First row of such a sensor in its array; None: that of the episode."""


@dataclass(frozen=True)
class EpisodeRecord:
    """What the log says of one episode."""

    uid: str
    task: str
    instruction: str
    seed: int
    steps: int
    success: bool | None
    segment: str
    """Folder under `segments/` that holds the arrays."""
    start: int
    """Row of those arrays at which the episode begins."""
    streams: dict[str, StreamRecord]
    """By name; frames are `images/<camera>` and `depth/<camera>`, sensors with their own rate
    `sensors/<name>/values` and `sensors/<name>/time_ns`."""
    info: dict[str, str | int | float | bool]
    paraphrases: tuple[str, ...] = ()
    subgoals: tuple[Subgoal, ...] = ()

    @property
    def cameras(self) -> tuple[str, ...]:
        names = self.streams
        return tuple(name.removeprefix("images/") for name in names if name.startswith("images/"))

    def extent(self, stream: str) -> tuple[int, int]:
        """First row in its array, and rows, of one stream."""
        described = self.streams[stream]
        start = self.start if described.start is None else described.start
        return start, self.steps if described.rows is None else described.rows

    @property
    def key(self) -> tuple[str, int, str]:
        """By which a store is sorted, whichever writer finished first."""
        return self.task, self.seed, self.uid


@dataclass(frozen=True)
class Add:
    """A new episode, or a new account of one: splitting adds the parts."""

    episode: EpisodeRecord
    op: Literal["add"] = "add"


@dataclass(frozen=True)
class Delete:
    """The episode is no longer there; its arrays stay until `gc` is told to forget them."""

    uid: str
    op: Literal["delete"] = "delete"


@dataclass(frozen=True)
class Change:
    """New labels for an episode. None leaves a label as it is."""

    uid: str
    task: str | None = None
    instruction: str | None = None
    success: bool | None = None
    paraphrases: tuple[str, ...] | None = None
    subgoals: tuple[Subgoal, ...] | None = None
    info: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Added to what is there."""
    op: Literal["change"] = "change"


@dataclass(frozen=True)
class Move:
    """The same arrays lie somewhere else now."""

    uid: str
    segment: str
    start: int
    sensor_starts: dict[str, int] = field(default_factory=dict)
    """New first rows of the streams of sensors with a rate of their own."""
    op: Literal["move"] = "move"


@dataclass(frozen=True)
class Undo:
    """An earlier commit counts no more; an `Undo` can be undone too."""

    number: int
    op: Literal["undo"] = "undo"


@dataclass(frozen=True)
class Forget:
    """The arrays of these episodes were removed for good: their deletion cannot be undone."""

    uids: tuple[str, ...]
    op: Literal["forget"] = "forget"


Op = Add | Delete | Change | Move | Undo | Forget
_KINDS: dict[str, Any] = {
    "delete": Delete,
    "change": Change,
    "move": Move,
    "undo": Undo,
    "forget": Forget,
}


@dataclass(frozen=True)
class Commit:
    """One entry of the log."""

    number: int
    time: str
    """UTC, ISO 8601; for people, nothing is decided by it."""
    tool: str
    """What wrote it, such as `ulna 0.1.0 collect`."""
    ops: tuple[Op, ...]


def commit_name(number: int) -> str:
    return f"{FOLDER}/{number:012d}.json"


def append(storage: Storage, ops: Sequence[Op], number: int, tool: str) -> int:
    """Commit `ops` under the first free number from `number` on; gives that number."""
    content = {
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "tool": f"ulna {version('ulna')} {tool}",
        "ops": [_slim(encode(op)) for op in ops],
    }
    data = seal("commit", content)
    while not storage.put_if_absent(commit_name(number), data):
        number += 1
    return number


def numbers(storage: Storage, after: int = -1) -> list[int]:
    """Numbers present in the log beyond `after`, in order; of -1 all of them are listed.

    A folder of a million commits takes seconds to list, so beyond a checkpoint the log is followed
    one number at a time to its end. It has no gaps unless someone removed a record: then what
    follows is found by looking ahead, and `verify`, which lists everything, names what is missing.
    """
    if after >= 0 and isinstance(storage, LocalFolder):
        return _followed(storage, after)
    names = storage.names(FOLDER, after=f"{after:012d}.json" if after >= 0 else "")
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return [int(stem) for stem in stems if stem.isdigit()]


def _followed(storage: LocalFolder, after: int) -> list[int]:
    found = []
    number = after + 1
    while storage.exists(commit_name(number)):
        found.append(number)
        number += 1
    ahead = [*range(number + 1, number + _LOOK_AHEAD), *(number + (1 << k) for k in range(6, 31))]
    if any(storage.exists(commit_name(n)) for n in ahead):
        return [n for n in numbers(storage) if n > after]
    return found


def read(storage: Storage, number: int) -> Commit:
    """Raises DamagedData if the file is not what was committed."""
    name = commit_name(number)
    commit = unseal("commit", storage.read(name), name)
    ops = tuple(_op(op, name) for op in commit["ops"])
    return Commit(number, commit["time"], commit["tool"], ops)


def record_from_json(content: dict[str, Any]) -> EpisodeRecord:
    """Undo `encode` of an EpisodeRecord; written out, for opening a store is mostly this."""
    content = dict(content)
    streams = {
        name: StreamRecord(**{**stream, "shape": tuple(stream["shape"])})
        for name, stream in content.pop("streams").items()
    }
    paraphrases = tuple(content.pop("paraphrases", ()))
    subgoals = tuple(Subgoal(**subgoal) for subgoal in content.pop("subgoals", ()))
    return EpisodeRecord(**content, streams=streams, paraphrases=paraphrases, subgoals=subgoals)


def _op(content: dict[str, Any], name: str) -> Op:
    if content["op"] == "add":
        return Add(record_from_json(content["episode"]))
    if content["op"] not in _KINDS:
        raise ValueError(
            f"{name} holds the operation {content['op']!r}, which this Ulna does not know; "
            "it was written by a newer one: update Ulna"
        )
    return decode(_KINDS[content["op"]], content, name)


def _slim(op: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing: optional labels that are not set."""
    if op["op"] == "add":
        episode = op["episode"]
        for stream in episode["streams"].values():
            for name in ("rows", "start"):
                if stream[name] is None:
                    del stream[name]
        for name in ("paraphrases", "subgoals"):
            if not episode[name]:
                del episode[name]
    return {name: value for name, value in op.items() if value is not None}
