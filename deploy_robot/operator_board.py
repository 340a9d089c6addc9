"""What the operator wants, on a board in shared memory that the control loop looks at every tick.

    keyboard, or any program --OperatorBoard--> shared memory --BoardOperator.poll--> control loop
    (supervisor process)                                      (control process)

The newest state of the board counts, and looking at an unchanged board costs a microsecond. A
stop stays on it; an instruction is said once; a verdict ends the episode it was given in.

Next: `operator_keys.py` (the keyboard), `operator_sources.py` (other operators).
"""

import threading
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np

from ..datasets.schema import unknown_name
from .orders import Orders
from .robot import RobotState
from .shared_record import Field, SharedRecord

TEXT_BYTES = 2048
"""Longest instruction."""
VERDICTS: tuple[Literal["success", "failure"], ...] = ("success", "failure")
_FIELDS = (
    Field("stop", "bool"),
    Field("paused", "bool"),
    Field("taken_over", "bool"),
    Field("instruction", "int64"),
    Field("text_bytes", "int64"),
    Field("text", "uint8", (TEXT_BYTES,)),
    Field("verdict", "int64", (2,)),
)


class OperatorBoard:
    """The operator's side. From any thread of one process."""

    def __init__(self) -> None:
        self._record = SharedRecord(_FIELDS)
        self._now = self._record.empty()
        self._lock = threading.Lock()
        self._publish()

    def send(self, connection: Connection) -> None:
        """Give the board to the control process at the other end of a duplex `Pipe`."""
        self._record.send(connection)

    @property
    def stopped(self) -> bool:
        return bool(self._now["stop"])

    @property
    def paused(self) -> bool:
        return bool(self._now["paused"])

    @property
    def taken_over(self) -> bool:
        return bool(self._now["taken_over"])

    def stop(self) -> None:
        """Emergency stop: the gate latches, the run ends in a hold. There is no way back."""
        self._set("stop", True)

    def pause(self, paused: bool) -> None:
        """Hold the arm, or let it go on."""
        self._set("paused", paused)

    def take_over(self, taken_over: bool) -> None:
        """Give the arm to the teleoperator, or back to the policy."""
        self._set("taken_over", taken_over)

    def instruct(self, text: str) -> None:
        """A new command for the policy. Raises ValueError for an empty or overlong one."""
        data = text.strip().encode()
        if not 0 < len(data) <= TEXT_BYTES:
            raise ValueError(f"an instruction of {len(data)} bytes; give 1 to {TEXT_BYTES} (UTF-8)")
        with self._lock:
            self._now["text"][: len(data)] = np.frombuffer(data, np.uint8)
            self._now["text_bytes"][...] = len(data)
            self._now["instruction"] += 1
            self._publish()

    def judge(self, verdict: Literal["success", "failure"]) -> None:
        """End the running episode with this outcome."""
        if verdict not in VERDICTS:
            raise unknown_name("verdict", verdict, VERDICTS)
        with self._lock:
            self._now["verdict"][0] += 1
            self._now["verdict"][1] = VERDICTS.index(verdict)
            self._publish()

    def _set(self, name: str, value: bool) -> None:
        with self._lock:
            self._now[name][...] = value
            self._publish()

    def _publish(self) -> None:
        slot = self._record.begin()
        for name, value in self._now.items():
            slot[name][...] = value
        self._record.commit()


class BoardOperator:
    """The control loop's side: an `Operator`."""

    def __init__(self, record: SharedRecord) -> None:
        self._record = record
        self._seen = record.empty()
        self._version = self._instruction = self._verdict = 0
        self._orders = Orders()
        self._unread = True
        self.begin_episode()

    @classmethod
    def receive(cls, connection: Connection) -> "BoardOperator":
        """The board that the other end gives with `send`."""
        return cls(SharedRecord.receive(connection))

    @classmethod
    def of(cls, board: OperatorBoard) -> "BoardOperator":
        """For a loop in the same process as the board."""
        return cls(board._record)

    @property
    def taken_over(self) -> bool:
        """Whether the teleoperator has the arm, as of the last `poll`."""
        return bool(self._seen["taken_over"])

    def begin_episode(self) -> None:
        """A verdict that was given before counts no more: it was about another episode."""
        self._unread = self._look() or self._unread
        self._verdict = int(self._seen["verdict"][0])
        self._orders.verdict = None

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        """The newest orders. Never waits."""
        orders, seen = self._orders, self._seen
        orders.instruction = None
        if not (self._look() or self._unread):
            return orders
        self._unread = False
        orders.stop = bool(seen["stop"])
        orders.paused = bool(seen["paused"])
        number = int(seen["instruction"])
        if number != self._instruction:
            self._instruction = number
            text = seen["text"][: int(seen["text_bytes"])].tobytes()
            orders.instruction = text.decode()
        number, verdict = (int(value) for value in seen["verdict"])
        if number != self._verdict:
            self._verdict = number
            orders.verdict = VERDICTS[verdict]
        return orders

    def _look(self) -> bool:
        """Whether the board has changed; then it is in `_seen`."""
        if self._record.version == self._version:
            return False
        version = self._record.read(self._seen)
        if version == 0:
            return False  # the writer was faster than we: the next tick sees it
        self._version = version
        return True
