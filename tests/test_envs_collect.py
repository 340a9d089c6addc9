"""Demonstrations of any task: noise of the right width, pictures at either time, failures kept."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.schema import Embodiment, Episode
from ulna.datasets.store import Store
from ulna.envs.collect import QUIET, collect, collect_episode
from ulna.envs.disturbance import Disturbance, Noise
from ulna.envs.robosuite_experts import EXPERTS
from ulna.envs.robosuite_suite import RobosuiteSuiteEnv
from ulna.envs.robosuite_tasks import ROBOSUITE_TASKS, robosuite_tasks

PANDA = robosuite_tasks()["robosuite/lift"].embodiment("fast")
WILD = Noise(drift=0.6, turn=0.3, push_probability=0.3, fumble_probability=0.2)


def disturbed(body: Embodiment, noise: Noise = WILD, seed: int = 3) -> np.ndarray:
    """What is sent over 200 steps of an expert that wants to stand still, gripper half closed."""
    middle = (np.array(body.action_low) + np.array(body.action_high)) / 2
    disturbance = Disturbance(noise, seed, body)
    wanted = middle + 0.5 * (np.array(body.action_high) - middle) * np.array(
        [name == "gripper" for name in body.action_names]
    )
    return np.stack([disturbance.apply(wanted) - middle for _ in range(200)])


def with_actions(names: tuple[str, ...], low: float = -1.0, high: float = 1.0) -> Embodiment:
    count = len(names)
    return replace(
        PANDA, action_names=names, action_low=(low,) * count, action_high=(high,) * count
    )


def test_noise_knows_the_entries_by_their_names() -> None:
    sent = disturbed(PANDA)
    moved = sent.std(axis=0)
    assert np.all(moved[:3] > 0.3) and np.all((0.1 < moved[3:6]) & (moved[3:6] < 0.5))
    assert set(np.round(sent[:, 6], 6)) == {0.5, -0.5}
    four = disturbed(with_actions(("dx", "dy", "dz", "gripper")))
    assert np.all(four[:, :3].std(axis=0) > 0.3) and set(np.round(four[:, 3], 6)) == {0.5, -0.5}
    sponge = disturbed(with_actions(PANDA.action_names[:6]))
    assert np.all(sponge.std(axis=0) > 0.1)
    assert not disturbed(with_actions(("shoulder_rad", "elbow_rad"))).any()
    assert not (disturbed(PANDA, QUIET)[:, :6]).any()


def test_noise_is_in_units_of_the_action_and_of_the_seed() -> None:
    once, double = disturbed(PANDA), disturbed(with_actions(PANDA.action_names, -2.0, 2.0))
    np.testing.assert_allclose(2 * once, double, atol=1e-12)
    np.testing.assert_array_equal(once, disturbed(PANDA))
    assert not np.array_equal(once, disturbed(PANDA, seed=4))


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteSuiteEnv]:
    env = RobosuiteSuiteEnv(ROBOSUITE_TASKS["robosuite/lift"])
    yield env
    env.close()


def test_pictures_afterwards_are_the_same_pixels(env: RobosuiteSuiteEnv) -> None:
    inline, afterwards = (
        collect_episode(env, EXPERTS["lift"](), 4, Noise(), when)
        for when in ("inline", "afterwards")
    )
    assert inline.success and inline.steps == afterwards.steps
    for name, rows in inline.streams.items():
        np.testing.assert_array_equal(rows, afterwards.streams[name])
    for camera, frames in inline.images.items():
        np.testing.assert_array_equal(frames, afterwards.images[camera])
    assert inline.info == {"outcome": "done"} == afterwards.info
    assert "pick up the cube" in inline.paraphrases


class Idle:
    """An expert that never does anything."""

    def action(self, env: RobosuiteSuiteEnv) -> np.ndarray:
        return np.zeros(env.embodiment.action_dim)


def test_a_failure_is_drawn_only_if_it_is_kept(
    env: RobosuiteSuiteEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "max_steps", 5)

    def episode(keep: bool) -> Episode:
        return collect_episode(env, Idle(), 4, QUIET, "afterwards", keep_failures=keep)

    assert episode(False).success is False and not episode(False).images
    assert episode(True).images["front"].shape == (5, 84, 84, 3)


def test_failures_are_kept_on_wish_besides_the_successes(tmp_path: Path) -> None:
    clumsy = Noise(drift=1.0, fumble_probability=0.1)  # some fail
    both = tmp_path / "both.zarr"
    arguments = {"seed": 8, "workers": 1, "noise": clumsy, "progress": False}
    summary = collect("robosuite/lift", both, 2, keep_failures=True, **arguments)
    records = Store.open(both).episodes
    assert summary.failed > 0, "the noise is too weak for this test"
    assert [r.success for r in records].count(True) == 2 == summary.episodes
    assert len(records) == 2 + summary.failed
    assert sorted(r.seed for r in records) == list(range(800_000, 800_000 + len(records)))
    # Completing it changes nothing: the failures count as tried, not as wanted.
    again = collect("robosuite/lift", both, 2, keep_failures=True, resume=True, **arguments)
    assert (again.episodes, again.failed) == (0, 0)
    with pytest.raises(ValueError, match="Did you mean 'inline'"):
        collect("robosuite/lift", tmp_path / "x.zarr", 1, images="inlin")


def test_benchmark_of_the_experts_in_miniature() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "experts.py"
    command = [sys.executable, str(script), "--quick", "--tasks", "robosuite/lift"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.strip().splitlines()[-1])
    row = result["figures"]["tasks"]["robosuite/lift"]
    assert row["successes"] == row["episodes"] == 1
    assert row["replayed"] == row["demonstrations"] >= 1
    assert result["ratios"] == {"success": 1.0, "replayed": 1.0}


def test_one_store_holds_tasks_of_several_suites_at_one_picture_size(tmp_path: Path):
    out = tmp_path / "s.zarr"
    collect("pick_named", out, 1, workers=1, progress=False)
    collect("robosuite/lift", out, 1, workers=1, progress=False, append=True)
    store = Store.open(out)
    assert [record.task for record in store.episodes] == ["pick_named", "robosuite/lift"]
    front = store.read_episode(1).images["front"]
    assert front.shape[1:] == (64, 64, 3) and front.std() > 10
    with pytest.raises(ValueError, match="front 64x64.*front 48x48.*--image-size"):
        collect("pick_named", out, 1, workers=1, progress=False, append=True, image_size=48)
    with pytest.raises(ValueError, match="image_size is 4"):
        collect("pick_named", tmp_path / "t.zarr", 1, workers=1, image_size=4)
    with pytest.raises(ValueError, match="one size"):
        collect("metaworld/reach-v3", tmp_path / "t.zarr", 1, workers=1, image_size=64)
