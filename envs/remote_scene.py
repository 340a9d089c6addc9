"""A scene under another Python interpreter: LIBERO wants a robosuite that ours cannot live with.

    this process                              PYTHON remote_worker.py SUITE_FILE TASK
    RemoteScene.step(a)   == pipe: header, bytes of a ==>   scene.step(a)
        reads state, success, ... from   <== one answer ==  all that can be read after a step

One round trip per step and one per picture. The child ends when the pipe closes, so it cannot
outlive us. Its words on stderr are kept for error messages.

Next: `envs/remote_worker.py` (the far side), `envs/remote_libero.py` (a suite).
"""

import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .remote_worker import PROTOCOL, read_message, write_message

WORKER = Path(__file__).with_name("remote_worker.py")
LAST_WORDS = 3000
"""Characters of the child's stderr that an error shows."""


class RemoteSceneError(RuntimeError):
    """The far side raised, died or hung."""


def interpreter_of(suite: str) -> list[str]:
    """The command that starts Python for a suite: `ULNA_<SUITE>_PYTHON`, else our own."""
    command = os.environ.get(f"ULNA_{suite.upper()}_PYTHON", "")
    return shlex.split(command) if command else [sys.executable]


class RemoteScene:
    """A `Scene` in a child process. Not thread-safe; close it, or it ends with this process."""

    def __init__(
        self,
        suite_file: Path | str,
        task: str,
        python: list[str],
        start_s: float = 300.0,
        answer_s: float = 60.0,
    ) -> None:
        """`start_s`, `answer_s`: how long the far side may take to be built, and per request.

        Raises ValueError if the interpreter does not exist, `RemoteSceneError` if it cannot build
        the scene.
        """
        self._task = task
        self._command = [*python, str(WORKER), str(suite_file), task]
        self._answer_s = answer_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=_child_environment(),
                bufsize=0,
            )
        except (FileNotFoundError, PermissionError) as error:
            self._stderr.close()
            raise ValueError(
                f"cannot start {python[0]} for {task}: {error.strerror}; set the suite's "
                "ULNA_..._PYTHON to a Python interpreter that has it installed"
            ) from error
        self._header: dict[str, Any] = {}
        self._arrays: dict[str, np.ndarray] = {}
        greeting, _ = self._receive(start_s, "to be built")
        if greeting["protocol"] != PROTOCOL:
            self.close()
            raise RemoteSceneError(
                f"the far side of {task} speaks protocol {greeting['protocol']}, this side "
                f"{PROTOCOL}; use the remote_worker.py of this version of Ulna there"
            )
        self.python_version: str = greeting["python"]

    def reset(self, seed: int) -> None:
        self._header, self._arrays = self._ask({"do": "reset", "seed": seed})

    def step(self, action: np.ndarray) -> None:
        self._header, self._arrays = self._ask({"do": "step"}, {"action": action})

    def restore(self, state: np.ndarray) -> None:
        self._header, self._arrays = self._ask({"do": "restore"}, {"simulator_state": state})

    def render(self, camera: str, height: int, width: int, profile: str) -> np.ndarray:
        wish = {"do": "render", "camera": camera, "height": height, "width": width}
        return self._ask({**wish, "profile": profile})[1]["frame"]

    def expert_action(self) -> np.ndarray:
        return self._ask({"do": "expert_action"})[1]["action"]

    def state(self) -> np.ndarray:
        return self._arrays["state"]

    def joints(self) -> np.ndarray:
        return self._arrays["joints"]

    def simulator_state(self) -> np.ndarray:
        return self._arrays["simulator_state"].copy()

    def time_s(self) -> float:
        return self._header["time_s"]

    def success(self) -> bool:
        return self._header["success"]

    def outcome(self) -> str:
        return self._header["outcome"]

    def close(self) -> None:
        """Let the child end; kill it if it does not within 5 s. May be called twice."""
        for line in (self._child.stdin, self._child.stdout):
            if line is not None:
                line.close()
        try:
            self._child.wait(5.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._stderr.close()

    def _ask(
        self, header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        line = self._child.stdin
        assert line is not None
        if line.closed:
            raise RemoteSceneError(f"the far side of {self._task} has been closed")
        try:
            # A request is smaller than a pipe holds, so this cannot wait for a hung child.
            write_message(line, header, arrays or {})
        except BrokenPipeError:
            raise self._gone() from None
        return self._receive(self._answer_s, f"to {header['do']}")

    def _receive(
        self, patience_s: float, what: str
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        deadline = time.monotonic() + patience_s
        line = self._child.stdout
        assert line is not None
        number = line.fileno()

        def read(size: int) -> bytes:
            parts, left = [], size
            while left:
                ready, _, _ = select.select([number], [], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError
                part = os.read(number, min(left, 1 << 20))
                if not part:
                    raise EOFError
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

        try:
            header, arrays = read_message(read)
        except TimeoutError:
            self._child.kill()  # what it says later would be taken for the next answer
            self._child.wait()
            message = f"the far side of {self._task} took more than {patience_s:g} s {what}"
            raise self._failed(f"{message} and was ended") from None
        except EOFError:
            raise self._gone() from None
        if "error" in header:
            words = f"{header['error']}\n{header['traceback']}"
            if header.get("protocol"):  # it ends after a greeting of this kind
                raise self._failed(f"the far side of {self._task} could not be built: {words}")
            kind = ValueError if header["kind"] == "ValueError" else RemoteSceneError
            raise kind(f"the far side of {self._task} said {words}")
        return header, arrays

    def _gone(self) -> RemoteSceneError:
        try:
            code = self._child.wait(5.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        return self._failed(f"the far side of {self._task} ended with exit code {code}")

    def _failed(self, message: str) -> RemoteSceneError:
        """Close up; the error has the child's last words."""
        self._stderr.seek(0)
        words = self._stderr.read().decode("utf-8", "replace")[-LAST_WORDS:].strip()
        self.close()
        command = shlex.join(self._command)
        return RemoteSceneError(f"{message}\nIt was started as: {command}\nIts stderr: {words}")


def _child_environment() -> dict[str, str]:
    """Ours without what would lead another interpreter to our packages."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    kept.setdefault("OMP_NUM_THREADS", "1")
    kept.setdefault("LP_NUM_THREADS", "0")
    kept.setdefault("MUJOCO_GL", "egl")
    return kept
