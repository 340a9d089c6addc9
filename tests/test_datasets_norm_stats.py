"""Statistics against numpy, and their file."""

from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.norm_stats import STD_FLOOR, NormStats, compute_norm_stats, stream_stats
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

ROBOT = synthetic_embodiment()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path) as writer:
        for seed in range(5):
            writer.add_episode(synthetic_episode(ROBOT, seed))
    return Store.open(store.path)


def test_only_the_chosen_episodes_count(store: Store):
    stats = compute_norm_stats(store, [1, 3])
    for name in ("state", "action"):
        parts = [synthetic_episode(ROBOT, seed).streams[name] for seed in (1, 3)]
        rows = np.concatenate(parts).astype(np.float64)
        stream = stats.stream(name)
        assert stream.count == len(rows)
        np.testing.assert_allclose(stream.mean, rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(stream.std, rows.std(0), rtol=1e-12)
        np.testing.assert_array_equal(stream.min, rows.min(0))
        np.testing.assert_array_equal(stream.max, rows.max(0))
        np.testing.assert_allclose(stream.q01, np.quantile(rows, 0.01, axis=0))
        np.testing.assert_allclose(stream.q99, np.quantile(rows, 0.99, axis=0))
    assert stats.source == compute_norm_stats(store, [1, 3]).source
    assert stats.source != compute_norm_stats(store, [1, 2]).source


def test_a_constant_number_gets_the_floor():
    stats = stream_stats(np.full((10, 1), 0.3, np.float32))
    assert stats.std == (STD_FLOOR,)


def test_file_round_trip_and_refusal(store: Store, tmp_path: Path):
    stats = compute_norm_stats(store)
    path = tmp_path / "norm_stats.json"
    stats.save(path)
    assert NormStats.load(path) == stats
    path.write_text(path.read_text().replace('"q99"', '"q98"', 1))
    with pytest.raises(ValueError, match=r"norm_stats\.json\.streams\.\w+.*'q98'.*'q99'"):
        NormStats.load(path)
    with pytest.raises(ValueError, match="Did you mean 'state'"):
        stats.stream("sate")
