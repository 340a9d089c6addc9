"""Time for the real-time loop: absolute deadlines that do not drift, and a clock for tests.

    deadline    start      start + P    start + 2P   start + 3P   start + 4P
                  |            |            |            |            |
    work          [==]         [====================]    |            [==
    tick          0            1        (2 is skipped)   3            4

A tick that runs past the next deadline loses it: the missed deadlines are counted, never made up
in a burst, and the tick number stays the number of the deadline, so that "which action is due"
(`../envs/chunk_execution.py`) needs no second clock.

Next: `control_loop.py`, which is driven by a `Ticker`.
"""

import ctypes
import ctypes.util
import errno
import os
import time
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

_TIMER_ABSTIME = 1
MOST_LEAD_NS = 150_000.0
"""At 200 Hz 3 % of a period."""
_LEARNING_NS = 500.0


@runtime_checkable
class Clock(Protocol):
    """Monotonic nanoseconds and a wait for an absolute time."""

    def now_ns(self) -> int: ...

    def wait_until(self, time_ns: int) -> int:
        """Return at `time_ns` or as soon after it as possible; returns the time on return."""
        ...


class _TimeSpec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class MonotonicClock:
    """CLOCK_MONOTONIC, waited for by clock_nanosleep with an absolute time.

    A relative sleep adds its own start-up time to every period and drifts; an absolute one does
    not. Waking takes time too: the timer's interrupt, the scheduler, the interpreter's cold caches.
    So it asks to be woken earlier, by what nine of ten wake-ups have lately taken, and waits the
    rest out awake. That rest is short by construction and never more than `MOST_LEAD_NS`: on a
    shared core the scheduler makes whoever spins for longer pay later.
    """

    wait_method: str
    """`clock_nanosleep`, or `time.sleep` where the C library has none; goes into the results."""
    lead_ns: float
    """How much earlier than asked it has itself woken."""

    def __init__(self) -> None:
        library = ctypes.CDLL(ctypes.util.find_library("c") or None, use_errno=False)
        self._nanosleep = getattr(library, "clock_nanosleep", None)
        self.wait_method = "time.sleep" if self._nanosleep is None else "clock_nanosleep"
        self._target = _TimeSpec()
        self._target_pointer = ctypes.byref(self._target)
        self.lead_ns = 0.0

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait_until(self, time_ns: int) -> int:
        if self._nanosleep is None:
            while (left_ns := time_ns - time.monotonic_ns()) > 0:
                time.sleep(left_ns * 1e-9)
            return time.monotonic_ns()
        early_ns = time_ns - int(self.lead_ns)
        if time.monotonic_ns() < early_ns:
            self._sleep_until(early_ns)
            took_ns = time.monotonic_ns() - early_ns
            # Steps up nine times as large as steps down come to rest where one in ten goes up.
            step_ns = 9 * _LEARNING_NS if took_ns > self.lead_ns else -_LEARNING_NS
            self.lead_ns = min(max(self.lead_ns + step_ns, 0.0), MOST_LEAD_NS)
        while (now_ns := time.monotonic_ns()) < time_ns:
            pass
        return now_ns

    def _sleep_until(self, time_ns: int) -> None:
        assert self._nanosleep is not None
        self._target.seconds, self._target.nanoseconds = divmod(time_ns, 1_000_000_000)
        while True:
            # Returns the error number itself; a signal (EINTR) leaves the absolute target valid.
            code = self._nanosleep(time.CLOCK_MONOTONIC, _TIMER_ABSTIME, self._target_pointer, None)
            if code == 0:
                return
            if code != errno.EINTR:
                raise OSError(code, f"clock_nanosleep: {os.strerror(code)}")


class FakeClock:
    """Time that passes only when a test says so."""

    def __init__(self, now_ns: int = 1_000_000_000, oversleep_ns: tuple[int, ...] = ()) -> None:
        """`oversleep_ns`: how late each wait returns, in turn; on time when they are used up."""
        self._now_ns = now_ns
        self._oversleep_ns = list(oversleep_ns)

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, duration_ns: int) -> None:
        if duration_ns < 0:
            raise ValueError(f"time cannot go back: advance({duration_ns}); give 0 or more")
        self._now_ns += duration_ns

    def wait_until(self, time_ns: int) -> int:
        late_ns = self._oversleep_ns.pop(0) if self._oversleep_ns else 0
        self._now_ns = max(self._now_ns, time_ns) + late_ns
        return self._now_ns


class Ticker:
    """Deadlines `start_ns + tick * period_ns`, with the lateness of every tick kept."""

    tick: int
    """Number of the present tick; -1 before the first `wait`."""
    deadline_ns: int
    woke_ns: int
    skipped: int
    """Deadlines lost to overruns since `start`."""

    def __init__(self, clock: Clock, hz: float, capacity: int) -> None:
        """`capacity`: most ticks between two `start`s whose lateness is kept; later ones are
        still timed and counted, so that a loop that outlives its plan does not die of it."""
        if not (hz > 0 and capacity > 0):
            raise ValueError(f"a ticker needs hz > 0 and capacity > 0, got {hz} and {capacity}")
        self.clock = clock
        self.period_ns = round(1e9 / hz)
        self._lateness_ns = np.zeros(capacity, dtype=np.int64)
        self.start(clock.now_ns())

    def start(self, first_deadline_ns: int) -> None:
        """Begin anew: tick 0 is due at `first_deadline_ns`."""
        self._start_ns = first_deadline_ns
        self.tick = -1
        self.ticks = 0
        self.skipped = 0
        self.deadline_ns = self.woke_ns = first_deadline_ns

    def wait(self) -> int:
        """Sleep until the next deadline that has not passed and return its tick number.

        The very first deadline is never skipped: it is when the loop begins, late or not.
        """
        due = self.tick + 1
        if due > 0:
            behind_ns = self.clock.now_ns() - self._start_ns
            earliest = -(-behind_ns // self.period_ns)  # rounded up: the first not yet passed
            if earliest > due:
                self.skipped += earliest - due
                due = earliest
        self.tick = due
        self.deadline_ns = self._start_ns + due * self.period_ns
        self.woke_ns = self.clock.wait_until(self.deadline_ns)
        if self.ticks < len(self._lateness_ns):
            self._lateness_ns[self.ticks] = self.woke_ns - self.deadline_ns
        self.ticks += 1
        return due

    @property
    def lateness_ns(self) -> Int64[np.ndarray, " ticks"]:
        """How long after its deadline each tick woke, since `start`."""
        return self._lateness_ns[: self.ticks]
