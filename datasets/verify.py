"""What a store holds (`describe`) and whether all of it is as it was written (`verify`)."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import commits
from .chunks import CHUNK_ROWS, DamagedData, array_crc32c, array_metadata
from .commits import EpisodeRecord
from .durable import TEMPORARY_PREFIX
from .store import Store
from .strict_json import encode


@dataclass(frozen=True)
class Problem:
    """One thing that `verify` found."""

    severity: Literal["error", "warning", "note"]
    """error: data is lost or changed. warning: readable, but not what a robot should learn from.
    note: space that nothing refers to, such as a crash leaves."""
    message: str
    episode: int | None = None
    """Index into `store.episodes`; None if it concerns the store."""
    uid: str | None = None
    stream: str | None = None

    def __str__(self) -> str:
        if self.episode is None:
            return f"{self.severity}: {self.message}"
        stream = f", stream {self.stream!r}" if self.stream else ""
        return f"{self.severity}: episode {self.episode} (uid {self.uid}{stream}): {self.message}"


def describe(store: Store) -> dict[str, Any]:
    """The facts of a store as plain JSON values."""
    records = store.episodes
    steps = sum(record.steps for record in records)
    successes = sum(record.success for record in records)
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
        "path": str(store.path),
        "bytes": sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        "episodes": len(records),
        "steps": steps,
        "duration_s": steps / store.embodiment.control_hz,
        "mean_steps": steps / len(records) if records else 0.0,
        "tasks": dict(sorted(Counter(record.task for record in records).items())),
        "instructions": dict(sorted(Counter(record.instruction for record in records).items())),
        "success": {
            "successes": successes,
            "rate": successes / len(records) if records else None,
        },
        "streams": dict(sorted(streams.items())),
        "segments": len({record.segment for record in records}),
        "damaged_commits": list(store.damaged_commits),
        "embodiment": encode(store.embodiment),
    }


def verify(store: Store, threads: int = 4) -> list[Problem]:
    """Read everything and compare it with the log; an empty list means all is well."""
    problems = _check_log(store)
    with ThreadPoolExecutor(threads, "ulna-verify") as pool:
        for found in pool.map(
            lambda index: _check_episode(store, index), range(len(store.episodes))
        ):
            problems += found
    return problems + _unreferenced(store)


def _check_log(store: Store) -> list[Problem]:
    problems = [
        Problem("error", f"commit record {text}; its episode cannot be found")
        for text in store.damaged_commits
    ]
    numbers = commits.numbers(store.path / "commits")
    missing = sorted(set(range(numbers[-1] + 1)) - set(numbers)) if numbers else []
    if missing:
        problems.append(Problem("error", f"commit records {missing} are missing from the log"))
    taken: dict[tuple[str, int], int] = {}
    for index, record in enumerate(store.episodes):
        for row in range(record.start, record.start + record.steps, CHUNK_ROWS):
            other = taken.setdefault((record.segment, row), index)
            if other != index:
                message = f"claims the same rows of segment {record.segment} as episode {other}"
                problems.append(Problem("error", message, index, record.uid))
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
        metadata_problem = _metadata_problem(store, record, name)
        if metadata_problem:
            report("error", metadata_problem, name)
        try:
            rows = store.read(name, index)
        except (DamagedData, OSError) as error:
            report("error", str(error), name)
            continue
        if array_crc32c(rows) != stream.crc32c:
            report("error", "the rows are not those of the commit record", name)
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            report("error", "holds NaN or infinity", name)
        if name == "time_ns" and (np.diff(rows) < 0).any():
            report("error", f"runs backwards at step {int(np.argmax(np.diff(rows) < 0)) + 1}", name)
        if name == "action" and rows.shape[1:] == (robot.action_dim,):
            low, high = (np.array(v, np.float32) for v in (robot.action_low, robot.action_high))
            outside = (rows < low) | (rows > high)
            if outside.any():
                step, entry = (int(number) for number in np.argwhere(outside)[0])
                report(
                    "warning",
                    f"{int(outside.any(1).sum())} of {record.steps} actions lie outside the "
                    f"limits, first {robot.action_names[entry]} = {rows[step, entry]:.6g} at step "
                    f"{step} (limits {low[entry]:g} to {high[entry]:g})",
                    name,
                )
    return problems


def _metadata_problem(store: Store, record: EpisodeRecord, name: str) -> str:
    """What is wrong with the `zarr.json` of a stream: other readers of the store depend on it."""
    stream = record.streams[name]
    path = store.path / "segments" / record.segment / name / "zarr.json"
    try:
        found = json.loads(path.read_bytes())
        rows = int(found["shape"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        return f"{path.relative_to(store.path)} cannot be read: {error!r}"
    if rows < record.start + record.steps:
        return f"the array has {rows} rows, the episode ends at {record.start + record.steps}"
    expected = array_metadata(rows, stream.shape, np.dtype(stream.dtype))
    differing = sorted(key for key in expected if expected[key] != found.get(key))
    return f"{path.relative_to(store.path)} differs in {', '.join(differing)}" if differing else ""


def _unreferenced(store: Store) -> list[Problem]:
    """Chunk files that no record claims: a writer that is at work now, or one that crashed."""
    claimed = {
        store.stream_file(name, record, row)
        for record in store.episodes
        for name in record.streams
        for row in range(0, record.steps, CHUNK_ROWS)
    }
    by_segment: dict[str, list[Path]] = {}
    for folder in (store.path / "segments").iterdir():
        for path in folder.rglob("*") if folder.is_dir() else ():
            is_chunk = path.name.startswith(("c.", TEMPORARY_PREFIX))
            if is_chunk and path.is_file() and path not in claimed:
                by_segment.setdefault(folder.name, []).append(path)
    return [
        Problem(
            "note",
            f"segment {name}: {len(paths)} files ({sum(p.stat().st_size for p in paths)} bytes) "
            "belong to no episode: an episode being written now, or one cut short by a crash",
        )
        for name, paths in sorted(by_segment.items())
    ]
