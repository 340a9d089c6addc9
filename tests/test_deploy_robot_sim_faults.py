"""Injected faults: the words, the lines of commands and frames, and the arms that have them."""

import importlib
import math
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ulna.deploy_robot.joint_robot_sim import HOME_RAD, SimJointsConfig
from ulna.deploy_robot.robot import RobotState, fake_embodiment
from ulna.deploy_robot.robot_health import overdue
from ulna.deploy_robot.robots import sim_joints
from ulna.deploy_robot.sim_faults import CommandLine, FrameLine, SimFaults, follow, parse_faults
from ulna.deploy_robot.sim_robot import SimRobot

MS = 1_000_000


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("deploy_robot_fakes")


def image(shade: int) -> np.ndarray:
    return np.full((2, 2, 3), shade, np.uint8)


def test_the_words_of_the_command_line():
    assert parse_faults("") == SimFaults()
    assert parse_faults(
        "camera_delay=0.08, drop=0.1,seed=3,camera_death_s=2,dead_camera=wrist"
    ) == (SimFaults(camera_delay_s=0.08, drop=0.1, seed=3, camera_death_s=2.0, dead_camera="wrist"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera_delya=0.1", "unknown fault 'camera_delya'.*Did you mean 'camera_delay'"),
        ("drop", "not of the form word=value"),
        ("drop=many", "give a number"),
        ("seed=0.5", "give an integer"),
        ("drop=0.1,drop=0.2", "given twice"),
        ("camera_delay=0.1,camera_delay_s=0.2", "given twice"),
        ("drop=1", "below 1"),
        ("servo_lag=-1", "seconds from 0"),
        ("camera_delay=nan", "seconds from 0"),
        ("link_loss=0", "more than 0"),
    ],
)
def test_words_that_mean_nothing_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_faults(text)


def test_commands_arrive_late_and_in_order():
    line = CommandLine(SimFaults(command_delay_s=0.03))
    for n in range(3):
        line.push(n * 10 * MS, n == 1, np.array([float(n)]))
    assert line.arrived(29 * MS) is None
    first = line.arrived(30 * MS)
    assert first is not None and first[:2] == (30 * MS, False) and first[2].tolist() == [0.0]
    newest = line.arrived(60 * MS)
    assert newest is not None and newest[0] == 50 * MS and newest[2].tolist() == [2.0]
    assert line.arrived(90 * MS) is None


def test_frames_come_late_with_the_time_they_were_taken():
    line = FrameLine(SimFaults(camera_delay_s=0.08), "front", 0, 1)
    line.start(0)
    for n in range(10):
        line.push(n * 20 * MS, image(n))
    assert line.arrived(79 * MS) is None
    found = line.arrived(125 * MS)
    assert found is not None and found[0] == 40 * MS and found[1][0, 0, 0] == 2


def test_dropped_frames_are_the_same_for_the_same_seed_and_never_the_first():
    def dropped(seed: int, number: int) -> list[int]:
        line = FrameLine(SimFaults(drop=0.3, seed=seed), f"camera{number}", number, 2)
        line.start(0)
        lost = []
        for n in range(2000):
            line.push(n, image(0))
            if line.arrived(n) is None:
                lost.append(n)
        assert line.dropped == len(lost)
        return lost

    first = dropped(1, 0)
    assert first == dropped(1, 0) and first != dropped(2, 0) and first != dropped(1, 1)
    assert 0 not in first and 500 < len(first) < 700


def test_a_dead_camera_gives_nothing_more_and_only_it_does():
    for name, number, alive in (("front", 0, True), ("wrist", 1, False)):
        line = FrameLine(SimFaults(camera_death_s=0.1, dead_camera="wrist"), name, number, 2)
        line.start(0)
        line.push(99 * MS, image(1))
        assert line.arrived(99 * MS) is not None
        line.push(100 * MS, image(2))
        assert (line.arrived(10_000 * MS) is not None) == alive


def test_a_lagging_servo_is_63_percent_there_after_its_time_constant():
    arm = np.zeros(1)
    for _ in range(50):
        arm = follow(arm, np.ones(1), 0.002, 0.1)
    assert arm[0] == pytest.approx(1 - math.exp(-1))
    np.testing.assert_array_equal(follow(arm, np.ones(1), 0.002, 0.0), [1.0])


def test_what_is_overdue_is_named():
    state = RobotState.empty(fake_embodiment())
    state.time_ns, state.image_time_ns[:] = 2000 * MS, 1600 * MS
    assert overdue(state, ["front"], 2099 * MS) == ""
    assert overdue(state, ["front"], 2101 * MS).startswith("no frame of front for 0.50 s")
    assert overdue(state, ["front"], 3001 * MS).startswith("no measurement for 1.00 s")


def test_a_simulated_arm_with_faults_lives_them(fakes: ModuleType):
    """Delayed frames, late commands, then the camera dies, then the link."""
    faults = parse_faults("camera_delay=0.2,command_delay=0.1,camera_death=1.5,link_loss=2.5")
    robot = SimRobot("gantry", fakes.make_env, faults)
    robot.connect()
    try:
        assert robot.action_latency_s == pytest.approx(0.125)
        start_s = time.monotonic()
        robot.start_episode(0, None)
        robot.send(np.array([1.0, 0.0, 0.0, 1.0]))
        time.sleep(0.06)
        assert robot.read().state[0] == 0.0, "the command is still on its way"
        time.sleep(0.6)
        state = robot.read()
        assert state.state[0] == pytest.approx(0.01), "it came, and was obeyed for one period"
        behind_s = (state.time_ns - state.image_time_ns[0]) * 1e-9
        assert 0.2 <= behind_s < 0.45 and robot.fault() == ""
        while not (fault := robot.fault()) and time.monotonic() < start_s + 8:
            time.sleep(0.02)
            robot.read()
        assert "no frame of front" in fault
        time.sleep(max(0.0, start_s + 3.2 - time.monotonic()))
        robot.send(np.array([1.0, 0.0, 0.0, 1.0]))
        time.sleep(0.3)
        assert "link to the simulated gantry is lost" in robot.fault()
        assert robot.read().state[0] == pytest.approx(0.01), "no command reaches it any more"
        assert robot.finish_episode(None).counters["held_ticks"] > 20
    finally:
        robot.disconnect()


def test_an_unknown_camera_cannot_die(fakes: ModuleType):
    robot = SimRobot("gantry", fakes.make_env, SimFaults(camera_death_s=1.0, dead_camera="left"))
    with pytest.raises(ValueError, match="unknown camera in the faults 'left'.*front"):
        robot.connect()


def test_the_joint_arm_follows_positions_at_its_servo_rate_until_its_link_is_cut():
    robot = sim_joints(
        SimJointsConfig(hz=500.0, camera_hz=20.0, image_size=32, faults=SimFaults(link_loss_s=4.0))
    )
    robot.connect()
    try:
        start_s = time.monotonic()
        robot.start_episode(1, None)
        state = robot.read()
        home = state.joint_position_rad.copy()
        assert np.abs(home - HOME_RAD).max() < 0.05
        assert state.images["front"].std() > 5, "a picture of something"
        frame, frame_ns = state.images["front"].copy(), state.image_time_ns[0]
        for n in range(250):
            robot.send(np.append(home + [0.4 * n / 250, 0, 0, 0, 0, 0, 0], 1.0))
            time.sleep(0.002)
        time.sleep(0.3)
        state = robot.read()
        moved = state.joint_position_rad - home
        assert moved[0] == pytest.approx(0.4, abs=0.01) and np.abs(moved[1:]).max() < 0.02
        assert state.state[7] < 0.01, "the gripper has closed"
        assert state.image_time_ns[0] > frame_ns and (state.images["front"] != frame).any()
        robot.hold()
        time.sleep(max(0.0, start_s + 5.0 - time.monotonic()))
        assert "was cut after 4 s" in robot.fault()
        end = robot.finish_episode(None)
        speed = end.streams["simulator_state"][:, 7:14]
        assert np.abs(speed).max() < 3.0 and np.abs(speed[-10:]).max() < 0.01
        assert np.diff(end.streams["measured_time_ns"]).min() >= 0
    finally:
        robot.disconnect()
