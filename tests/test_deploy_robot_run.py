"""Real processes around a small simulated arm: crashes, hangs, Ctrl-C, and the results."""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ulna.deploy_robot.check_robot import check_robot
from ulna.deploy_robot.flight_lanes import FlightConfig
from ulna.deploy_robot.inference_worker import InferenceWorker, encode_make_act
from ulna.deploy_robot.processes import Stopped
from ulna.deploy_robot.robot import RobotState, fake_embodiment
from ulna.deploy_robot.run import run
from ulna.deploy_robot.sim_robot import SimRobot


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("deploy_robot_fakes")


def test_the_whole_path_reaches_the_goal_and_writes_its_results(fakes: ModuleType, tmp_path: Path):
    heard = []
    results = run(
        fakes.make_forward,
        fakes.gantry,
        episodes=2,
        seed=3,
        out=tmp_path,
        execution_horizon=4,
        limits=fakes.LIMITS,
        video=False,
        on_episode=heard.append,
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["episodes"] == heard and len(heard) == 2
    for episode in results["episodes"]:
        assert episode["success"] and episode["outcome"] == "arrived"
        assert episode["instruction"] == "move forward" and episode["video"] is None
        # 20 motions of 0.005 m to the goal, at most a few more held or waiting.
        assert 20 <= episode["steps"] <= 40
    loop, ticks = results["loop"], np.load(tmp_path / "ticks.npz")
    assert loop["ticks"] == len(results["lateness_ms"]) == len(ticks["tick"])
    assert loop["control_hz"] == 20.0 and loop["period_ms"] == 50.0
    lateness = (ticks["woke_ns"] - ticks["scheduled_ns"]) * 1e-6
    assert loop["max_ms"] == pytest.approx(lateness.max())
    assert loop["late_ticks"] == np.sum(lateness > 25) + loop["missed_deadlines"]
    assert results["inference"]["answers"] > 0 and results["stopped"] is None
    assert results["gate"]["no_action"] == results["late_actions"] + results["waiting_ticks"]
    assert results["realtime"]["wait"] in ("clock_nanosleep", "time.sleep")
    assert len(np.load(tmp_path / "episode_0.npz")["simulator_state"]) >= 20


@pytest.mark.parametrize(
    ("policy", "reason", "words"),
    [
        ("make_crashing", "policy_dead", "the seventh layer overflowed"),
        ("make_hanging", "policy_silent", ""),
    ],
)
def test_a_policy_that_fails_on_the_way_stops_the_arm(
    fakes: ModuleType, tmp_path: Path, policy: str, reason: str, words: str
):
    with pytest.raises(RuntimeError, match=reason) as failure:
        run(
            getattr(fakes, policy),
            fakes.gantry,
            out=tmp_path,
            execution_horizon=4,
            limits=fakes.LIMITS,
            video=False,
        )
    assert words in str(failure.value)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["stopped"]["reason"] == reason
    assert results["episodes"][-1]["ended"] == "stopped" and results["gate"][reason] == 1
    sent = np.load(tmp_path / "ticks.npz")["action_sent"]
    assert sent[5, 0] > 0 and not sent[-1, :3].any()


def test_a_lost_robot_does_not_take_the_log_with_it(fakes: ModuleType, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"robot_fault: the process of.*is gone.*exit code -9"):
        run(
            fakes.make_forward,
            functools.partial(SimRobot, "gantry", fakes.make_dying_env),
            out=tmp_path,
            execution_horizon=4,
            limits=fakes.LIMITS,
            video=False,
            record=FlightConfig(tmp_path / "flights.zarr"),
        )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["episodes"][-1]["ended"] == "stopped" and results["gate"]["robot_fault"] == 1
    ticks = np.load(tmp_path / "ticks.npz")["tick"]
    (flight,) = results["flights"]
    assert flight["steps"] == len(ticks) >= 8 and not flight["interrupted"]


def test_a_killed_inference_process_is_noticed_at_once(fakes: ModuleType):
    worker = InferenceWorker(encode_make_act(fakes.make_forward))
    worker.start()
    try:
        worker.warm_up(fake_embodiment(), "move", timeout_s=60.0)
        worker.begin_episode(0, "move")
        state = RobotState.empty(fake_embodiment())
        worker.offer(state, 5)
        deadline = time.monotonic() + 10
        while (answer := worker.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert answer is not None and answer.observation_tick == 5
        np.testing.assert_array_equal(answer.chunk, fakes.chunk(0.5))
        assert not worker.dead() and worker.poll() is None
        worker.offer(state, 6)
        worker.begin_episode(1, "move")  # the answer to the last episode's picture is dropped
        time.sleep(0.2)
        assert worker.poll() is None
        assert worker.silence_s(time.monotonic_ns()) < 0.1
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.05)  # one control period
        assert worker.dead()
        worker.offer(state, 7)  # must not raise: the loop goes on holding
        assert "exit code -9" in worker.last_words()
    finally:
        worker.close()
    worker.close()


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        ("make_wrong_shape", ValueError, r"shape \(8, 3\).*takes\s+\(horizon, 4\)"),
        ("make_broken", RuntimeError, "no such weights"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_the_arm_moves(
    fakes: ModuleType, tmp_path: Path, policy: str, error: type, message: str
):
    with pytest.raises(error, match=message):
        run(getattr(fakes, policy), fakes.gantry, out=tmp_path, limits=fakes.LIMITS, video=False)
    assert not (tmp_path / "results.json").exists()


def test_what_cannot_be_run_is_refused_at_once(tmp_path: Path, fakes: ModuleType):
    with pytest.raises(ValueError, match="unknown robot 'sin'.*Did you mean 'sim'.*Known: .*ur"):
        run(fakes.make_still, robot="sin", out=tmp_path)
    with pytest.raises(ValueError, match="at least 1 episode"):
        run(fakes.make_still, episodes=0, out=tmp_path)
    with pytest.raises(ValueError, match="cannot be sent to the inference process"):
        run(lambda: fakes.make_still(), out=tmp_path)


def test_the_simulated_arm_keeps_the_contract_and_obeys_each_command_once(fakes: ModuleType):
    robot = SimRobot("gantry", fakes.make_env)
    check_robot(robot, lambda: time.sleep(0.12))
    robot.connect()
    try:
        with pytest.raises(ValueError, match="unknown instruction 'dance'"):
            robot.start_episode(0, "dance")
        robot.start_episode(0, None)
        robot.send(np.array([1.0, 0.0, 0.0, 1.0]))
        time.sleep(0.2)
        state = robot.read()
        assert state.state[0] == pytest.approx(0.01), "one command, one period of motion"
        assert state.state[3] == 1.0, "the gripper stays as it was told"
        assert 0 <= time.monotonic_ns() - state.time_ns < 150_000_000
        robot.send(np.array([1.0, 0.0, 0.0, 1.0]))
        robot.hold()
        time.sleep(0.12)
        assert robot.read().state[0] == pytest.approx(0.01), "hold overrules a command"
        end = robot.finish_episode(None)
        assert (end.success, end.outcome) == (False, "none")
        assert end.counters["held_ticks"] >= 3
        moves = end.streams["action_applied"][:, 0]
        assert moves.sum() == 1.0 and len(moves) == len(end.streams["simulator_state"])
    finally:
        robot.disconnect()


def test_a_simulation_that_cannot_keep_up_says_so(fakes: ModuleType):
    robot = SimRobot("gantry", fakes.make_slow_env)
    robot.connect()
    try:
        robot.start_episode(0, None)
        time.sleep(0.5)
        assert robot.finish_episode(None).counters["overruns"] >= 2
    finally:
        robot.disconnect()


def test_a_simulation_that_cannot_start_gives_its_traceback(fakes: ModuleType):
    robot = SimRobot("gantry", fakes.make_broken_env)
    with pytest.raises(RuntimeError, match="the gantry is bent"):
        robot.connect()
    robot.disconnect()
    with pytest.raises(Stopped):
        SimRobot("gantry", fakes.make_env).connect(stopping=lambda: True)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_supervisor_ends_everything(tmp_path: Path, kill: signal.Signals):
    """Ctrl-C reaches the whole group, as from a terminal; kill -9 only the supervisor."""
    named = set(os.listdir("/dev/shm"))
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "deploy_robot_fakes.py", str(tmp_path)],
        cwd=here,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    group = process.pid
    deadline = time.monotonic() + 30
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(group_members(group)) >= 4, "supervisor, control, inference and arm should run"
    if kill == signal.SIGINT:
        os.killpg(group, kill)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while group_members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_members(group), "somebody outlived the run"
    assert set(os.listdir("/dev/shm")) <= named
    if kill == signal.SIGINT:
        assert "KeyboardInterrupt" in errors and "Error" not in errors, errors
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["stopped"]["reason"] == "manual_stop"
        assert not np.load(tmp_path / "ticks.npz")["action_sent"][-1, :3].any()


def group_members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_policy_of_another_embodiment_is_refused(fakes: ModuleType, tmp_path: Path):
    other = replace(fakes.GantryEnv().embodiment, name="crane", control_hz=10.0)
    with pytest.raises(
        ValueError, match="name is .*, trained with 'crane'; control_hz is 20.0, trained with 10.0"
    ):
        run(
            fakes.make_forward,
            fakes.gantry,
            out=tmp_path,
            execution_horizon=4,
            limits=fakes.LIMITS,
            video=False,
            trained_for=other,
        )
    assert not (tmp_path / "results.json").exists()
