"""The language and dynamic tasks: the contract, seeds alone decide, belt and kick are physics."""

import colorsys
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import get_args

import numpy as np
import pytest

from ulna.envs.check_env import check_env
from ulna.envs.cube_goals import Goal, Then
from ulna.envs.cube_placement import draw_kick
from ulna.envs.cube_task import Kick
from ulna.envs.cube_tasks import CUBE_TASKS, language_tasks
from ulna.envs.panda import RENDER_PROFILES, embodiment_of
from ulna.envs.renderer import PROFILES
from ulna.envs.robosuite_env import RobosuiteEnv

NEW = tuple(name for name in CUBE_TASKS if name not in ("pick_named", "lift"))
STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])


@pytest.fixture(scope="module")
def envs() -> Iterator[Callable[[str], RobosuiteEnv]]:
    """Environments by task name, each made once."""

    @cache
    def make(name: str) -> RobosuiteEnv:
        made.append(RobosuiteEnv(CUBE_TASKS[name]))
        return made[-1]

    made: list[RobosuiteEnv] = []
    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize("name", NEW)
def test_contract(envs: Callable[[str], RobosuiteEnv], name: str) -> None:
    check_env(envs(name))


@pytest.mark.parametrize("name", NEW)
def test_another_process_would_place_the_same(
    envs: Callable[[str], RobosuiteEnv], name: str
) -> None:
    env, fresh = envs(name), RobosuiteEnv(CUBE_TASKS[name])
    for _ in range(3):
        env.step(np.ones(7))
    for seed in (0, 12_345, 10**9):
        env.reset(seed)
        fresh.reset(seed)
        np.testing.assert_array_equal(env.simulator_state(), fresh.simulator_state())
        assert env.instruction == fresh.instruction
    fresh.close()


@pytest.mark.parametrize(
    ("name", "seed", "instruction", "size", "qpos"),
    [
        ("pick_named", 0, "pick up the green cube", 95,
         [0.0025146, 0.05507917, 0.0130875, 0.10531653, -0.11934276, 0.10722128, 0.52425363]),
        ("pick_named", 12_345, "pick up the blue cube", 95,
         [-0.0284765, -0.0751838, 0.05182681, 0.29673539, 0.10773148, 0.05017124, 0.34912188]),
        ("lift", 0, "lift the cube", 57,
         [0.0025146, 0.05507917, 0.0130875, 0.20256449, 0.05507917, 0.0130875, 0.20256449]),
    ],
)  # fmt: skip
def test_scenes_of_stored_demonstrations_stay(
    envs: Callable[[str], RobosuiteEnv],
    name: str,
    seed: int,
    instruction: str,
    size: int,
    qpos: list[float],
) -> None:
    env = envs(name)
    env.reset(seed)
    assert (env.instruction, len(env.simulator_state())) == (instruction, size)
    np.testing.assert_allclose(env.data.qpos[[0, 9, 10, 12, -7, -6, -4]], qpos, atol=1e-7)


def test_the_table_costs_no_simulator_and_is_complete() -> None:
    script = (
        "import sys, ulna.envs.cube_tasks as t\n"
        "rows = t.language_tasks()\n"
        "rows['two_skill'].embodiment('near')\n"
        "print({'mujoco', 'robosuite', 'numba'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
    rows = language_tasks()
    assert [name for name, row in rows.items() if row.suite == "dynamic"] == [
        "conveyor_pick",
        "pick_kicked",
    ]
    for name, row in rows.items():
        task = CUBE_TASKS[name]
        assert row.name == name and len(set(task.instructions)) == len(task.goals)
        assert all(isinstance(goal, get_args(Goal)) for goal in task.goals)
    assert set(RENDER_PROFILES) == set(PROFILES)
    with pytest.raises(ValueError, match="Did you mean 'near'"):
        embodiment_of("nera")


def test_words_and_goals_name_the_same_cubes() -> None:
    for name in ("stack_named", "place_named", "two_skill"):
        task = CUBE_TASKS[name]
        for instruction, goal in zip(task.instructions, task.goals, strict=True):
            parts = (goal.first, goal.second) if isinstance(goal, Then) else (goal,)
            words = [task.cubes[part.cube].name for part in parts]
            assert [word for word in instruction.split() if word in words][:1] == words[:1]
            for part in parts:
                for field, things in (
                    ("cube", task.cubes),
                    ("base", task.cubes),
                    ("pad", task.pads),
                ):
                    if hasattr(part, field):
                        assert things[getattr(part, field)].name in instruction.split()


@pytest.mark.parametrize(("name", "middle"), [("conveyor_pick", 6), ("pick_kicked", 6)])
def test_restored_in_the_middle_the_future_is_the_same(
    envs: Callable[[str], RobosuiteEnv], name: str, middle: int
) -> None:
    env = envs(name)
    actions = np.random.default_rng(1).uniform(-0.5, 0.5, (24, 7))
    env.reset(5)
    command, states = env.instruction, [env.simulator_state()]
    for action in actions:
        env.step(action)
        states.append(env.simulator_state())
    assert name != "pick_kicked" or middle < env._memory["kick"][0] < 24
    env.reset(6)  # another speed of the belt, another kick
    for tick in (0, middle):
        env.restore(states[tick], command)
        for action, after in zip(actions[tick:], states[tick + 1 :], strict=True):
            env.step(action)
            np.testing.assert_array_equal(env.simulator_state(), after)


def test_belt_carries_every_cube_at_the_drawn_speed(envs: Callable[[str], RobosuiteEnv]) -> None:
    env, speeds = envs("conveyor_pick"), []
    for seed in range(4):
        env.reset(seed)
        before = np.stack([env.cube_pose(cube)[0] for cube in range(3)])
        speed = -float(env.data.actuator("belt").ctrl[0])
        for _ in range(20):
            env.step(STILL)
        moved = np.stack([env.cube_pose(cube)[0] for cube in range(3)]) - before
        np.testing.assert_allclose(moved[:, 1], -speed, rtol=0.02)  # one second
        np.testing.assert_allclose(moved[:, (0, 2)], 0, atol=5e-4)
        speeds.append(speed)
    assert 0.03 <= min(speeds) < max(speeds) <= 0.06 and len(set(speeds)) == 4


def test_a_cube_on_the_belt_goes_through_the_tunnel(envs: Callable[[str], RobosuiteEnv]) -> None:
    env = envs("conveyor_pick")
    env.reset(2)
    for _ in range(100):
        env.step(STILL)
    places = [env.data.xpos[body] for body in env._cube_bodies]
    belt = env.cube_task.belt
    assert belt is not None
    low, high = belt.tunnel_y_m
    inside = [place for place in places if low < place[1] < high]
    assert inside and all(abs(place[2] - 0.832) < 1e-3 for place in inside)


def test_kick_moves_the_named_cube_alone_at_its_tick(envs: Callable[[str], RobosuiteEnv]) -> None:
    env, distances = envs("pick_kicked"), []
    for seed in range(6):
        for cube, instruction in enumerate(env.instructions):
            env.reset(seed, instruction)
            tick, start = int(env._memory["kick"][0]), [env.cube_pose(c)[0] for c in range(3)]
            for _ in range(tick):
                env.step(STILL)
            for other in range(3):
                assert np.linalg.norm(env.cube_pose(other)[0] - start[other]) < 5e-4
            for _ in range(14):
                env.step(STILL)
            way = [float(np.linalg.norm(env.cube_pose(c)[0] - start[c])) for c in range(3)]
            distances.append(way.pop(cube))
            assert max(way) < 5e-4
            assert np.linalg.norm(env.cube_velocity_m_s(cube)) < 0.01
    assert 0.025 < min(distances) < 0.038 < max(distances) < 0.055


def test_kick_is_a_function_of_the_seed_and_keeps_clear() -> None:
    places = np.array([[0.0, 0.0], [0.09, 0.0], [0.0, 0.09]])
    drawn = [draw_kick(seed, Kick((8, 20)), places, 0.3) for seed in range(40)]
    again = draw_kick(7, Kick((8, 20)), places, 0.3)
    assert again[0] == drawn[7][0] and np.array_equal(again[1], drawn[7][1])
    assert {tick for tick, _ in drawn} <= set(range(8, 21)) and len({t for t, _ in drawn}) > 6
    for _, velocities in drawn:
        # Kicked out of the corner, the first cube comes nearer to none of the others.
        assert velocities[0] @ (1.0, 0.0) < 0.8 * np.linalg.norm(velocities[0])
        distance = (velocities**2).sum(axis=1) / (2 * 0.3 * 9.81)
        assert np.all((distance > 0.0299) & (distance < 0.0501))


def test_distractors_come_in_two_or_three_and_in_colours_of_the_seed(
    envs: Callable[[str], RobosuiteEnv],
) -> None:
    env, counts, hues = envs("pick_named_distractors"), [], []
    for seed in range(12):
        env.reset(seed)
        bodies = env._thing_bodies[3:]
        counts.append(sum(env.data.xpos[body][2] > 0.8 for body in bodies))
        for thing in env.cube_task.distractors:
            colour = env.model.geom(f"{thing.name}_g0_vis").rgba[:3]
            hues.append(colorsys.rgb_to_hsv(*colour)[0])
    assert set(counts) == {2, 3} and len(set(hues)) == len(hues)
    for cube in env.cube_task.cubes:
        hue = colorsys.rgb_to_hsv(*cube.rgba[:3])[0]
        assert min(min(abs(hue - h), 1 - abs(hue - h)) for h in hues) > 0.05


def test_a_colour_is_seen_and_changes_no_physics(envs: Callable[[str], RobosuiteEnv]) -> None:
    env = envs("pick_named_distractors")
    env.reset(0)
    state, seen = env.simulator_state(), env.render("front", 64, 64)
    repainted = state.copy()
    repainted[-9:] = 0.1
    env.restore(repainted, env.instruction)
    assert (np.abs(env.render("front", 64, 64).astype(int) - seen).max(axis=2) > 20).sum() > 10
    env.step(STILL)
    after = env.simulator_state()
    env.restore(state, env.instruction)
    env.step(STILL)
    np.testing.assert_array_equal(env.simulator_state()[:-9], after[:-9])
    env.restore(state, env.instruction)
    np.testing.assert_array_equal(env.render("front", 64, 64), seen)
