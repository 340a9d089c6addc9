"""The delay benchmark: what it sums up, and that modes that must agree are held to it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def delay(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("benchmark_delay", BENCHMARKS / "delay.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep_of(success: dict[tuple[str, str], list[bool]]) -> dict[str, Any]:
    """What `train/delay_sweep.py` gives, of made-up outcomes per (mode, delay)."""
    episodes = [
        {
            "task": "bead", "mode": mode, "delay": late, "seed": seed, "success": good,
            "digest": f"{late}{seed}",
        }
        for (mode, late), outcomes in success.items()
        for seed, good in enumerate(outcomes)
    ]  # fmt: skip
    curve = [
        {
            "task": "bead", "mode": mode, "delay": late, "seam_jump": None, "stalled": 0.25,
            "success": {"successes": sum(good), "episodes": len(good), "low": 0.1, "high": 0.9},
            "retention": sum(good) / 8,
        }
        for (mode, late), good in success.items()
    ]  # fmt: skip
    return {
        "episodes": episodes, "delay_curve": curve, "left_out": [], "policy": {"sha256": "ab"},
        "versions": {"mujoco": "3"},
    }  # fmt: skip


def test_it_sums_up(delay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep_of(
        {
            ("synchronous", "0"): [True] * 8,
            ("hold", "0"): [True] * 8,
            ("hold", "4"): [False] * 6 + [True] * 2,
        }
    )
    result = delay.summarize(delay.Benchmark("delay", True, tmp_path), {"bead": found})
    shown = capsys.readouterr().out
    assert "2 of 8" in shown and "0.031" in shown  # McNemar, 6 of 6 differing: 2 / 2**6
    assert result["ratios"]["bead_hold_4_retention"] == 0.25
    assert json.loads(shown.splitlines()[-1])["figures"]["policies"]["bead"] == {"sha256": "ab"}


def test_modes_that_differ_without_a_delay_are_an_error(delay: Any) -> None:
    found = sweep_of({("synchronous", "0"): [True] * 3, ("asynchronous", "0"): [True] * 3})
    delay.require_equal_without_delay("bead", found["episodes"])
    found["episodes"][4]["digest"] = "other"
    with pytest.raises(AssertionError, match="asynchronous went differently from synchronous"):
        delay.require_equal_without_delay("bead", found["episodes"])


def test_refuses_runs_that_do_not_fit_the_tasks(delay: Any) -> None:
    with pytest.raises(ValueError, match="2 runs for 3 tasks"):
        delay.main((Path("a"), Path("b")), tasks=("x", "y", "z"), quick=True)
