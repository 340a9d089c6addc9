"""A pool of processes that each build something costly once and then do job after job.

        parent: jobs ---> whoever is free          results <--- worker 1 (own environment)
                                                           <--- worker 2

A worker that dies or hangs costs the job it had, which is reported; the others go on. Nothing
costly is imported here, so that a worker starts with only what its own work needs.

In the middle of a job a worker may ask the parent something through shared memory; a `Desk` answers
whoever asks, several at once (`envs/engine.py` serves a policy so).

Next: `envs/parallel.py` (rollouts), `envs/collect.py` (demonstrations).
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Why a job has no result."""

    message: str
    traceback: str = ""
    """Of the worker; empty if its process died or hung."""


class StopsTheRun(Exception):
    """Raised by a job: no other job would fare better, so the whole run ends with it."""


@dataclass(frozen=True)
class Desk:
    """Who answers what workers ask in the middle of a job."""

    make_slot: Callable[[], Any]
    """Shared memory for one worker (such as a RawArray), through which question and answer go."""
    answer: Callable[[Sequence[Any]], None]
    """Reads the questions in some slots and writes the answers; an error of it ends the run."""
    batch_size: int = 1
    """Questions answered at once, at most."""
    patience_s: float = 0.0
    """How long a question waits for others to be answered with it, while others may still come."""


class Question:
    """The worker's side of a desk: write into `slot`, call, read the answer from `slot`."""

    def __init__(self, slot: Any, line: Connection) -> None:
        self.slot = slot
        self._line = line

    def __call__(self) -> None:
        self._line.send(("ask", None))
        self._line.recv()


_NOT_DONE = object()


class _Worker:
    """A process and the line to it."""

    def __init__(self, make_worker: Callable[..., Callable[[Any], Any]], slot: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, far_end = context.Pipe()
        self.slot = slot
        # Linear algebra of this size gains nothing from threads, and a thread pool per worker
        # would fight over the cores. Read when numpy is first imported, so set before the start.
        with environment_variables(
            OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="0"
        ):
            self.process: BaseProcess = context.Process(
                target=_serve, args=(far_end, make_worker, slot), daemon=True
            )
            self.process.start()
        far_end.close()
        self.ready = False
        self.job: Any = None
        self.busy = False
        self.deadline = float("inf")

    def stop(self, patience_s: float) -> None:
        self.line.close()  # a worker ends when its line closes
        self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class WorkerPool:
    """Processes that each call `make_worker()` once and then the function it returned, per job.

    `make_worker` and the jobs must be picklable (module-level functions, `functools.partial`).
    """

    def __init__(
        self,
        make_worker: Callable[..., Callable[[Any], Any]],
        workers: int,
        timeout_s: float = 300.0,
        desk: Desk | None = None,
        replace_failed: bool = False,
    ) -> None:
        """`timeout_s`: of a job, or of its part between two questions. `desk`: then `make_worker`
        is given a `Question`. `replace_failed`: a worker whose job raised is replaced, as what it
        holds may be broken."""
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more")
        self._make_worker = make_worker
        self._count = workers
        self._timeout_s = timeout_s
        self._desk = desk
        self._replace_failed = replace_failed
        self._workers: list[_Worker] = []
        self._asking: list[_Worker] = []
        self._asked_s = 0.0  # when the first of them did

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.line.close()
        for worker in workers:
            worker.stop(patience_s=10.0 if kind is None else 3.0)

    def run(self, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the job, its result or a `Failure`) as they finish.

        Raises RuntimeError if a worker cannot even be set up: then no job would succeed.
        """
        assert not any(worker.busy for worker in self._workers), "the last run was not read out"
        waiting = list(enumerate(jobs))[::-1]
        left = len(waiting)
        while left:
            while len(self._workers) < min(self._count, left):
                slot = None if self._desk is None else self._desk.make_slot()
                self._workers.append(_Worker(self._make_worker, slot))
            for worker in self._workers:
                if worker.ready and not worker.busy and waiting:
                    worker.job = waiting.pop()
                    worker.busy = True
                    worker.deadline = time.monotonic() + self._timeout_s
                    worker.line.send(worker.job[1])
            due = min(worker.deadline for worker in self._workers)
            if self._desk is not None and self._asking:
                due = min(due, self._asked_s + self._desk.patience_s)
            lines: list[Any] = [worker.line for worker in self._workers]
            patience = None if due == float("inf") else max(0.0, due - time.monotonic())
            answered = wait(lines, patience)
            for worker in list(self._workers):
                if worker.line in answered:
                    outcome = self._receive(worker)
                    if outcome is _NOT_DONE:
                        continue
                elif time.monotonic() > worker.deadline:
                    worker.process.kill()
                    outcome = Failure(f"the worker gave no answer for {self._timeout_s:.0f} s")
                    self._give_up(worker)
                else:
                    continue
                left -= 1
                yield worker.job[0], outcome
            if self._desk is not None and self._asking:
                self._answer(self._desk)

    def _answer(self, desk: Desk) -> None:
        """Serve those who ask, unless others are about to and there is still time and room."""
        others = any(w.busy and w not in self._asking for w in self._workers)
        waited_s = time.monotonic() - self._asked_s
        if len(self._asking) < desk.batch_size and others and waited_s < desk.patience_s:
            return
        now, self._asking = self._asking[: desk.batch_size], self._asking[desk.batch_size :]
        desk.answer([worker.slot for worker in now])
        for worker in now:
            worker.deadline = time.monotonic() + self._timeout_s
            try:
                worker.line.send(None)
            except ConnectionError:
                pass  # it died while it waited; its line says so next

    def _receive(self, worker: _Worker) -> Any:
        """What the worker has to say about its job; `_NOT_DONE` if it has been set up or asks."""
        try:
            kind, value = worker.line.recv()
        except (EOFError, ConnectionError):
            self._give_up(worker)
            message = f"the worker process ended with exit code {worker.process.exitcode}"
            if not worker.ready:
                raise RuntimeError(f"{message} while it was being set up") from None
            return Failure(message)
        if kind == "ready":
            worker.ready = True
            return _NOT_DONE
        if kind == "ask":
            if not self._asking:
                self._asked_s = time.monotonic()
            self._asking.append(worker)
            worker.deadline = float("inf")
            return _NOT_DONE
        if kind == "broken":
            raise RuntimeError(f"a worker could not be set up: {value.message}\n{value.traceback}")
        if kind == "stop":
            raise RuntimeError(f"{value.message}\n{value.traceback}")
        worker.busy = False
        worker.deadline = float("inf")
        if isinstance(value, Failure) and self._replace_failed:
            self._give_up(worker)
        return value

    def _give_up(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        if worker in self._asking:
            self._asking.remove(worker)
        worker.stop(patience_s=10.0)


def _serve(line: Connection, make_worker: Callable[..., Callable[[Any], Any]], slot: Any) -> None:
    """The worker's life. Ctrl-C is the parent's business: it closes the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = make_worker() if slot is None else make_worker(Question(slot, line))
    except Exception as error:
        line.send(("broken", _failure(error)))
        return
    try:
        line.send(("ready", None))
        while True:
            job = line.recv()
            try:
                answer = work(job)
            except StopsTheRun as error:
                line.send(("stop", _failure(error)))
                return
            except Exception as error:
                answer = _failure(error)
            line.send(("done", answer))
    except (EOFError, ConnectionError):
        pass  # the parent closed the line or is gone
    finally:
        close = getattr(work, "close", None)
        if close is not None:
            close()


def _failure(error: Exception) -> Failure:
    return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


@contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    """Set for the processes started inside; put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
