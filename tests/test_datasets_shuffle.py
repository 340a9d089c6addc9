"""The orders of an epoch: every window once, different each time, and no pattern in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.datasets.shuffle import BlockOrder, RandomOrder

SIZES = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 4096, 5000]


def chi_square(counts: np.ndarray) -> float:
    """How far counts are from equal ones, in standard deviations of what chance does."""
    expected = counts.sum() / counts.size
    value = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    return (value - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", SIZES)
def test_random_order_is_a_permutation(size: int):
    order = RandomOrder(size, seed=3, epoch=1).at(0, size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**31), cut=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_any_part_is_the_part_of_the_whole(size: int, seed: int, cut: float):
    order, middle = RandomOrder(size, seed, epoch=0), int(cut * size)
    whole = order.at(0, size)
    assert len(np.unique(whole)) == size
    np.testing.assert_array_equal(order.at(middle, size), whole[middle:])


def test_a_part_of_a_hundred_million_costs_nothing():
    order = RandomOrder(10**8 + 7, seed=0, epoch=0)
    part = order.at(5 * 10**7, 5 * 10**7 + 10_000)
    assert len(np.unique(part)) == 10_000
    assert 0 <= part.min() and part.max() < 10**8 + 7
    # The tail of the range is reached as often as the rest.
    counts, _ = np.histogram(part, 50, (0, 10**8 + 7))
    assert abs(chi_square(counts)) < 5


def test_seed_and_epoch_change_the_order():
    orders = [
        RandomOrder(1000, seed, epoch).at(0, 1000) for seed in (0, 1, 2) for epoch in (0, 1, 2)
    ]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            # Two random permutations agree in one place on average.
            assert (one == other).sum() < 10
    np.testing.assert_array_equal(orders[4], RandomOrder(1000, 1, 1).at(0, 1000))


@pytest.mark.parametrize("size", [64, 100, 1000])
def test_random_order_looks_random(size: int):
    seeds = 300
    orders = np.stack([RandomOrder(size, seed, epoch=0).at(0, size) for seed in range(seeds)])
    bins = 8
    # Where a window comes, over seeds: every eighth of the windows in every eighth of the places.
    place = np.broadcast_to(np.arange(size) * bins // size, orders.shape)
    table = np.zeros((bins, bins))
    np.add.at(table, (place.ravel(), (orders * bins // size).ravel()), 1)
    sizes = np.bincount(np.arange(size) * bins // size, minlength=bins)
    expected = np.outer(sizes, sizes) * seeds / size
    value = float(((table - expected) ** 2 / expected).sum())
    freedom = (bins - 1) ** 2
    assert value < freedom + 6 * np.sqrt(2 * freedom)
    # Neighbours in the order: what follows a window is anything, not its own neighbour.
    steps = np.diff(orders, axis=1)
    counts = np.bincount((steps.ravel() % size) * bins // size, minlength=bins)
    follows = np.bincount(np.arange(1, size) * bins // size, minlength=bins)
    expected = follows * (steps.size / (size - 1))
    assert float(((counts - expected) ** 2 / expected).sum()) < bins + 6 * np.sqrt(2 * bins)
    # The first window of the epoch, over seeds.
    first = np.bincount(orders[:, 0] * bins // size, minlength=bins)
    expected = sizes * seeds / size
    assert float(((first - expected) ** 2 / expected).sum()) < bins + 6 * np.sqrt(2 * bins)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    pool=st.integers(1, 9),
    seed=st.integers(0, 1000),
    cut=st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_block_order_visits_all_windows_once_and_pools_hold_their_blocks(
    lengths: list[int], pool: int, seed: int, cut: float
):
    ends = np.cumsum(lengths)
    starts, size = ends - lengths, int(ends[-1])
    order = BlockOrder(starts, size, pool, seed, epoch=2)
    whole = order.at(0, size)
    np.testing.assert_array_equal(np.sort(whole), np.arange(size))
    assert order.pools == -(-len(lengths) // pool)
    np.testing.assert_array_equal(np.sort(order.blocks), np.arange(len(lengths)))
    begin = 0
    for number in range(order.pools):
        blocks = order.blocks_of(number)
        held = np.concatenate([np.arange(starts[b], ends[b]) for b in blocks])
        windows = whole[begin : begin + len(held)]
        np.testing.assert_array_equal(np.sort(windows), np.sort(held))
        assert order.pool_at(begin) == number
        assert order.pool_at(begin + len(held) - 1) == number
        begin += len(held)
    middle = int(cut * size)
    np.testing.assert_array_equal(order.at(middle, size), whole[middle:])
    assert len(order.at(middle, middle)) == 0


def test_block_order_changes_with_the_epoch_and_mixes_within_a_pool():
    starts = np.arange(0, 6400, 64)
    first, second = (BlockOrder(starts, 6400, 10, 0, epoch).at(0, 6400) for epoch in (0, 1))
    assert (first == second).sum() < 12
    # Within a pool of ten blocks the next window is in the same block one time in ten.
    same = (np.diff(first // 64) == 0).mean()
    assert 0.07 < same < 0.13
