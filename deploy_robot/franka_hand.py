"""Franka's gripper, in a process of its own: franky's calls for it can wait, and wait for long.

Measured with franky 2.0.0 on franky-sim: a command given while another one runs waits for that
one's end, without letting other Python threads run, and two that overlap can wait for ever. So
commands are given one after the other, each when the last one is done, and where this fails it
fails in a process that moves no joint.
"""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .clock import MonotonicClock, Ticker
from .joint_robot_driver import LinkLost
from .processes import await_message, end_process, obey_parent_only, report_crash, start_process
from .shared_record import Field, SharedRecord

HAND_HZ = 25.0
CONNECT_TIMEOUT_S = 30.0
MAX_COMMAND_S = 8.0
"""The slowest grasp takes half of it."""
MAX_SILENCE_S = 2.0


class HandTurns:
    """One command after the other: the newest wish is begun when the last one is done."""

    def __init__(self, gripper: Any, speed_m_s: float, force_n: float) -> None:
        """`gripper`: a `franky.Gripper`."""
        self._gripper, self._speed_m_s, self._force_n = gripper, speed_m_s, force_n
        self._open_m = float(gripper.max_width)
        self._closed: bool | None = None
        self._running: Any = None
        self._began_s = 0.0

    def step(self, close: bool | None, now_s: float) -> float:
        """Begin what is wanted if it can be begun (None: nothing yet); the width in metres."""
        if self._running is not None:
            if self._running.wait(0.0):
                # False for a grasp that found nothing: the policy's affair, not a fault.
                self._running.get()
                self._running = None
            elif now_s - self._began_s > MAX_COMMAND_S:
                raise LinkLost(f"the gripper did not finish a command in {MAX_COMMAND_S:g} s")
        if self._running is None and close is not None and close != self._closed:
            self._closed, self._began_s = close, now_s
            if close:
                # Whatever lies between the fingers counts as grasped: 1 m of tolerance.
                self._running = self._gripper.grasp_async(
                    0.0, self._speed_m_s, self._force_n, 1.0, 1.0
                )
            else:
                self._running = self._gripper.move_async(self._open_m, self._speed_m_s)
        return float(self._gripper.width)


class FrankaHand:
    """The gripper as the driver of the arm sees it; only `connect` and `close` wait."""

    def __init__(
        self, host: str, speed_m_s: float, force_n: float, find_library: Callable[[], Any]
    ) -> None:
        self._arguments = (host, speed_m_s, force_n, find_library)
        self._process = None

    def connect(self) -> None:
        self._process, self._connection = start_process(_serve, self._arguments, "Franka hand")
        try:
            await_message(self._process, self._connection, "ready", CONNECT_TIMEOUT_S)
            self._wishes = SharedRecord.receive(self._connection)
            self._measured = SharedRecord.receive(self._connection)
        except BaseException:
            self.close()
            raise
        self._now = self._measured.empty()
        self._closed: bool | None = None
        self.read_width_m()

    def obey(self, close: bool) -> None:
        """Close or open from now on."""
        if close != self._closed:
            self._closed = close
            self._wishes.begin()["close"][...] = close
            self._wishes.commit()

    def read_width_m(self) -> float:
        """The newest measured opening."""
        self._measured.read(self._now)
        return float(self._now["width_m"])

    def fault(self) -> str:
        """Why the gripper must not be relied on; empty while it can."""
        if self._process is None or not self._process.is_alive():
            return "the process of the gripper is gone (its reason stands above, if it had one)"
        silent_s = (time.monotonic_ns() - int(self._now["time_ns"])) * 1e-9
        return f"the gripper is silent for {silent_s:.1f} s" if silent_s > MAX_SILENCE_S else ""

    def close(self) -> None:
        """The fingers stay as they are."""
        if self._process is not None:
            end_process(self._process, self._connection, grace_s=1.0)
            self._process = None


def _serve(
    connection: Connection,
    host: str,
    speed_m_s: float,
    force_n: float,
    find_library: Callable[[], Any],
) -> None:
    """Main function of the process."""
    obey_parent_only()
    try:
        library = find_library()
        try:
            gripper = library.Gripper(host)
            turns = HandTurns(gripper, speed_m_s, force_n)
            wishes = SharedRecord((Field("close", "bool"),))
            measured = SharedRecord((Field("width_m", "float64"), Field("time_ns", "int64")))
            _publish(measured, turns.step(None, time.monotonic()))
        except library.Exception as error:
            connection.send(("refused", f"the gripper at {host}: {error}"))
            return
        connection.send(("ready", None))
        wishes.send(connection)
        measured.send(connection)
        wish = {"close": np.zeros((), np.bool_)}
        ticker = Ticker(MonotonicClock(), HAND_HZ, capacity=1)
        while not connection.poll(0):
            ticker.wait()
            close = bool(wish["close"]) if wishes.read(wish) else None
            _publish(measured, turns.step(close, time.monotonic()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


def _publish(measured: SharedRecord, width_m: float) -> None:
    slot = measured.begin()
    slot["width_m"][...] = width_m
    slot["time_ns"][...] = time.monotonic_ns()
    measured.commit()
