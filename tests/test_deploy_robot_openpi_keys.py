"""Servers and clients of openpi's that call things otherwise: `--openpi-keys`."""

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from remote_fakes import HORIZON, ROBOT, TOKEN, echo, observation, packb
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_websocket

from ulna.cli import main
from ulna.deploy_robot.remote_client import load_remote_act
from ulna.deploy_robot.remote_openpi import keys_for, keys_of_words
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.serve import served_act

CAMERAS = ("front", "wrist")
WORDS = {
    "front": "cams.top",
    "wrist": "cams.hand",
    "state": "obs/x:1,obs/y:1",
    "prompt": "task",
    "actions": "action",
}


def _packer(array: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str,
            b"shape": array.shape}  # fmt: skip


@contextlib.contextmanager
def strict_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """One that knows the keys of `WORDS` and no others, as openpi's input transforms do."""
    requests: list[dict[str, Any]] = []

    def handle(line: Any) -> None:
        line.send(packb({}))
        for data in line:
            message = msgpack.unpackb(data)
            requests.append(message)
            assert set(message) == {"cams", "obs/x", "obs/y", "task"}, set(message)
            line.send(packb({"action": np.ones((4, 3))}, default=_packer))

    with serve_websocket(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", requests
        server.shutdown()


def test_words_name_what_differs_from_a_preset():
    keys = keys_of_words(WORDS, CAMERAS)
    assert keys.images == {"front": "cams.top", "wrist": "cams.hand"}
    assert keys.state == (("obs/x", 1), ("obs/y", 1))
    assert (keys.prompt, keys.actions, keys.channels_first) == ("task", "action", False)
    assert keys_of_words({}, CAMERAS) == keys_for(CAMERAS)
    droid = keys_of_words({"preset": "droid", "wrist": "hand"}, CAMERAS)
    assert droid.images == {**keys_for(CAMERAS, "droid").images, "wrist": "hand"}
    assert droid.state == keys_for(CAMERAS, "droid").state
    aloha = keys_of_words({"preset": "aloha"}, CAMERAS)
    assert aloha.channels_first and aloha == keys_for(CAMERAS, "aloha")
    assert not keys_of_words({"preset": "aloha", "channels_first": "false"}, CAMERAS).channels_first
    assert keys_of_words({"state": "qpos"}, CAMERAS).state == (("qpos", -1),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"frnt": "a"}, "'frnt'. Did you mean 'front'. Known: actions, .*front, .*wrist"),
        ({"preset": "liberro"}, "unknown openpi preset 'liberro'. Did you mean 'libero'"),
        ({"front": "a", "wrist": "a"}, "'a' is that of front, wrist; give each camera its own"),
        ({"channels_first": "yes"}, "channels_first is 'yes'; true or false"),
        ({"state": "a:1,b"}, "how many entries each key takes; give KEY:ENTRIES,KEY:ENTRIES"),
        ({"state": "a:0"}, "how many entries"),
    ],
)
def test_a_typing_error_is_answered_with_what_exists(words: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        keys_of_words(words, CAMERAS)


def test_a_server_with_other_keys_is_asked_by_these():
    seen = observation()
    with strict_server() as (url, requests):
        act = load_remote_act(url, openpi_keys=WORDS)
        try:
            np.testing.assert_array_equal(act(seen), np.ones((4, 3), np.float32))
        finally:
            act.close()
        wrong = load_remote_act(url, openpi_keys={**WORDS, "wist": "x"})
        try:
            with pytest.raises(ValueError, match="Did you mean 'wrist'"):
                wrong(seen)  # in the warm-up: before the arm moves
        finally:
            wrong.close()
    assert requests[0]["task"] == "lift" and len(requests) == 1
    assert requests[0]["cams"]["hand"][b"data"] == seen.images["wrist"].tobytes()
    assert requests[0]["obs/y"][b"shape"] == [1]


def test_our_server_understands_clients_with_other_keys():
    config = ServerConfig(port=0, token=TOKEN, openpi_keys=WORDS)
    seen = observation()
    request = {
        "cams": {"top": seen.images["front"], "hand": seen.images["wrist"]},
        "obs/x": seen.state[:1],
        "obs/y": seen.state[1:],
        "task": "lift",
    }
    with PolicyServer({"echo": served_act(echo, ROBOT)}, config) as server:
        key = {"Authorization": f"Api-Key {TOKEN}"}
        with connect(server.url, compression=None, additional_headers=key) as line:
            assert msgpack.unpackb(line.recv(5))["actions_key"] == "action"
            line.send(packb(request, default=_packer))
            answer = msgpack.unpackb(line.recv(5))
    assert answer["action"][b"shape"] == [HORIZON, 3]
    with pytest.raises(ValueError, match="'frnt'. Did you mean 'front'"):
        wrong = ServerConfig(port=0, token=TOKEN, openpi_keys={"frnt": "a"})
        PolicyServer({"echo": served_act(echo, ROBOT)}, wrong)


def test_the_commands_refuse_what_openpis_servers_cannot_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def said(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["run", *words, "--robot", "sim-joints", "--instruction", "x"])
        assert ended.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    monkeypatch.setenv("ULNA_TOKEN", TOKEN)
    monkeypatch.setattr("ulna.deploy_robot.doctor.require_rendering", lambda: None)
    with strict_server() as (url, _):
        assert re.search(
            "cannot be told the plan under way; use --mode", said(url, "--mode", "rtc")
        )
    with PolicyServer(
        {"echo": served_act(echo, ROBOT)}, ServerConfig(port=0, token=TOKEN)
    ) as server:
        assert "are for servers of openpi's" in said(server.url, "--openpi-keys", "front=a")
    assert "for a server's address" in said("runs/none", "--openpi-keys", "front=a")
