"""Statistics against numpy, merged against all at once, and their file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets import norm_stats
from ulna.datasets.norm_stats import (
    STD_FLOOR,
    NormStats,
    compute_norm_stats,
    kept_norm_stats,
    sketch_rows,
    stream_stats,
)
from ulna.datasets.quantile_sketch import ALPHA, FLOOR
from ulna.datasets.sealed_json import seal, unseal
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
        for q, found in ((0.01, stream.q01), (0.5, stream.q50), (0.99, stream.q99)):
            exact = np.quantile(rows, q, axis=0)
            # The median of a random walk may lie between two signs: the bound is of their sizes.
            sizes = np.abs(exact) if q != 0.5 else np.abs(rows).max(0)
            assert (np.abs(found - exact) <= ALPHA * sizes + FLOOR).all()
    assert stats.source == compute_norm_stats(store, [1, 3]).source
    assert stats.source != compute_norm_stats(store, [1, 2]).source


def test_merged_is_all_at_once(store: Store):
    parts = [compute_norm_stats(store, chosen) for chosen in ([0, 1], [2], [3, 4])]
    merged, whole = NormStats.merged(parts), compute_norm_stats(store)
    assert merged.episodes == whole.episodes == 5
    for name in ("state", "action"):
        found, expected = merged.stream(name), whole.stream(name)
        for field in ("count", "min", "max", "q01", "q10", "q50", "q90", "q99", "buckets"):
            assert getattr(found, field) == getattr(expected, field), field
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(found.std, expected.std, rtol=1e-12)
    assert NormStats.merged(parts[:1]) == parts[0]
    assert NormStats.merged(parts).source == merged.source
    assert NormStats.merged(parts[::-1]).source != merged.source


def test_statistics_that_cannot_be_merged(store: Store, tmp_path: Path):
    stats = compute_norm_stats(store)
    other = compute_norm_stats(store, streams=("state", "simulator_state"))
    with pytest.raises(ValueError, match=r"simulator_state, state cannot be merged .* action"):
        NormStats.merged([stats, other])
    # A file of Ulna 0.1 is read, and says why it cannot be merged.
    path = tmp_path / "norm_stats.json"
    stats.save(path)
    data = json.loads(path.read_text())
    for stream in data["streams"].values():
        for key in ("q10", "q50", "q90", "m2", "buckets"):
            del stream[key]
    path.write_text(json.dumps(data))
    old = NormStats.load(path)
    assert old.stream("state").mean == stats.stream("state").mean
    with pytest.raises(ValueError, match=r"stream 'state'.*Ulna 0\.1.*again from their store"):
        NormStats.merged([stats, old])


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    parts = [random.normal(size=(int(random.integers(1, 9)), 3)) for _ in range(20)]
    monkeypatch.setattr(norm_stats, "_BLOCK_NUMBERS", 30)
    in_blocks, whole = sketch_rows(parts), stream_stats(np.concatenate(parts))
    assert in_blocks.packed_buckets() == whole.buckets
    np.testing.assert_allclose(in_blocks.m2, whole.m2, rtol=1e-12)


def test_a_stream_that_is_not_there(store: Store):
    with pytest.raises(ValueError, match="unknown stream of episode 0 .*'sate'.*'state'"):
        compute_norm_stats(store, streams=("sate",))


def test_a_constant_number_gets_the_floor():
    stats = stream_stats(np.full((10, 1), 0.3, np.float32))
    assert stats.std == (STD_FLOOR,)
    assert stats.q50 == stats.mean
    assert replace(stats, std=()).sketch().std == 0


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


def test_statistics_are_kept_for_the_same_episodes_only(tmp_path: Path):
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path) as writer:
        for seed in range(4):
            writer.add_episode(synthetic_episode(ROBOT, seed))
    store.refresh()
    kept = kept_norm_stats(store, [0, 2], keep=True)
    assert kept == compute_norm_stats(store, [0, 2])
    (path,) = (store.path / "statistics").iterdir()
    # Only what is kept can be told apart from what would be computed.
    content = unseal("statistics", path.read_bytes(), path.name)
    content["episodes"] = 99
    path.write_bytes(seal("statistics", content))
    assert kept_norm_stats(store, [0, 2]).episodes == 99
    assert kept_norm_stats(store, [0, 1]).episodes == 2
    path.write_bytes(path.read_bytes().replace(b'"episodes": 99', b'"episodes": 98'))
    with pytest.raises(ValueError, match="statistics/.*checksum"):
        kept_norm_stats(store, [0, 2])
