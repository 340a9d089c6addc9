"""The drivers of UR and Franka arms against fakes of their libraries, in this process."""

import inspect
import subprocess
import sys
import time
from pathlib import Path

import arm_fakes
import numpy as np
import pytest

from ulna.deploy_robot.franka_hand import FrankaHand, HandTurns
from ulna.deploy_robot.franka_robot import FrankaConfig, FrankaDriver
from ulna.deploy_robot.joint_robot_driver import DeviceClock, LinkLost
from ulna.deploy_robot.joint_robot_process import measurement_record
from ulna.deploy_robot.ur_robot import UrConfig, UrDriver

UR_TARGET = np.array([0.1, -1.1, 1.4, -1.8, -1.5, 0.2])


@pytest.fixture
def ur(tmp_path: Path):
    driver = UrDriver(UrConfig(str(tmp_path), gripper_output=3), arm_fakes.fake_ur)
    yield driver, arm_fakes.wire(str(tmp_path)), tmp_path
    driver.close()


@pytest.fixture
def franka(tmp_path: Path):
    driver = FrankaDriver(FrankaConfig(str(tmp_path)), arm_fakes.fake_franky, InlineHand)
    yield driver, arm_fakes.wire(str(tmp_path)), tmp_path
    driver.close()


class InlineHand(FrankaHand):
    """The gripper's turns without their process."""

    def connect(self) -> None:
        host, speed_m_s, force_n, find_library = self._arguments
        self.turns = HandTurns(find_library().Gripper(host), speed_m_s, force_n)
        self.wish = None

    def obey(self, close: bool) -> None:
        self.wish = close
        self.read_width_m()

    def read_width_m(self) -> float:
        return self.turns.step(self.wish, time.monotonic())

    def fault(self) -> str:
        return ""


def names(wire: arm_fakes.Wire) -> list[str]:
    return [name for name, _ in wire.calls]


def measured(driver, embodiment) -> dict[str, np.ndarray]:
    slot = measurement_record(embodiment).begin()
    driver.measure(slot)
    return slot


def test_ur_streams_servoj_and_measures(ur):
    driver, wire, _ = ur
    embodiment = driver.open()
    assert embodiment.action_names[0] == "shoulder_pan.pos" and embodiment.action_dim == 7
    assert ("setWatchdog", (10.0,)) in wire.calls
    driver.start(0)
    before_ns = time.monotonic_ns()
    slot = measured(driver, embodiment)
    np.testing.assert_allclose(slot["joint_position_rad"], arm_fakes.REST_RAD)
    np.testing.assert_allclose(slot["state"], [*arm_fakes.REST_RAD, -1.0], rtol=1e-6)
    assert abs(int(slot["time_ns"]) - before_ns) < 50_000_000
    driver.command(np.append(UR_TARGET, 1.0))
    driver.command(np.append(UR_TARGET, 1.0))
    servo = [arguments for name, arguments in wire.calls if name == "servoJ"]
    assert servo == [(UR_TARGET.tolist(), 0.0, 0.0, 0.002, 0.1, 300.0)] * 2
    outputs = [arguments for name, arguments in wire.calls if name == "setStandardDigitalOut"]
    assert outputs == [(3, True)], "the gripper is told once"
    driver.hold()
    assert wire.calls[-1] == ("servoStop", (2.0,)) and driver.fault() == ""
    assert names(wire).count("kickWatchdog") == 1, "at the watchdog's rate, not at 500 Hz"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("safety_bits", "4", "protective stop"),
        ("safety_bits", "192", "emergency stop of the robot, emergency stop"),
        ("mode", "5", "robot mode 5"),
    ],
)
def test_ur_is_not_touched_while_it_is_stopped(ur, file: str, text: str, reason: str):
    driver, wire, folder = ur
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=f"must not be moved: {reason}"):
        driver.open()
    assert "upload" not in names(wire)


def test_ur_says_at_once_what_went_wrong(ur):
    driver, wire, folder = ur
    driver.open()
    driver.start(0)
    assert driver.fault() == ""
    (folder / "slider").write_text("0.4")
    assert driver.fault() == "" and driver.finish()[0] == {"reduced_speed_periods": 1}
    (folder / "program_ended").touch()
    assert "control program on the arm has ended" in driver.fault()
    (folder / "safety_bits").write_text("5")
    assert driver.fault() == "protective stop"
    with pytest.raises(LinkLost, match="servoJ was refused: protective stop"):
        driver.command(np.append(UR_TARGET, -1.0))
    (folder / "unplugged").touch()
    assert "lost" in driver.fault()
    driver.close()
    driver.close()
    assert names(wire)[-5:] == [
        "servoStop", "stopScript", "control.disconnect", "receive.disconnect", "io.disconnect"
    ]  # fmt: skip


def test_ur_speed_slider_and_configuration(tmp_path: Path):
    (tmp_path / "slider").write_text("0.4")
    driver = UrDriver(UrConfig(str(tmp_path)), arm_fakes.fake_ur)
    assert driver.open().action_dim == 6
    assert driver.notes == ("the speed slider stands at 40%: the arm lags behind its commands",)
    for wrong in ({"host": ""}, {"gain": 50.0}, {"hz": 1000.0}, {"lookahead_s": 0.01}):
        with pytest.raises(ValueError):
            UrConfig(**{"host": "x", **wrong})


def test_franka_tracks_joint_positions_and_keeps_stiff_when_held(franka):
    driver, wire, _ = franka
    embodiment = driver.open()
    assert embodiment.joint_low_rad[3] == -3.0421 and embodiment.action_dim == 8
    assert "track" not in names(wire), "connecting takes no control"
    driver.start(0)
    driver.start(1)
    assert names(wire).count("track") == 1
    slot = measured(driver, embodiment)
    assert slot["state"][7] == pytest.approx(0.05) and slot["joint_position_rad"][3] == -2.1
    target = np.array([0.1, 0.2, 0.0, -2.0, 0.0, 2.3, 0.7])
    driver.command(np.append(target, 1.0))
    driver.command(np.append(target, 1.0))
    driver.command(np.append(target, -1.0))
    assert names(wire).count("grasp_async") == names(wire).count("move_async") == 1
    driver.hold()
    assert wire.calls[-1][0] == "set_target" and driver.fault() == ""
    np.testing.assert_array_equal(wire.calls[-1][1][0], target)
    driver.close()
    driver.close()
    assert names(wire)[-1] == "stop"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("errors", "", r"errors on the arm: .*joint_velocity_violation"),
        ("mode", "5", "mode UserStopped, not Idle"),
        ("mode", "4", "mode Reflex"),
    ],
)
def test_franka_is_not_touched_while_it_is_stopped(franka, file: str, text: str, reason: str):
    driver, _, folder = franka
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=reason):
        driver.open()


def test_franka_says_at_once_what_went_wrong(franka):
    driver, _, folder = franka
    embodiment = driver.open()
    driver.start(0)
    assert driver.fault() == ""
    (folder / "reflex").touch()
    with pytest.raises(LinkLost, match="cartesian_reflex"):
        driver.fault()
    (folder / "reflex").unlink()
    (folder / "controller_ended").touch()
    assert driver.fault() == "the controller on the arm has ended"
    (folder / "controller_ended").unlink()
    (folder / "frozen_at").write_text("7.5")
    with pytest.raises(LinkLost, match="no new state for 0.1"):
        for _ in range(40):
            measured(driver, embodiment)
            time.sleep(0.01)
    (folder / "unplugged").touch()
    with pytest.raises(LinkLost, match="Timeout"):
        measured(driver, embodiment)
    with pytest.raises(LinkLost, match="Timeout"):
        driver.command(np.zeros(8))
    driver.close()


def test_the_hand_takes_one_command_after_the_other(tmp_path: Path):
    wire = arm_fakes.wire(str(tmp_path))
    turns = HandTurns(arm_fakes.Gripper(str(tmp_path)), 0.1, 20.0)
    assert turns.step(None, 0.0) == 0.05 and names(wire) == []
    (tmp_path / "hand_busy").touch()
    turns.step(True, 0.0)
    turns.step(False, 0.1)
    turns.step(True, 0.2)
    turns.step(False, 7.9)
    assert names(wire) == ["grasp_async"], "the others wait for it"
    with pytest.raises(LinkLost, match="did not finish a command in 8 s"):
        turns.step(False, 8.1)
    (tmp_path / "hand_busy").unlink()
    turns.step(False, 8.2)
    turns.step(False, 8.3)
    assert wire.calls[-1] == ("move_async", (0.08, 0.1)) and len(wire.calls) == 2


def test_a_hand_that_dies_is_a_fault_of_the_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    hand = FrankaHand(str(tmp_path), 0.1, 20.0, arm_fakes.fake_franky)
    hand.connect()
    try:
        hand.obey(True)
        assert hand.read_width_m() == 0.05 and hand.fault() == ""
        (tmp_path / "hand_unplugged").touch()
        deadline = time.monotonic() + 10
        while not hand.fault() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "the process of the gripper is gone" in hand.fault()
    finally:
        hand.close()
    hand.close()


def test_device_times_become_ours_whatever_the_network_adds():
    clock, delays_ns = DeviceClock(window_s=1.0), (9, 2, 7, 30, 2)
    times = [
        clock.monotonic_ns(50.0 + 0.1 * n, 7_000_000_000 + n * 100_000_000 + delay * 1_000_000)
        for n, delay in enumerate(delays_ns)
    ]
    # From the fastest packet on, all are stamped as if they had come as fast as that one.
    assert np.allclose(np.diff(times[1:]), 1e8, atol=1)
    # A device clock that runs fast by 1 ms a second is followed within two windows.
    drift = [
        clock.monotonic_ns(51.0 + n * 0.1001, 8_000_000_000 + n * 100_000_000) for n in range(60)
    ]
    lag_ns = 8_000_000_000 + 59 * 100_000_000 - drift[-1]
    assert abs(lag_ns) < 5_000_000


@pytest.mark.parametrize("package", ["rtde_receive", "rtde_control", "rtde_io", "franky"])
def test_the_fakes_have_the_names_of_the_real_libraries(package: str):
    real = pytest.importorskip(package)
    fakes = {
        "rtde_receive": [("RTDEReceiveInterface", arm_fakes.RTDEReceiveInterface)],
        "rtde_control": [("RTDEControlInterface", arm_fakes.RTDEControlInterface)],
        "rtde_io": [("RTDEIOInterface", arm_fakes.RTDEIOInterface)],
        "franky": [
            ("Robot", arm_fakes.FrankyRobot),
            ("JointImpedanceTracker", arm_fakes.JointImpedanceTracker),
            ("Gripper", arm_fakes.Gripper),
        ],
    }[package]
    for name, fake in fakes:
        called = [n for n, _ in inspect.getmembers(fake) if not n.startswith("_")]
        assert called and not [n for n in called if not hasattr(getattr(real, name), n)]


def test_the_arm_files_import_no_vendor_library_nor_torch():
    code = (
        "import sys, ulna.deploy_robot.robots\n"
        "print(*{'torch', 'mujoco', 'lerobot', 'franky', 'rtde_control'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
