"""Delays: pure functions of seed and request, with the statistics that were asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from ulna.envs.virtual_clock import NO_DELAY, DelayModel, parse_delay

HZ = 20.0


def delays(model: DelayModel, requests: int, seed: int = 5) -> list[int | None]:
    return [model.delay_ticks(seed, request, HZ) for request in range(requests)]


@pytest.mark.parametrize(
    "model",
    [
        DelayModel(kind="lognormal", median_s=0.1, sigma=0.5),
        DelayModel(kind="trace", trace_s=(0.01, 0.02, 0.3, 0.07, 0.11)),
        DelayModel(ticks=2, burst_probability=0.2, loss_probability=0.2),
    ],
)
def test_a_delay_depends_on_seed_and_request_alone(model: DelayModel) -> None:
    forward = delays(model, 40)
    assert [model.delay_ticks(5, r, HZ) for r in reversed(range(40))] == forward[::-1]
    assert delays(model, 40, seed=6) != forward


def test_constant() -> None:
    assert delays(DelayModel(ticks=3), 4) == [3] * 4
    assert NO_DELAY.is_zero and not DelayModel(ticks=1).is_zero
    assert not DelayModel(loss_probability=0.1).is_zero


def test_a_trace_is_replayed_in_its_order() -> None:
    trace = (0.0, 0.05, 0.051, 0.1, 0.4)
    ticks = [0, 1, 2, 2, 8]  # the first tick that begins after the answer came
    starts = set()
    for seed in range(30):
        got = delays(DelayModel(kind="trace", trace_s=trace), 10, seed)
        start = got.index(8)
        assert got == [ticks[(4 - start + i) % 5] for i in range(10)]
        starts.add(start)
    assert starts == set(range(5))


def test_lognormal_has_its_median_and_spread() -> None:
    model = DelayModel(kind="lognormal", median_s=2.0, sigma=0.5)
    got = np.array([model.delay_ticks(0, request, 1000.0) for request in range(2000)])
    assert np.median(got) == pytest.approx(2000, rel=0.05)
    assert np.log(got).std() == pytest.approx(0.5, rel=0.06)


def test_bursts_last_their_requests_and_losses_come_as_often_as_said() -> None:
    burst = DelayModel(ticks=1, burst_probability=0.05, burst_requests=4, burst_ticks=6)
    drawn = delays(burst, 1500)
    got = [delay == 7 for delay in drawn]
    assert set(drawn) == {1, 7}
    # Slow unless none of the last four requests began a burst.
    assert np.mean(got) == pytest.approx(1 - 0.95**4, abs=0.04)
    runs = "".join("x" if slow else "." for slow in got).strip("x").split(".")
    assert min(len(run) for run in runs if run) == 4
    lost = [delay is None for delay in delays(DelayModel(loss_probability=0.2), 1500)]
    assert np.mean(lost) == pytest.approx(0.2, abs=0.03)


def test_words_on_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(json.dumps([0.1, 0.2]))
    assert parse_delay("4") == DelayModel(ticks=4)
    assert parse_delay("lognormal:0.12:0.4+loss:0.05") == DelayModel(
        kind="lognormal", median_s=0.12, sigma=0.4, loss_probability=0.05
    )
    assert parse_delay("2+burst:0.1:8") == DelayModel(ticks=2, burst_probability=0.1, burst_ticks=8)
    traced = parse_delay(f"trace:{tmp_path / 'trace.json'}")
    assert traced.trace_s == (0.1, 0.2) and str(traced) == "trace:2x0.15s"
    for text in ("4", "lognormal:0.12:0.4+loss:0.05", "2+burst:0.1:8"):
        assert str(parse_delay(text)) == text


@pytest.mark.parametrize("text", ["soon", "lognormal:1", "trace:nowhere.json", "4+", "loss:2"])
def test_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        parse_delay(text)


def test_refuses_impossible_models() -> None:
    with pytest.raises(ValueError, match="needs trace_s"):
        DelayModel(kind="trace")
    with pytest.raises(ValueError, match="no answer would ever come"):
        DelayModel(loss_probability=1.0)
    with pytest.raises(ValueError, match="use 0 or more"):
        DelayModel(ticks=-1)
