"""What lies between a control loop and the threads that record: blocks of preallocated rows.

        free blocks --caller fills--> full blocks --threads code and store--> free blocks

The blocks of a queue are all there will ever be, so its memory is known beforehand, and a caller
that finds no free one knows at once that the row is lost. Nothing here waits or locks: a deque
takes and gives in one step.

Next: `recorder.py` (the caller's side), `recorder_threads.py` (the other side).
"""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped

from .recorder_form import Rows
from .schema import Subgoal


@dataclass(eq=False)
class Run:
    """An episode while it is recorded; shared by the caller and the threads."""

    instruction: str
    task: str
    seed: int
    info: dict[str, str | int | float | bool]
    paraphrases: tuple[str, ...]
    steps: int = 0
    dropped_steps: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    dropped_samples: dict[str, int] = field(default_factory=dict)
    fullest_queue: float = 0.0
    last_time_ns: dict[str, int] = field(default_factory=dict)
    unwanted: bool = False
    """Aborted: what still waits need not be coded."""
    error: Exception | None = None
    """Set by the threads; the caller raises it at its next call."""


@dataclass(eq=False)
class Block:
    """Room for some rows in a row of several streams."""

    arrays: dict[str, np.ndarray]
    """By stream, `(rows, ...)`."""
    home: "deque[Block]"
    """Where it goes when its rows are stored."""
    run: Run | None = None
    rows: int = 0
    number: int = -1
    """Place in the order of everything that is handed to the threads."""
    payloads: dict[str, list[bytes]] = field(default_factory=dict)
    """Coded chunks by stream."""
    uncoded: int = 0
    """Streams that still are being coded."""

    def release(self) -> None:
        """Back to the free ones."""
        self.run, self.rows = None, 0
        self.payloads.clear()
        self.home.append(self)


class BlockQueue:
    """Blocks of some streams. The caller's side is for one thread."""

    def __init__(self, streams: Mapping[str, Rows], rows_per_block: int, rows: int) -> None:
        """Room for `rows` rows or a little more, in at least three blocks."""
        self.blocks = max(3, -(-rows // rows_per_block))
        self.rows_per_block = rows_per_block
        self.free: deque[Block] = deque()
        self.filling: Block | None = None
        self.nbytes = 0
        for _ in range(self.blocks):
            arrays = {
                name: np.empty((rows_per_block, *kind.shape), kind.dtype)
                for name, kind in streams.items()
            }
            for array in arrays.values():
                array.fill(0)  # the pages are there before the loop runs
                self.nbytes += array.nbytes
            self.free.append(Block(arrays, self.free))

    def room(self, run: Run) -> Block | None:
        """A block with room for one more row of `run`; None if all wait to be stored."""
        if self.filling is None:
            try:
                self.filling = self.free.popleft()
            except IndexError:
                return None
            self.filling.run = run
        return self.filling

    def take(self) -> Block | None:
        """The block that is being filled, if any; the next row goes into another one."""
        block, self.filling = self.filling, None
        return block

    @property
    def fullness(self) -> float:
        """Share of the blocks that are filling or wait to be stored."""
        return (self.blocks - len(self.free)) / self.blocks


class SensorQueue:
    """What a sensor with a rate of its own has given."""

    def __init__(self, queue: BlockQueue) -> None:
        self.queue = queue
        self.run: Run | None = None
        # Between the thread of the sensor and `begin` and `end`; held for microseconds.
        self.lock = threading.Lock()


def copy_frame(
    frame: Shaped[np.ndarray, "height width *channels"],
    place: Shaped[np.ndarray, "height width *channels"],
) -> None:
    """Copy a frame into a block (contiguous) without giving up the interpreter lock.

    A copy by numpy gives it up and has to wait until it is given back; at 200 Hz that doubles the
    99th percentile of `add_step`. Keeping it costs the other threads 0.1 ms.
    """
    if frame.flags.c_contiguous:
        memoryview(place.reshape(-1))[:] = memoryview(frame.reshape(-1))
    else:
        place[...] = frame


@dataclass(frozen=True)
class Recorded:
    """An episode that is on the disk."""

    uid: str
    steps: int
    dropped_steps: int
    """Steps that were refused, because the queue was full or the step was wrong."""
    samples: dict[str, int]
    """By sensor."""
    dropped_samples: dict[str, int]
    """By sensor, where any was."""
    fullest_queue: float
    """Most of the queue of steps that was in use at once; 1.0 is all of it."""


class Ending:
    """An episode that was ended: it is on the disk once `result` returns."""

    def __init__(self) -> None:
        self.future: Future[Recorded] = Future()
        self.asked = False
        """Whether somebody was told how it went."""

    def done(self) -> bool:
        """Whether `result` will return at once."""
        return self.future.done()

    def result(self, timeout_s: float | None = None) -> Recorded:
        """Wait until the episode is stored. Raises what went wrong (OSError of a full disk, then
        nothing of the episode is in the store), or TimeoutError."""
        recorded = None
        try:
            recorded = self.future.result(timeout_s)
        finally:
            self.asked = self.future.done()
        return recorded


@dataclass(frozen=True)
class Finish:
    """The order to commit an episode."""

    run: Run
    success: bool | None
    info: dict[str, str | int | float | bool]
    subgoals: tuple[Subgoal, ...]
    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Discard:
    """The order to remove what was written of an episode."""

    run: Run
