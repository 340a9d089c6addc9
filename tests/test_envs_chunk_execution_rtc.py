"""Real-time chunking by tick index: what the policy is told is what is done."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig


def chunk_of(tick: int, horizon: int) -> np.ndarray:
    """Entry 0 names the observation, entry 1 the action number: a chunk that says who it is."""
    return np.stack([np.full(horizon, tick), np.arange(horizon)], axis=1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_planned_is_what_is_done_and_no_chunk_joins_too_late(data: st.DataObject):
    """The policy is told the actions from its picture's tick on. Those before the delay it is told
    are sent exactly so, and a chunk that continues fewer than were done is left aside."""
    horizon = data.draw(st.integers(4, 16), label="horizon")
    execution = data.draw(st.integers(1, horizon), label="execution_horizon")
    age = data.draw(st.integers(0, 4), label="observation age")
    delays = data.draw(st.lists(st.integers(0, 6), min_size=80, max_size=80), label="delays")
    refusals = data.draw(st.sets(st.integers(0, 80), max_size=8), label="held by the gate")
    schedule = ChunkExecution(ExecutionConfig("rtc", execution, delay_margin=1))
    done: list[tuple[int, list[float]]] = []  # (tick, action)
    pending = None
    for tick, delay in enumerate(delays):
        if pending is not None and tick >= pending[0]:
            _, seen, planned, told = pending
            since = [action for t, action in done if t >= seen]
            number, running = schedule.chunk_number, schedule.remaining > 0
            schedule.arrived(tick, seen, chunk_of(seen, horizon))
            taken = schedule.chunk_number != number
            if taken and running:
                assert len(since) <= told
            if planned is not None:
                joined = min(told, len(since))
                assert since[:joined] == planned[:joined].tolist()
            elif running:
                raise AssertionError("a plan was running and the policy was not told")
            pending = None
        if schedule.wants_observation(tick, tick - age):
            planned, told = schedule.requested(tick, tick - age)
            if planned is not None:
                assert 0 <= told <= len(planned)
                before = [action for t, action in done if t >= tick - age]
                assert planned[: len(before)].tolist() == before
            pending = (tick + delay, tick - age, planned, told)
        action = schedule.due(tick)
        moves = action is not None and tick not in refusals
        if moves:
            assert action is not None
            done.append((tick, action.tolist()))
        schedule.sent(tick, moves, action)
    assert done


def test_the_delay_is_that_of_the_last_eight_answers_and_a_spike_is_forgotten():
    schedule = ChunkExecution(ExecutionConfig("rtc", 4))
    pending, told_delays, outdated = None, [], []
    for tick in range(200):
        if pending and tick == pending[0]:
            schedule.arrived(tick, pending[1], chunk_of(pending[1], 40))
            pending = None
        if schedule.wants_observation(tick):
            _, told = schedule.requested(tick)
            told_delays.append(told)
            outdated.append(schedule.outdated)
            # One answer takes 20 ticks, all others 3.
            pending = (tick + (20 if len(told_delays) == 5 else 3), tick)
        action = schedule.due(tick)
        schedule.sent(tick, action is not None, action)
    assert told_delays[1:5] == [3] * 4
    assert schedule.outdated == 1, "the late chunk does not join what was done meanwhile"
    # The plan has 16 actions left at first: more cannot be done meanwhile.
    assert told_delays[5:13] == [16] + [20] * 7 and set(told_delays[13:]) == {3}
    assert schedule.starved == 0 and schedule.inference_delay == 3


def test_a_policy_is_not_told_more_than_it_was_taught():
    schedule = ChunkExecution(ExecutionConfig("rtc", 4, max_delay=2))
    schedule.requested(0)
    schedule.sent(0, False)
    schedule.arrived(5, 0, chunk_of(0, 16))
    schedule.sent(5, schedule.due(5) is not None)
    planned, told = schedule.requested(6)
    assert told == 2 and planned is not None and len(planned) == 15


def test_a_chunk_that_is_too_late_for_its_plan_is_better_than_none():
    """Once the plan ran out there is nothing to keep executing."""
    schedule = ChunkExecution(ExecutionConfig("rtc", 1, max_delay=0))
    schedule.requested(0)
    schedule.arrived(0, 0, chunk_of(0, 4))
    schedule.sent(0, schedule.due(0) is not None)
    schedule.requested(1)
    for tick in range(1, 5):
        schedule.sent(tick, schedule.due(tick) is not None)
    schedule.arrived(5, 1, chunk_of(1, 4))
    action = schedule.due(5)
    assert action is not None and action.tolist() == [1, 3] and schedule.outdated == 0
