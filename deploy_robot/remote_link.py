"""One WebSocket connection to a policy server, on which nothing waits beyond its deadline.

The protocol itself is that of the `websockets` package (its part without input and output); the
socket is ours, because a call that must end in time needs every send and every receive bounded,
also when the other end has stopped reading. It also saves a thread between the arm and its policy.

Next: `remote_client.py` (what is said over it).
"""

import select
import socket
import ssl
import time
from collections.abc import Iterator

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CLOSED, OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

_RECEIVE_BYTES = 1 << 18
_FRAGMENT_BYTES = 1 << 19
"""Large messages go out in fragments, so that the other end unpacks one while the next is made."""
_TENDING_S = 1.0
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
MOST_ANSWER_BYTES = 16 << 20
"""Larger answers are refused; a chunk of 100 actions of 50 entries has 20,000 bytes."""


class LinkLost(OSError):
    """The connection is not there, or not any more, or not in time."""


class LinkRefused(ValueError):
    """The server is there and does not want us: asking again cannot help."""


class Link:
    """An open connection. After `LinkLost` it is of no use any more. One thread at a time."""

    def __init__(
        self,
        url: str,
        subprotocols: tuple[str, ...],
        token: str,
        tls: ssl.SSLContext | None,
        deadline: float,
    ) -> None:
        """Connect before `deadline`, which like all here is of `time.monotonic`."""
        try:
            uri = parse_uri(url)
        except InvalidURI as error:
            raise LinkRefused(f"{url!r} is no address of a policy server: {error}") from error
        self._protocol = ClientProtocol(
            uri,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            max_size=MOST_ANSWER_BYTES,
        )
        self._received: list[Frame] = []
        self._ended = self._is_text = False
        self._parts: list[bytes] = []
        self._pong: bytes | None = None
        self._pings = 0
        self._response: Response | None = None
        self.url = url
        try:
            self._socket = socket.create_connection((uri.host, uri.port), _left(deadline))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=uri.host)
        except ssl.SSLCertVerificationError as error:
            raise LinkRefused(
                f"the certificate of {url} cannot be trusted: {error.verify_message}; give the "
                "authority that signed it"
            ) from error
        except OSError as error:
            raise LinkLost(f"no policy server answers at {url}: {error}") from error
        try:
            self._shake_hands(token, deadline)
        except (OSError, ValueError):
            self._socket.close()
            raise

    @property
    def subprotocol(self) -> str | None:
        """What the server chose of those offered; None: it knows none of them."""
        return self._protocol.subprotocol

    def send(self, pieces: list[bytes | memoryview], deadline: float) -> None:
        """One binary message, joined from `pieces`."""
        parts = list(_fragments(pieces))
        for number, part in enumerate(parts):
            final = number == len(parts) - 1
            if number == 0:
                self._protocol.send_binary(part, final)
            else:
                self._protocol.send_continuation(part, final)
            self._flush(deadline)

    def receive(self, deadline: float) -> bytes | str:
        """The next message."""
        while (message := self._next_message()) is None:
            self._expect_open()
            self._read(deadline)
        return message

    def tend(self) -> None:
        """While nothing is asked: answer the server's pings and notice that it is gone."""
        self._socket.settimeout(0.0)
        while True:
            self._expect_open()
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise LinkLost(f"the policy server at {self.url} is gone: {error}") from error
            self._digest(data, time.monotonic() + _TENDING_S)
            self._socket.settimeout(0.0)

    def await_data(self, timeout_s: float) -> None:
        """Until there is something to `tend`, at most so long. From any thread; changes nothing."""
        try:
            select.select([self._socket], [], [], timeout_s)
        except (OSError, ValueError):
            pass  # closed meanwhile by the thread that uses it, which is something to see too

    def ping(self, deadline: float) -> None:
        """See whether the other end is alive."""
        self._pings += 1
        word = self._pings.to_bytes(4)
        self._protocol.send_ping(word)
        self._flush(deadline)
        while self._pong != word:
            self._expect_open()
            self._read(deadline)

    def close(self) -> None:
        """Say goodbye if that takes no time, and be gone."""
        try:
            if self._protocol.state is OPEN:
                self._protocol.send_close()
                self._flush(time.monotonic() + 0.2)
        except LinkLost:
            pass  # it is gone already, which is what was wanted
        finally:
            self._socket.close()

    def _shake_hands(self, token: str, deadline: float) -> None:
        request = self._protocol.connect()
        request.headers["User-Agent"] = "ulna"
        if token:
            # openpi's name of the scheme; ours takes both, and who answers is not known yet.
            request.headers["Authorization"] = f"Api-Key {token}"
        self._protocol.send_request(request)
        self._flush(deadline)
        while self._response is None and self._protocol.handshake_exc is None:
            self._read(deadline)
        if self._protocol.handshake_exc is None:
            return
        if self._response is None:
            raise LinkLost(f"{self.url} is no policy server: {self._protocol.handshake_exc}")
        status = self._response.status_code
        body = (self._response.body or b"").decode(errors="replace").strip()[:500]
        said = f"{self.url} answered {status}" + (f": {body}" if body else "")
        if status in (401, 403):
            raise LinkRefused(f"{said}. Give the server's token (--token-file)")
        raise LinkRefused(said) if status < 500 else LinkLost(said)

    def _expect_open(self) -> None:
        if self._ended or self._protocol.state is not OPEN:
            reason = self._protocol.close_reason if self._protocol.state is CLOSED else None
            raise LinkLost(
                f"the policy server at {self.url} closed the connection"
                + (f": {reason}" if reason else "")
            )

    def _next_message(self) -> bytes | str | None:
        while self._received:
            frame = self._received.pop(0)
            if frame.opcode is not Opcode.CONT:
                self._parts.clear()
                self._is_text = frame.opcode is Opcode.TEXT
            self._parts.append(bytes(frame.data))
            if frame.fin:
                whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                return whole.decode(errors="replace") if self._is_text else whole
        return None

    def _read(self, deadline: float) -> None:
        try:
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise LinkLost(f"the policy server at {self.url} did not answer in time") from error
        except OSError as error:
            raise LinkLost(f"the policy server at {self.url} is gone: {error}") from error
        self._digest(data, deadline)

    def _digest(self, data: bytes, deadline: float) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._ended = True
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._response = event
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                self._pong = bytes(event.data)
            elif isinstance(event, Frame) and event.opcode in _DATA:
                self._received.append(event)
        self._flush(deadline)  # answers to pings and to a close

    def _flush(self, deadline: float) -> None:
        for data in self._protocol.data_to_send():
            if not data:
                continue  # stands for the end of our stream, which closing the socket says
            try:
                self._socket.settimeout(_left(deadline))
                self._socket.sendall(data)
            except TimeoutError as error:
                raise LinkLost(f"the policy server at {self.url} takes no more data") from error
            except OSError as error:
                raise LinkLost(f"the policy server at {self.url} is gone: {error}") from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time is left")
    return left


def _fragments(pieces: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """`pieces` cut and joined to about `_FRAGMENT_BYTES` each."""
    waiting: list[bytes | memoryview] = []
    length = 0
    for piece in pieces:
        for start in range(0, len(piece), _FRAGMENT_BYTES):
            part = piece[start : start + _FRAGMENT_BYTES]
            if length + len(part) > _FRAGMENT_BYTES:
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, length = [], 0
            waiting.append(part)
            length += len(part)
    yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
