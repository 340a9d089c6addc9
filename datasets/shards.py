"""Shard files held open: mapped into memory, or fetched whole from an object store.

A random frame then costs a dictionary lookup and a slice. Chunks are checked against their CRC the
first time they are touched; what is mapped does not change afterwards (files are written once).

Next: `frames.py` (decoding what lies in them).
"""

import mmap
import os
import resource
import threading
from collections import OrderedDict

from .chunks import DamagedData, read_index, without_checksum
from .layout import Layout
from .storage import LocalFolder, Storage


class Shard:
    """One shard file. Threads may read it at the same time."""

    __slots__ = ("_data", "_lengths", "_offsets", "_verified", "size")

    def __init__(self, data: memoryview, slots: int) -> None:
        index = read_index(data, slots)
        self._data = data
        self._offsets: list[int] = index[:, 0].tolist()
        self._lengths: list[int] = index[:, 1].tolist()
        self._verified = bytearray(slots)
        self.size = len(data)

    def payload(self, slot: int) -> memoryview:
        """A chunk without its checksum. Raises DamagedData."""
        offset = self._offsets[slot]
        end = offset + self._lengths[slot]
        if self._verified[slot]:
            return self._data[offset : end - 4]
        if end > self.size:
            raise DamagedData(f"chunk {slot} is not in the shard")
        payload = without_checksum(self._data[offset:end])
        self._verified[slot] = 1
        return payload


class ShardCache:
    """The shards used last. Threads may use it at the same time."""

    def __init__(self, storage: Storage, capacity: int | None = None) -> None:
        """`capacity`: shards kept; None: as many as this process may hold files open, or, of an
        object store, 64."""
        self._storage = storage
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        if capacity is None:
            capacity = _file_limit() // 2 if isinstance(storage, LocalFolder) else 64
        self.capacity = capacity
        self.fetched_bytes = 0
        """Bytes fetched or mapped so far."""
        self.fetches = 0

    def get(self, name: str, layout: Layout) -> Shard:
        """The shard file `name`. Raises DamagedData or FileNotFoundError."""
        with self._lock:
            shard = self._shards.get(name)
            if shard is not None:
                self._shards.move_to_end(name)
                return shard
        # Outside the lock: others go on meanwhile; two may open the same file, which is harmless.
        shard = Shard(self._open(name), layout.slots)
        with self._lock:
            self._shards[name] = shard
            self.fetches += 1
            self.fetched_bytes += shard.size
            while len(self._shards) > self.capacity:
                self._shards.popitem(last=False)
        return shard

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def _open(self, name: str) -> memoryview:
        if not isinstance(self._storage, LocalFolder):
            return memoryview(self._storage.read(name))
        descriptor = os.open(self._storage.path / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size == 0:
                raise DamagedData(f"file {name}: is empty")
            return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)


def _file_limit() -> int:
    """Files this process may hold open, raised as far as the system lets it: each mapped shard
    counts, and the usual 1,024 are fewer than the shards of a few hundred episodes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return 65536 if soft == resource.RLIM_INFINITY else soft
