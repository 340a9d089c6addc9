"""Pictures of a MuJoCo scene without a display, up to 40 times cheaper than the stock way.

In software a picture of 64 pixels costs vertices and draw calls, not pixels: geoms behind the
camera, the mirror image in the floor, meshes of 30,000 faces. What cannot be seen is never drawn
(`envs/culling.py`); a profile says what is given up besides:

    exact   nothing: MuJoCo's own pixels, bit by bit
    near    reflections in less than an eighth of the picture; shadows from a map of a quarter of
            the width
    fast    besides, shadows, antialiasing, and nine of ten faces of meshes without a texture

The skybox stays on: without it, views past the floor are garbage. Physics never sees the reduced
meshes: they live in a copy of the model that is only drawn.

Next: `envs/render_pen.py` (the profiles), `envs/culling.py` (what is seen),
`envs/mesh_decimation.py` (the reduced meshes).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import atexit
import importlib
import os
import subprocess
import sys
import weakref
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from ..datasets.schema import unknown_name
from .render_pen import PROFILES, Pen, Thing

BACKENDS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw"}
NO_GL = (
    "no OpenGL for rendering without a display works here. Tried {tried}.\n"
    "On Debian or Ubuntu: sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri libglib2.0-0\n"
    "If that is not enough: sudo apt-get install -y libosmesa6 and set MUJOCO_GL=osmesa"
)

_BLACK = bytes(3)

_gl_context: Any = None
_renderers: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


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
        for renderer in list(_renderers):  # what they hold dies with the context
            renderer.close()
        _gl_context.free()
        _gl_context = None


class Renderer:
    """Draws one model, in any profile; each profile is prepared at its first use."""

    def __init__(self, model: mujoco.MjModel) -> None:
        _make_gl_context()
        self._model = model
        self._pens: dict[str, Pen] = {}
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.things: tuple[Thing, ...] = ()
        """Drawn besides the model."""
        _renderers.add(self)

    def repaint(self) -> None:
        """Draw from now on with the colours, lights and textures the model has now."""
        _make_gl_context()
        for pen in self._pens.values():
            pen.repaint(self._model)

    def render(
        self, data: mujoco.MjData, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        """One RGB frame, top row first, of the poses (not positions) in `data`."""
        if profile not in PROFILES:
            raise unknown_name("render profile", profile, PROFILES)
        _make_gl_context()
        if profile not in self._pens:
            self._pens[profile] = Pen(self._model, PROFILES[profile])
        pen = self._pens[profile]
        if width > pen.context.offWidth or height > pen.context.offHeight:
            size = max(width, pen.context.offWidth), max(height, pen.context.offHeight)
            mujoco.mjr_resizeOffscreen(*size, pen.context)
        self._camera.fixedcamid = self._model.camera(camera).id
        pen.fill(data, self._camera, width / height)
        for thing in self.things:
            pen.add(thing)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, pen.context)
        viewport = mujoco.MjrRect(0, 0, width, height)
        frame = np.empty((height, width, 3), np.uint8)
        # Of no pixel's use where the room fills the picture, and a twelfth of its cost.
        sky = pen.wants_sky(self._camera.fixedcamid)
        pen.draw(viewport, frame, sky)
        # What nothing covers is black without a sky; three dark bytes in a row are enough to doubt.
        if not sky and _BLACK in frame.tobytes():
            pen.draw(viewport, frame, sky=True)
            pen.showed_sky(self._camera.fixedcamid)
        return np.ascontiguousarray(frame[::-1])

    def close(self) -> None:
        """Free what lies on the GL side; the process's GL context stays for the next one."""
        if _gl_context is not None:
            _gl_context.make_current()
            for pen in self._pens.values():
                pen.context.free()
        self._pens.clear()


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
