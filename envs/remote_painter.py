"""Pictures of a MuJoCo scene as its authors meant it, sites and all, with and without the frills.

    profile   shadows   reflection   samples
    exact     yes       yes          4         as the suite itself draws
    fast      none      none         0         a tenth of the time, most of it the shadow map

`envs/renderer.py` does more, but knows our own scenes: it hides group 0, where these suites keep
what is to be seen. Needs mujoco and numpy alone, stays within the syntax of Python 3.8 and imports
nothing of Ulna, so that it runs on the far side of `envs/remote_scene.py` too.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import importlib
import os
from typing import Any

import mujoco
import numpy as np

PROFILES = {"exact": (True, 4), "fast": (False, 0)}
"""Whether shadows and reflections are drawn, and antialiasing samples per pixel."""


class Painter:
    """Draws a model with its sites, in any profile; each is prepared at its first use."""

    def __init__(self, model: Any) -> None:
        # Drawn in the calling thread: the other cores have work of their own.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        # Named here, since MuJoCo reads the variable only once, when it is first imported.
        backend = os.environ.get("MUJOCO_GL", "").lower() or "egl"
        os.environ["MUJOCO_GL"] = backend
        self._gl = importlib.import_module("mujoco." + backend).GLContext(64, 64)
        self._model = model
        self._pens: dict[str, tuple[Any, Any, Any]] = {}
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def draw(self, data: Any, camera: str, height: int, width: int, profile: str) -> np.ndarray:
        """One RGB frame, top row first, of the poses in `data`."""
        self._gl.make_current()
        if profile not in self._pens:
            self._pens[profile] = self._prepare(profile)
        model, scene, context = self._pens[profile]
        if width > context.offWidth or height > context.offHeight:
            mujoco.mjr_resizeOffscreen(
                max(width, context.offWidth), max(height, context.offHeight), context
            )
        self._camera.fixedcamid = self._model.camera(camera).id
        # Suites recolour things between episodes; the copy was made before.
        model.geom_rgba[:] = self._model.geom_rgba
        model.site_rgba[:] = self._model.site_rgba
        mujoco.mjv_updateScene(
            model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, scene, context)
        frame = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, viewport, context)
        return frame[::-1]

    def _prepare(self, profile: str) -> tuple[Any, Any, Any]:
        if profile not in PROFILES:
            raise ValueError(f"unknown render profile {profile!r}; known: {sorted(PROFILES)}")
        effects, samples = PROFILES[profile]
        model = copy.copy(self._model)
        model.vis.quality.offsamples = samples
        model.vis.global_.offwidth = model.vis.global_.offheight = 64
        scene = mujoco.MjvScene(model, maxgeom=4 * model.ngeom + 200)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = effects
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = effects
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        return model, scene, context

    def close(self) -> None:
        self._gl.make_current()
        for _, _, context in self._pens.values():
            context.free()
        self._pens.clear()
        self._gl.free()
