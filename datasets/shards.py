"""Shard files at hand: mapped into memory, or fetched from an object store.

A random frame of a local store costs a dictionary lookup and a slice. From an object store a shard
comes whole if its fetch was begun (the order of mode `stream` uses all of it), otherwise its index
and then single chunks, of which those that are needed soon are begun ahead: a request takes tens
of milliseconds, and only many at once make it bearable.

Chunks are checked against their CRC the first time they are touched; what is mapped does not change
afterwards (files are written once).

Next: `frames.py` (decoding what lies in them).
"""

import mmap
import os
import resource
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from .chunks import MISSING, DamagedData, index_bytes, read_index, without_checksum
from .layout import Layout
from .storage import LocalFolder, Storage

REQUESTS_AT_ONCE = 64
CHUNK_BYTES_KEPT = 256 * 2**20
"""Of single chunks fetched from an object store."""
_INDEXES_KEPT = 16384
"""Of shards in an object store; 4 KiB each."""


class WholeShard:
    """A shard whose bytes are at hand. Threads may read it at the same time."""

    __slots__ = ("_data", "_lengths", "_offsets", "_verified", "size")

    def __init__(self, data: memoryview, slots: int) -> None:
        index = read_index(data, slots)
        self._data = data
        self._offsets: list[int] = index[:, 0].tolist()
        self._lengths: list[int] = index[:, 1].tolist()
        self._verified = bytearray(slots)
        self.size = len(data)

    def payload(self, slot: int) -> memoryview:
        offset = self._offsets[slot]
        end = offset + self._lengths[slot]
        if self._verified[slot]:
            return self._data[offset : end - 4]
        if end > self.size:
            raise DamagedData(f"chunk {slot} is not in the shard")
        payload = without_checksum(self._data[offset:end])
        self._verified[slot] = 1
        return payload


class RangedShard:
    """A shard in an object store, of which single chunks are fetched."""

    def __init__(self, cache: "ShardCache", name: str, slots: int) -> None:
        self._cache, self._name, self._slots = cache, name, slots
        self._lock = threading.Lock()
        self._index: np.ndarray | None = None

    def payload(self, slot: int) -> memoryview:
        return self._cache.begin_chunk(self._name, self, slot).result()

    def fetch(self, slot: int) -> memoryview:
        """Request a chunk, and the index if it is not known, and wait."""
        with self._lock:  # whoever comes second needs the same index
            if self._index is None:
                size = index_bytes(self._slots)
                tail = self._cache.request(self._name, -size)
                self._index = read_index(memoryview(tail), self._slots)
        offset, length = (int(value) for value in self._index[slot])
        if offset == MISSING:
            raise DamagedData(f"chunk {slot} is not in the shard")
        return without_checksum(self._cache.request(self._name, offset, offset + length))


Shard = WholeShard | RangedShard
"""Gives the `payload` of a slot: a chunk without its checksum. Raises DamagedData."""


class ShardCache:
    """The shards used last. Threads may use it at the same time."""

    def __init__(self, storage: Storage, capacity: int | None = None) -> None:
        """`capacity`: whole shards kept; None: as many as this process may hold files open, or, of
        an object store, 64."""
        self._storage = storage
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._ranged: OrderedDict[str, RangedShard] = OrderedDict()
        self._begun: dict[str, Future[Shard]] = {}
        self._chunks: OrderedDict[tuple[str, int], Future[memoryview]] = OrderedDict()
        self._chunk_bytes = 0
        self.requests: ThreadPoolExecutor | None = None
        """Threads that wait for an object store; None for a local one, which is never waited for.
        Not those that decode: these would stand in line behind every fetch."""
        if not isinstance(storage, LocalFolder):
            self.requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, "ulna-fetch")
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
            begun = self._begun.get(name)
        if begun is not None:
            return begun.result()
        if self.requests is not None:
            return self._in_pieces(name, layout)
        # Outside the lock: others go on meanwhile; two may open the same file, which is harmless.
        return self._keep(name, WholeShard(self._mapped(name), layout.slots))

    def begin(self, name: str, layout: Layout) -> None:
        """Begin to fetch a shard whole; nothing to do for a local store."""
        if self.requests is None:
            return
        with self._lock:
            if name in self._shards or name in self._begun:
                return
            self._begun[name] = self.requests.submit(self._fetch_whole, name, layout)

    def begin_slot(self, name: str, layout: Layout, slot: int) -> None:
        """Begin to fetch one chunk of a shard; nothing to do for a local store."""
        if self.requests is not None and name not in self._shards and name not in self._begun:
            self.begin_chunk(name, self._in_pieces(name, layout), slot)

    def begin_chunk(self, name: str, shard: RangedShard, slot: int) -> "Future[memoryview]":
        """A chunk that is there, on its way or begun now."""
        assert self.requests is not None
        key = (name, slot)
        with self._lock:
            future = self._chunks.get(key)
            if future is None:
                future = self._chunks[key] = self.requests.submit(self._fetch_chunk, shard, key)
            self._chunks.move_to_end(key)
        return future

    def request(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of a file, counted."""
        data = self._storage.read(name, start, stop)
        with self._lock:
            self.fetches += 1
            self.fetched_bytes += len(data)
        return data

    def close(self) -> None:
        """Stop the threads."""
        if self.requests is not None:
            self.requests.shutdown(cancel_futures=True)

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def _fetch_chunk(self, shard: RangedShard, key: tuple[str, int]) -> memoryview:
        try:
            payload = shard.fetch(key[1])
        except BaseException:
            with self._lock:  # the next who asks tries again
                self._chunks.pop(key, None)
            raise
        with self._lock:
            self._chunk_bytes += len(payload)
            while self._chunk_bytes > CHUNK_BYTES_KEPT:
                oldest = next(iter(self._chunks))
                if not self._chunks[oldest].done():
                    break  # this one, or another that somebody waits for
                future = self._chunks.pop(oldest)
                self._chunk_bytes -= 0 if future.cancelled() else len(future.result())
        return payload

    def _fetch_whole(self, name: str, layout: Layout) -> Shard:
        try:
            return self._keep(name, WholeShard(memoryview(self.request(name)), layout.slots))
        finally:
            with self._lock:
                self._begun.pop(name, None)

    def _in_pieces(self, name: str, layout: Layout) -> RangedShard:
        with self._lock:
            if name not in self._ranged:
                self._ranged[name] = RangedShard(self, name, layout.slots)
            self._ranged.move_to_end(name)
            while len(self._ranged) > _INDEXES_KEPT:
                self._ranged.popitem(last=False)
            return self._ranged[name]

    def _keep(self, name: str, shard: WholeShard) -> WholeShard:
        with self._lock:
            if self.requests is None:
                self.fetches += 1
                self.fetched_bytes += shard.size
            self._shards[name] = shard
            while len(self._shards) > self.capacity:
                self._shards.popitem(last=False)
        return shard

    def _mapped(self, name: str) -> memoryview:
        assert isinstance(self._storage, LocalFolder)
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
