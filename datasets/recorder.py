"""Recording step by step, beside a loop that must not wait.

        with Writer("lift.zarr") as writer, Recorder(writer) as recorder:
            recorder.begin("pick up the red cube", task="lift", seed=7)
            while moving:
                kept = recorder.add_step({"front": frame}, {"state": s, "action": a, "time_ns": t})
            ending = recorder.end(success=True)     # the next episode may begin at once
            uid = ending.result().uid               # now it is on the disk

`add_step` copies the frames into memory that was there before, and returns; threads code and store
while recording goes on, so an episode of hours needs no more memory than one of seconds. If they
fall behind and the queue is full, the step is not kept: the caller is told by False, the episode
by `info["dropped_steps"]`, and its times have the gap. An episode exists once it is committed; of
a crash before that nothing is left but files that nothing refers to.

Next: `recorder_form.py` (what a step must be), `recorder_threads.py` (what the threads do),
`writer.py` (whole episodes).
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from jaxtyping import Shaped

from .episode_check import check_labels
from .recorder_form import Form, Row, Rows
from .recorder_queue import BlockQueue, Discard, Ending, Finish, Run, SensorQueue, copy_frame
from .recorder_threads import RecorderThreads
from .schema import Subgoal, unknown_name
from .writer import Writer

_BLOCK_STEPS = 8
"""Handing over several steps at once wakes the threads less often; a clip takes eight anyway."""
_BLOCK_SAMPLES = 64


@dataclass(frozen=True)
class RecorderConfig:
    """How much may wait, and who works it off."""

    queue_s: float = 2.0
    """How long coding and the disk may be behind. At 30 Hz with four cameras of 480 x 640 these
    are 60 steps of 3.7 MB. Rounded up to whole blocks, of 8 steps or of the frames that the image
    codec takes together, and to three of them."""
    queue_samples: int = 8192
    """Samples of each sensor that fit; they wait for the steps before them."""
    coders: int = 2
    """Threads that code frames."""


DEFAULT_CONFIG = RecorderConfig()


class Recorder:
    """Records one episode after another. `begin`, `add_step`, `end` and `abort` belong to one
    thread, `add_sample` of each sensor to one, of whatever kind. Make it before the loop is given
    real-time priority, which the threads would inherit. Use it in a `with` statement."""

    def __init__(
        self,
        writer: Writer,
        streams: Mapping[str, Rows] | None = None,
        sensors: Mapping[str, Rows] | None = None,
        config: RecorderConfig = DEFAULT_CONFIG,
    ) -> None:
        """`streams`: those that come with every step besides `state`, `action` and `time_ns`.
        `sensors`: those with a rate of their own. The writer stays usable beside the recorder."""
        self.writer = writer
        self.config = config
        self._form = Form(writer.embodiment, streams or {}, sensors or {})
        layouts = self._form.layouts(writer.codec_of)
        chunk = max((layouts[name].chunk_rows for name in self._form.frames), default=1)
        steps = math.ceil(config.queue_s * writer.embodiment.control_hz)
        self._queue = BlockQueue(self._form.step, max(_BLOCK_STEPS, chunk), steps)
        self._sensors = {
            name: SensorQueue(BlockQueue(parts, _BLOCK_SAMPLES, config.queue_samples))
            for name, parts in self._form.samples.items()
        }
        self._run: Run | None = None
        self._endings: list[Ending] = []
        self._closed = False
        self._process = os.getpid()
        self._threads = RecorderThreads(writer, layouts, config.coders)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        self.abort()
        for failure in self._stop_threads():
            error.add_note(f"besides: {failure}")

    @property
    def queue_bytes(self) -> int:
        """Memory of the queues."""
        queues = [self._queue, *(sensor.queue for sensor in self._sensors.values())]
        return sum(queue.nbytes for queue in queues)

    def begin(
        self,
        instruction: str,
        task: str,
        seed: int,
        info: Mapping[str, str | int | float | bool] | None = None,
        paraphrases: Sequence[str] = (),
    ) -> None:
        """Start an episode; an earlier one may still be on its way to the disk."""
        if self._closed or os.getpid() != self._process:
            raise ValueError("this Recorder is closed, or of a process before a fork; make another")
        if self._run is not None:
            raise ValueError(
                f"the episode of seed {self._run.seed} is being recorded; call end or abort first"
            )
        check_labels(info or {}, (), 0)
        run = Run(instruction, task, int(seed), dict(info or {}), tuple(paraphrases))
        run.samples = dict.fromkeys(self._sensors, 0)
        run.dropped_samples = dict.fromkeys(self._sensors, 0)
        self._run = run
        for sensor in self._sensors.values():
            with sensor.lock:
                sensor.run = run

    def add_step(
        self,
        images: Mapping[str, Shaped[np.ndarray, "..."]],
        streams: Mapping[str, Row],
        depth: Mapping[str, Shaped[np.ndarray, "..."]] | None = None,
    ) -> bool:
        """Copy one step into the queue; False if it is full and the step was not kept.

        `images` and `depth`: one frame of each camera. `streams`: one row of each stream.
        Raises ValueError if the step cannot be stored (it counts as dropped, the episode goes on)
        and OSError if earlier ones could not be (the episode is lost, the next may begin).
        """
        run = self._running()
        depth = depth or {}
        try:
            self._form.check_step(images, depth, streams, run.last_time_ns)
        except ValueError:
            run.dropped_steps += 1
            raise
        block = self._queue.room(run)
        if block is None:
            run.dropped_steps += 1
            return False
        arrays, row = block.arrays, block.rows
        for name, frame in images.items():
            copy_frame(frame, arrays[f"images/{name}"][row])
        for name, frame in depth.items():
            copy_frame(frame, arrays[f"depth/{name}"][row])
        for name, value in streams.items():
            arrays[name][row] = value
            if name.endswith("time_ns"):
                run.last_time_ns[name] = int(value)
        block.rows = row + 1
        run.steps += 1
        if block.rows == self._queue.rows_per_block:
            self._submit_steps(run)
        return True

    def add_sample(self, sensor: str, time_ns: int | np.integer, values: Row) -> bool:
        """Copy one sample of a sensor into its queue; False if it is full and the sample was not
        kept. Between episodes samples are not kept either, and nothing is lost: True.

        Raises ValueError if the sample cannot be stored; it counts as dropped.
        """
        if sensor not in self._sensors:
            raise unknown_name("sensor", sensor, self._sensors)
        place = self._sensors[sensor]
        name = f"sensors/{sensor}"
        with place.lock:
            run = place.run
            if run is None:
                return True
            try:
                self._form.check_sample(sensor, int(time_ns), values, run.last_time_ns)
            except ValueError:
                run.dropped_samples[sensor] += 1
                raise
            block = place.queue.room(run)
            if block is None:
                run.dropped_samples[sensor] += 1
                return False
            block.arrays[f"{name}/time_ns"][block.rows] = time_ns
            block.arrays[f"{name}/values"][block.rows] = values
            run.last_time_ns[name] = int(time_ns)
            run.samples[sensor] += 1
            block.rows += 1
            if block.rows == _BLOCK_SAMPLES:
                self._threads.submit(place.queue.take() or block)
            return True

    def end(
        self,
        success: bool | None = None,
        info: Mapping[str, str | int | float | bool] | None = None,
        subgoals: Sequence[Subgoal] = (),
    ) -> Ending:
        """Finish the episode in the background; `result` of what this gives waits for it.

        `info` is added to that of `begin`, and to it `dropped_steps` and, for each sensor,
        `dropped_samples_<name>`.
        Raises ValueError if a label cannot be stored or there is no step (the episode goes on),
        and OSError if earlier steps could not be stored (the episode is lost).
        """
        run = self._running()
        check_labels(info or {}, subgoals, run.steps)
        if run.steps == 0:
            raise ValueError(
                f"the episode of seed {run.seed} has no steps ({run.dropped_steps} were dropped); "
                "call abort instead of end"
            )
        self._detach(run, keep=True)
        counts = {f"dropped_samples_{name}": n for name, n in run.dropped_samples.items()}
        counts["dropped_steps"] = run.dropped_steps
        labels = {**run.info, **(info or {}), **counts}
        order = Finish(run, success, labels, tuple(subgoals))
        self._threads.order(order)
        self._endings = [ending for ending in self._endings if not ending.asked]
        self._endings.append(order.ending)
        return order.ending

    def abort(self) -> None:
        """Forget the running episode, if there is one; its files are removed."""
        run = self._run
        if run is not None:
            run.unwanted = True
            self._detach(run, keep=False)
            self._threads.order(Discard(run))

    def close(self) -> None:
        """Wait until every episode that was ended is stored, then stop the threads.

        Raises what went wrong with those whose `result` nobody asked for, and ValueError if an
        episode was neither ended nor aborted.
        """
        if self._closed:
            return
        run = self._run
        self.abort()
        failures = self._stop_threads()
        for failure in failures[:1]:
            for further in failures[1:]:
                failure.add_note(f"besides: {further}")
            raise failure
        if run is not None:
            raise ValueError(
                f"the recorder was closed in the middle of the episode of seed {run.seed}, whose "
                f"{run.steps} steps are discarded; call end or abort before"
            )

    def _stop_threads(self) -> list[BaseException]:
        """Gives what went wrong and nobody was told."""
        self._closed = True
        self._threads.close()
        unasked = [ending.future.exception() for ending in self._endings if not ending.asked]
        return [error for error in unasked if error is not None]

    def _running(self) -> Run:
        run = self._run
        if run is None:
            raise ValueError("no episode is being recorded; call begin first")
        if run.error is not None:
            self.abort()
            raise run.error
        return run

    def _submit_steps(self, run: Run) -> None:
        run.fullest_queue = max(run.fullest_queue, self._queue.fullness)
        block = self._queue.take()
        if block is not None:
            self._threads.submit(block)

    def _detach(self, run: Run, keep: bool) -> None:
        """No more rows for `run`. Those in blocks that are not full: `keep` them or not."""
        self._run = None
        if keep:
            self._submit_steps(run)
        elif (block := self._queue.take()) is not None:
            block.release()
        for sensor in self._sensors.values():
            with sensor.lock:
                sensor.run = None
                block = sensor.queue.take()
                if block is not None and keep:
                    self._threads.submit(block)
                elif block is not None:
                    block.release()
