"""A camera's picture in a message, or those of several ticks: raw, or as JPEG.

Next: `remote_messages.py` (the messages they are in).
"""

from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from ..datasets.schema import Camera
from .remote_msgpack import read_tensor, short, tensor


def write_image(image: UInt8[np.ndarray, "*history _ _ 3"], quality: int | None) -> dict[str, Any]:
    """As a message holds it: raw for no quality, else JPEG of 0 to 100, a list of them for
    several frames."""
    if quality is None:
        return tensor(image)
    if image.ndim == 4:
        return {"jpeg": [_jpeg(frame, quality) for frame in image]}
    return {"jpeg": _jpeg(image, quality)}


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality)


def read_frames(
    value: Any, camera: Camera, history: int
) -> UInt8[np.ndarray, "*history height width 3"]:
    """The picture of `camera` in a message, or `history` of them; ValueError names what does not
    fit. Nothing of another size is decoded."""
    where, size = f"ask.images.{camera.name}", (camera.height, camera.width, 3)
    if isinstance(value, dict) and set(value) == {"jpeg"}:
        if history == 1:
            return _read_jpeg(value["jpeg"], where, size)
        several = value["jpeg"]
        if not isinstance(several, list) or len(several) != history:
            got = f"{len(several)} of them" if isinstance(several, list) else short(several)
            raise ValueError(f"{where}: jpeg is {got}; expected a list of {history} pictures")
        return np.stack([_read_jpeg(jpeg, where, size) for jpeg in several])
    image, expected = read_tensor(value, where), size if history == 1 else (history, *size)
    if image.dtype != np.uint8 or image.shape != expected:
        raise ValueError(f"{where}: {image.dtype} {image.shape}; expected uint8 {expected}")
    return image


def _read_jpeg(jpeg: Any, where: str, expected: tuple[int, int, int]) -> np.ndarray:
    if not isinstance(jpeg, memoryview):
        raise ValueError(f"{where}: jpeg is {short(jpeg)}; expected bytes")
    # The header says how much memory the picture would take before any is given to it.
    height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    if (height, width, 3) != expected:
        raise ValueError(f"{where}: JPEG of {height} x {width}; expected {expected[:2]}")
    return simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
