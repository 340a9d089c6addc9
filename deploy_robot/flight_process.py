"""The recorder process: reads what the control loop left in shared memory and stores it.

    messages (begin, finish, end)  say which rows belong to which episode
    lanes    (rows, chunks, frames) hold them; a killed loop leaves them readable

It ignores Ctrl-C and outlives its parent: when the connection breaks, it stores everything that
had come as an episode marked `interrupted`, then leaves. It has a lower priority than the arm.

Next: `flight_store.py` (the episode), `flight_ring.py` (the lanes), `live_view.py`.
"""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ..datasets.schema import Embodiment
from ..datasets.writer import Writer
from .flight_episode import FlightEpisode, Marks
from .flight_lanes import NUMBERS, Flight, FlightConfig
from .flight_ring import FlightRing
from .flight_store import FlightStore, ready_store
from .live_view import LiveView
from .processes import report_crash

_IDLE_S = 0.005
_BATCH_ROWS = 16
_NICE = 5
_CODERS = 2


def record_flights(
    connection: Connection, config: FlightConfig, embodiment: Embodiment, horizon: int
) -> None:
    """Main function of the recorder process."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # The end is said by the connection: what had come is stored in every case.
        signal.signal(name, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.nice(_NICE)
    try:
        ring = FlightRing.receive(connection)
        try:
            ready_store(config.store, embodiment)
            live = LiveView(config.live, embodiment) if config.live else None
        except (ValueError, OSError) as error:
            connection.send(("refused", str(error)))
            return
        with Writer(config.store, tool="flight recorder") as writer:
            store = FlightStore(writer, config.jpeg_quality, horizon)
            connection.send(("ready", None))
            try:
                _Recording(connection, ring, store, live, config, embodiment).serve()
            finally:
                store.close()
                if live is not None:
                    live.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process was gone before anything was recorded
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


class _Recording:
    """The inside of the recorder process."""

    def __init__(
        self,
        connection: Connection,
        ring: FlightRing,
        store: FlightStore,
        live: LiveView | None,
        config: FlightConfig,
        embodiment: Embodiment,
    ) -> None:
        self.connection = connection
        self.lanes = ring.lanes
        self.store = store
        self.live = live
        self.config = config
        self.cameras = [camera.name for camera in embodiment.cameras]
        self.episode: FlightEpisode | None = None
        self.coders = ThreadPoolExecutor(_CODERS, thread_name_prefix="ulna-flight-coder")
        self.last_finite = {
            "state": np.zeros(embodiment.state_dim, np.float32),
            "joints": np.zeros(len(embodiment.joint_names), np.float64),
        }

    def serve(self) -> None:
        """Until the control process says `end` or is gone."""
        while True:
            # Counted before the messages are looked at: whatever was put before that belongs to
            # the episode that the messages read until then speak of.
            marks = self._marks()
            try:
                heard = self.connection.poll(0)
                message: Any = self.connection.recv() if heard else ("", None)
            except (EOFError, ConnectionResetError):
                message = ("end", None)
                marks = self._marks()
            kind: str = message[0]
            value: Any = message[1]
            if kind == "end":
                self._drain(marks)
                if self.episode is not None:
                    self._finish(None, {"outcome": "unknown"}, marks, interrupted=True)
                self.coders.shutdown()
                return
            if kind == "begin":
                self._begin(*value)
            elif kind == "finish":
                success, info, at_end = value
                self._drain(at_end)
                self._finish(success, info, at_end)
            elif not self._drain(marks):
                self.connection.poll(_IDLE_S)

    def _marks(self) -> Marks:
        return {name: (lane.put, lane.lost) for name, lane in self.lanes.items()}

    def _begin(self, seed: int, instruction: str, info: dict[str, Any], marks: Marks) -> None:
        if self.episode is not None:
            self._drain(marks)
            self._finish(None, {"outcome": "unknown"}, marks, interrupted=True)
        for name, (put, _) in marks.items():
            self.lanes[name].release(put)  # of nobody's episode
        started = {"started_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self.episode = FlightEpisode(seed, instruction, {**started, **info}, marks)
        self.store.begin()
        if self.live is not None:
            self.live.begin(seed, instruction)

    def _drain(self, marks: Marks) -> bool:
        """Store everything up to `marks`; whether there was anything."""
        episode = self.episode
        if episode is None:
            for name, (put, _) in marks.items():
                self.lanes[name].release(put)
            return False
        worked = self._texts(episode, marks["texts"][0])
        worked |= self._chunks(episode, marks["chunks"][0])
        rows = self.lanes["rows"]
        while rows.taken < marks["rows"][0]:
            last = min(marks["rows"][0], rows.taken + _BATCH_ROWS)
            self._rows(episode, rows.taken + 1, last)
            worked = True
        return worked

    def _texts(self, episode: FlightEpisode, last: int) -> bool:
        lane = self.lanes["texts"]
        numbers = range(lane.taken + 1, last + 1)
        for number in numbers:
            slot = lane.slot(number)
            instruction, length = (int(n) for n in lane.arrays["number"][slot])
            text = lane.arrays["text"][slot, :length].tobytes().decode()
            episode.texts[instruction] = text
            if self.live is not None:
                self.live.say(text)
        lane.release(last)
        return bool(numbers)

    def _chunks(self, episode: FlightEpisode, last: int) -> bool:
        lane = self.lanes["chunks"]
        numbers = range(lane.taken + 1, last + 1)
        for number in numbers:
            slot = lane.slot(number)
            tick, observation_tick, time_ns = (int(n) for n in lane.arrays["numbers"][slot])
            chunk = lane.arrays["chunk"][slot]
            self._guarded(self.store.add_chunk, time_ns, tick, observation_tick, chunk)
            lane.release(number)
        return bool(numbers)

    def _rows(self, episode: FlightEpisode, first: int, last: int) -> None:
        """Code the new frames of some rows side by side, then store row after row."""
        rows = self.lanes["rows"]
        # Ticks are worth more than frames: far behind, only they are stored.
        hurried = rows.waiting > rows.capacity * 3 // 4
        jobs: list[dict[str, Future[bytes]]] = []
        newest = {name: self.lanes[f"images/{name}"].taken for name in self.cameras}
        for number in range(first, last + 1):
            frames = rows.arrays["frames"][rows.slot(number), 0]
            coding: dict[str, Future[bytes]] = {}
            for name, frame in zip(self.cameras, frames.tolist(), strict=True):
                if frame <= newest[name]:
                    continue
                newest[name] = frame
                if hurried or episode.problem:
                    episode.skipped_frames += hurried
                    continue
                lane = self.lanes[f"images/{name}"]
                pixels = lane.arrays["frame"][lane.slot(frame)]
                coding[name] = self.coders.submit(self.store.code, name, pixels)
            jobs.append(coding)
        for number, coding in zip(range(first, last + 1), jobs, strict=True):
            slot = rows.slot(number)
            coded = {name: job.result() for name, job in coding.items()}
            for name, frame in zip(
                self.cameras, rows.arrays["frames"][slot, 0].tolist(), strict=True
            ):
                self.lanes[f"images/{name}"].release(frame)
            self._row(episode, slot, coded)
            rows.release(number)

    def _row(self, episode: FlightEpisode, slot: int, coded: dict[str, bytes]) -> None:
        arrays = self.lanes["rows"].arrays
        said = dict(zip(NUMBERS, arrays["numbers"][slot].tolist(), strict=True))
        due, sent = arrays["actions"][slot]
        sent = np.where(np.isfinite(sent), sent, 0).astype(np.float32)
        numbers: dict[str, Any] = {
            "state": self._finite(episode, "state", arrays["state"][slot]),
            # Where nothing (or nothing sane) was wanted, what was done; `source` and `gate` tell.
            "action": due if np.isfinite(due).all() else sent,
            "action_sent": sent,
            "joint_position_rad": self._finite(episode, "joints", arrays["joints"][slot]),
            "time_ns": said["woke_ns"],
            "chunk_number": said["chunk"],
            "instruction_number": said["instruction"],
            "robot_success": said["success"],
            **{name: said[name] for name in _SAME_NAMES},
            **{
                f"{name}_time_ns": captured_ns
                for name, captured_ns in zip(
                    self.cameras, arrays["frames"][slot, 1].tolist(), strict=True
                )
            },
        }
        episode.note(self.store.steps, said["source"], said["instruction"])
        self._guarded(self.store.add_step, numbers, coded)
        if self.live is not None:
            self.live.tick(numbers, coded)

    def _finite(self, episode: FlightEpisode, name: str, row: np.ndarray) -> np.ndarray:
        """The row, or the last one that was a measurement: a store holds no NaN."""
        last = self.last_finite[name]
        if np.isfinite(row).all():
            last[...] = row
        else:
            episode.invalid_states += 1
        return last

    def _guarded(self, store: Any, *arguments: Any) -> None:
        """Store something; a full disk costs the episode, not the recorder."""
        episode = self.episode
        assert episode is not None
        if episode.problem:
            return
        try:
            store(*arguments)
        except OSError as error:
            self.store.discard()
            episode.problem = str(self.store.writer.not_stored(episode.seed, error))

    def _finish(
        self, success: bool | None, info: Mapping[str, Any], marks: Marks, interrupted=False
    ) -> None:
        episode = self.episode
        assert episode is not None
        self.episode = None
        steps = self.store.steps
        uid, problem = "", episode.problem
        if steps == 0 and not problem:
            problem = f"the episode of seed {episode.seed} ended before its first tick"
        labels = {**episode.labels(marks, interrupted), **info}
        if not problem:
            try:
                uid = self.store.finish(
                    episode.instruction,
                    self.config.task,
                    episode.seed,
                    success,
                    labels,
                    episode.subgoals(steps),
                )
            except (OSError, ValueError) as error:
                problem = str(error)
        self.store.discard()
        if self.live is not None:
            self.live.end(success, labels)
        flight = Flight(
            episode.seed,
            uid,
            steps,
            int(labels["dropped_images"]),
            int(labels["dropped_ticks"]),
            interrupted,
            problem,
        )
        try:
            self.connection.send(("flight", flight))
        except (BrokenPipeError, ConnectionResetError):
            pass  # nobody is left to be told; the episode is in the store


_SAME_NAMES = (
    "tick",
    "scheduled_ns",
    "sent_ns",
    "observation_ns",
    "state_time_ns",
    "observation_tick",
    "observation_version",
    "action_index",
    "inference_delay",
    "gate",
    "source",
)
