"""openpi's policy protocol, for its clients at our server and for us at its servers.

    server speaks first:  a map of metadata
    client:               {"observation/image": array, "observation/state": array, "prompt": text}
    server:               {"actions": array (horizon, action_dim), "server_timing": {...}}
                          or a text frame: what went wrong

openpi has no names for joints and no fixed names for cameras: each of its policies has its own
keys, so how ours map to them is said once, in `OpenPiKeys`. It has no place for a plan either, so
real-time chunking does not travel; `remote_client.py` says so instead of dropping it.

Next: `remote_msgpack.py` (the arrays in it).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Camera, Embodiment, Observation, unknown_name
from .remote_messages import MOST_INSTRUCTION
from .remote_msgpack import openpi_array, pieces, read_openpi, short, unpack


@dataclass(frozen=True)
class OpenPiKeys:
    """Our names in openpi's words. A dot nests: `images.left` is `left` in a map `images`."""

    images: dict[str, str]
    """Key of each camera, by our name of it."""
    state: tuple[tuple[str, int], ...]
    """Keys of the state in our order, with how many entries each takes; -1: all that are left."""
    prompt: str = "prompt"
    actions: str = "actions"
    channels_first: bool = False
    """Images travel as (3, height, width), as openpi's ALOHA policies have them."""


def keys_for(cameras: tuple[str, ...], preset: str = "libero") -> OpenPiKeys:
    """The keys of openpi's own policies for cameras of these names, in their order.

    `libero`: `observation/image` for the first that is no wrist camera, `observation/wrist_image`
    for the first that is, `observation/NAME_image` for others. `droid`, `aloha`: as theirs.
    """
    if preset == "aloha":
        state = (("state", -1),)
        return OpenPiKeys({n: f"images.{n}" for n in cameras}, state, channels_first=True)
    if preset not in ("libero", "droid"):
        raise unknown_name("openpi preset", preset, ("libero", "droid", "aloha"))
    droid = preset == "droid"
    wrist = "observation/wrist_image_left" if droid else "observation/wrist_image"
    scene = "observation/exterior_image_1_left" if droid else "observation/image"
    images: dict[str, str] = {}
    for name in cameras:
        key = wrist if "wrist" in name else scene
        images[name] = f"observation/{name}_image" if key in images.values() else key
    if droid:
        return OpenPiKeys(
            images, (("observation/joint_position", 7), ("observation/gripper_position", 1))
        )
    return OpenPiKeys(images, (("observation/state", -1),))


def keys_of_words(words: Mapping[str, str], cameras: tuple[str, ...]) -> OpenPiKeys:
    """Keys from a command line, for cameras of these names.

        preset=droid                           start from those of openpi's own policies
        front=observation/exterior_image_2     the key of the camera `front`
        state=observation/joints:6,observation/gripper:1      in our order; one key alone: all
        prompt=task  actions=action  channels_first=true

    Raises ValueError for a word that is none of these and no camera.
    """
    given = dict(words)
    keys = keys_for(cameras, given.pop("preset", "libero"))
    images = {name: given.pop(name, key) for name, key in keys.images.items()}
    for key in images.values():
        if list(images.values()).count(key) > 1:
            twice = ", ".join(name for name in images if images[name] == key)
            raise ValueError(f"openpi key {key!r} is that of {twice}; give each camera its own")
    first = given.pop("channels_first", str(keys.channels_first).lower())
    if first not in ("true", "false"):
        raise ValueError(f"openpi keys: channels_first is {first!r}; true or false")
    found = OpenPiKeys(
        images,
        _state_keys(given.pop("state")) if "state" in given else keys.state,
        given.pop("prompt", keys.prompt),
        given.pop("actions", keys.actions),
        first == "true",
    )
    for word in given:
        others = ("preset", "state", "prompt", "actions", "channels_first")
        raise unknown_name("word or camera in the openpi keys", word, (*cameras, *others))
    return found


def _state_keys(text: str) -> tuple[tuple[str, int], ...]:
    parts = [part.strip().rpartition(":") for part in text.split(",")]
    if len(parts) == 1 and not parts[0][1]:
        return ((text.strip(), -1),)
    for key, _, entries in parts:
        if not key or not entries.isdecimal() or int(entries) < 1:
            raise ValueError(
                f"openpi keys: state={text} does not say how many entries each key takes; give "
                "KEY:ENTRIES,KEY:ENTRIES, or one KEY for all"
            )
    return tuple((key, int(entries)) for key, _, entries in parts)


def openpi_keys(keys: OpenPiKeys | Mapping[str, str] | None, robot: Embodiment) -> OpenPiKeys:
    """The keys for this robot; ValueError if they are not those of its cameras."""
    names = tuple(camera.name for camera in robot.cameras)
    if not isinstance(keys, OpenPiKeys):
        return keys_of_words(keys or {}, names)
    if set(keys.images) != set(names):
        raise ValueError(
            f"the openpi keys name the cameras {sorted(keys.images)}, but {robot.name} has "
            f"{sorted(names)}; give each camera its key"
        )
    return keys


# Our client at a server of openpi's.


def write_observation(observation: Observation, keys: OpenPiKeys) -> list[bytes | memoryview]:
    """The request for this observation, as pieces to send one after the other."""
    message: dict[Any, Any] = {}
    for name, image in observation.images.items():
        if name not in keys.images:
            raise unknown_name("camera", name, keys.images)
        picture = np.moveaxis(image, 2, 0) if keys.channels_first else image
        _put(message, keys.images[name], openpi_array(picture))
    state, start = np.asarray(observation.state, np.float32), 0
    for key, entries in keys.state:
        stop = len(state) if entries < 0 else start + entries
        _put(message, key, openpi_array(state[start:stop]))
        start = stop
    if start != len(state):
        raise ValueError(
            f"the state has {len(state)} entries, the openpi keys place {start}: {keys.state}"
        )
    _put(message, keys.prompt, observation.instruction)
    return pieces(message)


def read_actions(data: bytes | str, keys: OpenPiKeys) -> Float[np.ndarray, "horizon action_dim"]:
    """The chunk in a server's answer. Raises ValueError if there is none: also for the text frame
    by which openpi's servers say that they failed."""
    if isinstance(data, str):
        lines = data.strip().splitlines()
        raise ValueError(f"the openpi server failed: {lines[-1][:500] if lines else 'no reason'}")
    found = read_openpi(unpack(data), "answer")
    actions = _get(found, keys.actions, "answer")
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind not in "fiu":
        raise ValueError(f"answer: {keys.actions} is {short(actions)}; expected (horizon, entries)")
    return actions.astype(np.float32)


# openpi's client at our server.


def read_observation(
    data: bytes | bytearray | memoryview, keys: OpenPiKeys, robot: Embodiment, noise_seed: int
) -> Observation:
    """The observation in a client's request; ValueError if it is not of `robot`."""
    message = read_openpi(unpack(data), "observation")
    images = {
        camera.name: _image(_get(message, keys.images[camera.name], "observation"), camera)
        for camera in robot.cameras
    }
    parts = [
        _state_part(_get(message, key, "observation"), key, entries) for key, entries in keys.state
    ]
    state = np.concatenate(parts)
    if len(state) != robot.state_dim:
        raise ValueError(
            f"observation: the state has {len(state)} entries; this policy was trained on "
            f"{robot.state_dim}: {', '.join(robot.state_names)}"
        )
    words = _get(message, keys.prompt, "observation")
    if not isinstance(words, str) or len(words) > MOST_INSTRUCTION:
        raise ValueError(
            f"observation: {keys.prompt} is {short(words)}; text of up to {MOST_INSTRUCTION}"
        )
    return Observation(images, state, words, noise_seed)


def write_actions(
    chunk: Float[np.ndarray, "horizon action_dim"], keys: OpenPiKeys, timing_ms: dict[str, float]
) -> list[bytes | memoryview]:
    answer: dict[Any, Any] = {}
    _put(answer, keys.actions, openpi_array(chunk))
    answer["server_timing"] = timing_ms
    return pieces(answer)


def metadata(keys: OpenPiKeys, robot: Embodiment, policy: str, horizon: int) -> dict[str, Any]:
    """What an openpi client is told on connecting: all it needs to ask this policy."""
    return {
        "policy": policy,
        "robot": robot.name,
        "control_hz": robot.control_hz,
        "action_horizon": horizon,
        "action_names": list(robot.action_names),
        "action_meaning": robot.action_meaning,
        "state_keys": [list(entry) for entry in keys.state],
        "state_names": list(robot.state_names),
        "prompt_key": keys.prompt,
        "actions_key": keys.actions,
        "image_shapes": {
            keys.images[camera.name]: [camera.height, camera.width, 3] for camera in robot.cameras
        },
    }


def _put(message: dict[Any, Any], key: str, value: Any) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        message = message.setdefault(folder, {})
    message[last] = value


def _get(message: Any, key: str, where: str) -> Any:
    for part in key.split("."):
        if not isinstance(message, dict):
            raise ValueError(f"{where}: expected a map around {part!r}, got {short(message)}")
        if part not in message:
            there = sorted(short(name) for name in message)
            raise ValueError(f"{where}: no key {part!r}; there are {', '.join(there) or 'none'}")
        message = message[part]
    return message


def _image(value: Any, camera: Camera) -> np.ndarray:
    expected = (camera.height, camera.width, 3)
    if isinstance(value, np.ndarray) and value.shape == (3, *expected[:2]) != expected:
        value = np.moveaxis(value, 0, 2)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape != expected:
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else short(value)
        raise ValueError(
            f"observation: camera {camera.name} gave {got}; this policy was trained on uint8 "
            f"{expected}"
        )
    return value


def _state_part(value: Any, key: str, entries: int) -> np.ndarray:
    if not isinstance(value, int | float | list | np.ndarray | np.generic) or isinstance(
        value, bool
    ):
        raise ValueError(f"observation: {key} is {short(value)}; expected numbers")
    if isinstance(value, list) and not all(isinstance(item, int | float) for item in value):
        raise ValueError(f"observation: {key} holds something other than numbers")
    part = np.asarray(value, np.float32).reshape(-1)
    if entries >= 0 and len(part) != entries:
        raise ValueError(f"observation: {key} has {len(part)} entries; expected {entries}")
    return part
