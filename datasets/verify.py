"""What a store holds (`describe`) and whether all of it is as it was written (`verify`)."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from . import commits
from .checkpoint_file import checkpoint_numbers
from .chunks import DamagedData
from .commits import EpisodeRecord
from .durable import TEMPORARY_PREFIX
from .episode_table import EpisodeTable, load_checkpoint
from .problem import Problem
from .record_reader import array_folder
from .sealed_json import check_zarr
from .store import Store
from .strict_json import encode


def describe(store: Store) -> dict[str, Any]:
    """The facts of a store as plain JSON values."""
    records = store.episodes
    steps = sum(record.steps for record in records)
    successes = sum(record.success is True for record in records)
    labelled = sum(record.success is not None for record in records)
    streams: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, stream in record.streams.items():
            entry = streams.setdefault(
                name, {"dtype": stream.dtype, "shape": list(stream.shape), "episodes": 0}
            )
            entry["episodes"] += 1
            if entry["shape"] != list(stream.shape):
                entry["shape"] = "varies"
    return {
        "path": store.location,
        "bytes": sum(file.size for file in store.storage.walk("")),
        "episodes": len(records),
        "steps": steps,
        "duration_s": steps / store.embodiment.control_hz,
        "mean_steps": steps / len(records) if records else 0.0,
        "tasks": dict(sorted(Counter(record.task for record in records).items())),
        "instructions": dict(sorted(Counter(record.instruction for record in records).items())),
        "success": {
            "successes": successes,
            "labelled": labelled,
            "rate": successes / labelled if labelled else None,
        },
        "streams": dict(sorted(streams.items())),
        "segments": len({record.segment for record in records}),
        "damaged_commits": list(store.damaged_commits),
        "embodiment": encode(store.embodiment),
    }


def verify(store: Store, threads: int = 4) -> list[Problem]:
    """Read everything and compare it with the log; an empty list means all is well."""
    problems = _check_log(store) + _check_groups(store) + _check_rows(store)
    with ThreadPoolExecutor(threads, "ulna-verify") as pool:
        for found in pool.map(
            lambda index: _check_episode(store, index), range(len(store.episodes))
        ):
            problems += found
    return problems + _unreferenced(store)


def _check_log(store: Store) -> list[Problem]:
    problems, log = [], []
    numbers = commits.numbers(store.storage)
    for number in numbers:
        try:
            log.append(commits.read(store.storage, number))
        except DamagedData as error:
            where = "only a checkpoint still knows its episodes: keep the folder checkpoints"
            if str(error) in store.damaged_commits:
                where = "its episodes cannot be found"
            problems.append(Problem("error", f"commit record {error}; {where}"))
    missing = sorted(set(range(numbers[-1] + 1)) - set(numbers)) if numbers else []
    if missing:
        problems.append(Problem("error", f"commit records {missing} are missing from the log"))
    if problems:
        return problems
    for number in checkpoint_numbers(store.storage):
        folded = [commit for commit in log if commit.number <= number]
        try:
            kept = load_checkpoint(store.storage, number)
            same = list(kept) == list(EpisodeTable().with_commits(folded))
            what = f"the checkpoint of commit {number} tells other episodes than the log"
        except (DamagedData, FileNotFoundError) as error:
            same, what = False, str(error)
        if not same:
            problems.append(Problem("error", f"{what}; delete the folder checkpoints"))
    return problems


def _check_groups(store: Store) -> list[Problem]:
    """The metadata that belongs to no one episode: of the store and of the segments."""
    parts = {
        parent.as_posix()
        for record in store.episodes
        for name in record.streams
        for parent in PurePosixPath(array_folder(record, name)).parents
    } | {"segments"}
    problems = []
    for folder in sorted(parts - {"."}) + [""]:
        name = str(PurePosixPath(folder, "zarr.json"))
        try:
            check_zarr(store.storage.read(name), name)
        except (DamagedData, OSError) as error:
            problems.append(Problem("error", str(error)))
    return problems


def _check_rows(store: Store) -> list[Problem]:
    """No two episodes may claim the same rows."""
    claims: dict[str, list[tuple[int, int, int]]] = {}
    for index, record in enumerate(store.episodes):
        claims.setdefault(record.segment, []).append(
            (record.start, record.start + record.steps, index)
        )
    problems = []
    for segment, ranges in claims.items():
        for (_, stop, one), (start, _, other) in pairwise(sorted(ranges)):
            if start < stop:
                message = f"claims the same rows of segment {segment} as episode {one}"
                problems.append(Problem("error", message, other, store.episodes[other].uid))
    return problems


def _check_episode(store: Store, index: int) -> list[Problem]:
    record = store.episodes[index]
    problems = []

    def report(severity: Literal["error", "warning"], message: str, stream: str) -> None:
        problems.append(Problem(severity, message, index, record.uid, stream))

    robot = store.embodiment
    images = {f"images/{camera.name}" for camera in robot.cameras}
    for name in sorted(({"state", "action"} | images) - set(record.streams)):
        report("error", f"is missing; embodiment {robot.name} needs it", name)
    for name, stream in record.streams.items():
        try:
            too_short = _array_too_short(store, record, name)
            if too_short:
                report("error", too_short, name)
            lossy = store.layout(name, record).lossy
            rows = None if lossy else store.read(name, index)
            checksum = store.reader.checksum(name, record, rows)
        except (DamagedData, OSError) as error:
            report("error", str(error), name)
            continue
        if checksum != stream.crc32c:
            report("error", "the rows are not those of the commit record", name)
        if rows is not None:
            _check_numbers(store, name, rows, report)
    return problems


def _check_numbers(store: Store, name: str, rows: np.ndarray, report: Any) -> None:
    robot = store.embodiment
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        report("error", "holds NaN or infinity", name)
    if name.endswith("time_ns") and (np.diff(rows) < 0).any():
        report("error", f"runs backwards at step {int(np.argmax(np.diff(rows) < 0)) + 1}", name)
    if name == "action" and rows.shape[1:] == (robot.action_dim,):
        low, high = (np.array(v, np.float32) for v in (robot.action_low, robot.action_high))
        outside = (rows < low) | (rows > high)
        if outside.any():
            step, entry = (int(number) for number in np.argwhere(outside)[0])
            report(
                "warning",
                f"{int(outside.any(1).sum())} of {len(rows)} actions lie outside the limits, "
                f"first {robot.action_names[entry]} = {rows[step, entry]:.6g} at step {step} "
                f"(limits {low[entry]:g} to {high[entry]:g})",
                name,
            )


def _array_too_short(store: Store, record: EpisodeRecord, name: str) -> str:
    """What is wrong with the length of an array: other readers of the store depend on it."""
    start, rows = record.extent(name)
    file = f"{array_folder(record, name)}/zarr.json"
    data = store.storage.read(file)
    check_zarr(data, file)
    length = json.loads(data)["shape"][0]
    if length < start + rows:
        return f"the array has {length} rows, the episode ends at {start + rows}"
    return ""


def referenced_files(store: Store) -> set[str]:
    """Names of the chunk files that the episodes of a store lie in."""
    found: set[str] = set()
    for record in store.episodes:
        for name in record.streams:
            try:
                found.update(store.stream_files(name, record))
            except DamagedData:
                continue  # reported with the episode
    return found


def _unreferenced(store: Store) -> list[Problem]:
    """Chunk files that no record claims: a writer that is at work now, or one that crashed."""
    claimed = referenced_files(store)
    by_segment: dict[str, list[int]] = {}
    for file in store.storage.walk("segments"):
        path = PurePosixPath(file.name)
        is_chunk = path.name.startswith(("c.", TEMPORARY_PREFIX))
        if is_chunk and file.name not in claimed:
            by_segment.setdefault(path.parts[1], []).append(file.size)
    return [
        Problem(
            "note",
            f"segment {name}: {len(sizes)} files ({sum(sizes)} bytes) belong to no episode: one "
            "being written now, one cut short by a crash, or one deleted (see `ulna data gc`)",
        )
        for name, sizes in sorted(by_segment.items())
    ]
