"""robomimic HDF5 (also MimicGen's and LIBERO's) as a source of episodes.

        data/                  attributes: env_args (JSON), LIBERO: problem_info (JSON)
        data/demo_12/          attributes: model_file (MJCF text)
            actions  states  rewards  dones
            obs/<key>          low-dimensional, uint8 images (steps, height, width, 3), depth
            next_obs/<key>     the same one step later
        mask/<name>            names of the demos of a filter

Chosen low-dimensional keys become `state`; every other array keeps a stream of its own. Frames are
taken as they are (LIBERO's are upside down), or drawn anew from `states` by `render`.

Next: `import_fields.py` (joining, names), `import_episodes.py` (the engine).
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from .image_codec import EncodedFrames
from .import_fields import (
    Facts,
    column_names,
    default_keys,
    joined,
    make_embodiment,
    parse_parts,
    stream_names,
    streams_of,
)
from .import_texts import text_sensor
from .robomimic_facts import (
    action_names,
    camera_name,
    controller_limits,
    controller_of,
    image_size,
    is_image,
    json_attribute,
    robot_name,
)
from .schema import Camera, Embodiment, Episode, unknown_name

LOOKED_FOR = "an HDF5 file with data/demo_*/actions"

_STATE_PRESETS = (
    (
        *("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
        *("robot1_eef_pos", "robot1_eef_quat", "robot1_gripper_qpos"),
    ),
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_pos", "ee_ori", "gripper_states"),  # LIBERO
)

_OWN_NAMES = {"states": "simulator_state", "rewards": "reward", "dones": "done"}
"""What the arrays of a demo are called here; those of `obs` go by their own names."""


Render = Callable[[np.ndarray, str, dict[str, Any], Sequence[Camera]], dict[str, np.ndarray]]
"""Draws simulator states: `render(states, model_xml, env_args, cameras)` gives uint8 frames
`(steps, height, width, 3)` by camera. Given by whoever may know simulators; with several workers it
must be picklable."""


def recognise(path: Path) -> bool:
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        data = file.get("data")
        return isinstance(data, h5py.Group) and any("actions" in demo for demo in data.values())


class RobomimicSource:
    """The demos of one file."""

    def __init__(
        self,
        path: Path,
        facts: Facts | None = None,
        success: Literal["reward", "unknown"] = "reward",
        render: Render | None = None,
        cameras: tuple[Camera, ...] = (),
    ) -> None:
        """`success="reward"`: a demo whose sparse reward was ever positive succeeded; unknown where
        the reward is shaped or missing. `render` draws `cameras` in place of the stored images."""
        if bool(cameras) != (render is not None):
            raise ValueError("to draw images anew give both `render` and `cameras`")
        self.path = Path(path)
        self._file: Any = h5py.File(self.path)
        self._data: Any = self._file["data"]
        facts = facts or Facts()
        self._facts = facts
        self._success = success
        self._render = render
        names = [name for name in self._data if "actions" in self._data[name]]
        self._names = sorted(names, key=lambda name: (len(name), name))
        if not self._names:
            raise ValueError(f"{path} has no demo with actions in data/")
        self._env_args = json_attribute(self._data, "env_args")
        self._problem = json_attribute(self._data, "problem_info")
        self._masks = {
            name: {demo.decode() for demo in demos[()].ravel().tolist()}
            for name, demos in self._file.get("mask", {}).items()
        }
        demo = self._data[self._names[0]]
        images = [key for key, array in demo.get("obs", {}).items() if is_image(key, array)]
        self._image_keys = {
            stream_names(map(camera_name, images))[camera_name(k)]: k for k in images
        }
        known = {
            _OWN_NAMES.get(path, path.removeprefix("obs/")): path
            for path in self._numeric_paths(demo)
        }
        self._state = parse_parts(
            facts.state_keys or default_keys(_STATE_PRESETS, known, self.path, "state"),
            known,
            "state",
        )
        self._action = parse_parts(facts.action_keys or ("actions",), known, "action")
        self._known = known
        self._cameras = cameras or tuple(
            Camera(name, *image_size(self._env_args, key, demo["obs"][key]))
            for name, key in self._image_keys.items()
        )
        self.losses = self._losses(demo)

    def keys(self) -> Sequence[str]:
        return self._names

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        demo = self._data[key]
        steps = len(demo["actions"])
        arrays = {name: demo[path][()] for name, path in self._present(demo).items()}
        for name, rows in arrays.items():
            if len(rows) != steps:
                raise ValueError(f"{key}/{name} has {len(rows)} rows; the actions have {steps}")
        streams, notes = streams_of(self._state, self._action, arrays)
        info: dict[str, str | int | float | bool] = dict(notes)
        filters = sorted(name for name, demos in self._masks.items() if key in demos)
        if filters:
            info["filter_keys"] = ",".join(filters)
        sensors = {}
        xml = demo.attrs.get("model_file")
        if xml is not None:
            sensors["model_xml"], info["model_xml_sha256"] = text_sensor(str(xml))
        if self._env_args:
            sensors["env_args"], _ = text_sensor(json.dumps(self._env_args))
        for name, value in (*self._data.attrs.items(), *demo.attrs.items()):
            if name not in ("model_file", "env_args", "num_samples", "total"):
                value = value if isinstance(value, str) else np.asarray(value).tolist()
                plain = isinstance(value, str | int | float | bool)
                info[name] = value if plain else json.dumps(value)
        return (
            Episode(
                images=self._images(demo, key, str(xml or "")),
                streams=streams,
                instruction=self._instruction(),
                task=self._facts.task or self._env_args.get("env_name") or self.path.stem,
                seed=self._names.index(key),
                success=self._succeeded(demo),
                info=info,
                sensors=sensors,
            ),
            {},
        )

    def _numeric_paths(self, demo: Any) -> list[str]:
        """Paths of all arrays of numbers with a row per step, images left out."""
        found: list[str] = []
        steps = len(demo["actions"])

        def visit(path: str, node: Any) -> None:
            if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biuf":
                return
            image = path.rsplit("/", 1)[-1] in self._image_keys.values()
            if not image and node.ndim > 0 and len(node) == steps:
                found.append(path)

        demo.visititems(visit)
        return found

    def _present(self, demo: Any) -> dict[str, str]:
        missing = [path for path in self._known.values() if path not in demo]
        if missing:
            raise ValueError(f"{demo.name} lacks {', '.join(missing)}, which the first demo has")
        more = sorted(set(self._numeric_paths(demo)) - set(self._known.values()))
        if more:
            self._lose(f"arrays that the first demo lacks are left out: {', '.join(more)}")
        return self._known

    def _lose(self, sentence: str) -> None:
        if sentence not in self.losses:
            self.losses = (*self.losses, sentence)

    def _images(self, demo: Any, key: str, xml: str) -> dict[str, np.ndarray]:
        if self._render is None:
            images = {}
            for camera in self._cameras:
                path = f"obs/{self._image_keys[camera.name]}"
                if path not in demo:
                    raise ValueError(f"{key} lacks {path}, which the first demo has")
                images[camera.name] = demo[path][()].reshape(-1, camera.height, camera.width, 3)
            return images
        if "states" not in demo or not xml:
            raise ValueError(f"{key} has no states or no model_file to draw images from")
        drawn = self._render(demo["states"][()], xml, self._env_args, self._cameras)
        for camera in self._cameras:
            if camera.name not in drawn:
                raise unknown_name("camera that was drawn", camera.name, drawn)
        return drawn

    def _succeeded(self, demo: Any) -> bool | None:
        shaped = self._env_args.get("env_kwargs", {}).get("reward_shaping")
        if self._success == "unknown" or "rewards" not in demo or shaped is not False:
            return None
        return bool((demo["rewards"][()] > 0).any())

    def _instruction(self) -> str:
        """Empty if neither the caller nor the file knows one (`losses` says so)."""
        said = self._problem.get("language_instruction") or self._env_args.get("lang")
        said = "".join(said) if isinstance(said, list) else said
        return self._facts.instruction or str(said or "")

    def _losses(self, demo: Any) -> tuple[str, ...]:
        losses = []
        if not self._instruction():
            losses.append("the file holds no instruction; give one with --instruction")
        if any(is_image(key, array) for key, array in demo.get("next_obs", {}).items()):
            losses.append(
                "images of next_obs are left out: each is the frame of the next step, so the "
                "frame after the last action is lost"
            )
        if self._render is not None and self._image_keys:
            losses.append(
                f"stored images are replaced by drawn ones: {', '.join(self._image_keys)}"
            )
        steps, others = len(demo["actions"]), []
        demo.visititems(
            lambda path, node: (
                others.append(path)
                if isinstance(node, h5py.Dataset)
                and (node.dtype.kind not in "biuf" or node.ndim == 0 or len(node) != steps)
                else None
            )
        )
        if others:
            losses.append(f"not one row of numbers per step, left out: {', '.join(others)}")
        return tuple(losses)

    @cached_property
    def embodiment(self) -> Embodiment:
        demo = self._data[self._names[0]]
        arrays = {name: demo[path][()] for name, path in self._known.items()}
        order = self._facts.quaternion_order
        if order is None:  # robosuite's; MuJoCo's own would be wxyz
            order = "xyzw" if any("quat" in part.key for part in self._state) else ""
        rate = self._env_args.get("env_kwargs", {}).get("control_freq")
        controller = controller_of(self._env_args)
        meaning = f"as recorded by {self._env_args.get('env_name', 'its environment')}"
        if controller:
            meaning += f", controller {json.dumps(controller, sort_keys=True)}"
        limits = controller_limits(controller)
        return make_embodiment(
            self._facts,
            self.path,
            robot=robot_name(self._env_args),
            control_hz=None if rate is None else float(rate),
            state_names=column_names(self._state, arrays, order),
            action_names=action_names(controller, column_names(self._action, arrays)),
            limits=self._range_of_action() if limits is None else limits,
            action_meaning=meaning,
            cameras=self._cameras,
            quaternion_order=order,
            limits_seen=limits is None,
        )

    def _range_of_action(self) -> tuple[list[float], list[float]]:
        keys = {part.key for part in self._action}
        rows = [
            joined(self._action, {key: demo[self._known[key]][()] for key in keys})
            for demo in (self._data[name] for name in self._names)
            if len(demo["actions"])
        ]
        low, high = (
            np.min([r.min(axis=0) for r in rows], axis=0),
            np.max([r.max(axis=0) for r in rows], axis=0),
        )
        return low.tolist(), high.tolist()
