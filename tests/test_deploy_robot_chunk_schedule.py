"""The schedule against a brute-force account of which actions were really consumed."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from ulna.deploy_robot.chunk_schedule import STARVED, WAITING, ChunkSchedule, ScheduleConfig


def chunk_of(tick: int, horizon: int) -> np.ndarray:
    """Entry 0 names the observation, entry 1 the action number: a chunk that says who it is."""
    return np.stack([np.full(horizon, tick), np.arange(horizon)], axis=1).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_action_is_the_one_brute_force_finds(data: st.DataObject):
    horizon = data.draw(st.integers(2, 20), label="horizon")
    execution = data.draw(st.integers(1, horizon), label="execution_horizon")
    modes: list[Literal["asynchronous", "synchronous"]] = ["asynchronous", "synchronous"]
    mode = data.draw(st.sampled_from(modes), label="mode")
    age = data.draw(st.integers(0, 4), label="observation age")
    delays = data.draw(st.lists(st.integers(0, 25), min_size=60, max_size=60), label="delays")
    gaps = data.draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 5]), min_size=60, max_size=60))
    refusals = data.draw(st.sets(st.integers(0, 120), max_size=12), label="held by the gate")
    schedule = ChunkSchedule(ScheduleConfig(mode, execution), horizon, 2)

    moved: list[int] = []  # ticks on which an action was consumed
    plan: int | None = None  # tick of the observation of the plan in use
    pending: tuple[int, int] | None = None  # (due tick, observation tick)
    starved = waited = expired = replaced = 0
    tick = 0

    def consumed_since(observation_tick: int) -> int:
        return sum(t >= observation_tick for t in moved)

    for delay, gap in zip(delays, gaps, strict=True):
        if pending is not None and tick >= pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], horizon))
            if consumed_since(pending[1]) < horizon:
                replaced += plan is not None
                plan = pending[1]
            else:
                expired += 1
            pending = None
        observation_tick = tick - age
        wants = schedule.wants_observation(tick, observation_tick)
        assert not (wants and pending), "one question at a time"
        if wants:
            if mode == "synchronous" and plan is not None:
                assert all(t < observation_tick for t in moved), "must have seen its last action"
            schedule.requested(tick, observation_tick)
            pending = (tick + delay, observation_tick)

        limit = execution if mode == "synchronous" else horizon
        index = schedule.due(tick)
        if plan is None:
            assert index == WAITING
            waited += 1
        elif (expected := consumed_since(plan)) >= limit:
            assert index == (WAITING if mode == "synchronous" else STARVED)
            waited += mode == "synchronous"
            starved += mode == "asynchronous"
        else:
            assert index == expected
            assert schedule.action(index).tolist() == [plan, expected]
        moves = index >= 0 and tick not in refusals
        if moves:
            moved.append(tick)
        schedule.sent(tick, moves)
        tick += gap
    assert (schedule.starved, schedule.waited, schedule.expired) == (starved, waited, expired)
    assert len(schedule.delays) == replaced


@given(delay=st.integers(1, 6), age=st.integers(0, 2))
def test_a_running_plan_follows_the_tick_law(delay: int, age: int):
    """With nothing held, action number = tick - observation tick, and the delay is that of
    consumed actions."""
    horizon, execution = 16, 8
    schedule = ChunkSchedule(ScheduleConfig("asynchronous", execution), horizon, 2)
    pending = None
    for tick in range(200):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], horizon))
            pending = None
        if schedule.wants_observation(tick, tick - age):
            schedule.requested(tick, tick - age)
            pending = (tick + delay, tick - age)
        index = schedule.due(tick)
        if schedule.chunk_number >= 1:
            assert index == tick - schedule.action(0)[0]
        schedule.sent(tick, index >= 0)
    assert set(schedule.delays) == {delay + age}
    assert schedule.starved == 0
    assert schedule.waited == delay, "only before the first chunk"


@given(delay=st.integers(1, 6), age=st.integers(0, 2))
def test_synchronous_chunks_are_executed_from_their_first_action(delay: int, age: int):
    schedule = ChunkSchedule(ScheduleConfig("synchronous", 5), 8, 2)
    pending, sent = None, []
    for tick in range(100):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], 8))
            pending = None
        if schedule.wants_observation(tick, tick - age):
            schedule.requested(tick, tick - age)
            pending = (tick + delay, tick - age)
        index = schedule.due(tick)
        if index >= 0:
            sent.append(index)
        schedule.sent(tick, index >= 0)
    assert sent == [k % 5 for k in range(len(sent))] and len(sent) > 20
    assert set(schedule.delays) == {0} and schedule.starved == 0


def test_it_asks_before_the_plan_runs_out():
    """An execution horizon as long as the chunk leaves no time to think: the threshold of
    measured delays asks earlier."""
    schedule = ChunkSchedule(ScheduleConfig("asynchronous", 16), 16, 2)
    pending, starved_early = None, 0
    for tick in range(400):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], 16))
            pending = None
        if schedule.wants_observation(tick, tick):
            schedule.requested(tick, tick)
            pending = (tick + 5, tick)
        schedule.sent(tick, schedule.due(tick) >= 0)
        if tick == 60:
            starved_early = schedule.starved
    assert schedule.starved == starved_early, "it did not learn how slow the policy is"


def test_starving_holds_and_is_counted():
    schedule = ChunkSchedule(ScheduleConfig("asynchronous", 2), 4, 2)
    assert schedule.wants_observation(0, 0)
    schedule.requested(0, 0)
    assert schedule.due(0) == WAITING
    schedule.sent(0, False)
    schedule.arrived(1, 0, chunk_of(0, 4))
    for tick in range(1, 5):
        assert schedule.due(tick) == tick - 1  # the first chunk starts at its first action
        schedule.sent(tick, True)
    for tick in range(5, 9):
        assert schedule.due(tick) == STARVED
        schedule.sent(tick, False)
    assert (schedule.starved, schedule.waited) == (4, 1)
    schedule.reset()
    assert (schedule.starved, schedule.waited, schedule.chunk_number) == (0, 0, -1)
    assert schedule.due(0) == WAITING


def test_a_plan_that_is_held_for_long_is_asked_for_anew():
    for mode in ("asynchronous", "synchronous"):
        schedule = ChunkSchedule(ScheduleConfig(mode, 4), 8, 2)
        schedule.requested(0, 0)
        schedule.sent(0, False)
        schedule.arrived(1, 0, chunk_of(0, 8))
        asked = []
        for tick in range(1, 12):
            if schedule.wants_observation(tick, tick):
                asked.append(tick)
                break
            schedule.due(tick)
            schedule.sent(tick, False)  # the gate refuses every time
        assert asked, f"{mode}: an arm held by the gate would never get a new plan"


def test_the_same_picture_is_not_looked_at_twice():
    schedule = ChunkSchedule(ScheduleConfig("asynchronous", 1), 8, 2)
    schedule.requested(0, 0)
    schedule.sent(0, False)
    schedule.arrived(1, 0, chunk_of(0, 8))
    schedule.sent(1, True)
    assert not schedule.wants_observation(2, 0)
    assert schedule.wants_observation(2, 1)


def test_refusals():
    with pytest.raises(ValueError, match="execution_horizon 9 is longer than the policy's chunk"):
        ChunkSchedule(ScheduleConfig("asynchronous", 9), 8, 2)
    config.update("jaxtyping_disable", True)  # what users without type checks get
    try:
        with pytest.raises(ValueError, match="Did you mean 'synchronous'"):
            ScheduleConfig("synchronos")  # pyright: ignore[reportArgumentType]
    finally:
        config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="at least 1"):
        ScheduleConfig(execution_horizon=0)
    schedule = ChunkSchedule(ScheduleConfig(), 8, 2)
    with pytest.raises(ValueError, match="only answers to the request that is open"):
        schedule.arrived(3, 1, chunk_of(1, 8))
