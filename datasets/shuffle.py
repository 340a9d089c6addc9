"""The order in which an epoch visits its windows, without a list of them.

A permutation of a hundred million windows would take 800 MB and a second per epoch. Here the place
of one window is computed from (seed, epoch, position) alone, so the order needs no memory, resumes
anywhere, and every rank computes its own part.

        random      a Feistel network over the next power of four, walked until it lands inside
                    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002: the cycle-
                    walking cipher): each position gives another window
        blocks      neighbours together: blocks of consecutive windows in random order, and all
                    windows of a pool of blocks shuffled, so that what is decoded (or fetched)
                    once is used wholly while it is there

Next: `loader.py`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 6


@dataclass(frozen=True)
class RandomOrder:
    """A permutation of `range(size)` that depends on seed and epoch."""

    size: int
    seed: int
    epoch: int

    def at(self, start: int, stop: int) -> Int64[np.ndarray, " positions"]:
        """Windows at positions `start:stop` of the epoch."""
        half = max(1, (max(self.size - 1, 1).bit_length() + 1) // 2)
        keys = _keys(self.seed, self.epoch)
        values = np.arange(start, stop, dtype=np.uint64)
        values = _feistel(values, half, keys)
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            walked = _feistel(values[outside], half, keys)
            values[outside] = walked
            outside = outside[walked >= self.size]
        return values.astype(np.int64)


class BlockOrder:
    """Blocks of consecutive windows in random order, shuffled within pools of blocks."""

    def __init__(
        self,
        block_starts: Int64[np.ndarray, " blocks"],
        size: int,
        pool: int,
        seed: int,
        epoch: int,
    ) -> None:
        """`block_starts`: first window of each block, ascending from 0. `pool`: blocks that are
        shuffled together."""
        self.seed, self.epoch, self.pool = seed, epoch, pool
        ends = np.append(block_starts[1:], size)
        random = np.random.default_rng((seed, epoch))
        self.blocks = random.permutation(len(block_starts))
        """Blocks in the order of this epoch; pool `p` is `blocks[p * pool : (p + 1) * pool]`."""
        self._starts, self._ends = block_starts[self.blocks], ends[self.blocks]
        lengths = np.cumsum(self._ends - self._starts)
        self._pool_ends = lengths[
            np.minimum(np.arange(pool - 1, len(lengths) + pool - 1, pool), len(lengths) - 1)
        ]
        self._windows = lru_cache(2)(self._of_pool)

    def at(self, start: int, stop: int) -> Int64[np.ndarray, " positions"]:
        """Windows at positions `start:stop` of the epoch."""
        parts = []
        while start < stop:
            pool = self.pool_at(start)
            begin = int(self._pool_ends[pool - 1]) if pool else 0
            end = min(stop, int(self._pool_ends[pool]))
            parts.append(self._windows(pool)[start - begin : end - begin])
            start = end
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def pool_at(self, position: int) -> int:
        """The pool that the window at this position belongs to."""
        return int(np.searchsorted(self._pool_ends, position, side="right"))

    @property
    def pools(self) -> int:
        return len(self._pool_ends)

    def blocks_of(self, pool: int) -> Int64[np.ndarray, " blocks"]:
        """The blocks of a pool."""
        return self.blocks[pool * self.pool : (pool + 1) * self.pool]

    def _of_pool(self, pool: int) -> Int64[np.ndarray, " windows"]:
        part = slice(pool * self.pool, (pool + 1) * self.pool)
        pairs = zip(self._starts[part].tolist(), self._ends[part].tolist(), strict=True)
        windows = np.concatenate([np.arange(start, end) for start, end in pairs])
        return np.random.default_rng((self.seed, self.epoch, pool)).permutation(windows)


@lru_cache(8)
def _keys(seed: int, epoch: int) -> UInt64[np.ndarray, " rounds"]:
    return np.random.default_rng((seed, epoch)).integers(0, 2**64, _ROUNDS, np.uint64)


def _feistel(
    values: UInt64[np.ndarray, " n"], half: int, keys: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " n"]:
    """A permutation of `range(4**half)`: swap the halves, one of them mixed with a key."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << bits) | right


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
