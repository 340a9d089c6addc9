"""What `ulna data info` says of a store beyond its log: measured rates, jitter and sizes.

Next: `quality.py` (the same quantities held against thresholds).
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from .store import Store
from .strict_json import encode

MEASURED_EPISODES = 200
"""Clocks are read of at most this many episodes, evenly spread: their jitter says as much as that
of a million."""


def rates(store: Store, episodes: int = MEASURED_EPISODES) -> dict[str, Any]:
    """Clocks and sizes of a store, as plain JSON values.

    `clocks`: per stream of times, rate and jitter (deviation of each interval from the usual one of
    its episode). `streams`: bytes on disk (with what no commit refers to),
    per row, and how frames are coded.
    """
    chosen = np.unique(
        np.linspace(0, len(store.episodes) - 1, min(episodes, len(store.episodes))).astype(int)
    ).tolist()
    names: dict[str, list[int]] = defaultdict(list)
    for index in chosen:
        for name in store.episodes[index].streams:
            if name.endswith("time_ns"):
                names[name].append(index)
    clocks = {name: _clock(store, name, found) for name, found in sorted(names.items())}
    without = len(chosen) - len(names["time_ns"])
    return {
        "control_hz": store.embodiment.control_hz,
        "clocks": clocks,
        "clocks_measured_on_episodes": len(chosen),
        "episodes_without_time_ns": without,
        "streams": _sizes(store),
    }


def _clock(store: Store, name: str, episodes: list[int]) -> dict[str, Any]:
    usual: list[float] = []
    regular = 0
    deviations = []
    for index in episodes:
        intervals = np.diff(store.read(name, index))
        # A frame used for two steps has one time; its camera's rate is that of the others.
        intervals = intervals[intervals > 0]
        if not len(intervals):
            continue
        usual.append(float(np.median(intervals)))
        # Times made of the step number differ by rounding to the next nanosecond at most.
        regular += bool(np.ptp(intervals) <= 1)
        deviations.append(np.abs(intervals - usual[-1]) / 1e6)
    if not usual:
        return {"measured_hz": None, "episodes": len(episodes)}
    p50, p99, largest = np.quantile(np.concatenate(deviations), (0.5, 0.99, 1))
    return {
        "measured_hz": 1e9 / float(np.median(usual)),
        "slowest_episode_hz": 1e9 / max(usual),
        "fastest_episode_hz": 1e9 / min(usual),
        "jitter_p50_ms": float(p50),
        "jitter_p99_ms": float(p99),
        "jitter_max_ms": float(largest),
        "episodes": len(episodes),
        "exactly_regular_episodes": regular,
    }


def _sizes(store: Store) -> dict[str, dict[str, Any]]:
    size: Counter[str] = Counter()
    for file in store.storage.walk("segments"):
        parts = file.name.split("/")
        if parts[-1].startswith("c.") and len(parts) > 3:
            size["/".join(parts[2:-1])] += file.size
    rows: Counter[str] = Counter()
    codecs: dict[str, list[Any]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for record in store.episodes:
        for name in record.streams:
            rows[name] += record.extent(name)[1]
            if (record.segment, name) in seen:
                continue
            seen.add((record.segment, name))
            codec = store.layout(name, record).codec
            if codec is not None and encode(codec) not in codecs[name]:
                codecs[name].append(encode(codec))
    return {
        name: {
            "bytes": size[name],
            "rows": rows[name],
            "bytes_per_row": size[name] / rows[name] if rows[name] else None,
            **({"codecs": codecs[name]} if codecs[name] else {}),
        }
        for name in sorted(rows)
    }
