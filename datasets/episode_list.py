"""Episodes and cameras as people write them: `0,3-5`, `agentview:224x224`."""

import re
from collections.abc import Sequence

from .schema import Camera
from .store import Store


def parse_episodes(text: str | None, store: Store) -> list[int] | None:
    """Indices into `store.episodes`; None stays None (all).

    Raises ValueError that says what was understood and how many episodes there are.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(
                f"{part!r} in {text!r} is not an episode such as 4 or a range such as 3-5; "
                f"{store.location} holds {len(store.episodes)}, counted from 0"
            )
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return [int(index) for index in store.choose(found)]


def parse_cameras(texts: Sequence[str]) -> tuple[Camera, ...]:
    """Cameras from `name:WIDTHxHEIGHT`. Raises ValueError that says what was expected."""
    cameras = []
    for text in texts:
        match = re.fullmatch(r"([^:]+):(\d+)x(\d+)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a camera such as agentview:224x224 (width x height)")
        cameras.append(Camera(match[1], int(match[3]), int(match[2])))
    return tuple(cameras)
