"""One contract for every robot, and the names they go by."""

import functools
import importlib
import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ulna.deploy_robot.check_robot import check_robot
from ulna.deploy_robot.clock import FakeClock
from ulna.deploy_robot.franka_robot import FrankaConfig, FrankaDriver
from ulna.deploy_robot.joint_robot import JointArm, JointArmConfig
from ulna.deploy_robot.joint_robot_sim import SimJointsConfig
from ulna.deploy_robot.lerobot_robot import LeRobotDriver
from ulna.deploy_robot.robot import FakeRobot, Robot
from ulna.deploy_robot.robots import make_robot, sim_joints
from ulna.deploy_robot.sim_robot import SimRobot
from ulna.deploy_robot.ur_robot import UrConfig, UrDriver


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module


def fake_ur(fakes: Callable[[str], ModuleType], folder: Path) -> JointArm:
    driver = functools.partial(
        UrDriver, UrConfig(str(folder), hz=125.0), fakes("arm_fakes").fake_ur
    )
    return JointArm(JointArmConfig("fake ur", "reach"), driver, 125.0)


def fake_franka(fakes: Callable[[str], ModuleType], folder: Path) -> JointArm:
    driver = functools.partial(
        FrankaDriver, FrankaConfig(str(folder), hz=125.0), fakes("arm_fakes").fake_franky
    )
    config = JointArmConfig("fake franka", "reach")
    return JointArm(config, driver, 125.0, driver_has_children=True)


def fake_lerobot(fakes: Callable[[str], ModuleType], folder: Path) -> JointArm:
    arm = fakes("lerobot_fake_arm")
    make = functools.partial(arm.make_arm, {"port": str(folder)})
    driver = functools.partial(LeRobotDriver, "ulna_test_arm", make, 30.0, 60.0)
    return JointArm(JointArmConfig("fake lerobot", "reach"), driver, 60.0)


def sim(fakes: Callable[[str], ModuleType], folder: Path) -> SimRobot:
    return SimRobot("gantry", fakes("deploy_robot_fakes").make_env)


def sim_arm(fakes: Callable[[str], ModuleType], folder: Path) -> JointArm:
    return sim_joints(SimJointsConfig(hz=250.0, camera_hz=0.0))


@pytest.mark.parametrize("make", [sim, sim_arm, fake_ur, fake_franka, fake_lerobot])
def test_every_robot_keeps_the_contract(
    make: Callable[..., Robot], fakes: Callable[[str], ModuleType], tmp_path: Path
):
    robot = make(fakes, tmp_path)

    def stall(stalled: bool) -> None:
        os.kill(robot.device_pid, signal.SIGSTOP if stalled else signal.SIGCONT)  # type: ignore

    def unplug() -> None:
        (tmp_path / "unplugged").touch()
        if make in (sim, sim_arm):  # no cable: what stands for the controller is gone
            os.kill(robot.device_pid, signal.SIGKILL)  # type: ignore

    check_robot(robot, lambda: time.sleep(0.2), stall, unplug)


def test_the_fake_robot_keeps_the_contract_and_breaking_it_is_noticed():
    clock = FakeClock()
    robot = FakeRobot(clock.now_ns)

    def settle() -> None:
        clock.advance(100_000_000)

    check_robot(robot, settle, unplug=lambda: robot.inject("link_lost"))
    robot.inject("none")
    with pytest.raises(AssertionError, match="fault\\(\\) is empty"):
        check_robot(robot, settle, unplug=lambda: None)
    robot.send = lambda action: None  # type: ignore
    with pytest.raises(AssertionError, match="took a command with nan"):
        check_robot(robot, settle)


def test_a_robot_that_waits_for_its_device_fails_the_contract(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ulna.deploy_robot.check_robot._BLOCKED_S", 0.1)
    clock = FakeClock()
    robot = FakeRobot(clock.now_ns)
    device = SimpleNamespace(stalled=False)
    quick = robot.send

    def slow(action: np.ndarray) -> None:
        if device.stalled:
            time.sleep(0.5)
        quick(action)

    robot.send = slow  # type: ignore
    with pytest.raises(AssertionError, match="send\\(\\) waits"):
        check_robot(
            robot,
            lambda: clock.advance(100_000_000),
            lambda stalled: setattr(device, "stalled", stalled),
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sin", {}, r"unknown robot 'sin'.*Did you mean 'sim'.*ulna\[franka\]"),
        ("lerobot:koch_follower", {"unit": "grad"}, "unknown option unit 'grad'.*degree"),
        ("lerobot:", {}, "Give its type, as in lerobot:so101_follower"),
        ("sim", {"fault": "drop=0.1"}, "unknown option 'fault'.*faults"),
        ("sim", {"faults": "dorp=0.1"}, "unknown fault 'dorp'.*'drop'"),
        ("sim-joints", {"hz": "fast"}, "option hz is 'fast'; give a float"),
        ("sim-joints", {"hz": "2000"}, "hz <= 1000"),
        ("ur", {}, "UrConfig needs host"),
        ("ur", {"host": "1.2.3.4", "gian": "300"}, "unknown option 'gian'.*'gain'"),
        ("franka", {"host": "1.2.3.4", "model": "fr4"}, "option model 'fr4'.*Known: fr3, panda"),
    ],
)
def test_a_robot_that_cannot_be_made_says_what_can(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_robot(name, "reach", options)


def test_options_arrive_in_the_configuration():
    arm = make_robot(
        "franka",
        "reach",
        {
            "host": "1.2.3.4",
            "hand": "false",
            "stiffness": "[1,2,3,4,5,6,7]",
            "max_frame_age_s": "0.3",
            "action_latency_s": "0.02",
        },
    )
    assert isinstance(arm, JointArm)
    assert arm.config == JointArmConfig("franka 1.2.3.4", "reach", 0.02, max_frame_age_s=0.3)
    config = arm._make_driver.args[0]  # type: ignore
    assert config == FrankaConfig(
        "1.2.3.4", hand=False, stiffness=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    )


@pytest.mark.parametrize(("name", "extra"), [("ur", r"ulna\[ur\]"), ("franka", r"ulna\[franka\]")])
def test_a_missing_package_is_named_when_the_robot_connects(name: str, extra: str):
    package = {"ur": "rtde_control", "franka": "franky"}[name]
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ValueError, match=extra):
        make_robot(name, "reach", {"host": "203.0.113.1"}).connect()
