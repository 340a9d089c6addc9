"""`ulna run` and `ulna serve` as they are typed: what is refused, recorded, shown."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_helpers import CONFIG

from ulna.cli import main
from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.store import Store
from ulna.datasets.verify import verify
from ulna.deploy_robot.control_process import limits_for
from ulna.deploy_robot.limits import SafetyLimits
from ulna.deploy_robot.limits_file import shipped_limits
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.run_cli import pairs
from ulna.deploy_robot.serve import load_served
from ulna.envs.tasks import find_task
from ulna.policies.checkpoint import save_policy
from ulna.policies.policy import Policy
from ulna.policies.policy_config import PolicyConfig

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for `lift` that has learned nothing."""
    return untaught(tmp_path_factory.mktemp("runs") / "lifter", CONFIG)


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, and it sees two observations at once."""
    return untaught(tmp_path_factory.mktemp("runs") / "lifter", replace(CONFIG, history=2))


def untaught(folder: Path, config: PolicyConfig) -> Path:
    arm, rng = find_task("lift").embodiment("fast"), np.random.default_rng(0)
    stats = {
        name: stream_stats(rng.normal(size=(50, width)))
        for name, width in (("state", arm.state_dim), ("action", arm.action_dim))
    }
    kept = NormStats(stats, source="made up", episodes=1)
    save_policy(folder / "policy", Policy(config, arm, kept).eval(), kept)
    return folder


@pytest.mark.timeout(300)
def test_a_served_policy_moves_the_arm_and_the_flight_is_kept(
    remembering: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """One that sees two observations at once; the flight has one a tick all the same."""
    monkeypatch.setenv("ULNA_TOKEN", TOKEN)
    policies = {"lifter": load_served(remembering, threads=1)}
    store = tmp_path / "flights.zarr"
    with PolicyServer(policies, ServerConfig(port=0, token=TOKEN)) as server:
        main(
            ["run", server.url, "--task", "lift", "--episodes", "2", "--max-episode-s", "1.0",
             "--record", str(store), "--live-view", str(tmp_path / "a.rrd"),
             "--mode", "asynchronous", "--execution-horizon", "2", "--out", str(tmp_path / "out")]
        )  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    written: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [e["ended"] for e in printed["episodes"]] == ["time", "time"]
    assert printed["safety"]["commands"] == "tool displacements"
    assert printed["inference"]["answers"] > 2
    recorded = Store.open(store)
    assert [record.uid for record in recorded.episodes] == [f["uid"] for f in written["flights"]]
    for record, episode in zip(recorded.episodes, written["episodes"], strict=True):
        assert record.steps == episode["steps"] == 20
        assert record.instruction == "lift the cube" and record.success is False
        assert record.info["policy"] == server.url and record.info["ended"] == "time"
    assert [p for p in verify(recorded) if p.severity == "error"] == []
    # What was sent is what the tick log says.
    ticks = np.load(tmp_path / "out" / "ticks.npz")
    np.testing.assert_array_equal(
        recorded.read("action_sent", 1), ticks["action_sent"][ticks["episode"] == 1]
    )
    assert (tmp_path / "a.rrd").stat().st_size > 10_000


@pytest.mark.timeout(300)
def test_a_policy_that_sees_several_observations_moves_the_arm(
    remembering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(
        ["run", str(remembering), "--task", "lift", "--episodes", "1", "--max-episode-s", "0.6",
         "--execution-horizon", "2", "--out", str(tmp_path)]
    )  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert [e["ended"] for e in printed["episodes"]] == ["time"]
    assert printed["inference"]["answers"] > 0 and printed["stopped"] is None
    assert np.load(tmp_path / "ticks.npz")["action_sent"].any()


@pytest.mark.timeout(300)
def test_two_policies_are_compared_on_the_arm(
    run: Path, remembering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["run", str(run), "--against", str(remembering), "--task", "lift", "--episodes", "1",
             "--max-episode-s", "0.5", "--out", str(tmp_path)]  # fmt: skip
    main(words)
    assert "Not decided after all 1 planned pairs" in capsys.readouterr().out
    duel = json.loads((tmp_path / "duel.json").read_text())
    assert {one["policy"] for one in duel["episodes"]} == {"a", "b"} and duel["same_scenes"]
    scenes = {
        json.loads((tmp_path / "episodes" / one["folder"] / "results.json").read_text())[
            "episodes"
        ][0]["seed"]
        for one in duel["episodes"]
    }
    assert len(scenes) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--robot", "ur"], "no scene that says what to do; add --instruction"),
        (["--robot", "simm", "--instruction", "x"], "Did you mean 'sim'"),
        (["--robot-options", "fault=drop"], "Did you mean 'faults'"),
        (["--robot-options", "faults"], "not KEY=VALUE"),
        (["--realtime", "guided"], "add --mode rtc"),
        (["--mode", "rtc"], "not taught to continue plans"),
        (["--live-view", "web"], "add --record STORE"),
        (["--token-file", "x"], "for a server's address"),
        (["--limits", "pandas"], "limits file pandas does not exist.*panda, ur5e, so101"),
        (["--keys"], "not a terminal"),
    ],
)
def test_words_that_do_not_fit(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        main(["run", str(run), *words])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said


def test_which_limits_hold():
    arm = find_task("lift").embodiment("fast")
    assert limits_for(None, arm) == SafetyLimits()
    behind = limits_for(shipped_limits("panda"), arm)
    assert isinstance(behind, SafetyLimits) and behind.arm is not None
    assert behind.arm.joint_names == arm.joint_names


def test_pairs():
    assert pairs(("host=a=b", "hz=125")) == {"host": "a=b", "hz": "125"}
    with pytest.raises(ValueError, match="given twice"):
        pairs(("a=1", "a=2"))


def test_serve_refuses_the_network_without_a_token(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("ULNA_TOKEN", raising=False)
    with pytest.raises(SystemExit):
        main(["serve", str(run), "--host", "0.0.0.0"])
    assert "token" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", str(run / "nothing")])
    assert "holds no policy" in capsys.readouterr().err
