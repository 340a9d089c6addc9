"""The flight while it happens, in rerun; off unless asked for. For the recorder process only.

    `file`      a .rrd to open later, or while it grows
    `web`       a page for the browser of this machine
    `viewer`    rerun's own window

rerun's servers listen to the whole network by default and know no password. Here they are told to
listen to this machine only, and that is checked before a frame is sent. From another machine, go
through ssh: `ssh -L 9090:127.0.0.1:9090 -L 9876:127.0.0.1:9876 ROBOT`.

A thread does the sending; if it cannot follow, it leaves rows out. Nothing here makes the recorder
wait, and a viewer that is closed stops nothing.
"""

import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full
from queue import Queue as BoundedQueue
from typing import Any, Literal

import numpy as np

from ..datasets.schema import Embodiment, unknown_name

KINDS = ("file", "web", "viewer")
_LOOPBACK = "127.0.0.1"
_ROWS_WAITING = 4096
_TOGETHER_S = 0.1
_START_S = 20.0
_CLOSE_S = 10.0


@dataclass(frozen=True)
class LiveViewConfig:
    """Where the flight is shown."""

    kind: Literal["file", "web", "viewer"] = "file"
    path: Path | None = None
    """The .rrd file of `file`."""
    port: int = 9876
    """On which rerun takes data, of this machine only."""
    web_port: int = 9090
    image_hz: float = 10.0
    """Frames shown per second and camera; the store has them all."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("live view", self.kind, KINDS)
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(
                f"a live view of kind {self.kind!r} with path {self.path}; give a path to `file`, "
                "and to nothing else"
            )


class LiveView:
    """Shows what the recorder hands over."""

    address: str
    """What to open; for the user."""

    def __init__(self, config: LiveViewConfig, embodiment: Embodiment) -> None:
        """Raises ValueError if rerun is not there or would be open to the network."""
        self._rr = _rerun()
        self._warm_up()
        self.config = config
        self.robot = embodiment
        self.left_out = 0
        """Rows that the viewer was too slow for."""
        self._server: subprocess.Popen[bytes] | None = None
        self._recording = self._rr.RecordingStream("ulna live")
        if config.path is not None:
            self.address = str(config.path)
            self._recording.save(self.address)
        else:
            self.address = self._start_server()
            self._recording.connect_grpc(f"rerun+http://{_LOOPBACK}:{config.port}/proxy")
        self._next_image_ns: dict[str, int] = {}
        self._gate = -1
        self._problem = ""
        self._queue: BoundedQueue[tuple[str, Any] | None] = BoundedQueue(_ROWS_WAITING)
        self._thread = threading.Thread(target=self._show, name="ulna-live-view", daemon=True)
        self._thread.start()

    def begin(self, seed: int, instruction: str) -> None:
        self._put(("text", ("episode", f"seed {seed}: {instruction}")))

    def say(self, instruction: str) -> None:
        self._put(("text", ("instruction", instruction)))

    def end(self, success: bool | None, labels: Mapping[str, Any]) -> None:
        said = {True: "success", False: "failure", None: "ended"}[success]
        about = ", ".join(f"{name} {value}" for name, value in labels.items())
        self._put(("text", ("episode", f"{said}: {about}")))

    def tick(self, numbers: Mapping[str, Any], frames: Mapping[str, bytes]) -> None:
        """A row as the store gets it, and the JPEG frames that are new."""
        now_ns = int(numbers["time_ns"])
        shown = {}
        for camera, jpeg in frames.items():
            if now_ns >= self._next_image_ns.get(camera, 0):
                self._next_image_ns[camera] = now_ns + round(1e9 / self.config.image_hz)
                shown[camera] = jpeg
        rows = {
            name: np.array(numbers[name], np.float64) for name in ("state", "action", "action_sent")
        }
        facts = (int(numbers["gate"]), int(numbers["source"]))
        self._put(("tick", (now_ns, rows, shown, facts)))

    def close(self) -> None:
        """Send what is there, then let go; gives up after a few seconds."""
        try:
            self._queue.put(None, timeout=1.0)
        except Full:
            self._problem = "the viewer takes nothing"
        self._thread.join(_CLOSE_S)
        if self._server is not None:
            self._server.terminate()
            self._server.wait()

    def _warm_up(self) -> None:
        """The first columns take rerun seconds, in which it imports pandas: not during a flight."""
        rr = self._rr
        nowhere = rr.RecordingStream("ulna warm-up")
        index = [rr.TimeColumn("monotonic", duration=np.zeros(1, "timedelta64[ns]"))]
        columns = rr.Scalars.columns(scalars=np.zeros((1, 2)))
        rr.send_columns("nothing", index, columns, recording=nowhere)
        rr.disconnect(recording=nowhere)

    def _put(self, item: tuple[str, Any]) -> None:
        try:
            self._queue.put_nowait(item)
        except Full:
            self.left_out += 1

    def _show(self) -> None:
        """The thread: what came within a tenth of a second goes out together."""
        rr, last = self._rr, False
        while not last:
            items = [self._queue.get()]
            time.sleep(_TOGETHER_S)
            while True:
                try:
                    items.append(self._queue.get_nowait())
                except Empty:
                    break
            last = None in items
            try:
                self._send([item for item in items if item is not None])
            except RuntimeError as error:  # what rerun raises if the viewer was closed
                self._problem = str(error)
        try:
            self._recording.flush(timeout_sec=2.0)
        except RuntimeError as error:
            self._problem = str(error)
        rr.disconnect(recording=self._recording)

    def _send(self, items: list[tuple[str, Any]]) -> None:
        rr, to = self._rr, self._recording
        ticks = [value for kind, value in items if kind == "tick"]
        for kind, value in items:
            if kind == "text":
                rr.log(value[0], rr.TextLog(value[1]), recording=to)
        if not ticks:
            return
        times = np.array([now_ns for now_ns, *_ in ticks], "timedelta64[ns]")
        index = [rr.TimeColumn("monotonic", duration=times)]
        for name in ticks[0][1]:
            values = np.stack([rows[name] for _, rows, _, _ in ticks])
            rr.send_columns(name, index, rr.Scalars.columns(scalars=values), recording=to)
        facts = np.array([facts for *_, facts in ticks], np.float64)
        for column, name in enumerate(("gate", "source")):
            scalars = rr.Scalars.columns(scalars=facts[:, column])
            rr.send_columns(name, index, scalars, recording=to)
        for now_ns, _, shown, _ in ticks:
            for camera, jpeg in shown.items():
                rr.set_time("monotonic", duration=np.timedelta64(now_ns, "ns"), recording=to)
                image = rr.EncodedImage(contents=jpeg, media_type="image/jpeg")
                rr.log(f"images/{camera}", image, recording=to)

    def _start_server(self) -> str:
        """Start rerun's own program; gives what to open."""
        import rerun_cli

        config = self.config
        for port in (config.port, config.web_port):
            if _listening(port):
                raise ValueError(
                    f"port {port} is taken; give the live view another `port` and `web_port`"
                )
        program = str(Path(rerun_cli.__file__).parent / "rerun")
        arguments = [program, "--bind", _LOOPBACK, "--port", str(config.port)]
        ports = [config.port]
        if config.kind == "web":
            arguments += ["--serve-web", "--web-viewer-port", str(config.web_port)]
            ports.append(config.web_port)
        self._server = subprocess.Popen(
            [*arguments, "--hide-welcome-screen"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while not all(_listening(port) for port in ports):
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                self._server.wait()
                raise ValueError(
                    f"rerun did not start (kind {config.kind!r}; `viewer` needs a display); use "
                    "`web` or `file`"
                )
            time.sleep(0.02)
        for port in ports:
            if open_to_network(port):
                self._server.kill()
                self._server.wait()
                raise ValueError(f"rerun listens to the network on port {port}; use `file`")
        if config.kind == "viewer":
            return f"rerun's window (data on {_LOOPBACK}:{config.port})"
        data = f"rerun%2Bhttp%3A%2F%2F{_LOOPBACK}%3A{config.port}%2Fproxy"
        return f"http://{_LOOPBACK}:{config.web_port}?url={data}"


def open_to_network(port: int) -> bool:
    """Whether someone on this machine listens on `port` for more than this machine."""
    return any(not _is_loopback(address) for address in _listening(port))


def _listening(port: int) -> list[str]:
    """Addresses, as the kernel writes them, on which `port` is listened to."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            address, _, number = words[1].rpartition(":")
            if int(number, 16) == port and words[3] == "0A":  # in state LISTEN
                found.append(address)
    return found


def _is_loopback(address: str) -> bool:
    # Little endian: 127.x.x.x ends in 7F; ::1 is its own, and 127.x.x.x may be mapped into IPv6.
    if len(address) == 8:
        return address.endswith("7F")
    mapped = "0000000000000000FFFF0000"
    return address == "0" * 24 + "01000000" or (
        address.startswith(mapped) and address.endswith("7F")
    )


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ValueError(
            "a live view needs rerun; install it with: pip install 'ulna[view]'"
        ) from error
    return rerun
