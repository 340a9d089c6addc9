"""A disk that is full: a small tmpfs of our own, filled up to a random rest before each operation.

The operation must fail with the system's "no space left" and change nothing, or take effect; then
the space is given back and the same operation must succeed. The mount is in a namespace that ends
with this process.
"""

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crash_content import CODECS, SENSORS, STREAMS, check_content, made, robot
from crash_workers import Tell, record

from ulna.datasets import commits, durable, edit
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.merge import merge
from ulna.datasets.pack import pack, packed_share
from ulna.datasets.recorder import Recorder, RecorderConfig
from ulna.datasets.store import Store
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer

SIZE = 8 << 20
MOST_FREE = {
    "writer": 60_000,
    "recorder": 60_000,
    "merge": 100_000,
    "pack": 60_000,
    "relabel": 8_000,
    "join": 60_000,
    "gc": 12_000,
}
"""Bytes, up to about what the operation needs; drawn from 0 to this."""
OPERATIONS = tuple(MOST_FREE)


def full_disk(request: dict[str, Any], tell: Tell) -> None:
    """Runs in a process of its own; tells one line per operation and one at the end."""
    folder, chance = Path(request["path"]), random.Random(request["seed"])
    folder.mkdir(parents=True, exist_ok=True)
    disk = _mount(folder)
    tell(disk="tmpfs" if disk else "a limit on what this process may write")
    full = _ballast(folder) if disk else _limit
    for number in range(request["operations"]):
        _one(folder, OPERATIONS[number % len(OPERATIONS)], 100 * (number + 1), chance, full, tell)
    tell(finished=True)


Full = Callable[[int], Any]
"""A context in which so many bytes are free."""


def _one(folder: Path, kind: str, seed: int, chance: random.Random, full: Full, tell: Tell) -> None:
    path, source = folder / f"{seed}.zarr", folder / f"{seed}_source.zarr"
    for where, seeds in ((path, range(seed, seed + 3)), (source, range(seed + 10, seed + 12))):
        Store.create(where, robot())
        with Writer(where, CODECS) as writer:
            for each in seeds:
                writer.add_episode(made(each))
    refused = 0
    with (
        Writer(path, CODECS) as writer,
        Recorder(writer, STREAMS, SENSORS, RecorderConfig(coders=1)) as recorder,
    ):
        store = Store.open(path)

        def work() -> None:
            store.refresh()
            match kind:
                case "writer":
                    writer.add_episode(made(seed + 20))
                case "recorder":
                    _record(recorder, seed + 20)
                case "merge":
                    merge([Store.open(source)], path)
                case "pack":
                    pack(writer, store)
                case "relabel":
                    edit.relabel(writer, store, [0], instruction="again")
                case "join":
                    edit.join(writer, store, [0, 2])
                case _:
                    edit.delete(writer, store, [0])
                    collect_garbage(writer, store, forget_deleted=True, grace_s=0.0)

        before = _look(path)
        with full(chance.randrange(MOST_FREE[kind])):
            try:
                work()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                refused = 1
        between = _look(path)
        if refused:
            # `gc` deletes and then clears up: two commands in one here.
            if between != before and kind != "gc":
                raise ValueError(f"{kind} on a full disk left {between}, before it was {before}")
            work()  # the same objects, the same command
        after = _look(path)
        done = packed_share(Store.open(path)) == 1 if kind == "pack" else after != before
        if not done:
            raise ValueError(f"{kind} did nothing after space was freed")
    errors = [str(p) for p in verify(Store.open(path)) if p.severity == "error"]
    if errors:
        raise ValueError(f"{kind} on a full disk: {errors}")
    tell(operation=kind, refused=refused)
    for where in (path, source):
        subprocess.run(["rm", "-r", where], check=True)


def _record(recorder: Recorder, seed: int) -> None:
    try:
        record(recorder, made(seed))
    except OSError:
        recorder.abort()
        raise


def _look(path: Path) -> dict[Any, Any]:
    """Every episode with its instruction, read whole."""
    store = Store.open(path)
    numbers = commits.numbers(store.storage)
    if store.damaged_commits or numbers != list(range(len(numbers))):
        raise ValueError(f"the log is damaged: {store.damaged_commits} {numbers}")
    return {check_content(store, record): record.instruction for record in store.episodes}


def _mount(folder: Path) -> bool:
    """Mount a tmpfs that only this process sees; False if that is not permitted."""
    try:
        os.unshare(os.CLONE_NEWNS)
    except OSError:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    for command in (["mount", "--make-rprivate", "/"], mount):
        try:
            if subprocess.run(command, capture_output=True).returncode:
                return False
        except FileNotFoundError:
            return False
    return True


def _ballast(folder: Path) -> Full:
    @contextmanager
    def full(free: int) -> Iterator[None]:
        ballast = folder / "ballast"
        facts = os.statvfs(folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - free))
        try:
            yield
        finally:
            ballast.unlink()

    return full


@contextmanager
def _limit(free: int) -> Iterator[None]:
    """Where nothing may be mounted: what a full disk would answer, to this process alone."""
    write = durable._write_all
    left = free

    def limited(descriptor: int, data: bytes | memoryview) -> None:
        nonlocal left
        write(descriptor, memoryview(data)[: max(0, left)])
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    durable._write_all = limited
    try:
        yield
    finally:
        durable._write_all = write
