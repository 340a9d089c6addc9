"""Normalising there and back, what each mode puts where, floors, and LeRobot's numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ulna.datasets.norm_stats import StreamStats, stream_stats
from ulna.policies.normalizer import NormalizationConfig, Normalizer, NormMode

MODES: tuple[NormMode, ...] = ("mean_std", "quantiles", "min_max", "none")


def skewed(rows: int = 4001) -> np.ndarray:
    """Columns of different place, spread and shape; the last one never moves."""
    random = np.random.default_rng(0)
    columns = (random.normal(3, 2, rows), random.exponential(0.5, rows), np.full(rows, 0.7))
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(
    x=arrays(np.float32, (4, 2, 3), elements=st.floats(-1e3, 1e3, width=32)),
    floor=st.sampled_from([1e-8, 1e-3, 1e-2]),
)
def test_unnormalize_undoes_normalize(mode: NormMode, x: np.ndarray, floor: float):
    normalizer = Normalizer.of(stream_stats(skewed()), mode, floor)
    back = normalizer.unnormalize(normalizer.normalize(torch.from_numpy(x)))
    torch.testing.assert_close(back, torch.from_numpy(x), rtol=1e-5, atol=1e-5)


def test_each_mode_puts_its_statistics_in_their_places():
    rows = skewed()
    stats = stream_stats(rows)
    seen = {
        mode: Normalizer.of(stats, mode).normalize(torch.from_numpy(rows)).numpy() for mode in MODES
    }
    np.testing.assert_allclose(seen["mean_std"][:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen["mean_std"][:, :2].std(0), 1, rtol=1e-5)
    low, high = (np.quantile(seen["quantiles"][:, :2], q, axis=0) for q in (0.01, 0.99))
    np.testing.assert_allclose(low, -1, atol=5e-3)  # the sketch's 0.1 % of the value
    np.testing.assert_allclose(high, 1, atol=5e-3)
    assert seen["quantiles"][:, :2].max() > 1.2  # not cut off
    np.testing.assert_allclose(seen["min_max"][:, :2].min(0), -1, atol=1e-6)
    np.testing.assert_allclose(seen["min_max"][:, :2].max(0), 1, atol=1e-6)
    np.testing.assert_array_equal(seen["none"], rows)
    exact = StreamStats(2, (0.0,), (1.0,), (-4.0,), (9.0,), q01=(-2.5,), q99=(5.5,))
    found = Normalizer.of(exact, "quantiles").normalize(torch.tensor([[-2.5], [5.5], [9.5]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0], [1.0], [2.0]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["mean_std", "quantiles", "min_max"])
def test_an_entry_that_never_moved_stays_small(mode: NormMode):
    normalizer = Normalizer.of(stream_stats(skewed()), mode, floor=0.01)
    seen = normalizer.normalize(torch.tensor([0.0, 0.0, 0.7 + 0.001]))
    assert abs(float(seen[2]) - 0.1) < 1e-3
    assert float(normalizer.std[2]) == pytest.approx(0.01)
    assert (normalizer.std[:2] > 0.1).all()  # the floor leaves the others alone


def test_lerobots_numbers():
    """The formulas of its normaliser, eps 1e-8: equal to rounding but where nothing moved."""
    rows, eps = skewed(), 1e-8
    stats = stream_stats(rows)
    x = torch.from_numpy(rows[:50])
    mean, std, q01, q99 = (
        torch.tensor(row) for row in (stats.mean, stats.std, stats.q01, stats.q99)
    )
    theirs = (x - mean) / (std + eps)
    ours = Normalizer.of(stats, "mean_std", floor=eps)
    torch.testing.assert_close(ours.normalize(x), theirs, rtol=1e-5, atol=2e-3)
    torch.testing.assert_close(ours.normalize(x)[:, :2], theirs[:, :2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.unnormalize(theirs), theirs * std + mean)
    theirs = 2 * (x - q01) / (q99 - q01) - 1
    ours = Normalizer.of(stats, "quantiles", floor=eps)
    torch.testing.assert_close(ours.normalize(x)[:, :2], theirs[:, :2], rtol=1e-5, atol=1e-5)
    # A constant entry 1 mm off: theirs is 100,000 deviations away, ours a tenth.
    off, spread = (
        torch.tensor([0.0, 0.0, 0.701]),
        torch.from_numpy(rows.std(axis=0, dtype=np.float64)),
    )
    assert abs(float(((off - mean) / (spread + eps))[2])) > 1e3
    assert abs(float(Normalizer.of(stats).normalize(off)[2])) < 0.11


def test_buffers_keep_their_names_and_their_precision():
    normalizer = Normalizer.of(stream_stats(skewed()), "quantiles")
    assert list(normalizer.state_dict()) == ["mean", "std"]
    before = {name: tensor.clone() for name, tensor in normalizer.state_dict().items()}
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), normalizer).to(torch.bfloat16)
    linear, cast = network
    assert isinstance(linear, torch.nn.Linear) and linear.weight.dtype == torch.bfloat16
    for name, tensor in cast.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert normalizer.unnormalize(torch.zeros(3, dtype=torch.bfloat16)).dtype == torch.float32
    meta = Normalizer([0.0], [1.0]).to("meta")
    assert meta.mean.is_meta


def test_refusals():
    normalizer = Normalizer([0.0, 1.0], [1.0, 2.0], name="state of arm")
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match=rf"state of arm: expected torch.float32, got {dtype}"):
            normalizer.normalize(torch.zeros(3, 2, dtype=dtype))
    with pytest.raises(ValueError, match=r"got torch.float64"):
        normalizer.unnormalize(torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"state of arm: expected 2 entries, got shape \(4, 3\)"):
        normalizer.normalize(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="1 offsets and 2 scales"):
        Normalizer([0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="with floor 0"):
        Normalizer([0.0], [0.0], floor=0.0)
    with pytest.raises(ValueError, match="floors must be positive, got state_floor 0.0"):
        NormalizationConfig(state_floor=0.0)
