"""Looking at an episode: `write_page` (a file for any browser), `view_rerun` (the rerun viewer).

Next: `view_page.py` (what stands in the page), `quality.py` (what it warns of).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .image_codec import Jpeg
from .schema import Embodiment
from .store import Store
from .view_page import episode_page

_BLOCK = 64
"""Frames sent to rerun at a time, which bounds memory."""


def write_page(store: Store, episode_index: int, out: Path) -> Path:
    """Write the self-contained page of an episode to `out`; returns its path."""
    store.choose([episode_index])  # names the episodes there are
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file such as {out / 'episode.html'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside it first: a page that is open in a browser is never half there.
    unfinished = out.with_name(f"{out.name}.partial")
    unfinished.write_text(episode_page(store, episode_index), encoding="utf-8")
    os.replace(unfinished, out)
    return out


def view_rerun(
    store: Store, episode_index: int, save: Path | None = None, spawn: bool = False
) -> None:
    """Show an episode in rerun: write it to `save` (an .rrd file), or `spawn` the viewer, or both.

    Timelines: `capture_time` (seconds since the first step, from the clock each sensor was stamped
    with) and `step`. JPEG frames go in as they are stored. Wants the extra `ulna[view]`.
    """
    rr = _rerun()
    if save is None and not spawn:
        raise ValueError("nowhere to show it: give a file to save to, or ask for the viewer")
    store.choose([episode_index])
    record, robot = store.episodes[episode_index], store.embodiment
    recording = rr.RecordingStream("ulna", recording_id=record.uid)
    if spawn and save is not None:
        recording.spawn(connect=False)
        recording.set_sinks(rr.FileSink(str(save)), rr.GrpcSink())
    elif save is not None:
        recording.save(str(save))
    else:
        recording.spawn()
    times = {
        name: store.read(name, episode_index) for name in record.streams if name.endswith("time_ns")
    }
    measured = "time_ns" in times
    clock = (
        times["time_ns"] if measured else np.arange(record.steps) * round(1e9 / robot.control_hz)
    )

    def index(ns: np.ndarray, steps: np.ndarray | None) -> list[Any]:
        seconds = (ns - clock[0]).astype("timedelta64[ns]")
        columns = [rr.TimeColumn("capture_time", duration=seconds)]
        return columns + ([rr.TimeColumn("step", sequence=steps)] if steps is not None else [])

    def send(path: str, ns: np.ndarray, steps: np.ndarray | None, columns: Any) -> None:
        rr.send_columns(path, index(ns, steps), columns, recording=recording)

    steps = np.arange(record.steps)
    for stream in record.streams:
        folder, _, camera = stream.partition("/")
        if folder in ("images", "depth"):
            ns = times.get(f"{camera}_time_ns", clock)
            for first, columns in _pictures(rr, store, episode_index, stream):
                part = slice(first, min(first + _BLOCK, record.steps))
                send(stream, ns[part], steps[part], columns)
        elif folder == "sensors" and stream.endswith("/values"):
            ns = times[stream.removesuffix("values") + "time_ns"]
            rows = store.read(stream, episode_index)
            for entry, column in enumerate(rows.reshape(len(rows), -1).T):
                path = f"{stream.removesuffix('/values')}/{entry}"
                send(path, ns, None, rr.Scalars.columns(scalars=column.astype(np.float64)))
        elif folder != "sensors" and not stream.endswith("time_ns"):
            rows = store.read(stream, episode_index)
            rows = rows.reshape(len(rows), -1)
            for name, column in zip(_names(robot, stream, rows.shape[1]), rows.T, strict=True):
                scalars = rr.Scalars.columns(scalars=column.astype(np.float64))
                send(f"{stream}/{name}", clock, steps, scalars)
    said = [(0, "instruction", record.instruction)]
    said += [(goal.start, "subgoal", goal.instruction) for goal in record.subgoals]
    said += [(goal.stop, "subgoal", "") for goal in record.subgoals if goal.stop < record.steps]
    # Where one goal ends the next begins: that it begins is said last, and stays.
    for step, path, text in sorted(said, key=lambda entry: (entry[0], entry[2] != "")):
        columns = rr.TextDocument.columns(text=[text])
        send(path, clock[step : step + 1], steps[step : step + 1], columns)
    recording.send_property("episode", rr.AnyValues(False, **_labels(store, episode_index)))
    recording.flush()
    recording.disconnect()


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ValueError(
            "rerun is not installed; install it with: pip install 'ulna[view]', or write a page "
            "with --out, which needs nothing"
        ) from error
    return rerun


def _pictures(rr: Any, store: Store, index: int, stream: str) -> Iterator[tuple[int, Any]]:
    """First step and rerun columns of every block of frames."""
    record, robot = store.episodes[index], store.embodiment
    folder, _, camera = stream.partition("/")
    jpeg = folder == "images" and isinstance(store.layout(stream, record).codec, Jpeg)
    encoded = store.read_encoded(camera, index).chunks if jpeg else ()
    for first in range(0, record.steps, _BLOCK):
        last = min(first + _BLOCK, record.steps)
        if jpeg:
            blobs = [np.frombuffer(chunk, np.uint8) for chunk in encoded[first:last]]
            kinds = ["image/jpeg"] * len(blobs)
            yield first, rr.EncodedImage.columns(blob=blobs, media_type=kinds)
            continue
        rows = store.read(stream, index, first, last)
        height, width = rows.shape[1:3]
        kind = rr.DepthImage if folder == "depth" else rr.Image
        about = {"channel_datatype": "U16"} if folder == "depth" else {"color_model": "RGB"}
        formats = [
            rr.components.ImageFormat(
                width=width, height=height, **({"channel_datatype": "U8"} | about)
            )
        ] * len(rows)
        buffers = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
        columns = [*kind.columns(buffer=list(buffers), format=formats)]
        if folder == "depth":
            unit = robot.camera(camera).depth_unit_m
            meter = [1 / unit] * len(rows) if unit else []
            columns += list(rr.DepthImage.columns(meter=meter)) if meter else []
        yield first, columns


def _names(robot: Embodiment, stream: str, columns: int) -> Sequence[str]:
    """What the entries of a stream are called."""
    known: Mapping[str, Sequence[str]] = {
        "state": robot.state_names,
        "action": robot.action_names,
        "action_sent": robot.action_names,
        "action_measured": robot.action_names,
        "joint_position_rad": robot.joint_names,
    }
    names = known.get(stream, ())
    return names if len(names) == columns else [str(entry) for entry in range(columns)]


def _labels(store: Store, episode_index: int) -> dict[str, Any]:
    record = store.episodes[episode_index]
    success = "unknown" if record.success is None else "yes" if record.success else "no"
    labels = {"task": record.task, "instruction": record.instruction, "success": success}
    labels |= {"seed": str(record.seed), "robot": store.embodiment.name}
    return labels | {f"info_{key}": str(value) for key, value in record.info.items()}
