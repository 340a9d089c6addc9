"""The flight recorder: all of a flight is in the store, whoever dies, and no tick waits for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flight_fakes import HORIZON, PERIOD_NS, START_NS, Loop, chunk, embodiment, shade

from ulna.datasets.gather import WindowGather, WindowSpec
from ulna.datasets.schema import Subgoal
from ulna.datasets.store import Store
from ulna.datasets.verify import verify
from ulna.datasets.view import write_page
from ulna.deploy_robot.flight_lanes import Flight, FlightConfig
from ulna.deploy_robot.flight_recorder import FlightRecorder
from ulna.deploy_robot.orders import SOURCE_HOLD, SOURCE_OPERATOR, LoopWatcher, Orders

STEPS = 150
ROOT = Path(__file__).resolve().parents[1]


class Speaker:
    def __init__(self) -> None:
        self.said: str | None = None

    def poll(self, now_ns: int, state: object) -> Orders:
        return Orders(instruction=self.said)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[Flight]]]:
    """Two episodes: one with everything that can happen, one that is not ended."""
    path = tmp_path_factory.mktemp("flights") / "flights.zarr"
    config = FlightConfig(path, task="sort", frames_s=4.0)
    recorder = FlightRecorder(config, embodiment(), HORIZON, now_ns=lambda: START_NS)
    assert isinstance(recorder, LoopWatcher)
    loop, speaker = Loop(), Speaker()
    operator = recorder.listen(speaker)
    recorder.begin_episode(3, "sort the cubes", {"run": "morning"})
    for tick in range(STEPS):
        if tick % HORIZON == 0:
            recorder.chunk(tick, tick - 1, chunk(tick))
        record, state = loop.tick(tick)
        speaker.said = {60: "only the rote ones", 100: "stop it, größer"}.get(tick)
        said = operator.poll(0, state).instruction
        assert said == speaker.said
        record.instruction = (tick >= 60) + (tick >= 100)
        if 20 <= tick < 30 or 40 <= tick < 45:
            record.source = SOURCE_OPERATOR
        if tick == 50:
            record.source, record.gate = SOURCE_HOLD, 8
            record.action_due[:] = np.nan
        if tick == 70:
            record.gate = 16
            record.action_due[0] = np.inf
        if tick == 80:
            state.state[1] = np.nan
        recorder.tick(record, state)
    recorder.end_episode(True, "sorted", {"note": "by hand"})
    recorder.begin_episode(4, "again")
    for tick in range(9):
        recorder.tick(*loop.tick(tick))
    told = recorder.close()
    yield Store.open(path), told
    assert recorder.close() == told


def test_every_number_of_every_tick_is_there(flights: tuple[Store, list[Flight]]) -> None:
    store, told = flights
    index = [record.seed for record in store.episodes].index(3)
    record = store.episodes[index]
    assert (record.steps, record.success, record.task) == (STEPS, True, "sort")
    assert record.instruction == "sort the cubes"
    assert [(f.seed, f.steps, f.problem) for f in told] == [(3, STEPS, ""), (4, 9, "")]
    assert told[0].uid == record.uid
    steps = np.arange(STEPS)
    wanted = np.stack([np.sin(steps), np.cos(steps), np.ones(STEPS)], 1).astype(np.float32)
    sent = wanted / 2
    wanted[[50, 70]] = sent[[50, 70]]  # nothing sane was wanted there
    np.testing.assert_array_equal(store.read("action_sent", index), sent)
    np.testing.assert_array_equal(store.read("action", index), wanted)
    state = np.stack([0.01 * steps, -0.01 * steps, steps % 2], 1).astype(np.float32)
    state[80] = state[79]
    np.testing.assert_array_equal(store.read("state", index), state)
    np.testing.assert_array_equal(
        store.read("joint_position_rad", index), np.stack([0.1 * steps, np.ones(STEPS)], 1)
    )
    scheduled = START_NS + steps * PERIOD_NS
    np.testing.assert_array_equal(store.read("scheduled_ns", index), scheduled)
    np.testing.assert_array_equal(store.read("time_ns", index), scheduled + 50)
    np.testing.assert_array_equal(store.read("sent_ns", index), scheduled + 900)
    np.testing.assert_array_equal(store.read("state_time_ns", index), scheduled - 1_000_000)
    np.testing.assert_array_equal(store.read("tick", index), steps)
    np.testing.assert_array_equal(store.read("observation_tick", index), steps - 1)
    np.testing.assert_array_equal(store.read("chunk_number", index), steps // HORIZON)
    np.testing.assert_array_equal(store.read("action_index", index), steps % HORIZON)
    gate, source = store.read("gate", index), store.read("source", index)
    assert gate[50] == 8 and gate[70] == 16 and np.count_nonzero(gate) == 2
    assert source[50] == SOURCE_HOLD
    assert np.flatnonzero(source == SOURCE_OPERATOR).tolist() == [*range(20, 30), *range(40, 45)]


def test_frames_are_those_of_their_capture_times(flights: tuple[Store, list[Flight]]) -> None:
    store, _ = flights
    index = [record.seed for record in store.episodes].index(3)
    steps = np.arange(STEPS)
    scheduled = START_NS + steps * PERIOD_NS
    np.testing.assert_array_equal(store.read("front_time_ns", index), scheduled - 2_000_000)
    third = START_NS + steps // 3 * 3 * PERIOD_NS - 3_000_000
    np.testing.assert_array_equal(store.read("wrist_time_ns", index), third)
    front, wrist = store.read("images/front", index), store.read("images/wrist", index)
    for step in range(STEPS):
        assert abs(int(front[step].mean()) - shade(step)) <= 2, f"frame of step {step}"
        assert abs(int(wrist[step].mean()) - shade(step // 3 * 3)) <= 2, f"frame of step {step}"


def test_chunks_are_a_sensor(flights: tuple[Store, list[Flight]]) -> None:
    store, _ = flights
    index = [record.seed for record in store.episodes].index(3)
    sensors = store.read_episode(index).sensors
    ticks = np.arange(0, STEPS, HORIZON)
    np.testing.assert_array_equal(sensors["chunk"].values, np.stack([chunk(int(t)) for t in ticks]))
    expected = np.stack([ticks, ticks - 1, 0 * ticks], 1)
    np.testing.assert_array_equal(sensors["chunk_facts"].values, expected)


def test_words_and_hands_of_the_operator_are_marked(flights: tuple[Store, list[Flight]]) -> None:
    store, _ = flights
    record = next(record for record in store.episodes if record.seed == 3)
    assert record.subgoals == (
        Subgoal(60, 100, "only the rote ones"),
        Subgoal(100, STEPS, "stop it, größer"),
    )
    info = record.info
    assert info["operator_steps"] == 15 and info["corrections"] == "20-30, 40-45"
    assert info["invalid_states"] == 1 and info["outcome"] == "sorted"
    assert info["run"] == "morning" and info["note"] == "by hand"
    assert info["dropped_images"] == info["dropped_ticks"] == info["dropped_chunks"] == 0
    assert info["interrupted"] is False


def test_an_episode_that_was_not_ended_is_stored_as_interrupted(
    flights: tuple[Store, list[Flight]],
) -> None:
    store, told = flights
    record = next(record for record in store.episodes if record.seed == 4)
    assert record.steps == 9 and record.success is None
    assert record.info["interrupted"] is True and told[1].interrupted
    assert record.subgoals == (), "a new episode begins with its own instruction"


def test_the_store_is_whole_can_be_looked_at_and_learnt_from(
    flights: tuple[Store, list[Flight]], tmp_path: Path
) -> None:
    store, _ = flights
    assert [p for p in verify(store) if p.severity != "note"] == []
    index = [record.seed for record in store.episodes].index(3)
    assert write_page(store, index, tmp_path / "page.html").stat().st_size > 10_000
    spec = WindowSpec(horizon=5, streams=("source",), language="subgoals")
    gather = WindowGather(store, spec, [index])
    batch = gather.gather(np.array([25, 65]), gather.buffers(2))
    assert batch.streams["source"].tolist() == [SOURCE_OPERATOR, 0]
    assert batch.instructions == ("sort the cubes", "only the rote ones")
    np.testing.assert_allclose(batch.action_chunk[0, :, 0], np.sin(np.arange(25, 30)), atol=1e-6)


def test_what_came_is_stored_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "flights.zarr"
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "flight_fakes.py"), str(path), "97"],
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30.0
    while not (store := Store.open(path)).episodes:
        assert time.monotonic() < deadline, "the recorder did not store the flight"
        time.sleep(0.05)
    record = store.episodes[0]
    assert (record.steps, record.seed, record.success) == (97, 7, None)
    assert record.info["interrupted"] is True
    assert [p for p in verify(store) if p.severity != "note"] == []
    np.testing.assert_array_equal(store.read("tick", 0), np.arange(97))
    assert abs(int(store.read("images/front", 0)[96].mean()) - shade(96)) <= 2
    assert len(store.read_episode(0).sensors["chunk"].values) == 25


def test_a_recorder_that_stands_still_costs_frames_not_ticks(tmp_path: Path) -> None:
    path = tmp_path / "flights.zarr"
    config = FlightConfig(path, frames_s=0.5)
    recorder = FlightRecorder(config, embodiment(), HORIZON)
    process = recorder._process.pid
    assert process is not None
    loop = Loop()
    recorder.begin_episode(0, "move")
    os.kill(process, signal.SIGSTOP)
    try:
        for tick in range(400):
            recorder.tick(*loop.tick(tick))
    finally:
        os.kill(process, signal.SIGCONT)
    recorder.end_episode(None, "none")
    (flight,) = recorder.close()
    # Room for 25 frames of each camera: 400 and 134 were given.
    assert (flight.steps, flight.dropped_ticks, flight.problem) == (400, 0, "")
    assert flight.dropped_images == 375 + 109
    store = Store.open(path)
    info = store.episodes[0].info
    assert (info["dropped_images_front"], info["dropped_images_wrist"]) == (375, 109)
    np.testing.assert_array_equal(store.read("tick", 0), np.arange(400))
    times = store.read("front_time_ns", 0)
    assert (times[24:] == times[24]).all(), "a repeated frame has the time of when it was taken"
    assert abs(int(store.read("images/front", 0)[399].mean()) - shade(24)) <= 2


def test_the_loop_goes_on_without_its_recorder(tmp_path: Path) -> None:
    recorder = FlightRecorder(FlightConfig(tmp_path / "a.zarr"), embodiment(), HORIZON)
    loop = Loop()
    recorder.begin_episode(0, "move")
    recorder.tick(*loop.tick(0))
    recorder._process.kill()
    recorder._process.join()
    assert not recorder.alive
    for tick in range(1, 50):
        recorder.tick(*loop.tick(tick))
        recorder.chunk(tick, tick, chunk(tick))
    recorder.end_episode(True, "moved")
    (flight,) = recorder.close()
    assert flight.seed == 0 and "exit code" in flight.problem and flight.uid == ""
    assert len(Store.open(tmp_path / "a.zarr").episodes) == 0


def test_a_store_of_another_arm_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path / "a.zarr", replace(embodiment(), name="other"))
    with pytest.raises(ValueError, match="name is 'two_eyes', there 'other'"):
        FlightRecorder(FlightConfig(tmp_path / "a.zarr"), embodiment(), HORIZON)


def test_a_rate_of_its_own_is_that_of_the_store(tmp_path: Path) -> None:
    recorder = FlightRecorder(
        FlightConfig(tmp_path / "a.zarr"), embodiment(), HORIZON, control_hz=25.0
    )
    assert recorder.close() == []
    assert Store.open(tmp_path / "a.zarr").embodiment.control_hz == 25.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="jpeg_quality 0"):
        FlightConfig("a.zarr", jpeg_quality=0)
