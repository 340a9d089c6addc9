"""`benchmarks/sequential.py` in miniature: its ways of judging against slow and simple ones."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ulna.envs.comparison import PairedTable, mcnemar

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def sequential(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    path = BENCHMARKS / "sequential.py"
    spec = importlib.util.spec_from_file_location("benchmark_sequential", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_many_p_values_at_once_are_those_of_the_test(sequential):
    wins = np.random.default_rng(0).choice([-1, 0, 1], size=(3, 20))
    found = sequential.mcnemar_p(wins.cumsum(1), np.abs(wins).cumsum(1))
    for row, values in zip(wins.tolist(), found, strict=True):
        for n in range(1, 21):
            table = PairedTable(0, row[:n].count(-1), row[:n].count(1), 0)
            assert values[n - 1] == pytest.approx(mcnemar(table))


def test_the_first_call_ends_an_evaluation(sequential):
    called = np.array([[False, True, True], [False, False, False]])
    assert sequential.first(called) == (0.5, 2.5)


def test_a_rehearsal_answers_and_writes_nothing(sequential, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sequential, "EQUAL", ((0.5, 30),))
    monkeypatch.setattr(sequential, "DIFFERENT", ((0.3, 0.8, 30),))
    monkeypatch.setattr(sequential, "UNPAIRED", ((0.2, 0.9, 20),))
    before = sorted((BENCHMARKS / "results").iterdir())
    sequential.main(quick=True)
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert sorted((BENCHMARKS / "results").iterdir()) == before
    found = line["figures"]["0.3 and 0.8, 30 scenes"]
    assert found["sequential"]["found"] > 0.9 and found["sequential"]["scenes"] < 20
    assert line["figures"]["different scenes, 0.2 and 0.9, 20"]["sequential"] > 0.9
    assert line["ratios"]["scenes_saved_mean"] > 0.3
    assert 0 <= line["ratios"]["false_calls_sequential"] < 0.3
