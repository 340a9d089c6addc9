"""Profiles cost less than they change, and their parts fail safely."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ulna.envs import cache, renderer
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.mesh_decimation import MIN_FACES
from ulna.envs.robosuite_env import RobosuiteEnv


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    env = RobosuiteEnv(CUBE_TASKS["pick_named"])
    yield env
    env.close()


def test_profiles_show_the_same_scene(env: RobosuiteEnv) -> None:
    env.reset(3)
    for camera in ("front", "wrist"):
        exact = env.render(camera, 64, 64, "exact").astype(int)
        near = env.render(camera, 64, 64, "near")
        fast = env.render(camera, 64, 64, "fast")
        assert np.abs(near - exact).mean() < 2
        assert np.abs(fast - exact).mean() < 8
        assert exact.std() > 20  # there is something to see


def test_fast_draws_fewer_faces_and_leaves_physics_alone(env: RobosuiteEnv) -> None:
    faces = env.model.mesh_facenum.copy()
    env.render("front", 64, 64, "fast")
    assert env._renderer is not None
    drawn = env._renderer._pens["fast"].model
    np.testing.assert_array_equal(env.model.mesh_facenum, faces)
    big = faces > 20 * MIN_FACES
    assert drawn.mesh_facenum[big].sum() < 0.6 * faces[big].sum()


def test_culling_changes_no_pixel(env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(5)
    for step in range(4):
        env.step(np.array([0.5, 1.0, -1.0, 0.3, 0.5, 1.0, -1.0]) * (1 if step % 2 else -1))
        culled = [env.render(camera, 64, 64, "fast") for camera in ("front", "wrist")]
        with monkeypatch.context() as patch:
            patch.setattr(renderer, "in_view", lambda *_: np.ones(env.model.ngeom, bool))
            whole = [env.render(camera, 64, 64, "fast") for camera in ("front", "wrist")]
        np.testing.assert_array_equal(culled, whole)


def test_a_larger_picture_does_not_change_smaller_ones(env: RobosuiteEnv) -> None:
    env.reset(5)
    before = env.render("front", 64, 64)
    assert env.render("front", 300, 700).shape == (300, 700, 3)
    np.testing.assert_array_equal(before, env.render("front", 64, 64))


def test_cube_is_seen_in_its_colour_and_place(env: RobosuiteEnv) -> None:
    env.reset(3)
    frame = env.render("front", 64, 64).astype(int)
    for cube, channel in ((0, 0), (1, 1), (2, 2)):
        others = [c for c in range(3) if c != channel]
        mask = (frame[..., channel] > 60) & np.all(
            frame[..., [channel]] > 2 * frame[..., others], axis=-1
        )
        assert mask.any(axis=0).sum() >= 5, "a cube should be at least 5 pixels wide"
        position, _ = env.cube_pose(cube)
        # The camera faces the arm: +y of the base is to its right.
        column = mask.nonzero()[1].mean()
        assert (column - 31.5) * position[1] > 0 or abs(position[1]) < 0.01


def test_probe_says_which_backend_works() -> None:
    found = renderer.probe()
    assert set(found) == {"egl", "osmesa", "glfw"}
    assert "ok" in found.values()


def test_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "elg")
    with pytest.raises(ValueError, match="Did you mean 'egl'"):
        renderer.chosen_backend()


def test_cache_keeps_finds_and_distrusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.read_cached("a") is None
    cache.write_cached("a", b"content")
    assert cache.read_cached("a") == b"content"
    path = cache.cache_folder() / "a"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cache.read_cached("a") is None
    assert os.listdir(cache.cache_folder()) == ["a"]


def test_unwritable_cache_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ulna").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.write_cached("a", b"content")
    assert cache.read_cached("a") is None
