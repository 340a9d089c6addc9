"""A policy of LeRobot data that spawned processes can import (see `deploy_robot_fakes.py`)."""

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ulna.datasets.schema import Act, Observation
from ulna.datasets.store import Store
from ulna.deploy_robot.joint_robot import JointArm, JointArmConfig
from ulna.deploy_robot.lerobot_robot import LeRobotDriver

HORIZON = 12


def make_copying(folder: str, plans: str = "") -> Act:
    """Does what the demonstrations did from the recorded state nearest to the present one. So it
    is lost unless states come, and chunks go, in the demonstrations' own units. Writes the plans
    it is told into the folder `plans`."""
    store = Store.open(Path(folder))
    states = [store.read("state", index) for index in range(len(store.episodes))]
    actions = [store.read("action", index) for index in range(len(store.episodes))]

    def act(observation: Observation) -> np.ndarray:
        if observation.planned is not None and plans:
            np.save(Path(plans) / f"{observation.noise_seed}.npy", observation.planned)
        off = [np.abs(rows - observation.state).sum(axis=1) for rows in states]
        episode = int(np.argmin([rows.min() for rows in off]))
        start = int(np.argmin(off[episode]))
        rows = np.minimum(start + np.arange(HORIZON), len(actions[episode]) - 1)
        return actions[episode][rows]

    return act


def make_nothing() -> Act:
    raise AssertionError("refused before anything is loaded")


def make_robot(folder: str) -> JointArm:
    """LeRobot's own kind of arm, without wires."""
    make = functools.partial(_lerobot_arm, folder)
    driver = functools.partial(LeRobotDriver, "ulna_test_arm", make, 30.0, 60.0)
    return JointArm(JointArmConfig("fake lerobot", "reach"), driver, 60.0)


def _lerobot_arm(folder: str) -> Any:
    return importlib.import_module("lerobot_fake_arm").make_arm({"port": folder})
