"""Rollouts: when a policy is asked, when an episode ends, and the same results in processes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from ulna.datasets.schema import Episode, Observation
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer
from ulna.envs.baselines import make_random_act
from ulna.envs.collect import Noise, collect, collect_episode
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.experts import CubeExpert
from ulna.envs.intervals import wilson
from ulna.envs.parallel import run_episodes
from ulna.envs.robosuite_env import RobosuiteEnv, embodiment_of
from ulna.envs.rollout import SUCCESS_TICKS, EpisodeResult, evaluation_seeds, noise_seed, rollout
from ulna.envs.video import film, write_mp4


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["pick_named"])
    env.max_steps = 20
    yield env
    env.close()


class Recorder:
    """A still policy that remembers what it was shown."""

    def __init__(self, horizon: int = 8) -> None:
        self.horizon = horizon
        self.seen: list[Observation] = []

    def __call__(self, observation: Observation) -> np.ndarray:
        self.seen.append(observation)
        return np.zeros((self.horizon, 7), np.float32)


def test_looks_only_when_the_queue_is_empty(env: RobosuiteEnv) -> None:
    act = Recorder()
    result = rollout(env, act, seed=3, execution_horizon=8)
    assert len(act.seen) == 3  # at ticks 0, 8 and 16 of 20
    assert [seen.noise_seed for seen in act.seen] == [noise_seed(3, tick) for tick in (0, 8, 16)]
    assert (result.steps, result.success, result.outcome) == (20, False, "none")
    assert result.states.shape[0] == 21 and result.actions.shape == (20, 7)
    assert act.seen[0].instruction == result.instruction


@pytest.mark.parametrize(("history", "horizon"), [(2, 4), (3, 2), (1, 3)])
def test_a_history_is_that_of_the_last_ticks(
    env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch, history: int, horizon: int
) -> None:
    ticks: list[int] = []  # at which an observation was made
    states: list[np.ndarray] = []  # of each tick
    given: list[np.ndarray] = []
    observe, step = env.observe, env.step

    def watched_observe() -> Observation:
        ticks.append(len(states))
        return observe()

    def watched_step(action: np.ndarray) -> None:
        states.append(env.state())
        step(action)

    def act(observation: Observation) -> np.ndarray:
        given.append(observation.state.reshape(history, -1))
        frames = observation.images["front"]
        assert frames.shape[:-3] == ((history,) if history > 1 else ())
        return np.full((horizon, 7), 0.1 * len(given), np.float32)

    monkeypatch.setattr(env, "observe", watched_observe)
    monkeypatch.setattr(env, "step", watched_step)
    monkeypatch.setattr(env, "max_steps", 9)
    rollout(env, act, 3, None, horizon, history=history)
    for call, seen in enumerate(given):
        tick = call * horizon
        wanted = [max(0, tick - back) for back in range(history - 1, -1, -1)]
        np.testing.assert_array_equal(seen, np.stack([states[t] for t in wanted]))
    assert len(set(ticks)) == len(ticks)
    assert len(ticks) < 9 or history > horizon


def test_states_are_kept_only_on_demand(env: RobosuiteEnv) -> None:
    result = rollout(env, Recorder(), seed=3, keep_states=False)
    assert result.states.shape[0] == 0 and result.steps == 20


def test_ends_when_success_has_lasted(env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "max_steps", 60)
    expert = CubeExpert()
    result = rollout(
        env, lambda _: expert.action(env)[None].astype(np.float32), seed=8, execution_horizon=1
    )
    assert result.success and result.outcome in result.instruction
    env.restore(result.states[-1 - SUCCESS_TICKS], result.instruction)
    assert not env.success()  # one tick earlier it had not begun


def test_named_instruction_is_obeyed(env: RobosuiteEnv) -> None:
    blue = "pick up the blue cube"
    assert rollout(env, Recorder(), seed=3, instruction=blue).instruction == blue


def test_wrong_chunks_are_refused(env: RobosuiteEnv) -> None:
    with pytest.raises(ValueError, match=r"chunk of shape \(4, 7\).*at least .* 8"):
        rollout(env, Recorder(horizon=4), seed=0, execution_horizon=8)
    with pytest.raises(ValueError, match="expected 1 or more"):
        rollout(env, Recorder(), seed=0, execution_horizon=0)


def test_processes_give_the_results_of_one_process() -> None:
    episodes: list[tuple[int, str | None]] = [
        (seed, None if seed % 2 else "pick up the green cube") for seed in evaluation_seeds(0, 3)
    ]
    env, act = RobosuiteEnv(CUBE_TASKS["pick_named"]), make_random_act()
    here = [rollout(env, act, seed, instruction) for seed, instruction in episodes]
    env.close()
    told: list[int] = []

    def on_result(index: int, _: EpisodeResult) -> None:
        told.append(index)

    there = run_episodes("pick_named", make_random_act, episodes, workers=2, on_result=on_result)
    assert sorted(told) == [0, 1, 2]
    for mine, theirs in zip(here, there, strict=True):
        assert (mine.seed, mine.instruction, mine.outcome) == (
            theirs.seed,
            theirs.instruction,
            theirs.outcome,
        )
        np.testing.assert_array_equal(mine.states, theirs.states)
        np.testing.assert_array_equal(mine.actions, theirs.actions)


def test_a_policy_whose_chunks_do_not_fit_stops_the_run() -> None:
    make_act = partial(make_random_act, 5)  # actions of the wrong size
    with pytest.raises(RuntimeError, match=r"chunk of shape \(16, 5\)"):
        run_episodes("lift", make_act, [(0, None)], workers=1)


def test_collected_set_does_not_depend_on_workers_or_interruptions(tmp_path: Path) -> None:
    path, env = tmp_path / "demo.zarr", RobosuiteEnv(CUBE_TASKS["lift"])
    wild = Noise(drift=0.8, fumble_probability=0.05)  # some fail, so that later waves are needed
    mine: list[Episode] = []
    while sum(bool(episode.success) for episode in mine) < 4:
        mine.append(collect_episode(env, CubeExpert(), 400_000 + len(mine), wild))
    env.close()
    expected = [episode for episode in mine if episode.success]
    # An interrupted collection: two of the episodes, the later one first.
    Store.create(path, embodiment_of())
    with Writer(path) as writer:
        for episode in (expected[1], expected[0]):
            writer.add_episode(episode)
    summary = collect("lift", path, 4, 4, workers=2, resume=True, noise=wild, progress=False)
    assert (summary.episodes, summary.failed) == (2, len(mine) - 4)
    store = Store.open(path)
    assert [record.seed for record in store.episodes] == [episode.seed for episode in expected]
    stored = store.read_episode(3)
    for name, rows in expected[3].streams.items():
        np.testing.assert_array_equal(stored.streams[name], rows)
    for camera, frames in expected[3].images.items():
        np.testing.assert_array_equal(stored.images[camera], frames)
    with pytest.raises(ValueError, match="append"):
        collect("lift", path, 1, progress=False)


def test_collect_refuses_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'lift'"):
        collect("lif", tmp_path / "x.zarr", 1)
    with pytest.raises(ValueError, match="expected 1 or more"):
        collect("lift", tmp_path / "x.zarr", 0)
    assert not (tmp_path / "x.zarr").exists()


def test_film_and_mp4_decode_back(env: RobosuiteEnv, tmp_path: Path) -> None:
    result = rollout(env, Recorder(), seed=3)
    frames = film(env, result.states[:6], result.instruction, size=64)
    env.restore(result.states[0], result.instruction)
    np.testing.assert_array_equal(frames[0, :, :64], env.render("front", 64, 64))
    write_mp4(tmp_path / "film.mp4", frames, fps=20)
    decoded: list[np.ndarray] = []
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        decoded += [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 6 and decoded[0].shape == (64, 128, 3)
    assert np.abs(decoded[0].astype(int) - frames[0]).mean() < 8
    head = (tmp_path / "film.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")
    with pytest.raises(ValueError, match="even sides"):
        write_mp4(tmp_path / "odd.mp4", np.zeros((1, 63, 64, 3), np.uint8), fps=20)
    with pytest.raises(ValueError, match="no frames"):
        write_mp4(tmp_path / "none.mp4", [], fps=20)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        (45, 50, 0.7864, 0.9565),  # by hand: (2np + z^2 -+ z sqrt(z^2 + 4npq)) / 2(n + z^2)
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_against_hand_numbers(
    successes: int, episodes: int, low: float, high: float
) -> None:
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=1e-4)


def test_wilson_refuses_more_successes_than_episodes() -> None:
    with pytest.raises(ValueError, match="3 successes in 2 episodes"):
        wilson(3, 2)
