"""The live view: what was recorded is shown, to this machine only, and nothing waits for it."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from flight_fakes import PERIOD_NS, START_NS, embodiment

from ulna.deploy_robot.live_view import LiveView, LiveViewConfig, open_to_network

pytest.importorskip("rerun")


def numbers(tick: int) -> dict[str, Any]:
    row = np.array([0.01 * tick, 0, 1], np.float32)
    return {
        "time_ns": START_NS + tick * PERIOD_NS,
        "state": row,
        "action": row,
        "action_sent": row / 2,
        "gate": 0,
        "source": 0,
    }


def fly(live: LiveView, ticks: int = 50) -> None:
    live.begin(7, "sort the cubes")
    jpeg = simplejpeg.encode_jpeg(np.full((32, 48, 3), 90, np.uint8))
    for tick in range(ticks):
        live.tick(numbers(tick), {"front": jpeg})
    live.say("only the red ones")
    live.end(True, {"outcome": "sorted"})
    live.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_file_holds_the_flight(tmp_path: Path) -> None:
    from rerun.experimental import RrdReader

    path = tmp_path / "flight.rrd"
    fly(LiveView(LiveViewConfig("file", path), embodiment()))
    rows: dict[str, int] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
    for name in ("/state", "/action", "/action_sent", "/gate", "/source"):
        assert rows[name] == 50, name
    # One second at 10 frames per second, though there were 50.
    assert 10 <= rows["/images/front"] <= 11
    assert rows["/episode"] == 2 and rows["/instruction"] == 1


def test_the_page_is_for_this_machine_only() -> None:
    port, web_port = free_port(), free_port()
    live = LiveView(LiveViewConfig("web", port=port, web_port=web_port), embodiment())
    try:
        assert f"127.0.0.1:{web_port}" in live.address
        for each in (port, web_port):
            socket.create_connection(("127.0.0.1", each), 5.0).close()
            assert not open_to_network(each)
    finally:
        fly(live)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", web_port), 0.2)


def test_a_viewer_that_is_closed_stops_nothing() -> None:
    port, web_port = free_port(), free_port()
    live = LiveView(LiveViewConfig("web", port=port, web_port=web_port), embodiment())
    assert live._server is not None
    live._server.kill()
    live._server.wait()
    started = time.monotonic()
    fly(live)
    assert time.monotonic() - started < 8.0


def test_an_open_port_is_recognised() -> None:
    for address, is_open in (("127.0.0.1", False), ("0.0.0.0", True)):
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen()
            assert open_to_network(server.getsockname()[1]) == is_open
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        server.listen()
        assert not open_to_network(server.getsockname()[1])


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is taken"):
            LiveView(LiveViewConfig("web", port=port), embodiment())


def test_a_view_nobody_can_place_is_refused() -> None:
    with pytest.raises(ValueError, match="give a path to `file`"):
        LiveViewConfig("file")
    with pytest.raises(ValueError, match="give a path to `file`"):
        LiveViewConfig("web", Path("a.rrd"))


def test_rows_are_left_out_before_anything_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveView(LiveViewConfig("file", tmp_path / "a.rrd"), embodiment())
    stuck = threading.Event()
    # a viewer that takes nothing
    monkeypatch.setattr(live, "_send", lambda items: stuck.wait() and None)
    row = numbers(0)
    for _ in range(6_000):
        live.tick(row, {})
    assert live.left_out >= 6_000 - 2 * 4096
    before = live.left_out
    for _ in range(5_000):
        live.tick(row, {})
    assert live.left_out > before
    stuck.set()
    live.close()
