"""The flight recorder: every observation, chunk, decision and command of the arm, into a store.

    control loop --tick(), chunk()--> shared memory --flight_process.py--> Zarr store, live view
                    copies, never waits                  its own process

It is a `LoopWatcher` (`orders.py`). A tick costs one copy of the frames that are new; if the
recorder process falls behind, frames are dropped first, and the episode's `info` says how many.
If the control process dies, the recorder stores what had come and marks it `interrupted`.

        recorder = FlightRecorder(FlightConfig("flights.zarr"), robot.embodiment, horizon)
        recorder.begin_episode(seed, instruction)
        control_episode(..., operator=recorder.listen(operator), watcher=recorder)
        recorder.end_episode(success, outcome)
        print(recorder.close())

Only numpy and the standard library are imported here: this is part of the control process.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .flight_lanes import TEXT_BYTES, Flight, FlightConfig, lane_forms
from .flight_ring import FlightRing
from .orders import Operator, Orders, TickRecord
from .processes import await_message, encode, start_process, tell
from .robot import RobotState

START_TIMEOUT_S = 60.0


class FlightRecorder:
    """Records what the control loop does. All methods from one thread; none of `tick`, `chunk` and
    `instruct` waits, whatever the recorder process does."""

    def __init__(
        self,
        config: FlightConfig,
        embodiment: Embodiment,
        horizon: int,
        control_hz: float | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`control_hz`: of the ticks; None: the embodiment's own. Returns once the recorder process
        is ready. Raises ValueError for a store that cannot take these flights."""
        if control_hz is not None and control_hz != embodiment.control_hz:
            embodiment = replace(embodiment, control_hz=float(control_hz))
        self.embodiment = embodiment
        self.flights: list[Flight] = []
        """Those that are known to be stored, or lost."""
        self._now_ns = now_ns
        self._cameras = [camera.name for camera in embodiment.cameras]
        self._ring = FlightRing(lane_forms(config, embodiment, horizon))
        lanes = self._ring.lanes
        self._rows, self._chunks, self._texts = lanes["rows"], lanes["chunks"], lanes["texts"]
        self._frames = [(name, lanes[f"images/{name}"]) for name in self._cameras]
        self._kept = np.zeros((2, len(self._cameras)), np.int64)
        self._seen_ns = [-1] * len(self._cameras)
        self._instruction = 0
        self._running = False
        self._open: list[int] = []  # seeds of the episodes nobody has told us about yet
        # Imports the store and its codecs, which the control process has no use for.
        self._process, self._connection = start_process(
            _record_flights,
            (config, embodiment, horizon),
            "flight recorder",
            {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        self._there, self._last_words, self._closed = True, "", False
        try:
            self._ring.send(self._connection)
            await_message(self._process, self._connection, "ready", START_TIMEOUT_S)
        except BaseException:
            self._end(grace_s=1.0)
            raise

    @property
    def alive(self) -> bool:
        """Whether anything is still being recorded; the arm moves either way."""
        return self._there and self._process.is_alive()

    def begin_episode(
        self,
        seed: int,
        instruction: str,
        info: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Before the loop begins. Waits up to two seconds for an earlier episode's frames, so that
        they do not cost this one its own."""
        if self._running:
            raise ValueError("an episode is being recorded; call end_episode first")
        deadline = time.monotonic() + 2.0
        while self._behind() and self.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        self._hear()
        self._running = True
        self._open.append(seed)
        self._instruction = 0
        self._seen_ns = [-1] * len(self._cameras)
        self._kept[:] = 0
        self._tell("begin", (seed, instruction, dict(info or {}), self._marks()))

    def tick(self, record: TickRecord, state: RobotState) -> None:
        """One control tick: `LoopWatcher`."""
        self._instruction = record.instruction
        kept = self._kept
        times = state.image_time_ns
        for camera, (name, lane) in enumerate(self._frames):
            captured_ns = int(times[camera])
            if captured_ns == self._seen_ns[camera]:
                continue
            self._seen_ns[camera] = captured_ns
            slot = lane.claim()
            if slot >= 0:
                lane.arrays["frame"][slot] = state.images[name]
                kept[0, camera] = lane.publish()
                kept[1, camera] = captured_ns
        rows = self._rows
        slot = rows.claim()
        if slot < 0:
            return
        arrays = rows.arrays
        arrays["numbers"][slot] = (
            record.tick,
            record.scheduled_ns,
            record.woke_ns,
            record.sent_ns,
            state.time_ns,
            record.observation_time_ns,
            record.observation_tick,
            record.observation_version,
            record.chunk,
            record.action_index,
            record.inference_delay,
            record.gate,
            record.source,
            record.instruction,
            state.success,
        )
        arrays["state"][slot] = state.state
        arrays["joints"][slot] = state.joint_position_rad
        arrays["frames"][slot] = kept
        actions = arrays["actions"][slot]
        due, sent = record.action_due, record.action_sent
        # One of another shape was refused by the gate, which says so in the row.
        actions[0] = due if due.shape == actions[0].shape else np.nan
        actions[1] = sent if sent.shape == actions[1].shape else np.nan
        rows.publish()

    def chunk(
        self, tick: int, observation_tick: int, chunk: Float[np.ndarray, "horizon action_dim"]
    ) -> None:
        """A chunk that came: `LoopWatcher`."""
        lane = self._chunks
        slot = lane.claim()
        if slot < 0:
            return
        place = lane.arrays["chunk"][slot]
        place[...] = chunk if chunk.shape == place.shape else np.nan
        lane.arrays["numbers"][slot] = tick, observation_tick, self._now_ns()
        lane.publish()

    def instruct(self, text: str) -> None:
        """The instruction changed: in the next tick `TickRecord.instruction` is one higher."""
        slot = self._texts.claim()
        if slot < 0:
            return
        data = np.frombuffer(_cut(text), np.uint8)
        self._texts.arrays["number"][slot] = self._instruction + 1, len(data)
        self._texts.arrays["text"][slot, : len(data)] = data
        self._texts.publish()

    def listen(self, operator: Operator) -> Operator:
        """The same operator; what he says on the way is recorded as new instructions."""
        return _Listened(operator, self)

    def end_episode(
        self,
        success: bool | None,
        outcome: str,
        info: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """After the loop. Returns at once; `flights` and `close` tell what came of it."""
        if not self._running:
            raise ValueError("no episode is being recorded; call begin_episode first")
        self._running = False
        labels = {**(info or {}), "outcome": outcome}
        self._tell("finish", (success, labels, self._marks()))
        self._hear()

    def close(self, timeout_s: float = 60.0) -> list[Flight]:
        """Wait until everything is stored; an episode that was not ended is stored as interrupted.
        Gives all flights. Safe to call twice."""
        if not self._closed:
            self._tell("end", None)
            deadline = time.monotonic() + timeout_s
            while self._process.is_alive() and time.monotonic() < deadline:
                self._hear()
                time.sleep(0.005)
            self._hear()
            self._end(grace_s=2.0)
        return self.flights

    def _behind(self) -> bool:
        return any(lane.waiting > lane.capacity // 2 for _, lane in self._frames)

    def _marks(self) -> dict[str, tuple[int, int]]:
        """How far each lane is: records put, records lost."""
        return {name: (lane.put, lane.lost) for name, lane in self._ring.lanes.items()}

    def _tell(self, kind: str, value: object) -> None:
        self._there = self._there and tell(self._connection, encode((kind, value)))

    def _hear(self) -> None:
        """What the recorder process has to say; never waits."""
        try:
            while self._connection.poll(0):
                kind, value = self._connection.recv()
                if kind == "flight":
                    self.flights.append(value)
                    self._open.remove(value.seed)
                elif kind == "crashed":
                    self._last_words = value
        except (EOFError, ConnectionResetError):
            self._there = False

    def _end(self, grace_s: float) -> None:
        self._there, self._closed = False, True
        process = self._process
        process.join(grace_s)
        said = self._last_words or f"the recorder process ended, exit code {process.exitcode}"
        self.flights += [Flight(seed, "", 0, 0, 0, True, said) for seed in self._open]
        self._open.clear()
        for insist in (process.terminate, process.kill):
            if process.is_alive():
                insist()
                process.join(grace_s)
        self._connection.close()
        self._ring.close()


class _Listened:
    """An operator whose words are written down."""

    def __init__(self, operator: Operator, recorder: FlightRecorder) -> None:
        self._operator = operator
        self._recorder = recorder

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        orders = self._operator.poll(now_ns, state)
        if orders.instruction is not None:
            self._recorder.instruct(orders.instruction)
        return orders


def _cut(text: str) -> bytes:
    data = text.encode()
    return data if len(data) <= TEXT_BYTES else data[:TEXT_BYTES].decode(errors="ignore").encode()


def _record_flights(connection, config: FlightConfig, embodiment: Embodiment, horizon: int) -> None:
    from .flight_process import record_flights

    record_flights(connection, config, embodiment, horizon)
