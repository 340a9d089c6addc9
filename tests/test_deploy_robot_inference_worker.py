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

    def make(make_act: Callable, continues: bool = False) -> InferenceWorker:
        worker = InferenceWorker(encode_make_act(make_act))
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
