"""Is an episode worth learning from? Checks of what it says, where `verify.py` checks that it is
what was written.

        quality_times.py     rate, jitter, gaps, age of frames       thresholds with their
        quality_signals.py   saturated, idle, stuck, jumps           reasons stand there
        quality_images.py    frozen, repeated, black, overexposed

`check_quality` looks at one episode, `check_quality_of_store` at how episodes compare. A warning
is something to look at (`ulna data view`), not a verdict.

Next: `rates.py` (the same quantities as figures), `view.py` (an episode with its findings).
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from .chunks import DamagedData
from .commits import EpisodeRecord
from .problem import Problem
from .quality_images import check_depth, check_frames, frame_facts
from .quality_signals import check_actions, check_finite, check_jumps, check_motion, moving
from .quality_times import check_frame_times, check_sensor_times, check_step_times
from .store import Store

SHORTEST_S = 0.5
"""A shorter episode is a recording that was started by mistake."""
LENGTH_Z = 4.0
"""Robust z of the logarithm of the length among the episodes of a task. At 4, one episode in
16,000 is named if lengths are log-normal."""
LENGTH_FLOOR = 0.1
"""Spread of that logarithm assumed at least: scripted episodes are all alike, and 10 % more or
less is nothing."""
LENGTH_EPISODES = 10
"""Fewer episodes of a task say little about its usual length."""
_DEPTH_LOOKED_AT = 16


def check_quality(store: Store, episode_index: int) -> list[Problem]:
    """What is doubtful in one episode; empty if nothing is.

    Streams that are damaged are left to `verify`, which names them.
    """
    record = store.episodes[episode_index]
    found = [*_labels(record, store.embodiment.control_hz)]
    numbers = _read_numbers(store, episode_index, record)
    found += _check_times(store, numbers)
    signals, moves = _check_signals(store, numbers, record.steps)
    found += signals
    for name in record.streams:
        try:
            if name.startswith("images/"):
                camera = name.removeprefix("images/")
                facts = frame_facts(store.read_encoded(camera, episode_index))
                found += check_frames(facts, moves, store.embodiment.control_hz, name)
            elif name.startswith("depth/"):
                steps = np.unique(
                    np.linspace(0, record.steps - 1, _DEPTH_LOOKED_AT).astype(np.int64)
                )
                frames = [store.read(name, episode_index, int(s), int(s) + 1)[0] for s in steps]
                found += check_depth(np.stack(frames), steps, name)
        except (DamagedData, OSError):
            continue  # `verify` reads every byte and names it
    return [replace(p, episode=episode_index, uid=record.uid) for p in found]


def check_quality_of_store(store: Store) -> list[Problem]:
    """Episodes that stand out among the others: odd lengths, and the same content twice."""
    lengths: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    contents: dict[tuple[int, ...], tuple[int, str]] = {}
    problems = []
    for index, record in enumerate(store.episodes):
        lengths[record.task].append((record.steps, index, record.uid))
        streams = [record.streams.get(name) for name in ("state", "action")]
        content = (record.steps, *(stream.crc32c for stream in streams if stream))
        first, uid = contents.setdefault(content, (index, record.uid))
        if first != index:
            problems.append(
                Problem(
                    "warning",
                    f"states and actions are those of episode {first} (uid {uid}): recorded or "
                    "imported twice",
                    index,
                    record.uid,
                )
            )
    for task, episodes in lengths.items():
        if len(episodes) < LENGTH_EPISODES:
            continue
        logs = np.log([steps for steps, _, _ in episodes])
        middle = np.median(logs)
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), LENGTH_FLOOR)
        for (steps, index, uid), log in zip(episodes, logs, strict=True):
            if abs(log - middle) > LENGTH_Z * spread:
                message = f"has {steps} steps; of task {task!r} {np.exp(middle):.0f} are usual"
                problems.append(Problem("warning", message, index, uid))
    return problems


_LOSSES = {
    "dropped_steps": "steps were not kept, the recorder was behind",
    "dropped_ticks": "control ticks were not kept, the recorder was behind",
    "dropped_images": "pictures were not kept, the recorder was behind: those before stand there",
    "interrupted": "the recording was broken off; the episode holds what had come",
}
"""What a recorder writes into `info`, in words."""


def _labels(record: EpisodeRecord, control_hz: float) -> list[Problem]:
    problems = []
    if not record.instruction.strip():
        message = "has no instruction; give one with `ulna data edit`"
        problems.append(Problem("warning", message))
    if record.success is None:
        problems.append(Problem("note", "nobody said whether it succeeded"))
    for name, meaning in _LOSSES.items():
        if lost := record.info.get(name):
            count = "" if lost is True else f"{lost} "
            problems.append(Problem("note", f"{count}{meaning}"))
    if record.steps < SHORTEST_S * control_hz:
        message = f"has {record.steps} steps, {record.steps / control_hz:.2g} s"
        problems.append(Problem("warning", message))
    return problems


def _read_numbers(store: Store, index: int, record: EpisodeRecord) -> dict[str, np.ndarray]:
    """State, action and all times, as far as they can be read."""
    numbers = {}
    for name in record.streams:
        if name in ("state", "action") or name.endswith("time_ns"):
            try:
                numbers[name] = store.read(name, index)
            except (DamagedData, OSError):
                continue  # `verify` reads every byte and names it
    return numbers


def _check_times(store: Store, numbers: dict[str, np.ndarray]) -> list[Problem]:
    problems = []
    time_ns = numbers.get("time_ns")
    if time_ns is not None:
        problems += check_step_times(time_ns, store.embodiment.control_hz)
    for name, times in numbers.items():
        if name.startswith("sensors/"):
            problems += check_sensor_times(times, time_ns, name)
        elif name.endswith("_time_ns") and time_ns is not None:
            problems += check_frame_times(times, time_ns, name)
    return problems


def _check_signals(
    store: Store, numbers: dict[str, np.ndarray], steps: int
) -> tuple[list[Problem], np.ndarray]:
    """Problems of state and action, and in which intervals the robot moved (unknown: in all)."""
    robot = store.embodiment
    everywhere = np.ones(max(steps - 1, 0), bool)
    found = [
        p
        for name in ("state", "action")
        if name in numbers
        for p in check_finite(numbers[name], name)
    ]
    if found or not {"state", "action"} <= set(numbers):
        return found, everywhere
    state, action = numbers["state"], numbers["action"]
    low, high = robot.action_low, robot.action_high
    found += check_actions(action, low, high, robot.action_names)
    found += check_motion(state, action, low, high, robot.control_hz)
    found += check_jumps(state, robot.state_names)
    return found, moving(state, robot.control_hz) if steps > 1 else everywhere
