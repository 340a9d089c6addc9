"""What has to be written for one make of arm: a driver, which may wait, in a process of its own.

    control process          device process (joint_robot_process.py)       the arm
      JointArm  <--shared memory-->  ArmDriver  <--library, may wait-->  controller

A driver is the only code that knows a vendor's library; it is single-threaded and sees neither
the control loop nor its clock. Actions are absolute joint positions, in radians unless the
embodiment's names say otherwise, then the gripper. `joint_robot.py` makes a `Robot` of it.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Embodiment


class LinkLost(RuntimeError):
    """The arm, or a part of it, cannot be talked to or refuses to obey. The text is the reason."""


Frame = tuple[str, int, UInt8[np.ndarray, "height width 3"]]
"""A camera's name, the monotonic nanosecond its frame was captured, the frame."""


@runtime_checkable
class ArmDriver(Protocol):
    """One arm through its own library. All methods from one thread; all but `close` may raise
    LinkLost, OSError or RuntimeError when the arm is lost."""

    hz: float
    """How often the arm is measured, and looked for a new command, per second."""
    max_failed_reads: int
    """`measure` may fail this often in a row before the arm counts as lost."""
    notes: tuple[str, ...]
    """What whoever reads the results should know, such as cameras without capture times."""

    def open(self) -> Embodiment:
        """Connect. ValueError if the arm must not be moved as it is (protective stop, brakes)."""
        ...

    def start(self, seed: int) -> None:
        """Be ready for an episode."""
        ...

    def measure(self, into: dict[str, np.ndarray]) -> None:
        """Fill `state`, `joint_position_rad` and `time_ns`, the monotonic nanosecond of capture."""
        ...

    def frames(self) -> Iterable[Frame]:
        """Frames that came since the last call, of cameras that this driver owns."""
        ...

    def command(self, action: Float[np.ndarray, " action_dim"]) -> None:
        """Follow `action` from now on. Called once for each new command."""
        ...

    def hold(self) -> None:
        """Come to rest and stay. Called once when commands end, whatever the reason."""
        ...

    def fault(self) -> str:
        """Why the arm must not be relied on any more; empty while it can. Asked every period."""
        ...

    def finish(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Counters and streams of the episode since `start`."""
        ...

    def close(self) -> None:
        """Hold, then let go. Never raises; may be called more than once."""
        ...


class DeviceClock:
    """Times of a device's own clock as monotonic nanoseconds of this machine.

    The smallest difference between arrival and device time seen lately is taken as the offset
    between the clocks: delays of the network only ever add to it. Windows forget, so that two
    crystals that drift apart (50 millionths are 3 ms a minute) do no harm, and a simulator that
    cannot keep up little.
    """

    def __init__(self, window_s: float = 1.0) -> None:
        self._window_ns = round(window_s * 1e9)
        self._best: list[int] = []
        self._window_start_ns = 0

    def monotonic_ns(self, device_s: float, arrived_ns: int) -> int:
        """When a measurement of device time `device_s` that arrived at `arrived_ns` was made."""
        offset_ns = arrived_ns - round(device_s * 1e9)
        if not self._best:
            self._best, self._window_start_ns = [offset_ns, offset_ns], arrived_ns
        if arrived_ns - self._window_start_ns >= self._window_ns:
            self._best, self._window_start_ns = [self._best[1], offset_ns], arrived_ns
        self._best[1] = min(self._best[1], offset_ns)
        return arrived_ns - offset_ns + min(self._best)


def joint_embodiment_meaning(extra: str = "") -> str:
    """The words of `Embodiment.action_meaning` for arms that obey absolute joint positions."""
    return "absolute joint positions in rad" + (f"; {extra}" if extra else "")
