"""The far side of `envs/remote_scene.py`: a simulator under an interpreter of its own.

Started as `PYTHON remote_worker.py SUITE_FILE TASK`. It runs on Python 3.8 or later with numpy and
whatever the suite needs, and imports nothing of Ulna, so both files can be carried into a container
alone. SUITE_FILE has a function `make(task)` that gives a scene (`Scene` in `envs/foreign_env.py`).

A message is two little-endian uint32 (bytes of the header, bytes of the arrays), a header in JSON,
then the raw bytes of the arrays that the header lists as [name, dtype, shape]. Requests and answers
alternate; the first message is the worker's greeting. No pickle anywhere.

This file must stay within the syntax of Python 3.8.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    # The folder of this file holds modules of Ulna (`task`, `video`, ...) that the imports of the
    # foreign simulator must not find.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]

import numpy as np

PROTOCOL = 1
HEADER = struct.Struct("<II")
MOST_BYTES = 1 << 30
"""A longer message means that something else wrote into the line."""


def write_message(line: Any, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Send a header and arrays."""
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in packed.items()]
    text = json.dumps({**header, "arrays": listed}).encode("utf-8")
    body = b"".join(a.tobytes() for a in packed.values())
    left = memoryview(HEADER.pack(len(text), len(body)) + text + body)
    while left:
        left = left[line.write(left) :]
    line.flush()


def read_message(
    read: Callable[[int], bytes],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Receive one; `read(n)` gives exactly n bytes or raises EOFError."""
    header_size, body_size = HEADER.unpack(read(HEADER.size))
    if header_size + body_size > MOST_BYTES:
        size = header_size + body_size
        raise ValueError(f"a message of {size} bytes; something else wrote into the line")
    header = json.loads(read(header_size).decode("utf-8"))
    body = memoryview(read(body_size))
    arrays, start = {}, 0
    for name, dtype, shape in header.pop("arrays"):
        kind = np.dtype(str(dtype))
        if kind.hasobject:
            raise ValueError(f"array {name!r} has dtype {dtype}; only plain numbers travel")
        count = int(np.prod(shape, dtype=np.int64))
        stop = start + count * kind.itemsize
        arrays[name] = np.frombuffer(body[start:stop], kind).reshape(shape).copy()
        start = stop
    if start != body_size:
        raise ValueError(f"a message of {body_size} array bytes announced {start}")
    return header, arrays


def load_suite(path: str) -> Any:
    """The suite's file as a module; it may import files beside it as `.name`."""
    folder, file = os.path.split(os.path.abspath(path))
    package = types.ModuleType("remote_suites")
    package.__path__ = [folder]
    sys.modules["remote_suites"] = package
    return importlib.import_module("remote_suites." + os.path.splitext(file)[0])


def snapshot(scene: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All that can be read after a step, so that one answer carries it."""
    header = {
        "time_s": float(scene.time_s()),
        "success": bool(scene.success()),
        "outcome": str(scene.outcome()),
    }
    arrays = {
        "state": np.asarray(scene.state(), np.float64),
        "joints": np.asarray(scene.joints(), np.float64),
        "simulator_state": np.asarray(scene.simulator_state(), np.float64),
    }
    return header, arrays


def answer(
    scene: Any, request: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Do what a request asks for."""
    wish = request["do"]
    if wish == "render":
        size = int(request["height"]), int(request["width"])
        frame = scene.render(request["camera"], size[0], size[1], request["profile"])
        return {}, {"frame": np.asarray(frame, np.uint8)}
    if wish == "expert_action":
        return {}, {"action": np.asarray(scene.expert_action(), np.float64)}
    if wish == "reset":
        scene.reset(int(request["seed"]))
    elif wish == "step":
        scene.step(arrays["action"])
    elif wish == "restore":
        scene.restore(arrays["simulator_state"])
    else:
        raise ValueError(f"unknown request {wish!r}")
    return snapshot(scene)


def main(suite: str, task: str) -> None:
    """Serve until the line closes."""
    # Libraries that print, or ask `input()`, must not meet the line: it moves to private numbers,
    # what is printed goes to stderr, and questions find an end of file.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def read(size: int) -> bytes:
        data = requests.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def failure(error: Exception) -> dict[str, Any]:
        return {
            "error": f"{type(error).__name__}: {error}",
            "kind": type(error).__name__,
            "traceback": traceback.format_exc(),
        }

    about = {"protocol": PROTOCOL, "python": sys.version.split()[0], "numpy": np.__version__}
    try:
        scene = load_suite(suite).make(task)
    except Exception as error:  # whatever it is, the other side must be told
        write_message(answers, {**about, **failure(error)}, {})
        return
    write_message(answers, about, {})
    try:
        while True:
            request, arrays = read_message(read)
            try:
                header, reply = answer(scene, request, arrays)
            except Exception as error:  # likewise
                header, reply = failure(error), {}
            write_message(answers, header, reply)
    except (EOFError, BrokenPipeError):
        pass  # the other side closed the line or is gone
    finally:
        scene.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
