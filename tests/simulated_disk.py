"""A disk in memory that may lose its power: what POSIX promises of files and folders, and no more.

        content of a file   on the disk when `write` or `put_if_absent` returns (they sync it)
        names in a folder   on the disk after `sync` of this folder; until then each of them may
                            have arrived or not, whatever the others did

Everything that changes is written down in `journal`, so one run of a program gives the disk as it
was after each of its steps: `Names.after` of a part of the journal, then `survivors`.
"""

import errno
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ulna.datasets.durable import TEMPORARY_PREFIX
from ulna.datasets.storage import FileFacts

OUTSIDE, ROOT = 0, 1
"""The folder around the store, which is on the disk, and the store's own."""


@dataclass(frozen=True)
class Named:
    """A name in a folder now stands for `node`; None: for nothing."""

    folder: int
    name: str
    node: int | None


@dataclass(frozen=True)
class Synced:
    """The names in a folder are on the disk."""

    folder: int


@dataclass(frozen=True)
class Acknowledged:
    """Here the program told somebody that it is done; `what` must be true from now on."""

    what: object


Event = Named | Synced | Acknowledged
Folders = dict[int, dict[str, int]]


@dataclass
class Names:
    """The names of a disk: those that are safe, and what happened to them since."""

    safe: Folders = field(default_factory=dict)
    pending: dict[tuple[int, str], list[int | None]] = field(default_factory=dict)
    """All that a name stood for since its folder was last synced."""

    def copy(self) -> "Names":
        pending = {key: list(changes) for key, changes in self.pending.items()}
        return Names({folder: dict(names) for folder, names in self.safe.items()}, pending)

    def after(self, events: Iterable[Event]) -> "Names":
        later = self.copy()
        for event in events:
            later.take(event)
        return later

    def take(self, event: Event) -> None:
        match event:
            case Named():
                self.pending.setdefault((event.folder, event.name), []).append(event.node)
            case Synced():
                for key in [key for key in self.pending if key[0] == event.folder]:
                    self._keep(self.safe, key, self.pending.pop(key)[-1])
            case Acknowledged():
                pass

    def choose(self, choose: Callable[[int], int]) -> dict[tuple[int, str], int | None]:
        """What a power cut leaves of the pending changes. `choose(changes)`: how many of those of
        one name reached the disk, 0 to `changes`."""
        kept = {}
        for key, changes in self.pending.items():
            count = choose(len(changes))
            if count:
                kept[key] = changes[count - 1]
        return kept

    def survivors(self, kept: dict[tuple[int, str], int | None]) -> Folders:
        """The folders after it."""
        folders = {folder: dict(names) for folder, names in self.safe.items()}
        for key, node in kept.items():
            self._keep(folders, key, node)
        return folders

    def visible(self) -> Folders:
        """The folders as programs see them while the power is on."""
        return self.survivors(self.choose(lambda changes: changes))

    @staticmethod
    def _keep(folders: Folders, key: tuple[int, str], node: int | None) -> None:
        folder, name = key
        names = folders.setdefault(folder, {})
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class SimulatedDisk:
    """A `Storage`. Threads may use it at the same time."""

    _nodes = itertools.count(2)
    contents: dict[int, bytes] = {}  # noqa: RUF012 - one for all disks: a node never changes

    def __init__(self, names: Names | None = None) -> None:
        """`names`: as another disk left them; None: an empty disk, without the store's folder."""
        self.location = "simulated"
        self.begin = (names or Names()).copy()
        self.journal: list[Event] = []
        self._folders = self.begin.visible()
        self._lock = threading.RLock()

    @staticmethod
    def of(folders: Folders) -> "SimulatedDisk":
        """A disk that holds this, safely."""
        return SimulatedDisk(Names(folders))

    def acknowledge(self, what: object) -> None:
        self._note(Acknowledged(what))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        data = self.contents[self._file(name)]
        begin = max(0, len(data) + start) if start < 0 else start
        return data[begin:stop]

    def write(self, name: str, data: bytes) -> None:
        self._put(name, data)

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        with self._lock:
            if self.exists(name):
                return False
            self._put(name, bytes(data))
            self.sync([str(PurePosixPath(name).parent)])
        return True

    def link(self, source: str, name: str) -> None:
        with self._lock:
            if self.exists(name):
                raise FileExistsError(errno.EEXIST, "exists", name)
            self._note(Named(self._parent(name), PurePosixPath(name).name, self._file(source)))

    def make_folder(self, name: str) -> None:
        with self._lock:
            if ROOT not in self._folders.get(OUTSIDE, {}).values():
                self._note(Named(OUTSIDE, "store", ROOT))
            folder = ROOT
            for part in PurePosixPath(name).parts:
                node = self._folders.get(folder, {}).get(part)
                if node is None:
                    node = next(self._nodes)
                    self._note(Named(folder, part, node))
                folder = node

    def sync(self, folders: Iterable[str]) -> None:
        for name in folders:
            self._note(Synced(OUTSIDE if name == ".." else self._folder(name)))

    def names(self, folder: str, after: str = "") -> list[str]:
        try:
            found = self._folders.get(self._folder(folder), {})
        except FileNotFoundError:
            return []
        return sorted(name for name in list(found) if name > after)

    def exists(self, name: str) -> bool:
        try:
            return self.node(name) is not None
        except FileNotFoundError:
            return False

    def delete(self, name: str) -> None:
        with self._lock:
            if self.exists(name):
                self._note(Named(self._parent(name), PurePosixPath(name).name, None))

    def walk(self, folder: str) -> Iterator[FileFacts]:
        for name in self.names(folder):
            path = f"{folder}/{name}" if folder else name
            node = self.node(path)
            if node in self.contents:
                yield FileFacts(path, len(self.contents[node]), 0.0)
            else:
                yield from self.walk(path)

    def remove_empty_folders(self, folder: str, older_than_s: float) -> None:
        for name in self.names(folder):
            path = f"{folder}/{name}"
            if self.node(path) not in self.contents:
                self.remove_empty_folders(path, older_than_s)
                if not self.names(path):
                    self.delete(path)

    def _put(self, name: str, data: bytes) -> None:
        """As `durable.py` does it: another name first, then the final one."""
        with self._lock:
            folder, node = self._parent(name), next(self._nodes)
            temporary = f"{TEMPORARY_PREFIX}{node}"
            self.contents[node] = data
            self._note(Named(folder, temporary, node))
            self._note(Named(folder, PurePosixPath(name).name, node))
            self._note(Named(folder, temporary, None))

    def _note(self, event: Event) -> None:
        with self._lock:
            self.journal.append(event)
            if isinstance(event, Named):
                Names._keep(self._folders, (event.folder, event.name), event.node)

    def node(self, name: str) -> int:
        """What a name stands for now."""
        node = self._folders.get(OUTSIDE, {}).get("store")
        for part in PurePosixPath(name).parts:
            node = None if node is None else self._folders.get(node, {}).get(part)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return node

    def _file(self, name: str) -> int:
        node = self.node(name)
        if node not in self.contents:
            raise IsADirectoryError(errno.EISDIR, "is a folder", name)
        return node

    def _folder(self, name: str) -> int:
        node = self.node(name)
        if node in self.contents:
            raise NotADirectoryError(errno.ENOTDIR, "is a file", name)
        return node

    def _parent(self, name: str) -> int:
        return self._folder(str(PurePosixPath(name).parent))


def cuts(
    begin: Names, journal: Sequence[Event], choose: Callable[[int], int], every: int
) -> Iterator[tuple[int, Folders]]:
    """What is left after a power cut at each place of a journal: of what was not synced nothing
    and, at each `every`-th place, what is chosen. What cannot differ from what was given before is
    not given again."""
    names = begin.copy()
    settled = 0  # changes when something is synced or acknowledged
    seen: set[object] = set()
    for place in range(len(journal) + 1):
        if place:
            names.take(journal[place - 1])
            settled += not isinstance(journal[place - 1], Named)
        for kept in [{}] if place % every else [{}, names.choose(choose)]:
            key = (settled, frozenset(kept.items()))
            if key not in seen:
                seen.add(key)
                yield place, names.survivors(kept)
