"""Policies of LeRobot data, in LeRobot's units, on a LeRobot arm that we drive in rad."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import policy_units_fakes
import pytest

from ulna.datasets.export_lerobot import export_lerobot
from ulna.datasets.import_episodes import import_episodes
from ulna.datasets.import_lerobot import LeRobotSource
from ulna.datasets.lerobot_joints import in_radians
from ulna.datasets.schema import Camera, Embodiment, Episode, Observation
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer
from ulna.deploy_robot.inference import PolicyUnavailable, Probing
from ulna.deploy_robot.lerobot_units import OwnUnits, entries_of
from ulna.deploy_robot.limits import ArmLimits
from ulna.deploy_robot.policy_units import (
    PolicyUnits,
    UnitMap,
    check_policy_units,
    speaking,
    unit_map,
)
from ulna.deploy_robot.run import run

KEYS = ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")
START, GOAL = np.array([30.0, -45.0, 50.0]), np.array([48.0, -20.0, 80.0])
"""Where the arm begins and where the demonstrations take it: degrees, and per cent."""
STEPS = 40
TRAINED = Embodiment(
    name="so_follower",
    control_hz=30.0,
    state_names=KEYS,
    action_names=KEYS,
    action_low=(30.0, -45.0, 50.0),
    action_high=(48.0, -20.0, 80.0),
    action_meaning="action of a LeRobotDataset",
    cameras=(Camera("wrist", 8, 12),),
)
LIMITS = ArmLimits(
    name="two joints",
    joint_names=("shoulder_pan", "elbow_flex"),
    position_low_rad=(-1.5, -1.5),
    position_high_rad=(1.5, 1.5),
    velocity_rad_s=(3.0, 3.0),
    unlimited=("acceleration", "jerk", "workspace", "collision", "tracking"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations as LeRobot has them (that LeRobot reads such a dataset as its own is seen
    in `test_datasets_lerobot.py`): degrees, names and no unit."""
    folder = tmp_path_factory.mktemp("lerobot")
    store = Store.create(folder / "made.zarr", TRAINED)
    with Writer(folder / "made.zarr") as writer:
        for seed, shift in enumerate((0.0, 2.0)):
            way = np.linspace(START + shift, GOAL, STEPS + 1).astype(np.float32)
            frames = np.zeros((STEPS, 8, 12, 3), np.uint8)
            streams = {"state": way[:-1], "action": way[1:]}
            writer.add_episode(Episode({"wrist": frames}, streams, "reach", "reach", seed, True))
    store.refresh()
    export_lerobot(store, folder / "reach")
    return folder / "reach"


def bus() -> SimpleNamespace:
    """A calibrated bus with what is asked of one; no lerobot to be imported."""
    modes = {"shoulder_pan": "degrees", "elbow_flex": "degrees", "gripper": "range_0_100"}
    return SimpleNamespace(
        motors={n: SimpleNamespace(norm_mode=mode, model="sts3215") for n, mode in modes.items()},
        calibration={
            n: SimpleNamespace(range_min=1024, range_max=3071, drive_mode=0) for n in modes
        },
        model_resolution_table={"sts3215": 4096},
    )


def own_units(keys: Sequence[str] = KEYS, **device: Any) -> OwnUnits:
    entries = tuple(entries_of(SimpleNamespace(**(device or {"bus": bus()})), list(keys), "degree"))
    return OwnUnits(entries, entries)


def arm_of(own: OwnUnits) -> Embodiment:
    return Embodiment(
        name="ulna_test_arm",
        control_hz=30.0,
        state_names=tuple(e.name for e in own.state),
        action_names=tuple(e.name for e in own.action),
        action_low=tuple(e.low for e in own.action),
        action_high=tuple(e.high for e in own.action),
        action_meaning="joints",
        cameras=(Camera("wrist", 8, 12), Camera("front", 8, 12)),
        joint_names=tuple(e.joint for e in own.state if e.joint),
    )


def mapped(
    units: PolicyUnits | None, trained_for: Embodiment | None, own: OwnUnits
) -> tuple[UnitMap, str]:
    found, notes = unit_map(units, trained_for, arm_of(own), own)
    assert found is not None
    return found, "; ".join(notes)


@pytest.mark.timeout(300)
def test_the_arm_ends_where_the_demonstrations_in_degrees_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """LeRobot's dataset -> import -> policy -> control loop, continuing plans -> LeRobot's arm."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the processes
    path, plans = tmp_path / "reach.zarr", tmp_path / "plans"
    plans.mkdir()
    import_episodes(dataset, path)
    trained_for = Store.open(path).embodiment
    assert trained_for.action_names == KEYS and trained_for.action_high[0] == pytest.approx(48.0)
    results = run(
        functools.partial(policy_units_fakes.make_copying, str(path), str(plans)),
        functools.partial(policy_units_fakes.make_robot, str(tmp_path)),
        episodes=1,
        instruction="reach",
        out=tmp_path / "out",
        execution_horizon=6,
        mode="rtc",
        max_episode_s=3.0,
        limits=LIMITS,
        video=False,
        trained_for=trained_for,
        policy_units="lerobot",
    )
    assert results["stopped"] is None and results["inference"]["answers"] > 3
    assert "gripper.pos 0_100" in results["notes"][-1]
    state = np.load(tmp_path / "out" / "ticks.npz")["state"]
    np.testing.assert_allclose(state[0], [*np.radians(START[:2]), START[2]], rtol=1e-5)
    np.testing.assert_allclose([*np.degrees(state[-1, :2]), state[-1, 2]], GOAL, atol=0.01)
    told = np.concatenate([np.load(plan) for plan in plans.iterdir()])
    assert (told[:, 0] > 29).all() and (told[:, 1] < -19).all(), "plans come back in degrees"


def test_without_a_word_about_units_the_policy_is_refused_and_told_which_word():
    own = own_units()
    with pytest.raises(ValueError, match=r"action_names is.*shoulder_pan.pos degree.*--policy-uni"):
        unit_map(None, TRAINED, arm_of(own), own)
    with pytest.raises(ValueError) as refusal:
        unit_map(None, replace(TRAINED, action_names=("a", "b", "c")), arm_of(own), own)
    assert "--policy-units" not in str(refusal.value), "no advice that does not help"


def test_imported_as_degrees_a_dataset_is_in_the_numbers_of_the_arm(dataset: Path, tmp_path: Path):
    path = tmp_path / "reach.zarr"
    import_episodes(dataset, path, options={"joint_unit": "degree"})
    store, own = Store.open(path), own_units()
    names = tuple(entry.name for entry in own.action)
    assert store.embodiment.state_names == store.embodiment.action_names == names
    expected = [*np.radians(GOAL[:2]), GOAL[2]]
    np.testing.assert_allclose(store.read("action", 1)[-1], expected, rtol=1e-6)
    np.testing.assert_allclose(store.embodiment.action_high, expected, rtol=1e-6)
    np.testing.assert_allclose(store.read("action_", 1)[-1], GOAL, rtol=1e-6)  # as it came
    units, _ = mapped("robot", store.embodiment, own)
    assert units.action == ((0, 1.0), (1, 1.0), (2, 1.0))
    out = tmp_path / "back"
    export_lerobot(store, out)
    back = LeRobotSource(out)
    assert back.embodiment.action_names == KEYS, "and it goes out as it came"
    np.testing.assert_array_equal(
        back.episode("000001")[0].streams["action"], store.read("action_", 1)
    )


def test_only_joints_become_radians():
    low, high = np.array([-9.0, 0.0, -1.0]), np.array([9.0, 100.0, 1.0])
    names, scales = in_radians(("left_elbow.pos", "left_gripper.pos", "x.vel"), low, high, "state")
    assert names == ("left_elbow.pos", "gripper_left.pos_0_100", "x.vel")
    np.testing.assert_array_equal(scales, [np.radians(1.0), 1.0, 1.0])
    with pytest.raises(ValueError, match="gripper.pos goes from -9 to 9.*expected in 0 .. 100"):
        in_radians(
            ("elbow.pos", "gripper.pos"), np.array([0.0, -9.0]), np.array([0.0, 9.0]), "state"
        )
    with pytest.raises(ValueError, match="called JOINT.pos, and there are none. It has: a, b"):
        in_radians(("a", "b"), np.zeros(2), np.ones(2), "state")


def test_degrees_in_another_order_go_there_and_back():
    turned = tuple(reversed(KEYS))
    trained = replace(
        TRAINED,
        action_names=turned,
        action_low=(50.0, -45.0, 30.0),
        action_high=(80.0, -20.0, 48.0),
    )
    units, notes = mapped("lerobot", trained, own_units())
    asked: list[Observation] = []

    def act(observation: Observation) -> np.ndarray:
        asked.append(observation)
        return np.array([[90.0, -10.0, 20.0], [91.0, -11.0, 21.0]], np.float32)

    rad = np.radians
    planned = np.array([[rad(5), rad(6), 7.0]], np.float32)
    frame = np.zeros((8, 12, 3), np.uint8)
    state = np.array([rad(1), rad(-2), 3.0], np.float32)
    seen = Observation({"wrist": frame, "front": frame}, state, "go", 4, planned, 1)
    chunk = speaking(act, units)(seen)
    np.testing.assert_allclose(chunk[0], [rad(20), rad(-10), 90.0], rtol=1e-6)
    np.testing.assert_allclose(asked[0].state, [1, -2, 3], rtol=1e-6)
    assert asked[0].planned is not None
    np.testing.assert_allclose(asked[0].planned, [[7, 6, 5]], rtol=1e-6)
    assert list(asked[0].images) == ["wrist"] and asked[0].state.dtype == np.float32
    assert (asked[0].instruction, asked[0].noise_seed, asked[0].inference_delay) == ("go", 4, 1)
    assert chunk.dtype == np.float32 and "trained for so_follower" in notes
    history = replace(
        seen, images={"wrist": np.stack([frame, frame])}, state=np.stack([state, 2 * state])
    )
    speaking(act, units)(history)
    np.testing.assert_allclose(asked[1].state, [[1, -2, 3], [2, -4, 6]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(2, 4\); expected \(horizon, 3\)"):
        speaking(lambda observation: np.zeros((2, 4), np.float32), units)(seen)


@pytest.mark.parametrize("drive_mode", [0, 1])
def test_minus_100_to_100_is_what_lerobot_makes_of_the_same_encoder(drive_mode: int):
    motors = pytest.importorskip("lerobot.motors")
    modes = motors.MotorNormMode

    def lerobots(use_degrees: bool) -> Any:
        made = bus()
        made.apply_drive_mode = True
        for number, (name, motor) in enumerate(made.motors.items(), 1):
            motor.norm_mode = modes.DEGREES if use_degrees else modes.RANGE_M100_100
            if name == "gripper":
                motor.norm_mode = modes.RANGE_0_100
            made.calibration[name] = motors.MotorCalibration(
                number, drive_mode, 0, 700 + 200 * number, 3000
            )
        made._id_to_name = dict(enumerate(made.motors, 1)).__getitem__
        made._id_to_model = lambda number: "sts3215"
        return made

    def theirs(use_degrees: bool) -> np.ndarray:
        normalize = motors.motors_bus.SerialMotorsBus._normalize
        return np.array(list(normalize(lerobots(use_degrees), encoder).values()))

    encoder = {1: 1234, 2: 2950, 3: 2000}
    own = own_units(bus=lerobots(True))
    units, _ = mapped("lerobot-m100", TRAINED, own)
    place, scale = np.array(units.action).T
    np.testing.assert_array_equal(place, [0, 1, 2])
    ours = theirs(True) * [e.scale for e in own.action]
    np.testing.assert_allclose(theirs(False) * scale, ours, rtol=1e-9)


def test_what_cannot_be_is_refused():
    own = own_units()
    arm = arm_of(own)
    with pytest.raises(ValueError, match="went from -45 to 150 in training.*cannot have been"):
        mapped(
            "lerobot-m100", replace(TRAINED, action_low=(-45.0,) * 3, action_high=(150.0,) * 3), own
        )
    with pytest.raises(ValueError, match="gripper.pos in 0_100, but gripper.pos went from -7"):
        mapped("lerobot", replace(TRAINED, action_low=(30.0, -45.0, -7.0)), own)
    _, notes = mapped("lerobot", replace(TRAINED, action_high=(175.0, -20.0, 80.0)), own)
    assert "went from 30 to 175 in training, this robot goes to 90 degree" in notes
    with pytest.raises(ValueError, match="leave out --policy-units lerobot"):
        mapped("lerobot", arm, own)
    with pytest.raises(ValueError, match="30 actions per second, ulna_test_arm takes 10; .*=30"):
        unit_map("lerobot", TRAINED, replace(arm, control_hz=10.0), own)
    with pytest.raises(ValueError, match="Nobody says elbow_flex.pos"):
        few = replace(
            TRAINED, action_names=KEYS[::2], action_low=(0.0, 0.0), action_high=(1.0, 1.0)
        )
        mapped("lerobot", few, own)
    with pytest.raises(ValueError, match="It has no main_gripper; .*other joints or other units"):
        mapped("lerobot", replace(TRAINED, state_names=(*KEYS[:2], "main_gripper")), own)
    with pytest.raises(ValueError, match=r"camera wrist.*\(8, 12\), in training it was \(16, 12\)"):
        mapped("lerobot", replace(TRAINED, cameras=(Camera("wrist", 16, 12),)), own)
    with pytest.raises(ValueError, match="unknown camera of .*'wist'. Did you mean 'wrist'"):
        mapped("lerobot", replace(TRAINED, cameras=(Camera("wist", 8, 12),)), own)
    with pytest.raises(ValueError, match="no calibration tells how far shoulder_pan.pos goes"):
        mapped("lerobot-m100", TRAINED, own_units(KEYS[:2], bus=None))
    with pytest.raises(ValueError, match="--policy-units lerobot: ur does not count in LeRobot's"):
        run(policy_units_fakes.make_nothing, "ur", policy_units="lerobot")
    with pytest.raises(ValueError, match="unknown policy units 'lerobt'.*Did you mean 'lerobot'"):
        check_policy_units("lerobt", None)


def test_a_policy_of_the_robots_own_numbers_from_data_that_did_not_say_so():
    own = own_units()
    arm = arm_of(own)
    low, high = tuple(x / 2 for x in arm.action_low), tuple(x / 2 for x in arm.action_high)
    seen = replace(arm, name="so_follower", action_low=low, action_high=high, action_meaning="?")
    with pytest.raises(ValueError, match="Names of actions agree.*--policy-units robot"):
        unit_map(None, seen, arm, own)
    units, notes = mapped("robot", seen, own)
    assert units.action == ((0, 1.0), (1, 1.0), (2, 1.0)) and "trained for so_follower" in notes
    assert unit_map("robot", arm, arm, None) == unit_map(None, arm, arm, own) == (None, [])
    with pytest.raises(ValueError, match="means shoulder_pan.pos in rad, but .*from -48 to 48"):
        mapped("robot", replace(seen, action_low=(-48.0,) * 3, action_high=(48.0,) * 3), own)


def test_a_policy_elsewhere_is_still_asked_whether_it_is_there():
    units, notes = mapped("lerobot", None, own_units())
    assert "taken as shoulder_pan.pos, elbow_flex.pos, gripper.pos, in this order" in notes

    class Elsewhere:
        def __call__(self, observation: Observation) -> np.ndarray:
            raise PolicyUnavailable("gone")

        def probe(self) -> bool:
            return False

    act = speaking(Elsewhere(), units)
    frame = np.zeros((8, 12, 3), np.uint8)
    with pytest.raises(PolicyUnavailable):
        act(Observation({"wrist": frame, "front": frame}, np.zeros(3, np.float32), "go"))
    assert isinstance(act, Probing) and not act.probe()
    assert not isinstance(speaking(lambda o: np.zeros((1, 3), np.float32), units), Probing)
