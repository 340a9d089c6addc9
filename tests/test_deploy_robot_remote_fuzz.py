"""Whatever strangers with a token send to a live server: it stays up, stays small, runs nothing,
and answers the next robot."""

import contextlib
import multiprocessing
import os
import pickle
import socket
from pathlib import Path

import msgpack
import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remote_fakes import ROBOT, TOKEN, echo, observation, packb, serve_echo
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from ulna.deploy_robot.remote_client import load_remote_act
from ulna.deploy_robot.remote_messages import SUBPROTOCOL, Hello, write, write_ask
from ulna.deploy_robot.remote_openpi import keys_for, write_observation

MOST_GROWTH_MB = 64
_ASK = b"".join(write_ask(1, observation()))
_JPEG_ASK = b"".join(write_ask(2, observation(), 80))
_HELLO = b"".join(write(Hello("echo", ROBOT)))
_OPENPI = b"".join(write_observation(observation(), keys_for(("front", "wrist"))))


class Server:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve_echo, args=(theirs,), daemon=True)
        self.process.start()
        assert self.connection.poll(60)
        self.url = self.connection.recv()
        self.port = int(self.url.rsplit(":", 1)[1])
        self.check()
        self.first_mb = self.most_mb()

    def most_mb(self) -> float:
        """Most memory it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def check(self) -> None:
        """It lives, and a robot is answered."""
        act = load_remote_act(self.url, TOKEN, embodiment=ROBOT, timeout_s=10.0)
        assert np.array_equal(act(observation()), echo(observation()))
        act.close()

    def line(self, ours: bool):
        return connect(
            self.url,
            subprotocols=[Subprotocol(SUBPROTOCOL)] if ours else None,
            additional_headers={"Authorization": f"Bearer {TOKEN}"},
            compression=None,
            close_timeout=1,
        )

    def send(self, messages: list[bytes | str], ours: bool) -> None:
        """Say these, hear what comes, leave."""
        with contextlib.suppress(ConnectionClosed, TimeoutError), self.line(ours) as line:
            line.recv(5)
            for message in messages:
                line.send(message)
            for _ in messages:
                line.recv(0.02)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.check()
    assert server.process.is_alive()
    grown = server.most_mb() - server.first_mb
    assert grown < MOST_GROWTH_MB, f"{grown:.0f} MB more than at first"
    server.connection.send("end")
    server.process.join(20)
    assert server.process.exitcode == 0


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data) - 1, 400))))  # where the structure is
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=50),
        damaged(_ASK),
        damaged(_JPEG_ASK),
        damaged(_HELLO),
        damaged(_OPENPI),
        st.sampled_from([_ASK, _JPEG_ASK, _HELLO, _OPENPI]),
    ),
    min_size=1,
    max_size=4,
)
LIVE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(messages=MESSAGES, ours=st.booleans(), greeted=st.booleans())
@LIVE
def test_any_messages(server, messages, ours, greeted):
    server.send([_HELLO, *messages] if ours and greeted else messages, ours)
    assert server.process.is_alive()


@given(data=st.binary(max_size=300) | damaged(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
@LIVE
def test_any_bytes_on_the_socket(server, data):
    with socket.create_connection(("127.0.0.1", server.port)) as line, contextlib.suppress(OSError):
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        line.settimeout(1.0)
        line.recv(1000)
    assert server.process.is_alive()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ours", [True, False])
def test_nothing_that_is_sent_is_run(server, tmp_path, ours):
    bait = tmp_path / "bait"
    evil = pickle.dumps(Evil(bait))
    as_array = {b"__ndarray__": True, b"data": evil, b"dtype": "|O", b"shape": [1]}
    plain = {"observation/image": as_array, "observation/state": as_array, "prompt": "lift"}
    server.send([evil], ours)
    server.send([_HELLO, evil] if ours else [evil], ours)
    server.send([packb(plain)], ours)
    server.send([packb(msgpack.ExtType(1, evil))], ours)
    server.check()
    assert not bait.exists()
    pickle.loads(evil)  # the bait works
    assert bait.exists()


def test_bombs_do_not_fill_the_memory(server):
    lists = b"\xdd\x00\x0f\x42\x40" + b"\x90" * 60_000
    picture = simplejpeg.encode_jpeg(np.zeros((4000, 4000, 3), np.uint8), quality=10)
    ask = msgpack.unpackb(_ASK)
    bombs = [
        lists,
        b"\x91" * 60_000,
        packb({**ask, "images": {"front": {"jpeg": picture[:60_000]}}}),
        packb({**ask, "state": {"dtype": "<f8", "shape": [1 << 29] * 5, "data": b""}}),
        b"\x00" * (1 << 22),
    ]
    for bomb in bombs:
        server.send([_HELLO, bomb], True)
        server.send([bomb], False)
    with contextlib.ExitStack() as stack:  # a flood that nobody reads the answers of
        line = stack.enter_context(contextlib.suppress(ConnectionClosed, TimeoutError))
        line = stack.enter_context(server.line(True))
        line.recv(5)
        line.send(_HELLO)
        for _ in range(300):
            line.send(_ASK)
    server.check()
    assert server.most_mb() - server.first_mb < MOST_GROWTH_MB
