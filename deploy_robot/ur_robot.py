"""Universal Robots' arms through ur-rtde: joint positions streamed with servoJ.

    pip install 'ulna[ur]'            ROBOTS.md: network, settings of the arm, first motion

Nothing of the library is imported before the device process opens the arm. What is called of it
stands in `UrLibrary`; the tests' fake has exactly these methods.

    RTDEReceiveInterface   getActualQ getTimestamp getSafetyStatusBits getRobotMode
                           getTargetSpeedFraction isConnected disconnect
    RTDEControlInterface   servoJ servoStop setWatchdog kickWatchdog isProgramRunning isConnected
                           stopScript disconnect
    RTDEIOInterface        setStandardDigitalOut disconnect
"""

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .joint_robot_driver import DeviceClock, Frame, LinkLost, joint_embodiment_meaning

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
UR_RUNNING = 7
"""Robot mode of an arm with power on and brakes released."""
SAFETY_BITS = {
    2: "protective stop",
    3: "recovery mode",
    4: "safeguard stop",
    5: "emergency stop of the system",
    6: "emergency stop of the robot",
    7: "emergency stop",
    8: "safety violation",
    9: "safety fault",
    10: "stopped for safety",
}
"""Bits of the safety status that forbid motion; bits 0 and 1 (normal, reduced) do not."""


@dataclass(frozen=True)
class UrConfig:
    """One arm of Universal Robots."""

    host: str
    """Address of the controller."""
    hz: float = 500.0
    """Rate of servoJ and of measuring: 500 for e-Series and later, 125 for CB3."""
    control_hz: float = 20.0
    """Rate of the policy's actions, for its embodiment."""
    lookahead_s: float = 0.1
    """servoJ smooths the targets over this time (0.03 to 0.2): it is latency, too."""
    gain: float = 300.0
    """servoJ's proportional gain, 100 to 2000."""
    stop_deceleration: float = 2.0
    """Of servoStop, in its units of m/s2 of the tool."""
    watchdog_hz: float = 10.0
    """The controller stops the program if it hears less often from us than this."""
    gripper_output: int | None = None
    """Standard digital output that closes the gripper when high; None: no gripper."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("a UR arm needs its address; give host=192.168.0.2 or the like")
        if not (0.03 <= self.lookahead_s <= 0.2 and 100 <= self.gain <= 2000):
            raise ValueError(
                f"lookahead_s {self.lookahead_s} and gain {self.gain}: servoJ takes 0.03 to 0.2 s "
                "and 100 to 2000"
            )
        if not 0 < self.watchdog_hz <= self.hz <= 500:
            raise ValueError(
                f"hz {self.hz}, watchdog_hz {self.watchdog_hz}: give 0 < watchdog_hz <= hz <= 500"
            )


@dataclass(frozen=True)
class UrLibrary:
    """The three classes of ur-rtde, or those of a fake."""

    receive: Callable[..., Any]
    control: Callable[..., Any]
    io: Callable[..., Any]


def ur_library() -> UrLibrary:
    """The installed ur-rtde."""
    try:
        return UrLibrary(
            importlib.import_module("rtde_receive").RTDEReceiveInterface,
            importlib.import_module("rtde_control").RTDEControlInterface,
            importlib.import_module("rtde_io").RTDEIOInterface,
        )
    except ImportError as error:
        raise ImportError(
            f"the robot ur needs the package ur-rtde ({error}); pip install 'ulna[ur]'"
        ) from None


class UrDriver:
    """An `ArmDriver` of one UR arm."""

    max_failed_reads = 0

    def __init__(
        self, config: UrConfig, find_library: Callable[[], UrLibrary] = ur_library
    ) -> None:
        self.config = config
        self.hz = config.hz
        self.notes: tuple[str, ...] = ()
        self._find_library = find_library
        self._receive: Any = None
        self._control: Any = None
        self._io: Any = None
        self._clock = DeviceClock()
        self._gripper = -1.0
        self._kick_s = 0.0
        self._slow_periods = 0

    def open(self) -> Embodiment:
        config, library = self.config, self._find_library()
        self._receive = library.receive(config.host, config.hz)
        # Before the control interface: that one uploads a program, which moves nothing but must
        # not be started on an arm somebody has stopped.
        if problem := self._stopped():
            raise ValueError(
                f"the arm at {config.host} must not be moved: {problem}. Look at the arm, clear "
                "this on the pendant, then start again"
            )
        fraction = self._receive.getTargetSpeedFraction()
        if fraction < 0.999:
            self.notes = (
                f"the speed slider stands at {fraction:.0%}: the arm lags behind its commands",
            )
        self._control = library.control(config.host, config.hz)
        if not self._control.setWatchdog(config.watchdog_hz):
            raise LinkLost("the controller does not accept a watchdog")
        if config.gripper_output is not None:
            self._io = library.io(config.host)
        gripper = () if self._io is None else ("gripper",)
        turn = (2 * math.pi,) * len(JOINTS)
        return Embodiment(
            name="ur_joint_position",
            control_hz=config.control_hz,
            state_names=(*(f"{joint}.pos" for joint in JOINTS), *gripper),
            action_names=(*(f"{joint}.pos" for joint in JOINTS), *gripper),
            action_low=(*(-x for x in turn), *(-1.0 for _ in gripper)),
            action_high=(*turn, *(1.0 for _ in gripper)),
            action_meaning=joint_embodiment_meaning("gripper > 0 closes" if gripper else ""),
            cameras=(),
            joint_names=JOINTS,
            joint_low_rad=tuple(-x for x in turn),
            joint_high_rad=turn,
        )

    def start(self, seed: int) -> None:
        self._slow_periods = 0

    def measure(self, into: dict[str, np.ndarray]) -> None:
        receive = self._receive
        position_rad = receive.getActualQ()
        into["joint_position_rad"][:] = position_rad
        into["state"][: len(JOINTS)] = position_rad
        into["state"][len(JOINTS) :] = self._gripper
        into["time_ns"][...] = self._clock.monotonic_ns(receive.getTimestamp(), time.monotonic_ns())
        now_s = time.monotonic()
        if now_s >= self._kick_s:
            self._control.kickWatchdog()
            self._kick_s = now_s + 0.25 / self.config.watchdog_hz

    def frames(self) -> Iterable[Frame]:
        return ()

    def command(self, action: Float[np.ndarray, " action_dim"]) -> None:
        config = self.config
        # Speed and acceleration are not used by servoJ; the time is that of one period. A thread
        # of the program on the arm goes on servoing to this target, so saying it once is enough.
        target = action[: len(JOINTS)].tolist()
        if not self._control.servoJ(
            target, 0.0, 0.0, 1 / config.hz, config.lookahead_s, config.gain
        ):
            raise LinkLost(f"servoJ was refused: {self._stopped() or 'no reason given'}")
        if self._io is not None:
            gripper = 1.0 if action[len(JOINTS)] > 0 else -1.0
            if gripper != self._gripper:
                self._io.setStandardDigitalOut(config.gripper_output, gripper > 0)
                self._gripper = gripper

    def hold(self) -> None:
        self._control.servoStop(self.config.stop_deceleration)

    def fault(self) -> str:
        if not self._receive.isConnected():
            return "the connection that measures is lost"
        if not self._control.isConnected():
            return "the connection that commands is lost"
        if problem := self._stopped():
            return problem
        if not self._control.isProgramRunning():
            return "the control program on the arm has ended (pendant, watchdog or local mode)"
        self._slow_periods += self._receive.getTargetSpeedFraction() < 0.999
        return ""

    def finish(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        return {"reduced_speed_periods": self._slow_periods}, {}

    def close(self) -> None:
        control, self._control = self._control, None
        steps = [] if control is None else [lambda: control.servoStop(2.0), control.stopScript]
        for part in (control, self._receive, self._io):
            if part is not None:
                steps.append(part.disconnect)
        self._receive = self._io = None
        for step in steps:
            # A dead link refuses all of them; the watchdog has stopped the arm then.
            with contextlib.suppress(OSError, RuntimeError):
                step()

    def _stopped(self) -> str:
        """What of safety forbids motion; empty if nothing."""
        bits = self._receive.getSafetyStatusBits()
        reasons = [name for bit, name in SAFETY_BITS.items() if bits >> bit & 1]
        mode = self._receive.getRobotMode()
        if mode != UR_RUNNING:
            reasons.append(f"robot mode {mode}, not {UR_RUNNING} (power on, brakes released)")
        return ", ".join(reasons)
