"""One loop with one recorder in a process of its own, in real time; one JSON line.

    python flight_recorder_arms.py '{"arm": "ulna", "case": "large", "seconds": 10, "out": "..."}'

        off        nobody records: what lateness is without it
        ulna       `FlightRecorder` as the loop's watcher
        lerobot    `LeRobotDataset.add_frame` in the loop, as lerobot-record calls it (its threads
                   write the pictures as PNG)

The loop is Ulna's own clock (absolute deadlines) with the rights of a control process, for all
three alike. Pictures are played from memory, so an arm pays for recording and nothing else. What
lies in the store or data set afterwards is compared with what was played.

Next: `flight_recorder.py` (the comparison).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loader_measure import cpu_s

from ulna.datasets.schema import Camera, Embodiment
from ulna.deploy_robot.clock import MonotonicClock, Ticker
from ulna.deploy_robot.orders import TickRecord
from ulna.deploy_robot.realtime import prepare_realtime, quiet_collector
from ulna.deploy_robot.robot import RobotState

HORIZON, JOINTS, FRAMES = 16, 7, 16
CHUNK_EVERY = 8
"""Ticks between two chunks."""


@dataclass(frozen=True)
class Case:
    """Cameras and rate."""

    title: str
    cameras: tuple[str, ...]
    size: tuple[int, int]
    hz: int


CASES = {
    "large": Case("2 cameras of 480 x 640, 30 Hz", ("front", "wrist"), (480, 640), 30),
    "fast": Case("3 cameras of 96 x 96, 200 Hz", ("front", "wrist", "side"), (96, 96), 200),
}

Record = Callable[[TickRecord, RobotState], None]
Finish = Callable[[], dict[str, Any]]


def embodiment_of(case: Case) -> Embodiment:
    return Embodiment(
        name="played",
        control_hz=float(case.hz),
        state_names=tuple(f"joint_{k}_rad" for k in range(JOINTS)),
        action_names=tuple(f"joint_{k}.pos" for k in range(JOINTS)),
        action_low=(-3.0,) * JOINTS,
        action_high=(3.0,) * JOINTS,
        action_meaning="absolute joint positions in rad",
        cameras=tuple(Camera(name, *case.size) for name in case.cameras),
        joint_names=tuple(f"joint_{k}" for k in range(JOINTS)),
    )


def play(case: Case) -> dict[str, np.ndarray]:
    """Pictures with structure and a little noise, as cameras give; by camera `(frames, ...)`."""
    height, width = case.size
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    played = {}
    for number, name in enumerate(case.cameras):
        frames = np.empty((FRAMES, height, width, 3), np.uint8)
        for k in range(FRAMES):
            waves = [
                np.sin(9 * (x * (1 + c) + y * (number + 1)) + 6.28 * k / FRAMES) for c in range(3)
            ]
            noise = random.normal(0, 4, (height, width, 3))
            frames[k] = np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255)
        played[name] = frames
    return played


def start_off(case: Case, out: Path) -> tuple[Record, Finish]:
    return lambda record, state: None, lambda: {}


def start_ulna(case: Case, out: Path) -> tuple[Record, Finish]:
    from ulna.deploy_robot.flight_lanes import FlightConfig
    from ulna.deploy_robot.flight_recorder import FlightRecorder

    recorder = FlightRecorder(FlightConfig(out / "flights.zarr"), embodiment_of(case), HORIZON)
    recorder.begin_episode(0, "sort the parts")
    chunk = np.zeros((HORIZON, JOINTS), np.float32)

    def tick(record: TickRecord, state: RobotState) -> None:
        if record.tick % CHUNK_EVERY == 0:
            recorder.chunk(record.tick, record.tick - 1, chunk)
        recorder.tick(record, state)

    def finish() -> dict[str, Any]:
        from ulna.datasets.store import Store

        recorder.end_episode(True, "sorted")
        (flight,) = recorder.close()
        store = Store.open(out / "flights.zarr")
        numbers = store.read("tick", 0)
        return {
            "steps": flight.steps,
            "dropped_images": flight.dropped_images,
            "dropped_ticks": flight.dropped_ticks,
            "in_order": bool((np.diff(numbers) > 0).all()),
        }

    return tick, finish


def start_lerobot(case: Case, out: Path) -> tuple[Record, Finish]:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"joint_{k}.pos" for k in range(JOINTS)]
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": (JOINTS,), "names": names}
        for name in ("observation.state", "action")
    }
    for name in case.cameras:
        features[f"observation.images.{name}"] = {
            "dtype": "video",
            "shape": (*case.size, 3),
            "names": ["height", "width", "channels"],
        }
    dataset = LeRobotDataset.create(
        "ulna/benchmark",
        case.hz,
        features,
        root=out / "lerobot",
        robot_type="played",
        image_writer_threads=4 * len(case.cameras),  # as lerobot-record does by default
    )

    def tick(record: TickRecord, state: RobotState) -> None:
        row = {f"observation.images.{name}": state.images[name] for name in case.cameras}
        row |= {"observation.state": state.state, "action": record.action_due}
        dataset.add_frame({**row, "task": "sort the parts"})

    def finish() -> dict[str, Any]:
        # Until the pictures are on the disk; `save_episode`, which then makes videos of them while
        # lerobot-record waits, is not what is measured here (`recording.py` does).
        assert dataset.writer is not None and dataset.writer.image_writer is not None
        dataset.writer.image_writer.wait_until_done()
        written = sum(1 for _ in (out / "lerobot").rglob("*.png"))
        return {"steps": written // len(case.cameras), "dropped_images": 0, "dropped_ticks": 0}

    return tick, finish


ARMS = {"off": start_off, "ulna": start_ulna, "lerobot": start_lerobot}


def run(arm: str, case: Case, seconds: float, out: Path) -> dict[str, Any]:
    """Run the loop for some seconds; gives its lateness and what recording took."""
    played = play(case)
    state = RobotState.empty(embodiment_of(case))
    record = TickRecord(
        action_due=np.zeros(JOINTS, np.float32), action_sent=np.zeros(JOINTS, np.float32)
    )
    tick, finish = ARMS[arm](case, out)
    ticks = round(seconds * case.hz)
    warm_up = case.hz  # first calls import and allocate
    clock = MonotonicClock()
    ticker = Ticker(clock, case.hz, ticks + warm_up)
    lateness_ns, in_tick_ns = np.zeros(ticks, np.int64), np.zeros(ticks, np.int64)
    rights = prepare_realtime(10)
    quiet_collector()
    cpu_before, began = 0.0, 0.0
    ticker.start(clock.now_ns() + ticker.period_ns)
    measured = skipped_before = 0
    while measured < ticks:
        number = ticker.wait()
        now_ns = ticker.woke_ns
        for name, frames in played.items():
            # lerobot keeps the array it is given until its threads have written it; a driver
            # gives a new one for each frame.
            state.images[name] = frames[number % FRAMES]
        state.time_ns = now_ns
        state.image_time_ns[:] = now_ns
        state.state[:] = number * 1e-3
        record.tick, record.scheduled_ns, record.woke_ns = number, ticker.deadline_ns, now_ns
        record.sent_ns = record.observation_time_ns = now_ns
        called = time.perf_counter_ns()
        tick(record, state)
        took = time.perf_counter_ns() - called
        if number < warm_up:
            cpu_before, began = cpu_s(), time.perf_counter()
            skipped_before = ticker.skipped
            continue
        lateness_ns[measured] = now_ns - ticker.deadline_ns
        in_tick_ns[measured] = took
        measured += 1
    wall_s, cpu = time.perf_counter() - began, cpu_s() - cpu_before
    ended = time.perf_counter()
    stored = finish()
    late = int(np.count_nonzero(lateness_ns > ticker.period_ns / 2))
    return {
        "lateness_us": _spread(lateness_ns),
        "in_tick_us": _spread(in_tick_ns),
        "late_ticks": late + ticker.skipped - skipped_before,
        "missed_deadlines": ticker.skipped - skipped_before,
        "ticks": ticks,
        "cpu_share": cpu / wall_s,
        "finish_s": time.perf_counter() - ended,
        "scheduler": rights.scheduler,
        "stored": stored,
    }


def _spread(values_ns: np.ndarray) -> dict[str, float]:
    values = values_ns * 1e-3
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    folder = Path(request["out"])
    folder.mkdir(parents=True)
    answer = run(request["arm"], CASES[request["case"]], request["seconds"], folder)
    print(json.dumps(answer), flush=True)
    os._exit(0)
