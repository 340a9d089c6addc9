"""A recording in real time: four cameras of 480 x 640 at 30 Hz and the joints at 500 Hz.

    python recording_live.py '{"out": "...", "seconds": 60}'

Cameras and joints are played from memory by two threads with absolute deadlines, as drivers would
deliver them; what the recorder refuses, and how long it keeps them waiting, is counted. Then the
store is opened and what lies in it is compared with what was played.

Next: `ulna.datasets.recorder`, `recording.py` (who starts this).
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from loader_measure import cpu_s

from ulna.datasets.recorder import Recorder
from ulna.datasets.recorder_form import Rows
from ulna.datasets.schema import Camera, Embodiment
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer

CAMERAS = ("front", "wrist", "left", "right")
SIZE = (480, 640)
CAMERA_HZ = 30
SENSOR_HZ = 500
JOINTS = 7
FRAMES = 24
"""Different frames per camera, played in a circle."""


def main(out: Path, seconds: float) -> dict[str, Any]:
    """Record for `seconds` and say how it went."""
    played = _pictures()
    out.mkdir(parents=True)
    path = out / "live.zarr"
    Store.create(path, _embodiment())
    steps, samples = round(seconds * CAMERA_HZ), round(seconds * SENSOR_HZ)
    step_s, sample_s = np.zeros(steps), np.zeros(samples)
    dropped = {"steps": 0, "samples": 0}
    sensors = {"joint_torque_nm": Rows("float32", (JOINTS,))}
    with (
        Writer(path) as writer,
        Recorder(writer, sensors=sensors) as recorder,
    ):
        recorder.begin(instruction="sort the parts", task="live", seed=0)
        start = time.perf_counter() + 0.2
        cpu_before = cpu_s()

        def feel() -> None:
            values = np.zeros(JOINTS, np.float32)
            for number in range(samples):
                _wait_until(start + number / SENSOR_HZ)
                values[:] = number
                began = time.perf_counter()
                taken = recorder.add_sample("joint_torque_nm", time.perf_counter_ns(), values)
                sample_s[number] = time.perf_counter() - began
                dropped["samples"] += not taken

        joints = threading.Thread(target=feel)
        joints.start()
        late = 0
        for number in range(steps):
            due = start + number / CAMERA_HZ
            _wait_until(due)
            images = {camera: played[camera][number % FRAMES] for camera in CAMERAS}
            streams = {
                "state": np.full(JOINTS, number, np.float32),
                "action": np.full(JOINTS, number + 1, np.float32),
                "time_ns": np.int64(time.perf_counter_ns()),
            }
            began = time.perf_counter()
            taken = recorder.add_step(images, streams)
            step_s[number] = time.perf_counter() - began
            dropped["steps"] += not taken
            late += time.perf_counter() - due > 1 / CAMERA_HZ
        joints.join()
        cpu_share = (cpu_s() - cpu_before) / (time.perf_counter() - start)
        began = time.perf_counter()
        recorder.end(success=True).result()
        end_s = time.perf_counter() - began
    return {
        "seconds": seconds,
        "steps_played": steps,
        "steps_dropped": dropped["steps"],
        "steps_late": int(late),
        "samples_played": samples,
        "samples_dropped": dropped["samples"],
        **_milliseconds("add_step", step_s),
        **_milliseconds("add_sample", sample_s),
        "cores_used": cpu_share,
        "end_s": end_s,
        **_compare(path, played, steps, samples),
    }


def _wait_until(due: float) -> None:
    wait = due - time.perf_counter()
    if wait > 0:
        time.sleep(wait)


def _milliseconds(name: str, seconds: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {
        f"{name}_p50_ms": float(p50),
        f"{name}_p99_ms": float(p99),
        f"{name}_max_ms": float(seconds.max() * 1e3),
    }


def _compare(path: Path, played: dict[str, np.ndarray], steps: int, samples: int) -> dict[str, Any]:
    """What a reader finds: all numbers, and the quality of some frames."""
    store = Store.open(path)
    [record] = store.episodes
    numbers = store.read("state", 0)[:, 0]
    sensed = store.read("sensors/joint_torque_nm/values", 0)[:, 0]
    errors = []
    for row in np.linspace(0, record.steps - 1, min(20, record.steps)).astype(int):
        for camera in CAMERAS:
            [frame] = store.read(f"images/{camera}", 0, int(row), int(row) + 1)
            expected = played[camera][int(numbers[row]) % FRAMES]
            errors.append(np.mean((frame.astype(np.float64) - expected) ** 2))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "steps_stored": record.steps,
        "steps_in_order": bool(np.all(np.diff(numbers) > 0)),
        "steps_missing": steps - record.steps,
        "samples_missing": samples - len(sensed),
        "psnr_db": 10 * float(np.log10(255**2 / np.mean(errors))),
        "mb_per_s": size / 1e6 * CAMERA_HZ / steps,
    }


def _pictures() -> dict[str, np.ndarray]:
    """Rendered scenes with sensor noise; two cameras are the other two, mirrored."""
    from loader_data import noisy

    from ulna.envs.cube_tasks import CUBE_TASKS
    from ulna.envs.robosuite_env import RobosuiteEnv

    env = RobosuiteEnv(CUBE_TASKS["pick_named"], "near")
    rng = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    for _ in range(FRAMES):
        env.step(rng.uniform(-1, 1, 7))
        for camera, mirrored in (("front", "left"), ("wrist", "right")):
            frame = env.render(camera, *SIZE)
            found[camera].append(noisy(frame, rng))
            found[mirrored].append(noisy(frame[:, ::-1], rng))
    env.close()
    return {camera: np.stack(frames) for camera, frames in found.items()}


def _embodiment() -> Embodiment:
    names = tuple(f"joint{i}_rad" for i in range(JOINTS))
    return Embodiment(
        name="live",
        control_hz=float(CAMERA_HZ),
        state_names=names,
        action_names=names,
        action_low=(-3e4,) * JOINTS,
        action_high=(3e4,) * JOINTS,
        action_meaning="the number of the step",
        cameras=tuple(Camera(camera, *SIZE) for camera in CAMERAS),
    )


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(main(Path(request["out"]), request["seconds"])), flush=True)
    os._exit(0)
