"""An observation and its chunk in shared memory: fixed places, nothing is pickled.

    worker:  write_observation --ask-->  parent: read_observation, act, write_chunk
             read_chunk        <-done--

One slot per worker; the layout follows from the embodiment, so both sides compute it alike.

Next: `envs/engine.py` (the parent's side), `envs/workers.py` (`Desk`, `Question`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, Observation

MOST_TEXT_BYTES = 2048
_HEADER = ("noise_seed", "inference_delay", "planned_rows", "text_bytes", "chunk_rows")
_NO_PLAN = -1


@dataclass(frozen=True)
class SlotLayout:
    """Where what lies in a slot."""

    embodiment: Embodiment
    history: int = 1
    most_rows: int = 256
    """Longest chunk, and longest plan, that fits."""

    def fields(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of every part, in the order in which they lie."""
        body = self.embodiment
        before = () if self.history == 1 else (self.history,)
        rows = (self.most_rows, body.action_dim)
        return {
            "header": (np.dtype(np.int64), (len(_HEADER),)),
            "planned": (np.dtype(np.float32), rows),
            "chunk": (np.dtype(np.float32), rows),
            "state": (np.dtype(np.float32), (*before, body.state_dim)),
            "text": (np.dtype(np.uint8), (MOST_TEXT_BYTES,)),
            **{
                f"image.{c.name}": (np.dtype(np.uint8), (*before, c.height, c.width, 3))
                for c in body.cameras
            },
        }

    @property
    def size(self) -> int:
        """Bytes of a slot."""
        return sum(_padded(kind.itemsize * prod(s)) for kind, s in self.fields().values())

    def views(self, memory: Any) -> dict[str, np.ndarray]:
        """The parts of a slot as arrays on its memory (a RawArray, a bytearray)."""
        views, start = {}, 0
        for name, (kind, shape) in self.fields().items():
            count = prod(shape)
            views[name] = np.frombuffer(memory, kind, count, start).reshape(shape)
            start += _padded(kind.itemsize * count)
        return views


def write_observation(views: Mapping[str, np.ndarray], observation: Observation) -> None:
    """Raises ValueError naming what does not fit the layout."""
    images = {name[6:] for name in views if name.startswith("image.")}
    if images != set(observation.images):
        raise ValueError(
            f"the observation has cameras {sorted(observation.images)}, its embodiment "
            f"{sorted(images)}"
        )
    for name in images:
        _write(views[f"image.{name}"], observation.images[name], f"image {name!r}")
    _write(views["state"], observation.state, "state")
    text = observation.instruction.encode()
    if len(text) > MOST_TEXT_BYTES:
        raise ValueError(f"the instruction has {len(text)} bytes; {MOST_TEXT_BYTES} fit")
    views["text"][: len(text)] = np.frombuffer(text, np.uint8)
    rows = _NO_PLAN
    if observation.planned is not None:
        rows = len(observation.planned)
        _write_rows(views["planned"], observation.planned, "plan")
    views["header"][:4] = (observation.noise_seed, observation.inference_delay, rows, len(text))


def read_observation(views: Mapping[str, np.ndarray]) -> Observation:
    """A copy: the slot may be written again while the policy still looks."""
    seed, delay, rows, text = (int(number) for number in views["header"][:4])
    return Observation(
        images={n[6:]: part.copy() for n, part in views.items() if n.startswith("image.")},
        state=views["state"].copy(),
        instruction=views["text"][:text].tobytes().decode(),
        noise_seed=seed,
        planned=None if rows == _NO_PLAN else views["planned"][:rows].copy(),
        inference_delay=delay,
    )


def write_chunk(
    views: Mapping[str, np.ndarray], chunk: Float[np.ndarray, "horizon action_dim"]
) -> None:
    """Raises ValueError if the chunk is no chunk of this embodiment."""
    _write_rows(views["chunk"], np.asarray(chunk), "chunk")
    views["header"][4] = len(chunk)


def read_chunk(views: Mapping[str, np.ndarray]) -> Float[np.ndarray, "horizon action_dim"]:
    return views["chunk"][: int(views["header"][4])].copy()


def _write(place: np.ndarray, value: np.ndarray, what: str) -> None:
    if value.shape != place.shape or value.dtype != place.dtype:
        raise ValueError(
            f"{what} is {value.dtype} {value.shape}; the embodiment says {place.dtype} "
            f"{place.shape}"
        )
    place[...] = value


def _write_rows(place: np.ndarray, rows: np.ndarray, what: str) -> None:
    if rows.ndim != 2 or rows.shape[1] != place.shape[1] or len(rows) > len(place):
        raise ValueError(
            f"the policy gave a {what} of shape {rows.shape}; expected (horizon, "
            f"{place.shape[1]}) with a horizon of at most {len(place)}"
        )
    place[: len(rows)] = rows


def _padded(size: int) -> int:
    return -(-size // 64) * 64
