"""The messages between our client and our server, and what each must hold to be believed.

    client                                      server
      HTTP upgrade, subprotocol ulna.policy.2,
      Authorization: Bearer TOKEN         -->
                                          <--  Offer      which policies, for which robots
      Hello   which policy, which robot   -->
                                          <--  Welcome    or Refused, and the end
      Ask     observation, numbered       -->
                                          <--  Chunk      or Failed, or Superseded by a newer Ask

The version stands in the subprotocol, so two that do not understand each other part before the
first message. A message is one MessagePack map with a `kind`; unknown keys are refused.

An Ask holds as many observations as the policy sees at once, stacked oldest first: asks come
several control ticks apart, so the server cannot know those between. Version 1 had room for one.

Next: `remote_client.py`, `remote_server.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, Observation, unknown_name
from ..datasets.strict_json import decode, encode
from .remote_msgpack import pieces, read_tensor, short, tensor, unpack
from .remote_pictures import read_frames, write_image

PROTOCOL = 2
SUBPROTOCOL_FAMILY = "ulna.policy."
SUBPROTOCOL = f"{SUBPROTOCOL_FAMILY}{PROTOCOL}"
_MOST_NUMBER = (1 << 63) - 1
MOST_INSTRUCTION = 4096
"""Characters."""
MOST_PLANNED = 4096
"""Actions that may be decided already."""


@dataclass(frozen=True)
class Offered:
    """One policy a server has."""

    embodiments: tuple[Embodiment, ...]
    """Robots it acts for; the first where the client names none."""
    horizon: int
    history: int = 1
    """Observations it sees at once: those of consecutive control ticks."""


@dataclass(frozen=True)
class Offer:
    """Server's first word."""

    policies: dict[str, Offered]
    ulna: str
    """Version of the package, for the reader of a log."""
    kind: Literal["offer"] = "offer"


@dataclass(frozen=True)
class Hello:
    """What the client wants."""

    policy: str = ""
    """Empty: the only one there is."""
    embodiment: Embodiment | None = None
    """The robot it is for; None: the client takes the policy's word for it."""
    realtime: str | None = None
    """How chunks are joined to the plan under way (`Policy.use_realtime`); None: its own way."""
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True)
class Welcome:
    policy: str
    embodiment: Embodiment
    horizon: int
    history: int = 1
    """Observations that each Ask must hold."""
    kind: Literal["welcome"] = "welcome"


@dataclass(frozen=True)
class Refused:
    """For good: asking again cannot help."""

    reason: str
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True)
class Superseded:
    """A newer Ask came before this one was looked at."""

    number: int
    kind: Literal["superseded"] = "superseded"


@dataclass(frozen=True)
class Failed:
    """This one could not be answered; the next may be."""

    number: int
    reason: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True)
class Chunk:
    number: int
    actions: Float[np.ndarray, "horizon action_dim"]
    act_ms: float
    """The policy's own time."""
    wait_ms: float
    """From the Ask's arrival to the policy's beginning: others were before it."""


@dataclass(frozen=True)
class Ask:
    number: int
    """Counts up within a connection."""
    observation: Observation = field(repr=False)


_PLAIN = {"offer": Offer, "hello": Hello, "welcome": Welcome, "refused": Refused,
          "superseded": Superseded, "failed": Failed}  # fmt: skip
Plain = Offer | Hello | Welcome | Refused | Superseded | Failed
Message = Plain | Chunk | Ask


def write(message: Plain | Chunk) -> list[bytes | memoryview]:
    """Any message but Ask (`write_ask`), as pieces to send one after the other."""
    if isinstance(message, Chunk):
        actions = tensor(np.asarray(message.actions, np.float32))
        return pieces(
            {"kind": "chunk", "number": message.number, "actions": actions,
             "act_ms": message.act_ms, "wait_ms": message.wait_ms}
        )  # fmt: skip
    return pieces(encode(message))


def write_ask(
    number: int, observation: Observation, jpeg_quality: int | None = None
) -> list[bytes | memoryview]:
    """Images raw, or as JPEG of that quality (0 to 100)."""
    planned = observation.planned
    return pieces(
        {
            "kind": "ask",
            "number": number,
            "images": {
                name: write_image(image, jpeg_quality) for name, image in observation.images.items()
            },
            "state": tensor(np.asarray(observation.state, np.float32)),
            "instruction": observation.instruction,
            "noise_seed": observation.noise_seed,
            "planned": None if planned is None else tensor(np.asarray(planned, np.float32)),
            "inference_delay": observation.inference_delay,
        }
    )


def read(
    data: bytes | bytearray | memoryview, robot: Embodiment | None = None, history: int = 1
) -> Message:
    """The message in `data`; ValueError if it is none. An Ask must be of `robot` and hold `history`
    observations: nothing of another size is decoded."""
    found = unpack(data)
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind == "ask":
        if robot is None:
            raise ValueError("an ask came before it was said which policy is asked, by a hello")
        return _read_ask(found, robot, history)
    if kind == "chunk":
        return _read_chunk(found)
    if not isinstance(kind, str) or kind not in _PLAIN:
        raise ValueError(
            f"expected a message of {', '.join(_PLAIN)}, ask, chunk; got {short(kind)}"
        )
    try:
        return decode(_PLAIN[kind], found, kind)
    except TypeError as error:  # keys or values of a kind that no dataclass takes
        raise ValueError(f"{kind}: {error}") from error


def number_of(data: bytes | bytearray | memoryview) -> int:
    """Number of a message that was not looked into; ValueError if it has none."""
    found = unpack(data)
    number = found.get("number") if isinstance(found, dict) else None
    return _count(number, "number", _MOST_NUMBER)


def _read_ask(found: dict[str, Any], robot: Embodiment, history: int) -> Ask:
    entries = _entries(
        found, "images", "state", "instruction", "noise_seed", "planned", "inference_delay"
    )
    images, planned, words = entries["images"], entries["planned"], entries["instruction"]
    cameras = {camera.name: camera for camera in robot.cameras}
    if not isinstance(images, dict):
        raise ValueError(f"ask: images is {short(images)}; expected one per camera name")
    for name in images:
        if name not in cameras:
            raise unknown_name("camera", short(name), cameras)
    if not isinstance(words, str) or len(words) > MOST_INSTRUCTION:
        raise ValueError(f"ask: instruction {short(words)}; text of up to {MOST_INSTRUCTION}")
    state = _read_state(entries["state"], history)
    _expect_names(state, robot.state_names, "ask.state")
    if planned is not None:
        planned = _floats(planned, "ask.planned", 2)
        _expect_names(planned, robot.action_names, "ask.planned")
        if len(planned) > MOST_PLANNED:
            raise ValueError(f"ask: {len(planned)} planned actions; at most {MOST_PLANNED}")
    return Ask(
        _count(found["number"], "ask.number", _MOST_NUMBER),
        Observation(
            {name: read_frames(value, cameras[name], history) for name, value in images.items()},
            state,
            words,
            _count(entries["noise_seed"], "ask.noise_seed", _MOST_NUMBER),
            planned,
            _count(entries["inference_delay"], "ask.inference_delay", MOST_PLANNED),
        ),
    )


def _read_chunk(found: dict[str, Any]) -> Chunk:
    entries = _entries(found, "actions", "act_ms", "wait_ms")
    times = [entries["act_ms"], entries["wait_ms"]]
    if not all(isinstance(time, int | float) for time in times):
        raise ValueError(f"chunk: times {short(times)}; expected milliseconds")
    actions = _floats(entries["actions"], "chunk.actions", 2)
    return Chunk(_count(found["number"], "chunk.number", _MOST_NUMBER), actions, *times)


def _entries(found: dict[str, Any], *names: str) -> dict[str, Any]:
    expected = {"kind", "number", *names}
    if set(found) != expected:
        raise ValueError(
            f"{found['kind']}: expected {sorted(expected)}, got {short(sorted(map(str, found)))}"
        )
    return {name: found[name] for name in names}


def _count(value: Any, where: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{where}: {short(value)}; expected a number from 0 to {most}")
    return value


def _floats(value: Any, where: str, dimensions: int) -> np.ndarray:
    array = read_tensor(value, where)
    if array.dtype != np.float32 or array.ndim != dimensions:
        raise ValueError(
            f"{where}: {array.dtype} {array.shape}; expected float32 of {dimensions} dimensions"
        )
    return array


def _read_state(value: Any, history: int) -> np.ndarray:
    if history == 1:
        return _floats(value, "ask.state", 1)
    state = _floats(value, "ask.state", 2)
    if len(state) != history:
        raise ValueError(
            f"ask.state: {len(state)} observations; this policy sees {history} at once"
        )
    return state


def _expect_names(array: np.ndarray, names: tuple[str, ...], where: str) -> None:
    if array.shape[-1] != len(names):
        raise ValueError(
            f"{where}: {array.shape[-1]} entries; expected {len(names)}: {', '.join(names)}"
        )
