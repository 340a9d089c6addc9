"""Sketches against numpy on the concatenated data: bound, merges in any order, their JSON."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ulna.datasets.quantile_sketch import ALPHA, FLOOR, StreamSketch

QS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)

numbers = st.one_of(
    st.floats(-10, 10, width=32),
    st.floats(-1e100, 1e100),
    st.integers(-5, 5).map(float),
    st.sampled_from((0.0, -0.0, 1e-300, 5e-324, -FLOOR, FLOOR, 1e-13, 1.0, np.nextafter(2.0, 0))),
)
parts = st.lists(
    st.integers(1, 30).flatmap(lambda rows: arrays(np.float64, (rows, 2), elements=numbers)),
    min_size=1,
    max_size=5,
)


def assert_within_bound(sketch: StreamSketch, rows: np.ndarray) -> None:
    """The bound as the module states it, from the sorted rows themselves."""
    rows = np.asarray(rows, np.float64)
    ordered = np.sort(rows, axis=0)
    for q in QS:
        place = q * (len(rows) - 1)
        below = int(np.floor(place))
        above = min(below + 1, len(rows) - 1)
        share = place - below
        sizes = (1 - share) * np.abs(ordered[below]) + share * np.abs(ordered[above])
        off = np.abs(sketch.quantile(q) - np.quantile(rows, q, axis=0))
        assert (off <= ALPHA * sizes + FLOOR).all(), (q, off, sizes)


@settings(deadline=None, max_examples=150)
@given(parts, st.randoms())
def test_merged_in_any_order_within_the_bound(blocks, random):
    rows = np.concatenate(blocks)
    sketches = [StreamSketch.of(block) for block in blocks]
    random.shuffle(sketches)
    total = StreamSketch.of(np.empty((0, 2)))
    for sketch in sketches:
        total = total.merge(sketch) if random.random() < 0.5 else sketch.merge(total)
    assert_within_bound(total, rows)
    whole = StreamSketch.of(rows)
    np.testing.assert_array_equal(total._keys, whole._keys)
    np.testing.assert_array_equal(total._counts, whole._counts)
    for q in QS:  # the counts are the same, so the quantiles are, to the last bit
        np.testing.assert_array_equal(total.quantile(q), whole.quantile(q))
    np.testing.assert_array_equal(total.min, rows.min(0))
    np.testing.assert_array_equal(total.max, rows.max(0))
    scale = np.abs(rows).max(0) + 1e-300
    np.testing.assert_allclose(total.mean / scale, rows.mean(0) / scale, atol=1e-13)
    np.testing.assert_allclose(total.std / scale, rows.std(0) / scale, atol=1e-7)


@pytest.mark.parametrize("kind", ["normal", "cauchy", "lognormal", "integers", "mostly_zero"])
def test_large_data_of_each_kind(kind: str):
    random = np.random.default_rng(3)
    shape = (40_000, 3)
    rows = {
        "normal": lambda: random.normal(0.3, 2, shape),
        "cauchy": lambda: random.standard_cauchy(shape),
        "lognormal": lambda: -random.lognormal(0, 4, shape),
        "integers": lambda: random.integers(-1000, 1000, shape),
        "mostly_zero": lambda: random.normal(size=shape) * (random.random(shape) < 0.1),
    }[kind]()
    blocks = np.array_split(rows, 37)
    sketch = StreamSketch.merged(StreamSketch.of(block) for block in blocks)
    assert_within_bound(sketch, rows)
    np.testing.assert_allclose(sketch.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sketch.std, rows.std(0), rtol=1e-12)


def test_neighbours_of_two_signs_are_interpolated_between_both():
    """Relative error cannot be had where large values of two signs cancel; the bound says so."""
    rows = np.array([[-1000.9], [-1000.7], [1000.2], [1000.9]])
    estimate, exact = StreamSketch.of(rows).quantile(0.5)[0], -0.25
    assert np.quantile(rows, 0.5) == pytest.approx(exact)
    assert abs(estimate - exact) <= ALPHA * 1000.5


def test_a_large_offset_costs_no_digits_of_the_spread():
    rows = 1.7e9 + np.random.default_rng(0).normal(0, 1e-3, (5000, 1))
    sketch = StreamSketch.merged(StreamSketch.of(block) for block in np.array_split(rows, 9))
    # Numbers of this size are 2e-7 apart; the mean of squares would lose everything.
    np.testing.assert_allclose(sketch.std, np.std(rows - 1.7e9, axis=0), rtol=1e-4)


def test_a_constant_is_exact():
    sketch = StreamSketch.of(np.full((7, 1), 0.1))
    assert sketch.quantile(0.5) == sketch.mean == 0.1
    assert sketch.std == 0


@settings(deadline=None, max_examples=50)
@given(parts)
def test_json_round_trip(blocks):
    sketch = StreamSketch.merged(StreamSketch.of(block) for block in blocks)
    again = StreamSketch.from_json(json.loads(json.dumps(sketch.to_json())))
    for name in ("mean", "m2", "min", "max", "_keys", "_counts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sketch, name))
    assert again.count == sketch.count


def test_many_of_one_value_survive_the_json():
    half = StreamSketch.of(np.ones((70_000, 1)))
    again = StreamSketch.from_json(half.merge(half).to_json())
    assert again.count == 140_000 and again._counts.tolist() == [140_000]
    empty = StreamSketch.from_json(StreamSketch.of(np.empty((0, 4))).to_json())
    assert empty.count == 0 and empty.dims == 4


def test_buckets_of_a_stream_take_few_bytes():
    rows = np.random.default_rng(0).normal(size=(300, 15))
    assert len(StreamSketch.of(rows).packed_buckets()) < 2 * rows.size


def test_refusals():
    rows = np.zeros((4, 2))
    rows[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2, column 1 is nan"):
        StreamSketch.of(rows)
    empty = StreamSketch.of(np.empty((0, 2)))
    with pytest.raises(ValueError, match="no rows has no quantiles"):
        empty.quantile(0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        StreamSketch.of(np.zeros((1, 2))).quantile(1.5)
    with pytest.raises(ValueError, match="sketches of 2, 3 columns"):
        empty.merge(StreamSketch.of(np.zeros((1, 3))))
    data = StreamSketch.of(np.ones((3, 2))).to_json()
    with pytest.raises(ValueError, match="parts disagree"):
        StreamSketch.from_json({**data, "count": 4})
    with pytest.raises(ValueError, match="not a sketch"):
        StreamSketch.from_json({**data, "buckets": data["buckets"][:-4]})
