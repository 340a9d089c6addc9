"""What is usual for each number of a stream: mean, spread, range and quantiles.

A policy sees states and actions normalised by these, so they are saved with its checkpoint as
`norm_stats.json`. Computed from chosen episodes only: statistics over held-out episodes would leak.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .durable import sync_folder, write_file
from .schema import unknown_name
from .store import Store
from .strict_json import decode, encode

STD_FLOOR = 1e-4
"""Smallest standard deviation given: dividing by the spread of a number that never changes would
turn its rounding noise into a signal. In the unit of the stream (m, rad, or normalised)."""


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
    """Exact 1 % quantile, interpolated."""
    q99: tuple[float, ...]


@dataclass(frozen=True)
class NormStats:
    """Statistics per stream, and a fingerprint of the numbers they were computed from."""

    streams: dict[str, StreamStats]
    source: str
    """SHA-256 over names and rows of the streams, in order; same data, same text."""
    episodes: int

    def stream(self, name: str) -> StreamStats:
        if name not in self.streams:
            raise unknown_name("stream in the statistics", name, self.streams)
        return self.streams[name]

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
    """Statistics of low-dimensional streams over the chosen episodes (None: all) of a store."""
    chosen = store.choose(episodes)
    if not chosen:
        raise ValueError(f"{store.path}: no episodes to compute statistics from")
    digest = hashlib.sha256()
    statistics = {}
    for name in streams:
        rows = np.concatenate([store.read(name, index) for index in chosen])
        digest.update(f"{name} {rows.dtype.name} {rows.shape} ".encode())
        digest.update(rows.tobytes())
        statistics[name] = stream_stats(rows.reshape(len(rows), -1))
    return NormStats(statistics, digest.hexdigest(), len(chosen))


def stream_stats(rows: Float[np.ndarray, "rows dimensions"]) -> StreamStats:
    """Statistics of each column, in float64."""
    rows = rows.astype(np.float64)
    q01, q99 = np.quantile(rows, (0.01, 0.99), axis=0)

    def numbers(row: np.ndarray) -> tuple[float, ...]:
        return tuple(float(number) for number in row)

    return StreamStats(
        count=len(rows),
        mean=numbers(rows.mean(0)),
        std=numbers(np.maximum(rows.std(0), STD_FLOOR)),
        min=numbers(rows.min(0)),
        max=numbers(rows.max(0)),
        q01=numbers(q01),
        q99=numbers(q99),
    )
