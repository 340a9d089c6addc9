"""Judging: what is counted, who is refused, and that the other instruction is really another."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, INSTRUCTIONS, make_observation, make_policy, make_stats

from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.envs.engine import padded
from ulna.envs.parallel import EpisodeJob
from ulna.envs.rollout import EpisodeResult
from ulna.envs.tasks import find_task
from ulna.envs.virtual_clock import NO_DELAY, DelayModel
from ulna.policies.checkpoint import save_policy
from ulna.policies.policy import Policy
from ulna.train.delay_sweep import delay_curve, print_sweep, sweep
from ulna.train.evaluate import another, confusion, evaluate, other_words, print_results, rate
from ulna.train.evaluation_films import Filmed
from ulna.train.judging import Engine, load_act_batch
from ulna.train.provenance import checkpoint_hash, machine, versions

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


# ------------------------------------------------------------------ what is run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the real arm that was taught nothing."""
    torch.manual_seed(0)
    arm, rng = find_task("lift").embodiment("fast"), np.random.default_rng(0)
    stats = NormStats(
        {
            "state": stream_stats(rng.normal(size=(100, arm.state_dim))),
            "action": stream_stats(0.1 * rng.normal(size=(100, arm.action_dim))),
        },
        source="made up",
        episodes=1,
    )
    folder = tmp_path_factory.mktemp("run")
    save_policy(folder / "policy", Policy(CONFIG, arm, stats).eval(), stats)
    return folder


def test_rows_of_a_batch_do_not_depend_on_each_other():
    """What the engine stands on: at one batch size, a row's bits are its own."""
    act = padded(lambda rows: list(make_policy().act_batch(rows)), 4)
    mine = make_observation(0)
    expected = act([mine])[0]
    for place in range(4):
        for words in ([0, 0, 0], [1, 2, 0], [2, 2, 1]):
            rows = [
                replace(make_observation(9 + i), instruction=INSTRUCTIONS[word], noise_seed=i)
                for i, word in enumerate(words)
            ]
            rows.insert(place, mine)
            np.testing.assert_array_equal(act(rows)[place], expected)


def test_a_policy_for_batches_leaves_the_threads_of_others_alone(run: Path):
    before = torch.get_num_threads()
    arm = find_task("lift").embodiment("fast")
    act_batch = load_act_batch(run, "cpu", arm, None, threads=before + 1)
    assert torch.get_num_threads() == before
    state = np.zeros(arm.state_dim, np.float32)
    images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in arm.cameras}
    seen = replace(make_observation(0), images=images, state=state)
    assert np.shape(act_batch([seen, seen])) == (2, CONFIG.horizon, arm.action_dim)
    assert torch.get_num_threads() == before


KILLED = """
from pathlib import Path
from ulna.train.evaluate import evaluate
if __name__ == "__main__":
    evaluate(Path({run!r}), "lift", 4, 0, 1, Path({out!r}), videos=False)
"""


@pytest.mark.timeout(600)  # four starts of Python and of workers, on a busy machine
def test_a_killed_evaluation_goes_on_to_the_results_of_an_unbroken_one(run: Path, tmp_path: Path):
    whole = evaluate(run, "lift", 4, 0, 2, tmp_path / "whole", videos=False)
    out, log = tmp_path / "killed", tmp_path / "killed" / "episodes.jsonl"
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(run=str(run), out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_bytes().count(b"\n")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = log.read_bytes()
    done = before.count(b"\n")
    assert 1 <= done < 4 and not (out / "results.json").exists()
    log.write_bytes(before + b'{"key": "torn')
    resumed = evaluate(run, "lift", 4, 0, 1, out, videos=False)
    assert resumed == whole == json.loads((out / "results.json").read_text())
    assert log.read_bytes().startswith(before) and log.read_bytes().count(b"\n") == 4
    assert len({episode["digest"] for episode in whole["episodes"]}) == 4


@pytest.mark.timeout(600)
def test_a_sweep_of_delays(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = sweep(
        run, "lift", 2, 0, 1, tmp_path, modes=("synchronous", "hold", "asynchronous", "rtc"),
        delays=(NO_DELAY, DelayModel(ticks=2)), engine=Engine(batch_size=2),
    )  # fmt: skip
    assert results == json.loads((tmp_path / "results.json").read_text())
    digests: dict[tuple[str, str], list[str]] = {}
    for episode in results["episodes"]:
        digests.setdefault((episode["mode"], episode["delay"]), []).append(episode["digest"])
    plain = digests.pop(("synchronous", "0"))
    assert digests.pop(("hold", "0")) == digests.pop(("asynchronous", "0")) == plain
    assert set(digests) == {("hold", "2"), ("asynchronous", "2")}
    assert all(not set(plain) & set(others) for others in digests.values())
    assert results["success"]["episodes"] == 2 and len(results["delay_curve"]) == 5
    (_, left), (_, right) = [r.split(",", 1) for r in results["left_out"]]
    assert "rtc" in results["left_out"][0] and "does not continue plans" in left == right
    print_sweep(results, print)
    assert capsys.readouterr().out


def test_refuses_conditions_that_do_not_exist(run: Path, tmp_path: Path):
    def judge(**settings: Any) -> None:
        evaluate(run, "lift", 2, 0, 1, tmp_path / "out", **settings)

    with pytest.raises(ValueError, match="unknown robustness axis 'lightning'. Did you mean 'lig"):
        judge(axes=["lightning"])
    with pytest.raises(ValueError, match="unknown language test 'blanc'. Did you mean 'blank'"):
        judge(language=["blanc"])
    with pytest.raises(ValueError, match="execution_horizon 9 does not fit chunks of 4"):
        judge(execution_horizon=9)
    with pytest.raises(ValueError, match="only rtc says how chunks are joined"):
        sweep(run, "lift", 2, 0, 1, tmp_path / "out", modes=("hold:guided",))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="does not continue plans .*--realtime guided"):
        judge(mode="rtc")


# ------------------------------------------------------------------ words and sums


def test_other_words_keep_scene_and_goal():
    told = [EpisodeJob(seed, "pick up the red cube") for seed in range(30)]
    for kind, some in (("paraphrase", 4), ("nonsense", 4), ("blank", 1)):
        jobs = other_words("pick_named", told, kind)
        assert [(j.seed, j.instruction) for j in jobs] == [(j.seed, j.instruction) for j in told]
        said = {job.said for job in jobs}
        assert len(said) >= some and "pick up the red cube" not in said and None not in said
        assert jobs == other_words("pick_named", told, kind)


def test_the_delay_curve_by_hand():
    def filmed(mode: Any, delay: str, success: bool, stalls: int, jump: float | None) -> Filmed:
        result = replace(
            RESULT, mode=mode, delay=delay, success=success, stalls=stalls, seam_jump=jump,
            delays=(int(delay),),
        )  # fmt: skip
        return Filmed("named", result, EpisodeJob(1), mode)

    rows = delay_curve(
        [
            filmed("hold", "4", True, 15, None),
            filmed("hold", "4", False, 0, 3.0),
            filmed("synchronous", "0", True, 0, 1.0),
            filmed("synchronous", "0", False, 0, 2.0),
        ]
    )
    assert [(row["mode"], row["delay"]) for row in rows] == [("hold", "4"), ("synchronous", "0")]
    assert [row["retention"] for row in rows] == [1.0, 1.0]
    assert rows[0]["stalled"] == pytest.approx(15 / 60) and rows[0]["delay_seen"] == 4
    assert (rows[0]["seam_jump"], rows[1]["seam_jump"]) == (3.0, 1.5)


def test_results_are_printed_for_people(capsys: pytest.CaptureFixture[str]):
    found = rate([RESULT, CRASHED])
    print_results(
        {
            "task": "a, b", "seed": 0, "success": found, "language_swap": None,
            "tasks": {"a": {"success": found}, "b": {"success": found}},
            "language": {"blank": found}, "axes": {"lighting:mild": found},
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    for words in ("success, a", "success, blank", "success, lighting:mild", "0.50", "(1 crashed)"):
        assert words in shown


def test_a_checkpoint_has_one_name_and_another_one_another(run: Path, tmp_path: Path):
    assert checkpoint_hash(run) == checkpoint_hash(run / "policy")
    save_policy(tmp_path, make_policy(), make_stats())
    one = checkpoint_hash(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert checkpoint_hash(tmp_path) not in (one, checkpoint_hash(run))


def test_what_a_result_was_made_with():
    assert {"python", "ulna", "mujoco", "robosuite", "torch"} <= versions().keys()
    assert str(Path.home()) not in json.dumps(machine())
