"""The benchmark harness: what is written, what a rehearsal must not write, what is summed up."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def record(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import record  # type: ignore[import-not-found]  # a script's neighbour, not a package

    return record


@pytest.fixture
def demo(record):
    import importlib.util

    spec = importlib.util.spec_from_file_location("benchmark_demo", BENCHMARKS / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(seed: int, rate: float, process_s: float) -> dict:
    return {
        "seed": seed,
        "success": {"rate": rate, "low": rate - 0.1, "high": 1.0, "episodes": 50},
        "language_swap": {"rate": rate - 0.02, "low": 0.5, "high": 1.0, "episodes": 50},
        "loop": {"p50_ms": 0.1, "p99_ms": 0.4 + seed, "max_ms": 9.0, "late_ticks": 1, "ticks": 600},
        "late_actions": 0,
        "gate": {"velocity": 2},
        "stages": {"collect": 100.0},
        "wall_s": process_s - 8,
        "process_s": process_s,
    }


def test_a_full_run_writes_what_it_prints(record, tmp_path, capsys):
    record.Benchmark("store", False, tmp_path).finish({"faster": 2.0}, {"per_s": 10})
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((tmp_path / "store.json").read_text())
    assert set(printed) == {"benchmark", "ratios", "figures", "commit", "machine"}
    assert printed["machine"]["cores"] >= 1 and printed["commit"]


def test_a_rehearsal_leaves_the_full_result_alone(record, tmp_path, capsys):
    (tmp_path / "store.json").write_text("full")
    record.Benchmark("store", True, tmp_path).finish({}, {"per_s": 1})
    assert (tmp_path / "store.json").read_text() == "full"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"] == {"per_s": 1}


def test_what_was_not_measured_is_no_result(record, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        record.Benchmark("store", False, tmp_path).finish({"faster": float("nan")}, {})
    assert not (tmp_path / "store.json").exists()


def test_the_machine_is_described_without_names_of_hosts_and_folders(record):
    import platform

    text = json.dumps(record.machine())
    assert str(Path.home()) not in text
    assert len(platform.node()) < 4 or platform.node() not in text


def test_the_demo_is_judged_by_its_worst_seed(record, demo, tmp_path):
    benchmark = record.Benchmark("demo", False, tmp_path)
    reports = {0: report(0, 0.96, 500.0), 1: report(1, 0.88, 640.0), 2: report(2, 0.94, 550.0)}
    result = demo.summarize(benchmark, reports)
    together = result["figures"]["all"]
    assert together["success_rate_min"] == 0.88 and together["success_rate_median"] == 0.94
    assert together["process_s_max"] == 640.0 and together["ticks"] == 1800
    assert result["ratios"]["success_rate_min_over_promised"] < 1
    assert result["ratios"]["promised_s_over_max"] < 1
    assert set(result["figures"]) == {"0", "1", "2", "all"}


def test_a_demo_that_is_done_is_not_run_again(demo, tmp_path, monkeypatch):
    out = tmp_path / "seed_3"
    out.mkdir()
    (out / "report.json").write_text(json.dumps(report(3, 0.9, 500.0)))
    (out / "report.html").write_text("page")
    (tmp_path / "seed_3.times.json").write_text('{"process_s": 512.5}')
    monkeypatch.setattr(demo.subprocess, "run", lambda *a, **k: pytest.fail("ran again"))
    assert demo.run_demo(3, out, [])["process_s"] == 512.5
    with pytest.raises(ValueError, match="seed 3, expected 4"):
        demo.run_demo(4, out, [])
