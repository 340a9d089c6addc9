"""The append-only log of a store: one small JSON file per episode, numbered without gaps.

        commits/000000000000.json, commits/000000000001.json, ...

An episode exists when its record does; its arrays were synced before. A record appears with one
`link`, which fails when the number is taken, so any number of writers append to one store without
a lock: the loser takes the next number.

Next: `store.py`, which folds the log into a table of episodes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .chunks import DamagedData, crc32c
from .durable import put_if_absent
from .strict_json import encode


@dataclass(frozen=True)
class StreamRecord:
    """One stream of one episode."""

    dtype: str
    shape: tuple[int, ...]
    """Of one row, without the time axis."""
    crc32c: int
    """Of the decoded rows in C order: ties the record to its arrays, whatever their encoding."""


@dataclass(frozen=True)
class EpisodeRecord:
    """What the log says of one episode."""

    uid: str
    task: str
    instruction: str
    seed: int
    steps: int
    success: bool
    segment: str
    """Folder under `segments/` that holds the arrays."""
    start: int
    """Row of those arrays at which the episode begins."""
    streams: dict[str, StreamRecord]
    """By name; frames are `images/<camera>`."""
    info: dict[str, str | int | float | bool]

    @property
    def cameras(self) -> tuple[str, ...]:
        names = self.streams
        return tuple(name.removeprefix("images/") for name in names if name.startswith("images/"))


def commit_path(folder: Path, number: int) -> Path:
    return folder / f"{number:012d}.json"


def append(folder: Path, record: EpisodeRecord, number: int) -> int:
    """Commit `record` under the first free number from `number` on; gives that number."""
    content = {"op": "add", **encode(record)}
    # The checksum covers the text between the braces, as bytes: no canonical form is needed.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    data = f'{{"crc32c": {crc32c(text.encode())}, "record": {text}}}\n'.encode()
    while not put_if_absent(commit_path(folder, number), data):
        number += 1
    return number


def numbers(folder: Path) -> list[int]:
    """Numbers present in the log, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def read(path: Path) -> EpisodeRecord:
    """Raises DamagedData if the file is not what was committed."""
    data = path.read_bytes()
    try:
        content = json.loads(data)
        text = data.split(b'"record": ', 1)[1][:-2]
        intact = content["crc32c"] == crc32c(text)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DamagedData(f"{path.name}: {error}") from error
    if not intact:
        raise DamagedData(f"{path.name}: the checksum does not match")
    return _record(content["record"], path)


def _record(content: dict[str, Any], path: Path) -> EpisodeRecord:
    if content.pop("op") != "add":
        raise ValueError(f"{path} was written by a newer Ulna; update Ulna to read this store")
    streams = {
        name: StreamRecord(stream["dtype"], tuple(stream["shape"]), stream["crc32c"])
        for name, stream in content.pop("streams").items()
    }
    return EpisodeRecord(**content, streams=streams)
