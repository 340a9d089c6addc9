"""Texts of a source that are no command: labels per step, whole files.

Next: `import_fields.py`.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from .import_fields import text_runs
from .schema import Sensor


def text_info(texts: Sequence[str]) -> str:
    """One text per step as a value of `Episode.info`: the text, or JSON of its stretches."""
    runs = text_runs(texts)
    return texts[0] if len(runs) == 1 else json.dumps([[start, text] for start, _, text in runs])


_TEXT_ROW = 1024


def text_sensor(text: str) -> tuple[Sensor, str]:
    """A long text (a model's XML) as rows of bytes, and its SHA-256. `sensor_text` undoes it.

    The log is read whole whenever a store is opened; a text that long belongs beside the arrays.
    """
    data = text.encode()
    rows = np.zeros((-(-len(data) // _TEXT_ROW), _TEXT_ROW), np.uint8)
    rows.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return Sensor(np.zeros(len(rows), np.int64), rows), hashlib.sha256(data).hexdigest()


def sensor_text(sensor: Sensor) -> str:
    return np.ascontiguousarray(sensor.values).tobytes().rstrip(b"\0").decode()
