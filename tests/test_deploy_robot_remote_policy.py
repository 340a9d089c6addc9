"""A policy elsewhere, over a real socket: who is admitted, what comes back, and what happens when
the other end is slow, gone, or somebody else's."""

import contextlib
import dataclasses
import multiprocessing
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import msgpack
import numpy as np
import pytest
from remote_fakes import HORIZON, ROBOT, TOKEN, echo, heard, observation, packb, serve_echo, several
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_websocket
from websockets.typing import Origin, Subprotocol
from websockets.utils import accept_key

from ulna.deploy_robot.inference import PolicyUnavailable
from ulna.deploy_robot.remote_access import (
    check_token,
    client_tls,
    is_loopback,
    read_token,
    server_tls,
)
from ulna.deploy_robot.remote_client import load_remote_act, policies_at
from ulna.deploy_robot.remote_config import RemoteConfig
from ulna.deploy_robot.remote_messages import (
    SUBPROTOCOL,
    Chunk,
    Failed,
    Hello,
    Offer,
    Refused,
    Superseded,
    write,
    write_ask,
)
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig, most_bytes
from ulna.deploy_robot.serve import served_act


@contextlib.contextmanager
def serving(act=echo, tls=None, token=TOKEN, history=1, **config):
    policies = {"echo": served_act(act, ROBOT, history)}
    with PolicyServer(policies, ServerConfig(port=0, token=token, **config), tls) as server:
        yield server


@contextlib.contextmanager
def connected(server, token=TOKEN, **options):
    act = load_remote_act(server.url, token, **options)
    try:
        yield act
    finally:
        act.close()


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


def until(condition, limit_s=5.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# Ours to ours.


def test_a_remote_policy_answers_as_a_local_one(server):
    seen = observation(0.25, noise_seed=9)
    with connected(server, embodiment=ROBOT) as act:
        assert (act.policy, act.horizon, act.openpi) == ("echo", HORIZON, False)
        assert np.array_equal(act(seen), echo(seen))
        assert act.probe()


def test_the_plan_under_way_travels():
    given = []

    def act(seen):
        given.append(seen)
        return echo(seen)

    planned = np.arange(12, dtype=np.float32).reshape(4, 3)
    with serving(act) as server, connected(server) as remote:
        remote(observation(planned=planned, inference_delay=2))
    assert np.array_equal(given[-1].planned, planned) and given[-1].inference_delay == 2


def remember(seen):
    """Shows what was seen of each observation: x and the brightness of the first pixel."""
    chunk = np.zeros((HORIZON, 3), np.float32)
    chunk[: len(seen.state), 0] = seen.state[:, 0]
    chunk[: len(seen.state), 1] = seen.images["front"][:, 0, 0, 0]
    return chunk


@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_several_observations_travel_to_a_policy_that_sees_several(images):
    seen = several(3)
    seen.images["front"][:] = np.array([40, 120, 200], np.uint8)[:, None, None, None]
    with serving(remember, history=3) as server:
        with connected(server, images=images) as act:
            assert act.history == 3
            np.testing.assert_allclose(act(seen), remember(seen), atol=2 * (images == "jpeg"))
            for few in (observation(), several(2)):
                with pytest.raises(
                    ValueError, match=r"state: shape .*echo sees 3 at once.*history=3"
                ):
                    act(few)
            assert act(seen) is not None, "the line is still good"
        assert policies_at(server.url, TOKEN)["echo"].history == 3


def test_openpis_clients_cannot_ask_a_policy_that_sees_several():
    with serving(remember, history=3) as server, pytest.raises(InvalidStatus) as refusal:
        connect(server.url, additional_headers={"Authorization": f"Api-Key {TOKEN}"})
    assert refusal.value.response.status_code == 406
    assert b"echo sees 3 observations at once, openpi's" in refusal.value.response.body


def test_a_policy_that_sees_one_is_not_given_several(server):
    with connected(server) as act:
        with pytest.raises(ValueError, match=r"state: shape \(2, 2\); .*echo sees 1 at once"):
            act(several(2))


def test_jpeg_pictures_arrive_nearly_as_they_were(server):
    with connected(server, images="jpeg") as act:
        bright = {c.name: np.full((c.height, c.width, 3), 200, np.uint8) for c in ROBOT.cameras}
        assert act(observation(images=bright))[0, 2] == pytest.approx(200 / 255, abs=0.02)


def test_the_robot_is_taken_from_the_policy_if_none_is_named(server):
    with connected(server) as act:
        assert act.embodiment == ROBOT


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"token": "another-token-than-that"}, "401.*--token-file"),
        ({"token": ""}, "401"),
        ({"policy": "ecko"}, "Did you mean 'echo'"),
        (
            {"embodiment": dataclasses.replace(ROBOT, state_names=("x_m", "z_m"))},
            "state_names.*z_m",
        ),
        ({"embodiment": dataclasses.replace(ROBOT, name="crane")}, "crane.*gantry"),
        ({"realtime": "guided"}, "guided"),
    ],
)
def test_who_does_not_fit_is_refused_and_told_why(server, options, complaint):
    started = time.monotonic()
    with pytest.raises(ValueError, match=complaint):
        load_remote_act(server.url, **{"token": TOKEN, **options})
    assert time.monotonic() - started < 2.0  # not tried again: it cannot help


@pytest.mark.parametrize("theirs", ["ulna.policy.1", "ulna.policy.99"])
def test_another_version_of_the_protocol_is_refused_with_both_names(server, theirs):
    with pytest.raises(InvalidStatus) as refusal:
        connect(server.url, subprotocols=[Subprotocol(theirs)],
                additional_headers={"Authorization": f"Bearer {TOKEN}"})  # fmt: skip
    assert refusal.value.response.status_code == 426
    said = refusal.value.response.body.decode()
    assert SUBPROTOCOL in said and theirs in said and "install the same version" in said


def test_a_server_of_another_version_is_refused_by_our_client(server, monkeypatch):
    monkeypatch.setattr("ulna.deploy_robot.remote_server.SUBPROTOCOL", "ulna.policy.1")
    with pytest.raises(ValueError, match=r"426.*ulna\.policy\.1.*install the same version"):
        load_remote_act(server.url, TOKEN)


def test_a_page_in_a_browser_is_refused(server):
    with pytest.raises(InvalidStatus) as refusal:
        connect(server.url, origin=Origin("http://evil.example"),
                additional_headers={"Authorization": f"Bearer {TOKEN}"})  # fmt: skip
    assert refusal.value.response.status_code == 403


def test_health_needs_no_token(server):
    with urllib.request.urlopen(server.url.replace("ws", "http") + "/healthz") as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


def test_no_server_is_a_clear_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match="no policy server answers.*ulna serve RUN"):
        load_remote_act(f"ws://127.0.0.1:{port}", connect_s=0.4)
    with pytest.raises(ValueError, match="address"):
        load_remote_act("robots.example")


def raw_line(server, **options):
    return connect(
        server.url,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        additional_headers={"Authorization": f"Bearer {TOKEN}"},
        compression=None,
        **options,
    )


def greeted(line):
    assert isinstance(heard(line.recv(5)), Offer)
    line.send(b"".join(write(Hello())))
    heard(line.recv(5))
    return line


def test_the_newest_ask_wins_and_the_others_are_told():
    started, release = threading.Event(), threading.Event()
    asked = []

    def act(seen):
        asked.append(seen.noise_seed)
        if seen.noise_seed == 101:
            started.set()
            release.wait(5)
        return echo(seen)

    with serving(act) as server, raw_line(server) as line:
        greeted(line)
        line.send(b"".join(write_ask(1, observation(noise_seed=101))))
        started.wait(5)
        for number in range(2, 12):
            line.send(b"".join(write_ask(number, observation(noise_seed=100 + number))))
        replies = [heard(line.recv(5)) for _ in range(9)]  # while the policy still thinks
        release.set()
        chunks = [heard(line.recv(5)) for _ in range(2)]
    assert [reply.number for reply in replies] == list(range(2, 11))
    assert all(isinstance(reply, Superseded) for reply in replies)
    assert [(type(chunk), chunk.number) for chunk in chunks] == [(Chunk, 1), (Chunk, 11)]
    assert asked[-2:] == [101, 111]


def test_several_robots_share_a_policy_one_call_at_a_time():
    inside = []

    def act(seen):
        inside.append(1)
        assert len(inside) == 1, "two calls at once"
        time.sleep(0.002)
        inside.pop()
        return echo(seen)

    wrong = []

    def ask_often(server, x):
        with connected(server, timeout_s=10.0) as remote:
            for call in range(15):
                seen = observation(x, noise_seed=call)
                if not np.array_equal(remote(seen), echo(seen)):
                    wrong.append((x, call))

    with serving(act) as server:
        robots = [threading.Thread(target=ask_often, args=(server, x)) for x in (1.0, 2.0, 3.0)]
        for robot in robots:
            robot.start()
        for robot in robots:
            robot.join(20)
    assert not wrong


def test_there_is_room_for_so_many_clients():
    with serving(max_clients=1) as server:
        with connected(server):
            with pytest.raises(ValueError, match="503.*1 clients"):
                load_remote_act(server.url, TOKEN, connect_s=1.0)
        load_remote_act(server.url, TOKEN).close()


def test_open_sockets_that_say_nothing_are_bounded():
    with serving(max_clients=1) as server:
        port = int(server.url.rsplit(":", 1)[1])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        until(lambda: len(server._sockets) == 4)
        for line in silent:
            line.close()
        until(lambda: not server._sockets)
        load_remote_act(server.url, TOKEN).close()


def test_a_message_that_is_too_large_is_not_read():
    with serving() as server, raw_line(server) as line:
        greeted(line)
        line.send(b"\0" * (most_bytes({"echo": served_act(echo, ROBOT)}) + 1))
        with pytest.raises(ConnectionClosed) as closed:
            line.recv(5)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
        load_remote_act(server.url, TOKEN).close()


def test_who_asks_nothing_is_let_go():
    with serving(idle_timeout_s=0.2) as server, raw_line(server) as line:
        greeted(line)
        with pytest.raises(ConnectionClosed) as closed:
            line.recv(5)
        last = closed.value.rcvd
        assert last is not None and (last.code, last.reason) == (1001, "idle for too long")


def test_a_wrong_ask_is_told_and_the_next_one_answered(server):
    with raw_line(server) as line:
        greeted(line)
        small = {"front": np.zeros((8, 8, 3), np.uint8)}
        line.send(b"".join(write_ask(1, observation(images=small))))
        failed = heard(line.recv(5))
        assert isinstance(failed, Failed) and "24, 32" in failed.reason
        line.send(b"".join(write_ask(2, observation())))
        assert isinstance(heard(line.recv(5)), Chunk)


def test_a_policy_that_fails_does_not_tell_strangers_where_it_stands(capsys):
    def act(seen):
        if seen.noise_seed == 7:
            raise RuntimeError("in /secret/place")
        return echo(seen)

    with serving(act) as server, connected(server) as remote:
        with pytest.raises(PolicyUnavailable, match="server's log") as failure:
            remote(observation(noise_seed=7))
        assert "secret" not in str(failure.value)
        assert np.array_equal(remote(observation()), echo(observation()))
    assert "/secret/place" in capsys.readouterr().err


# Losing it.


def test_a_slow_policy_costs_the_time_out_and_no_more():
    slow = threading.Event()

    def act(seen):
        if seen.noise_seed == 77:  # not while it warms up
            slow.wait(3)
        return echo(seen)

    with serving(act) as server, connected(server, timeout_s=0.2) as remote:
        remote(observation())
        started = time.monotonic()
        with pytest.raises(PolicyUnavailable, match="in time"):
            remote(observation(noise_seed=77))
        assert 0.15 < time.monotonic() - started < 1.5
        slow.set()
        until(remote.probe)
        assert np.array_equal(remote(observation()), echo(observation()))


def test_a_server_that_stops_reading_cannot_hold_a_call():
    """The kernel takes a few megabytes for it; then sending itself would wait for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def shake_hands_and_sleep():
            line, _ = listener.accept()
            with line:
                request = line.recv(65536).decode()
                key = request.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
                line.sendall(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\n"
                    f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
                    + b"\x82\x01\x80"  # metadata of a server of openpi's: an empty map
                )
                done.wait(10)

        done = threading.Event()
        sleeper = threading.Thread(target=shake_hands_and_sleep)
        sleeper.start()
        act = load_remote_act(
            f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3, first_timeout_s=0.3
        )
        image = np.zeros((3000, 4000, 3), np.uint8)
        started = time.monotonic()
        with pytest.raises(PolicyUnavailable, match="takes no more data"):
            act(observation(images={"front": image}))
        assert time.monotonic() - started < 2.0
        done.set()
        act.close()
        sleeper.join(5)


def test_a_killed_server_is_noticed_and_its_successor_found():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_echo, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(60)
    url = ours.recv()
    act = load_remote_act(url, TOKEN, timeout_s=2.0, back_off_s=(0.02, 0.1))
    try:
        act(observation())
        process.kill()
        until(lambda: not act.probe(), 3.0)  # found while idle, without a question
        started = time.monotonic()
        with pytest.raises(PolicyUnavailable, match="no policy server|gone|closed"):
            act(observation())
        assert time.monotonic() - started < 0.5
        with serving_at(int(url.rsplit(":", 1)[1])):
            until(act.probe)
            assert np.array_equal(act(observation()), echo(observation()))
            assert act.reconnected == 1
    finally:
        act.close()
        process.join(5)


@contextlib.contextmanager
def serving_at(port, act=echo, robot=ROBOT, history=1):
    config = ServerConfig(port=port, token=TOKEN)
    with PolicyServer({"echo": served_act(act, robot, history)}, config) as server:
        yield server


def test_a_call_in_flight_ends_when_its_server_goes():
    asked = threading.Event()

    def act(seen):
        if seen.noise_seed == 77:
            asked.set()
            time.sleep(0.3)
        return echo(seen)

    outcome = []

    def ask(remote):
        try:
            remote(observation(noise_seed=77))
        except PolicyUnavailable as error:
            outcome.append((time.monotonic(), str(error)))

    with serving(act) as server:
        remote = load_remote_act(server.url, TOKEN, timeout_s=5.0)
        caller = threading.Thread(target=ask, args=(remote,))
        caller.start()
        asked.wait(5)
        stopped = time.monotonic()
    caller.join(5)
    remote.close()
    assert outcome and outcome[0][0] - stopped < 1.5 and "closed" in outcome[0][1]


def test_a_successor_with_another_policy_is_refused():
    with serving() as server:
        port = int(server.url.rsplit(":", 1)[1])
        act = load_remote_act(server.url, TOKEN, back_off_s=(0.02, 0.1))
    try:
        until(lambda: not act.probe())
        crane = dataclasses.replace(ROBOT, name="crane")
        with serving_at(port, robot=crane):
            until(lambda: "crane" in act._why)
            with pytest.raises(PolicyUnavailable, match="crane"):
                act(observation())
        with serving_at(port, remember, history=3):
            until(lambda: "sees 3 observations at once, the one before 1" in act._why)
    finally:
        act.close()


# Access.


def test_a_server_in_the_open_needs_a_token():
    with pytest.raises(ValueError, match=r"0\.0\.0\.0.*token"):
        ServerConfig(host="0.0.0.0")
    ServerConfig(host="0.0.0.0", token=TOKEN)
    ServerConfig(host="::1")


@pytest.mark.parametrize("token", ["short", "with a\nline and more", "ü" * 20])
def test_a_token_that_is_none_is_refused(token):
    with pytest.raises(ValueError, match="token"):
        check_token(token)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    assert read_token(path) == TOKEN
    path.write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        read_token(path)
    monkeypatch.setenv("ULNA_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    monkeypatch.delenv("ULNA_TOKEN")
    assert read_token(None) == ""


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("", False), ("10.0.0.5", False), ("localhost.example", False)],
)  # fmt: skip
def test_which_hosts_only_this_machine_reaches(host, alone):
    assert is_loopback(host) is alone


def test_pictures_are_compressed_over_a_network_only():
    assert RemoteConfig("ws://127.0.0.1:8000").jpeg_quality() is None
    assert RemoteConfig("wss://gpu.lab:8000/lift").jpeg_quality() == 95
    assert RemoteConfig("ws://localhost:8000", images="jpeg", quality=80).jpeg_quality() == 80
    assert RemoteConfig("ws://gpu.lab", images="raw").jpeg_quality() is None
    with pytest.raises(ValueError, match="within 0 to 100"):
        RemoteConfig("ws://gpu.lab", quality=101)


def test_what_a_server_has_can_be_asked_first(server):
    offered = policies_at(server.url, TOKEN)
    assert offered["echo"].embodiments == (ROBOT,) and offered["echo"].horizon == HORIZON
    with pytest.raises(ValueError, match="401"):
        policies_at(server.url)
    with openpi_server(lambda message: np.zeros((8, 3))) as (url, _):
        assert policies_at(url) == {}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate; it is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out",
         folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_with_a_certificate_of_ones_own(certificate):
    tls = server_tls(certificate / "certificate.pem", certificate / "key.pem")
    with serving(tls=tls) as server:
        assert server.url.startswith("wss://")
        with connected(server, authority=certificate / "certificate.pem") as act:
            assert np.array_equal(act(observation()), echo(observation()))
            time.sleep(0.15)  # its thread looks after the encrypted connection meanwhile
            assert np.array_equal(act(observation(1.0)), echo(observation(1.0)))
        with pytest.raises(ValueError, match="cannot be trusted"):
            load_remote_act(server.url, TOKEN)


def test_wrong_certificates_are_named(certificate):
    with pytest.raises(ValueError, match="PEM"):
        server_tls(certificate / "key.pem", None)
    with pytest.raises(ValueError, match="--certificate"):
        server_tls(None, certificate / "key.pem")
    with pytest.raises(ValueError, match="wss"):
        client_tls("ws://127.0.0.1:1", certificate / "certificate.pem")
    with pytest.raises(ValueError, match="PEM"):
        client_tls("wss://127.0.0.1:1", certificate / "key.pem")


# openpi's clients at our server, our client at openpi's servers.


def _packer(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str,
            b"shape": array.shape}  # fmt: skip


def _request(**changes):
    seen = observation()
    plain = {
        "observation/image": seen.images["front"],
        "observation/wrist_image": seen.images["wrist"],
        "observation/state": seen.state.astype(np.float64),
        "prompt": "lift",
    }
    return packb({**plain, **changes}, default=_packer)


def openpi_line(server, path=""):
    return connect(
        server.url + path,
        compression=None,
        max_size=None,
        additional_headers={"Authorization": f"Api-Key {TOKEN}"},
    )


def test_a_client_of_openpis_is_served(server):
    with openpi_line(server) as line:
        told = msgpack.unpackb(line.recv(5))
        assert told["image_shapes"]["observation/wrist_image"] == [16, 16, 3]
        assert told["action_horizon"] == HORIZON
        for call in range(2):
            line.send(_request())
            answer = msgpack.unpackb(line.recv(5))
            actions = answer["actions"]
            assert actions[b"__ndarray__"] is True and actions[b"dtype"] == "<f4"
            chunk = np.frombuffer(actions[b"data"], "<f4").reshape(actions[b"shape"])
            assert chunk.shape == (HORIZON, 3) and chunk[0, 0] == 0.5
            assert answer["server_timing"]["infer_ms"] >= 0
            assert ("prev_total_ms" in answer["server_timing"]) is (call > 0)


def test_a_client_of_openpis_reads_its_mistake_as_text(server):
    with openpi_line(server) as line:
        line.recv(5)
        line.send(_request(**{"observation/state": np.zeros(5)}))
        error = line.recv(5)
        assert isinstance(error, str) and "x_m, y_m" in error
        line.send(_request())
        assert isinstance(line.recv(5), bytes)


def test_a_client_of_openpis_chooses_by_path(server):
    with openpi_line(server, "/echo") as line:
        assert msgpack.unpackb(line.recv(5))["policy"] == "echo"
    with pytest.raises(InvalidStatus) as refusal:
        openpi_line(server, "/../etc/passwd")
    assert refusal.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as refusal:
        connect(server.url, additional_headers={"Authorization": "Api-Key wrong"})
    assert refusal.value.response.status_code == 401


@contextlib.contextmanager
def openpi_server(answer):
    """A server in openpi's words, as we read its source: it speaks first, and hangs up after an
    error that it has told in a text frame."""
    requests = []

    def handle(line):
        line.send(packb({"reset_pose": [0.0, 1.0]}))
        for data in line:
            message = msgpack.unpackb(data)
            requests.append(message)
            try:
                actions = answer(message)
            except KeyError as error:
                line.send(f"Traceback (most recent call last):\nKeyError: {error}")
                line.close(1011)
                return
            reply = {"actions": actions, "server_timing": {"infer_ms": 1.0}}
            line.send(packb(reply, default=_packer))

    with serve_websocket(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", requests
        server.shutdown()


def test_a_server_of_openpis_answers_us():
    chunk = np.arange(24, dtype=np.float64).reshape(8, 3)
    with openpi_server(lambda message: chunk) as (url, requests):
        act = load_remote_act(url)
        seen = observation()
        assert act.openpi and act.metadata == {"reset_pose": [0.0, 1.0]}
        assert np.array_equal(act(seen), chunk.astype(np.float32))
        with pytest.raises(ValueError, match="another mode than rtc|mode.*rtc"):
            act(observation(planned=np.zeros((2, 3), np.float32)))
        with pytest.raises(ValueError, match=r"\(2, 2\).*openpi's protocol has room for one"):
            act(several(2))
        act.close()
    image = requests[0]["observation/image"]
    assert (image[b"dtype"], image[b"shape"]) == ("|u1", [24, 32, 3])
    assert image[b"data"] == seen.images["front"].tobytes()
    assert requests[0]["observation/state"][b"dtype"] == "<f4"
    assert requests[0]["prompt"] == "lift"


def test_an_error_of_openpis_server_is_told_and_survived():
    calls = []

    def answer(message):
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("observation/joint_position")
        return np.zeros((8, 3))

    with openpi_server(answer) as (url, _):
        act = load_remote_act(url, back_off_s=(0.02, 0.1))
        with pytest.raises(PolicyUnavailable, match="observation/joint_position"):
            act(observation())
        until(lambda: act.reconnected == 1)
        assert act(observation()).shape == (8, 3)
        act.close()


def test_refused_is_for_good_and_closes_the_line(server):
    with raw_line(server) as line:
        line.recv(5)
        line.send(b"".join(write(Hello("nothing"))))
        assert isinstance(heard(line.recv(5)), Refused)
        with pytest.raises(ConnectionClosed):
            line.recv(5)
