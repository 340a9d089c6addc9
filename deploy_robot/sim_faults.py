"""Faults that a simulated arm can be given, so that what a real one does can be lived through here.

    camera_delay=0.08,drop=0.1,servo_lag=0.05      the words of the command line

    frame captured --camera_delay--> can be read      (a fraction `drop` of them never can)
    command sent --command_delay--> obeyed --servo_lag--> the arm follows

Everything random comes from `seed`, so a run with faults can be repeated. Capture times stay true:
a late frame carries the moment it was taken, not the moment it came.

Next: `sim_robot.py` and `joint_robot_sim.py`, which have these faults.
"""

import math
from collections import deque
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import unknown_name


@dataclass(frozen=True)
class SimFaults:
    """What is wrong with the simulated robot; by default nothing."""

    camera_delay_s: float = 0.0
    """From capture of a frame to the moment it can be read."""
    drop: float = 0.0
    """Fraction of the frames that get lost, each camera by itself; the first frame of an episode
    never is."""
    command_delay_s: float = 0.0
    """From `send` to the moment the arm's controller gets the command. Known to the robot, as one
    that was measured on a real arm is: `action_latency_s` contains it."""
    servo_lag_s: float = 0.0
    """Time constant with which the arm follows its commands. Unknown to the robot."""
    link_loss_s: float = math.inf
    """Seconds from the start of the episode until the link breaks: no measurement comes out, no
    command goes in, the arm holds."""
    camera_death_s: float = math.inf
    """Seconds until the camera `dead_camera` gives no more frames."""
    dead_camera: str = ""
    """Empty: the first one."""
    seed: int = 0
    """Which frames are dropped."""

    def __post_init__(self) -> None:
        for name in ("camera_delay_s", "command_delay_s", "servo_lag_s"):
            value = getattr(self, name)
            if not 0 <= value <= 10:
                raise ValueError(f"{name} is {value}; give seconds from 0 to 10")
        for name in ("link_loss_s", "camera_death_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give seconds, more than 0")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; give a fraction from 0 to below 1")


def parse_faults(text: str) -> SimFaults:
    """`camera_delay=0.08,drop=0.1` as faults; seconds, and the `_s` of the field may be left out.

    Raises ValueError for an unknown word, one given twice, and what is not a number.
    """
    by_word = {field.name.removesuffix("_s"): field for field in fields(SimFaults)}
    chosen: dict[str, str | int | float] = {}
    for part in text.split(",") if text.strip() else []:
        word, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{part!r} in the faults {text!r} is not of the form word=value")
        field = by_word.get(word.removesuffix("_s"))
        if field is None:
            raise unknown_name("fault", word, by_word)
        if field.name in chosen:
            raise ValueError(f"fault {word!r} is given twice in {text!r}; give it once")
        if field.name == "dead_camera":
            chosen[field.name] = value
            continue
        try:
            chosen[field.name] = int(value) if field.name == "seed" else float(value)
        except ValueError:
            kind = "an integer" if word == "seed" else "a number"
            raise ValueError(f"fault {word!r} is {value!r}; give {kind}") from None
    return SimFaults(**chosen)  # type: ignore[arg-type]


class CommandLine:
    """The way of commands to the arm: each arrives `command_delay_s` after it was sent."""

    def __init__(self, faults: SimFaults) -> None:
        self._delay_ns = round(faults.command_delay_s * 1e9)
        self._on_the_way: deque[tuple[int, bool, np.ndarray]] = deque()

    def push(self, sent_ns: int, hold: bool, action: Float[np.ndarray, " action_dim"]) -> None:
        self._on_the_way.append((sent_ns, hold, action.copy()))

    def arrived(self, now_ns: int) -> tuple[int, bool, np.ndarray] | None:
        """The newest command that has arrived since the last call: when it arrived, whether it is
        a hold, the action. A command that another one overtook is gone."""
        newest = None
        while self._on_the_way and self._on_the_way[0][0] + self._delay_ns <= now_ns:
            sent_ns, hold, action = self._on_the_way.popleft()
            newest = (sent_ns + self._delay_ns, hold, action)
        return newest


class FrameLine:
    """The way of one camera's frames to whoever reads them: late, with gaps, or cut."""

    def __init__(self, faults: SimFaults, camera: str, number: int, cameras: int) -> None:
        """`number`: of this camera among `cameras`."""
        self._delay_ns = round(faults.camera_delay_s * 1e9)
        self._drop = faults.drop
        dead = faults.dead_camera or (camera if number == 0 else "")
        self._death_ns = (
            round(faults.camera_death_s * 1e9)
            if dead == camera and math.isfinite(faults.camera_death_s)
            else None
        )
        # Each camera draws from a stream of its own, so that one more camera changes nothing.
        self._random = np.random.default_rng([faults.seed, number])
        self._on_the_way: deque[tuple[int, np.ndarray]] = deque()
        self._start_ns: int | None = None
        self.dropped = 0

    def start(self, now_ns: int) -> None:
        """A new episode: frames of the one before are gone."""
        self._on_the_way.clear()
        self._start_ns = now_ns
        self._first = True
        self.dropped = 0

    def push(self, capture_ns: int, image: UInt8[np.ndarray, "height width 3"]) -> None:
        assert self._start_ns is not None, "a frame before start()"
        if self._death_ns is not None and capture_ns - self._start_ns >= self._death_ns:
            return
        lost = self._random.random() < self._drop and not self._first
        self._first = False
        if lost:
            self.dropped += 1
        else:
            self._on_the_way.append((capture_ns, image.copy() if self._delay_ns else image))

    def arrived(self, now_ns: int) -> tuple[int, np.ndarray] | None:
        """Capture time and pixels of the newest frame that has arrived since the last call."""
        newest = None
        while self._on_the_way and self._on_the_way[0][0] + self._delay_ns <= now_ns:
            newest = self._on_the_way.popleft()
        return newest


def require_camera(faults: SimFaults, cameras: list[str]) -> None:
    """Raises ValueError if the camera that is to die does not exist."""
    if faults.dead_camera and faults.dead_camera not in cameras:
        raise unknown_name("camera in the faults", faults.dead_camera, cameras)
    if math.isfinite(faults.camera_death_s) and not cameras:
        raise ValueError("a camera is to die, but this robot has none; leave camera_death out")


def follow(
    followed: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"], dt_s: float, lag_s: float
) -> Float[np.ndarray, " n"]:
    """`followed` after `dt_s` seconds of following `wanted` with the time constant `lag_s`."""
    if lag_s == 0:
        return wanted
    return followed + (wanted - followed) * -np.expm1(-dt_s / lag_s)
