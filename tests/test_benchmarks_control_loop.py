"""The benchmarks of the loop: what they count, and that our arm of them gives what it says."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_late_commands_and_drift(module: Any) -> None:
    loop = module("control_loop")
    times_ns = (np.arange(100) * 20e6).astype(np.int64)
    assert loop.late_commands(times_ns, 50) == 0
    assert loop.drift(times_ns, 50) == pytest.approx(0, abs=1e-6)
    slow_ns = (np.arange(100) * 20.2e6).astype(np.int64)
    assert loop.drift(slow_ns, 50) == pytest.approx(600 * 50 * (1 - 1 / 1.01))
    times_ns[60:] += 11_000_000
    assert loop.late_commands(times_ns, 50) == 1


def test_lost_deadlines_count_as_late(module: Any) -> None:
    loop = module("control_loop")
    answers = [{"lateness_ns": [1000, 2000, 30_001_000, 10_001_000], "answers": 3}]
    summed = loop._summed(answers, 50)
    assert summed["ticks"] == 4 and summed["max_us"] == 30_001.0 and summed["answers"] == 3


def test_every_way_hands_the_observation_over(module: Any) -> None:
    handover = module("handover")
    observation = {f.name: np.zeros(f.shape, f.dtype) for f in handover.FIELDS}
    for name in handover.WAYS:
        way = handover.Way(name)
        there_ns, busy_ns = way.give(observation, 7)
        assert 0 < there_ns and 0 < busy_ns
        way.close()
        assert way.process.exitcode == 0
