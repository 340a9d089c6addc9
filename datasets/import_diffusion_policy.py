"""diffusion_policy's and UMI's replay buffers (Zarr v2, folder or zip) as a source of episodes.

        data/<key>          every step of every episode, one after the other
        meta/episode_ends   step after the last one of each episode

Frames are arrays `(steps, height, width, 3)`, plain or JPEG-XL (UMI). One episode is read at a
time, whatever the size of the whole. A UMI buffer has no actions: as UMI does when it trains, the
measured pose and gripper width of each step are taken as the command of that step.

Next: `import_fields.py` (joining, names), `import_episodes.py` (the engine).
"""

import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import UInt8
from zarr.errors import UnknownCodecError
from zarr.storage import LocalStore, ZipStore

from .image_codec import EncodedFrames
from .import_fields import (
    Facts,
    column_names,
    default_keys,
    joined,
    make_embodiment,
    parse_parts,
    streams_of,
)
from .schema import Camera, Embodiment, Episode

LOOKED_FOR = "a Zarr v2 folder or .zarr.zip with data/ and meta/episode_ends"

_STATE_PRESETS = (
    ("robot_eef_pose",),
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("state",),
    ("obs",),
)
_UMI_POSE = ("eef_pos", "eef_rot_axis_angle", "gripper_width")
_PUSHT_STATE = ("agent_x_px", "agent_y_px", "block_x_px", "block_y_px", "block_angle_rad")
_READ_ROWS = 4096


def recognise(path: Path) -> bool:
    if path.is_dir():
        return (path / "data").is_dir() and (path / "meta/episode_ends/.zarray").is_file()
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        try:
            archive.getinfo("meta/episode_ends/.zarray")
        except KeyError:
            return False
    return True


class DiffusionPolicySource:
    """The episodes of one replay buffer."""

    def __init__(self, path: Path, facts: Facts | None = None, pixel_scale: float = 1.0) -> None:
        """`pixel_scale`: what float frames are multiplied with to reach 0..255."""
        self.path = Path(path)
        facts = facts or Facts()
        self._facts = facts
        self._pixel_scale = pixel_scale
        store = LocalStore(path, read_only=True) if self.path.is_dir() else ZipStore(path, mode="r")
        self._root = zarr.open_group(store, mode="r", zarr_format=2)
        ends = np.asarray(_array(self._root, "meta/episode_ends")[:]).astype(np.int64)
        if (np.diff(ends, prepend=0) < 0).any():
            raise ValueError(f"{path}: meta/episode_ends runs backwards")
        self._ends = ends
        self._arrays = _open_arrays(self._root, self.path)
        self._images = {
            _camera_name(name): name
            for name, array in self._arrays.items()
            if array.ndim == 4 and array.shape[-1] == 3
        }
        numeric = [
            name
            for name, array in self._arrays.items()
            if name not in self._images.values() and array.dtype.kind in "biuf" and array.ndim > 0
        ]
        self._numeric = numeric
        self._umi_robots = [
            robot
            for robot in range(10)
            if all(f"robot{robot}_{name}" in numeric for name in _UMI_POSE[:2])
        ]
        self._state = parse_parts(facts.state_keys or self._default_state(), numeric, "state")
        self._action_from_pose = "action" not in numeric and facts.action_keys is None
        self._action = parse_parts(
            facts.action_keys or (self._umi_pose() if self._action_from_pose else ("action",)),
            numeric,
            "action",
        )
        self.losses = self._losses()

    def keys(self) -> Sequence[str]:
        return [str(number) for number in range(len(self._ends))]

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        number = int(key)
        start = int(self._ends[number - 1]) if number else 0
        rows = slice(start, int(self._ends[number]))
        # An interrupted recording leaves arrays that are longer than the last episode end; a cut
        # one leaves them shorter, and Zarr would answer with fewer rows.
        for name in (*self._numeric, *self._images.values()):
            if self._rows(name) < rows.stop:
                raise ValueError(
                    f"data/{name} ends at row {self._rows(name)}; episode {key} is rows "
                    f"{rows.start} to {rows.stop}"
                )
        arrays = {name: np.asarray(self._arrays[name][rows]) for name in self._numeric}
        streams, notes = streams_of(self._state, self._action, arrays)
        if "timestamp" in arrays and arrays["timestamp"].ndim == 1:
            streams["time_ns"] = np.rint(arrays["timestamp"] * 1e9).astype(np.int64)
        info: dict[str, str | int | float | bool] = dict(notes)
        if self._action_from_pose:
            info["action_from"] = "the measured pose and gripper width of the same step, as in UMI"
        episode = Episode(
            images={
                camera: self._frames(name, np.asarray(self._arrays[name][rows]))
                for camera, name in self._images.items()
            },
            streams=streams,
            instruction=self._facts.instruction or "",
            task=self._facts.task or self._default_name,
            seed=number,
            success=None,
            info=info,
        )
        return episode, {}

    @cached_property
    def embodiment(self) -> Embodiment:
        arrays = {name: np.empty((0, *self._arrays[name].shape[1:])) for name in self._numeric}
        order = self._facts.quaternion_order
        if order is None:
            order = "xyzw" if any("quat" in part.key for part in self._state) else ""
        state_names = column_names(self._state, arrays, order)
        if self._is_pusht and self._state[0].key == "state" and len(self._state) == 1:
            state_names = _PUSHT_STATE[self._state[0].start : self._state[0].stop]
        meaning = "as recorded in the replay buffer"
        if self._action_from_pose:
            meaning = (
                "measured pose (position in m, rotation vector in rad) and gripper width in m of "
                "the same step, taken as the command as UMI does"
            )
        elif self._is_pusht:
            meaning = "target position of the agent in pixels of the 512 x 512 board"
        return make_embodiment(
            self._facts,
            self.path,
            robot="pusht" if self._is_pusht else "umi" if self._umi_robots else self._default_name,
            control_hz=10.0 if self._is_pusht else None,
            state_names=state_names,
            action_names=column_names(self._action, arrays),
            limits=self._range_of_action(),
            action_meaning=meaning,
            cameras=tuple(
                Camera(camera, self._arrays[name].shape[1], self._arrays[name].shape[2])
                for camera, name in self._images.items()
            ),
            quaternion_order=order,
        )

    def _rows(self, name: str) -> int:
        return int(self._arrays[name].shape[0])

    @property
    def _default_name(self) -> str:
        return "pusht" if self._is_pusht else self.path.name.split(".")[0]

    @property
    def _is_pusht(self) -> bool:
        """Columbia's PushT: five numbers of state, two of action, of a board of 512 pixels."""
        shapes = {name: self._arrays[name].shape[1:] for name in self._numeric}
        return (
            shapes.get("state") == (5,)
            and shapes.get("action") == (2,)
            and ("img" in self._arrays or "keypoint" in shapes)
        )

    def _default_state(self) -> tuple[str, ...]:
        if self._umi_robots:
            return self._umi_pose()
        if self._is_pusht:
            return ("state[0:2]",)  # the agent; where the block is, a policy has to see
        return default_keys(_STATE_PRESETS, self._numeric, self.path, "state")

    def _umi_pose(self) -> tuple[str, ...]:
        names = [f"robot{robot}_{name}" for robot in self._umi_robots for name in _UMI_POSE]
        if not names:
            raise ValueError(
                f"{self.path} has no data/action and no poses to take for it (robot0_eef_pos, "
                f"robot0_eef_rot_axis_angle); name the arrays with --action-keys. Known: "
                f"{', '.join(self._numeric)}"
            )
        return tuple(name for name in names if name in self._numeric)

    def _frames(self, name: str, frames: np.ndarray) -> UInt8[np.ndarray, "steps height width 3"]:
        if frames.dtype == np.uint8:
            return frames
        pixels = np.rint(frames * self._pixel_scale)
        low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
        if not 0 <= low <= high <= 255:
            raise ValueError(
                f"data/{name} holds {frames.dtype} pixels from {frames.min()} to {frames.max()}; "
                "expected 0 to 255 after --pixel-scale (255 for pixels from 0 to 1)"
            )
        if self._pixel_scale == 1 and (frames != pixels).any():
            if frames.max() <= 1:
                raise ValueError(
                    f"data/{name} holds {frames.dtype} pixels up to {frames.max()}; if they go "
                    "from 0 to 1, say --pixel-scale 255"
                )
            self._lose(f"pixels of data/{name} are not whole numbers; they were rounded")
        return pixels.astype(np.uint8)

    def _lose(self, sentence: str) -> None:
        if sentence not in self.losses:
            self.losses = (*self.losses, sentence)

    def _range_of_action(self) -> tuple[list[float], list[float]]:
        low, high = [], []
        rows = int(self._ends[-1]) if len(self._ends) else 0
        for first in range(0, rows, _READ_ROWS):
            part = slice(first, min(first + _READ_ROWS, rows))
            keys = {part.key for part in self._action}
            values = joined(self._action, {k: np.asarray(self._arrays[k][part]) for k in keys})
            low.append(values.min(axis=0))
            high.append(values.max(axis=0))
        if not low:
            raise ValueError(f"{self.path} has no episodes: meta/episode_ends is empty")
        return np.min(low, axis=0).tolist(), np.max(high, axis=0).tolist()

    def _losses(self) -> tuple[str, ...]:
        losses = []
        if not self._facts.instruction:
            losses.append("a replay buffer holds no instruction; give one with --instruction")
        left = set(self._arrays) - set(self._numeric) - set(self._images.values())
        if left:
            losses.append(f"not numbers, left out: {', '.join(sorted(left))}")
        other = [name for name in _names(self._root, "meta") if name != "episode_ends"]
        if other:
            losses.append(f"arrays of meta/ are left out: {', '.join(other)}")
        rows = int(self._ends[-1]) if len(self._ends) else 0
        longer = [name for name in self._numeric if self._rows(name) > rows]
        if longer:
            losses.append(
                f"rows after the last episode end (an interrupted recording) are left out: "
                f"{', '.join(f'{self._rows(n) - rows} of {n}' for n in longer)}"
            )
        if self.path.is_dir() and (self.path.parent / "videos").is_dir():
            losses.append("the videos beside the replay buffer are left out; it holds no frames")
        return tuple(losses)


def _names(root: zarr.Group, group: str = "data") -> list[str]:
    found = root[group]
    if not isinstance(found, zarr.Group):
        raise ValueError(f"{group} is an array; expected a group of arrays")
    return sorted(found.array_keys())


def _array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    found = root[path]
    if not isinstance(found, zarr.Array):
        raise ValueError(f"{path} is a group; expected an array")
    return found


def _open_arrays(root: zarr.Group, path: Path) -> dict[str, zarr.Array[Any]]:
    """All of data/; UMI's JPEG-XL needs the codec of imagecodecs."""
    try:
        return {name: _array(root, f"data/{name}") for name in _names(root)}
    except UnknownCodecError as error:
        if "imagecodecs" not in str(error):
            raise ValueError(f"{path}: {error}") from error
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError as error:
        raise ValueError(
            f"frames of {path} are coded by imagecodecs (JPEG-XL); to read them: "
            "pip install 'ulna[umi]'"
        ) from error
    register_codecs(verbose=False)
    return {name: _array(root, f"data/{name}") for name in _names(root)}


def _camera_name(key: str) -> str:
    return key.lower().removesuffix("_rgb").removesuffix("_image")
