"""What the operator wants reaches the loop: newest state, instruction once, stop for good."""

import multiprocessing
import threading

import pytest

from ulna.deploy_robot.operator_board import BoardOperator, OperatorBoard
from ulna.deploy_robot.orders import Operator, Orders
from ulna.deploy_robot.robot import RobotState, fake_embodiment

STATE = RobotState.empty(fake_embodiment())


@pytest.fixture
def board() -> OperatorBoard:
    return OperatorBoard()


@pytest.fixture
def operator(board: OperatorBoard) -> BoardOperator:
    ours, theirs = multiprocessing.Pipe(duplex=True)
    sender = threading.Thread(target=board.send, args=(ours,))
    sender.start()
    operator = BoardOperator.receive(theirs)
    sender.join()
    return operator


def test_an_untouched_board_wants_nothing(operator: BoardOperator) -> None:
    assert isinstance(operator, Operator)
    assert operator.poll(0, STATE) == Orders()


def test_stop_stays(board: OperatorBoard, operator: BoardOperator) -> None:
    board.stop()
    board.pause(False)
    assert operator.poll(0, STATE).stop
    operator.begin_episode()
    assert operator.poll(1, STATE).stop


def test_pause_and_go_on(board: OperatorBoard, operator: BoardOperator) -> None:
    board.pause(True)
    assert operator.poll(0, STATE).paused and operator.poll(1, STATE).paused
    board.pause(False)
    assert not operator.poll(2, STATE).paused


def test_an_instruction_is_said_once_and_the_newest_wins(
    board: OperatorBoard, operator: BoardOperator
) -> None:
    board.instruct("pick up the red cube")
    board.instruct("  put it back, öfter ")
    assert operator.poll(0, STATE).instruction == "put it back, öfter"
    assert operator.poll(1, STATE).instruction is None
    board.pause(True)
    assert operator.poll(2, STATE).instruction is None


def test_an_instruction_between_episodes_is_not_lost(
    board: OperatorBoard, operator: BoardOperator
) -> None:
    operator.poll(0, STATE)
    board.instruct("stack them")
    operator.begin_episode()
    assert operator.poll(1, STATE).instruction == "stack them"


def test_a_verdict_ends_the_episode_it_was_given_in_only(
    board: OperatorBoard, operator: BoardOperator
) -> None:
    board.judge("failure")
    assert operator.poll(0, STATE).verdict == "failure"
    assert operator.poll(1, STATE).verdict == "failure"
    operator.begin_episode()
    assert operator.poll(2, STATE).verdict is None
    board.judge("success")  # after the end of an episode, before the next
    operator.begin_episode()
    assert operator.poll(3, STATE).verdict is None
    board.judge("success")
    assert operator.poll(4, STATE).verdict == "success"


def test_what_cannot_be_said_is_refused(board: OperatorBoard, operator: BoardOperator) -> None:
    for text in ("  ", "x" * 5000):
        with pytest.raises(ValueError, match="give 1 to 2048"):
            board.instruct(text)
    assert operator.poll(0, STATE) == Orders()


def test_taking_over(board: OperatorBoard, operator: BoardOperator) -> None:
    board.take_over(True)
    operator.poll(0, STATE)
    assert operator.taken_over and board.taken_over
