"""Deadlines do not drift, overruns skip, and what the kernel grants is told."""

import gc
import signal
import time

import numpy as np
import pytest

from ulna.deploy_robot.clock import MOST_LEAD_NS, FakeClock, MonotonicClock, Ticker
from ulna.deploy_robot.realtime import quiet_collector, wake_collector

PERIOD_NS = 50_000_000


def test_late_wakes_do_not_shift_later_deadlines():
    clock = FakeClock(oversleep_ns=(7_000_000, 0, 3_000_000, 0))
    ticker = Ticker(clock, 20.0, capacity=10)
    start = clock.now_ns() + 1_000
    ticker.start(start)
    for tick in range(1000):
        assert ticker.wait() == tick
        assert ticker.deadline_ns == start + tick * PERIOD_NS
    assert ticker.lateness_ns.tolist() == [7_000_000, 0, 3_000_000, 0] + [0] * 6
    assert ticker.skipped == 0 and clock.now_ns() == start + 999 * PERIOD_NS


def test_an_overrun_skips_and_never_bursts():
    clock = FakeClock()
    ticker = Ticker(clock, 20.0, capacity=10)
    ticker.start(clock.now_ns())
    assert ticker.wait() == 0
    clock.advance(2 * PERIOD_NS + 1)  # past deadlines 1 and 2
    assert ticker.wait() == 3
    assert ticker.skipped == 2
    clock.advance(PERIOD_NS)  # exactly at the next deadline: not missed
    assert ticker.wait() == 4
    assert ticker.skipped == 2
    assert ticker.lateness_ns.tolist() == [0, 0, 0]


def test_a_late_start_is_late_not_skipped():
    clock = FakeClock()
    ticker = Ticker(clock, 20.0, capacity=10)
    ticker.start(clock.now_ns() - 3 * PERIOD_NS)
    assert ticker.wait() == 0 and ticker.skipped == 0
    assert ticker.lateness_ns.tolist() == [3 * PERIOD_NS]


def test_the_real_clock_waits_for_an_absolute_time_through_signals():
    clock = MonotonicClock()
    assert clock.wait_method in ("clock_nanosleep", "time.sleep")
    hits = []
    before = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        target = time.monotonic_ns() + 60_000_000
        woke = clock.wait_until(target)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert woke >= target
    assert hits, "no signal came, so nothing was tested"
    assert clock.wait_until(target) >= target  # long past: returns at once


def test_the_real_clock_does_not_drift():
    ticker = Ticker(MonotonicClock(), 200.0, capacity=100)
    start = time.monotonic_ns() + 1_000_000
    ticker.start(start)
    while ticker.wait() < 60:
        pass
    assert ticker.deadline_ns == start + 60 * 5_000_000 or ticker.skipped
    assert np.median(ticker.lateness_ns) < 5_000_000


def test_waking_costs_time_and_is_learned(monkeypatch: pytest.MonkeyPatch):
    clock = MonotonicClock()
    if clock.wait_method != "clock_nanosleep":
        pytest.skip("time.sleep learns nothing")
    leads, target = [], time.monotonic_ns()
    for _ in range(150):
        target += 3_000_000
        assert clock.wait_until(target) >= target  # never early, whatever was learned
        leads.append(clock.lead_ns)
    assert 0.0 < max(leads) <= MOST_LEAD_NS

    clock.lead_ns = 100_000.0
    clock.wait_until(time.monotonic_ns() - 1)  # long past: says nothing of waking
    clock.wait_until(time.monotonic_ns() + 50_000)  # too near to sleep
    assert clock.lead_ns == 100_000.0
    monkeypatch.setattr(clock, "_sleep_until", lambda time_ns: None)  # a kernel that is on time
    clock.wait_until(time.monotonic_ns() + 300_000)
    assert clock.lead_ns < 100_000.0


@pytest.mark.parametrize(("hz", "capacity"), [(0.0, 1), (20.0, 0)])
def test_a_ticker_that_cannot_tick_is_refused(hz: float, capacity: int):
    with pytest.raises(ValueError, match="hz > 0 and capacity > 0"):
        Ticker(FakeClock(), hz, capacity)
    with pytest.raises(ValueError, match="cannot go back"):
        FakeClock().advance(-1)


def test_the_collector_is_off_and_on_again():
    quiet_collector()
    frozen = gc.get_freeze_count()
    try:
        assert not gc.isenabled() and frozen > 0
    finally:
        wake_collector()
    assert gc.isenabled() and gc.get_freeze_count() < frozen
