"""An axis changes what it says and nothing else, as the seed says and nothing else."""

from collections.abc import Iterator

import numpy as np
import pytest

from ulna.envs.check_env import check_env
from ulna.envs.cube_experts import CubeExpert
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.perturbation import ACTION_NOISE, AXES, JOINT_NOISE_RAD, perturbed
from ulna.envs.perturbation_looks import LOOKS
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.robosuite_suite import RobosuiteSuiteEnv
from ulna.envs.robosuite_tasks import ROBOSUITE_TASKS

PHYSICS = ("start_pose", "action_noise")


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["pick_named"])
    yield env
    env.close()


def looks(env: object, seed: int) -> np.ndarray:
    env.reset(seed)  # type: ignore[attr-defined]
    return np.stack([env.render(camera, 64, 64) for camera in ("front", "wrist")])  # type: ignore[attr-defined]


@pytest.mark.parametrize("axis", AXES)
def test_contract_on_every_axis(env: RobosuiteEnv, axis: str) -> None:
    check_env(perturbed(env, axis, "strong"))


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_changes_pictures_or_physics(env: RobosuiteEnv, axis: str) -> None:
    changed = perturbed(env, axis, "strong", 3)
    action = np.array([0.4, -0.3, -0.5, 0.1, 0.2, 0.3, 1.0])
    env.reset(11)
    start, picture = env.simulator_state(), env.render("front", 64, 64)
    for _ in range(3):
        env.step(action)
    end = env.simulator_state()
    changed.reset(11)
    np.testing.assert_array_equal(
        np.array_equal(changed.simulator_state()[:-2], start), axis != "start_pose"
    )
    seen = changed.render("front", 64, 64).astype(int)
    if axis not in PHYSICS:
        assert np.abs(seen - picture).mean() > 0.2
    for _ in range(3):
        changed.step(action)
    assert np.array_equal(changed.simulator_state()[:-2], end) == (axis not in PHYSICS)
    assert set(PHYSICS) | set(LOOKS) | {"rendering"} == set(AXES)


@pytest.mark.parametrize("axis", sorted(LOOKS))
def test_looks_follow_from_the_seed_and_leave_the_scene_behind_as_it_was(
    env: RobosuiteEnv, axis: str
) -> None:
    plain = looks(env, 4)
    changed = perturbed(env, axis, "mild")
    first, other = looks(changed, 4), looks(changed, 5)
    assert not np.array_equal(first, plain) and not np.array_equal(first, other)
    np.testing.assert_array_equal(looks(env, 4), plain)
    np.testing.assert_array_equal(looks(perturbed(env, axis, "mild"), 4), first)
    assert not np.array_equal(looks(perturbed(env, axis, "mild", seed=1), 4), first)
    another_axis = perturbed(env, "lighting" if axis != "lighting" else "camera", "strong")
    looks(another_axis, 9)
    np.testing.assert_array_equal(looks(changed, 4), first)


def test_joints_start_elsewhere_by_the_strength(env: RobosuiteEnv) -> None:
    off: dict[str, list[float]] = {"mild": [], "strong": []}
    for strength, found in off.items():
        changed = perturbed(env, "start_pose", strength)
        for seed in range(12):
            env.reset(seed)
            usual = env.joint_position_rad()
            changed.reset(seed)
            found.append(float(np.std(changed.joint_position_rad() - usual)))
            assert not changed.success()
    for strength, found in off.items():
        assert 0.6 < np.mean(found) / JOINT_NOISE_RAD[strength] < 1.4


def test_noise_is_on_what_moves_the_tool(
    env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = perturbed(env, "action_noise", "strong")
    changed.reset(0)
    sent: list[np.ndarray] = []
    monkeypatch.setattr(env, "step", lambda action: sent.append(action))
    for _ in range(200):
        changed.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    noise = np.array(sent)
    assert np.all(noise[:, 6] == 1.0)
    assert 0.9 < noise[:, :6].std() / ACTION_NOISE["strong"] < 1.1
    assert abs(noise[:, :6].mean()) < 0.03


def test_the_expert_still_finds_its_way(env: RobosuiteEnv) -> None:
    changed = perturbed(env, "start_pose", "mild")
    changed.reset(101, "pick up the green cube")
    expert, steps = CubeExpert(), 0
    while not changed.success() and steps < 60:
        changed.step(expert.action(env))  # what it knows of the scene
        steps += 1
    assert changed.success()


def test_robosuites_own_task_too() -> None:
    env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"])
    plain = looks(env, 4)
    for axis in LOOKS:
        changed = looks(perturbed(env, axis, "strong"), 4)
        assert np.abs(changed.astype(int) - plain).mean() > 0.2
    np.testing.assert_array_equal(looks(env, 4), plain)
    env.close()


def test_refusals(env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Did you mean 'lighting'"):
        perturbed(env, "lightning")
    with pytest.raises(ValueError, match="strength 'huge'.*mild, strong"):
        perturbed(env, "camera", "huge")
    with pytest.raises(ValueError, match="along axis camera already"):
        perturbed(perturbed(env, "camera"), "lighting")
    with monkeypatch.context() as patch:
        patch.setattr(env, "model", None)
        with pytest.raises(ValueError, match="pick_named cannot be perturbed.*no MuJoCo model"):
            perturbed(env, "camera")
    with monkeypatch.context() as patch:
        patch.delattr(env, "_renderer")
        with pytest.raises(ValueError, match="does not draw with Ulna's renderer"):
            perturbed(env, "camera")
    moved = perturbed(env, "camera")
    moved.reset(0)
    with pytest.raises(ValueError, match="two more than unperturbed"):
        moved.restore(env.simulator_state(), env.instruction)


def test_another_profile_draws_what_that_profile_draws(env: RobosuiteEnv) -> None:
    changed = perturbed(env, "rendering", "strong")
    changed.reset(4)
    exact = env.render("front", 64, 64, "exact")
    np.testing.assert_array_equal(changed.observe().images["front"], exact)
    assert not np.array_equal(env.render("front", 64, 64), exact)
