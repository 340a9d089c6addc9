"""A robot, its observations and policies for the tests of remote policies; importable by spawned
processes, as `deploy_robot_fakes.py` is."""

from multiprocessing.connection import Connection
from typing import Any

import msgpack
import numpy as np

from ulna.datasets.schema import Camera, Embodiment, Observation
from ulna.deploy_robot.remote_messages import read
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.robot import fake_embodiment
from ulna.deploy_robot.serve import served_act

TOKEN = "a-token-of-the-tests"
ROBOT = Embodiment(
    name="gantry",
    control_hz=20.0,
    state_names=("x_m", "y_m"),
    action_names=("dx", "dy", "gripper"),
    action_low=(-1.0,) * 3,
    action_high=(1.0,) * 3,
    action_meaning="displacement",
    cameras=(Camera("front", 24, 32), Camera("wrist", 16, 16)),
)
HORIZON = 8


def packb(value: Any, **options: Any) -> bytes:
    """By the `msgpack` package itself, our witness."""
    data = msgpack.packb(value, **options)
    assert data is not None
    return data


def heard(data: Any, robot: Embodiment | None = None, history: int = 1) -> Any:
    """The message, of whichever kind the test expects."""
    return read(data, robot, history)


def observation(x: float = 0.5, **fields: Any) -> Observation:
    random = np.random.default_rng(0)
    images = {
        camera.name: random.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in ROBOT.cameras
    }
    words: dict[str, Any] = {
        "images": images,
        "state": np.array([x, 2.0], np.float32),
        "instruction": "lift",
    }
    return Observation(**{**words, **fields})


def several(history: int, **fields: Any) -> Observation:
    """As many observations at once, no two alike."""
    random = np.random.default_rng(1)
    images = {
        camera.name: random.integers(
            0, 256, (history, camera.height, camera.width, 3), dtype=np.uint8
        )
        for camera in ROBOT.cameras
    }
    state = random.normal(size=(history, 2)).astype(np.float32)
    return observation(**{"images": images, "state": state, **fields})


def echo(seen: Observation) -> np.ndarray:
    """A chunk that shows what was seen: x, the seed, the brightness of the first pixel."""
    pixel = seen.images["front"][0, 0, 0] / 255
    return np.tile(np.array([seen.state[0], seen.noise_seed, pixel], np.float32), (HORIZON, 1))


def serve_echo(connection: Connection, port: int = 0) -> None:
    """Child: a server until the parent is gone."""
    config = ServerConfig(port=port, token=TOKEN)
    with PolicyServer({"echo": served_act(echo, ROBOT)}, config) as server:
        connection.send(server.url)
        connection.poll(None)  # until the parent says something, or is gone


def serve_pushing(connection: Connection) -> None:
    """Child: the same for the arm of `FakeRobot`, always moving."""
    act = served_act(lambda seen: np.full((HORIZON, 4), 0.25, np.float32), fake_embodiment())
    with PolicyServer({"push": act}, ServerConfig(port=0, token=TOKEN)) as server:
        connection.send(server.url)
        connection.poll(None)  # until the parent says something, or is gone
