"""Do the frames of a camera show anything, and do they change while the robot moves?

JPEG frames are compared as they are stored, and only some are decoded.

Next: `quality.py`, which calls these for an episode of a store.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, UInt8

from .image_codec import EncodedFrames, Jpeg, decode_frames
from .problem import Problem
from .quality_times import MINIMUM_STEPS, REPEATED_SHARE, stretches

FROZEN_S = 0.3
"""The picture is the same while the robot moves for this long: 9 frames at 30 Hz. Sensor noise
alone changes some pixel, and a camera that hangs does so for longer."""
DARK = 20
"""Of 255: a frame whose brightest pixels (99th percentile) are darker shows nothing."""
BRIGHT = 250
"""Of 255: such a pixel is burnt out."""
OVEREXPOSED_SHARE = 0.8
"""Share of burnt-out pixels; a white table in the picture is less."""
FLAT = 1.5
"""Standard deviation, of 255, of all pixels of a frame: below it, it is one flat colour (a lost
signal is green, grey or blue), for a camera's noise alone is as much."""
LOOKED_AT = 48
"""JPEG frames decoded per episode, evenly spread; stretches of bad exposure are longer than the
steps between them."""
TINY_SHARE = 0.3
"""JPEG frames smaller than this share of the median size are decoded too: so is what is empty."""
EMPTY_DEPTH_SHARE = 0.98
"""Share of pixels without depth from which on a frame is of no use."""
_BLOCK = 32
"""Frames decoded at a time, which bounds memory."""


@dataclass(frozen=True)
class FrameFacts:
    """What was measured of one camera's frames."""

    same: Bool[np.ndarray, " intervals"]
    """Whether each frame equals the next."""
    looked_at: np.ndarray
    """Indices of the frames that were decoded."""
    dark: Bool[np.ndarray, " looked_at"]
    overexposed: Bool[np.ndarray, " looked_at"]
    flat: Bool[np.ndarray, " looked_at"]


def frame_facts(encoded: EncodedFrames) -> FrameFacts:
    """Compare and look at the frames of an episode."""
    if isinstance(encoded.codec, Jpeg):
        # Equal pictures encode to equal bytes.
        same = np.array([a == b for a, b in pairwise(encoded.chunks)], bool)
        sizes = np.array([len(chunk) for chunk in encoded.chunks])
        chosen = np.zeros(encoded.steps, bool)
        chosen[np.linspace(0, encoded.steps - 1, min(LOOKED_AT, encoded.steps)).astype(int)] = True
        tiny = np.flatnonzero(sizes < TINY_SHARE * np.median(sizes))
        chosen[tiny[:: max(1, len(tiny) // LOOKED_AT)]] = True
        looked_at = np.flatnonzero(chosen)
        verdicts = []
        for block in np.array_split(looked_at, -(-len(looked_at) // _BLOCK)):
            frames = np.empty((len(block), encoded.height, encoded.width, 3), np.uint8)
            for frame, index in enumerate(block):
                decode_frames(encoded.codec, encoded.chunks[index], frames[frame : frame + 1])
            verdicts.append(_exposure(frames))
        return FrameFacts(same, looked_at, *np.concatenate(verdicts, axis=1))
    same_parts, verdicts, last = [], [], None
    size = encoded.codec.frames_per_chunk
    per_block = max(1, _BLOCK // size)
    for first in range(0, len(encoded.chunks), per_block):
        steps = min(per_block * size, encoded.steps - first * size)
        chunks = encoded.chunks[first : first + per_block]
        part = EncodedFrames(encoded.codec, steps, encoded.height, encoded.width, chunks)
        frames = part.decode()
        joined = frames if last is None else np.concatenate([last, frames])
        same_parts.append((joined[1:] == joined[:-1]).reshape(len(joined) - 1, -1).all(1))
        verdicts.append(_exposure(frames))
        last = frames[-1:]
    exposure = np.concatenate(verdicts, axis=1)
    return FrameFacts(np.concatenate(same_parts), np.arange(encoded.steps), *exposure)


def check_frames(
    facts: FrameFacts, moves: Bool[np.ndarray, " intervals"], control_hz: float, stream: str
) -> list[Problem]:
    """Frozen, repeated, black, overexposed and flat frames. `moves`: where the robot moved."""
    problems = []
    bad = (
        (facts.dark, "are black"),
        (facts.overexposed & ~facts.dark, "are overexposed"),
        (facts.flat & ~facts.dark & ~facts.overexposed, "show one flat colour"),
    )
    for mask, what in bad:
        if mask.any():
            found = facts.looked_at[mask]
            problems.append(
                Problem(
                    "warning",
                    f"{int(mask.sum())} of {len(mask)} frames looked at {what}, first step "
                    f"{int(found[0])}, last {int(found[-1])}",
                    stream=stream,
                    start=int(found[0]),
                    stop=int(found[-1]) + 1,
                )
            )
    if len(facts.same) + 1 < MINIMUM_STEPS:
        return problems
    stuck = facts.same & moves
    runs = [
        (start, stop)
        for start, stop in stretches(facts.same)
        # At rest a rendered picture may well be the same.
        if stuck[start:stop].sum() >= max(3, FROZEN_S * control_hz)
    ]
    if runs:
        start, stop = max(runs, key=lambda run: run[1] - run[0])
        frozen = sum(int(stuck[a:b].sum()) for a, b in runs)
        problems.append(
            Problem(
                "warning",
                f"the picture stands still while the robot moves for {frozen} of "
                f"{len(facts.same) + 1} steps; the longest time from step {start} to {stop} "
                f"({(stop - start) / control_hz:.2g} s)",
                stream=stream,
                start=start,
                stop=stop + 1,
            )
        )
    elif moves.sum() >= MINIMUM_STEPS and stuck.sum() > REPEATED_SHARE * moves.sum():
        share = stuck.sum() / moves.sum()
        problems.append(
            Problem(
                "warning",
                f"{100 * share:.0f} % of the frames taken while the robot moves are the frame "
                f"before once more: the camera gives about {control_hz * (1 - share):.3g} frames "
                f"per second for {control_hz:g} steps",
                stream=stream,
            )
        )
    return problems


def check_depth(frames: np.ndarray, steps: np.ndarray, stream: str) -> list[Problem]:
    """Depth frames (of the given steps) without depth."""
    empty = (frames == 0).reshape(len(frames), -1).mean(1) > EMPTY_DEPTH_SHARE
    if not empty.any():
        return []
    first = int(steps[np.argmax(empty)])
    message = f"{int(empty.sum())} of {len(empty)} frames looked at hold no depth, first {first}"
    return [Problem("warning", message, stream=stream, start=first, stop=first + 1)]


def _exposure(frames: UInt8[np.ndarray, "frames height width 3"]) -> Bool[np.ndarray, "3 frames"]:
    """Dark, overexposed, flat. A sixteenth of the pixels tells as much as all of them."""
    step = 4 if min(frames.shape[1:3]) >= 32 else 1
    pixels = frames[:, ::step, ::step].reshape(len(frames), -1, 3)
    brightest = pixels.max(2)
    dark = np.quantile(brightest, 0.99, axis=1, method="higher") < DARK
    burnt = (pixels.min(2) >= BRIGHT).mean(1) > OVEREXPOSED_SHARE
    flat = pixels.std(1).max(1) < FLAT
    return np.stack([dark, burnt, flat])
