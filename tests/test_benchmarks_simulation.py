"""The benchmark of simulation in miniature: stock's own pixels and joints, and nothing written."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.timeout(400)
def test_in_miniature_ours_gives_stocks_pixels_and_joints():
    before = (BENCHMARKS / "results").stat().st_mtime_ns
    made = subprocess.run(
        [sys.executable, BENCHMARKS / "simulation.py", "--quick"],
        capture_output=True, text=True, check=True, timeout=380,
    )  # fmt: skip
    result = json.loads(made.stdout.splitlines()[-1])
    figures, ratios = result["figures"], result["ratios"]
    assert 0 < figures["qpos_apart_after_10_steps"] < 1e-9
    exact, near = figures["pictures"]["exact_84px"], figures["pictures"]["near_84px"]
    assert exact["bit_equal"] == exact["pictures"] == 8
    assert 0 < near["mean_of_255"] < figures["pictures"]["fast_84px"]["mean_of_255"]
    assert set(ratios) == {"no_cameras", "exact_84px", "near_84px", "fast_84px"}
    assert min(ratios.values()) > 0  # speed is for the full run to tell, not for a test
    assert (BENCHMARKS / "results").stat().st_mtime_ns == before


def test_stock_gets_the_setting_that_suits_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    simulation = importlib.import_module("simulation")
    times = {
        "stock": [(10.0, 30.0), (12.0, 28.0)],
        "stock_threads": [(11.0, 15.0), (14.0, 16.0)],
        "near": [(2.0, 3.0), (2.0, 4.0)],
    }
    assert simulation.better_stock(times, 0) == [10.0, 12.0]
    assert simulation.better_stock(times, 1) == [15.0, 16.0]
    assert simulation.ratio([10.0, 12.0], [2.0, 2.0]) == 5.5
    answers = [{"cpu_s": 1.0, "wall_s": 3.0}, {"cpu_s": 2.0, "wall_s": 2.0}]
    assert simulation.per_step_ms(answers, [{"steps": 5}, {"steps": 5}]) == (300.0, 300.0)
