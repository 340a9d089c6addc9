"""The plan of an arm whose pictures are old, whose ticks get lost and whose gate refuses: against a
brute-force account of which actions were really consumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from ulna.envs.chunk_execution import (
    STARVED,
    WAITING,
    ChunkExecution,
    ExecutionConfig,
    Mode,
)


def chunk_of(tick: int, horizon: int) -> np.ndarray:
    """Entry 0 names the observation, entry 1 the action number: a chunk that says who it is."""
    return np.stack([np.full(horizon, tick), np.arange(horizon)], axis=1).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_action_is_the_one_brute_force_finds(data: st.DataObject):
    horizon = data.draw(st.integers(2, 20), label="horizon")
    execution = data.draw(st.integers(1, horizon), label="execution_horizon")
    modes: list[Mode] = ["asynchronous", "synchronous", "hold"]
    mode = data.draw(st.sampled_from(modes), label="mode")
    age = data.draw(st.integers(0, 4), label="observation age")
    delays = data.draw(st.lists(st.integers(0, 25), min_size=60, max_size=60), label="delays")
    gaps = data.draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 5]), min_size=60, max_size=60))
    refusals = data.draw(st.sets(st.integers(0, 120), max_size=12), label="held by the gate")
    schedule = ChunkExecution(ExecutionConfig(mode, execution, delay_margin=1))

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
            if mode != "asynchronous" and plan is not None:
                assert all(t < observation_tick for t in moved), "must have seen its last action"
            schedule.requested(tick, observation_tick)
            pending = (tick + delay, observation_tick)

        limit = execution if mode != "asynchronous" else horizon
        action = schedule.due(tick)
        index = schedule.index
        assert (action is None) == (index < 0)
        if plan is None:
            assert index == WAITING
            waited += 1
        elif (expected := consumed_since(plan)) >= limit:
            assert index == (WAITING if mode != "asynchronous" else STARVED)
            waited += mode != "asynchronous"
            starved += mode == "asynchronous"
        else:
            assert index == expected
            assert action is not None and action.tolist() == [plan, expected]
        moves = index >= 0 and tick not in refusals
        if moves:
            moved.append(tick)
        schedule.sent(tick, moves)
        tick += gap
    assert (schedule.starved, schedule.waited, schedule.expired) == (starved, waited, expired)
    assert len(schedule.consumed_delays) == replaced


@given(delay=st.integers(1, 6), age=st.integers(0, 2))
def test_a_running_plan_follows_the_tick_law(delay: int, age: int):
    """With nothing held, action number = tick - observation tick, and the delay is that of
    consumed actions."""
    horizon, execution = 16, 8
    schedule = ChunkExecution(ExecutionConfig("asynchronous", execution, delay_margin=1))
    pending = None
    for tick in range(200):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], horizon))
            pending = None
        if schedule.wants_observation(tick, tick - age):
            schedule.requested(tick, tick - age)
            pending = (tick + delay, tick - age)
        action = schedule.due(tick)
        if action is not None and schedule.chunk_number >= 1:
            assert schedule.index == action[1] == tick - action[0]
        schedule.sent(tick, action is not None)
    assert set(schedule.consumed_delays) == set(schedule.delays) == {delay + age}
    assert schedule.starved == 0
    assert schedule.waited == delay, "only before the first chunk"


@given(delay=st.integers(1, 6), age=st.integers(0, 2))
def test_synchronous_chunks_are_executed_from_their_first_action(delay: int, age: int):
    schedule = ChunkExecution(ExecutionConfig("synchronous", 5, delay_margin=1))
    pending, sent = None, []
    for tick in range(100):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], 8))
            pending = None
        if schedule.wants_observation(tick, tick - age):
            schedule.requested(tick, tick - age)
            pending = (tick + delay, tick - age)
        if schedule.due(tick) is not None:
            sent.append(schedule.index)
        schedule.sent(tick, schedule.index >= 0)
    assert sent == [k % 5 for k in range(len(sent))] and len(sent) > 20
    assert set(schedule.consumed_delays) == {0} and schedule.starved == 0


def test_it_asks_before_the_plan_runs_out():
    """An execution horizon as long as the chunk leaves no time to think: the threshold of
    measured delays asks earlier."""
    schedule = ChunkExecution(ExecutionConfig("asynchronous", 16, delay_margin=1))
    pending, starved_early = None, 0
    for tick in range(400):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], 16))
            pending = None
        if schedule.wants_observation(tick, tick):
            schedule.requested(tick, tick)
            pending = (tick + 5, tick)
        schedule.sent(tick, schedule.due(tick) is not None)
        if tick == 60:
            starved_early = schedule.starved
    assert schedule.starved == starved_early, "it did not learn how slow the policy is"


def test_starving_holds_and_is_counted():
    schedule = ChunkExecution(ExecutionConfig("asynchronous", 2, delay_margin=1))
    assert schedule.wants_observation(0, 0)
    schedule.requested(0, 0)
    assert schedule.due(0) is None and schedule.index == WAITING
    schedule.sent(0, False)
    schedule.arrived(1, 0, chunk_of(0, 4))
    for tick in range(1, 5):
        assert (
            schedule.due(tick) is not None and schedule.index == tick - 1
        )  # the first chunk starts at its first action
        schedule.sent(tick, True)
    for tick in range(5, 9):
        assert schedule.due(tick) is None and schedule.index == STARVED
        schedule.sent(tick, False)
    assert (schedule.starved, schedule.waited) == (4, 1)
    schedule.reset()
    assert (schedule.starved, schedule.waited, schedule.chunk_number) == (0, 0, -1)
    assert schedule.due(0) is None and schedule.index == WAITING


def test_a_plan_that_is_held_for_long_is_asked_for_anew():
    modes: tuple[Mode, ...] = ("asynchronous", "synchronous")
    for mode in modes:
        schedule = ChunkExecution(ExecutionConfig(mode, 4, delay_margin=1))
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
    schedule = ChunkExecution(ExecutionConfig("asynchronous", 1, delay_margin=1))
    schedule.requested(0, 0)
    schedule.sent(0, False)
    schedule.arrived(1, 0, chunk_of(0, 8))
    schedule.sent(1, True)
    assert not schedule.wants_observation(2, 0)
    assert schedule.wants_observation(2, 1)


def test_refusals():
    with pytest.raises(ValueError, match="execution_horizon 9 is longer than the policy's chunk"):
        ExecutionConfig("asynchronous", 9).require_horizon(8)
    config.update("jaxtyping_disable", True)  # what users without type checks get
    try:
        with pytest.raises(ValueError, match="Did you mean 'synchronous'"):
            ExecutionConfig("synchronos")  # pyright: ignore[reportArgumentType]
    finally:
        config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="delay_margin -1"):
        ExecutionConfig(delay_margin=-1)
    with pytest.raises(ValueError, match="max_delay is -2"):
        ExecutionConfig(max_delay=-2)
    schedule = ChunkExecution(ExecutionConfig())
    with pytest.raises(ValueError, match="only answers to the open request"):
        schedule.arrived(3, 1, chunk_of(1, 8))


# ------------------------------------------------------------------ other hands


def test_after_others_had_the_arm_the_policy_is_asked_of_a_new_picture():
    schedule = ChunkExecution(ExecutionConfig("asynchronous", 4))
    schedule.requested(0)
    schedule.arrived(1, 0, chunk_of(0, 8))
    schedule.sent(1, schedule.due(1) is not None)
    schedule.requested(2)
    schedule.forget(10)
    assert not schedule.expects(2) and schedule.due(10) is None and schedule.index == WAITING
    assert not schedule.wants_observation(11, 9), "a picture from before the release"
    assert schedule.wants_observation(12, 10) and schedule.starved == 0
    assert schedule.requested(12, 10) == (None, 0)
    schedule.arrived(14, 10, chunk_of(10, 8))
    action = schedule.due(14)
    assert action is not None and action.tolist() == [10, 0]


def test_other_words_are_asked_for_at_once_while_the_plan_runs_on():
    schedule = ChunkExecution(ExecutionConfig("asynchronous", 8))
    schedule.requested(0)
    schedule.arrived(0, 0, chunk_of(0, 16))
    schedule.sent(0, schedule.due(0) is not None)
    assert not schedule.wants_observation(1)
    schedule.ask_anew()
    assert schedule.wants_observation(1) and schedule.due(1) is not None


def test_looking_ahead():
    schedule = ChunkExecution(ExecutionConfig("synchronous", 3))
    schedule.requested(0)
    schedule.arrived(0, 0, chunk_of(0, 8))
    schedule.sent(0, schedule.due(0) is not None)
    assert schedule.due(1) is not None
    ahead = [schedule.upcoming(k) for k in range(3)]
    assert [None if a is None else a[1] for a in ahead] == [1, 2, None], "only what will be done"
