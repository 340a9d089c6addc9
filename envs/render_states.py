"""Frames of stored simulator states, in the size and from the cameras one wants.

Robomimic and MimicGen files keep states and the model; their images, if any, are 84 pixels small.
This draws them anew, so that one file serves any policy (`ulna data import --render`).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from ..datasets.schema import Camera, unknown_name
from .renderer import Renderer


def render_states(
    states: np.ndarray, model_xml: str, env_args: dict[str, Any], cameras: Sequence[Camera]
) -> dict[str, np.ndarray]:
    """uint8 RGB frames `(steps, height, width, 3)` by camera name, upright.

    `states`: rows of time, joint positions and joint velocities, as robosuite flattens them.
    Raises ValueError if the model has no such camera, or other states.
    """
    model = mujoco.MjModel.from_xml_string(with_own_assets(model_xml))
    data = mujoco.MjData(model)
    width = 1 + model.nq + model.nv
    if states.ndim != 2 or states.shape[1] < width:
        raise ValueError(
            f"states of shape {states.shape}; this model has rows of {width} numbers (time, "
            f"{model.nq} positions, {model.nv} velocities)"
        )
    known = [model.camera(i).name for i in range(model.ncam)]
    for camera in cameras:
        if camera.name not in known:
            raise unknown_name("camera of the model", camera.name, known)
    frames = {
        camera.name: np.empty((len(states), camera.height, camera.width, 3), np.uint8)
        for camera in cameras
    }
    renderer = Renderer(model)
    try:
        for step, state in enumerate(states):
            data.time = state[0]
            data.qpos[:] = state[1 : 1 + model.nq]
            data.qvel[:] = state[1 + model.nq : width]
            mujoco.mj_forward(model, data)
            for camera in cameras:
                frames[camera.name][step] = renderer.render(
                    data, camera.name, camera.height, camera.width, "exact"
                )
    finally:
        renderer.close()
    return frames


def with_own_assets(model_xml: str) -> str:
    """The model with its meshes and textures where this machine's robosuite has them.

    Files name them by the paths of the machine they were recorded on.
    """
    import robosuite

    home = Path(robosuite.__file__).parent
    root = ElementTree.fromstring(model_xml)
    missing = []
    for element in root.iter():
        file = element.get("file")
        parts = Path(file or "").parts
        if "robosuite" not in parts:
            continue
        last = len(parts) - 1 - parts[::-1].index("robosuite")
        own = home.joinpath(*parts[last + 1 :])
        if not own.exists():
            missing.append(str(own.relative_to(home)))
        element.set("file", str(own))
    if missing:
        raise ValueError(
            f"the model needs {len(missing)} files that robosuite {robosuite.__version__} does not "
            f"have, first {missing[0]}; it was recorded with another version"
        )
    return ElementTree.tostring(root, encoding="unicode")
