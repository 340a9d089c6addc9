"""What the flight recorder may keep waiting, and how it lies in shared memory.

Next: `flight_ring.py` (the memory), `flight_recorder.py` (who fills it).
"""

import math
from dataclasses import dataclass
from pathlib import Path

from ..datasets.schema import Embodiment
from .flight_ring import LaneForm
from .live_view import LiveViewConfig
from .shared_record import Field

NUMBERS = (
    "tick",
    "scheduled_ns",
    "woke_ns",
    "sent_ns",
    "state_time_ns",
    "observation_ns",
    "observation_tick",
    "observation_version",
    "chunk",
    "action_index",
    "inference_delay",
    "gate",
    "source",
    "instruction",
    "success",
)
"""Columns of the field `numbers` of a row, in the order `tick` writes them."""
TEXT_BYTES = 2048
"""Longest instruction that is kept whole."""
_TEXTS = 64
_CHUNKS_S = 30.0
_FEWEST_FRAMES = 4


@dataclass(frozen=True)
class FlightConfig:
    """Where flights are stored and how much may wait."""

    store: Path | str
    """Made if it is not there; a store of another embodiment is refused."""
    task: str = "deploy"
    """What the episodes are filed under."""
    jpeg_quality: int = 95
    frames_s: float = 2.0
    """How long coding and the disk may be behind before frames are dropped."""
    frames_bytes: int = 512 << 20
    """Most memory for frames that wait; with many cameras less than `frames_s`."""
    ticks_s: float = 120.0
    """The same for the rows of ticks, which are never dropped before that."""
    live: LiveViewConfig | None = None
    """Show the flight while it is recorded. None: nowhere."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100 or self.frames_s <= 0 or self.ticks_s <= 0:
            raise ValueError(
                f"jpeg_quality {self.jpeg_quality}, frames_s {self.frames_s}, ticks_s "
                f"{self.ticks_s}: give 1 to 100 and times greater than 0"
            )


@dataclass(frozen=True)
class Flight:
    """What became of one episode."""

    seed: int
    uid: str
    """In the store; empty if it was not stored."""
    steps: int
    dropped_images: int
    """Frames that are missing; the steps of theirs repeat the frame before."""
    dropped_ticks: int
    interrupted: bool
    problem: str
    """Why it is not in the store; empty if it is."""


def lane_forms(config: FlightConfig, robot: Embodiment, horizon: int) -> tuple[LaneForm, ...]:
    """The lanes: minutes of ticks and chunks, seconds of frames."""
    frames = math.ceil(config.frames_s * robot.control_hz)
    bytes_per_tick = sum(camera.height * camera.width * 3 for camera in robot.cameras)
    if bytes_per_tick:
        frames = max(_FEWEST_FRAMES, min(frames, config.frames_bytes // bytes_per_tick))
    ticks = math.ceil(config.ticks_s * robot.control_hz)
    return (
        LaneForm(
            "rows",
            max(64, ticks),
            (
                Field("numbers", "int64", (len(NUMBERS),)),
                Field("state", "float32", (robot.state_dim,)),
                Field("joints", "float64", (len(robot.joint_names),)),
                Field("actions", "float32", (2, robot.action_dim)),
                Field("frames", "int64", (2, len(robot.cameras))),
            ),
        ),
        LaneForm(
            "chunks",
            max(16, math.ceil(_CHUNKS_S * robot.control_hz)),
            (
                Field("chunk", "float32", (horizon, robot.action_dim)),
                Field("numbers", "int64", (3,)),
            ),
        ),
        LaneForm(
            "texts",
            _TEXTS,
            (Field("number", "int64", (2,)), Field("text", "uint8", (TEXT_BYTES,))),
        ),
        *(
            LaneForm(
                f"images/{camera.name}",
                frames,
                (Field("frame", "uint8", (camera.height, camera.width, 3)),),
            )
            for camera in robot.cameras
        ),
    )
