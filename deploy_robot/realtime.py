"""What the kernel grants the control process: priority, locked memory, exact timers, no collector.

Everything is asked for, what was granted is reported, and `require=True` refuses to go on with
less: a loop that silently runs without its priority is found out by the arm.
"""

import ctypes
import ctypes.util
import gc
import os
import resource
import sys
from dataclasses import asdict, dataclass

_PR_SET_TIMERSLACK = 29
_MCL_CURRENT, _MCL_FUTURE = 1, 2


@dataclass(frozen=True)
class RealtimeRights:
    """What was granted; empty text of `missing` means everything."""

    scheduler: str
    """`fifo:<priority>` or `other`."""
    memory_locked: bool
    timer_slack_ns: int
    """How far the kernel may move a wake-up to batch it with others; -1 unknown."""
    missing: str
    """What was refused and why, and the way to get it."""

    def as_dict(self) -> dict[str, str | int | bool]:
        return asdict(self)


def prepare_realtime(priority: int = 10, require: bool = False) -> RealtimeRights:
    """Ask for SCHED_FIFO at `priority`, locked memory and 1 ns timer slack for this process.

    Call it in the control process once everything is imported and allocated. Processes started
    afterwards go back to the ordinary scheduler (RESET_ON_FORK), so that nothing CPU-bound can
    inherit the priority and starve the machine.

    Raises RuntimeError if `require` and anything is refused.
    """
    missing = []
    scheduler = "other"
    if hasattr(os, "sched_setscheduler"):
        try:
            os.sched_setscheduler(
                0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority)
            )
            scheduler = f"fifo:{priority}"
        except OSError as error:
            missing.append(
                f"SCHED_FIFO ({error.strerror}; allow it by `ulimit -r {priority}` or an "
                f"rtprio line in /etc/security/limits.conf)"
            )
    else:
        missing.append(f"SCHED_FIFO (no such scheduler on {sys.platform})")
    memory_locked, memory_error = _lock_memory()
    if not memory_locked:
        missing.append(f"locked memory ({memory_error}; allow it by `ulimit -l unlimited`)")
    timer_slack_ns = _set_timer_slack(1)
    if timer_slack_ns != 1:
        missing.append(f"timer slack of 1 ns (prctl is refused on {sys.platform})")
    rights = RealtimeRights(scheduler, memory_locked, timer_slack_ns, "; ".join(missing))
    if require and missing:
        raise RuntimeError(
            f"real-time rights were required and not granted: {rights.missing}. "
            "Grant them, or run without requiring them."
        )
    return rights


def quiet_collector() -> None:
    """Collect once, then keep the garbage collector out of the loop: what lives now is exempt."""
    gc.collect()
    gc.freeze()
    gc.disable()


def wake_collector() -> None:
    """Undo `quiet_collector` between two episodes, when time does not matter."""
    gc.enable()
    gc.unfreeze()
    gc.collect()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c") or None, use_errno=True)


def _lock_memory() -> tuple[bool, str]:
    if not hasattr(_libc(), "mlockall"):
        return False, f"no mlockall on {sys.platform}"
    # Locking the future too under a finite limit would turn a later allocation into a failure.
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = limit == resource.RLIM_INFINITY or os.geteuid() == 0
    flags = _MCL_CURRENT | _MCL_FUTURE if unlimited else _MCL_CURRENT
    if _libc().mlockall(flags) == 0:
        return True, ""
    return False, os.strerror(ctypes.get_errno())


def _set_timer_slack(slack_ns: int) -> int:
    if not sys.platform.startswith("linux"):
        return -1
    library = _libc()
    if library.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0) != 0:
        return -1
    return slack_ns
