"""RLDS datasets as TFDS writes them (Open X-Embodiment, DROID, Bridge), without TensorFlow.

        1.0.0/dataset_info.json, features.json
        1.0.0/<name>-<split>.tfrecord-00000-of-00012

One record is one episode: `steps/action`, `steps/observation/image` and so on, each with all steps
joined. JPEG frames go into the store byte for byte. The data do not say how many steps a second
has: that is an option.

Next: `tfrecord.py` (the bytes), `rlds_features.py` (what features.json says).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .image_codec import EncodedFrames
from .import_fields import (
    Facts,
    column_names,
    commands,
    default_keys,
    frame_size,
    frames_of,
    joined,
    make_embodiment,
    parse_parts,
    stream_names,
    streams_of,
)
from .import_texts import text_info
from .rlds_features import (
    per_step,
    read_features,
    shards_of,
    text_of,
    version_folder,
)
from .schema import Camera, Embodiment, Episode, unknown_name
from .tfrecord import RecordFile, Value, parse_example

LOOKED_FOR = "a folder with dataset_info.json and *.tfrecord-* (or one version of it inside)"

_STATES = (("observation/state",), ("observation/proprio",), ("observation/robot_state",))
_INSTRUCTIONS = (
    "language_instruction",
    "observation/natural_language_instruction",
    "observation/language_instruction",
    "observation/instruction",
)


def recognise(path: Path) -> bool:
    return version_folder(path) is not None


class RldsSource:
    """The episodes of one split or of all."""

    def __init__(
        self,
        path: Path,
        facts: Facts | None = None,
        split: str | None = None,
        success: Literal["reward", "unknown"] = "unknown",
        cameras: tuple[str, ...] | None = None,
    ) -> None:
        """`split`: None takes all. `success="reward"`: an episode whose last reward is positive
        succeeded. `cameras`: keys such as `observation/image`; None takes every colour image."""
        folder = version_folder(Path(path))
        if folder is None:
            raise ValueError(f"{path} is not {LOOKED_FOR}")
        self.path = folder
        facts = facts or Facts()
        self._facts = facts
        self._success = success
        content = json.loads((folder / "dataset_info.json").read_bytes())
        self._name = str(content.get("name", folder.parent.name))
        if content.get("fileFormat", "tfrecord") != "tfrecord":
            raise ValueError(
                f"{folder} holds {content['fileFormat']} files; only tfrecord can be read"
            )
        self._steps, self._whole, not_read = read_features(folder)
        self._shards = shards_of(folder, content, split)
        images = {key: feature for key, feature in self._steps.items() if feature.is_color_image}
        for key in cameras or ():
            if key not in images:
                raise unknown_name("image for --cameras", key, images)
        names = stream_names(key.removeprefix("observation/") for key in images)
        self._cameras = {
            names[key.removeprefix("observation/")]: key
            for key in images
            if cameras is None or key in cameras
        }
        self._texts = [key for key, feature in self._steps.items() if feature.is_text]
        used = {*images, *self._texts}
        self._numeric = {key: f for key, f in self._steps.items() if key not in used}
        self._state = parse_parts(
            facts.state_keys or default_keys(_STATES, self._numeric, folder, "state"),
            self._numeric,
            "state",
        )
        self._action = parse_parts(
            facts.action_keys or default_keys((("action",),), self._numeric, folder, "action"),
            self._numeric,
            "action",
        )
        self._instruction_key = next((key for key in _INSTRUCTIONS if key in self._texts), None)
        self._open: tuple[str, RecordFile] | None = None
        left = sorted(set(images) - set(self._cameras.values()))
        self.losses = (
            *([f"cameras left out on request: {', '.join(left)}"] if left else []),
            *not_read,
            *(
                []
                if facts.instruction or self._instruction_key
                else ["the dataset holds no instruction; give one with --instruction"]
            ),
        )

    def keys(self) -> Sequence[str]:
        return [f"{file}:{i}" for file, records in self._shards.items() for i in range(records)]

    def episode(self, key: str) -> tuple[Episode, dict[str, EncodedFrames]]:
        file, _, number = key.rpartition(":")
        values = parse_example(self._file(file).record(int(number)))
        steps = self._count_steps(values)
        arrays = {
            name: per_step(values, f"steps/{name}", feature, steps)
            for name, feature in self._numeric.items()
        }
        streams, notes = streams_of(self._state, self._action, arrays)
        info: dict[str, str | int | float | bool] = dict(notes)
        paraphrases: list[str] = []
        instruction, subgoals = self._facts.instruction or "", ()
        for name in self._texts:
            texts = text_of(values, f"steps/{name}", steps)
            if name == self._instruction_key:
                said, subgoals = commands(texts)
                instruction = self._facts.instruction or said
            elif re.fullmatch(r"language_instruction_\d+", name) and len(set(texts)) == 1:
                paraphrases += [texts[0]] if texts[0] else []
            else:
                info[name] = text_info(texts)
        info.update(self._metadata(values))
        images: dict[str, np.ndarray] = {}
        encoded: dict[str, EncodedFrames] = {}
        for camera, name in self._cameras.items():
            frames = self._frames(values, name, steps)
            if isinstance(frames, EncodedFrames):
                encoded[camera] = frames
            else:
                images[camera] = frames
        return (
            Episode(
                images=images,
                streams=streams,
                instruction=instruction,
                task=self._facts.task or self._name,
                seed=self._positions[file] + int(number),
                success=self._succeeded(arrays),
                info=info,
                paraphrases=tuple(paraphrases),
                subgoals=subgoals,
            ),
            encoded,
        )

    @cached_property
    def embodiment(self) -> Embodiment:
        """Looks at the actions of every record, and at nothing else of them."""
        zero = {name: np.empty((0, *feature.shape)) for name, feature in self._numeric.items()}
        cameras = []
        for camera, name in self._cameras.items():
            # The sizes in features.json are often left open, so the first frames are asked.
            cameras.append(Camera(camera, *frame_size(self._first_frames(name))))
        order = self._facts.quaternion_order or ""
        return make_embodiment(
            self._facts,
            self.path,
            robot=self._name,
            control_hz=None,
            state_names=column_names(self._state, zero, order),
            action_names=column_names(self._action, zero, order),
            limits=self._range_of_action(),
            action_meaning=f"as recorded in {self._name}; {self._described()}".strip("; "),
            cameras=tuple(cameras),
            quaternion_order=order,
        )

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Number of the first episode of each file."""
        counts = np.cumsum([0, *self._shards.values()])
        return {file: int(counts[i]) for i, file in enumerate(self._shards)}

    def _file(self, name: str) -> RecordFile:
        if name not in self._shards:
            raise unknown_name("file", name, self._shards)
        if self._open is None or self._open[0] != name:
            self._open = (name, RecordFile(self.path / name))
        return self._open[1]

    def _count_steps(self, values: Mapping[str, Value]) -> int:
        part = self._action[0].key
        feature = self._numeric[part]
        rows = len(values.get(f"steps/{part}", ()))
        width = 1 if feature.coded_bytes else int(np.prod(feature.shape, dtype=int))
        return rows // max(1, width)

    def _frames(self, values: Mapping[str, Value], name: str, steps: int) -> Any:
        files = values.get(f"steps/{name}", [])
        if not isinstance(files, list) or len(files) != steps:
            raise ValueError(f"steps/{name} has {len(files)} frames; the actions have {steps} rows")
        return frames_of(files, f"steps/{name}")

    def _first_frames(self, name: str) -> Any:
        for file in self._shards:
            records = self._file(file)
            for number in range(len(records)):
                files = parse_example(records.unchecked(number), {f"steps/{name}"}).get(
                    f"steps/{name}"
                )
                if isinstance(files, list) and files:
                    return frames_of(files[:1], f"steps/{name}")
        raise ValueError(f"{self.path} has no frame of {name} in any record")

    def _range_of_action(self) -> tuple[list[float], list[float]]:
        low, high = [], []
        keys = {part.key for part in self._action}
        wanted = {f"steps/{key}" for key in keys}
        for file in self._shards:
            records = RecordFile(self.path / file)
            for number in range(len(records)):
                try:
                    values = parse_example(records.unchecked(number), wanted)
                    steps = self._count_steps(values)
                    arrays = {
                        key: per_step(values, f"steps/{key}", self._numeric[key], steps)
                        for key in keys
                    }
                except ValueError:
                    continue  # damaged: `episode` tells, with its checksum
                rows = joined(self._action, arrays)
                if len(rows) and np.isfinite(rows).all():
                    low.append(rows.min(axis=0))
                    high.append(rows.max(axis=0))
        if not low:
            raise ValueError(f"{self.path} holds no episode with actions")
        return np.min(low, axis=0).tolist(), np.max(high, axis=0).tolist()

    def _succeeded(self, arrays: Mapping[str, np.ndarray]) -> bool | None:
        if self._success == "unknown" or "reward" not in arrays:
            return None
        return bool(np.ravel(arrays["reward"][-1:])[0] > 0)

    def _metadata(self, values: Mapping[str, Value]) -> dict[str, str | int | float | bool]:
        found: dict[str, str | int | float | bool] = {}
        for name, feature in self._whole.items():
            value = values.get(name)
            if value is None or len(value) == 0:
                continue
            if isinstance(value, list):
                text = [item.decode(errors="replace") for item in value]
                found[name] = text[0] if len(text) == 1 else json.dumps(text)
            elif len(value) == 1:
                number = value[0].item()
                found[name] = bool(number) if feature.dtype == "bool" else number
            else:
                found[name] = json.dumps(value.tolist())
        return found

    def _described(self) -> str:
        return "; ".join(
            self._numeric[part.key].description
            for part in self._action
            if self._numeric[part.key].description
        )
