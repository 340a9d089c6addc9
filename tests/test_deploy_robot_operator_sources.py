"""Scripts and leader arms as operators."""

import numpy as np
import pytest

from ulna.deploy_robot.operator_sources import ScriptedOperator, TeleoperationOperator
from ulna.deploy_robot.orders import Orders
from ulna.deploy_robot.robot import RobotState, fake_embodiment

STATE = RobotState.empty(fake_embodiment())
SECOND = 1_000_000_000


class Leader:
    def __init__(self) -> None:
        self.now: np.ndarray | None = None

    def action(self, state: RobotState) -> np.ndarray | None:
        return self.now


def test_a_script_gives_its_orders_in_time() -> None:
    operator = ScriptedOperator(
        [(0.5, Orders(paused=True)), (1.0, Orders(instruction="go")), (2.0, Orders(stop=True))]
    )
    start = 77 * SECOND
    said = [operator.poll(start + round(t * SECOND), STATE) for t in (0, 0.4, 0.5, 0.9, 1.0, 1.1)]
    assert [orders.paused for orders in said] == [False, False, True, True, False, False]
    assert [orders.instruction for orders in said] == [None, None, None, None, "go", None]
    assert operator.poll(start + 3 * SECOND, STATE).stop
    operator.begin_episode()
    assert operator.poll(start + 9 * SECOND, STATE) == Orders()


def test_two_entries_in_one_tick_lose_no_instruction() -> None:
    operator = ScriptedOperator(
        [(0.1, Orders(instruction="go")), (0.11, Orders(verdict="success"))]
    )
    operator.poll(0, STATE)
    orders = operator.poll(SECOND, STATE)
    assert orders.instruction == "go" and orders.verdict == "success"


def test_a_script_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not in order"):
        ScriptedOperator([(1.0, Orders()), (0.5, Orders())])


def test_a_source_with_a_clutch_has_the_arm_while_it_gives_actions() -> None:
    leader = Leader()
    operator = TeleoperationOperator(leader)
    assert operator.poll(0, STATE) == Orders()
    leader.now = np.ones(4)
    assert operator.poll(1, STATE).action is leader.now
    leader.now = None
    assert operator.poll(2, STATE) == Orders()


def test_after_taking_over_a_silent_source_pauses_the_arm() -> None:
    leader, taken_over = Leader(), [False]
    operator = TeleoperationOperator(leader, taken_over=lambda: taken_over[0])
    leader.now = np.ones(4)
    assert operator.poll(0, STATE).action is None
    taken_over[0] = True
    assert operator.poll(1, STATE).action is leader.now
    leader.now = None
    orders = operator.poll(2, STATE)
    assert orders.action is None and orders.paused
    taken_over[0] = False
    assert operator.poll(3, STATE) == Orders()


def test_the_other_operator_is_heard_as_well() -> None:
    leader = Leader()
    leader.now = np.ones(4)
    script = ScriptedOperator([(0.0, Orders(stop=True, instruction="go", verdict="failure"))])
    orders = TeleoperationOperator(leader, script).poll(0, STATE)
    assert orders.stop and orders.instruction == "go" and orders.verdict == "failure"
    assert orders.action is leader.now
