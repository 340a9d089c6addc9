"""Cameras that are not the arm's own, in a process of their own beside it.

Decoding and drawing pictures takes milliseconds; an arm that is told where to be 500 times a
second must not share an interpreter with that. Each camera publishes into a record of its own, with
the time its frame was captured.
"""

import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Protocol, runtime_checkable

from ..datasets.schema import Camera
from .joint_robot_driver import Frame
from .joint_robot_process import LOST, frame_record, put_frame
from .processes import obey_parent_only, report_crash
from .shared_record import SharedRecord


@runtime_checkable
class FrameSource(Protocol):
    """Some cameras. All methods from one thread."""

    notes: tuple[str, ...]

    def open(self, measurements: SharedRecord) -> tuple[Camera, ...]:
        """Connect. `measurements` is what the arm publishes, for cameras that are simulated."""
        ...

    def frames(self) -> Iterable[Frame]:
        """Frames that came since the last call; waits a moment for them, not much longer than a
        frame takes. LinkLost, OSError or RuntimeError when a camera is lost."""
        ...

    def close(self) -> None:
        """Never raises; may be called more than once."""
        ...


def camera_process(connection: Connection, make_source: Callable[[], FrameSource]) -> None:
    """Main function of the process. A lost camera stops publishing; the control process sees that
    in the age of its frames, and the others go on."""
    obey_parent_only()
    try:
        measurements = SharedRecord.receive(connection)
        source = make_source()
        try:
            try:
                cameras = source.open(measurements)
            except (ValueError, ImportError, *LOST) as error:
                connection.send(("refused", str(error)))
                return
            connection.send(("ready", (cameras, source.notes)))
            records = {c.name: frame_record(c.height, c.width) for c in cameras}
            for record in records.values():
                record.send(connection)
            _publish(connection, source, records)
        finally:
            source.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


def _publish(connection: Connection, source: FrameSource, records: dict[str, SharedRecord]) -> None:
    while not connection.poll(0):
        try:
            for name, time_ns, image in source.frames():
                put_frame(records[name], time_ns, image)
        except LOST:
            time.sleep(0.01)  # tried again: a cable may be put back, and ages tell meanwhile
