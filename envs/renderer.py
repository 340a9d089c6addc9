"""Pictures of a MuJoCo scene without a display, 25 to 40 times cheaper than the stock way.

In software a picture of 64 pixels costs vertices and draw calls, not pixels: geoms behind the
camera, the mirror image in the floor, meshes of 30,000 faces. A profile says what is given up:

    exact   MuJoCo's own look: reflection, 4 samples per pixel, all meshes
    near    no reflection, geoms outside the view left out
    fast    besides, one sample per pixel and meshes of a tenth of the faces

The skybox stays on: without it, views past the floor are garbage. Physics never sees the reduced
meshes: they live in a copy of the model that is only drawn.

Next: `envs/mesh_decimation.py` (the reduced meshes), `envs/robosuite_env.py` (who asks).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import atexit
import copy
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from ..datasets.schema import unknown_name
from .mesh_decimation import decimate_meshes

HIDDEN_GROUP = 5
"""A geom group that is never drawn; culled geoms are moved into it."""
BACKENDS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw"}
NO_GL = (
    "no OpenGL for rendering without a display works here. Tried {tried}.\n"
    "On Debian or Ubuntu: sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri libglib2.0-0\n"
    "If that is not enough: sudo apt-get install -y libosmesa6 and set MUJOCO_GL=osmesa"
)


@dataclass(frozen=True)
class Profile:
    """What a picture may cost."""

    reflection: bool
    samples: int
    """Antialiasing samples per pixel; 0 is off."""
    culling: bool
    """Leave out geoms whose bounding sphere is outside the view."""
    mesh_fraction: float
    """Share of the faces of visual meshes that is kept."""


PROFILES = {
    "exact": Profile(reflection=True, samples=4, culling=False, mesh_fraction=1.0),
    "near": Profile(reflection=False, samples=4, culling=True, mesh_fraction=1.0),
    "fast": Profile(reflection=False, samples=0, culling=True, mesh_fraction=0.1),
}

_gl_context: Any = None


def chosen_backend() -> str:
    """The GL backend of this process: `MUJOCO_GL`, else EGL (works with and without display)."""
    backend = os.environ.get("MUJOCO_GL", "").lower() or "egl"
    if backend not in BACKENDS:
        raise unknown_name("MUJOCO_GL backend", backend, BACKENDS)
    return backend


def _make_gl_context() -> Any:
    """The one GL context of this process, made current."""
    global _gl_context
    if _gl_context is None:
        # Software rendering in the calling thread: pictures are small, the other cores have
        # work, and handing over to a thread costs a third more when they are busy.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        backend = chosen_backend()
        os.environ["MUJOCO_GL"] = backend
        try:
            _gl_context = importlib.import_module(BACKENDS[backend]).GLContext(64, 64)
            _gl_context.make_current()
        except Exception as error:  # each backend has its own kinds, all mean the same
            _gl_context = None
            raise RuntimeError(NO_GL.format(tried=f"{backend}: {error}")) from error
        atexit.register(_free_gl_context)
    _gl_context.make_current()
    return _gl_context


def _free_gl_context() -> None:
    global _gl_context
    if _gl_context is not None:
        _gl_context.free()
        _gl_context = None


class _Pen:
    """A model as one profile draws it: its meshes on the GL side and a scene to fill."""

    def __init__(self, model: mujoco.MjModel, profile: Profile) -> None:
        self.profile = profile
        self.model = copy.copy(model)
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = 64
        self.model.vis.quality.offsamples = profile.samples
        if profile.mesh_fraction < 1.0:
            decimate_meshes(self.model, profile.mesh_fraction)
        self.geom_group = self.model.geom_group.copy()
        self.scene = mujoco.MjvScene(self.model, maxgeom=4 * self.model.ngeom + 200)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = profile.reflection
        self.option = mujoco.MjvOption()
        self.option.geomgroup[0] = 0  # collision shapes
        self.option.sitegroup[:] = 0
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)


class Renderer:
    """Draws one model, in any profile; each profile is prepared at its first use."""

    def __init__(self, model: mujoco.MjModel) -> None:
        _make_gl_context()
        self._model = model
        self._pens: dict[str, _Pen] = {}
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(
        self, data: mujoco.MjData, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        """One RGB frame, top row first, of the poses (not positions) in `data`."""
        if profile not in PROFILES:
            raise unknown_name("render profile", profile, PROFILES)
        _make_gl_context()
        if profile not in self._pens:
            self._pens[profile] = _Pen(self._model, PROFILES[profile])
        pen = self._pens[profile]
        if width > pen.context.offWidth or height > pen.context.offHeight:
            size = max(width, pen.context.offWidth), max(height, pen.context.offHeight)
            mujoco.mjr_resizeOffscreen(*size, pen.context)
        camera_id = self._model.camera(camera).id
        if pen.profile.culling:
            visible = in_view(self._model, data, camera_id, width / height)
            pen.model.geom_group[:] = np.where(visible, pen.geom_group, HIDDEN_GROUP)
        self._camera.fixedcamid = camera_id
        mujoco.mjv_updateScene(
            pen.model, data, pen.option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, pen.scene
        )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, pen.context)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, pen.scene, pen.context)
        frame = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, viewport, pen.context)
        return np.ascontiguousarray(frame[::-1])

    def close(self) -> None:
        """Free what lies on the GL side; the process's GL context stays for the next one."""
        if _gl_context is not None:
            _gl_context.make_current()
            for pen in self._pens.values():
                pen.context.free()
        self._pens.clear()


def in_view(
    model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, aspect: float
) -> np.ndarray:
    """Which geoms' bounding spheres touch the camera's pyramid; unbounded geoms always do."""
    rotation = data.cam_xmat[camera_id].reshape(3, 3)
    position = (data.geom_xpos - data.cam_xpos[camera_id]) @ rotation
    right, up, backward = position.T
    radius = model.geom_rbound
    slope_up = np.tan(np.radians(model.cam_fovy[camera_id]) / 2)
    slope_right = slope_up * aspect
    # Signed distance to a side plane of slope s: (|x| - s * depth) / sqrt(1 + s^2).
    outside_up = (np.abs(up) + slope_up * backward) / np.hypot(1, slope_up)
    outside_right = (np.abs(right) + slope_right * backward) / np.hypot(1, slope_right)
    inside = (outside_up < radius) & (outside_right < radius) & (backward < radius)
    return inside | (radius == 0)


def probe() -> dict[str, str]:
    """Try a tiny picture with every backend, each in its own process: `ok` or what went wrong."""
    script = (
        "import importlib, sys, mujoco\n"
        "context = importlib.import_module(sys.argv[1]).GLContext(16, 16)\n"
        "context.make_current()\n"
        "model = mujoco.MjModel.from_xml_string('<mujoco/>')\n"
        "mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()\n"
        "print('drawn')\n"
    )
    found = {}
    for backend, module in BACKENDS.items():
        environment = {**os.environ, "MUJOCO_GL": backend}
        environment.pop("PYOPENGL_PLATFORM", None)
        try:
            run = subprocess.run(
                [sys.executable, "-c", script, module],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
        except subprocess.TimeoutExpired:
            found[backend] = "no answer within 60 s"
            continue
        lines = run.stderr.strip().splitlines()
        failed = lines[-1] if lines else f"exit code {run.returncode}"
        found[backend] = "ok" if run.stdout.strip().endswith("drawn") else failed
    return found
