"""The keyboard of the terminal as the operator: it reads keys and writes them on the board.

    space  emergency stop        p  pause, go on         s  success, end the episode
    i      new instruction       t  take over, give back f  failure, end the episode
    q      end the run           Ctrl-C  the same, also while an instruction is typed

It lives in the supervisor, in a thread: neither a slow terminal nor a person who types slowly can
make the control loop wait. The terminal is given back as it was after an error, after SIGTERM and
after a lost connection; after `kill -9` a small shell does it that waits for this process to end.
A terminal that goes away stops the arm.

Next: `operator_board.py`.
"""

import _thread
import codecs
import io
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from .operator_board import OperatorBoard

HELP = (
    "space: EMERGENCY STOP   p: pause   s/f: success/failure   i: new instruction   "
    "t: take over   q: end"
)
_GUARD = 'trap "" HUP INT QUIT TERM TSTP TTIN TTOU; cat > /dev/null; stty "$1" <&2 2> /dev/null; :'
"""Waits until our end of its pipe closes, however that comes about, then restores the terminal,
which it has as its standard error."""
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[~A-Za-z]|O[A-Za-z])")
"""Arrow and function keys, which are none of ours."""
_ENTER, _ERASE, _ESCAPE, _CLEAR = "\r\n", "\x7f\b", "\x1b", "\x15"


class Keyboard:
    """Keys of a terminal, on a board. Use it in a `with` statement, in the main thread."""

    def __init__(
        self,
        board: OperatorBoard,
        terminal: int | None = None,
        show: Callable[[str], None] | None = None,
        on_quit: Callable[[], None] = _thread.interrupt_main,
        teleoperator: bool = False,
    ) -> None:
        """`terminal`: its file descriptor; None: that of standard input. `show` prints a line
        (None: on the terminal). `on_quit`: for `q`; by default as if Ctrl-C were pressed.
        `teleoperator`: whether there is someone who could take over."""
        self.board = board
        self._terminal = _standard_input() if terminal is None else terminal
        if not os.isatty(self._terminal):
            raise ValueError(
                "keys were asked for, but the input is not a terminal; run it in one, or leave "
                "the keyboard out (Ctrl-C stops the arm in either case)"
            )
        self._show = show or self._print
        self._on_quit = on_quit
        self._teleoperator = teleoperator
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._typed: str | None = None

    def __enter__(self) -> "Keyboard":
        self._require_foreground()
        self._before = termios.tcgetattr(self._terminal)
        self._guard = self._start_guard()
        self._wake, self._woken = os.pipe()
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(name) == signal.SIG_DFL:
                    self._handlers[name] = signal.signal(name, _leave)
        self._thread = threading.Thread(target=self._listen, name="ulna-keys", daemon=True)
        try:
            self._take_terminal()
            self._thread.start()
        except BaseException:
            self._give_back()
            raise
        self._show(HELP)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.write(self._woken, b".")
        self._thread.join(2.0)
        self._give_back()

    def press(self, text: str) -> None:
        """What a read of the terminal gave."""
        for key in _SEQUENCE.sub("", text):
            if self._typed is not None:
                self._type(key)
            else:
                self._key(key)

    def _key(self, key: str) -> None:
        board = self.board
        match key:
            case " ":
                board.stop()
                self._show("EMERGENCY STOP")
            case "p":
                board.pause(not board.paused)
                self._show("paused; p: go on" if board.paused else "going on")
            case "s":
                board.judge("success")
                self._show("success")
            case "f":
                board.judge("failure")
                self._show("failure")
            case "t" if self._teleoperator:
                board.take_over(not board.taken_over)
                self._show("you have the arm" if board.taken_over else "the policy has the arm")
            case "t":
                self._show("there is no teleoperator to take over with")
            case "i":
                self._typed = ""
                self._show("new instruction (Enter: say it; Esc: forget it; Ctrl-C: stop the arm):")
            case "q":
                self._show("ending")
                self._on_quit()

    def _type(self, key: str) -> None:
        """A key while an instruction is typed."""
        typed = self._typed or ""
        if key in _ENTER:
            self._typed = None
            if typed.strip():
                try:
                    self.board.instruct(typed)
                    self._show(f"\r\nsaid: {typed.strip()}")
                except ValueError as error:
                    self._show(f"\r\nnot said: {error}")
            else:
                self._show("\r\nnothing said")
        elif key in _ESCAPE:
            self._typed = None
            self._show("\r\nforgotten")
        elif key in _ERASE:
            self._typed = typed[:-1]
            if typed:
                self._echo("\b \b")
        elif key in _CLEAR:
            self._typed = ""
            self._echo("\b \b" * len(typed))
        elif key.isprintable():
            self._typed = typed + key
            self._echo(key)

    def _listen(self) -> None:
        """The thread."""
        while True:
            ready, _, _ = select.select([self._terminal, self._wake], [], [])
            if self._wake in ready:
                return
            try:
                data = os.read(self._terminal, 1024)
            except OSError:  # hung up
                data = b""
            if not data:
                self.board.stop()  # nobody could stop it any more
                return
            self.press(self._decoder.decode(data))

    def _take_terminal(self) -> None:
        ours = termios.tcgetattr(self._terminal)
        flags, local, characters = 0, 3, 6
        ours[local] &= ~(termios.ICANON | termios.ECHO)  # keys at once, unseen; Ctrl-C stays
        ours[flags] &= ~(termios.IXON | termios.ICRNL)  # Ctrl-S would freeze what we print
        ours[characters] = list(ours[characters])
        ours[characters][termios.VMIN], ours[characters][termios.VTIME] = 1, 0
        # Ctrl-Z would suspend the process that steers the arm.
        ours[characters][termios.VSUSP] = b"\x00"
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, ours)

    def _give_back(self) -> None:
        try:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal is gone
        for name, handler in self._handlers.items():
            signal.signal(name, handler)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(5.0)
        for descriptor in (self._wake, self._woken):
            os.close(descriptor)

    def _start_guard(self) -> subprocess.Popen[bytes] | None:
        terminal = self._terminal
        try:
            saved = subprocess.run(
                ["stty", "-g"], stdin=terminal, capture_output=True, text=True, check=True
            ).stdout.strip()
            return subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "ulna-terminal", saved],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=terminal,
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            self._show(f"the terminal will not be restored after kill -9 (no stty: {error})")
            return None

    def _require_foreground(self) -> None:
        try:
            ours = os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:
            return  # not our controlling terminal: nothing to be in the background of
        if not ours:
            raise ValueError(
                "keys were asked for, but this run is in the background of its terminal; bring it "
                "to the front (fg), or leave the keyboard out"
            )

    def _print(self, text: str) -> None:
        self._echo(text + "\r\n")

    def _echo(self, text: str) -> None:
        try:
            os.write(self._terminal, text.encode())
        except OSError:
            pass  # the terminal is gone, which `_listen` notices


def _standard_input() -> int:
    """Its file descriptor; -1 where it is none, as in notebooks and tests."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return -1


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
