"""Films of episodes, drawn afterwards from their simulator states.

Next: `envs/rollout.py` (`EpisodeResult.states`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from jaxtyping import Float, UInt8

from .env import Env


def film(
    env: Env,
    states: Float[np.ndarray, "states simulator_state_dim"],
    instruction: str,
    cameras: Sequence[str] = ("front", "wrist"),
    size: int = 256,
    profile: str | None = None,
) -> UInt8[np.ndarray, "states size width 3"]:
    """One frame per state, cameras side by side; `profile` None draws as the policy saw it."""
    frames = []
    for state in states:
        env.restore(state, instruction)
        views = [env.render(camera, size, size, profile) for camera in cameras]
        frames.append(np.concatenate(views, axis=1))
    return np.stack(frames)


def write_mp4(
    path: Path | str, frames: Iterable[UInt8[np.ndarray, "height width 3"]], fps: float | int
) -> None:
    """H.264 that every browser plays (yuv420p, index in front). Sides must be even."""
    path = Path(path)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for frame in frames:
            height, width, _ = frame.shape
            if stream is None:
                if height % 2 or width % 2:
                    raise ValueError(
                        f"frames of {width} x {height} pixels do not fit H.264; use even sides"
                    )
                stream = cast(Any, container.add_stream("libx264", rate=round(fps)))
                stream.width, stream.height = width, height
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "20", "preset": "veryfast"}
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError(f"no frames for {path}; give at least one")
        container.mux(stream.encode())
