"""The log of an evaluation: what was written comes back, half a line does not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.envs.parallel import EpisodeJob
from ulna.envs.results_log import ResultsLog, episode_key
from ulna.envs.rollout import EpisodeResult
from ulna.envs.virtual_clock import DelayModel

RESULT = EpisodeResult(
    task="bead",
    seed=3,
    instruction="go left",
    success=True,
    steps=30,
    outcome="there",
    states=np.zeros((0, 0)),
    actions=np.zeros((0, 0), np.float32),
    said="nach links",
    mode="rtc",
    delay="3",
    delays=(3, 3, 4),
    lost=1,
    stalls=6,
    seam_jump=1.25,
    jerk=0.1 + 0.2,
    digest="ab",
)


def same(one: EpisodeResult, other: EpisodeResult) -> None:
    np.testing.assert_equal(vars(one), vars(other))


def test_what_was_written_comes_back_in_another_process_of_the_same_kind(tmp_path: Path) -> None:
    with ResultsLog(tmp_path / "new" / "log.jsonl") as log:
        log.append("k1", {"seed": 3}, RESULT)
        log.append("k2", {"seed": 4}, replace(RESULT, seed=4, seam_jump=None))
        log.append("k1", {"seed": 3}, replace(RESULT, steps=31))  # the later one counts
    with ResultsLog(tmp_path / "new" / "log.jsonl") as log:
        assert set(log.results) == {"k1", "k2"}
        same(log.results["k1"], replace(RESULT, steps=31))
        same(log.results["k2"], replace(RESULT, seed=4, seam_jump=None))


def test_states_are_not_kept(tmp_path: Path) -> None:
    heavy = replace(RESULT, states=np.ones((5, 9)), actions=np.ones((4, 2), np.float32))
    with ResultsLog(tmp_path / "log.jsonl") as log:
        log.append("k", {}, heavy)
    with ResultsLog(tmp_path / "log.jsonl") as log:
        same(log.results["k"], RESULT)


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ResultsLog(path) as log:
        log.append("k1", {}, RESULT)
    whole = path.read_bytes()
    with ResultsLog(path) as log:
        log.append("k2", {}, RESULT)
    both = path.read_bytes()
    for cut in (len(whole) + 1, len(whole) + 40, len(both) - 1):
        path.write_bytes(both[:cut])
        with ResultsLog(path) as log:
            assert set(log.results) == {"k1"}
            log.append("k3", {}, RESULT)
        with ResultsLog(path) as log:
            assert set(log.results) == {"k1", "k3"}


def test_a_line_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ResultsLog(path) as log:
        log.append("k1", {}, RESULT)
    row = json.loads(path.read_text())
    del row["episode"]["digest"]
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl, line 2 is no episode.*digest"):
        ResultsLog(path)
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1 is no episode of this version"):
        ResultsLog(path)


def test_equal_settings_have_equal_keys_and_every_setting_counts() -> None:
    job = EpisodeJob(3, delay=DelayModel(kind="trace", trace_s=(0.1, 0.2)))
    settings = {"task": "bead", "job": job, "versions": {"a": "1", "b": "2"}}
    turned = {"versions": {"b": "2", "a": "1"}, "job": replace(job), "task": "bead"}
    assert episode_key(settings) == episode_key(turned)
    others = [
        {**settings, "job": replace(job, seed=4)},
        {**settings, "job": replace(job, said="")},
        {**settings, "job": replace(job, axis="lighting")},
        # Two traces that look alike in a table.
        {**settings, "job": replace(job, delay=DelayModel(kind="trace", trace_s=(0.2, 0.1)))},
        {**settings, "versions": {"a": "1", "b": "3"}},
    ]
    assert len({episode_key(s) for s in (settings, *others)}) == 6
