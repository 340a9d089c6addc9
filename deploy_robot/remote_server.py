"""Policies for arms elsewhere, over WebSocket: our protocol, and openpi's for its clients.

    event loop (one thread)                          policy thread (one)
    client 1 -- newest ask, one deep --\\
    client 2 -- newest ask, one deep ---+-- turns --> read, act, answer
    openpi   -- one ask at a time -----/

All clients share the policies' one thread, in the order of their asks; what a client sends while
its ask waits replaces it, so a robot is answered about now and memory does not grow. Bytes are
looked into in the policy thread only when their turn has come.

Next: `serve.py` (which policies), `remote_messages.py`, `remote_openpi.py` (the two protocols).
"""

import asyncio
import importlib.metadata
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from ..datasets.schema import unknown_name
from .remote_access import admits, check_exposure, check_token
from .remote_messages import SUBPROTOCOL, SUBPROTOCOL_FAMILY, Offer, Offered
from .remote_openpi import OpenPiKeys, openpi_keys
from .remote_sessions import ServedPolicy, serve_openpi, serve_ulna

_OURS = Subprotocol(SUBPROTOCOL)
_LEAST_BYTES = 1 << 16
_QUEUED_FRAMES = 2
"""Per client, before its socket is no longer read."""
_SOCKETS_PER_CLIENT = 4
"""Connections that may be open besides, not yet admitted."""


@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens and how much of it one client may have."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    token: str = ""
    """Needed wherever other machines can reach `host`."""
    max_clients: int = 8
    idle_timeout_s: float = 600.0
    """A client that asks nothing for so long is let go."""
    keepalive_s: float = 20.0
    """A client that does not answer a ping within it is gone."""
    most_bytes: int | None = None
    """Of one message; None: twice what the largest robot of the policies sends."""
    openpi_keys: OpenPiKeys | Mapping[str, str] | None = None
    """How openpi's clients name things, also in words (`keys_of_words`); None: as for its LIBERO
    policies."""

    def __post_init__(self) -> None:
        check_exposure(self.host, check_token(self.token))
        if self.max_clients < 1 or self.idle_timeout_s <= 0 or self.keepalive_s <= 0:
            raise ValueError("max_clients, idle_timeout_s and keepalive_s must be above 0")


class PolicyServer:
    """Serves `policies` by name. `run` until stopped, or as a context manager in a thread."""

    url: str
    """Where it listens; known once it does."""

    def __init__(
        self,
        policies: Mapping[str, ServedPolicy],
        config: ServerConfig,
        tls: ssl.SSLContext | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`say` is told who comes, goes and is refused."""
        if not policies:
            raise ValueError("a server without a policy; name at least one")
        for policy in policies.values():
            if config.openpi_keys is not None:
                openpi_keys(config.openpi_keys, policy.embodiments[0])
        self.config = config
        self._policies = dict(policies)
        self._tls, self._say = tls, say
        self._offer = Offer(
            {name: Offered(p.embodiments, p.horizon, p.history) for name, p in policies.items()},
            importlib.metadata.version("ulna"),
        )
        self._clients = 0
        self._sockets: set[Any] = set()
        self._policy_thread = ThreadPoolExecutor(1, "policy")
        self._ready = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        self._failure: BaseException | None = None

    async def run(self, policy_thread: ThreadPoolExecutor | None = None) -> None:
        """Serve until `stop`. `policy_thread`: where the policies were loaded, if in one."""
        self._policy_thread = policy_thread or self._policy_thread
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(stopping.set)

        self._stop, config = stop, self.config
        most_sockets = _SOCKETS_PER_CLIENT * config.max_clients
        async with serve(
            self._serve_client,
            config.host,
            config.port,
            ssl=self._tls,
            # A browser says where its page came from; no page has business with a robot.
            origins=[None],
            # Given the list alone, it refuses openpi's clients, which offer none.
            select_subprotocol=lambda _, offered: _OURS if _OURS in offered else None,
            compression=None,
            process_request=self._admit,
            max_size=config.most_bytes or most_bytes(self._policies),
            max_queue=_QUEUED_FRAMES,
            ping_interval=config.keepalive_s,
            ping_timeout=config.keepalive_s,
            server_header="ulna",
            close_timeout=1.0,  # how long a client may take to say goodbye
            create_connection=_counted(self._sockets, most_sockets),
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"{'ws' if self._tls is None else 'wss'}://{config.host}:{port}"
            self._ready.set()
            self._say(f"serving {', '.join(self._policies)} at {self.url}")
            await stopping.wait()

    def stop(self) -> None:
        """End `run`; from any thread."""
        self._stop()

    def __enter__(self) -> "PolicyServer":
        self._thread = threading.Thread(target=self._run_in_thread, daemon=True)
        self._thread.start()
        self._ready.wait(30.0)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(30.0)
        self._policy_thread.shutdown(wait=True, cancel_futures=True)

    def _run_in_thread(self) -> None:
        try:
            asyncio.run(self.run())
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._ready.set()

    # Who may enter.

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        path, where = request.path.split("?")[0], connection.remote_address
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not admits(self.config.token, request.headers.get("Authorization", "")):
            self._say(f"refused {where}: wrong token")
            return connection.respond(HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        if self._clients >= self.config.max_clients:
            self._say(f"refused {where}: {self._clients} clients are there")
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{self._clients} clients are served already\n"
            )
        spoken = [
            word.strip()
            for line in request.headers.get_all("Sec-WebSocket-Protocol")
            for word in line.split(",")
        ]
        if SUBPROTOCOL in spoken:
            return None
        if any(word.startswith(SUBPROTOCOL_FAMILY) for word in spoken):
            return connection.respond(
                HTTPStatus.UPGRADE_REQUIRED,
                f"this server speaks {SUBPROTOCOL}, the client {', '.join(spoken)[:200]}; "
                "install the same version of ulna on both\n",
            )
        try:
            name = self._policy_at(path)
        except ValueError as error:
            return connection.respond(HTTPStatus.NOT_FOUND, f"{error}\n")
        if (history := self._policies[name].history) > 1:
            self._say(f"refused {where}: openpi's clients send one observation")
            return connection.respond(
                HTTPStatus.NOT_ACCEPTABLE,
                f"the policy {name} sees {history} observations at once, openpi's protocol has "
                f"room for one; ask it in {SUBPROTOCOL} (`ulna run`), or train it with "
                "--policy.history 1\n",
            )
        return None

    def _policy_at(self, path: str) -> str:
        """Name of the policy that openpi's clients ask for: ws://host:port/NAME."""
        return self._named(path.strip("/"))

    def _named(self, name: str) -> str:
        if not name and len(self._policies) == 1:
            return next(iter(self._policies))
        if name not in self._policies:
            raise unknown_name("policy of this server", name[:80], self._policies)
        return name

    # Serving.

    async def _serve_client(self, line: ServerConnection) -> None:
        if self._clients >= self.config.max_clients:  # several were admitted at once
            await line.close(CloseCode.TRY_AGAIN_LATER, "too many clients")
            return
        self._clients += 1
        ours = line.subprotocol == SUBPROTOCOL
        who = f"{line.remote_address[0]}:{line.remote_address[1]}"
        self._say(f"{who} came, speaking {SUBPROTOCOL if ours else 'openpi'}")
        ended = "left"
        try:
            ended = await self._speak(line, ours) or ended
        except ConnectionClosed:
            pass  # the usual end
        except TimeoutError:
            ended = "idle for too long"
            await line.close(CloseCode.GOING_AWAY, ended)
        except ValueError as error:  # bytes that are no message of the protocol
            ended = _reason(error)
            await line.close(CloseCode.INVALID_DATA, ended)
        finally:
            self._clients -= 1
            self._say(f"{who} {ended}")

    async def _speak(self, line: ServerConnection, ours: bool) -> str:
        """Until the client leaves; returns why it was refused, if it was."""
        idle_s = self.config.idle_timeout_s
        if ours:
            return await serve_ulna(
                line, self._offer, self._policies, self._named, self._policy_thread, idle_s
            )
        assert line.request is not None
        name = self._policy_at(line.request.path.split("?")[0])
        return await serve_openpi(
            line, name, self._policies[name], self.config.openpi_keys, self._policy_thread, idle_s
        )


def _counted(sockets: set[Any], most: int) -> type[ServerConnection]:
    """Connections that enter `sockets` while they are open, at most so many, so that those that
    never say a word do not fill the memory."""

    class Counted(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            if len(sockets) >= most:
                self.transport.abort()
            else:
                sockets.add(self)

        def connection_lost(self, exc: Exception | None) -> None:
            sockets.discard(self)
            super().connection_lost(exc)

    return Counted


def most_bytes(policies: Mapping[str, ServedPolicy]) -> int:
    """Twice the largest observation of these policies' robots, sent raw."""
    sizes = [
        policy.history * sum(3 * camera.height * camera.width for camera in robot.cameras)
        + 8 * (policy.history * robot.state_dim + policy.horizon * robot.action_dim)
        for policy in policies.values()
        for robot in policy.embodiments
    ]
    return _LEAST_BYTES + 2 * max(sizes)


def _reason(error: Exception) -> str:
    """As much of `error` as a close frame holds."""
    return str(error).encode()[:120].decode(errors="ignore")
