"""The pool survives what its workers do. The work is made of library functions, because a spawned
process must be able to import it."""

import operator
import os
import time
from functools import partial
from typing import Any

import pytest

from ulna.envs.workers import Failure, WorkerPool


def make(function: object, *arguments: object) -> partial:
    """A `make_worker` whose worker calls `function(*arguments, job)`."""
    return partial(partial, function, *arguments)


def test_every_job_is_answered_and_an_exception_is_reported() -> None:
    with WorkerPool(make(operator.truediv, 1.0), workers=2) as pool:
        answers = dict(pool.run([1.0, 2.0, 0.0, 4.0]))
        again = dict(pool.run([8.0]))
    failure = answers.pop(2)
    assert answers == {0: 1.0, 1: 0.5, 3: 0.25} and again == {0: 0.125}
    assert isinstance(failure, Failure) and failure.message.startswith("ZeroDivisionError")


def test_a_dead_worker_costs_its_job_only() -> None:
    with WorkerPool(make(os._exit), workers=1) as pool:
        answers = dict(pool.run([3, 4]))
    assert [answers[i].message for i in (0, 1)] == [
        "the worker process ended with exit code 3",
        "the worker process ended with exit code 4",
    ]


def test_a_hung_worker_is_given_up() -> None:
    with WorkerPool(make(time.sleep), workers=1, timeout_s=0.5) as pool:
        started = time.monotonic()
        answers = dict(pool.run([60.0, 0.0]))
    assert time.monotonic() - started < 20
    assert "no answer" in answers[0].message and answers[1] is None


def test_a_worker_that_cannot_be_set_up_stops_the_run() -> None:
    # A ValueError, by a function that the worker can import (a test's own it cannot).
    make_broken_worker: Any = partial(int, "x")
    with (
        pytest.raises(RuntimeError, match="could not be set up: ValueError"),
        WorkerPool(make_broken_worker, workers=1) as pool,
    ):
        list(pool.run([1]))


def test_no_process_is_left() -> None:
    processes = []
    with WorkerPool(make(time.sleep), workers=2) as pool:
        for _ in pool.run([0.0, 0.0]):
            processes = [worker.process for worker in pool._workers]
    assert len(processes) == 2 and not any(process.is_alive() for process in processes)


def test_refuses_no_workers() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        WorkerPool(make(time.sleep), workers=0)
