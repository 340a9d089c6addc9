"""The words every other file uses: numpy and the standard library only.

Read this first, then `datasets/store.py` (where episodes live) and `policies/policy.py` (what acts
on them). Units and frames are in the names; shapes are in the annotations.

        Observation --Act--> action chunk --one per control tick--> robot or simulator
             |                                   |
             +------------- Episode <------------+          (what the store remembers)
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped, UInt8, UInt16


@dataclass(frozen=True)
class Camera:
    """One image stream, uint8 RGB of `(height, width, 3)`."""

    name: str
    height: int
    width: int
    depth_unit_m: float = 0.0
    """Metres per count of the uint16 depth frames that come with the colour ones; 0: no depth."""
    intrinsics: tuple[float, ...] = field(default=(), compare=False)
    """fx, fy, cx, cy in pixels; empty if unknown. Calibration does not change the identity."""
    mounted_on: str = field(default="", compare=False)
    """Link the camera moves with, or `base`; empty if unknown."""


@dataclass(frozen=True)
class Embodiment:
    """What one robot senses and obeys: names, units, limits and rate.

    A policy is trained for one embodiment and refuses another; a store holds episodes of one.
    """

    name: str
    """Robot and controller, such as `panda_osc_pose`."""
    control_hz: float
    """Commands per second."""
    state_names: tuple[str, ...]
    """One name with unit per entry of `Observation.state`, such as `tool_x_m`."""
    action_names: tuple[str, ...]
    """One name per entry of an action."""
    action_low: tuple[float, ...]
    """Smallest value the controller obeys, per action entry."""
    action_high: tuple[float, ...]
    """Largest value the controller obeys, per action entry."""
    action_meaning: str
    """What an action is, in words: representation, frame and scale."""
    cameras: tuple[Camera, ...]
    joint_names: tuple[str, ...] = ()
    """Names of the measured joints, in the order of the `joint_position_rad` stream."""
    joint_low_rad: tuple[float, ...] = field(default=(), compare=False)
    """Smallest position of each joint of `joint_names`; empty if unknown."""
    joint_high_rad: tuple[float, ...] = field(default=(), compare=False)
    """Largest position of each joint; empty if unknown."""
    action_frame: str = ""
    """Frame in which Cartesian actions are given, such as `base` or `tool`; empty if it does not
    apply."""
    quaternion_order: Literal["", "wxyz", "xyzw"] = ""
    """Order of quaternions in state and action; empty if there are none."""
    render_profile: str = ""
    """How simulated images are drawn (`exact`, `near`, `fast`); empty for a real camera. A policy
    must be judged on the pixels it was trained on, so this is part of the identity."""

    @property
    def state_dim(self) -> int:
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        return len(self.action_names)

    def camera(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise unknown_name("camera", name, [camera.name for camera in self.cameras])


def require_same_embodiment(trained: Embodiment, present: Embodiment, where: str) -> None:
    """Refuse to give a policy senses or limits it was not trained with.

    Raises ValueError that names every field in which `present` (of `where`) differs.
    """
    differences = [
        f"{field.name} is {getattr(present, field.name)!r}, trained with "
        f"{getattr(trained, field.name)!r}"
        for field in fields(Embodiment)
        if field.compare and getattr(present, field.name) != getattr(trained, field.name)
    ]
    if differences:
        raise ValueError(
            f"{where} is not the embodiment this policy was trained for: {'; '.join(differences)}; "
            "use the matching robot or task, or train on data of this one"
        )


@dataclass(frozen=True)
class Observation:
    """What a policy is given at one control tick."""

    images: dict[str, UInt8[np.ndarray, "*history _ _ 3"]]
    """RGB frame of each camera by camera name; for policies with a history the frames of the last
    ticks, oldest first."""
    state: Float[np.ndarray, "*history state_dim"]
    """Proprioception, float32, in the units of `Embodiment.state_names`; likewise."""
    instruction: str
    """The language command, such as `pick up the red cube`."""
    noise_seed: int = 0
    """Seeds the noise a generative policy starts from, so that an episode's outcome depends on its
    own seed and tick alone, never on what else was computed beside it."""
    planned: Float[np.ndarray, "planned action_dim"] | None = None
    """Actions that are decided already, raw units, the first one due at this observation's tick;
    for policies that join a new chunk to the one before it. None: no plan."""
    inference_delay: int = 0
    """How many of `planned` will have been executed before the answer can be used, in ticks."""


Act = Callable[[Observation], Float[np.ndarray, "horizon action_dim"]]
"""A policy seen from outside: one observation in, one action chunk out."""

ActBatch = Callable[[Sequence[Observation]], Sequence[Float[np.ndarray, "horizon action_dim"]]]
"""The same for several observations at once; each chunk depends on its own observation alone."""


@dataclass(frozen=True)
class Subgoal:
    """A stretch of an episode with a command of its own."""

    start: int
    """First step."""
    stop: int
    """Step after the last one."""
    instruction: str


@dataclass(frozen=True)
class Sensor:
    """What one sensor gave at its own rate, such as joint torques at 500 Hz."""

    time_ns: Int64[np.ndarray, " samples"]
    """Capture times, never running backwards, on the clock of the stream `time_ns`."""
    values: Shaped[np.ndarray, "samples ..."]


@dataclass(frozen=True)
class Episode:
    """One run of a robot, as it goes into a store. Every stream has the same first axis."""

    images: dict[str, UInt8[np.ndarray, "steps _ _ 3"]]
    """RGB frames by camera name, one per step."""
    streams: dict[str, np.ndarray]
    """Numeric streams `(steps, ...)`. Always `state` and `action` (the commanded one), float32;
    besides them, for instance, `action_sent` (after the safety gate), `action_measured`,
    `joint_position_rad`, `simulator_state`. Names that end in `time_ns` are capture times, int64,
    in nanoseconds: `time_ns` of the step, `front_time_ns` of the frame of camera `front`."""
    instruction: str
    task: str
    seed: int
    success: bool | None
    """None: nobody said."""
    info: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Anything else worth keeping about the whole episode; goes into the commit record."""
    depth: dict[str, UInt16[np.ndarray, "steps _ _"]] = field(default_factory=dict)
    """Depth frames by camera name, in units of `Camera.depth_unit_m`; 0 where nothing was seen."""
    sensors: dict[str, Sensor] = field(default_factory=dict)
    """Streams with a rate of their own, by name."""
    paraphrases: tuple[str, ...] = ()
    """Other commands that mean the same as `instruction`."""
    subgoals: tuple[Subgoal, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.streams["action"])


@dataclass(frozen=True)
class Batch:
    """Windows for training, as numpy arrays; one gather out of the store.

    `action_chunk[i, k]` is the action due `k` ticks after the observation of row `i`. Past the end
    of the episode the last action is repeated and `action_is_pad` is True.
    """

    images: dict[str, UInt8[np.ndarray, "batch *history _ _ 3"]]
    state: Float[np.ndarray, "batch *history state_dim"]
    action_chunk: Float[np.ndarray, "batch horizon action_dim"]
    action_is_pad: Bool[np.ndarray, "batch horizon"]
    instructions: tuple[str, ...]
    """One command per row."""
    streams: dict[str, Shaped[np.ndarray, "batch ..."]] = field(default_factory=dict)
    """Further numeric streams that were asked for."""
    depth: dict[str, UInt16[np.ndarray, "batch *history _ _"]] = field(default_factory=dict)
    """Depth frames that were asked for, in units of `Camera.depth_unit_m`."""
    future_images: dict[str, UInt8[np.ndarray, "batch _ _ 3"]] = field(default_factory=dict)
    """Frames `WindowSpec.future` steps after the window's own, if asked for; the last frame of the
    episode where it ends before."""
    executed_chunk: Float[np.ndarray, "batch horizon action_dim"] | None = None
    """Beside `action_chunk` what was really done at those ticks (`WindowSpec.executed_stream`)."""


def unknown_name(kind: str, got: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: what came, the nearest name, what exists."""
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {got!r}.{hint} Known: {', '.join(names) or 'none'}")
