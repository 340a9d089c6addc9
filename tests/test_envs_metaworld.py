"""MetaWorld: the contract, its own experts, and the same numbers here and under another process."""

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from ulna.envs.check_env import check_env
from ulna.envs.foreign_env import ForeignEnv, ForeignExpert
from ulna.envs.metaworld_tasks import (
    INSTRUCTIONS,
    MT10,
    embodiment_of,
    make_metaworld,
    metaworld_tasks,
    missing,
)

pytest.importorskip("metaworld", reason="metaworld is not installed")
warnings.filterwarnings("ignore", module="metaworld")


@pytest.fixture(scope="module")
def env() -> Iterator[ForeignEnv]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make_metaworld("box-close-v3", "fast")
        yield made
        made.close()


def test_fifty_tasks_with_words_of_their_own() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

    assert set(INSTRUCTIONS) == set(ALL_V3_ENVIRONMENTS) and set(MT10) == set(MT10_V3)
    assert len(set(INSTRUCTIONS.values())) == 50
    assert set(metaworld_tasks()) == {f"metaworld/{name}" for name in INSTRUCTIONS}
    assert metaworld_tasks()["metaworld/reach-v3"].missing() == missing() == ""


@pytest.mark.parametrize("task", ["box-close-v3", "door-open-v3"])
def test_contract(task: str) -> None:
    made = make_metaworld(task, "fast")
    check_env(made)
    made.close()


def solve(env: ForeignEnv, seed: int) -> int:
    """Steps the suite's expert needs; the number of steps allowed if it fails."""
    env.reset(seed)
    expert = ForeignExpert()
    for step in range(200):
        if env.success():
            return step
        env.step(expert.action(env))
    return 200


@pytest.mark.parametrize("task", ["reach-v3", "drawer-open-v3", "window-close-v3"])
def test_experts_do_it(task: str) -> None:
    made = make_metaworld(task, "fast")
    assert [solve(made, seed) < 200 for seed in range(3)] == [True] * 3
    made.close()


def test_an_episode_goes_on_the_same_after_another_scene(env: ForeignEnv) -> None:
    """Placements move bodies of the model, so a state must bring its placement along."""
    env.reset(5)
    for _ in range(12):
        env.step(env.expert_action())
    kept, wanted = env.simulator_state(), env.expert_action()
    seen = env.observe().images["front"]
    env.step(wanted)
    after = env.simulator_state()
    env.reset(6)
    env.step(np.ones(4))
    env.restore(kept, env.instruction)
    np.testing.assert_array_equal(env.expert_action(), wanted)
    np.testing.assert_array_equal(env.observe().images["front"], seen)
    env.step(wanted)
    np.testing.assert_array_equal(env.simulator_state(), after)


def test_the_goal_is_hidden_from_the_state_but_not_from_the_eye(env: ForeignEnv) -> None:
    reach = make_metaworld("reach-v3", "fast")
    reach.reset(1)
    first = reach.observe()
    reach.reset(2)
    second = reach.observe()
    np.testing.assert_allclose(first.state, second.state, atol=2e-3)  # the hand starts the same
    assert (first.images["front"] != second.images["front"]).sum() > 20
    assert len(first.state) == 4
    reach.close()


def test_the_expert_knows_where_the_goal_is(env: ForeignEnv) -> None:
    reach = make_metaworld("reach-v3", "fast")
    reach.reset(1)
    assert np.abs(reach.scene._observation[-3:]).max() > 0.1  # pyright: ignore[reportAttributeAccessIssue]
    reach.close()


def test_profiles_differ_in_shadow_and_not_in_what_is_there(env: ForeignEnv) -> None:
    env.reset(3)
    exact, fast = (env.render("front", 84, 84, name).astype(float) for name in ("exact", "fast"))
    assert 0.1 < np.abs(exact - fast).mean() < 15
    assert np.corrcoef(exact.ravel(), fast.ravel())[0, 1] > 0.9
    with pytest.raises(ValueError, match="render profile 'near'.*exact, fast"):
        env.render("front", 8, 8, "near")
    with pytest.raises(ValueError, match="render profile 'near'"):
        embodiment_of("near")


def test_another_process_gives_the_same(env: ForeignEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULNA_METAWORLD_PYTHON", sys.executable)
    there = make_metaworld("box-close-v3", "fast")
    assert type(there.scene).__name__ == "RemoteScene"
    for made in (env, there):
        made.reset(9)
        for _ in range(5):
            made.step(made.expert_action())
    np.testing.assert_array_equal(env.simulator_state(), there.simulator_state())
    np.testing.assert_array_equal(env.joint_position_rad(), there.joint_position_rad())
    np.testing.assert_array_equal(env.observe().images["front"], there.observe().images["front"])
    there.close()
