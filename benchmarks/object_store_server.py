"""An S3-compatible server on this machine that answers late, for `object_store.py`.

    python object_store_server.py 0.030        prints the two addresses as JSON, then serves

Moto keeps the objects and speaks S3. Before it stands a proxy: every request waits, and objects
that were read once are answered from memory, byte ranges too, since moto's Python needs 3 ms for
each, and it is not moto that is measured. What the proxy does not know it passes on. `/--counts`
tells how many requests and bytes went through and starts again from nothing.
"""

import asyncio
import json
import logging
import re
import sys
from dataclasses import dataclass, field

from moto.server import ThreadedMotoServer

BUCKET = "benchmark"
REQUESTS_AT_ONCE = 512


@dataclass
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def without(self, name: str) -> "Request":
        kept = {key: value for key, value in self.headers.items() if key != name}
        return Request(self.method, self.path, kept, self.body)


@dataclass
class Answer:
    """One HTTP answer."""

    status: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Proxy:
    """Waits, counts, remembers."""

    upstream_port: int
    latency_s: float
    requests: int = 0
    bytes_sent: int = 0
    _objects: dict[str, Answer] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS_AT_ONCE))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while (request := await _read_request(reader)) is not None:
                async with self._slots:
                    answer = await self._answer(request)
                writer.write(_encoded(answer, request.method == "HEAD"))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _answer(self, request: Request) -> Answer:
        if request.path == "/--counts":
            counts = {"requests": self.requests, "bytes": self.bytes_sent}
            self.requests = self.bytes_sent = 0
            return Answer("200 OK", {}, json.dumps(counts).encode())
        self.requests += 1
        waited = asyncio.create_task(asyncio.sleep(self.latency_s))
        if request.method == "GET" and "?" not in request.path:
            answer = await self._object(request)
        else:
            if request.method in ("PUT", "POST", "DELETE"):
                self._objects.pop(request.path.split("?")[0], None)
            answer = await self._upstream(request)
        await waited
        self.bytes_sent += len(answer.body)
        return answer

    async def _object(self, request: Request) -> Answer:
        whole = self._objects.get(request.path)
        if whole is None:
            whole = await self._upstream(request.without("range"))
            if not whole.status.startswith("200"):
                return whole
            self._objects[request.path] = whole
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if asked is None:
            return whole
        size = len(whole.body)
        if asked[1]:
            begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        else:
            begin, end = max(0, size - int(asked[2])), size
        headers = whole.headers | {"content-range": f"bytes {begin}-{end - 1}/{size}"}
        return Answer("206 Partial Content", headers, whole.body[begin:end])

    async def _upstream(self, request: Request) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        headers = request.headers | {"connection": "close"}
        lines = [f"{request.method} {request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + request.body)
        await writer.drain()
        data = await reader.read()
        writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        status, *rest = head.decode("latin-1").split("\r\n")
        found = dict(line.split(": ", 1) for line in rest)
        return Answer(
            status.split(" ", 1)[1], {name.lower(): value for name, value in found.items()}, body
        )


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


def _encoded(answer: Answer, head_only: bool) -> bytes:
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("connection", "transfer-encoding")
        and (name != "content-length" or head_only)
    }
    if not head_only:
        headers["content-length"] = str(len(answer.body))
    lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head_only else answer.body)


async def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    proxy = Proxy(port, float(sys.argv[1]))
    made = await proxy._upstream(Request("PUT", f"/{BUCKET}", {"host": "localhost"}, b""))
    assert made.status.startswith("200"), made
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20)
    address = {
        "direct": f"http://127.0.0.1:{port}",
        "late": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
    }
    print(json.dumps(address), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
