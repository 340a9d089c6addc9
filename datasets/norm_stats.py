"""What is usual for each number of a stream: mean, spread, range and quantiles.

A policy sees states and actions normalised by these, so they are saved with its checkpoint as
`norm_stats.json`. Computed from chosen episodes only: statistics over held-out episodes would leak.

Rows go through `quantile_sketch.py` and are forgotten, so memory does not grow with the data, and
statistics of several stores merge into those of all their rows (`NormStats.merged`). Count, min and
max are exact, mean and deviation exact up to rounding. A quantile between two values of one sign is
within 0.1 % of numpy's on all rows together; the file named above has the bound and its proof.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from .durable import sync_folder, write_file
from .quantile_sketch import StreamSketch
from .schema import unknown_name
from .sealed_json import seal, unseal
from .store import Store
from .strict_json import decode, encode

STD_FLOOR = 1e-4
"""Smallest standard deviation given: dividing by the spread of a number that never changes would
turn its rounding noise into a signal. In the unit of the stream (m, rad, or normalised)."""
FOLDER = "statistics"
_BLOCK_NUMBERS = 1 << 20
"""Numbers gathered before they are sketched: a sketch per short episode would cost 10 times the
merging, and 8 MB is little."""


@dataclass(frozen=True)
class StreamStats:
    """Statistics of one stream; each tuple has one entry per number of a row."""

    count: int
    """Rows seen."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Population standard deviation, never below STD_FLOOR."""
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    """1 % quantile, interpolated, within the bound above."""
    q99: tuple[float, ...]
    q10: tuple[float, ...] = ()
    """Empty, as all that follows, in a file of Ulna 0.1."""
    q50: tuple[float, ...] = ()
    q90: tuple[float, ...] = ()
    m2: tuple[float, ...] = ()
    """Sum of squared deviations from the mean, without a floor: what merging needs."""
    buckets: str = ""
    """The histogram, packed (`StreamSketch.packed_buckets`)."""

    @staticmethod
    def of(sketch: StreamSketch) -> "StreamStats":
        q01, q10, q50, q90, q99 = sketch.quantiles((0.01, 0.1, 0.5, 0.9, 0.99))
        return StreamStats(
            count=sketch.count,
            mean=_numbers(sketch.mean),
            std=_numbers(np.maximum(sketch.std, STD_FLOOR)),
            min=_numbers(sketch.min),
            max=_numbers(sketch.max),
            q01=_numbers(q01),
            q99=_numbers(q99),
            q10=_numbers(q10),
            q50=_numbers(q50),
            q90=_numbers(q90),
            m2=_numbers(sketch.m2),
            buckets=sketch.packed_buckets(),
        )

    def sketch(self) -> StreamSketch:
        """What these statistics were read off: merge it, or ask it for other quantiles."""
        if not self.buckets:
            raise ValueError(
                "these statistics were written by Ulna 0.1, which kept no histogram, so they "
                "cannot be merged; compute them again from their store"
            )
        return StreamSketch.from_json(
            {
                "count": self.count,
                "mean": self.mean,
                "m2": self.m2,
                "min": self.min,
                "max": self.max,
                "buckets": self.buckets,
            }
        )


@dataclass(frozen=True)
class NormStats:
    """Statistics per stream, and a fingerprint of the numbers they were computed from."""

    streams: dict[str, StreamStats]
    source: str
    """SHA-256 over names and rows of the streams, in order; same data, same text. Of merged
    statistics: over the sources, in order."""
    episodes: int

    def stream(self, name: str) -> StreamStats:
        if name not in self.streams:
            raise unknown_name("stream in the statistics", name, self.streams)
        return self.streams[name]

    @staticmethod
    def merged(parts: Sequence["NormStats"]) -> "NormStats":
        """Statistics of all rows of `parts`, as if computed from them at once.

        Raises ValueError if the parts describe different streams.
        """
        if not parts:
            raise ValueError("no statistics to merge; give at least one")
        names = list(parts[0].streams)
        for part in parts[1:]:
            if set(part.streams) != set(names):
                raise ValueError(
                    f"statistics of {', '.join(sorted(part.streams))} cannot be merged with those "
                    f"of {', '.join(sorted(names))}; compute both for the same streams"
                )
        if len(parts) == 1:
            return parts[0]
        streams = {}
        for name in names:
            try:
                sketches = [part.streams[name].sketch() for part in parts]
                streams[name] = StreamStats.of(StreamSketch.merged(sketches))
            except ValueError as error:
                raise ValueError(f"stream {name!r}: {error}") from error
        source = hashlib.sha256(" ".join(part.source for part in parts).encode()).hexdigest()
        return NormStats(streams, source, sum(part.episodes for part in parts))

    def save(self, path: Path) -> None:
        write_file(path, (json.dumps(encode(self), indent=1) + "\n").encode())
        sync_folder(path.parent)

    @staticmethod
    def load(path: Path) -> "NormStats":
        """Raises ValueError that names what in the file does not fit."""
        try:
            data = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        return decode(NormStats, data, path.name)


def compute_norm_stats(
    store: Store,
    episodes: Sequence[int] | None = None,
    streams: Sequence[str] = ("state", "action"),
) -> NormStats:
    """Statistics of low-dimensional streams over the chosen episodes (None: all) of a store.

    Reads one episode at a time and keeps none.
    """
    chosen = [int(index) for index in store.choose(episodes)]
    if not chosen:
        raise ValueError(f"{store.location}: no episodes to compute statistics from")
    digest = hashlib.sha256()
    statistics = {}
    for name in streams:
        kind, shape = _common_kind(store, chosen, name)
        digest.update(f"{name} {kind.name} {shape} ".encode())

        def rows_of(name: str = name, kind: np.dtype = kind) -> Iterator[np.ndarray]:
            for index in chosen:
                rows = np.ascontiguousarray(store.read(name, index), kind)
                digest.update(rows)
                yield rows.reshape(len(rows), -1)

        try:
            statistics[name] = StreamStats.of(sketch_rows(rows_of()))
        except ValueError as error:
            raise ValueError(f"{store.location}, stream {name!r}: {error}") from error
    return NormStats(statistics, digest.hexdigest(), len(chosen))


def kept_norm_stats(
    store: Store,
    episodes: Sequence[int] | None = None,
    streams: Sequence[str] = ("state", "action"),
    keep: bool = False,
) -> NormStats:
    """Like `compute_norm_stats`, but taken from the store where they were kept before.

    What is kept belongs to these very episodes (by uid, which follows from the content); `keep`
    leaves what had to be computed in the store, under `statistics/`. Raises DamagedData if what was
    kept has changed.
    """
    chosen = store.choose(episodes)
    uids = sorted(store.record(int(index)).uid for index in chosen)
    digest = hashlib.sha256(json.dumps([list(streams), uids]).encode()).hexdigest()[:32]
    name = f"{FOLDER}/{digest}.json"
    if store.storage.exists(name):
        return decode(NormStats, unseal("statistics", store.storage.read(name), name), name)
    stats = compute_norm_stats(store, [int(index) for index in chosen], streams)
    if keep:
        store.storage.make_folder(FOLDER)
        store.storage.sync([""])
        store.storage.put_if_absent(name, seal("statistics", encode(stats)))
    return stats


def sketch_rows(parts: Iterable[Shaped[np.ndarray, "_ dims"]]) -> StreamSketch:
    """The sketch of all rows of `parts`, taken in turn and not kept."""
    total: StreamSketch | None = None
    waiting: list[np.ndarray] = []
    for rows in parts:
        waiting.append(rows)
        if sum(part.size for part in waiting) >= _BLOCK_NUMBERS:
            total = _with(total, waiting)
            waiting = []
    if waiting:
        total = _with(total, waiting)
    if total is None:
        raise ValueError("no rows to compute statistics from")
    return total


def stream_stats(rows: Shaped[np.ndarray, "rows dims"]) -> StreamStats:
    """Statistics of each column, in float64."""
    return StreamStats.of(StreamSketch.of(rows))


def _with(total: StreamSketch | None, waiting: Sequence[np.ndarray]) -> StreamSketch:
    sketch = StreamSketch.of(np.concatenate(waiting))
    return sketch if total is None else total.merge(sketch)


def _common_kind(
    store: Store, chosen: Sequence[int], name: str
) -> tuple[np.dtype, tuple[int, ...]]:
    """Number type and shape of a stream over all chosen episodes."""
    rows, kinds, shapes = 0, set(), set()
    for index in chosen:
        record = store.episodes[index]
        if name not in record.streams:
            raise unknown_name(
                f"stream of episode {index} of {store.location}", name, record.streams
            )
        rows += record.extent(name)[1]
        kinds.add(record.streams[name].dtype)
        shapes.add(record.streams[name].shape)
    if len(shapes) > 1:
        raise ValueError(
            f"{store.location}, stream {name!r}: rows of shapes "
            f"{', '.join(str(shape) for shape in sorted(shapes))}; statistics need one, so choose "
            "episodes that agree"
        )
    return np.result_type(*(np.dtype(kind) for kind in kinds)), (rows, *shapes.pop())


def _numbers(row: np.ndarray) -> tuple[float, ...]:
    return tuple(float(number) for number in row)
