"""What the JSON files of a TFDS dataset say, and the values of a record by it.

Next: `import_rlds.py`.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from .import_fields import decode_image
from .schema import unknown_name
from .tfrecord import RecordFile, Value


@dataclass(frozen=True)
class Feature:
    """One leaf of the feature tree, per step or per episode."""

    kind: Literal["tensor", "image", "text"]
    dtype: str
    shape: tuple[int, ...]
    """Of one step; -1 where it is left open."""
    encoding: str = "none"
    """Tensors as bytes: `bytes` or `zlib`."""
    description: str = ""
    nested: int = 0
    """Lists within a step."""

    @property
    def is_color_image(self) -> bool:
        return self.kind == "image" and self.dtype == "uint8" and self.shape[-1:] in ((3,), ())

    @property
    def is_text(self) -> bool:
        return self.kind == "text"

    @property
    def coded_bytes(self) -> bool:
        """Whether a step is one piece of bytes instead of numbers."""
        return self.kind == "image" or self.encoding in ("bytes", "zlib")


def read_features(folder: Path) -> tuple[dict[str, Feature], dict[str, Feature], list[str]]:
    """Features per step, features per episode, and what cannot be read, in sentences."""
    path = folder / "features.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no features.json, which says what the records hold; write the dataset "
            "again with tfds 4.3 or newer"
        )
    steps: dict[str, Feature] = {}
    whole: dict[str, Feature] = {}
    losses = []
    for name, feature, lists, kind in _leaves(json.loads(path.read_bytes()), "", 0):
        in_steps = name.startswith("steps/")
        if feature is None:
            losses.append(f"{name} is a {kind}, which is not read")
        elif lists > 1 or (feature.shape.count(-1) and feature.kind == "tensor"):
            losses.append(f"{name} has another length at every step and is left out")
        elif in_steps and lists == 1:
            steps[name.removeprefix("steps/")] = feature
        elif in_steps:
            losses.append(f"{name} does not vary over steps and is left out")
        elif feature.kind == "image":
            losses.append(f"{name}, an image of the whole episode, is left out")
        else:
            whole[name] = feature
    if not steps:
        raise ValueError(f"{path} describes no steps: not an RLDS dataset")
    return steps, whole, losses


def _leaves(
    node: Mapping[str, Any], name: str, lists: int
) -> Iterator[tuple[str, Feature | None, int, str]]:
    description = (
        str(node.get("description", {}).get("text", ""))
        if isinstance(node.get("description"), dict)
        else str(node.get("description", ""))
    )
    if "featuresDict" in node:
        for key, child in node["featuresDict"].get("features", {}).items():
            yield from _leaves(child, f"{name}/{key}" if name else key, lists)
    elif "sequence" in node:
        yield from _leaves(node["sequence"]["feature"], name, lists + 1)
    elif "tensor" in node:
        tensor = node["tensor"]
        dtype = str(tensor.get("dtype", "float32"))
        kind = "text" if dtype in ("string", "object", "str", "bytes") else "tensor"
        encoding = str(tensor.get("encoding", "none")).lower()
        yield name, Feature(kind, dtype, _shape(tensor), encoding, description), lists, "tensor"
    elif "image" in node:
        image = node["image"]
        feature = Feature("image", str(image.get("dtype", "uint8")), _shape(image), "none")
        yield name, feature, lists, "image"
    elif "text" in node:
        yield name, Feature("text", "string", ()), lists, "text"
    elif "classLabel" in node:
        yield name, Feature("tensor", "int64", (), "none", description), lists, "class label"
    else:
        kind = str(node.get("pythonClassName", "feature of unknown kind")).rsplit(".", 1)[-1]
        yield name, None, lists, kind


def _shape(content: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(side) for side in content.get("shape", {}).get("dimensions", []))


def per_step(
    values: Mapping[str, Value], name: str, feature: Feature, steps: int
) -> Shaped[np.ndarray, "steps ..."]:
    """A feature of a record with one row per step, in the type features.json names."""
    value = values.get(name)
    if value is None:
        raise ValueError(f"the record has no {name}")
    if feature.kind == "image":
        rows = [decode_image(item, name, None) for item in value if isinstance(item, bytes)]
        return _rows(np.stack(rows) if rows else np.empty(0), name, (), steps)
    dtype = np.dtype(feature.dtype)
    if feature.coded_bytes:
        if not isinstance(value, list):
            raise ValueError(f"{name} holds numbers; features.json says {feature.encoding}")
        inflate = zlib.decompress if feature.encoding == "zlib" else bytes
        arrays = [np.frombuffer(inflate(item), dtype) for item in value]
        return _rows(np.stack(arrays), name, feature.shape, steps)
    if isinstance(value, list):
        raise ValueError(f"{name} holds bytes; features.json says {feature.dtype}")
    return _rows(value.astype(dtype), name, feature.shape, steps)


def _rows(value: np.ndarray, name: str, shape: tuple[int, ...], steps: int) -> np.ndarray:
    expected = steps * int(np.prod(shape, dtype=int))
    if (shape and value.size != expected) or (steps and value.size % steps):
        raise ValueError(
            f"{name} has {value.size} values; {steps} steps of {shape or 'one number'} need "
            f"{expected}"
        )
    rest = shape or value.shape[1:]
    return value.reshape(steps, *rest)


def text_of(values: Mapping[str, Value], name: str, steps: int) -> list[str]:
    """One text per step."""
    value = values.get(name)
    if not isinstance(value, list) or len(value) != steps:
        found = 0 if value is None else len(value)
        raise ValueError(f"{name} has {found} texts; the actions have {steps} rows")
    return [item.decode() for item in value]


def version_folder(path: Path) -> Path | None:
    """`path`, or the newest version in it, if it is a TFDS folder of TFRecord files."""
    if not path.is_dir():
        return None
    versions = [p for p in path.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    versions.sort(key=lambda p: tuple(int(number) for number in p.name.split(".")))
    for folder in (path, *reversed(versions)):
        if (folder / "dataset_info.json").is_file() and any(folder.glob("*.tfrecord*")):
            return folder
    return None


def shards_of(folder: Path, content: Mapping[str, Any], split: str | None) -> dict[str, int]:
    """Records per file, of one split or all; from dataset_info.json where it says so."""
    files = sorted(p.name for p in folder.glob("*.tfrecord*"))
    said: dict[str, int] = {}
    splits = {str(entry["name"]): entry for entry in content.get("splits", [])}
    if split is not None and split not in splits:
        raise unknown_name("split", split, splits)
    for name, entry in splits.items():
        lengths = [int(length) for length in entry.get("shardLengths", [])]
        for number, length in enumerate(lengths):
            file = f"{content.get('name')}-{name}.tfrecord-{number:05d}-of-{len(lengths):05d}"
            if split in (None, name):
                said[file] = length
    if missing := [file for file in said if file not in files]:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(said)} files that dataset_info.json names, "
            f"first {missing[0]}; it has {', '.join(files[:3])} ..."
        )
    if not said:
        said = {
            file: len(RecordFile(folder / file))
            for file in files
            if split is None or f"-{split}." in file
        }
    return said
