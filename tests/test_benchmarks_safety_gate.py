"""The benchmark of the safety gate in miniature, and that its judge sees what breaks a limit."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.deploy_robot.limits_file import shipped_limits

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PANDA = shipped_limits("panda")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_in_miniature_nothing_gets_through(module: Any) -> None:
    figures = module("safety_gate").gated(PANDA, 1000, seed=1)
    assert figures["exceeded"] == 0 and figures["ticks_in_contact"] == 0
    assert 0.5 < figures["measured_velocity"] < 1.02, "and the arm did move"
    assert figures["commanded_jerk"] <= 1 + 1e-6


def test_the_same_orders_break_limits_without_the_gate(module: Any) -> None:
    figures = module("safety_gate").capped(PANDA, 100, seed=1)
    assert figures["exceeded"] > 100 and figures["commanded_acceleration"] > 10


def test_the_judge_sees_each_kind_of_excess(module: Any) -> None:
    diary_of, arm_of = module("safety_gate_diary").Diary, module("safety_gate_arms").ServoArm
    rest = np.array(PANDA.rest_rad)
    diary, arm = diary_of(PANDA, 10), arm_of(PANDA.rest_rad)
    for tick in range(10):
        if tick == 8:
            diary.begin_anew()  # a jump here is no motion
        diary.add(rest + 0.001 * (tick >= 4) + 1.0 * (tick >= 8), arm)
    judged = diary.judged()
    assert judged["commanded_velocity"] == pytest.approx(0.5 / 1.0875)
    # One step of position: acceleration twice (start, stop), jerk three times.
    assert judged["exceeded"] == 2 + 3
    diary = diary_of(PANDA, 3)
    arm.data.qpos[3] = 0.5
    arm.data.qvel[0] = 2.0
    diary.add(rest, arm)
    judged = diary.judged()
    assert judged["past_range_rad"] == pytest.approx(0.5 + 0.0698) and judged["exceeded"] == 2
