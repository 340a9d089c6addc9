"""Franka arms through franky: joint positions tracked by its 1 kHz impedance controller.

    pip install 'ulna[franka]'        ROBOTS.md: network, kernel, settings of the arm, first motion

franky runs the 1 kHz loop in a thread of its own, in C++; Python only moves its reference, so a
late tick here is a reference that stands still, not a violated deadline. What is called of it:

    franky.Robot                 state has_errors is_in_control poll_motion
    franky.JointImpedanceTracker set_target stop
    franky.Gripper               move_async grasp_async width max_width   (franka_hand.py)
    franky.Exception             base of everything it raises
"""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name
from .franka_hand import FrankaHand
from .joint_robot_driver import DeviceClock, Frame, LinkLost, joint_embodiment_meaning

JOINTS = tuple(f"joint{number}" for number in range(1, 8))
# Joint ranges in rad from the makers' data sheets (Franka Emika, Franka Robotics: "Robot and
# interface specifications", joint limits of Panda and of Research 3).
RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "panda": (
        (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
        (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    ),
    "fr3": (
        (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
        (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    ),
}
MAX_SILENCE_S = 0.1
"""The arm measures 1000 times a second. franky itself notices a dead server after about 2 s
(measured); until then it shows the last state again and again."""
_SILENT_READS = 5
_MOVABLE_MODES = ("Idle", "Move")


@dataclass(frozen=True)
class FrankaConfig:
    """One Franka arm, with or without its hand."""

    host: str
    """Address of the arm's controller (FCI)."""
    model: Literal["panda", "fr3"] = "fr3"
    hz: float = 250.0
    """How often the reference is moved and the arm measured; the controller runs at 1000 Hz."""
    control_hz: float = 20.0
    """Rate of the policy's actions, for its embodiment."""
    stiffness: tuple[float, ...] = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
    """Of each joint, in Nm/rad; damping is critical."""
    hand: bool = True
    """Whether the arm carries Franka's own gripper."""
    hand_speed_m_s: float = 0.1
    hand_force_n: float = 20.0
    enforce_realtime_kernel: bool = True
    """Refuse to run on a kernel without PREEMPT_RT, as libfranka does by default."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("a Franka arm needs its address; give host=172.16.0.2 or the like")
        if self.model not in RANGES:
            raise unknown_name("Franka model", self.model, RANGES)
        if len(self.stiffness) != len(JOINTS) or not 0 < self.hz <= 1000:
            raise ValueError(
                f"stiffness of {len(self.stiffness)} joints, hz {self.hz}: give "
                f"{len(JOINTS)} numbers, and 0 < hz <= 1000"
            )


def franka_library() -> Any:
    """The installed franky."""
    try:
        return importlib.import_module("franky")
    except ImportError as error:
        raise ImportError(
            f"the robot franka needs the package franky-control ({error}); "
            "pip install 'ulna[franka]'"
        ) from None


class FrankaDriver:
    """An `ArmDriver` of one Franka arm."""

    max_failed_reads = 0

    def __init__(
        self,
        config: FrankaConfig,
        find_library: Callable[[], Any] = franka_library,
        make_hand: Callable[..., FrankaHand] = FrankaHand,
    ) -> None:
        self.config = config
        self.hz = config.hz
        self.notes: tuple[str, ...] = ()
        self._find_library, self._make_hand = find_library, make_hand
        self._franky: Any = None
        self._robot: Any = None
        self._tracker: Any = None
        self._hand: FrankaHand | None = None
        self._clock = DeviceClock()
        self._device_s = -1.0
        self._silent_reads = self._heard_ns = 0

    def open(self) -> Embodiment:
        config = self.config
        self._franky = franky = self._find_library()
        kernel = franky.RealtimeConfig
        with self._translated():
            self._robot = franky.Robot(
                config.host,
                realtime_config=kernel.Enforce if config.enforce_realtime_kernel else kernel.Ignore,
            )
            if problem := self._stopped():
                raise ValueError(
                    f"the arm at {config.host} must not be moved: {problem}. Look at the arm, "
                    "clear this in Desk, then start again"
                )
        if config.hand:
            self._hand = self._make_hand(
                config.host, config.hand_speed_m_s, config.hand_force_n, self._find_library
            )
            self._hand.connect()
        hand = () if self._hand is None else ("gripper",)
        low, high = RANGES[config.model]
        return Embodiment(
            name=f"franka_{config.model}_joint_position",
            control_hz=config.control_hz,
            state_names=(*(f"{joint}.pos" for joint in JOINTS), *(f"{x}_width_m" for x in hand)),
            action_names=(*(f"{joint}.pos" for joint in JOINTS), *hand),
            action_low=(*low, *(-1.0 for _ in hand)),
            action_high=(*high, *(1.0 for _ in hand)),
            action_meaning=joint_embodiment_meaning(
                "gripper by its sign, > 0 closes" if hand else ""
            ),
            cameras=(),
            joint_names=JOINTS,
            joint_low_rad=low,
            joint_high_rad=high,
        )

    def start(self, seed: int) -> None:
        if self._tracker is None:
            # It begins with the measured position as its reference: taking control moves nothing.
            with self._translated():
                self._tracker = self._franky.JointImpedanceTracker(
                    self._robot, stiffness=np.array(self.config.stiffness)
                )

    def measure(self, into: dict[str, np.ndarray]) -> None:
        with self._translated():
            state = self._robot.state
        into["joint_position_rad"][:] = state.q
        into["state"][: len(JOINTS)] = state.q
        if self._hand is not None:
            into["state"][len(JOINTS)] = self._hand.read_width_m()
        device_s, now_ns = state.time.to_sec(), time.monotonic_ns()
        into["time_ns"][...] = self._clock.monotonic_ns(device_s, now_ns)
        # Several reads besides: if we ourselves stood still, the first one afterwards is old.
        self._silent_reads = 0 if device_s != self._device_s else self._silent_reads + 1
        if self._silent_reads == 0:
            self._device_s, self._heard_ns = device_s, now_ns
        silent_s = (now_ns - self._heard_ns) * 1e-9
        if self._silent_reads >= _SILENT_READS and silent_s > MAX_SILENCE_S:
            raise LinkLost(f"no new state for {silent_s:.2f} s")

    def frames(self) -> Iterable[Frame]:
        return ()

    def command(self, action: Float[np.ndarray, " action_dim"]) -> None:
        with self._translated():
            self._tracker.set_target(action[: len(JOINTS)].copy())
            if self._hand is not None:
                self._hand.obey(bool(action[len(JOINTS)] > 0))

    def hold(self) -> None:
        # Stays in control, stiff, where the arm is: letting go of control is `close`.
        if self._tracker is not None:
            with self._translated():
                self._tracker.set_target(np.array(self._robot.state.q))

    def fault(self) -> str:
        with self._translated():
            if problem := self._stopped():
                return problem
            if self._tracker is not None and not self._robot.is_in_control:
                self._robot.poll_motion()  # raises what ended the controller, if it was an error
                return "the controller on the arm has ended"
        return "" if self._hand is None else self._hand.fault()

    def finish(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        return {}, {}

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        hand, self._hand = self._hand, None
        if hand is not None:
            hand.close()
        if tracker is not None:
            # A dead link refuses it; libfranka's own reflexes have stopped the arm then.
            with contextlib.suppress(LinkLost, OSError, RuntimeError), self._translated():
                tracker.stop()
        self._robot = None

    def _stopped(self) -> str:
        """What forbids motion; empty if nothing."""
        state = self._robot.state
        if self._robot.has_errors:
            return f"errors on the arm: {state.current_errors!r}"
        mode = state.robot_mode.name
        if mode not in _MOVABLE_MODES:
            return f"the arm is in mode {mode}, not {' or '.join(_MOVABLE_MODES)}"
        return ""

    @contextlib.contextmanager
    def _translated(self):
        """franky's exceptions are no RuntimeErrors; ours are."""
        try:
            yield
        except self._franky.Exception as error:
            raise LinkLost(str(error)) from error
