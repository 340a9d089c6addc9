"""An episode as it grows in the store while the arm moves; for the recorder process only.

One row per control tick. A frame is coded once, however many ticks saw it; a tick without a new
one (the camera is slower than the loop, or the frame was dropped) repeats the last, and the
camera's capture times say so. The format has one frame per step.

Until `finish` committed it the episode does not exist; its files are removed by `discard`, or by
`ulna data gc` after a crash.

Next: `flight_process.py`, which feeds it; `../datasets/growing_stream.py`.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.commits import Add, EpisodeRecord
from ..datasets.episode_check import check_labels
from ..datasets.growing_stream import GrowingStream
from ..datasets.image_codec import Jpeg
from ..datasets.layout import Layout
from ..datasets.schema import Embodiment, Subgoal
from ..datasets.storage import open_storage
from ..datasets.store import Store
from ..datasets.writer import Writer, new_segment, new_uid

_BLOCK_ROWS = 64
"""Numbers are handed on together: a row at a time costs twenty calls each."""
_DISK_THREADS = 4
_ONE_FRAME = np.zeros((1, 1, 1, 3), np.uint8)
"""What a JPEG was made of is only counted, not looked at."""
FACTS = ("tick", "observation_tick", "not_finite")
"""Columns of the sensor `chunk_facts`: when it came, from what, entries that were NaN or infinite
and are stored as 0."""


def step_kinds(robot: Embodiment) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and row shape of every numeric stream of a recorded flight."""
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {
        "state": ("float32", (robot.state_dim,)),
        "action": ("float32", (robot.action_dim,)),
        "action_sent": ("float32", (robot.action_dim,)),
        **{name: ("int64", ()) for name in STEP_TIMES},
        **{f"{camera.name}_time_ns": ("int64", ()) for camera in robot.cameras},
        **{name: (kind, ()) for name, kind in STEP_NUMBERS.items()},
    }
    if robot.joint_names:
        kinds["joint_position_rad"] = ("float64", (len(robot.joint_names),))
    return kinds


STEP_TIMES = (
    "time_ns",
    "scheduled_ns",
    "sent_ns",
    "state_time_ns",
    "observation_ns",
)
"""Times that may not run backwards. `time_ns`: when the tick woke; `scheduled_ns`: when it should
have. Names that end in `time_ns` are capture times, whose age `ulna data verify` looks at."""
STEP_NUMBERS = {
    "tick": "int64",
    "observation_tick": "int64",
    "observation_version": "int64",
    "chunk_number": "int32",
    "action_index": "int32",
    "inference_delay": "int32",
    "gate": "int32",
    "source": "int32",
    "instruction_number": "int32",
    "robot_success": "bool",
}


def ready_store(location: Path | str, embodiment: Embodiment) -> None:
    """Make the store if it is not there. Raises ValueError if it is of another arm."""
    if not open_storage(location).exists("zarr.json"):
        Store.create(location, embodiment)
    there = Store.open(location).embodiment
    differing = [
        f"{part.name} is {getattr(embodiment, part.name)!r}, there {getattr(there, part.name)!r}"
        for part in fields(Embodiment)
        if part.compare and getattr(embodiment, part.name) != getattr(there, part.name)
    ]
    if differing:
        raise ValueError(
            f"{location} holds flights of {there.name}, this arm differs from it: "
            f"{'; '.join(differing)}; record into another store"
        )


class FlightStore:
    """Writes one flight after another into a store. For one thread."""

    def __init__(self, writer: Writer, jpeg_quality: int, horizon: int) -> None:
        self.writer = writer
        robot = writer.embodiment
        self._numbers = {
            name: Layout.of(np.dtype(dtype), shape, None)
            for name, (dtype, shape) in step_kinds(robot).items()
        }
        self._frames = {
            camera.name: Layout.of(
                np.dtype("uint8"), (camera.height, camera.width, 3), Jpeg(jpeg_quality)
            )
            for camera in robot.cameras
        }
        chunk = (horizon, robot.action_dim)
        self._sensors = {
            "sensors/chunk/time_ns": Layout.of(np.dtype("int64"), (), None),
            "sensors/chunk/values": Layout.of(np.dtype("float32"), chunk, None),
            "sensors/chunk_facts/time_ns": Layout.of(np.dtype("int64"), (), None),
            "sensors/chunk_facts/values": Layout.of(np.dtype("int64"), (len(FACTS),), None),
        }
        self._layouts = {
            **self._numbers,
            **{f"images/{name}": layout for name, layout in self._frames.items()},
            **self._sensors,
        }
        self._segment = ""
        self._next_row = dict.fromkeys(self._layouts, 0)
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="ulna-flight-disk")
        self._streams: dict[str, GrowingStream] = {}
        self.steps = 0

    def close(self) -> None:
        """Stop the threads. An episode that was not finished is discarded."""
        self.discard()
        self._disk.shutdown()

    def begin(self) -> None:
        """A new episode; one that was not finished is discarded."""
        self.discard()
        self.steps = self._filled = 0
        self._block = {
            name: np.zeros((_BLOCK_ROWS, *layout.row_shape), layout.dtype)
            for name, layout in self._numbers.items()
        }
        self._last_time_ns: dict[str, int] = {}
        self.clock_steps_back = 0
        """Times that ran backwards and are stored as the one before."""
        self._last_frame: dict[str, bytes] = {}

    def code(self, camera: str, frame: UInt8[np.ndarray, "height width 3"]) -> bytes:
        """A frame as it is stored; may be called in any thread."""
        return self._frames[camera].encode(frame[None])

    def add_step(
        self, numbers: Mapping[str, np.ndarray | float], frames: Mapping[str, bytes]
    ) -> None:
        """One tick: all streams of `step_kinds`, and the coded frames that are new. Raises OSError
        if earlier rows could not be written."""
        for name, column in self._block.items():
            value = numbers[name]
            if name.endswith("time_ns"):  # a store refuses times that run backwards
                value = self._forward(name, int(value))
            column[self._filled] = value
        self._filled += 1
        self.steps += 1
        if self._filled == _BLOCK_ROWS:
            self._pass_on()
        for camera, layout in self._frames.items():
            payload = frames.get(camera)
            if payload is not None or camera not in self._last_frame:
                blank = np.zeros((1, *layout.row_shape), np.uint8)
                self._last_frame[camera] = payload or layout.encode(blank)
            self._stream(f"images/{camera}").add_chunk(self._last_frame[camera], _ONE_FRAME)

    def add_chunk(
        self,
        time_ns: int,
        tick: int,
        observation_tick: int,
        chunk: Float[np.ndarray, "horizon action_dim"],
    ) -> None:
        """A chunk that came from the policy. Raises OSError."""
        finite = np.isfinite(chunk)
        time_ns = self._forward("sensors/chunk", time_ns)
        facts = np.array([[tick, observation_tick, np.count_nonzero(~finite)]], np.int64)
        times = np.array([time_ns], np.int64)
        self._stream("sensors/chunk/time_ns").add_rows(times)
        self._stream("sensors/chunk/values").add_rows(
            np.where(finite, chunk, 0).astype(np.float32)[None]
        )
        self._stream("sensors/chunk_facts/time_ns").add_rows(times)
        self._stream("sensors/chunk_facts/values").add_rows(facts)

    def finish(
        self,
        instruction: str,
        task: str,
        seed: int,
        success: bool | None,
        info: Mapping[str, str | int | float | bool],
        subgoals: tuple[Subgoal, ...],
    ) -> str:
        """Make the episode exist and durable; gives its uid. Raises OSError, ValueError."""
        labels = {**info, "clock_steps_back": self.clock_steps_back}
        check_labels(labels, subgoals, self.steps)
        self._pass_on()
        streams = dict(sorted(self._streams.items()))
        for stream in streams.values():
            stream.flush()
        jobs = {name: self._disk.submit(stream.finish) for name, stream in streams.items()}
        wait(jobs.values())
        record = EpisodeRecord(
            uid="",
            task=task,
            instruction=instruction,
            seed=seed,
            steps=self.steps,
            success=success,
            segment=self._segment,
            start=streams["action"].start,
            streams={name: job.result() for name, job in jobs.items()},
            info=labels,
            paraphrases=(),
            subgoals=subgoals,
        )
        record = replace(record, uid=new_uid(record))
        # From here on nothing may be removed: a commit that failed may have taken effect.
        self._leave()
        self.writer.commit([Add(record)])
        self.writer.episodes_added += 1
        return record.uid

    def discard(self) -> None:
        """Forget the running episode, if there is one, and remove its files."""
        for stream in self._leave():
            # Nothing refers to the files: what cannot be removed now is left to `gc`.
            with suppress(OSError):
                stream.discard()
        self.steps = 0

    def _forward(self, name: str, time_ns: int) -> int:
        last = self._last_time_ns.get(name, time_ns)
        self.clock_steps_back += time_ns < last
        self._last_time_ns[name] = max(last, time_ns)
        return self._last_time_ns[name]

    def _pass_on(self) -> None:
        """Hand the block of numbers to the streams."""
        for name, column in self._block.items():
            if self._filled:
                self._stream(name).add_rows(column[: self._filled])
        self._filled = 0

    def _stream(self, name: str) -> GrowingStream:
        stream = self._streams.get(name)
        if stream is None:
            if not self._streams:
                self._keep_segment()
            stream = self._streams[name] = GrowingStream(
                self.writer.storage,
                f"segments/{self._segment}/{name}",
                self._layouts[name],
                self._next_row[name],
                _own_rate(name),
                self._disk,
            )
        return stream

    def _keep_segment(self) -> None:
        """Have a segment to write to; `gc` removes one that is packed and was long left alone."""
        storage = self.writer.storage
        if not (self._segment and storage.exists(f"segments/{self._segment}/zarr.json")):
            self._segment = new_segment(storage, self.writer.embodiment, self._layouts)
            self._next_row = dict.fromkeys(self._layouts, 0)

    def _leave(self) -> list[GrowingStream]:
        """The rows of the running episode are never used again. Gives its streams."""
        streams, self._streams = self._streams, {}
        steps = max((s.stop for n, s in streams.items() if not _own_rate(n)), default=None)
        for name in self._next_row:
            if not _own_rate(name):
                self._next_row[name] = self._next_row[name] if steps is None else steps
            elif name in streams:
                self._next_row[name] = streams[name].stop
        return list(streams.values())


def _own_rate(stream: str) -> bool:
    return stream.startswith("sensors/")
