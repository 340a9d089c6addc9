"""The benchmark of evaluation in miniature: both engines around our environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.timeout(400)
def test_both_engines_run_the_same_steps(tmp_path: Path):
    before = (BENCHMARKS / "results").stat().st_mtime_ns
    made = subprocess.run(
        [sys.executable, BENCHMARKS / "evaluation.py", "--quick", "--work", str(tmp_path),
         "--sides", "ulna", "lerobot_fast"],
        capture_output=True, text=True, timeout=380,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    result = json.loads(made.stdout.splitlines()[-1])
    assert result["ratios"]["ulna_over_lerobot_fast"] > 0
    assert set(result["figures"]["episodes_per_minute"]) == {"ulna", "lerobot_fast"}
    assert (BENCHMARKS / "results").stat().st_mtime_ns == before
