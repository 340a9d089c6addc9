"""Statistics of states and actions as the network sees them (`actions.py`), for normalising.

What is relative to a chunk's start spreads wider the longer the chunk, so these statistics belong
to a horizon. They are taken over all windows of the episodes, as training takes them: ticks past an
episode's end are left out, and a step counts once for every window it is in.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from .actions import ActionSpace
from .norm_stats import FOLDER, NormStats, StreamStats, kept_norm_stats, sketch_rows
from .sealed_json import seal, unseal
from .store import Store
from .strict_json import decode, encode
from .windows import Windows, window_rows

_BLOCK_NUMBERS = 1 << 18
"""Numbers of windows transformed at once: few enough to stay in a cache."""


def network_stats(
    store: Store,
    episodes: Sequence[int] | None,
    space: ActionSpace,
    horizon: int,
    action_stream: str = "action",
    keep: bool = False,
) -> NormStats:
    """Statistics `state` and `action` of what the network sees of the chosen episodes (None: all).

    Where it sees everything as recorded these are `kept_norm_stats`, every step counted once.
    `keep` leaves what had to be computed in the store, where the next call finds it. Takes about
    3 us per window and tick on one core.
    """
    streams = ("state", action_stream)
    _require_same_names(store, space)
    if horizon < 1:
        raise ValueError(f"horizon {horizon} must be at least 1")
    if space.is_as_recorded:
        stats = kept_norm_stats(store, episodes, streams, keep)
        named = {"state": stats.stream("state"), "action": stats.stream(action_stream)}
        return NormStats(named, stats.source, stats.episodes)
    chosen = [int(index) for index in store.choose(episodes)]
    if not chosen:
        raise ValueError(f"{store.location}: no episodes to compute statistics from")
    form = json.dumps([encode(space), horizon, *streams], sort_keys=True)
    uids = sorted(store.record(index).uid for index in chosen)
    name = f"{FOLDER}/{hashlib.sha256(json.dumps([form, uids]).encode()).hexdigest()[:32]}.json"
    if store.storage.exists(name):
        return decode(NormStats, unseal("statistics", store.storage.read(name), name), name)
    digest = hashlib.sha256(form.encode())

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in chosen:
            state, action = (
                np.ascontiguousarray(store.read(stream, index), np.float32) for stream in streams
            )
            digest.update(state)
            digest.update(action)
            yield state, action

    try:
        states = sketch_rows(space.state_to_network(state) for state, _ in rows())
        # The source is every row once, of both streams.
        source = digest.hexdigest()
        actions = sketch_rows(
            block for state, action in rows() for block in _ticks(space, state, action, horizon)
        )
    except ValueError as error:
        raise ValueError(f"{store.location}: {error}") from error
    stats = NormStats(
        {"state": StreamStats.of(states), "action": StreamStats.of(actions)}, source, len(chosen)
    )
    if keep:
        store.storage.make_folder(FOLDER)
        store.storage.sync([""])
        store.storage.put_if_absent(name, seal("statistics", encode(stats)))
    return stats


def _ticks(
    space: ActionSpace,
    state: Float32[np.ndarray, "steps state_dim"],
    action: Float32[np.ndarray, "steps action_dim"],
    horizon: int,
) -> Iterator[Float32[np.ndarray, "ticks network_dim"]]:
    """Valid ticks of all windows of an episode, some windows at a time."""
    windows = Windows(np.array([len(action)]))
    size = max(1, _BLOCK_NUMBERS // (horizon * space.network_dim))
    for first in range(0, len(action), size):
        index = np.arange(first, min(first + size, len(action)))
        rows, is_pad = window_rows(windows, index, np.zeros_like(index), np.arange(horizon))
        yield space.to_network(action[rows], state[index])[~is_pad]


def _require_same_names(store: Store, space: ActionSpace) -> None:
    robot = store.embodiment
    for what, found, expected in (
        ("action", robot.action_names, space.action_names),
        ("state", robot.state_names, space.state_names),
    ):
        if found != expected:
            raise ValueError(
                f"{store.location}: {what} entries are {', '.join(found)}, the action space has "
                f"{', '.join(expected)}; make it with ActionSpace.of(store.embodiment, ...)"
            )
