"""gym-aloha and gym-pusht: the contract, and the same as the packages' own environments."""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

from ulna.datasets.schema import Camera, Embodiment
from ulna.envs.check_env import check_env
from ulna.envs.foreign_env import ForeignEnv
from ulna.envs.gymnasium_scene import GymnasiumScene
from ulna.envs.gymnasium_tasks import ALOHA_TASKS, gymnasium_tasks, make_aloha, make_pusht

STOCK_ALOHA = {
    "transfer_cube": (
        [0.01597784476548181, -0.9422690947817657, 1.1765063457257539, 0.0228899801037137],
        [0.1101595805149151, 0.541629564523621, 0.019999964686610753],
    ),
    "insertion": (
        [0.01597784476548181, -0.9422690947817657, 1.1765063457257539, 0.0228899801037137],
        [0.15507979025745755, 0.541629564523621, 0.009999964686610761],
    ),
}
"""Positions that gym-aloha 0.1.5 itself (dm_control 1.0.41, MuJoCo 3.8.1) comes to from seed 3
under the same actions: three joints and a finger of the left arm, then the first object."""


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("gym_aloha", reason="gym-aloha is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("gym_pusht", reason="gym-pusht is not installed")


@pytest.mark.parametrize("task", sorted(gymnasium_tasks()))
def test_contract(task: str) -> None:
    row = gymnasium_tasks()[task]
    assert row.missing() == ""
    env = row.make(row.profiles[-1])
    check_env(env)
    assert env.embodiment == row.embodiment(row.profiles[-1])
    env.close()


@pytest.mark.parametrize("task", sorted(ALOHA_TASKS))
def test_aloha_moves_as_gym_aloha(task: str) -> None:
    env = make_aloha(task, "fast")
    env.reset(3)
    action = env.scene.state()  # not rounded to float32
    for tick in range(40):
        action = action + 0.02 * np.sin(np.arange(14) + tick)
        action[[6, 13]] = np.clip(action[[6, 13]], 0, 1)
        env.scene.step(action)
    arm, thing = STOCK_ALOHA[task]
    qpos = env.scene._data.qpos  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(qpos[[0, 1, 2, 6]], arm, rtol=0, atol=1e-9)
    np.testing.assert_allclose(qpos[16:19], thing, rtol=0, atol=1e-9)
    assert env.time_ns() == 800_000_000
    env.close()


def put(env: ForeignEnv, thing: int, place: np.ndarray) -> None:
    """Move a free object and let contacts be found."""
    import mujoco

    scene: Any = env.scene
    scene._data.qpos[16 + 7 * thing : 19 + 7 * thing] = place
    mujoco.mj_forward(scene._model, scene._data)


def test_aloha_knows_when_it_is_done() -> None:
    env = make_aloha("transfer_cube", "fast")
    env.reset(0)
    scene: Any = env.scene
    for side, outcome in (("right", "lifted by the right arm"), ("left", "transferred")):
        finger = scene._data.geom(f"vx300s_{side}/10_{side}_gripper_finger").xpos.copy()
        put(env, 0, finger + (0, 0, 0.01))
        assert env.outcome() == outcome and env.success() == (side == "left")
    env.close()
    env = make_aloha("insertion", "fast")
    env.reset(0)
    scene = env.scene
    put(env, 0, np.array([0.0, 0.5, 0.4]))
    assert env.outcome() == "none"
    put(env, 1, np.array([0.0, 0.5, 0.4]))
    assert env.outcome() == "inserted" and env.success()
    env.close()


def test_pusht_is_gym_pushts() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    stock, ours = PushTEnv(obs_type="pixels_agent_pos"), make_pusht("exact")
    seen: Any = stock.reset(seed=5)[0]
    ours.reset(5)
    towards = np.array(stock.block.position)
    for tick in range(12):
        observation = ours.observe()
        np.testing.assert_array_equal(observation.images["top"], seen["pixels"])
        np.testing.assert_array_equal(observation.state, np.float32(seen["agent_pos"]))
        assert ours.success() is False
        action = towards + 40 * np.sin(tick + np.arange(2))
        seen, *_ = stock.step(action.astype(np.float32))
        ours.step(action)
    assert np.linalg.norm(np.array(stock.block.position) - towards) > 1, "nothing was pushed"
    ours.close()


def test_pusht_knows_when_it_is_done() -> None:
    env = make_pusht("exact")
    env.reset(0)
    scene: Any = env.scene
    inner = scene._env
    inner.block.angle = float(inner.goal_pose[2])
    inner.block.position = [256.0, 256.0]
    inner.agent.position = [30.0, 30.0]
    env.step(np.array([30.0, 30.0]))
    assert env.success() and env.outcome() == "done"
    env.close()


class Walk(gymnasium.Env[Any, np.ndarray]):
    """A walk on a line, with a wind that may blow differently each time."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space: Any = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(-9.0, 9.0, (1,))})

    def __init__(self, wind: float) -> None:
        self.wind, self.steps = np.random.default_rng(0), 0
        self.strength = wind

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 1), 0
        return {"place": self.place.copy()}, {}

    def step(self, action: np.ndarray) -> Any:
        assert action.shape == (1,) and action.dtype == np.float32
        self.steps += 1
        self.place = self.place + action + self.strength * self.wind.normal()
        info = {"is_success": bool(abs(self.place[0]) < 0.02)}
        return {"place": self.place.copy()}, 0.0, False, False, info

    def render(self) -> Any:
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:, int(32 + 10 * self.place[0]) % 64] = 255
        return frame


def walk(wind: float) -> ForeignEnv:
    body = Embodiment(
        name="walker",
        control_hz=10.0,
        state_names=("place",),
        action_names=("step",),
        action_low=(-1.0,),
        action_high=(1.0,),
        action_meaning="step",
        cameras=(Camera("side", 32, 32),),
    )
    scene = GymnasiumScene(Walk(wind), 10.0, 20, state_key="place")
    return ForeignEnv("walk", scene, ("go to the middle",), 20, body, ("exact",))


def test_any_gymnasium_environment_keeps_the_contract() -> None:
    check_env(walk(0.0))


def test_drawing_an_episode_does_not_replay_it_from_the_start() -> None:
    env = walk(0.0)
    env.reset(1)
    states = [env.simulator_state()]
    for _ in range(10):
        env.step(np.array([0.1]))
        states.append(env.simulator_state())
    scene: Any = env.scene
    steps = []
    inner = scene._env.step
    scene._env.step = lambda action: steps.append(action) or inner(action)
    for state in states:
        env.restore(state, env.instruction)
    assert len(steps) == 10
    env.restore(states[4], env.instruction)  # back: from the start again
    assert len(steps) == 14 and env.time_ns() == 400_000_000


def test_a_simulator_that_does_not_repeat_itself_is_found_out() -> None:
    env = walk(0.5)
    env.reset(1)
    for _ in range(3):
        env.step(np.array([0.1]))
    state = env.simulator_state()
    env.reset(2)
    with pytest.raises(RuntimeError, match="does not repeat itself"):
        env.restore(state, env.instruction)


def test_longer_than_can_be_remembered_is_refused() -> None:
    env = walk(0.0)
    env.reset(1)
    for _ in range(20):
        env.step(np.array([0.0]))
    with pytest.raises(ValueError, match="at most 20"):
        env.step(np.array([0.0]))
    with pytest.raises(ValueError, match="Walk has no scripted expert"):
        env.expert_action()
