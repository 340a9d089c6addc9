"""Starting workers in milliseconds, and killing them.

They are forked from a process that has loaded everything and has no threads. It is asked through a
socket, which also carries the pipe that a worker speaks into.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

from crash_workers import Worker


class Forge:
    """The process that workers are forked from. Make it before the first thread."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _serve(theirs)
            os._exit(0)
        theirs.close()

    def start(self, request: dict[str, Any]) -> "Process":
        reading, writing = os.pipe()
        socket.send_fds(self._socket, [json.dumps(request).encode()], [writing])
        os.close(writing)
        return Process(reading)

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self.pid, 0)


class Process:
    """A worker, seen from outside."""

    def __init__(self, reading: int) -> None:
        self._lines = os.fdopen(reading, "rb")
        self.pid = int(next(self.told())["ready"])

    def told(self) -> Iterator[dict[str, Any]]:
        """What it says, until it is dead."""
        for line in self._lines:
            if line.endswith(b"\n"):
                yield json.loads(line)

    def kill(self) -> list[dict[str, Any]]:
        """`kill -9`; gives what it said before."""
        os.kill(self.pid, signal.SIGKILL)
        said = list(self.told())
        self._lines.close()
        return said


def _serve(requests: socket.socket) -> None:
    from crash_disk import full_disk
    from crash_flips import flip_bits
    from crash_writers import watch

    others = {"full_disk": full_disk, "flip_bits": flip_bits, "watch": watch}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: no zombies
    while True:
        message, pipes, _, _ = socket.recv_fds(requests, 1 << 16, 1)
        if not message:
            return
        if os.fork() == 0:
            # A child that makes children of its own wants to know how they end.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            worker = Worker(json.loads(message), pipes[0])
            try:
                other = others.get(worker.request["activity"])
                if other is None:
                    worker.run()
                else:
                    worker.tell(ready=os.getpid())
                    other(worker.request, worker.tell)
            except BaseException as error:  # it is all that the parent will hear of it
                worker.tell(failed=f"{type(error).__name__}: {error}")
                raise
            finally:
                os._exit(0)
        os.close(pipes[0])
