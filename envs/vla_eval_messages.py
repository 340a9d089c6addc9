"""Messages of the vla-eval harness (0.8): msgpack maps, arrays and frames as maps inside.

    {"type": "observation", "payload": {...}, "seq": 3, "timestamp": 1.7e9}
    array   {"__ndarray__": true, "data": bytes, "dtype": "<f4", "shape": [7]}
    frame   {"__image__": true, "format": "png" | "jpeg" | "raw", "data": bytes, "shape": [...]}

Next: `envs/vla_eval_server.py` (who answers them).
"""

import io
import time
from typing import Any

import numpy as np
from PIL import Image

HARNESS_PROTOCOL = 1
KINDS = ("hello", "observation", "action", "episode_start", "episode_end", "error")
MOST_PIXELS = 1 << 24
"""A larger frame is refused before it is decoded."""


def pack(kind: str, payload: dict[str, Any], number: int) -> bytes:
    """A message to the harness; `number` is that of the request it answers."""
    import msgpack

    message = {"type": kind, "payload": payload, "seq": number, "timestamp": time.time()}
    packed = msgpack.packb(message, default=_encode, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes | str) -> tuple[str, dict[str, Any], int]:
    """Kind, payload and number of a message; ValueError if it is none."""
    import msgpack

    if isinstance(data, str):
        raise ValueError("expected a binary message, got text")
    try:
        message = msgpack.unpackb(data, object_hook=_decode, raw=False)
    except (msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData) as error:
        raise ValueError(f"{len(data)} bytes that are no msgpack: {error}") from error
    if not isinstance(message, dict) or not {"type", "payload", "seq"} <= set(message):
        raise ValueError("expected a map with type, payload and seq")
    kind, payload, number = message["type"], message["payload"], message["seq"]
    if kind not in KINDS or not isinstance(payload, dict) or not isinstance(number, int):
        raise ValueError(f"message of type {kind!r}; known are {', '.join(KINDS)}")
    return kind, payload, number


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        plain = np.ascontiguousarray(value)
        return {
            "__ndarray__": True,
            "data": plain.tobytes(),
            "dtype": plain.dtype.str,
            "shape": list(plain.shape),
        }
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _decode(value: dict[Any, Any]) -> Any:
    if "__image__" in value:
        return _decode_frame(value)
    if "__ndarray__" in value:
        return _decode_array(value)
    return value


def _decode_array(value: dict[Any, Any]) -> np.ndarray:
    kind = np.dtype(str(value["dtype"]))
    if kind.kind not in "biuf":
        raise ValueError(f"array of dtype {kind}; only numbers and booleans are accepted")
    return np.frombuffer(value["data"], kind).reshape(value["shape"]).copy()


def _decode_frame(value: dict[Any, Any]) -> np.ndarray:
    if value["format"] == "raw":
        return _decode_array(value)
    image = Image.open(io.BytesIO(value["data"]), formats=["PNG", "JPEG"])
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"frame of {image.width} x {image.height} pixels; at most {MOST_PIXELS}")
    return np.array(image)
