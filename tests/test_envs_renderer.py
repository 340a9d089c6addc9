"""Profiles cost less than they change, and their parts fail safely."""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from ulna.envs import cache, renderer
from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.culling import Culler, Needed
from ulna.envs.mesh_decimation import MIN_FACES, decimate_meshes
from ulna.envs.robosuite_env import RobosuiteEnv
from ulna.envs.robosuite_stock import load_scene


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


@contextmanager
def everything_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, nothing is left out and everything is reflected, as MuJoCo alone would do."""

    def all_of_it(self: Culler, data: Any, camera: int, aspect: float, reflection: bool = False,
                  *more: Any, **words: Any) -> Needed:  # fmt: skip
        return Needed(np.ones(self._model.ngeom, bool), reflection)

    with monkeypatch.context() as patch:
        patch.setattr(Culler, "needed", all_of_it)
        yield


def anywhere(model: mujoco.MjModel, data: mujoco.MjData, seed: int) -> None:
    """The arm anywhere within the limits of its joints."""
    joints = [model.joint(f"robot0_joint{i}").id for i in range(1, 8)]
    low, high = model.jnt_range[joints].T
    mujoco.mj_resetData(model, data)
    data.qpos[model.jnt_qposadr[joints]] = np.random.default_rng(seed).uniform(low, high)
    mujoco.mj_forward(model, data)


@pytest.mark.parametrize("scene", ["Lift", "PickPlaceCan", "NutAssemblySquare", "Door"])
def test_what_is_left_out_changes_no_pixel_of_exact(
    scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_scene(scene)[0]
    data, drawer, left_out = mujoco.MjData(model), renderer.Renderer(model), 0
    for seed in range(26):
        anywhere(model, data, seed)
        camera = ("agentview", "robot0_eye_in_hand")[seed % 2]
        culled = drawer.render(data, camera, 48, 64, "exact")
        left_out += int((model.geom_group != 0).sum()) - drawer._pens["exact"].scene.ngeom
        with everything_drawn(monkeypatch):
            whole = drawer.render(data, camera, 48, 64, "exact")
        np.testing.assert_array_equal(culled, whole)
    assert left_out > 26 * 5
    drawer.close()


def test_what_is_left_out_changes_no_pixel_of_fast(
    env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(20):
        anywhere(env.model, env.data, seed)
        culled = [env.render(camera, 64, 64, "fast") for camera in ("front", "wrist")]
        pen = env._renderer._pens["fast"]  # type: ignore[union-attr]
        with everything_drawn(monkeypatch), monkeypatch.context() as patch:
            patch.setattr(pen, "layers", [])  # in MuJoCo's order
            whole = [env.render(camera, 64, 64, "fast") for camera in ("front", "wrist")]
        np.testing.assert_array_equal(culled, whole)
    env.reset(5)


@pytest.mark.parametrize("scene", ["Lift", "PickPlaceCan", "Door"])
def test_near_reflects_where_it_shows(scene: str) -> None:
    model = load_scene(scene)[0]
    data, drawer = mujoco.MjData(model), renderer.Renderer(model)
    reflected, apart = [], []
    for seed in range(6):
        anywhere(model, data, seed)
        camera = ("agentview", "robot0_eye_in_hand")[seed % 2]
        near = drawer.render(data, camera, 48, 48, "near").astype(int)
        reflected.append(bool(drawer._pens["near"].scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION]))
        apart.append(np.abs(near - drawer.render(data, camera, 48, 48, "exact")).mean())
        drawer.render(data, camera, 48, 48, "near")
        again = drawer.render(data, camera, 48, 48, "near")
        np.testing.assert_array_equal(near, again)
    assert np.mean(apart) < 1
    assert reflected[0] == (scene != "Lift")
    drawer.close()


@pytest.fixture
def room() -> mujoco.MjModel:
    """A mirror, a lamp with shadows, and balls that are seen by their image or shadow alone."""
    return mujoco.MjModel.from_xml_string("""
        <mujoco>
          <asset><material name="glass" reflectance="0.5" rgba="0.4 0.4 0.5 1"/>
            <mesh name="ball" builtin="sphere" params="3" scale="0.15 0.15 0.15"/></asset>
          <worldbody>
            <light castshadow="true" directional="true" dir="1 0 -1" pos="-2 0 3"/>
            <geom name="mirror" type="box" size="1 1 0.1" pos="0 0 -0.1" material="glass"
                  group="1"/>
            <camera name="eye" pos="0 -1.6 1" xyaxes="1 0 0 0 0.7 0.7" fovy="40"/>
            <geom name="image" type="sphere" size="0.15" pos="0 0.5 1.6" rgba="1 0 0 1" group="1"/>
            <geom name="shadow" type="sphere" size="0.15" pos="-1.8 0 1.6" rgba="0 1 0 1"
                  group="1"/>
            <geom name="nothing" type="sphere" size="0.15" pos="0 -4 0.5" group="1"/>
            <geom name="below" type="mesh" mesh="ball" pos="0 0 -0.6" group="1"/>
          </worldbody>
        </mujoco>""")


def test_images_and_shadows_of_what_is_out_of_view_stay(
    room: mujoco.MjModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, drawer = mujoco.MjData(room), renderer.Renderer(room)
    mujoco.mj_forward(room, data)
    culler, eye = Culler(room, np.ones(room.ngeom, bool)), room.camera("eye").id

    def kept(**settings: bool) -> set[str]:
        needed = culler.needed(data, eye, 1.0, **settings).geoms
        return {room.geom(int(geom)).name for geom in np.flatnonzero(needed)}

    assert kept() == {"mirror"}
    assert kept(reflection=True) == {"mirror", "image"}
    assert kept(reflection=True, shadows=True) >= {"mirror", "image", "shadow"}
    assert kept(covered=False) == {"mirror", "below"}
    seen = {profile: drawer.render(data, "eye", 64, 64, profile) for profile in renderer.PROFILES}
    with everything_drawn(monkeypatch):
        np.testing.assert_array_equal(seen["exact"], drawer.render(data, "eye", 64, 64, "exact"))
    darker = seen["fast"].astype(int).sum(axis=2) - seen["near"].astype(int).sum(axis=2) > 60
    assert darker.mean() > 0.003, "the shadow is in near and not in fast"
    drawer.close()


ROOM = """
<mujoco>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".3 .5 .7" rgb2="0 0 0" width="64" height="64"/>
  </asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="wall" pos="0 0 1" xyaxes="0 -1 0 0 0 1"/>
    <camera name="above" pos="0 0 1" xyaxes="0 -1 0 -0.7 0 0.7"/>
    <geom group="1" type="plane" size="{floor} 0.1" rgba="0.5 0.4 0.3 1"/>
    <geom group="1" type="box" size="0.1 9 2" pos="2 0 1" rgba="0.6 0.6 0.7 1"/>
    <geom group="1" type="sphere" size="0.2" pos="1 0 1" rgba="0.2 0.8 0.2 1"/>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize("floor", ["4 4", "0 0"])
def test_a_sky_is_left_out_only_where_nobody_sees_it(
    floor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mujoco.MjModel.from_xml_string(ROOM.format(floor=floor))
    data, drawer = mujoco.MjData(model), renderer.Renderer(model)
    mujoco.mj_forward(model, data)
    drawn: list[bool] = []
    draw = renderer.Pen.draw

    def watched(pen: renderer.Pen, viewport: Any, frame: np.ndarray, sky: bool) -> None:
        drawn.append(sky)
        draw(pen, viewport, frame, sky)

    monkeypatch.setattr(renderer.Pen, "draw", watched)
    seen = [drawer.render(data, name, 48, 48, "fast") for name in ("wall", "above", "above")]
    endless = floor == "0 0"
    # Nothing but wall and ball; then sky, found missing, and from then on drawn at once.
    assert drawn == ([True] * 3 if endless else [False, False, True, True])
    with monkeypatch.context() as always:
        always.setattr(renderer.Pen, "wants_sky", lambda pen, camera: True)
        for name, frame in zip(("wall", "above", "above"), seen, strict=True):
            np.testing.assert_array_equal(frame, drawer.render(data, name, 48, 48, "fast"))
    assert (seen[1] != seen[0]).any()
    drawer.close()


def test_a_can_keeps_its_label() -> None:
    model = load_scene("PickPlaceCan")[0]
    reduced = copy.copy(model)
    decimate_meshes(reduced, 0.1)
    can = int(model.geom_dataid[model.geom("Can_g0_visual").id])
    assert reduced.mesh_facenum[can] == model.mesh_facenum[can]
    assert reduced.mesh_texcoordadr[can] >= 0
    assert reduced.mesh_facenum.sum() < 0.5 * model.mesh_facenum.sum()


def test_repainting_shows_the_models_new_colours(env: RobosuiteEnv) -> None:
    env.reset(3)
    before = env.render("front", 64, 64)
    red = env.model.geom("red_g0_vis").id
    colour = env.model.geom_rgba[red].copy()
    assert env._renderer is not None
    for rgba in ((0.0, 0.7, 0.7, 1.0), colour):
        env.model.geom_rgba[red] = rgba
        env._renderer.repaint()
        same = np.array_equal(env.render("front", 64, 64), before)
        assert same == (rgba is colour)


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
