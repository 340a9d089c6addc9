"""Mean, spread, range and quantiles of columns in bounded memory, mergeable in any order.

A histogram with buckets of constant relative width (DDSketch, Masson, Rim and Lee, VLDB 2019). The
bucket of a number is read off its float64 bits: exponent and leading 9 bits of the mantissa. No
logarithm is taken, so bucket edges are exact and the same on every machine.

        sign  exponent (11 bits)   mantissa (52 bits)
          |   [------ bucket = these bits ------]|.............  43 bits fall away
                                   [ 9 bits     ]

**Bound.** A bucket [a, b) with a > 0 has b - a <= a * 2**-9. Its middle is at most (b - a) / 2, so
at most a * 2**-10 <= 2**-10 * x away from any x in it; numbers with |x| < FLOOR share one bucket,
given as 0. So each rank's value x_i is known as y_i with |y_i - x_i| <= ALPHA |x_i| + FLOOR.
`quantile(q)` interpolates as numpy's "linear": with h = q (n - 1), i = floor(h), f = h - i it gives
(1-f) y_i + f y_{i+1}, and by the triangle inequality

        |estimate - exact| <= ALPHA * ((1-f) |x_i| + f |x_{i+1}|) + FLOOR

which is ALPHA |exact| + FLOOR unless the two neighbouring values differ in sign. (2**-10 is below
ALPHA = 0.001; what is left covers the rounding of the interpolation.)

Next: `norm_stats.py`.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped

ALPHA = 1e-3
"""Relative error of a quantile (see the bound above)."""
FLOOR = 2.0**-40
"""Numbers nearer to zero than this (a picometre, say) count as zero: keeps noise around zero from
filling one bucket per sample."""

_MANTISSA_BITS = 9
_SHIFT = 52 - _MANTISSA_BITS
_FIRST = int(np.float64(FLOOR).view(np.int64)) >> _SHIFT
_COLUMN_BITS = 21
"""Buckets of one sign are fewer than 2**20, so a column's signed buckets fit in 21 bits."""
_ZERO = 1 << (_COLUMN_BITS - 1)
_COUNT_TYPES = ("<u1", "<u2", "<u4", "<u8")


@dataclass(frozen=True, eq=False)
class StreamSketch:
    """Statistics of the columns of a stream. Merging adds counts, so buckets and quantiles do not
    depend on the order of merges at all, mean and spread only by rounding."""

    count: int
    """Rows seen."""
    mean: Float[np.ndarray, " dims"]
    m2: Float[np.ndarray, " dims"]
    """Sum of squared deviations from the mean."""
    min: Float[np.ndarray, " dims"]
    """Exact; infinity while there are no rows."""
    max: Float[np.ndarray, " dims"]
    _keys: Int64[np.ndarray, " buckets"]
    """Column and bucket of every bucket that is not empty, ascending."""
    _counts: Int64[np.ndarray, " buckets"]

    @property
    def dims(self) -> int:
        return len(self.mean)

    @property
    def std(self) -> Float[np.ndarray, " dims"]:
        """Population standard deviation."""
        return np.sqrt(self.m2 / max(self.count, 1))

    @staticmethod
    def of(rows: Shaped[np.ndarray, "rows dims"]) -> "StreamSketch":
        """The sketch of these rows. Raises ValueError for NaN and infinity."""
        dims = rows.shape[1]
        values = np.ascontiguousarray(rows, np.float64)
        if not len(values):
            nothing, none = np.zeros(dims), np.empty(0, np.int64)
            return StreamSketch(0, nothing, nothing, nothing + np.inf, nothing - np.inf, none, none)
        low, high = values.min(0), values.max(0)
        if not (np.isfinite(low) & np.isfinite(high)).all():
            row, column = (int(number) for number in np.argwhere(~np.isfinite(values))[0])
            raise ValueError(f"row {row}, column {column} is {values[row, column]}: not a number")
        # Deviations from a row of the data: a large common offset costs no digits.
        shifted = values - values[0]
        offset = shifted.mean(0)
        shifted -= offset
        m2 = np.einsum("ij,ij->j", shifted, shifted)
        keys, counts = _histogram(values)
        # Rounding may put the mean of equal numbers outside them.
        mean = np.clip(values[0] + offset, low, high)
        return StreamSketch(len(values), mean, m2, low, high, keys, counts)

    def merge(self, other: "StreamSketch") -> "StreamSketch":
        """The sketch of both rows."""
        return StreamSketch.merged([self, other])

    @staticmethod
    def merged(sketches: Iterable["StreamSketch"]) -> "StreamSketch":
        """The sketch of all rows: one sort for any number of sketches."""
        parts = list(sketches)
        if not parts:
            raise ValueError("no sketches to merge; give at least one (`of` takes zero rows too)")
        if len({part.dims for part in parts}) > 1:
            raise ValueError(
                f"sketches of {', '.join(str(part.dims) for part in parts)} columns cannot be "
                "merged; they describe different streams"
            )
        filled = [part for part in parts if part.count] or parts[:1]
        count, mean, m2 = filled[0].count, filled[0].mean, filled[0].m2
        for part in filled[1:]:
            # Chan, Golub and LeVeque 1979, eq. 2.1.
            total, delta = count + part.count, part.mean - mean
            m2 = m2 + part.m2 + delta**2 * (count * part.count / total)
            mean = mean + delta * (part.count / total)
            count = total
        low = np.minimum.reduce([part.min for part in filled])
        high = np.maximum.reduce([part.max for part in filled])
        keys = np.concatenate([part._keys for part in filled])
        counts = np.concatenate([part._counts for part in filled])
        keys, counts = _summed(keys, counts) if len(filled) > 1 else (keys, counts)
        return StreamSketch(count, np.clip(mean, low, high), m2, low, high, keys, counts)

    def quantile(self, q: float) -> Float[np.ndarray, " dims"]:
        """The `q` quantile of each column, within the bound at the top of this file."""
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Sequence[float]) -> Float[np.ndarray, "qs dims"]:
        if not self.count:
            raise ValueError("a sketch of no rows has no quantiles; add rows first")
        wanted = np.asarray(qs, np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"quantiles {list(qs)}: expected numbers from 0 to 1")
        place = wanted * (self.count - 1)
        below = np.floor(place).astype(np.int64)
        share = (place - below)[:, None]
        above = np.minimum(below + 1, self.count - 1)
        lower, upper = self._value_of(below), self._value_of(above)
        # Smallest and largest value are known exactly, and nothing lies outside them.
        return np.clip(lower + share * (upper - lower), self.min, self.max)

    def _value_of(self, ranks: Int64[np.ndarray, " qs"]) -> Float[np.ndarray, "qs dims"]:
        # Every column holds `count` rows, so rank r of column c is row c * count + r of all.
        everywhere = np.arange(self.dims) * self.count + ranks[:, None]
        buckets = np.searchsorted(np.cumsum(self._counts), everywhere, side="right")
        values = _middle(self._keys[buckets])
        values = np.where(ranks[:, None] == 0, self.min, values)
        return np.where(ranks[:, None] == self.count - 1, self.max, values)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; `from_json` gives the equal sketch."""
        known = {"min": self.min.tolist(), "max": self.max.tolist()} if self.count else {}
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "m2": self.m2.tolist(),
            **known,
            "buckets": self.packed_buckets(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "StreamSketch":
        """Raises ValueError for what `to_json` never writes."""
        try:
            mean = np.array(data["mean"], np.float64)
            keys, counts = _unpack(data["buckets"])
            empty = StreamSketch.of(np.empty((0, len(mean))))
            sketch = StreamSketch(
                int(data["count"]),
                mean,
                np.array(data["m2"], np.float64),
                np.array(data.get("min", empty.min), np.float64),
                np.array(data.get("max", empty.max), np.float64),
                keys,
                counts,
            )
        except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
            raise ValueError(f"not a sketch ({error!r}); compute the statistics again") from error
        columns = np.bincount(keys >> _COLUMN_BITS, counts, sketch.dims)
        shapes = {len(row) for row in (sketch.mean, sketch.m2, sketch.min, sketch.max)}
        if len(shapes) > 1 or len(columns) > sketch.dims or (columns != sketch.count).any():
            raise ValueError("a sketch whose parts disagree; compute the statistics again")
        return sketch

    def packed_buckets(self) -> str:
        """The histogram as text: zlib over differences of keys and counts, base64."""
        parts = []
        for numbers in (np.diff(self._keys, prepend=0), self._counts):
            top = int(numbers.max(initial=0))
            kind = next(k for k in _COUNT_TYPES if top <= np.iinfo(k).max)
            # Bytes of equal weight side by side: most are zero, which zlib makes nothing of.
            planes = numbers.astype(kind).view(np.uint8).reshape(-1, np.dtype(kind).itemsize).T
            parts.append(bytes([_COUNT_TYPES.index(kind)]) + planes.tobytes())
        head = len(self._keys).to_bytes(4, "little")
        return base64.b64encode(zlib.compress(head + b"".join(parts), 9)).decode("ascii")


def _unpack(text: str) -> tuple[np.ndarray, np.ndarray]:
    data = zlib.decompress(base64.b64decode(text, validate=True))
    rows, at, found = int.from_bytes(data[:4], "little"), 4, []
    for _ in range(2):
        size = np.dtype(_COUNT_TYPES[data[at]]).itemsize
        planes = np.frombuffer(data, np.uint8, rows * size, at + 1).reshape(size, rows)
        numbers = np.ascontiguousarray(planes.T).view(_COUNT_TYPES[data[at]]).reshape(rows)
        found.append(numbers.astype(np.int64))
        at += 1 + rows * size
    return np.cumsum(found[0]), found[1]


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and counts of the buckets of `values` (rows, columns)."""
    bits = values.view(np.int64)
    magnitude = ((bits & np.int64(0x7FFF_FFFF_FFFF_FFFF)) >> _SHIFT) - (_FIRST - 1)
    np.maximum(magnitude, 0, out=magnitude)
    signed = np.where(bits < 0, -magnitude, magnitude)
    low = int(signed.min())
    span = int(signed.max()) - low + 1
    columns = values.shape[1]
    signed -= low
    signed += np.arange(columns) * span
    if columns * span <= 4 * signed.size:
        every = np.bincount(signed.ravel(), minlength=columns * span)
        dense = np.flatnonzero(every)
        counts = every[dense]
    else:
        # 32-bit numbers sort twice as fast.
        kind = np.int32 if columns * span < 2**31 else np.int64
        dense, counts = np.unique(signed.astype(kind), return_counts=True)
    column, bucket = np.divmod(dense.astype(np.int64), span)
    return (column << _COLUMN_BITS) + (bucket + low + _ZERO), counts.astype(np.int64)


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts[order], first)


def _middle(keys: np.ndarray) -> np.ndarray:
    """The middle of each bucket; 0 for the one around zero."""
    signed = (keys & ((1 << _COLUMN_BITS) - 1)) - _ZERO
    magnitude = np.abs(signed)
    low = (magnitude + (_FIRST - 1)) << _SHIFT
    middle = (low + (1 << (_SHIFT - 1))).view(np.float64)
    return np.where(magnitude == 0, 0.0, np.sign(signed) * middle)
