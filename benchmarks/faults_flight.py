"""One flight of `faults.py`: prepared, flown, struck at a random moment, awaited to its end."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from faults_kinds import Fault
from faults_parts import COMMAND, RESET, Diary

HERE = Path(__file__).resolve().parent
EPISODE_S, SHORT_EPISODE_S = 8.0, 2.5
EARLIEST_S, LATEST_S = 0.1, 1.1
"""Of the fault, after the arm has begun to move."""
_TRAVEL = 0.03
"""It moves once its commands have led this far (rad, or displacements of 1)."""
_START_S, _END_S = 60.0, 60.0


class Supervisor:
    """A process that flies what it is told, until it is struck itself."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, HERE / "faults_worker.py"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            text=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, wish: dict) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.communicate(timeout=30)
        self._log.close()


class Flight:
    """From preparation to the last process's end. What it found out stands in its fields."""

    fault_ns: int = 0
    """When it happened."""
    thawed_ns: float = math.inf
    """When a frozen process went on."""
    error: str = ""
    """What `run` said, if it lived."""
    left_over: int = 0
    """Processes that outlived the flight."""

    def __init__(
        self, number: int, seed: int, fault: Fault, name: str, robot: str, folder: Path, store: Path
    ) -> None:
        self.number, self.fault, self.name, self.robot = number, fault, name, robot
        self.folder, self.store, self.seed = folder, store, seed
        self.random = random.Random(seed)
        self._server: subprocess.Popen | None = None
        self._after_s = self.random.uniform(EARLIEST_S, LATEST_S)

    def prepare(self, supervisor: Supervisor) -> None:
        """Start everything; returns at once."""
        self.folder.mkdir(parents=True)
        self.supervisor = supervisor
        told = {}
        if not self.fault.victim:
            self._after_s += 0.4  # from the start, not from the first motion
            told = {self.fault.strikes: self._after_s}
        if self.fault.remote:
            self._server = subprocess.Popen(
                [sys.executable, HERE / "faults_worker.py", "serve", self.robot, self.folder],
                stderr=subprocess.DEVNULL,
            )
        supervisor.tell(
            {
                "folder": str(self.folder),
                "robot": self.robot,
                "server": self.fault.remote,
                "faults": told,
                "seed": self.number,
                "seconds": SHORT_EPISODE_S if self.fault.goes_on else EPISODE_S,
                "store": str(self.store),
                "fault": self.name,
                "number": self.number,
            }
        )

    def fly(self) -> None:
        """Blocks until all is over."""
        self._await("the start", lambda: (self.folder / "ready").exists(), _START_S)
        (self.folder / "go").touch()
        self.diary = Diary(self.folder / "diary")
        self._await("the first motion", self._moves, 20.0)
        pids = {path.stem: int(path.read_text()) for path in self.folder.glob("*.pid")}
        pids["recorder"] = recorder_of(pids)
        if self.fault.victim:
            time.sleep(self._after_s)
            self._strike(pids[self.fault.victim])
        else:
            started_ns = next(line[0] for line in self.diary.lines() if line[1] == RESET)
            self.fault_ns = int(started_ns + self._after_s * 1e9)
        if self.name == "supervisor killed":
            self._await("the end", lambda: gone(pids["control"]), _END_S)
        else:
            self._await("the end", lambda: (self.folder / "answer.json").exists(), _END_S)
            self.error = json.loads((self.folder / "answer.json").read_text())["error"]
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        rest = [p for who, p in pids.items() if who not in ("supervisor", "server")]
        with suppress(TimeoutError):
            self._await("the others", lambda: all(gone(pid) for pid in rest), 15.0)
        self.left_over = sum(not gone(pid) for pid in rest)
        for pid in rest:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)

    def _strike(self, pid: int) -> None:
        if self.fault.strikes == "kill":
            os.kill(pid, signal.SIGKILL)
            while not gone(pid):
                time.sleep(0.0002)
            self.fault_ns = time.monotonic_ns()
            return
        os.kill(pid, signal.SIGSTOP)
        self.fault_ns = time.monotonic_ns()
        if self.fault.thaw_s:
            time.sleep(self.fault.thaw_s)
            with suppress(ProcessLookupError):
                self.thawed_ns = time.monotonic_ns()
                os.kill(pid, signal.SIGCONT)

    def _moves(self) -> bool:
        lines = self.diary.lines()
        told = lines[lines[:, 1] == COMMAND, 2]
        travel = np.abs(told) if self.robot == "tool" else np.abs(told - told[:1])
        return bool((travel > _TRAVEL).any())

    def _await(self, what: str, happened, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"flight {self.number} ({self.name}, {self.robot}): no sign of {what} within "
                    f"{seconds:g} s; see {self.folder}"
                )
            answer = self.folder / "answer.json"
            if what != "the others" and answer.exists() and not happened():
                raise RuntimeError(
                    f"flight {self.number} ({self.name}, {self.robot}) ended before {what}: "
                    f"{json.loads(answer.read_text())['error']}"
                )
            time.sleep(0.01)


def recorder_of(pids: dict[str, int]) -> int:
    """The control process's one child that has not signed in."""
    known, found = set(pids.values()), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in known:
            continue
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pids["control"] and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    if len(found) != 1:
        raise RuntimeError(f"expected one recorder among the control process's children: {found}")
    return found[0]


def gone(pid: int) -> bool:
    """Whether a process is dead, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
