"""Where the files of a store live: a local folder or an object store, behind the same few verbs.

Names are relative to the root of the store and use `/`. A file appears wholly or not at all;
`write` makes its bytes durable and `sync` its name, so a caller decides what is known to be on
the disk before what.

Next: `durable.py` (the promises of a local disk), `commits.py` (the log).
"""

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from . import durable


@dataclass(frozen=True)
class FileFacts:
    """One file of a store."""

    name: str
    size: int
    modified_s: float
    """When it got its content or its newest name; seconds since 1970."""


@runtime_checkable
class Storage(Protocol):
    """The verbs a store is built from."""

    location: str
    """How a person calls it: a path or an address."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start:stop` of a file; a negative `start` counts from its end.
        Raises FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Give the file this content, replacing what was there; the bytes are durable, the name
        after `sync` of its folder."""
        ...

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """Create the file, durably; False if it exists. One of any number of callers wins."""
        ...

    def link(self, source: str, name: str) -> None:
        """Give the content of `source` a second name, without copying where that is possible.
        Durable after `sync`. Raises FileExistsError."""
        ...

    def make_folder(self, name: str) -> None:
        """Make a folder and its parents; durable after `sync` of the folders above."""
        ...

    def sync(self, folders: Iterable[str]) -> None:
        """Make the names within these folders durable."""
        ...

    def names(self, folder: str, after: str = "") -> list[str]:
        """Names directly within a folder that sort after `after`, sorted, files and folders; empty
        if there is none."""
        ...

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if it is not there."""
        ...

    def walk(self, folder: str) -> Iterator[FileFacts]:
        """Every file below a folder, in no order."""
        ...

    def remove_empty_folders(self, folder: str, older_than_s: float) -> None:
        """Remove the folders below `folder` that hold nothing and were not changed since."""
        ...


class LocalFolder:
    """A folder of this machine (or of a network file system with hard links)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with (self.path / name).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size + start) if start < 0 else start
            end = size if stop is None else min(stop, size)
            return os.pread(file.fileno(), max(0, end - begin), begin)

    def write(self, name: str, data: bytes) -> None:
        durable.write_file(self.path / name, data)

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        return durable.put_if_absent(self.path / name, data)

    def link(self, source: str, name: str) -> None:
        try:
            os.link(self.path / source, self.path / name)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EXDEV):
                raise
            # A file has only so many names (65,000 on ext4): then it gets a copy.
            if not durable.put_if_absent(self.path / name, (self.path / source).read_bytes()):
                raise FileExistsError(errno.EEXIST, "exists", name) from error

    def make_folder(self, name: str) -> None:
        # Nobody else syncs the folders around the store.
        missing = [] if name else [p for p in self.path.absolute().parents if not p.exists()]
        (self.path / name).mkdir(parents=True, exist_ok=True)
        for folder in missing:
            durable.sync_folder(folder.parent)

    def sync(self, folders: Iterable[str]) -> None:
        for folder in folders:
            durable.sync_folder(self.path / folder)

    def names(self, folder: str, after: str = "") -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path / folder) if name > after)
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def walk(self, folder: str) -> Iterator[FileFacts]:
        for parent, _, files in os.walk(self.path / folder):
            for file in files:
                path = Path(parent) / file
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue  # a writer's temporary file, gone meanwhile
                # A second name for an old file is new: `pack` makes some, and commits them later.
                changed = max(facts.st_mtime, facts.st_ctime)
                yield FileFacts(path.relative_to(self.path).as_posix(), facts.st_size, changed)

    def remove_empty_folders(self, folder: str, older_than_s: float) -> None:
        oldest = time.time() - older_than_s
        parents = [Path(parent) for parent, _, _ in os.walk(self.path / folder, topdown=False)]
        # Asked before anything is removed: removing a folder changes the one around it.
        old = [path for path in parents[:-1] if path.stat().st_mtime <= oldest]
        for path in old:
            if not os.listdir(path):
                with suppress(OSError):  # a writer may just have put something there
                    path.rmdir()


class ObjectStore:
    """A prefix of a bucket, through obstore: `s3://bucket/path`, `gs://...`, `az://...`.

    Objects are durable and named the moment `put` returns, so `sync` has nothing to do. Credentials
    come from the environment, as obstore reads them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, ...).
    """

    def __init__(self, url: str, **options: Any) -> None:
        """`options` go to `obstore.store.from_url`."""
        import obstore
        import obstore.store

        if url.startswith("s3://"):
            # Without it S3 knows no copy that refuses to replace.
            options = {"copy_if_not_exists": "multipart", **options}
        # A wrong address is told after half a minute; obstore alone tries for three minutes.
        retry = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
        self._obstore = obstore
        self.location = url.rstrip("/")
        with self._explained("open"):
            # Which options there are depends on the kind of store; obstore checks them.
            from_url: Any = obstore.store.from_url
            self._store = from_url(url, **{"retry_config": retry, **options})

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and start < 0:
            raise ValueError(f"bytes {start}:{stop} of {name}: count both ends from the start")
        if stop is not None and stop <= start:
            return b""
        options: Any = {}
        if start < 0:
            options = {"range": {"suffix": -start}}
        elif stop is not None:
            options = {"range": (start, stop)}
        elif start > 0:
            options = {"range": {"offset": start}}
        with self._explained(name):
            return bytes(self._obstore.get(self._store, name, options=options).bytes())

    def write(self, name: str, data: bytes) -> None:
        with self._explained(name):
            self._obstore.put(self._store, name, data)

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        with self._explained(name):
            try:
                self._obstore.put(self._store, name, bytes(data), mode="create")
            except self._obstore.exceptions.AlreadyExistsError:
                # It may be ours: a request that succeeded, and whose answer was lost, is repeated.
                return self.read(name) == data
            return True

    def link(self, source: str, name: str) -> None:
        with self._explained(name):
            try:
                self._obstore.copy(self._store, source, name, overwrite=False)
            except self._obstore.exceptions.AlreadyExistsError as error:
                raise FileExistsError(errno.EEXIST, "exists", name) from error

    def make_folder(self, name: str) -> None:
        """Object stores have no folders."""

    def sync(self, folders: Iterable[str]) -> None:
        """Nothing to do: `put` returned."""

    def names(self, folder: str, after: str = "") -> list[str]:
        prefix = f"{folder}/" if folder else ""
        with self._explained(folder):
            if after:  # the server leaves out what comes before: one request for a long log
                pages = self._obstore.list(self._store, prefix, offset=f"{prefix}{after}")
                paths = [entry["path"].removeprefix(prefix) for page in pages for entry in page]
                return sorted({path.split("/", 1)[0] for path in paths})
            found = self._obstore.list_with_delimiter(self._store, prefix)
        below = [entry["path"] for entry in found["objects"]] + list(found["common_prefixes"])
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in below)

    def exists(self, name: str) -> bool:
        with self._explained(name):
            try:
                self._obstore.head(self._store, name)
            except FileNotFoundError:
                return False
            return True

    def delete(self, name: str) -> None:
        with self._explained(name), suppress(FileNotFoundError):
            self._obstore.delete(self._store, name)

    def walk(self, folder: str) -> Iterator[FileFacts]:
        with self._explained(folder):
            for entries in self._obstore.list(self._store, f"{folder}/" if folder else None):
                for entry in entries:
                    modified = entry["last_modified"].timestamp()
                    yield FileFacts(entry["path"], entry["size"], modified)

    def remove_empty_folders(self, folder: str, older_than_s: float) -> None:
        """Object stores have no folders."""

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Errors as a disk would give them, with what to do; a missing object is
        FileNotFoundError, anything else OSError."""
        try:
            yield
        except (FileNotFoundError, self._obstore.exceptions.BaseError) as error:
            said = str(error).split("\n\nDebug source", 1)[0]
            where = f"{self.location}, object {name!r}" if name else self.location
            if "NoSuchBucket" in said:
                raise OSError(
                    errno.ENXIO,
                    f"{where}: the bucket does not exist; make it first, and see whether the "
                    "address is spelled right and AWS_ENDPOINT and AWS_REGION are those of its "
                    "server",
                ) from error
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "there is no such object", where) from error
            refused = ("PermissionDenied", "Unauthenticated", "403", "401", "InvalidAccessKeyId")
            if any(word in f"{type(error).__name__} {said}" for word in refused):
                raise PermissionError(
                    errno.EACCES,
                    f"{where}: the server refuses our credentials; set AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or for a public bucket "
                    f"AWS_SKIP_SIGNATURE=true ({said})",
                ) from error
            raise OSError(
                errno.EIO,
                f"{where}: {said}; is AWS_ENDPOINT the right server, and reachable? One that "
                "speaks plain http also needs AWS_ALLOW_HTTP=true",
            ) from error


def open_storage(location: Path | str) -> Storage:
    """The storage at a path, or at an address such as `s3://bucket/path`."""
    if "://" in str(location):
        return ObjectStore(str(location))
    return LocalFolder(Path(location))


def copy_files(source: Storage, target: Storage, names: Iterable[str]) -> int:
    """Copy files between stores, bytes made durable (`sync` the folders after); gives the bytes."""
    copied = 0
    for name in names:
        data = source.read(name)
        target.write(name, data)
        copied += len(data)
    return copied


def free_bytes(storage: Storage) -> int | None:
    """Free space where a store lies; None where nobody knows."""
    if isinstance(storage, LocalFolder):
        return shutil.disk_usage(storage.path).free
    return None
