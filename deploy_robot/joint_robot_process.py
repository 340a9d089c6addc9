"""The process that talks to an arm: it may wait for the arm, the control loop never waits for it.

    every 1 / driver.hz seconds
        a new, fresh command?   driver.command         none for COMMAND_TIMEOUT_S: driver.hold
        driver.measure  ->      shared memory
        driver.frames   ->      shared memory, one record per camera
        driver.fault    ->      shared memory: from then on the arm is only held

The arm is held, and let go, whatever ends this process short of a SIGKILL; against that, drivers
use what their arms offer (a watchdog on the controller). If the control process dies, the end of
the connection says so within one period.
"""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from ..datasets.schema import Embodiment
from .clock import MonotonicClock, Ticker
from .joint_robot_driver import ArmDriver
from .processes import obey_parent_only, report_crash
from .robot import UNJUDGED, EpisodeEnd
from .shared_record import Field, SharedRecord

COMMAND_TIMEOUT_S = 0.15
"""Without a new command for this long the arm is held: the control process hangs."""
FAULT_BYTES = 512
LOST = (OSError, RuntimeError)
"""What vendors' libraries raise for a lost arm; anything else is a mistake in our code."""


def measurement_record(embodiment: Embodiment) -> SharedRecord:
    return SharedRecord(
        (
            Field("state", "float32", (embodiment.state_dim,)),
            Field("joint_position_rad", "float64", (len(embodiment.joint_names),)),
            Field("time_ns", "int64"),
        )
    )


def frame_record(height: int, width: int) -> SharedRecord:
    return SharedRecord((Field("image", "uint8", (height, width, 3)), Field("time_ns", "int64")))


def put_frame(record: SharedRecord, time_ns: int, image: np.ndarray) -> None:
    slot = record.begin()
    slot["image"][...] = image
    slot["time_ns"][...] = time_ns
    record.commit()


def put_text(record: SharedRecord, text: str) -> None:
    """Publish up to FAULT_BYTES of `text`; a record of `text` and `length`."""
    data = text.encode()[:FAULT_BYTES]
    slot = record.begin()
    slot["text"][: len(data)] = np.frombuffer(data, np.uint8)
    slot["length"][...] = len(data)
    record.commit()


def device_process(connection: Connection, make_driver: Callable[[], ArmDriver]) -> None:
    """Main function of the process."""
    obey_parent_only()
    try:
        driver = make_driver()
        try:
            try:
                embodiment = driver.open()
            except (ValueError, ImportError, *LOST) as error:
                connection.send(("refused", str(error)))
                return
            _Device(driver, embodiment, connection).serve()
        finally:
            driver.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone; the arm was held and let go on the way here
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


class _Device:
    """The inside of the device process, once the arm is open."""

    def __init__(self, driver: ArmDriver, embodiment: Embodiment, connection: Connection) -> None:
        self.driver = driver
        self.connection = connection
        self.measurements = measurement_record(embodiment)
        self.frames = {c.name: frame_record(c.height, c.width) for c in embodiment.cameras}
        self.faults = SharedRecord(
            (Field("text", "uint8", (FAULT_BYTES,)), Field("length", "int64"))
        )
        self.commands = SharedRecord(
            (
                Field("action", "float64", (embodiment.action_dim,)),
                Field("hold", "bool"),
                Field("sent_ns", "int64"),
            )
        )
        self.command = self.commands.empty()
        self.ticker = Ticker(MonotonicClock(), driver.hz, capacity=1)
        self.fault = ""
        self.failed_reads = self.failed_in_a_row = 0
        self.held = self.late_commands = self.overwritten_commands = 0
        self.seen_command = 0
        self.commanded_ns = 0
        self.holding = True
        own_units = getattr(driver, "own_units", None)
        connection.send(("ready", (embodiment, driver.notes, own_units)))
        for record in (self.measurements, self.commands, self.faults, *self.frames.values()):
            record.send(connection)

    def serve(self) -> None:
        """Obey the control process until it says `end`."""
        self.ticker.start(time.monotonic_ns())
        while True:
            while self.connection.poll(0):
                kind, value = self.connection.recv()
                if kind == "end":
                    return
                if kind == "start":
                    self._start(value)
                elif kind == "finish":
                    self._finish()
                else:
                    raise ValueError(f"message {kind!r}; known: start, finish, end")
            self.ticker.wait()
            if not self.fault:
                self._obey()
            self._look()

    def _start(self, seed: int) -> None:
        if self.fault:
            self.connection.send(("refused", f"{self.fault}; mend it and start the run again"))
            return
        self.driver.start(seed)
        self.seen_command = self.commands.version
        self.holding = True
        self.failed_reads = self.held = self.late_commands = self.overwritten_commands = 0
        self.ticker.start(time.monotonic_ns())
        self._look()
        self.connection.send(("started", time.monotonic_ns()))

    def _obey(self) -> None:
        """Pass a new command on; hold once there is none."""
        version = self.commands.read(self.command)
        now_ns = time.monotonic_ns()
        try:
            if version > self.seen_command:
                self.overwritten_commands += version - self.seen_command - 1
                self.seen_command = version
                if self.command["hold"]:
                    self._hold()
                elif (now_ns - int(self.command["sent_ns"])) * 1e-9 > COMMAND_TIMEOUT_S:
                    self.late_commands += 1
                else:
                    self.driver.command(self.command["action"])
                    self.commanded_ns, self.holding = now_ns, False
            if not self.holding and (now_ns - self.commanded_ns) * 1e-9 > COMMAND_TIMEOUT_S:
                self._hold()
        except LOST as error:
            self._lose(f"the arm does not take commands: {error}")

    def _look(self) -> None:
        """Measure, publish, and see whether all is well."""
        slot = self.measurements.begin()
        try:
            self.driver.measure(slot)
            self.measurements.commit()
            self.failed_in_a_row = 0
        except LOST as error:
            # The half-filled slot is not committed, and is filled anew next time.
            self.failed_reads += 1
            self.failed_in_a_row += 1
            if self.failed_in_a_row > self.driver.max_failed_reads:
                self._lose(f"the arm cannot be measured: {error}")
            return
        try:
            for name, time_ns, image in self.driver.frames():
                put_frame(self.frames[name], time_ns, image)
        except LOST as error:
            self._lose(f"a camera is lost: {error}")
            return
        try:
            problem = self.driver.fault()
        except LOST as error:
            problem = str(error)
        if problem:
            self._lose(problem)

    def _hold(self) -> None:
        self.holding = True
        self.held += 1
        self.driver.hold()

    def _lose(self, reason: str) -> None:
        """Obey no command from now on. Measuring goes on: the log is to show the arm at rest."""
        if self.fault:
            return  # the first reason is the cause
        self.fault = reason
        put_text(self.faults, reason)
        try:
            self.driver.hold()
        except LOST as error:
            # An arm that does not hear has stopped by its own watchdog; say that we tried.
            self.fault = f"{reason}; nor does it take a hold: {error}"
            put_text(self.faults, self.fault)

    def _finish(self) -> None:
        counters, streams = self.driver.finish()
        counters = {
            "overruns": self.ticker.skipped,
            "failed_reads": self.failed_reads,
            "holds": self.held,
            "late_commands": self.late_commands,
            "overwritten_commands": self.overwritten_commands,
            **counters,
        }
        end = EpisodeEnd(False, UNJUDGED, counters, streams, video=False)
        self.connection.send(("finished", end))
