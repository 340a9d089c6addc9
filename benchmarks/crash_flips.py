"""One flipped bit anywhere in a store: does `verify` see it, and say where?

The store has JPEG, video and lossless frames, depth, a sensor, packed and unpacked episodes and a
checkpoint. Half of the flips choose a file first, so that small ones get their share, half choose
a byte of all. What `verify` does not report is read as a user would: if all is bit by bit as
before, the flip was harmless, otherwise it went unnoticed.
"""

import random
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crash_content import ALL_CODECS, made, robot
from crash_workers import Tell

from ulna.datasets.episode_table import load_checkpoint
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.pack import pack
from ulna.datasets.store import Store
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer, checkpoint

CAMERAS = tuple(ALL_CODECS)


def make_store(path: Path) -> Store:
    """Three packed episodes, three that are not, a checkpoint in between."""
    Store.create(path, robot(CAMERAS))
    with Writer(path, ALL_CODECS) as writer:
        for seed in range(3):
            writer.add_episode(made(seed, CAMERAS))
        pack(writer, Store.open(path))
        collect_garbage(writer, Store.open(path), grace_s=0.0)
        checkpoint(writer.storage, always=True)
        for seed in range(3, 6):
            writer.add_episode(made(seed, CAMERAS))
    store = Store.open(path)
    problems = verify(store)
    if problems:
        raise RuntimeError(f"the store is not whole to begin with: {problems}")
    return store


@dataclass(frozen=True)
class Place:
    """A bit of a file."""

    file: str
    byte: int
    bit: int


def draw(path: Path, flips: int, seed: int) -> list[Place]:
    chance = random.Random(seed)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    sizes = [file.stat().st_size for file in files]
    places = []
    for number in range(flips):
        if number % 2:
            file = chance.choice(files)
        else:
            (file,) = chance.choices(files, sizes)
        byte = chance.randrange(file.stat().st_size)
        places.append(Place(file.relative_to(path).as_posix(), byte, chance.randrange(8)))
    return places


def flip_bits(request: dict[str, Any], tell: Tell) -> None:
    """Runs in a process of its own, for a flipped bit might end it; tells one line per flip."""
    path = Path(request["path"])
    owners = _owners(Store.open(path))
    whole = _read(path)
    for number, place in list(enumerate(draw(path, request["flips"], request["seed"])))[
        request["begin"] :
    ]:
        file = path / place.file
        intact = file.read_bytes()
        flipped = bytearray(intact)
        flipped[place.byte] ^= 1 << place.bit
        file.write_bytes(flipped)
        tell(flip=number, file=place.file, byte=place.byte, bit=place.bit)
        try:
            tell(outcome=_outcome(path, place, owners, whole), kind=kind_of(place.file))
        finally:
            file.write_bytes(intact)
    tell(finished=True)


def _outcome(path: Path, place: Place, owners: dict[str, set[tuple[str, str]]], whole: Any) -> str:
    """detected, misnamed (detected, with the blame elsewhere), harmless or unnoticed."""
    try:
        errors = [p for p in verify(Store.open(path)) if p.severity == "error"]
    except (ValueError, OSError) as error:
        return "detected" if PurePosixPath(place.file).name in str(error) else "misnamed"
    if not errors:
        return "harmless" if _read(path) == whole else "unnoticed"
    if place.file in owners:
        named = {(problem.uid, problem.stream) for problem in errors}
        return "detected" if named <= owners[place.file] else "misnamed"
    return "detected" if all(place.file in str(problem) for problem in errors) else "misnamed"


def kind_of(file: str) -> str:
    """What sort of file it is, for the table."""
    parts = PurePosixPath(file).parts
    if parts[0] in ("commits", "checkpoints"):
        return parts[0]
    return "zarr.json" if parts[-1] == "zarr.json" else "chunks"


def _owners(store: Store) -> dict[str, set[tuple[str, str]]]:
    """Episodes and streams that lie in a file, or are described by it."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for record in store.episodes:
        for name in record.streams:
            files = store.stream_files(name, record)
            for file in [*files, f"segments/{record.segment}/{name}/zarr.json"]:
                owners.setdefault(file, set()).add((record.uid, name))
    return owners


def _read(path: Path) -> Any:
    """All that a reader can find out."""
    store = Store.open(path)
    episodes = []
    for record in store.episodes:
        streams = {n: store.reader.read(n, record).tobytes() for n in record.streams}
        episodes.append((record, streams))
    numbers = [int(p.stem) for p in (path / "checkpoints").iterdir()]
    kept = [list(load_checkpoint(store.storage, number)) for number in numbers]
    return store.embodiment, store.uuid, store.log, episodes, kept
