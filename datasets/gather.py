"""Windows of one store, gathered: numbers by index, frames decoded into the rows of a batch.

Numbers of an episode are loaded when it is first touched. In which order windows come is not
decided here.

Next: `loader.py` (order and batches), `windows.py` (which rows), `frames.py` (decoding).
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from .frames import FramePlan, FrameReader, read_frames
from .resident import Resident, available_memory
from .schema import Batch, unknown_name
from .shards import ShardCache
from .store import Store
from .windows import Windows, window_rows

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""Makes an array for batches; pinned memory where a GPU copies from it."""
Buffers = dict[str, np.ndarray]
"""Arrays for one batch, by stream."""
Cache = Literal["none", "ram", "auto"]


@dataclass(frozen=True)
class WindowSpec:
    """What is gathered around a step."""

    horizon: int
    """Actions from this step on."""
    history: int = 1
    """Observations up to this step; with more than one, `Batch.images` and `.state` gain an axis
    `(batch, history, ...)`, oldest first, the first observation repeated before the start."""
    cameras: tuple[str, ...] | None = None
    """None: all of the embodiment."""
    action_stream: str = "action"
    """Or `action_sent`, `action_measured` where they were recorded."""
    executed_stream: str = ""
    """Stream given as `Batch.executed_chunk`, such as `action_sent`; empty: none."""
    streams: tuple[str, ...] = ()
    """Further numeric streams, given as `Batch.streams` at the window's own step."""
    depth: tuple[str, ...] = ()
    """Cameras whose depth frames are given as `Batch.depth`."""
    future: int = 0
    """Steps after this one whose frames are given as `Batch.future_images`; 0: none."""
    language: Literal["instruction", "paraphrases", "subgoals"] = "instruction"
    """`paraphrases`: one of the episode's commands, drawn anew each time; `subgoals`: the one that
    holds at the window's step, where there is one."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.history < 1 or self.future < 0:
            raise ValueError(
                f"horizon {self.horizon} and history {self.history} must be at least 1, "
                f"future {self.future} at least 0"
            )


class WindowGather:
    """Batches of chosen windows of chosen episodes."""

    def __init__(
        self,
        store: Store,
        spec: WindowSpec,
        episodes: Sequence[int] | None = None,
        cache: Cache = "auto",
        threads: int | None = None,
        keep_chunks: int = 0,
        allocate: Allocate = np.empty,
    ) -> None:
        """Episodes are indices into `store.episodes` (None: all).

        `cache`: keep decoded frames in memory; `auto` does if they fit into a quarter of what is
        available. `threads`: for decoding (None: one per core). `keep_chunks`: decoded chunks to
        keep per camera, for an order that comes back to them soon.
        """
        self.store, self.spec = store, spec
        self.episodes = store.choose(episodes)
        if not len(self.episodes):
            raise ValueError(f"{store.location}: no episodes to load")
        known = [camera.name for camera in store.embodiment.cameras]
        self.cameras = tuple(known if spec.cameras is None else spec.cameras)
        for name in (*self.cameras, *spec.depth):
            store.embodiment.camera(name)  # raises, with what exists
        self.windows = Windows(store.episodes.steps[self.episodes])
        self._parts = threads or os.cpu_count() or 1
        self.threads = ThreadPoolExecutor(max(4, self._parts), "ulna-decode")
        self._frame_streams = {f"images/{name}": name for name in self.cameras}
        self._frame_streams |= {f"depth/{name}": name for name in spec.depth}
        self._kinds = self._stream_kinds()
        self.cache: Literal["none", "ram"] = self._choose_cache(cache)
        """`ram` or `none`, as it was decided."""
        self._resident = self._make_resident()
        self.shards = ShardCache(store.storage)
        self._loading = self.shards.requests or self.threads
        self.readers = {
            stream: FrameReader(store, stream, self.episodes, self.shards, keep_chunks)
            for stream in self._frame_streams
            if stream not in self._resident
        }
        """Of the cameras whose frames are not kept in memory."""
        self._offsets = np.arange(spec.horizon)
        self._history = np.arange(1 - spec.history, 1)
        self._frames = np.append(self._history, spec.future) if spec.future else self._history
        self._allocate = allocate
        self._texts: dict[int, tuple[str, ...]] = {}
        # What is decoded for one batch and kept for the next must not be decoded by two at once.
        self._one_batch = threading.Lock() if keep_chunks else nullcontext()

    def close(self) -> None:
        """Stop the threads."""
        self.threads.shutdown(cancel_futures=True)
        self.shards.close()

    def begin(self, index: Int64[np.ndarray, " batch"]) -> None:
        """Begin to fetch what the windows `index` need, if it lies in an object store."""
        if self.shards.requests is None:
            return
        episode = self.windows.episodes(index)
        self.begin_numbers(episode)
        rows, _ = window_rows(self.windows, index, episode, self._frames)
        flat, owner = rows.reshape(-1), np.repeat(episode, rows.shape[1])
        plan = FramePlan.of(flat, owner, flat - self.windows.first_rows(owner))
        for reader in self.readers.values():
            reader.begin(plan.wanted)

    def begin_numbers(self, episodes: Int64[np.ndarray, " batch"]) -> None:
        """Begin to load the numbers of these episodes, all streams side by side."""
        for resident in self._resident.values():
            resident.begin(episodes, self._loading)

    def gather(
        self, index: Int64[np.ndarray, " batch"], out: Buffers, draw: tuple[int, ...] = (0,)
    ) -> Batch:
        """The windows `index`, in `out` (as `buffers` made them). `draw` seeds what is drawn."""
        spec, windows = self.spec, self.windows
        episode = windows.episodes(index)
        self.begin_numbers(episode)
        for resident in self._resident.values():
            resident.ensure(episode, self._loading)
        future, is_pad = window_rows(windows, index, episode, self._offsets)
        frames = past = index[:, None]
        if len(self._frames) > 1:
            frames, _ = window_rows(windows, index, episode, self._frames)
            past = frames[:, : spec.history]
        for stream, resident in self._resident.items():
            if stream in (spec.action_stream, spec.executed_stream):
                _take(resident.rows, future, out[f"chunk of {stream}"])
            if stream in out:
                within = past
                if stream in spec.streams:
                    within = index[:, None]
                elif stream in self._frame_streams:
                    within = frames
                _take(resident.rows, within, out[stream])
        if self.readers:
            flat = frames.reshape(-1)
            owner = np.repeat(episode, frames.shape[1])
            plan = FramePlan.of(flat, owner, flat - windows.first_rows(owner))
            for reader in self.readers.values():
                reader.begin(plan.wanted)
            outs = [out[name].reshape(-1, *out[name].shape[2:]) for name in self.readers]
            with self._one_batch:
                read_frames(list(self.readers.values()), plan, outs, self.threads, self._parts)

        def observed(stream: str) -> np.ndarray:
            return out[stream][:, : spec.history] if spec.history > 1 else out[stream][:, 0]

        return Batch(
            images={name: observed(f"images/{name}") for name in self.cameras},
            state=observed("state"),
            action_chunk=out[f"chunk of {spec.action_stream}"],
            action_is_pad=is_pad,
            instructions=self._instructions(index, episode, draw),
            streams={name: out[name][:, 0] for name in spec.streams},
            depth={name: observed(f"depth/{name}") for name in spec.depth},
            future_images={
                name: out[f"images/{name}"][:, -1] for name in self.cameras if spec.future
            },
            executed_chunk=out[f"chunk of {spec.executed_stream}"]
            if spec.executed_stream
            else None,
        )

    def _instructions(
        self, index: np.ndarray, episode: np.ndarray, draw: tuple[int, ...]
    ) -> tuple[str, ...]:
        texts, language = self._texts, self.spec.language
        positions = episode.tolist()
        for position in positions:
            if position not in texts:
                record = self.store.episodes[int(self.episodes[position])]
                texts[position] = (record.instruction, *record.paraphrases)
        if language == "instruction":
            return tuple([texts[position][0] for position in positions])
        if language == "paraphrases":
            choices = [texts[position] for position in positions]
            draws = np.random.default_rng(draw).random(len(positions)).tolist()
            return tuple([c[int(d * len(c))] for c, d in zip(choices, draws, strict=True)])
        steps = (index - self.windows.first_rows(episode)).tolist()
        return tuple(self._subgoal(p, s) for p, s in zip(positions, steps, strict=True))

    def _subgoal(self, position: int, step: int) -> str:
        record = self.store.episodes[int(self.episodes[position])]
        for subgoal in record.subgoals:
            if subgoal.start <= step < subgoal.stop:
                return subgoal.instruction
        return record.instruction

    def _stream_kinds(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of a row, and type, of every stream that is gathered, as the first episode has
        them (state, action and images are those of the embodiment)."""
        described = self.store.episodes[int(self.episodes[0])].streams
        spec = self.spec
        names = ["state", spec.action_stream, *spec.streams, *self._frame_streams]
        names += [spec.executed_stream] if spec.executed_stream else []
        for name in names:
            if name not in described:
                raise unknown_name("stream of the first episode", name, described)
        return {name: (described[name].shape, np.dtype(described[name].dtype)) for name in names}

    def _choose_cache(self, cache: Cache) -> Literal["none", "ram"]:
        frames = len(self.windows) * sum(
            int(np.prod(shape)) * dtype.itemsize
            for name, (shape, dtype) in self._kinds.items()
            if name in self._frame_streams
        )
        available = available_memory()
        if cache == "none":
            return "none"
        if cache == "auto":
            return "ram" if available is not None and frames < available / 4 else "none"
        if available is not None and frames > 0.9 * available:
            raise ValueError(
                f"these episodes take {frames / 1e9:.1f} GB of memory and {available / 1e9:.1f} "
                'GB are available; use cache="none", or fewer episodes or cameras'
            )
        return "ram"

    def _make_resident(self) -> dict[str, Resident]:
        available = available_memory()
        resident = {}
        for stream, (shape, dtype) in self._kinds.items():
            is_frame = stream in self._frame_streams
            if is_frame and self.cache == "none":
                continue
            size = len(self.windows) * int(np.prod(shape)) * dtype.itemsize
            spill = not is_frame and available is not None and size > available / 4
            resident[stream] = Resident(self.windows, shape, dtype, self._load(stream), spill)
        return resident

    def _load(self, stream: str) -> Callable[[int, np.ndarray], None]:
        return lambda position, out: self.store.read_into(stream, int(self.episodes[position]), out)

    def buffers(self, size: int) -> Buffers:
        """Arrays for a batch of `size` windows."""
        spec = self.spec
        steps = {"state": spec.history, **dict.fromkeys(self._frame_streams, len(self._frames))}
        steps |= dict.fromkeys(spec.streams, 1)
        made = {
            name: self._allocate((size, rows, *self._kinds[name][0]), self._kinds[name][1])
            for name, rows in steps.items()
        }
        for stream in filter(None, (spec.action_stream, spec.executed_stream)):
            shape, dtype = self._kinds[stream]
            made[f"chunk of {stream}"] = self._allocate((size, spec.horizon, *shape), dtype)
        return made


def _take(source: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # "clip" writes straight into `out`; the default mode goes through a copy.
    np.take(source, rows, axis=0, out=out, mode="clip")
