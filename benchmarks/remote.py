"""What does a policy cost more for being elsewhere? Our protocol beside openpi's.

    uv run python benchmarks/remote.py --openpi CHECKOUT
    uv run python benchmarks/remote.py --openpi CHECKOUT --quick      a rehearsal in miniature

The same two pictures of 480 x 640 and the same state go to a policy that does nothing, in a server
process of its own on this machine, and a chunk comes back: what is measured is the way there and
back. The ways take turns in blocks; a ratio is of two blocks of the same round. Over a network the
bytes count as well, so they are given for each way.

CHECKOUT is one of Physical-Intelligence/openpi: its own client and server class are run.
"""

import functools
import importlib.util
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from record import Benchmark

from ulna.datasets.schema import Camera, Embodiment, Observation
from ulna.deploy_robot.remote_client import load_remote_act
from ulna.deploy_robot.remote_messages import write_ask
from ulna.deploy_robot.remote_openpi import keys_for, write_observation
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.serve import served_act

TOKEN = "only-for-this-benchmark"
HORIZON, JOINTS = 50, 7
JPEG_QUALITY = 95
NAMES = tuple(f"joint_{number}_rad" for number in range(JOINTS))
ROBOT = Embodiment(
    name="benchmark_arm",
    control_hz=50.0,
    state_names=NAMES,
    action_names=NAMES,
    action_low=(-3.0,) * JOINTS,
    action_high=(3.0,) * JOINTS,
    action_meaning="absolute joint positions in radians",
    cameras=(Camera("front", 480, 640), Camera("wrist", 480, 640)),
)
CHUNK = np.linspace(-1.0, 1.0, HORIZON * JOINTS, dtype=np.float32).reshape(HORIZON, JOINTS)


@dataclass(frozen=True)
class Way:
    """One way of asking."""

    name: str
    title: str
    ask: Callable[[], np.ndarray]
    bytes_sent: int


def main(openpi: Path, rounds: int = 12, calls: int = 100, quick: bool = False) -> None:
    """Ask in turns.

    Args:
        openpi: A checkout of Physical-Intelligence/openpi.
        rounds: How often each way has its turn.
        calls: Asks per turn.
        quick: Few asks; writes no result.
    """
    if not (openpi / "packages" / "openpi-client" / "src").is_dir():
        raise ValueError(f"--openpi {openpi} is no checkout of Physical-Intelligence/openpi")
    if quick:
        rounds, calls = 3, 10
    benchmark = Benchmark("remote", quick)
    ours, theirs = _Served(_serve_ulna, ()), _Served(_serve_openpi, (openpi,))
    try:
        ways = make_ways(openpi, ours.port, theirs.port)
        for way in ways:  # what is asked must be answered, or nothing was measured
            assert np.array_equal(way.ask(), CHUNK), way.name
        blocks: dict[str, list[np.ndarray]] = {way.name: [] for way in ways}
        for number in range(rounds):
            turn = number % len(ways)
            for way in ways[turn:] + ways[:turn]:
                blocks[way.name].append(_time(way.ask, calls))
    finally:
        ours.end()
        theirs.end()
    _report(benchmark, ways, blocks)


def make_ways(openpi: Path, our_port: int, their_port: int) -> list[Way]:
    observation = Observation(pictures(), np.zeros(JOINTS, np.float32), "pick up the cube")
    keys = keys_for(("front", "wrist"))
    plain = {keys.images[name]: image for name, image in observation.images.items()}
    plain |= {"observation/state": observation.state, "prompt": observation.instruction}
    client = _openpi_client(openpi)
    ours, theirs = f"ws://127.0.0.1:{our_port}", f"ws://127.0.0.1:{their_port}"
    raw = load_remote_act(ours, TOKEN, embodiment=ROBOT)
    jpeg = load_remote_act(ours, TOKEN, embodiment=ROBOT, images="jpeg", quality=JPEG_QUALITY)
    across = load_remote_act(theirs, openpi_keys=keys)
    at_theirs = client("127.0.0.1", their_port)
    at_ours = client("127.0.0.1", our_port, TOKEN)

    def size(pieces: list[Any]) -> int:
        return sum(len(piece) for piece in pieces)

    openpi_bytes = size(write_observation(observation, keys))
    return [
        Way("openpi", "openpi's client, openpi's server",
            lambda: at_theirs.infer(plain)["actions"], openpi_bytes),
        Way("ulna", "ulna, raw pixels",
            functools.partial(raw, observation), size(write_ask(1, observation))),
        Way("ulna_jpeg", f"ulna, JPEG q{JPEG_QUALITY}",
            functools.partial(jpeg, observation), size(write_ask(1, observation, JPEG_QUALITY))),
        Way("openpi_at_ulna", "openpi's client, ulna's server",
            lambda: at_ours.infer(plain)["actions"], openpi_bytes),
        Way("ulna_at_openpi", "ulna's client, openpi's server",
            functools.partial(across, observation), openpi_bytes),
    ]  # fmt: skip


def pictures() -> dict[str, np.ndarray]:
    """Smooth shapes with sensor noise: JPEG has neither an easy nor an impossible time."""
    random = np.random.default_rng(0)
    found = {}
    for camera in ROBOT.cameras:
        small = random.uniform(30, 220, (camera.height // 40, camera.width // 40, 3))
        large = np.kron(small, np.ones((40, 40, 1)))
        noise = random.normal(0.0, 3.0, large.shape)
        found[camera.name] = np.clip(large + noise, 0, 255).astype(np.uint8)
    return found


class _Served:
    """A server in a process of its own."""

    def __init__(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        if not self._connection.poll(60.0):
            raise RuntimeError("the server did not start within a minute")
        self.port: int = self._connection.recv()

    def end(self) -> None:
        self._process.terminate()
        self._process.join(10.0)


def _serve_ulna(connection: Connection) -> None:
    policies = {"nothing": served_act(lambda observation: CHUNK, ROBOT)}
    with PolicyServer(policies, ServerConfig(port=0, token=TOKEN)) as server:
        connection.send(int(server.url.rsplit(":", 1)[1]))
        time.sleep(3600)


def _serve_openpi(connection: Connection, openpi: Path) -> None:
    sys.path.insert(0, str(openpi / "packages" / "openpi-client" / "src"))
    path = openpi / "src" / "openpi" / "serving" / "websocket_policy_server.py"
    spec = importlib.util.spec_from_file_location("openpi_websocket_policy_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Nothing:
        def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
            return {"actions": CHUNK}

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It cannot say when it listens; the clients wait for it.
    connection.send(port)
    module.WebsocketPolicyServer(Nothing(), "127.0.0.1", port, {}).serve_forever()


def _openpi_client(openpi: Path) -> Any:
    sys.path.insert(0, str(openpi / "packages" / "openpi-client" / "src"))
    from openpi_client.websocket_client_policy import (  # type: ignore[import-not-found]
        WebsocketClientPolicy,
    )

    return WebsocketClientPolicy


def _time(ask: Callable[[], np.ndarray], calls: int) -> np.ndarray:
    ask()  # the turn before was another's
    seconds = np.empty(calls)
    for call in range(calls):
        started = time.perf_counter()
        ask()
        seconds[call] = time.perf_counter() - started
    return seconds * 1e3


def _report(benchmark: Benchmark, ways: list[Way], blocks: dict[str, list[np.ndarray]]) -> None:
    figures, rows = {}, []
    for way in ways:
        times = np.concatenate(blocks[way.name])
        figures[way.name] = {
            "p50_ms": float(np.percentile(times, 50)),
            "p99_ms": float(np.percentile(times, 99)),
            "min_ms": float(times.min()),
            "bytes": way.bytes_sent,
            "calls": len(times),
        }
        rows.append([way.title, *list(figures[way.name].values())[:4]])
    benchmark.table(
        "there and back, milliseconds", ["way", "median", "p99", "least", "bytes"], rows
    )
    medians = {name: [float(np.median(block)) for block in found] for name, found in blocks.items()}
    ratios = {}
    for name in ("ulna", "ulna_jpeg", "openpi_at_ulna", "ulna_at_openpi"):
        per_round = [a / b for a, b in zip(medians[name], medians["openpi"], strict=True)]
        ratios[f"{name}_vs_openpi"] = statistics.median(per_round)
        figures[name]["ratio_range"] = [min(per_round), max(per_round)]
    ratios["jpeg_bytes_vs_openpi"] = figures["ulna_jpeg"]["bytes"] / figures["openpi"]["bytes"]
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    tyro.cli(main)
