"""A policy on the vla-eval harness: the recorded shape of its messages, chunks, refusals."""

import io
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from policy_helpers import make_policy, make_stats

from ulna.datasets.schema import Observation
from ulna.envs.libero_tasks import embodiment_of
from ulna.envs.vla_eval_messages import pack, unpack
from ulna.envs.vla_eval_server import VlaEvalConfig, VlaEvalServer
from ulna.policies.checkpoint import save_policy

msgpack = pytest.importorskip("msgpack", reason="msgpack is not installed")
client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")

BODY = embodiment_of()
CONFIG = VlaEvalConfig(port=0, execution_horizon=3)


class Counter:
    """Chunks that say which call and which row they are."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def __call__(self, observation: Observation) -> np.ndarray:
        self.seen.append(observation)
        rows = np.arange(8)[:, None] + 100.0 * len(self.seen)
        return np.repeat(rows, 7, axis=1).astype(np.float32)


@pytest.fixture
def act() -> Counter:
    return Counter()


@pytest.fixture
def server(act: Counter) -> Iterator[VlaEvalServer]:
    with VlaEvalServer(act, BODY, CONFIG) as made:
        yield made


def png(frame: np.ndarray) -> dict[str, Any]:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, format="PNG")
    shape = list(frame.shape)
    return {"__image__": True, "format": "png", "data": data.getvalue(), "shape": shape}


def array(values: np.ndarray) -> dict[str, Any]:
    return {
        "__ndarray__": True,
        "data": values.tobytes(),
        "dtype": values.dtype.str,
        "shape": list(values.shape),
    }


def observation(tick: int) -> dict[str, Any]:
    """As vla-eval 0.8 sends LIBERO's, before msgpack."""
    frame = np.full((256, 256, 3), tick, np.uint8)
    return {
        "images": {"agentview": png(frame), "wrist": png(frame + 1)},
        "task_description": "put the bowl on the plate",
        "states": array(np.arange(8.0) + tick),
        "controller_states": array(np.zeros(8)),
    }


class Line:
    """The client's end."""

    def __init__(self, url: str) -> None:
        self.socket = client.connect(url, compression=None).__enter__()
        self.number = 0

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        self.number += 1
        message = {"type": kind, "payload": payload, "seq": self.number, "timestamp": 0.0}
        self.socket.send(msgpack.packb(message, use_bin_type=True))

    def ask(self, kind: str, payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self.send(kind, payload)
        said, answer, number = unpack(self.socket.recv(timeout=10))
        assert number == self.number
        return said, answer


def test_chunks_are_executed_here(server: VlaEvalServer, act: Counter) -> None:
    line = Line(server.url)
    said, hello = line.ask("hello", {"harness_version": "0.8.0", "protocol_version": 1})
    assert said == "hello" and hello["protocol_version"] == 1
    assert hello["observation_params"] == {"send_wrist_image": True, "send_state": True}
    task = {"suite": "libero_goal", "name": "put the bowl on the plate", "episode_idx": 4}
    line.send("episode_start", {"task": task})
    actions = [line.ask("observation", observation(t))[1]["actions"] for t in range(5)]
    assert [action[0] for action in actions] == [100, 101, 102, 200, 201]
    assert actions[0].shape == (7,) and actions[0].dtype == np.float32
    first, second = act.seen
    assert first.instruction == "put the bowl on the plate"
    assert first.images["front"].max() == 0 and second.images["wrist"].max() == 4
    np.testing.assert_array_equal(second.state, np.arange(8.0) + 3)
    line.send("episode_start", {"task": task})
    line.ask("observation", observation(0))
    again = act.seen[-1]
    assert again.noise_seed == first.noise_seed != second.noise_seed
    line.send("episode_start", {"task": {**task, "episode_idx": 5}})
    line.ask("observation", observation(0))
    assert act.seen[-1].noise_seed != first.noise_seed
    line.socket.close()


def test_two_clients_do_not_mix(server: VlaEvalServer) -> None:
    lines = [Line(server.url) for _ in range(2)]
    for line in lines:
        line.send("episode_start", {"task": {"name": "a"}})
    got = [
        [line.ask("observation", observation(t))[1]["actions"][0] for line in lines]
        for t in range(3)
    ]
    assert got == [[100, 200], [101, 201], [102, 202]]


def test_what_is_wrong_is_said_and_the_line_stays(server: VlaEvalServer) -> None:
    line = Line(server.url)
    said, error = line.ask("observation", observation(0))
    assert said == "error" and "before an episode" in error["error"]
    line.send("episode_start", {})
    for change, words in (
        ({"states": array(np.zeros(7))}, "7 numbers; this policy was trained on 8"),
        ({"images": {"agentview": png(np.zeros((64, 64, 3), np.uint8))}}, r"(64, 64, 3)"),
        ({"images": {}}, "no image 'agentview'"),
    ):
        said, error = line.ask("observation", {**observation(0), **change})
        assert said == "error" and words in error["error"]
    line.send("observation", {**observation(0), "states": array(np.array(["a"]))})
    said, error, _ = unpack(line.socket.recv(timeout=10))  # unreadable: no number to answer to
    assert said == "error" and "only numbers" in error["error"]
    assert line.ask("observation", observation(0))[0] == "action"


def test_only_with_the_token(act: Counter) -> None:
    with VlaEvalServer(act, BODY, replace(CONFIG, token="s3cret")) as server:
        Line(server.url).socket.close()
        with pytest.raises(Exception, match="403"):
            client.connect(server.url.replace("s3cret", "other"))
        health = server.url.replace("ws://", "http://").replace("s3cret", "health")
        assert urllib.request.urlopen(health, timeout=10).read() == b'{"status": "ok"}\n'


def test_refusals(act: Counter) -> None:
    with pytest.raises(ValueError, match="give a token"):
        VlaEvalServer(act, BODY, replace(CONFIG, host="0.0.0.0"))
    with pytest.raises(ValueError, match="map each of the policy's cameras once"):
        VlaEvalServer(act, BODY, replace(CONFIG, cameras={"front": "agentview"}))
    with pytest.raises(ValueError, match="type, payload and seq"):
        unpack(msgpack.packb({"type": "hello"}))
    with pytest.raises(ValueError, match="no msgpack"):
        unpack(b"\xc1")
    with pytest.raises(ValueError, match="type 'run'"):
        unpack(pack("run", {}, 1))


def test_the_command_serves_a_trained_policy(tmp_path: Path) -> None:
    policy = make_policy()
    save_policy(tmp_path / "policy", policy, make_stats())
    (tmp_path / "token").write_text("a-token-long-enough")
    ours = [f"{camera.name}=their_{camera.name}" for camera in policy.embodiment.cameras]
    command = [sys.executable, "-m", "ulna.cli", "serve-vla-eval", str(tmp_path / "policy")]
    command += ["--port", "0", "--token-file", str(tmp_path / "token"), "--cameras", *ours]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            assert url.endswith("/a-token-long-enough")
            line = Line(url)
            line.send("episode_start", {"task": {"name": "a"}})
            payload = {
                "images": {
                    f"their_{camera.name}": png(
                        np.zeros((camera.height, camera.width, 3), np.uint8)
                    )
                    for camera in policy.embodiment.cameras
                },
                "task_description": "pick up the red cube",
                "states": array(np.zeros(policy.embodiment.state_dim)),
            }
            said, answer = line.ask("observation", payload)
            assert said == "action" and answer["actions"].shape == (policy.embodiment.action_dim,)
            line.socket.close()
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
