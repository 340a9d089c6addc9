"""The benchmarks of the policies: their arithmetic, and the cache's in miniature."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, make_batch, make_policy

from ulna.datasets.schema import Batch
from ulna.policies.image_transforms import to_float
from ulna.policies.vision import FilmGridConfig
from ulna.policies.world_target import FutureConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a script of the benchmarks folder by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_paired_scenes_are_compared_by_those_that_differ(script: Callable[[str], Any]):
    presets = script("presets")

    def runs(*successes: int) -> list[dict]:
        return [{"successes": list(successes)}]

    assert presets.mcnemar(runs(1, 1, 0), runs(1, 1, 0)) == 1.0
    # 8 scenes where only the first succeeded: 2 * 0.5**8
    p = presets.mcnemar(runs(*[1] * 8, 0), runs(*[0] * 8, 0))
    assert p == pytest.approx(2 * 0.5**8)
    arms = {
        "in_context": [{"successes": [1, 1, 0, 1], "end_point_mm": 10.0}],
        "pooled_head": [{"successes": [1, 0, 0, 0], "end_point_mm": 20.0}],
        "in_context_flow": [{"successes": [1, 1, 1, 1], "end_point_mm": 9.0}],
        "in_context_epsilon": [{"successes": [0, 0, 1, 0], "end_point_mm": 19.0}],
    }
    compared = presets.compare_language(arms)
    assert compared["end_point_in_context_over_pooled"] == 0.5
    assert compared["success_in_context_minus_pooled"] == 0.5
    assert compared["success_ddim_minus_flow"] == -0.25


def test_the_named_cube_is_read_from_the_simulators_state(script: Callable[[str], Any]):
    presets_studies = script("presets_studies")

    states = np.arange(3 * 40, dtype=np.float64).reshape(3, 40)
    words = ("pick up the blue cube", "pick up the red cube", "lift the cube")
    batch = replace(make_batch(4, rows=3), streams={"simulator_state": states}, instructions=words)
    places = presets_studies.named_places(batch, ("red", "green", "blue"))
    # position of cube i begins at 10 + 7 i; a lone cube is the first
    assert places.tolist() == [[24, 25], [50, 51], [90, 91]]


def test_memories_stand_in_for_eyes_without_changing_a_number(script: Callable[[str], Any]):
    """What a frozen encoder saw, taken from the table, teaches the same as looking."""
    eyes = script("presets_eyes")
    vision = FilmGridConfig(film=False, patch=8, width=8, blocks=1)
    config = replace(
        CONFIG,
        mask="joint",
        vision=vision,
        augment=eyes.PLAIN,
        future=FutureConfig(features=3, encoder="eyes"),
    )
    policy, batch = make_policy(config=config).train(), make_batch(4)
    policy.calibrate([(0, batch)])
    images = {n: torch.from_numpy(x) for n, x in batch.images.items()}
    after = {n: torch.from_numpy(x) for n, x in batch.future_images.items()}
    blank = torch.zeros(6, eyes.policy_condition(policy))
    with torch.no_grad():
        seen = {
            name: torch.cat([encoder(to_float(x[name]), blank) for x in (images, after)])
            for name, encoder in policy.observe.vision.items()
        }

    def losses(given: Batch) -> dict[str, float]:
        made = policy.losses(given, torch.Generator().manual_seed(0))
        return {name: float(loss.detach()) for name, loss in made.items()}

    looked = losses(batch)
    black = {name: np.zeros_like(x) for name, x in batch.images.items()}
    with eyes.remembering(policy, seen, np.arange(6), np.arange(6, 12)):
        remembered = losses(replace(batch, images=black, future_images={}))
    assert remembered == pytest.approx(looked, rel=1e-5)
    assert losses(batch) == looked  # the eyes are back
    assert losses(replace(batch, images=black)) != looked


def test_the_cache_in_miniature_is_exact_and_written_nowhere():
    before = (BENCHMARKS / "results").stat().st_mtime_ns
    made = subprocess.run(
        [sys.executable, BENCHMARKS / "prefix_cache.py", "--quick", "--seeds", "1"],
        capture_output=True, text=True, check=True, timeout=110,
    )  # fmt: skip
    result = json.loads(made.stdout.splitlines()[-1])
    for layout in ("dita", "small"):
        assert 0 < result["figures"][layout]["largest_difference"] < 1e-5
        assert result["ratios"][f"{layout}_anew_over_kept"] > 0
    assert (BENCHMARKS / "results").stat().st_mtime_ns == before
