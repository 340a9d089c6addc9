"""Starting and ending the processes around the arm, so that none outlives the run.

Every child has one duplex connection to its parent. A child whose parent is gone reads end of
file there and leaves by itself; a parent whose child is gone learns it from the exit code. Ctrl-C
reaches every process of a terminal at once, so children ignore it and obey their parent instead.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..envs.workers import environment_variables


class Stopped(Exception):
    """The run was told to stop while something was being waited for."""


def start_process(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    name: str,
    environment: dict[str, str] | None = None,
    has_children: bool = False,
) -> tuple[SpawnProcess, Connection]:
    """Spawn `target(connection, *arguments)`; returns the process and our end of the connection.

    `environment` is set for the child from its first instruction on, which is what libraries
    read that size their thread pools on import. Spawned, not forked: a fork would copy held
    locks and GPU contexts.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=True)
    process = context.Process(
        target=target, args=(theirs, *arguments), name=name, daemon=not has_children
    )
    with environment_variables(**(environment or {})), _interrupts_blocked():
        process.start()
    theirs.close()
    return process, ours


def obey_parent_only() -> None:
    """In a child, first thing: Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def report_crash(connection: Connection) -> None:
    """In a child's `except`: send the traceback to the parent, if it still listens."""
    try:
        connection.send(("crashed", traceback.format_exc()))
    except (BrokenPipeError, ConnectionResetError):
        traceback.print_exc()


def tell(connection: Connection, message: bytes) -> bool:
    """Send an encoded message to a child that may be gone; returns whether it was there. What a
    dead child had to say is found by `await_message`, which a broken pipe must not forestall."""
    try:
        connection.send_bytes(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def encode(message: object) -> bytes:
    """`message` as `Connection.recv` at the other end understands it."""
    return bytes(ForkingPickler.dumps(message))


def await_message(
    process: SpawnProcess,
    connection: Connection,
    expected: str,
    timeout_s: float,
    stopping: Callable[[], bool] = lambda: False,
) -> Any:
    """Wait for the message `(expected, value)` of a child and return the value.

    Raises ValueError if the child `refused` what it was told (a user's mistake), RuntimeError with
    the child's own traceback if it crashed, TimeoutError if it is silent, Stopped if `stopping()`
    comes true meanwhile.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        # Asked before the last poll, so that the final words of a dead child are still read.
        alive = process.is_alive()
        if connection.poll(0.05 if alive else 0.0):
            try:
                kind, value = connection.recv()
            except (EOFError, ConnectionResetError):
                kind, value = "ended", None
            if kind == expected:
                return value
            if kind == "refused":
                raise ValueError(value)
            if kind == "crashed":
                raise RuntimeError(f"the {process.name} process crashed:\n{value}")
            if kind == "ended":
                process.join(1.0)
                alive = False
        if not alive:
            raise RuntimeError(
                f"the {process.name} process ended (exit code {process.exitcode}) while "
                f"{expected!r} was expected; what it printed stands above"
            )
        if stopping():
            raise Stopped(f"stopped while waiting for {expected!r} from {process.name}")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the {process.name} process did not say {expected!r} within {timeout_s:g} s"
            )


def end_process(process: SpawnProcess, connection: Connection, grace_s: float = 5.0) -> None:
    """Tell a child to end, then insist; returns when it is gone and reaped."""
    tell(connection, encode(("end", None)))
    process.join(grace_s)
    for insist in (process.terminate, process.kill):
        if process.is_alive():
            insist()
            process.join(grace_s)
    connection.close()
    process.close()


@contextmanager
def _interrupts_blocked():
    """A child starts with Ctrl-C blocked, so that none strikes before it can say how to react."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
