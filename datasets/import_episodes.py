"""Importing a dataset: streaming, in several processes or on many machines, resumable.

        keys of the source - keys the store has = work, in batches
               worker: read one episode at a time -> a batch of them -> one commit
               worker: ...

Every episode's `info` names its source and its key there, so the store itself is the account of
what is done: after Ctrl-C or a crash the same command carries on, and nothing comes twice. An
episode that cannot be read is reported and does not stop the others.

Next: `import_fields.py` (what a source is), `import_robomimic.py` (the simplest of them).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .commits import Add
from .episode_table import undone
from .image_codec import ImageCodec, Jpeg
from .import_fields import Source
from .import_workers import (
    BATCH_EPISODES,
    FORMATS,
    Result,
    Skipped,
    Work,
    Worker,
    importer,
    open_source,
    run_in_processes,
    run_on_ray,
)
from .schema import Embodiment
from .storage import open_storage
from .store import Store


@dataclass(frozen=True)
class Progress:
    """How far an import is."""

    done: int
    """Episodes finished, skipped ones included."""
    total: int
    """Episodes this run has to do."""
    steps: int
    seconds: float


@dataclass(frozen=True)
class ImportSummary:
    """What an import did."""

    format: str
    imported: int
    steps: int
    already_there: int
    skipped: tuple[Skipped, ...]
    losses: tuple[str, ...]
    """What the store does not hold of the source, in sentences."""

    @property
    def complete(self) -> bool:
        """Whether every episode that was asked for is in the store."""
        return not self.skipped


def import_episodes(
    path: Path | str,
    store: Path | str,
    format: str | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    limit: int | None = None,
    image_codec: ImageCodec | Mapping[str, ImageCodec] | None = None,
    options: Mapping[str, Any] | None = None,
    source_name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportSummary:
    """Bring the episodes of the dataset at `path` into `store`, which is made if it is not there.

    `options`: fields of `Facts` and parameters of the importer's class, by name; None means not
    given. `limit`: only the first so many episodes. `workers` processes on this machine, or with
    `ray_address` (`auto`, `local`, or where a cluster is) so many Ray actors; then `path` and
    `store` must be reachable from all machines. `source_name` is what the store remembers the
    source by (default: format and absolute path); give the old one for a dataset that was moved.

    Raises ValueError if the format is unknown, an option is wrong or the store's embodiment is
    another one, OSError if the store cannot be written.
    """
    path = Path(path)
    format = format or recognise(path)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if workers < 1:
        raise ValueError(f"{workers} workers; at least one has to do it")
    source = open_source(format, path, given)
    location = str(store)
    _open_or_create(location, source.embodiment)
    name = source_name or f"{format}:{path.resolve()}"
    keys = list(source.keys())[:limit]
    present = imported_keys(location, name)
    todo = [key for key in keys if key not in present]
    work = Work(format, path, given, location, name, image_codec or Jpeg())
    started, done, steps = time.perf_counter(), 0, 0
    skipped: list[Skipped] = []
    losses = dict.fromkeys(source.losses)
    for result in _run(work, source, todo, workers, ray_address):
        done += len(result.steps) + len(result.skipped)
        steps += sum(result.steps.values())
        skipped += result.skipped
        losses.update(dict.fromkeys(result.losses))
        if progress is not None:
            progress(Progress(done, len(todo), steps, time.perf_counter() - started))
    order = {key: position for position, key in enumerate(keys)}
    return ImportSummary(
        format=format,
        imported=done - len(skipped),
        steps=steps,
        already_there=len(keys) - len(todo),
        skipped=tuple(sorted(skipped, key=lambda episode: order[episode.key])),
        losses=tuple(losses),
    )


def recognise(path: Path) -> str:
    """The format of the dataset at `path`. Raises ValueError that says what was looked for."""
    if not path.exists():
        raise ValueError(f"there is nothing at {path}; give the file or folder of the dataset")
    looked_for = []
    for name, (module, _) in FORMATS.items():
        reader = importer(module)
        if reader.recognise(path):
            return name
        looked_for.append(f"{name}: {reader.LOOKED_FOR}")
    raise ValueError(
        f"{path} is in no format that is known. Looked for: {'; '.join(looked_for)}. "
        "If it is one of these, name it with --format"
    )


def imported_keys(store: str, source_name: str) -> set[str]:
    """Keys of this source that the store has or had: an episode that was deleted on purpose does
    not come back, one whose import was undone does."""
    opened = Store.open(store)
    log = opened.log
    gone = undone(log)
    records = [
        op.episode
        for commit in log
        if commit.number not in gone
        for op in commit.ops
        if isinstance(op, Add)
    ]
    return {
        str(record.info["source_key"])
        for record in (*records, *opened.episodes)
        if record.info.get("source") == source_name and "source_key" in record.info
    }


def _open_or_create(location: str, embodiment: Embodiment) -> None:
    if not open_storage(location).exists("zarr.json"):
        Store.create(location, embodiment)
        return
    there = Store.open(location).embodiment
    differences = [
        f"{field.name} is {getattr(embodiment, field.name)!r}, the store has "
        f"{getattr(there, field.name)!r}"
        for field in fields(Embodiment)
        if field.compare and getattr(embodiment, field.name) != getattr(there, field.name)
    ]
    if differences:
        raise ValueError(
            f"{location} holds episodes of another embodiment than the source: "
            f"{'; '.join(differences)}. Give these facts as options, or choose another --out"
        )


def _run(
    work: Work, source: Source, keys: Sequence[str], workers: int, ray_address: str | None
) -> Iterator[Result]:
    """The results of all batches, as they come."""
    # Small batches at the end of short lists, so that no worker is left without.
    size = max(1, min(BATCH_EPISODES, len(keys) // (4 * workers)))
    batches = [keys[first : first + size] for first in range(0, len(keys), size)]
    if ray_address is not None:
        yield from run_on_ray(work, batches, workers, ray_address)
    elif workers == 1:
        with Worker(work, source) as worker:
            for batch in batches:
                yield from worker.results(batch)
    else:
        yield from run_in_processes(work, batches, workers)
