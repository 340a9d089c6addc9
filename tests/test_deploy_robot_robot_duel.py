"""Two policies on an arm in turns: the verdict, what does not count, and going on after a stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.deploy_robot import robot_duel as module
from ulna.deploy_robot.robot import UNJUDGED
from ulna.deploy_robot.robot_duel import Side, duel_on_robot, duel_words, robot_duel

NAMES: dict[Side, str] = {"a": "runs/one", "b": "runs/other"}


class Arm:
    """Succeeds at the rate of the policy; remembers who ran in which scene."""

    def __init__(self, rate_a: float, rate_b: float) -> None:
        self.rates = {"a": rate_a, "b": rate_b}
        self.runs: list[tuple[str, int, str]] = []
        self.stop_at = self.unjudged_at = -1

    def __call__(self, side: Side, scene: int, folder: Path) -> dict[str, Any]:
        number = len(self.runs)
        self.runs.append((side, scene, folder.name))
        # Of policy and scene alone, so that a duel in two parts meets the same outcomes.
        luck = np.random.default_rng([scene, ord(side)]).random()
        success = bool(luck < self.rates[side])
        unjudged = number == self.unjudged_at
        entry = {
            "success": success and not unjudged,
            "ended": "time" if unjudged or not success else "success",
            "outcome": UNJUDGED if unjudged else "seen",
        }
        stopped = {"reason": "joint_limit"} if number == self.stop_at else None
        return {"episodes": [entry], "stopped": stopped}


def never(question: str) -> bool:
    raise AssertionError(f"asked: {question}")


def test_the_better_one_is_found_and_then_no_more_is_run(tmp_path: Path):
    arm = Arm(0.2, 0.9)
    said: list[str] = []
    result = robot_duel(arm, NAMES, 40, 0, tmp_path, same_scenes=False, ask=never, say=said.append)
    assert result["verdict"] == "b" and result["pairs"] < 40
    assert len(arm.runs) == 2 * result["pairs"] == len(result["episodes"])
    assert result == json.loads((tmp_path / "duel.json").read_text())
    assert "B (runs/other) is better" in duel_words(result)
    # Each pair is one of each, in an order that is not always the same, in the same scene.
    firsts = [side for side, _, _ in arm.runs[::2]]
    for first, second in zip(arm.runs[::2], arm.runs[1::2], strict=True):
        assert {first[0], second[0]} == {"a", "b"} and first[1] == second[1]
    assert set(firsts) == {"a", "b"}
    # Nothing that the operator sees says whose turn it is.
    assert not any(word in line for line in said for word in ("runs/one", "runs/other", "A", "B"))


def test_equal_policies_are_hardly_ever_called_different(tmp_path: Path):
    verdicts = [
        robot_duel(
            Arm(0.5, 0.5), NAMES, 30, 1000 * seed, tmp_path / str(seed),
            same_scenes=seed % 2 == 0, ask=never, say=lambda _: None,
        )["verdict"]
        for seed in range(60)
    ]  # fmt: skip
    # 5 % are allowed: 8 or more of 60 have a chance below 1 in 100.
    assert sum(verdict is not None for verdict in verdicts) < 8


def test_a_duel_that_was_broken_off_ends_as_an_unbroken_one(tmp_path: Path):
    whole = robot_duel(
        Arm(0.4, 0.8), NAMES, 25, 3, tmp_path / "whole", same_scenes=False, ask=never
    )

    class Cut(Arm):
        def __call__(self, side: Side, scene: int, folder: Path) -> dict[str, Any]:
            if len(self.runs) == 3:  # in the middle of a pair
                raise KeyboardInterrupt
            return super().__call__(side, scene, folder)

    parts = tmp_path / "parts"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            robot_duel(Cut(0.4, 0.8), NAMES, 25, 3, parts, same_scenes=False, ask=never)
    assert len(json.loads((parts / "duel.json").read_text())["episodes"]) == 6
    assert robot_duel(Arm(0.4, 0.8), NAMES, 25, 3, parts, same_scenes=False, ask=never) == whole
    with pytest.raises(ValueError, match="another duel: planned was 25, now 26"):
        robot_duel(Arm(0.4, 0.8), NAMES, 26, 3, parts, same_scenes=False, ask=never)


@pytest.mark.parametrize("fault", [True, False])
def test_a_stopped_arm_ends_it_and_a_person_says_whether_it_counts(tmp_path: Path, fault: bool):
    arm, asked = Arm(0.5, 0.5), []
    arm.stop_at = 1

    def ask(question: str) -> bool:
        asked.append(question)
        return fault

    with pytest.raises(RuntimeError, match=r"joint_limit.*goes on with the duel"):
        robot_duel(arm, NAMES, 10, 0, tmp_path, same_scenes=False, ask=ask)
    assert len(asked) == 1 and "joint_limit" in asked[0]
    kept = json.loads((tmp_path / "duel.json").read_text())["episodes"]
    assert len(kept) == (2 if fault else 1)
    if fault:
        assert kept[1]["success"] is False
    arm.stop_at = -1
    robot_duel(arm, NAMES, 10, 0, tmp_path, same_scenes=False, ask=never)
    # What did not count was run again: same policy, same scene, same folder.
    assert (arm.runs[2] == arm.runs[1]) is not fault


def test_who_is_not_judged_is_asked_about(tmp_path: Path):
    arm, asked = Arm(1.0, 1.0), []
    arm.unjudged_at = 0
    result = robot_duel(
        arm, NAMES, 1, 0, tmp_path, same_scenes=False, ask=lambda q: not asked.append(q)
    )
    assert len(asked) == 1 and result["episodes"][0]["success"] is True
    assert "Not decided after all 1 planned pairs" in duel_words(result)


def test_the_same_policy_twice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="are the same, runs/one"):
        robot_duel(
            Arm(1, 1), {"a": "runs/one", "b": "runs/one"}, 5, 0, tmp_path, same_scenes=False,
            ask=never,
        )  # fmt: skip


def test_the_log_of_a_stopped_arm_is_read_and_another_error_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {"robot": "so101", "mode": "asynchronous"}
    monkeypatch.setattr("builtins.input", lambda _: "yes")

    def stops(side: str, count: int, scene: int, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        results = {"episodes": [], "stopped": {"reason": "e-stop"}}
        (folder / "results.json").write_text(json.dumps(results))
        raise RuntimeError("the arm was stopped")

    with pytest.raises(RuntimeError, match="e-stop"):
        duel_on_robot(stops, "one", "other", settings, 5, 0, tmp_path)
    kept = json.loads((tmp_path / "duel.json").read_text())
    assert kept["same_scenes"] is False and kept["episodes"][0]["success"] is False

    def breaks(side: str, count: int, scene: int, folder: Path) -> dict[str, Any]:
        raise RuntimeError("no camera")

    with pytest.raises(RuntimeError, match="no camera"):
        duel_on_robot(breaks, "one", "other", settings, 5, 0, tmp_path)


def test_without_a_person_it_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch):
    answers = iter(["perhaps", "n"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert module.ask_on_terminal("Did it succeed?") is False

    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(RuntimeError, match="the input is not a terminal"):
        module.ask_on_terminal("Did it succeed?")
