"""One of our policies as a model server of the `vla-eval` harness, and so on all its benchmarks.

    vla-eval (Docker, the benchmark)  == WebSocket, msgpack ==>  VlaEvalServer -- act
        observation of every tick                                   asked once per chunk
        <== {"actions": the action due now}

The harness asks for one action per tick; the chunk is executed here, as our own rollouts do
(`envs/rollout.py`), with the same seeds of noise per episode and tick. Frames must come in the size
the policy knows: whether and how to scale them is the benchmark's setting, not a guess of ours.

Needs `websockets` and `msgpack`, not vla-eval. Next: `envs/vla_eval_messages.py` (the messages).
"""

import hmac
import ipaddress
import threading
import zlib
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np

from ..datasets.schema import Act, Embodiment, Observation
from .rollout import noise_seed, with_history
from .vla_eval_messages import HARNESS_PROTOCOL, pack, unpack

MOST_BYTES = 64 << 20
"""Largest message that is accepted."""


@dataclass(frozen=True)
class VlaEvalConfig:
    """How a benchmark's words map to ours; the defaults are those of its LIBERO."""

    cameras: dict[str, str] = field(
        default_factory=lambda: {"front": "agentview", "wrist": "wrist"}
    )
    """Our camera -> the benchmark's."""
    state_key: str = "states"
    observation_params: dict[str, Any] = field(
        default_factory=lambda: {"send_wrist_image": True, "send_state": True}
    )
    """What the benchmark is asked to send; the harness merges it into its parameters."""
    execution_horizon: int = 8
    history: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    token: str = ""
    """Clients connect to ws://HOST:PORT/TOKEN; needed if `host` is not this machine alone."""


class _Session:
    """One client's episode: what was seen, and the rest of the chunk."""

    def __init__(self, history: int) -> None:
        self.recent: deque[Observation] = deque(maxlen=history)
        self.queue: deque[np.ndarray] = deque()
        self.seed = 0
        self.tick = 0
        self.begun = False

    def begin(self, task: dict[str, Any]) -> None:
        """Start over; the seed depends on task and episode number alone, not on who asks."""
        words = f"{task.get('suite', '')}/{task.get('name', '')}/{task.get('episode_idx', 0)}"
        self.recent.clear()
        self.queue.clear()
        self.seed, self.tick, self.begun = zlib.crc32(words.encode()), 0, True


class VlaEvalServer:
    """Serves `act`; a context manager, or `serve_forever`. Clients are served one at a time each,
    the policy one call at a time."""

    def __init__(self, act: Act, embodiment: Embodiment, config: VlaEvalConfig) -> None:
        from websockets.sync.server import serve

        if not config.token and not _is_loopback(config.host):
            raise ValueError(
                f"host {config.host} can be reached from other machines; give a token, or use "
                "127.0.0.1"
            )
        unknown = set(config.cameras) ^ {camera.name for camera in embodiment.cameras}
        if unknown:
            raise ValueError(
                f"the policy sees {[camera.name for camera in embodiment.cameras]}, but `cameras` "
                f"maps {sorted(config.cameras)}; map each of the policy's cameras once"
            )
        self._act, self._embodiment, self._config = act, embodiment, config
        self._one_at_a_time = threading.Lock()
        self._lines: set[Any] = set()
        self._server = serve(
            self._serve_client,
            config.host,
            config.port,
            process_request=self._check_request,
            compression=None,
            max_size=MOST_BYTES,
            ping_interval=None,  # a policy may think longer than a ping waits
        )
        port = self._server.socket.getsockname()[1]
        self.url = f"ws://{config.host}:{port}/{config.token}"

    def serve_forever(self) -> None:
        try:
            self._server.serve_forever()
        finally:
            self._close()

    def _close(self) -> None:
        """Leave no thread behind that waits for a client: it would keep the process alive."""
        self._server.shutdown()
        for line in tuple(self._lines):
            line.close()

    def __enter__(self) -> "VlaEvalServer":
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10.0)

    def _check_request(self, connection: Any, request: Any) -> Any:
        """Answers the harness's question whether we are ready; refuses whoever lacks the token."""
        path = request.path.split("?")[0]
        if path == "/health":
            return connection.respond(HTTPStatus.OK, '{"status": "ok"}\n')
        if not hmac.compare_digest(path.strip("/").encode(), self._config.token.encode()):
            return connection.respond(HTTPStatus.FORBIDDEN, "wrong token\n")
        return None

    def _serve_client(self, line: Any) -> None:
        session = _Session(self._config.history)
        self._lines.add(line)
        try:
            for data in line:
                number = 0  # of a message that cannot be read
                try:
                    kind, payload, number = unpack(data)
                    reply = self._answer(session, kind, payload)
                except Exception as error:  # the harness counts it as this episode's failure
                    reply = "error", {"error": f"{type(error).__name__}: {error}"}
                if reply is not None:
                    line.send(pack(*reply, number))
        finally:
            self._lines.discard(line)

    def _answer(
        self, session: _Session, kind: str, payload: dict[str, Any]
    ) -> tuple[str, dict[str, Any]] | None:
        if kind == "hello":
            return "hello", {
                "harness_version": "ulna",
                "protocol_version": HARNESS_PROTOCOL,
                "model_server": "ulna",
                "capabilities": {},
                "observation_params": self._config.observation_params,
            }
        if kind == "episode_start":
            session.begin(payload.get("task") or {})
        elif kind == "observation":
            if not session.begun:
                raise ValueError("an observation came before an episode was started")
            return "action", {"actions": self._next_action(session, payload)}
        return None  # the end of an episode; an error of the client's

    def _next_action(self, session: _Session, payload: dict[str, Any]) -> np.ndarray:
        if len(session.queue) < self._config.history:
            session.recent.append(self._observation(session, payload))
        if not session.queue:
            seen = with_history(session.recent, self._config.history)
            with self._one_at_a_time:
                chunk = self._act(seen)
            session.queue.extend(chunk[: self._config.execution_horizon])
        session.tick += 1
        return np.asarray(session.queue.popleft(), np.float32)

    def _observation(self, session: _Session, payload: dict[str, Any]) -> Observation:
        images = {}
        for camera in self._embodiment.cameras:
            theirs = self._config.cameras[camera.name]
            frame = _entry(payload.get("images") or {}, theirs, "image")
            if frame.shape != (camera.height, camera.width, 3) or frame.dtype != np.uint8:
                raise ValueError(
                    f"camera {theirs} gave {frame.dtype} {frame.shape}; this policy was trained on "
                    f"uint8 ({camera.height}, {camera.width}, 3)"
                )
            images[camera.name] = frame
        state = np.asarray(_entry(payload, self._config.state_key, "entry"), np.float32).ravel()
        if len(state) != self._embodiment.state_dim:
            raise ValueError(
                f"{self._config.state_key} has {len(state)} numbers; this policy was trained on "
                f"{self._embodiment.state_dim}: {', '.join(self._embodiment.state_names)}"
            )
        return Observation(
            images=images,
            state=state,
            instruction=str(_entry(payload, "task_description", "entry")),
            noise_seed=noise_seed(session.seed, session.tick),
        )


def _entry(there: dict[str, Any], name: str, kind: str) -> Any:
    if name not in there:
        raise ValueError(f"the observation has no {kind} {name!r}; it has {sorted(there)}")
    return there[name]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
