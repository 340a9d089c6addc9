"""Episodes that can be checked to the last byte wherever their rows end up after edits.

The first two entries of a state are the seed and the step, so every row says what it must be: an
episode that was cut out, joined or merged is checked row by row against the making of its seeds.

Next: `crash_workers.py` (who writes them), `crash_kills.py` (who checks them).
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from ulna.datasets.commits import EpisodeRecord
from ulna.datasets.image_codec import Clip, EncodedFrames, ImageCodec, Jpeg, Lossless
from ulna.datasets.recorder import Rows
from ulna.datasets.schema import Camera, Embodiment, Episode, Sensor
from ulna.datasets.store import Store

Part = tuple[int, int, int]
"""Seed, first step, step after the last."""
Content = tuple[Part, ...]
Labels = tuple[str, str, bool | None]
"""Task, instruction, success."""

CODECS: dict[str, ImageCodec] = {"front": Jpeg(), "wrist": Lossless()}
ALL_CODECS: dict[str, ImageCodec] = {**CODECS, "side": Clip(frames=4)}
STREAMS = {"force_norm": Rows("float64")}
SENSORS = {"force": Rows("float32", (3,))}
SAMPLES = 5
"""Of the sensor, per step."""
STEP_NS = 50_000_000


def robot(cameras: tuple[str, ...] = tuple(CODECS)) -> Embodiment:
    """Small frames: what is tested is files and their order."""
    return Embodiment(
        name="crash_test",
        control_hz=20.0,
        state_names=("seed", "step", "x_m", "y_m"),
        action_names=("dx", "dy"),
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        action_meaning="none",
        cameras=tuple(
            Camera(name, 16, 24, depth_unit_m=0.001 if name == "front" else 0.0) for name in cameras
        ),
    )


@lru_cache(512)
def made(seed: int, cameras: tuple[str, ...] = tuple(CODECS)) -> Episode:
    """The episode of a seed."""
    random = np.random.default_rng(seed)
    steps = 3 + seed % 7
    numbers = np.stack([np.full(steps, seed), np.arange(steps)], axis=1)
    state = np.concatenate([numbers, random.normal(size=(steps, 2))], axis=1)
    # Seeds follow each other in time, so that any of them may be joined in order.
    times = np.arange(steps) * STEP_NS + seed * 60 * STEP_NS
    fast = np.arange(steps * SAMPLES) * (STEP_NS // SAMPLES) + seed * 60 * STEP_NS
    return Episode(
        images={name: random.integers(0, 256, (steps, 16, 24, 3), np.uint8) for name in cameras},
        streams={
            "state": state.astype(np.float32),
            "action": random.uniform(-1, 1, (steps, 2)).astype(np.float32),
            "force_norm": random.normal(size=steps),
            "time_ns": times,
        },
        instruction=f"do number {seed % 3}",
        task="crash",
        seed=seed,
        success=seed % 2 == 0,
        depth={"front": random.integers(0, 2000, (steps, 16, 24), np.uint16)},
        sensors={"force": Sensor(fast, random.normal(size=(len(fast), 3)).astype(np.float32))},
    )


@lru_cache(512)
def kept_frames(seed: int, camera: str, cameras: tuple[str, ...]) -> np.ndarray:
    """Frames of a seed as their codec keeps them."""
    frames = made(seed, cameras).images[camera]
    return EncodedFrames.of(ALL_CODECS[camera], frames).decode()


def labels_of(thing: Episode | EpisodeRecord) -> Labels:
    return thing.task, thing.instruction, thing.success


def content_of(store: Store, record: EpisodeRecord) -> Content:
    """Of which rows an episode consists, by its states."""
    state = store.reader.read("state", record)
    seeds, steps = state[:, 0].astype(int), state[:, 1].astype(int)
    breaks = np.flatnonzero((np.diff(seeds) != 0) | (np.diff(steps) != 1)) + 1
    edges = [0, *breaks.tolist(), len(state)]
    return tuple((int(seeds[a]), int(steps[a]), int(steps[b - 1]) + 1) for a, b in pairwise(edges))


def check_content(store: Store, record: EpisodeRecord) -> Content:
    """Read every row of an episode; gives its content. Raises ValueError if one is not what was
    made (DamagedData is one)."""
    content = content_of(store, record)
    read = {name: store.reader.read(name, record) for name in record.streams}
    cameras = tuple(name for name in CODECS if f"images/{name}" in read)
    expected: dict[str, list[np.ndarray]] = {name: [] for name in read}
    for seed, start, stop in content:
        episode = made(seed, cameras)
        force = episode.sensors["force"]
        samples = slice(start * SAMPLES, stop * SAMPLES)
        rows = {name: rows[start:stop] for name, rows in episode.streams.items()}
        rows |= {f"images/{name}": kept_frames(seed, name, cameras)[start:stop] for name in cameras}
        rows |= {f"depth/{name}": d[start:stop] for name, d in episode.depth.items()}
        rows["sensors/force/time_ns"] = force.time_ns[samples]
        rows["sensors/force/values"] = force.values[samples]
        if set(rows) != set(read):
            raise ValueError(f"{record.uid} has the streams {sorted(read)}, not {sorted(rows)}")
        for name, part in rows.items():
            expected[name].append(part)
    for name, rows in read.items():
        if not np.array_equal(rows, np.concatenate(expected[name])):
            raise ValueError(f"{record.uid}: {name} is not what was recorded")
    return content
