"""Judging: what is counted, who is refused, and that the other instruction is really another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import make_policy, make_stats

from ulna.envs.rollout import EpisodeResult
from ulna.policies.checkpoint import save_policy
from ulna.train.evaluate import another, confusion, evaluate, rate

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
FAILED = replace(RESULT, success=False, outcome="blue")
CRASHED = replace(RESULT, success=False, outcome="crashed", error="Traceback")


def test_a_crash_counts_as_a_failure_and_is_told():
    result = rate([RESULT, FAILED, CRASHED, RESULT])
    assert (result["rate"], result["successes"], result["crashed"]) == (0.5, 2, 1)
    # Wilson for 2 of 4 at 95 %, by its formula: the centre is 0.5.
    z = 1.959964
    half = z / (1 + z**2 / 4) * (0.25 / 4 + z**2 / 64) ** 0.5
    assert result["low"] == pytest.approx(0.5 - half, abs=1e-3)
    assert result["high"] == pytest.approx(0.5 + half, abs=1e-3)


def test_confusion_counts_what_was_taken_per_instruction():
    other = replace(RESULT, instruction="pick up the blue cube", outcome="blue")
    assert confusion([RESULT, FAILED, RESULT, other]) == {
        "pick up the blue cube": {"blue": 1},
        "pick up the red cube": {"blue": 1, "red": 2},
    }


def test_the_swapped_instruction_is_another_one_and_all_of_them_come_up():
    words = ("a", "b", "c")
    drawn = {(named, another(words, named, seed)) for named in words for seed in range(40)}
    assert drawn == {(x, y) for x in words for y in words if x != y}
    assert another(words, "a", 5) == another(words, "a", 5)


def test_refusals(tmp_path: Path):
    save_policy(tmp_path / "policy", make_policy(), make_stats())
    with pytest.raises(ValueError, match="name is 'panda_osc_pose', trained with 'tiny'"):
        evaluate(tmp_path, "pick_named", 2, 0, 1, tmp_path / "out")
    with pytest.raises(ValueError, match="unknown task 'pick_namd'. Did you mean 'pick_named'"):
        evaluate(tmp_path, "pick_namd", 2, 0, 1, tmp_path / "out")
    with pytest.raises(ValueError, match="episodes must be 1 or more, got 0"):
        evaluate(tmp_path, "pick_named", 0, 0, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
