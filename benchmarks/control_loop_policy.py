"""The dummy policy of control_loop.py: a fixed amount of work, the same on all sides."""

import functools
import time
from collections.abc import Callable

import numpy as np

CHUNK, ACTION_DIM = 50, 4
CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 480, 640


def work(rounds: int) -> None:
    """Products of matrices, which leave Python's lock to others, as a network on a CPU does."""
    matrix = np.full((192, 192), 1e-3, np.float32)
    out = np.empty_like(matrix)
    for _ in range(rounds):
        np.matmul(matrix, matrix, out=out)


def rounds_for(seconds: float) -> int:
    """How many rounds take about so long here and now."""
    rounds, took_s = 64, 0.0
    while took_s < 0.1:
        rounds *= 2
        start = time.perf_counter()
        work(rounds)
        took_s = time.perf_counter() - start
    return max(1, round(rounds * seconds / took_s))


def make_act(rounds: int) -> Callable[..., np.ndarray]:
    """For our inference process."""
    return functools.partial(_act, rounds, np.full((CHUNK, ACTION_DIM), 0.1, np.float32))


def _act(rounds: int, chunk: np.ndarray, observation: object) -> np.ndarray:
    work(rounds)
    return chunk
