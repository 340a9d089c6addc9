"""A duel stops when it is decided, leaves two evaluations, and goes on where it was stopped."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.envs.parallel import EpisodeJob
from ulna.envs.rollout import EpisodeResult
from ulna.envs.sequential_test import PairedSequentialTest
from ulna.envs.tasks import find_task
from ulna.train import duel as module
from ulna.train.duel import duel, duel_sentence
from ulna.train.judging import Judge

RESULT = EpisodeResult(
    task="pick_named",
    seed=1,
    instruction="pick up the red cube",
    success=True,
    steps=30,
    outcome="red",
    states=np.zeros((0, 1)),
    actions=np.zeros((0, 7), np.float32),
)


class TalliedJudge(Judge):
    """Succeeds at the share of scenes that the name of its folder says, in percent."""

    asked: dict[str, int] = {}
    execution_horizon = 8

    def __init__(self, run: Path, tasks: Sequence[str], *_: Any, **__: Any) -> None:
        self.name = run.name
        self.tasks = {name: find_task(name) for name in tasks}
        self.asked[self.name] = 0

    def __enter__(self) -> "TalliedJudge":
        return self

    def __exit__(self, *_: object) -> None: ...

    def logging(self, out: Path) -> Any:
        return nullcontext()

    def roll(self, task: str, jobs: Sequence[EpisodeJob], words: str) -> list[EpisodeResult]:
        self.asked[self.name] += len(jobs)
        share = int(self.name) / 100
        return [
            replace(
                RESULT, seed=j.seed, success=bool(np.random.default_rng(j.seed).random() < share)
            )
            for j in jobs
        ]

    def policy_facts(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.fixture(autouse=True)
def tallied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Judge", TalliedJudge)


def test_a_clear_difference_costs_few_scenes(tmp_path: Path):
    result = duel(Path("20"), Path("90"), "pick_named", 300, 0, tmp_path)
    assert result["verdict"] == "b" and result["scenes"] <= result["run"] < 64
    assert TalliedJudge.asked == {"20": result["run"], "90": result["run"]}
    # What was run is what the two evaluations hold, and the test agrees with them scene by scene.
    rows = [json.loads((tmp_path / name / "results.json").read_text())["episodes"] for name in "ab"]
    test = PairedSequentialTest(300)
    for a, b in zip(*rows, strict=True):
        assert a["seed"] == b["seed"]
        if not test.finished:
            test.feed(a["success"], b["success"])
    assert (test.verdict, test.table.scenes) == ("b", result["scenes"])
    assert json.loads((tmp_path / "duel.json").read_text()) == result
    assert "B is better, decided after" in duel_sentence(result)


def test_no_difference_runs_all_and_says_so(tmp_path: Path):
    result = duel(Path("50"), Path("051"), "pick_named", 40, 0, tmp_path, batch=16)
    assert result["verdict"] is None and result["scenes"] == result["run"] == 40
    assert "Not decided after all 40 scenes" in duel_sentence(result)


def test_refusals(tmp_path: Path):
    with pytest.raises(ValueError, match="same folder"):
        duel(tmp_path, tmp_path / ".", "pick_named", 10, 0, tmp_path)
    with pytest.raises(ValueError, match="0 episodes"):
        duel(Path("1"), Path("2"), "pick_named", 0, 0, tmp_path)
