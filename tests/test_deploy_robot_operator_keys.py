"""The keyboard, through a pseudo-terminal: every key does what it says, the terminal comes back."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ulna.deploy_robot.operator_board import BoardOperator, OperatorBoard
from ulna.deploy_robot.operator_keys import Keyboard
from ulna.deploy_robot.robot import RobotState, fake_embodiment

STATE = RobotState.empty(fake_embodiment())
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The person's end and the program's end."""
    person, program = pty.openpty()
    yield person, program
    for descriptor in (person, program):
        try:
            os.close(descriptor)
        except OSError:
            pass  # closed by the test


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "the key had no effect"
        time.sleep(0.002)


def test_every_key(terminal: tuple[int, int]) -> None:
    person, program = terminal
    board, quits, shown = OperatorBoard(), [], []
    operator = BoardOperator.of(board)
    keyboard = Keyboard(
        board, program, shown.append, on_quit=lambda: quits.append(1), teleoperator=True
    )
    with keyboard:
        os.write(person, b"p")
        until(lambda: operator.poll(0, STATE).paused)
        os.write(person, b"p")
        until(lambda: not operator.poll(0, STATE).paused)
        os.write(person, b"t")
        until(lambda: board.taken_over)
        os.write(person, b"t")
        until(lambda: not board.taken_over)
        os.write(person, b"s")
        until(lambda: operator.poll(0, STATE).verdict == "success")
        os.write(person, b"f")
        until(lambda: operator.poll(0, STATE).verdict == "failure")
        os.write(person, b"q")
        until(lambda: quits == [1])
        assert not board.stopped
        os.write(person, b" ")
        until(lambda: operator.poll(0, STATE).stop)
    assert "EMERGENCY STOP" in shown


def test_an_instruction_is_typed_with_spaces_and_corrected(terminal: tuple[int, int]) -> None:
    person, program = terminal
    board = OperatorBoard()
    operator = BoardOperator.of(board)
    said: list[str | None] = []
    with Keyboard(board, program, lambda text: None):
        os.write(person, "igrüne  Dosex\x7f, qsf\r".encode())
        until(lambda: bool(said.append(operator.poll(0, STATE).instruction) or said[-1]))
        assert said[-1] == "grüne  Dose, qsf"
        os.write(person, b"iforget this\x1b")
        os.write(person, b"i\x15keep\r")
        until(lambda: bool(said.append(operator.poll(0, STATE).instruction) or said[-1]))
    assert said[-1] == "keep"
    assert not board.stopped and not board.paused
    assert operator.poll(0, STATE).verdict is None, "a letter of the text was taken for a key"


def test_arrow_keys_do_nothing_and_a_stop_is_never_lost_among_them() -> None:
    person, program = pty.openpty()
    board = OperatorBoard()
    keyboard = Keyboard(board, program, lambda text: None)
    keyboard.press("\x1b[A")
    keyboard.press("\x1bOp")
    assert not board.paused and not board.stopped
    keyboard.press("\x1b[A ")
    assert board.stopped
    os.close(person)
    os.close(program)


def test_the_terminal_is_given_back(terminal: tuple[int, int]) -> None:
    program = terminal[1]
    before = termios.tcgetattr(program)
    with pytest.raises(RuntimeError, match="something else"):
        with Keyboard(OperatorBoard(), program, lambda text: None):
            assert not termios.tcgetattr(program)[3] & termios.ECHO
            assert termios.tcgetattr(program)[3] & termios.ISIG, "Ctrl-C must stay"
            raise RuntimeError("something else")
    assert termios.tcgetattr(program) == before


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_terminal_comes_back_however_the_process_ends(end: signal.Signals) -> None:
    person, program = pty.openpty()
    before = termios.tcgetattr(program)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(program)],
        pass_fds=(program,),
        cwd=ROOT.parent,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    assert termios.tcgetattr(program) != before
    child.send_signal(end)
    child.wait(10.0)
    until(lambda: termios.tcgetattr(program) == before)
    child.stdout.close()
    os.close(person)
    os.close(program)


_CHILD = """
import sys, time
from ulna.deploy_robot.operator_board import OperatorBoard
from ulna.deploy_robot.operator_keys import Keyboard
with Keyboard(OperatorBoard(), int(sys.argv[1]), lambda text: None):
    print("ready", flush=True)
    time.sleep(30)
"""


def test_a_terminal_that_goes_away_stops_the_arm() -> None:
    person, program = pty.openpty()
    board = OperatorBoard()
    with Keyboard(board, program, lambda text: None):
        os.close(person)
        until(lambda: board.stopped)
    os.close(program)


def test_no_terminal_is_refused() -> None:
    with open(os.devnull) as nothing:
        with pytest.raises(ValueError, match="not a terminal"):
            Keyboard(OperatorBoard(), nothing.fileno())
