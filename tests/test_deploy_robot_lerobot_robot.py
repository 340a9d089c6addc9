"""LeRobot's robots and teleoperators, through lerobot's own classes and registry."""

import functools
import importlib
import math
import time
from pathlib import Path
from types import ModuleType

import arm_fakes
import numpy as np
import pytest

from ulna.deploy_robot.joint_robot_process import measurement_record
from ulna.deploy_robot.lerobot_devices import StampedCameras, _config, make_lerobot_robot
from ulna.deploy_robot.lerobot_robot import LeRobotDriver
from ulna.deploy_robot.lerobot_teleoperator import MAX_AGE_S, LeRobotTeleoperator, converter
from ulna.deploy_robot.lerobot_units import entries_of, to_ours, to_theirs
from ulna.deploy_robot.robot import RobotState, fake_embodiment


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("lerobot_fake_arm")


def opened(arms: ModuleType, folder: Path, **options: str):
    make = functools.partial(arms.make_arm, {"port": str(folder), **options})
    driver = LeRobotDriver("ulna_test_arm", make, 30.0, 60.0)
    embodiment = driver.open()
    driver.start(0)
    return driver, embodiment, measurement_record(embodiment).begin()


def test_degrees_become_radians_and_calibration_the_joint_limits(arms: ModuleType, tmp_path: Path):
    driver, embodiment, slot = opened(arms, tmp_path)
    try:
        assert embodiment.action_names == (
            "shoulder_pan.pos",
            "elbow_flex.pos",
            "gripper.pos_0_100",
        )
        assert embodiment.joint_names == ("shoulder_pan", "elbow_flex")
        limit = math.radians((3071 - 1024) / 2 * 360 / 4095)
        assert embodiment.joint_high_rad == pytest.approx((limit, limit))
        assert embodiment.action_low == pytest.approx((-limit, -limit, 0.0))
        assert embodiment.camera("wrist").width == 12 and embodiment.name == "ulna_test_arm"
        driver.measure(slot)
        np.testing.assert_allclose(slot["joint_position_rad"], np.radians([30.0, -45.0]))
        np.testing.assert_allclose(slot["state"], [*np.radians([30.0, -45.0]), 50.0], rtol=1e-6)
        driver.command(np.array([np.pi / 2, 0.1, 20.0]))
        assert driver._robot.sent[-1] == pytest.approx(
            {"shoulder_pan.pos": 90.0, "elbow_flex.pos": math.degrees(0.1), "gripper.pos": 20.0}
        )
        assert driver.notes == ()
    finally:
        driver.close()


def test_normalised_positions_are_not_taken_for_radians(arms: ModuleType, tmp_path: Path):
    driver, embodiment, _ = opened(arms, tmp_path, use_degrees="false", camera="false")
    driver.close()
    assert embodiment.action_names[0] == "shoulder_pan.pos_m100_100"
    assert embodiment.joint_names == () and "rad" not in embodiment.action_meaning
    assert (embodiment.action_low[0], embodiment.action_high[0]) == (-100.0, 100.0)
    assert "no joint limits in rad" in driver.notes[0]


def test_a_unit_nobody_tells_has_to_be_given(arms: ModuleType):
    with pytest.raises(ValueError, match="no motor bus of bare tells the unit of 'wrist.pos'"):
        entries_of(arms.bare(), ["wrist.pos"])
    entry = entries_of(arms.bare(), ["wrist.pos", "x.vel"], "degree")
    assert entry[0].joint == "wrist" and entry[1].name == "x.vel" and entry[1].scale == 1.0
    two = arms.bare(left_arm=arms.bare(bus=arms._TestBus(True)), right_arm=arms.bare())
    left = entries_of(two, ["left_elbow_flex.pos", "left_gripper.pos"])
    assert [e.name for e in left] == ["left_elbow_flex.pos", "gripper_left.pos_0_100"]
    values = {"left_elbow_flex.pos": 12.5, "left_gripper.pos": 3.0}
    assert to_theirs(left, to_ours(left, values)) == pytest.approx(values)
    with pytest.raises(ValueError, match="left_gripper.pos missing"):
        to_ours(left, {"left_elbow_flex.pos": 1.0})


def test_frames_carry_the_time_their_camera_gives(arms: ModuleType, tmp_path: Path):
    driver, _, slot = opened(arms, tmp_path)
    try:
        seen = []
        for _ in range(40):
            driver.measure(slot)
            now_ns = time.monotonic_ns()
            seen += [
                (now_ns, capture_ns, image[0, 0, 0]) for _, capture_ns, image in driver.frames()
            ]
            time.sleep(0.004)
        captured = np.array([capture_ns for _, capture_ns, _ in seen])
        ages_s = np.array([now_ns - capture_ns for now_ns, capture_ns, _ in seen]) * 1e-9
        assert 4 <= len(seen) < 40, "a frame is handed on once"
        assert (np.diff(captured) > 0).all() and ages_s.min() >= 0 and np.median(ages_s) < 0.1
        assert len({int(shade) for _, _, shade in seen}) == len(seen)
        (tmp_path / "dark").touch()
        time.sleep(0.05)
        driver.measure(slot)
        list(driver.frames())
        driver.measure(slot)
        assert not list(driver.frames()), "a frozen camera gives nothing new"
        time.sleep(0.5)
        with pytest.raises(TimeoutError):
            driver.measure(slot)
    finally:
        driver.close()


def test_a_camera_without_capture_times_is_stamped_on_arrival_and_that_is_said(arms: ModuleType):
    times = StampedCameras({"front": arms.bare(color_mode="rgb")}, ["front"])
    assert "front carry the time they arrived" in times.notes[0]
    assert times.capture_ns("front", np.zeros(1), times.before(), 123) == 123
    with pytest.raises(ValueError, match="gives BGR"):
        StampedCameras({"front": arms.bare(color_mode="bgr")}, ["front"])


def test_a_frame_that_changed_while_it_was_read_gets_the_older_time(arms: ModuleType):
    old, new = np.zeros(1), np.ones(1)
    camera = arms.bare(latest_timestamp=1.0, latest_frame=old)
    times = StampedCameras({"front": camera}, ["front"])
    before = times.before()
    camera.latest_timestamp, camera.latest_frame = 1.04, new
    assert before["front"] is not None
    assert times.capture_ns("front", new, before, 0) == before["front"] + 40_000_000
    assert times.capture_ns("front", old.copy(), before, 0) == before["front"]


def test_a_held_arm_keeps_its_goal_unless_that_is_far(arms: ModuleType, tmp_path: Path):
    driver, _, slot = opened(arms, tmp_path, camera="false")
    try:
        driver.measure(slot)
        driver.hold()
        assert driver._robot.sent == [], "nothing was commanded yet"
        driver.command(np.array([0.6, -0.7, 10.0]))
        driver.measure(slot)
        driver.hold()
        assert len(driver._robot.sent) == 1, "near its goal"
        driver._robot.position["shoulder_pan"] = 0.0
        driver.measure(slot)
        driver.hold()
        held = driver._robot.sent[-1]
        assert held["shoulder_pan.pos"] == pytest.approx(0.0, abs=1e-9)
        assert held["gripper.pos"] == 10.0 and held["elbow_flex.pos"] == pytest.approx(
            -40.107, abs=1e-3
        )
        assert driver.fault() == ""
        (tmp_path / "unplugged").touch()
        assert "not connected" in driver.fault()
    finally:
        driver.close()


def test_what_lerobot_does_not_know_is_refused_with_what_it_knows(arms: ModuleType, tmp_path: Path):
    with pytest.raises(ValueError, match="LeRobot does not understand.*prt"):
        arms.make_arm({"prt": "x"})
    with pytest.raises(ValueError, match="not calibrated; run lerobot-calibrate"):
        opened(arms, tmp_path, calibrated="false", camera="false")
    with pytest.raises(ValueError, match="unknown LeRobot robot 'so102_follower'.*so101_follower"):
        make_lerobot_robot("so102_follower", {"port": "x"})
    words = "{wrist: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}"
    options = {"port": "/dev/null", "id": "blue", "cameras": words}
    robots = importlib.import_module("lerobot.robots")
    config = _config(robots.RobotConfig, "robot", "so101_follower", options, "lerobot.robots")
    assert type(config).__name__ == "SOFollowerRobotConfig" and config.use_degrees
    assert (config.port, config.cameras["wrist"].fps) == ("/dev/null", 30)


def test_a_leader_arm_gives_actions_in_the_units_of_the_robot(arms: ModuleType, tmp_path: Path):
    driver, embodiment, _ = opened(arms, tmp_path, camera="false")
    driver.close()
    leader = LeRobotTeleoperator(functools.partial(arm_fakes.Leader, str(tmp_path)), embodiment)
    assert leader.action(RobotState.empty(embodiment)) is None
    leader.connect()
    try:
        state = RobotState.empty(embodiment)
        deadline = time.monotonic() + 10
        while (action := leader.action(state)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert action is not None
        np.testing.assert_allclose(action, [np.pi / 2, -np.pi / 6, 25.0])
        (tmp_path / "unplugged").touch()
        time.sleep(MAX_AGE_S + 0.2)
        assert leader.action(state) is None, "a hand that is gone moves nothing"
    finally:
        leader.disconnect()
    leader.disconnect()


def test_a_gamepad_moves_arms_of_tool_displacements_only(arms: ModuleType):
    pad = arms.make_leader({"gamepad": "true"})
    convert = converter(pad, fake_embodiment().action_names)
    np.testing.assert_array_equal(convert(pad.get_action()), [1.0, 0.0, -0.5, -1.0])
    follower = ("elbow_flex.pos", "gripper.pos_0_100", "shoulder_pan.pos")
    lead = converter(arms.make_leader({}), follower)
    np.testing.assert_allclose(lead(arms.make_leader({}).get_action()), [-np.pi / 6, 25, np.pi / 2])
    stay = convert({**pad.get_action(), "gripper": 1})
    assert stay[3] == -1.0
    with pytest.raises(ValueError, match="Displacements move only robots of dx"):
        converter(pad, ("elbow_flex.pos", "gripper"))
    with pytest.raises(ValueError, match="Use the leader of this robot"):
        converter(arms.make_leader({}), ("dx", "dy", "dz", "gripper"))
