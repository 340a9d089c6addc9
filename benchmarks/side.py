"""One side of a benchmark in a process of its own, which takes orders and answers: a line of JSON
each. Sides never share a process: libraries set threads, GL contexts and signal handlers."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Side:
    """A running script."""

    def __init__(self, script: Path, words: Sequence[object], environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, str(script), *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment),
        )  # fmt: skip

    def send(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to the oldest order; RuntimeError if the script ended instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print about themselves
                return json.loads(line)
        raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        self.send(order)
        return self.receive()

    def close(self) -> None:
        """The script ends by itself when there are no more orders."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
