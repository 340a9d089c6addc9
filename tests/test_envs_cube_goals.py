"""Success of stack, place and sequences, judged on cubes that are put into place by hand."""

from collections.abc import Iterator

import numpy as np
import pytest

from ulna.envs.cube_experts import expert_of
from ulna.envs.cube_goals import advance, rests_on
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.robosuite_env import RobosuiteEnv


@pytest.fixture(scope="module")
def stack() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["stack_named"])
    yield env
    env.close()


@pytest.fixture(scope="module")
def place() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["place_named"])
    yield env
    env.close()


@pytest.fixture(scope="module")
def sequence() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["two_skill"])
    yield env
    env.close()


def put(env: RobosuiteEnv, cube: str, xy: np.ndarray, height_m: float, tilt_rad: float = 0) -> None:
    """Write a cube into the state, its centre `height_m` above the table (world frame)."""
    state, address = env.simulator_state(), int(env.model.joint(f"{cube}_joint0").qposadr[0])
    pose = (*xy, 0.8 + height_m, np.cos(tilt_rad / 2), np.sin(tilt_rad / 2), 0, 0)
    state[1 + address : 1 + address + 7] = pose  # the state starts with the time
    env.restore(state, env.instruction)


def spot(env: RobosuiteEnv, cube: str) -> np.ndarray:
    """Where a cube is (world frame, horizontal)."""
    return env.data.body(f"{cube}_main").xpos[:2].copy()


@pytest.mark.parametrize(
    ("cube", "base", "offset_m", "height_m", "tilt", "outcome", "success"),
    [
        ("red", "green", 0.0, 0.06, 0.0, "red on green", True),
        ("red", "green", 0.015, 0.06, 0.0, "red on green", True),
        ("red", "green", 0.03, 0.06, 0.0, "none", False),  # beside it, without support
        ("red", "green", 0.0, 0.066, 0.0, "red", False),  # hovers
        ("red", "green", 0.0, 0.06, 0.4, "none", False),  # tilted: not at rest
        ("red", "blue", 0.0, 0.06, 0.0, "red on blue", False),
        ("green", "red", 0.0, 0.06, 0.0, "green on red", False),
    ],
)
def test_stacked_is_the_named_cube_at_rest_on_the_named_one(
    stack: RobosuiteEnv,
    cube: str,
    base: str,
    offset_m: float,
    height_m: float,
    tilt: float,
    outcome: str,
    success: bool,
) -> None:
    stack.reset(1, "put the red cube on the green cube")
    put(stack, cube, spot(stack, base) + (offset_m, 0), height_m, tilt)
    assert (stack.outcome(), stack.success()) == (outcome, success)


def test_a_stack_off_the_table_does_not_count(stack: RobosuiteEnv) -> None:
    stack.reset(1, "put the red cube on the green cube")
    put(stack, "green", spot(stack, "green"), 0.08)
    put(stack, "red", spot(stack, "green"), 0.12)
    assert stack.outcome() == "red+green" and not stack.success()


def test_a_cube_still_in_the_hand_is_not_stacked_yet(stack: RobosuiteEnv) -> None:
    stack.reset(4, "put the red cube on the green cube")
    expert, seen = expert_of(stack.cube_task), []
    while not stack.success() and len(seen) < stack.max_steps:
        stack.step(expert.action(stack))
        seen.append((rests_on(stack, 0, 1), stack.gripper_gap_m(0) > 0.0005))
    assert (True, False) in seen and seen[-1] == (True, True)


@pytest.mark.parametrize(
    ("offset_m", "height_m", "outcome"),
    [
        ((0.0, 0.0), 0.02, "red on yellow"),
        ((0.03, -0.03), 0.02, "red on yellow"),
        ((0.04, 0.0), 0.02, "none"),
        ((0.0, 0.0), 0.03, "none"),
        ((0.0, 0.0), 0.1, "red"),
    ],
)
def test_placed_is_at_rest_with_the_centre_on_the_pad(
    place: RobosuiteEnv, offset_m: tuple[float, float], height_m: float, outcome: str
) -> None:
    place.reset(3, "put the red cube on the yellow pad")
    yellow = place.data.body("pad_yellow").xpos[:2].copy()
    assert place.outcome() == "none"
    put(place, "red", yellow + offset_m, height_m)
    assert place.outcome() == outcome
    assert place.success() is (outcome == "red on yellow")
    place.restore(place.simulator_state(), "put the red cube on the purple pad")
    assert not place.success()


def do(env: RobosuiteEnv, *, ticks: int = 3) -> None:
    """Let the scene as it is last for some control ticks, in the eyes of the judge."""
    assert env.order is not None
    for _ in range(ticks):
        advance(env.goal, env, env.order)


@pytest.mark.parametrize("early", [False, True])
def test_a_sequence_succeeds_in_its_order_only(sequence: RobosuiteEnv, early: bool) -> None:
    env = sequence
    env.reset(2, "stack the red cube on the green cube, then lift the blue cube")
    home = spot(env, "blue")
    if early:
        put(env, "blue", home, 0.1)
        do(env)
        assert env.outcome() == "wrong order"
        put(env, "blue", home, 0.02)
    put(env, "red", spot(env, "green"), 0.06)
    do(env)
    assert not env.success() and env.outcome() == ("wrong order" if early else "red on green")
    put(env, "blue", home, 0.1)
    do(env)
    assert env.success() is not early
    assert env.outcome() == ("wrong order" if early else "red on green then blue")
    put(env, "red", home, 0.02)  # the stack does not stand any more
    assert not env.success()


def test_a_skill_of_a_moment_does_not_count(sequence: RobosuiteEnv) -> None:
    env = sequence
    env.reset(2, "stack the red cube on the green cube, then lift the blue cube")
    home = spot(env, "blue")
    put(env, "blue", home, 0.1)
    do(env, ticks=2)
    put(env, "blue", home, 0.02)
    do(env)
    assert env.order is not None and env.order[0] == 0


def test_stage_is_part_of_the_state(sequence: RobosuiteEnv) -> None:
    env = sequence
    env.reset(2, "stack the red cube on the green cube, then lift the blue cube")
    put(env, "red", spot(env, "green"), 0.06)
    for _ in range(3):
        env.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    done, command = env.simulator_state(), env.instruction
    assert env.order is not None and env.order[0] == 1
    env.reset(3)
    assert env.order[0] == 0
    env.restore(done, command)
    assert env.order[0] == 1
