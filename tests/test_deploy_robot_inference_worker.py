"""What reaches the policy in its process, and what comes back from one that is elsewhere."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ulna.deploy_robot.inference import Answer
from ulna.deploy_robot.inference_worker import InferenceWorker, encode_make_act
from ulna.deploy_robot.robot import RobotState, fake_embodiment

sys.path.append(str(Path(__file__).parent))
import deploy_robot_fakes as fakes  # noqa: E402

STATE = RobotState.empty(fake_embodiment())


@pytest.fixture
def start() -> Iterator[Callable[..., InferenceWorker]]:
    workers: list[InferenceWorker] = []

    def make(make_act: Callable, continues: bool = False, history: int = 1) -> InferenceWorker:
        worker = InferenceWorker(encode_make_act(make_act), history)
        workers.append(worker)
        worker.start()
        worker.warm_up(fake_embodiment(), "move", continues=continues)
        worker.begin_episode(1, "move")
        return worker

    yield make
    for worker in workers:
        worker.close()


def until(happens: Callable[[], object]) -> object:
    deadline = time.monotonic() + 30
    while not (found := happens()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
    return found


def answer_of(worker: InferenceWorker) -> Answer:
    answer = until(worker.poll)
    assert isinstance(answer, Answer)
    return answer


def test_plans_delays_and_words_reach_the_policy(start: Callable[..., InferenceWorker]) -> None:
    worker = start(fakes.make_echo, continues=True)
    planned = np.arange(20, dtype=np.float32).reshape(5, 4)
    worker.offer(STATE, 3, planned, 2)
    answer = answer_of(worker)
    assert answer.chunk is not None and answer.observation_tick == 3
    assert answer.chunk[0].tolist() == [5, 2, ord("m"), 0]
    np.testing.assert_array_equal(answer.chunk[1:5], planned[1:])
    # No plan, other words, in the order they were said.
    worker.set_instruction("turn")
    worker.offer(STATE, 4)
    answer = answer_of(worker)
    assert answer.chunk is not None and answer.chunk[0].tolist() == [0, 0, ord("t"), 0]
    assert not answer.chunk[1:].any(), "of the plan before"
    # More than a chunk has is cut; a policy cannot continue beyond its horizon.
    worker.offer(STATE, 5, np.ones((11, 4), np.float32), 11)
    answer = answer_of(worker)
    assert answer.chunk is not None and answer.chunk[0, :2].tolist() == [8, 8]


def test_the_last_ticks_reach_a_policy_that_sees_several(
    start: Callable[..., InferenceWorker],
) -> None:
    worker = start(fakes.make_remembering, history=3)
    state = RobotState.empty(fake_embodiment())

    def see(tick: int) -> None:
        state.images["front"][...], state.state[0] = tick, tick / 2
        worker.see(tick, state)

    def told() -> list[float]:
        answer = answer_of(worker)
        assert answer.chunk is not None
        np.testing.assert_array_equal(answer.chunk[:3, 1], answer.chunk[:3, 0] / 2)
        return answer.chunk[:3, 0].tolist()

    see(5)
    worker.offer(state, 5)
    assert told() == [5, 5, 5]
    for tick in (6, 7, 8):
        see(tick)
    worker.set_instruction("think")
    worker.offer(state, 8)
    for tick in (9, 10, 11, 12):  # what comes while it thinks does not disturb what it was given
        see(tick)
    assert told() == [6, 7, 8]
    see(15)  # two ticks were skipped
    worker.set_instruction("move")
    worker.offer(state, 15)
    assert told() == [12, 12, 15]
    worker.begin_episode(2, "move")
    see(0)
    worker.offer(state, 0)
    assert told() == [0, 0, 0]


def test_a_policy_that_cannot_be_reached_says_so_and_comes_back(
    start: Callable[..., InferenceWorker], tmp_path: Path
) -> None:
    down = tmp_path / "down"
    worker = start(functools.partial(fakes.Elsewhere, str(down)))
    assert worker.reachable()
    down.touch()
    worker.offer(STATE, 0)
    assert answer_of(worker).chunk is None and not worker.reachable()
    assert not worker.dead() and worker.seconds == [], "a lost question was not computed"
    down.unlink()
    until(worker.reachable)  # by the probe, without a question
    worker.offer(STATE, 1)
    assert answer_of(worker).chunk is not None
    down.touch()
    until(lambda: not worker.reachable())
    assert not worker.dead()


def test_a_policy_that_cannot_be_reached_at_the_start_is_refused(
    start: Callable[..., InferenceWorker], tmp_path: Path
) -> None:
    (tmp_path / "down").touch()
    with pytest.raises(ValueError, match="no route to the policy"):
        start(functools.partial(fakes.Elsewhere, str(tmp_path / "down")))
