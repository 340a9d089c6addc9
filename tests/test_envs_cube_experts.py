"""Experts do what the sentence says, from any state, also when they are disturbed."""

from collections.abc import Iterator

import numpy as np
import pytest

from ulna.datasets.schema import Observation
from ulna.envs.collect import Noise, collect_episode
from ulna.envs.cube_experts import aligned, straight_down
from ulna.envs.cube_tasks import language_tasks
from ulna.envs.experts import HOME_HEADING
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.rollout import rollout

TASKS = (
    "pick_named_distractors",
    "stack_named",
    "place_named",
    "two_skill",
    "conveyor_pick",
    "pick_kicked",
)


@pytest.fixture(scope="module", params=TASKS)
def env(request: pytest.FixtureRequest) -> Iterator[RobosuiteEnv]:
    env = language_tasks()[request.param].make("fast")
    assert isinstance(env, RobosuiteEnv)
    yield env
    env.close()


def turned(yaw: float) -> np.ndarray:
    """A rotation about the vertical."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("seed", [100, 101])
def test_expert_does_what_is_said(
    env: RobosuiteEnv, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_expert = language_tasks()[env.task].expert
    assert make_expert is not None
    expert = make_expert()
    no_picture = Observation(images={}, state=np.zeros(1, np.float32), instruction="")
    monkeypatch.setattr(env, "observe", lambda: no_picture)
    result = rollout(
        env, lambda _: expert.action(env)[None].astype(np.float32), seed, execution_horizon=1
    )
    assert result.success, f"{result.instruction}: {result.outcome}"
    said = result.instruction.replace(",", "").split()
    assert all(word in said for word in result.outcome.split())


@pytest.mark.parametrize("env", ["stack_named", "two_skill"], indirect=True)
def test_a_disturbed_expert_comes_back(env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    make_expert = language_tasks()[env.task].expert
    assert make_expert is not None
    blank = np.zeros((1, 1, 3), np.uint8)
    seen = Observation({"front": blank, "wrist": blank}, np.zeros(1, np.float32), "")
    monkeypatch.setattr(env, "observe", lambda: seen)
    episode = collect_episode(env, make_expert(), 2, Noise())
    assert episode.success
    assert not np.array_equal(episode.streams["action"], episode.streams["action_sent"])


@pytest.mark.parametrize("yaw", [-0.7, 0.0, 0.3, 1.4, 3.0])
def test_fingers_close_on_two_sides_of_the_cube(yaw: float) -> None:
    heading = aligned(turned(yaw), HOME_HEADING)
    across = turned(yaw).T @ heading[:, 0]  # the fingers' way, in the cube's axes
    assert np.abs(across).max() > 0.9999 and heading[2, 2] == -1.0
    # From two that are equally good the one the hand has already.
    kept = aligned(turned(np.pi / 4 + 0.01), turned(np.pi / 4) @ HOME_HEADING)
    assert np.trace(kept.T @ turned(np.pi / 4) @ HOME_HEADING) > 2.99


def test_the_hand_does_not_reach_over_a_stack() -> None:
    free = aligned(np.eye(3), HOME_HEADING, avoid=np.array([0.1, 0.0]))
    turned_away = aligned(np.eye(3), HOME_HEADING, avoid=np.array([0.0, 0.1]))
    assert abs(free[1, 0]) > 0.99 and abs(turned_away[0, 0]) > 0.99


def test_straight_down_keeps_the_heading() -> None:
    tilt = np.array([[1.0, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    upright = turned(0.4) @ HOME_HEADING
    np.testing.assert_allclose(straight_down(upright), upright, atol=1e-12)
    level = straight_down(tilt @ upright)
    np.testing.assert_allclose(level.T @ level, np.eye(3), atol=1e-12)
    assert np.linalg.det(level) > 0 and level[2, 2] == -1.0
