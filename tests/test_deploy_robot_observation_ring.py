"""What a policy with a history sees on an arm: as in evaluation, whatever happens there."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from deploy_robot_bench import LIMITS, Bench, Script

from ulna.datasets.schema import Observation
from ulna.deploy_robot.clock import FakeClock, Ticker
from ulna.deploy_robot.control_loop import LoopConfig, control_episode
from ulna.deploy_robot.inference import InlineInference
from ulna.deploy_robot.observation_ring import ObservationRing
from ulna.deploy_robot.orders import Orders
from ulna.deploy_robot.robot import FakeRobot, RobotState, fake_embodiment
from ulna.deploy_robot.safety import SafetyGate
from ulna.deploy_robot.tick_log import TickLog
from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig, Mode
from ulna.envs.rollout import rollout
from ulna.envs.virtual_clock import DelayModel

TICKS = 40


class Gantry:
    """An environment whose every tick looks unlike the others."""

    task, instructions, instruction, max_steps = "gantry", ("move",), "move", TICKS

    def __init__(self) -> None:
        self.embodiment = fake_embodiment()
        self.reset(0)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        self._state, self._steps = np.zeros(4, np.float32), 0

    def observe(self) -> Observation:
        image = np.random.default_rng(self._steps).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Observation({"front": image}, self.state(), self.instruction)

    def state(self) -> np.ndarray:
        return self._state.copy()

    def joint_position_rad(self) -> np.ndarray:
        return np.zeros(1)

    def time_ns(self) -> int:
        return self._steps * 50_000_000

    def step(self, action: np.ndarray) -> None:
        action = np.asarray(action, np.float32)
        self._state[:3] += np.float32(0.01) * action[:3]
        self._state[3] = action[3]
        self._steps += 1

    def success(self) -> bool:
        return False

    def outcome(self) -> str:
        return "none"

    def simulator_state(self) -> np.ndarray:
        return self._state.astype(np.float64)

    def restore(self, state: np.ndarray, instruction: str) -> None:
        raise NotImplementedError

    def render(self, camera: str, height: int, width: int, profile: str | None = None):
        raise NotImplementedError

    def close(self) -> None:
        pass


class GantryRobot(FakeRobot):
    """The same as an arm that obeys at once."""

    def start_episode(self, seed: int, instruction: str | None) -> str:
        self.env = Gantry()
        return "move"

    def read(self) -> RobotState:
        state, seen = self._state, self.env.observe()
        state.version += 1
        state.time_ns = self._now_ns()
        state.image_time_ns[:] = state.time_ns
        state.images["front"][...] = seen.images["front"]
        state.state[:] = seen.state
        return state

    def send(self, action: np.ndarray) -> None:
        self.env.step(action)


class Notes:
    """A policy that keeps what it was given and moves by it."""

    def __init__(self) -> None:
        self.given: list[Observation] = []

    def __call__(self, seen: Observation) -> np.ndarray:
        self.given.append(seen)
        chunk = np.full((8, 4), 0.1, np.float32)
        chunk[:, 1] = np.linspace(0, 0.1, 8) * (1 + seen.images["front"].mean() / 255)
        chunk[:, 2] = seen.noise_seed % 100 / 1000
        return chunk


def on_the_arm(act: Notes, mode: Mode, delay: int, history: int) -> None:
    clock = FakeClock()
    robot = GantryRobot(clock.now_ns)
    inference = InlineInference(act, 8, lambda: delay, history)
    robot.connect()
    robot.start_episode(7, None)
    inference.begin_episode(7, "move")
    ended = control_episode(
        robot,
        inference,
        Ticker(clock, 20.0, 100),
        SafetyGate(LIMITS, robot.embodiment),
        ChunkExecution(ExecutionConfig(mode, 4)),
        TickLog(100, 4, 4),
        LoopConfig(TICKS / 20),
    )
    assert ended == "time"


@pytest.mark.parametrize("mode", ["hold", "asynchronous", "ensemble", "rtc"])
@pytest.mark.parametrize(("history", "delay"), [(1, 2), (2, 1), (3, 3), (6, 2)])
def test_the_policy_sees_on_the_arm_what_it_sees_in_evaluation(
    mode: Mode, history: int, delay: int
):
    judged, run = Notes(), Notes()
    late = DelayModel("constant", delay)
    rollout(Gantry(), judged, 7, None, 4, history=history, mode=mode, delay=late)
    on_the_arm(run, mode, delay, history)
    assert len(run.given) == len(judged.given) > 3
    for ours, theirs in zip(run.given, judged.given, strict=True):
        assert ours.state.shape == ((history, 4) if history > 1 else (4,))
        assert np.array_equal(ours.images["front"], theirs.images["front"])
        assert np.array_equal(ours.state, theirs.state)
        assert (ours.noise_seed, ours.inference_delay) == (
            theirs.noise_seed,
            theirs.inference_delay,
        )
        if ours.planned is None or theirs.planned is None:
            assert ours.planned is theirs.planned
        else:
            assert np.array_equal(ours.planned, theirs.planned)
    if history > 1:  # the first one stands for those before it, and only at the start
        assert (run.given[0].state == run.given[0].state[-1]).all()
        assert (run.given[-1].state[0] != run.given[-1].state[-1]).any()


def test_skipped_ticks_and_the_time_before_the_episode_are_filled_by_the_nearest():
    rng, body = np.random.default_rng(0), fake_embodiment()
    state = RobotState.empty(body)
    for history in (2, 3, 5):
        ring = ObservationRing(history, state)
        places = np.zeros((history, 4), np.float32)
        images = {"front": np.zeros((history, 8, 8, 3), np.uint8)}
        for _ in range(3):
            ring.clear()
            seen: list[int] = []
            tick = int(rng.integers(3))
            for _ in range(20):
                state.state[:], state.images["front"][...] = tick, tick
                ring.see(tick, state)
                seen.append(tick)
                ring.write(places, images)
                wanted = [
                    max([s for s in seen if s <= tick - back], default=seen[0])
                    for back in reversed(range(history))
                ]
                assert places[:, 0].tolist() == wanted
                assert images["front"][:, 3, 3, 1].tolist() == wanted
                tick += int(rng.choice([1, 1, 1, 2, 4]))


def test_its_memory_is_taken_once():
    state = RobotState.empty(fake_embodiment())
    state.images["front"] = np.zeros((240, 320, 3), np.uint8)
    ring = ObservationRing(4, state)
    places, images = np.zeros((4, 4), np.float32), {"front": np.zeros((4, 240, 320, 3), np.uint8)}
    tracemalloc.start()
    try:
        for tick in range(50):
            ring.see(tick, state)
            ring.write(places, images)
        assert tracemalloc.get_traced_memory()[1] < 20_000, "less than a tenth of one picture"
    finally:
        tracemalloc.stop()


def flown(bench: Bench, history: int, **others: Any) -> list[tuple[int, list[int], list[float]]]:
    """What a policy was given: at which tick, brightness of the pictures, state entry 0. The fake
    robot's pictures are as bright as its reads are many, one per tick and one before."""
    given = []

    def act(seen: Observation) -> np.ndarray:
        bright = seen.images["front"][:, 0, 0, 0].tolist()
        given.append((bench.log.rows, bright, seen.state[:, 0].tolist()))
        return np.full((8, 4), 0.25, np.float32)

    bench.inference = InlineInference(act, 8, lambda: 1, history)
    bench.run(**others)
    return given


def test_pauses_and_other_hands_are_seen_as_they_were():
    hand = np.array([-0.5, 0.0, 0.0, 1.0], np.float32)
    table = {tick: Orders(paused=True) for tick in range(30, 40)}
    table |= {tick: Orders(action=hand) for tick in range(60, 70)}
    table |= {50: Orders(instruction="move on")}
    given = flown(Bench(), 3, operator=Script(table))
    first = given[0][1][0]
    assert given[0][:2] == (0, [first] * 3), "the first one stands for those before it"
    for tick, bright, _ in given:
        # One per tick, also of those on which nobody asked the policy.
        assert bright == [first + max(0, tick - back) for back in (2, 1, 0)]
    after_pause = next(states for tick, _, states in given if tick >= 40)
    assert after_pause[0] == after_pause[1] == after_pause[2], "it stood still"
    after_hand = next(states for tick, _, states in given if tick >= 70)
    assert after_hand[0] > after_hand[1] > after_hand[2], "the operator drew it back"


def test_an_episode_knows_nothing_of_the_one_before():
    bench = Bench()
    one = flown(bench, 2, max_episode_s=1.0)
    bench.log = TickLog(500, 4, 4)
    again: list[list[int]] = []

    def act(seen: Observation) -> np.ndarray:
        again.append(seen.images["front"][:, 0, 0, 0].tolist())
        return np.full((8, 4), 0.25, np.float32)

    bench.inference._act = act
    bench.run(max_episode_s=1.0)
    assert len(one) == len(again) > 3
    assert again[0][0] == again[0][1] > one[-1][1][-1]
    assert again[1][1] == again[1][0] + 1


class SlowCamera(FakeRobot):
    """Gives a new picture at every second read."""

    def read(self) -> RobotState:
        state = super().read()
        state.images["front"][...] = state.version // 2 % 256
        if state.version % 2:
            state.image_time_ns[:] -= 50_000_000
        return state


def test_a_frame_that_came_twice_is_seen_twice():
    """As a recorder stores it: of each tick what was there, states of their own beside it."""
    bench = Bench()
    bench.robot = SlowCamera(bench.clock.now_ns)
    bench.robot.connect()
    given = flown(bench, 4, max_episode_s=2.0)
    assert len(given) > 4
    for tick, bright, states in given:
        if tick < 4:
            continue  # the start is repeated
        newest = bright[-1]
        even = [newest - 1, newest - 1, newest, newest]
        odd = [newest - 2, newest - 1, newest - 1, newest]
        assert bright in (even, odd)
        assert tick < 6 or len(set(states)) == 4


def test_a_skipped_tick_is_filled_in_the_loop_too():
    late = (0,) * 20 + (120_000_000,)
    bench = Bench(oversleep_ns=late)
    given = flown(bench, 4, max_episode_s=2.0)
    missed = bench.ticker.skipped
    assert missed >= 2
    gaps = [bright for _, bright, _ in given if len(set(bright)) < 4 and bright != given[0][1]]
    steps = [np.diff(bright).tolist() for bright in gaps]
    assert any(step.count(0) == 2 and step.count(1) == 1 for step in steps), steps


def test_several_observations_cannot_be_offered_unseen():
    with pytest.raises(AssertionError, match="seen before it is offered"):
        inference = InlineInference(lambda seen: np.zeros((8, 4), np.float32), 8, history=2)
        inference.begin_episode(0, "move")
        inference.offer(RobotState.empty(fake_embodiment()), 0)
