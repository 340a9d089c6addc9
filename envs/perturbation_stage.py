"""A second model and renderer of an environment, for pictures with changed looks.

The environment's own model is never written to: it goes on unperturbed whatever a wrapper around it
did. One stage per environment serves all wrappers, because preparing the GL side costs a tenth of a
second.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from .perturbation_looks import LOOKS, Looks
from .render_pen import PAINT
from .renderer import Renderer

_stages: "weakref.WeakKeyDictionary[Any, Stage]" = weakref.WeakKeyDictionary()


def stage_of(env: Any) -> "Stage":
    """The stage of an environment, made at the first call."""
    if not hasattr(env, "_renderer"):
        raise ValueError(
            f"task {env.task} does not draw with Ulna's renderer: the axes that change pictures "
            f"({', '.join(LOOKS)}) do not reach it"
        )
    if env not in _stages:
        _stages[env] = Stage(env)
    return _stages[env]


class Stage:
    """Where an environment's states are drawn in other looks."""

    def __init__(self, env: Any) -> None:
        self._env = weakref.proxy(env)
        self._model = copy.copy(env.model)
        self._data = mujoco.MjData(self._model)
        self._renderer: _StageRenderer | None = None
        self._looks: Looks | None = None

    def dress(self, axis: str, strength: str, rng: np.random.Generator) -> None:
        """Take the environment's present looks and change them along an axis."""
        if self._looks is not None:
            self._looks.undo()
        own = self._env.model
        for name in PAINT:
            getattr(self._model, name)[:] = getattr(own, name)
        mujoco.mj_copyData(self._data, self._model, self._env.data)
        self._looks = LOOKS[axis](self._model, self._data, strength)
        self._looks.apply(rng)
        if self._renderer is not None:
            self._renderer.repaint()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Inside, the environment draws here."""
        if self._renderer is None:
            self._renderer = _StageRenderer(self._model, self._data)
        self._renderer.things = self._looks.things if self._looks is not None else ()
        own = self._env._renderer
        self._env._renderer = self._renderer
        try:
            yield
        finally:
            self._env._renderer = own

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _StageRenderer(Renderer):
    """Draws the poses it is given with the cameras and lights of its own model."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        super().__init__(model)
        self._data = data

    def render(
        self, data: mujoco.MjData, camera: str, height: int, width: int, profile: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        mujoco.mj_copyData(self._data, self._model, data)
        mujoco.mj_camlight(self._model, self._data)
        return super().render(self._data, camera, height, width, profile)
