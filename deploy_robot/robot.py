"""What every robot offers, simulated or real, and a fake one for tests.

    connect -> start_episode -> read, send, read, send ... hold -> finish_episode -> disconnect

`read` and `send` are called in the control tick: they move bytes that are already here and never
wait for the robot. Talking to hardware at its own rate is a process or thread of the robot's own
(`joint_robot.py` and `sim_robot.py` are the pattern). `check_robot.py` is the contract as a check,
`robots.py` knows every robot by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt8

from ..datasets.schema import Camera, Embodiment, unknown_name


@dataclass
class RobotState:
    """The newest measurements, in arrays that the robot fills again and again."""

    images: dict[str, UInt8[np.ndarray, "height width 3"]]
    state: Float[np.ndarray, " state_dim"]
    joint_position_rad: Float[np.ndarray, " joints"]
    time_ns: int = 0
    """Monotonic clock when `state` was measured."""
    image_time_ns: Int64[np.ndarray, " cameras"] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64)
    )
    """Monotonic clock when each image was captured, in the embodiment's order of cameras."""
    version: int = 0
    """Counts the measurements; 0 before the first."""
    success: bool = False
    """Whether the robot's own judge (a simulator, an operator) says the instruction is done."""

    @classmethod
    def empty(cls, embodiment: Embodiment) -> "RobotState":
        return cls(
            images={
                camera.name: np.zeros((camera.height, camera.width, 3), dtype=np.uint8)
                for camera in embodiment.cameras
            },
            state=np.zeros(embodiment.state_dim, dtype=np.float32),
            joint_position_rad=np.zeros(len(embodiment.joint_names), dtype=np.float64),
            image_time_ns=np.zeros(len(embodiment.cameras), dtype=np.int64),
        )

    @property
    def observation_time_ns(self) -> int:
        """When the oldest part was captured: what an action computed from all of it is based on."""
        oldest = self.image_time_ns.min() if len(self.image_time_ns) else self.time_ns
        return min(int(oldest), self.time_ns)


UNJUDGED = "nobody judged it"
"""Outcome of an episode whose robot cannot tell whether the instruction was done."""


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode ended, in the robot's own judgement, and how well the robot kept up."""

    success: bool
    outcome: str
    """What was done, in the task's words."""
    counters: dict[str, int]
    """Such as `overruns`, `held_ticks`, `dropped_commands`."""
    streams: dict[str, np.ndarray]
    """What the robot recorded itself, `(steps, ...)`, such as `simulator_state`."""
    video: bool
    """Whether the film asked for was written."""


@runtime_checkable
class SaysFaults(Protocol):
    """A robot that knows when it is broken. Optional beside `Robot`."""

    def fault(self) -> str:
        """Why the arm must not be moved any more (the link is lost, a camera is dead, a protective
        stop), in words; empty while it may. Asked at every tick: never waits."""
        ...


@runtime_checkable
class Robot(Protocol):
    """One arm with its cameras. All methods from one thread. It may be one that `SaysFaults`."""

    action_latency_s: float
    """From `send` to the moment the arm begins to act on the command; known from `connect` on."""

    @property
    def embodiment(self) -> Embodiment:
        """Known from `connect` on; RuntimeError before."""
        ...

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Take hold of the robot. May take seconds; gives up early when `stopping()`."""
        ...

    def start_episode(self, seed: int, instruction: str | None) -> str:
        """Bring robot and scene to a start and return the instruction (None: the scene's own).
        Takes as long as it takes; `read` gives the new scene when this returns."""
        ...

    def read(self) -> RobotState:
        """The newest state. Never waits; the same object, overwritten by the next `read`."""
        ...

    def send(self, action: Float[np.ndarray, " action_dim"]) -> None:
        """Hand over the command of this tick. Never waits."""
        ...

    def hold(self) -> None:
        """Stand still from now on, gripper as it is, until the next `send`. Never waits."""
        ...

    def finish_episode(self, video: Path | None) -> EpisodeEnd:
        """Close the episode; write a film of it to `video` if this robot can."""
        ...

    def disconnect(self) -> None:
        """Hold, then let go. May be called at any time and more than once."""
        ...


FAULTS = ("none", "frozen", "nan_state", "at_joint_limit", "link_lost")


class FakeRobot:
    """A robot of three numbers: its tool moves by the sent displacement at every `read`.

    It has a fault if one is injected, and remembers all commands, so tests can look at both.
    """

    action_latency_s = 0.0

    def __init__(self, now_ns: Callable[[], int], success_after: int | None = None) -> None:
        """`success_after`: moving commands until it reports success (None: never)."""
        self.sent: list[np.ndarray] = []
        self.holds = 0
        self.connected = False
        self._now_ns = now_ns
        self._success_after = success_after
        self._embodiment = fake_embodiment()
        self._state = RobotState.empty(self._embodiment)
        self._fault = "none"
        self._moves = 0

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    def inject(
        self, fault: Literal["none", "frozen", "nan_state", "at_joint_limit", "link_lost"]
    ) -> None:
        if fault not in FAULTS:
            raise unknown_name("fault", fault, FAULTS)
        self._fault = fault

    def fault(self) -> str:
        return "the link to the gantry is lost" if self._fault == "link_lost" else ""

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self.connected = True

    def start_episode(self, seed: int, instruction: str | None) -> str:
        self._state.state[:] = 0.5, 0.0, 0.2, 0.0
        self._state.joint_position_rad[:] = 0.0
        self._moves = 0
        self._state.success = False
        self.read()
        return instruction or "move"

    def read(self) -> RobotState:
        state = self._state
        if self._fault != "frozen":
            state.version += 1
            state.time_ns = self._now_ns()
            state.image_time_ns[:] = state.time_ns
            state.images["front"][...] = state.version % 256
        if self._fault == "nan_state":
            state.state[0] = np.nan
        if self._fault == "at_joint_limit":
            state.joint_position_rad[0] = 2.95
        return state

    def send(self, action: Float[np.ndarray, " action_dim"]) -> None:
        if not np.isfinite(action).all():
            raise ValueError(f"the command {action} is not finite; no robot is sent that")
        self.sent.append(np.array(action))
        self._state.state[:3] += (0.01 * action[:3]).astype(np.float32)
        self._state.state[3] = action[3]
        self._moves += bool(np.any(action[:3] != 0))
        self._state.success = self._success_after is not None and self._moves >= self._success_after

    def hold(self) -> None:
        self.holds += 1

    def finish_episode(self, video: Path | None) -> EpisodeEnd:
        success = self._state.success
        return EpisodeEnd(success, "moved" if success else "none", {}, {}, video=False)

    def disconnect(self) -> None:
        self.hold()
        self.connected = False


def fake_embodiment() -> Embodiment:
    """A gantry with a gripper, one camera and one joint."""
    return Embodiment(
        name="fake_gantry",
        control_hz=20.0,
        state_names=("tool_x_m", "tool_y_m", "tool_z_m", "gripper"),
        action_names=("dx", "dy", "dz", "gripper"),
        action_low=(-1.0,) * 4,
        action_high=(1.0,) * 4,
        action_meaning="displacement of the tool in units of 0.01 m; gripper > 0 closes",
        cameras=(Camera("front", 8, 8),),
        joint_names=("slide",),
    )
