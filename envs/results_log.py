"""Episodes that are done, on disk as each one ends: a run that was killed goes on behind them.

    episodes.jsonl    {"key": "...", "settings": {...}, "episode": {...}}     one line per episode

The key is a hash of everything the outcome depends on (policy, task, seed, words, execution, delay,
perturbation, render profile, versions); an episode whose key is there is not run again. A line is
on the disk before the next one begins; a torn last line (power cut, kill -9) is dropped.

States are not kept: an episode can be run again, with the same result, when its film is wanted.

Next: `train/evaluate.py` (who keeps one).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..datasets.strict_json import encode
from .rollout import EpisodeResult

_ARRAYS = ("states", "actions")


def episode_key(settings: Mapping[str, Any]) -> str:
    """A hash of settings (JSON values, dataclasses welcome); equal settings, equal keys."""
    text = json.dumps(encode(dict(settings)), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class ResultsLog:
    """The log of one evaluation. One process writes; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, EpisodeResult] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                self.results[row["key"]] = _decode(row["episode"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no episode of this version ({error}); delete the "
                    "file to run all of them again"
                ) from error
        self._file = open(path, "ab")
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, key: str, settings: Mapping[str, Any], result: EpisodeResult) -> None:
        """Returns when the line is on the disk."""
        row = {"key": key, "settings": encode(dict(settings)), "episode": _encode(result)}
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.results[key] = result

    def __enter__(self) -> "ResultsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _encode(result: EpisodeResult) -> dict[str, Any]:
    return {
        field.name: encode(getattr(result, field.name))
        for field in fields(result)
        if field.name not in _ARRAYS
    }


def _decode(row: dict[str, Any]) -> EpisodeResult:
    known = {field.name for field in fields(EpisodeResult)}
    if set(row) != known - set(_ARRAYS):
        raise ValueError(f"fields {sorted(set(row) ^ (known - set(_ARRAYS)))} are other ones")
    return EpisodeResult(
        **{**row, "delays": tuple(row["delays"])},
        states=np.zeros((0, 0)),
        actions=np.zeros((0, 0), np.float32),
    )
