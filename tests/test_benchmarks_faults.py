"""The faults benchmark: it runs in miniature, and its judge can say no."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module("faults_judge")
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.timeout(300)
def test_in_miniature(tmp_path: Path):
    """Three of the thirteen: each costs half a dozen processes."""
    names = ["policy killed", "link lost", "supervisor killed"]
    command = [sys.executable, BENCHMARKS / "faults.py", "--quick", "--folder", tmp_path]
    done = subprocess.run([*command, "--only", *names], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ratios"] == {"held_within_a_tick": 1.0, "as_it_must_be": 1.0}
    figures = result["figures"]
    assert figures["verify_errors"] == 0 and figures["wrongs"] == []
    assert set(figures["faults"]) == set(names)
    assert all(fault["times"] == 1 for fault in figures["faults"].values())


@pytest.mark.parametrize(("goes_on_s", "held"), [(0.0, True), (0.004, True), (0.15, False)])
def test_an_arm_that_moves_on_is_not_held(judge, goes_on_s: float, held: bool):
    hz, speed = 240, 0.3
    times = np.arange(0, 1, 1 / hz)
    brake = np.clip((times - 0.5 - goes_on_s) / 0.025, 0, 1)
    told = np.zeros((len(times), 7))
    told[:, 0] = np.cumsum(speed * (1 - brake)) / hz
    began_ns = judge.brake_began_ns(times * 1e9, told, 0.5e9)
    assert (began_ns - 0.5e9 <= 0.05e9) == held
    assert began_ns - 0.5e9 == pytest.approx(goes_on_s * 1e9, abs=0.02e9)


def test_a_merged_command_is_no_motion_and_a_late_one_is(judge):
    times = np.arange(0, 1, 1 / 240)
    told = np.zeros((len(times), 7))
    told[:, 0] = np.minimum(0.3 * times, 0.15)
    told = np.delete(told, 119, axis=0)  # two steps in one, right before the stop
    times = np.delete(times, 119)
    assert judge.brake_began_ns(times * 1e9, told, 0.5e9) <= 0.505e9
    told[-10:, 0] += 0.02
    assert judge.brake_began_ns(times * 1e9, told, 0.5e9) > 0.9e9
