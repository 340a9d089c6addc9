"""Every check on an episode that was spoilt in that one way, and silence on a good one."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.image_codec import Clip, ImageCodec, Jpeg, Lossless
from ulna.datasets.problem import Problem
from ulna.datasets.quality import check_quality, check_quality_of_store
from ulna.datasets.quality_signals import check_finite, check_jumps
from ulna.datasets.quality_times import (
    EVENTS,
    check_frame_times,
    check_sensor_times,
    check_step_times,
)
from ulna.datasets.rates import rates
from ulna.datasets.schema import Camera, Embodiment, Episode, Sensor
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer

HZ = 20.0
STEPS = 120
Change = Callable[[np.ndarray], None]
ROBOT = Embodiment(
    name="made_up",
    control_hz=HZ,
    state_names=("tool_x_m", "tool_y_m", "tool_z_m", "wrist_rad"),
    action_names=("dx", "dy", "gripper"),
    action_low=(-1.0, -1.0, -1.0),
    action_high=(1.0, 1.0, 1.0),
    action_meaning="none",
    cameras=(Camera("front", 32, 32, depth_unit_m=0.001),),
)


def good_episode(seed: int = 0, steps: int = STEPS) -> Episode:
    """An arm on a smooth path before a camera with noise, on a clock that jitters a little."""
    random = np.random.default_rng(seed)
    t = np.arange(steps) / HZ
    phases = random.uniform(0, 6, 4)
    state = 0.2 * np.sin(t[:, None] * (1.1, 0.7, 1.3, 0.9) + phases)
    action = 0.6 * np.cos(t[:, None] * (1.1, 0.7, 0) + phases[:3])
    action[:, 2] = np.where(t < t[-1] / 2, -1, 1)
    frames = 100 + 60 * np.sin(np.arange(32)[:, None] / 5 + t[:, None, None] + np.arange(32) / 7)
    images = frames[..., None] + random.normal(0, 2, (steps, 32, 32, 3))
    times = np.round(1e9 / HZ * np.arange(steps) + random.normal(0, 5e5, steps)).astype(np.int64)
    depth = random.integers(500, 900, (steps, 32, 32)).astype(np.uint16)
    force_ns = np.arange(times[0], times[-1], 2_000_000)
    return Episode(
        images={"front": images.astype(np.uint8)},
        streams={
            "state": state.astype(np.float32),
            "action": action.astype(np.float32),
            "time_ns": times,
            "front_time_ns": times - 15_000_000,
        },
        instruction="move",
        task="made up",
        seed=seed,
        success=True,
        depth={"front": depth},
        sensors={"force_n": Sensor(force_ns, np.sin(force_ns / 1e9)[:, None])},
    )


def spoilt(episode: Episode, stream: str, change: Change) -> Episode:
    """The episode after `change` was done to a copy of one stream, or of the front camera."""
    if stream == "images/front":
        frames = episode.images["front"].copy()
        change(frames)
        return replace(episode, images={"front": frames})
    if stream == "depth/front":
        depth = episode.depth["front"].copy()
        change(depth)
        return replace(episode, depth={"front": depth})
    rows = episode.streams[stream].copy()
    change(rows)
    return replace(episode, streams={**episode.streams, stream: rows})


def stored(tmp_path: Path, *episodes: Episode, codec: ImageCodec | None = None) -> Store:
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, image_codec=codec or Jpeg()) as writer:
        for episode in episodes:
            writer.add_episode(episode)
    return Store.open(store.path)


def put(first: int, last: int, value: float, entry: int | None = None) -> Change:
    """`value` in the rows `first` to `last` (excluded)."""

    def change(rows: np.ndarray) -> None:
        (rows if entry is None else rows[:, entry])[first:last] = value

    return change


def hold(first: int, last: int) -> Change:
    """Row `first` in all rows up to `last` (excluded)."""

    def change(rows: np.ndarray) -> None:
        rows[first:last] = rows[first]

    return change


def add(first: int, value: float, every: int = 1) -> Change:
    def change(rows: np.ndarray) -> None:
        rows[first::every] += int(value)

    return change


def every_second_twice(rows: np.ndarray) -> None:
    rows[1::2] = rows[::2]


def half_speed(rows: np.ndarray) -> None:
    rows *= 2


@pytest.mark.parametrize("codec", [Jpeg(), Lossless(), Clip(frames=8)], ids=lambda c: c.type)
def test_nothing_is_said_of_a_good_episode(tmp_path: Path, codec: ImageCodec):
    store = stored(tmp_path, *(good_episode(seed) for seed in range(3)), codec=codec)
    assert [str(p) for i in range(3) for p in check_quality(store, i)] == []
    assert check_quality_of_store(store) == []


MS = 1_000_000
FAULTS: dict[str, tuple[str, Change, str]] = {
    "gap": ("time_ns", add(51, 200 * MS), "1 gaps .* after step 50: about 4 steps were dropped"),
    "slow": ("time_ns", half_speed, r"runs at (10|9\.99\d|10\.0\d) Hz, the embodiment says 20 Hz"),
    "jitter": ("time_ns", add(0, 15 * MS, every=3), "jitter: 1 % of the intervals are"),
    "same time": ("time_ns", hold(39, 41), "1 steps have the time of the step before, first 40"),
    "stale": ("front_time_ns", hold(111, 120), r"[67] frames .* the oldest 41\d ms, at step 119"),
    "future": ("front_time_ns", add(0, 90 * MS), "120 frames .* after their step, by up to 75 ms"),
    "twice": ("front_time_ns", every_second_twice, "60 of 120 .* gives 10 frames per second"),
    "saturated": ("action", put(20, 90, 1.0, 0), "at the limits: dx 5.* high"),
    "always": ("action", put(5, 120, -1.0, 1), "at the limits: dy 9. % .9. % low, 0 % high"),
    "frozen state": ("state", hold(30, 60), "same to the last bit from step 30 to 59"),
    "no motion": ("state", hold(0, 120), "the actions change and the state never follows"),
    "jump": (
        "state",
        put(70, 71, 0.9, 1),
        "tool_y_m jumps 2 times, most by .* (69 to 70|70 to 71)",
    ),
    "black": (
        "images/front",
        put(40, 60, 0),
        r"\d of \d+ frames looked at are black, first step 4",
    ),
    "burnt": ("images/front", put(40, 60, 255), r"\d of \d+ frames looked at are overexposed"),
    "flat": ("images/front", put(40, 60, 128), r"\d of \d+ frames looked at show one flat colour"),
    "frozen": (
        "images/front",
        hold(30, 60),
        r"stands still .* for 29 of 120 .* 30 to 59 \(1.4 s\)",
    ),
    "slow camera": ("images/front", every_second_twice, "5. % of the frames .* gives about (10|9)"),
    "depth": ("depth/front", put(40, 60, 0), "of 16 frames looked at hold no depth, first 4"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(tmp_path: Path, name: str):
    stream, change, message = FAULTS[name]
    store = stored(tmp_path, spoilt(good_episode(), stream, change))
    problems = check_quality(store, 0)
    severity = "note" if name == "saturated" else "warning"
    found = [p for p in problems if p.stream == stream and p.severity == severity]
    assert any(re.search(message, p.message) for p in found), [str(p) for p in problems]
    assert all(p.episode == 0 and p.uid == store.episodes[0].uid for p in problems)


@pytest.mark.parametrize("codec", [Lossless(), Clip(frames=8)], ids=lambda c: c.type)
def test_a_frozen_camera_is_found_in_other_codecs(tmp_path: Path, codec: ImageCodec):
    frozen = spoilt(good_episode(), "images/front", hold(30, 90))
    messages = [p.message for p in check_quality(stored(tmp_path, frozen, codec=codec), 0)]
    assert any("stands still while the robot moves" in message for message in messages), messages


def test_the_same_picture_at_rest_is_no_fault(tmp_path: Path):
    """A simulator draws the same picture while nothing moves; that stretch is idle instead."""
    episode = good_episode()
    for stream in ("images/front", "state", "action"):
        episode = spoilt(episode, stream, hold(80, 120))
    (problem,) = check_quality(stored(tmp_path, episode), 0)
    assert problem.stream == "action" and (problem.start, problem.stop) == (80, 120)
    assert re.search(r"for 39 of 120 steps, in 1 .* steps 80 to 119 \(the end\)", problem.message)


def test_labels(tmp_path: Path):
    store = stored(
        tmp_path, replace(good_episode(steps=9), instruction=" ", success=None), good_episode(1)
    )
    texts = [str(p) for p in check_quality(store, 0)]
    assert len(texts) == 3
    assert re.search("warning: episode 0 .*has no instruction", texts[0])
    assert re.search("note: episode 0 .*nobody said whether it succeeded", texts[1])
    assert re.search("warning: episode 0 .*has 9 steps, 0.45 s", texts[2])


def test_what_a_recorder_lost_is_told(tmp_path: Path):
    info = {"dropped_images": 7, "dropped_ticks": 0, "interrupted": True}
    store = stored(tmp_path, replace(good_episode(), info=info), good_episode(1))
    texts = [str(p) for p in check_quality(store, 0)]
    assert len(texts) == 2 and "7 pictures were not kept" in texts[0] and "broken off" in texts[1]
    assert check_quality(store, 1) == []


def test_lengths_and_duplicates(tmp_path: Path):
    episodes = [good_episode(seed, 60 + seed) for seed in range(11)]
    episodes.append(good_episode(11, 500))
    # The same content under another label is the same content.
    episodes.append(replace(episodes[3], seed=99, instruction="something else"))
    store = stored(tmp_path, *episodes)
    long = next(i for i, record in enumerate(store.episodes) if record.steps == 500)
    length, twice = sorted(check_quality_of_store(store), key=lambda p: "twice" in p.message)
    assert length.episode == long and re.search("has 500 steps; .* 6[56] are usual", length.message)
    assert twice.episode == 12 and "are those of episode 3 " in twice.message


def test_sensors_and_damage_that_a_store_would_refuse():
    times = np.arange(0, 10**9, 2_000_000)
    steps = np.arange(0, 10**9, 50_000_000)
    assert check_sensor_times(times, steps, "s") == []
    gap = np.concatenate((times[:100], times[100:] + 40_000_000))
    (problem,) = check_sensor_times(gap, steps, "s")
    assert "1 gaps" in problem.message and "about 20 samples" in problem.message
    # Answers of a policy come when they come; only their order can be wrong.
    assert check_sensor_times(gap[50:60], steps, EVENTS[0]) == []
    (disorder,) = check_sensor_times(gap[::-1], steps, EVENTS[0])
    assert "runs backwards" in disorder.message
    (late,) = check_sensor_times(times[200:], steps, "s")
    assert late.message == "begins 400 ms after the first step"
    (early,) = check_sensor_times(times[:200], steps, "s")
    assert early.message == "ends 552 ms before the last step"
    (back, *_) = check_step_times(np.array([0, 5, 3, 9]) * 10_000_000, HZ)
    assert back.severity == "error" and back.message == "runs backwards at step 2"
    rows = np.zeros((5, 2), np.float32)
    rows[3, 1] = np.nan
    assert check_finite(rows, "state")[0].message == "1 steps hold NaN or infinity, first step 3"
    (one,) = check_frame_times(np.zeros(20, np.int64), steps, "front_time_ns")[:1]
    assert "the camera never gave a second one" in one.message


def test_jumps_tell_what_they_look_like():
    t = np.arange(200) / 20
    angle = np.angle(np.exp(1j * t))[:, None].astype(np.float32)
    (wrap,) = check_jumps(angle, ["yaw_rad"])
    assert "a whole turn: the angle wraps around" in wrap.message
    quaternion = np.stack([np.cos(t / 9), np.sin(t / 9)], 1).astype(np.float32)
    quaternion[90:] *= -1
    flips = check_jumps(quaternion, ["qw", "qx"])
    assert len(flips) == 2 and all("quaternion's other half" in p.message for p in flips)
    assert (flips[0].start, flips[0].stop) == (89, 91)
    # A gripper that opens fast, and noise, are no jumps.
    random = np.random.default_rng(0)
    finger = 0.04 * np.clip((t - 5) / 0.3, 0, 1) + random.normal(0, 1e-5, 200)
    walk = np.cumsum(random.normal(size=(200, 5)), axis=0)
    rows = np.column_stack([finger, walk]).astype(np.float32)
    assert check_jumps(rows, ["finger_m", *"abcde"]) == []


def test_rates(tmp_path: Path):
    regular = replace(
        good_episode(1),
        streams=good_episode(1).streams | {"time_ns": np.arange(STEPS) * 50_000_000},
    )
    store = stored(tmp_path, good_episode(0), regular)
    facts = rates(store)
    clock = facts["clocks"]["time_ns"]
    assert clock["measured_hz"] == pytest.approx(20, rel=0.01)
    assert clock["exactly_regular_episodes"] == 1 and clock["episodes"] == 2
    intervals = np.diff(good_episode(0).streams["time_ns"])
    jitter = np.concatenate((np.abs(intervals - np.median(intervals)), np.zeros(STEPS - 1))) / 1e6
    for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1)):
        assert clock[f"jitter_{name}_ms"] == pytest.approx(np.quantile(jitter, q))
    assert facts["clocks"]["sensors/force_n/time_ns"]["measured_hz"] == pytest.approx(500)
    front = facts["streams"]["images/front"]
    assert front["rows"] == 2 * STEPS
    assert front["codecs"] == [{"quality": 95, "subsampling": "420", "type": "jpeg"}]
    encoded = sum(len(c) for i in (0, 1) for c in store.read_encoded("front", i).chunks)
    # Besides the frames: a checksum each, and an index per file.
    assert encoded < front["bytes"] < encoded + 2 * STEPS * 4 + 2 * 256 * 16 + 100
    assert front["bytes_per_row"] == front["bytes"] / front["rows"]
    empty = Store.create(tmp_path / "empty.zarr", ROBOT)
    assert rates(empty)["clocks"] == {}


def test_problems_read_as_sentences():
    assert str(Problem("note", "all is quiet")) == "note: all is quiet"
    problem = Problem("warning", "is odd", 3, "abc", "state", 4, 9)
    assert str(problem) == "warning: episode 3 (uid abc, stream 'state'): is odd"
