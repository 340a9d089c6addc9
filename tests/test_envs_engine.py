"""The engine: equal episodes however they are run, and one bad episode costs itself."""

import ctypes
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import engine_fakes as fakes
import numpy as np
import pytest

from ulna.datasets.schema import Observation
from ulna.envs.chunk_execution import mode_named
from ulna.envs.engine import Central, PolicyDesk, padded, single
from ulna.envs.engine_slots import (
    SlotLayout,
    read_chunk,
    read_observation,
    write_chunk,
    write_observation,
)
from ulna.envs.parallel import EpisodeJob, run_episodes
from ulna.envs.rollout import EpisodeResult, rollout
from ulna.envs.virtual_clock import DelayModel

CENTRAL = Central(fakes.make_act_batch, batch_size=3)
JOBS = [
    EpisodeJob(seed, said="go there" if seed % 3 == 0 else None, mode=mode_named(mode), delay=delay)
    for seed, (mode, delay) in enumerate(
        [
            ("synchronous", DelayModel()),
            ("asynchronous", DelayModel(ticks=3)),
            ("rtc", DelayModel(kind="lognormal", median_s=0.2, sigma=0.5, loss_probability=0.2)),
            ("hold", DelayModel(ticks=2)),
            ("ensemble", DelayModel()),
        ]
        * 2
    )
]
TIMES = ("policy_s", "render_s", "physics_s")


def run(policy: Any, jobs: Sequence[Any], **settings: Any) -> list[EpisodeResult]:
    return run_episodes(
        fakes.BEAD, policy, jobs, **{"execution_horizon": 4, "render_profile": "fast", **settings}
    )


def same(mine: EpisodeResult, other: EpisodeResult) -> None:
    for field in fields(EpisodeResult):
        if field.name not in TIMES:
            np.testing.assert_equal(getattr(mine, field.name), getattr(other, field.name))


@pytest.fixture(scope="module")
def here() -> list[EpisodeResult]:
    """Every job in this process, one after the other."""
    env = fakes.BeadEnv("fast")
    return [
        rollout(
            env, fakes.chunk, job.seed, job.instruction, 4, said=job.said, mode=job.mode,
            delay=job.delay,
        )
        for job in JOBS
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_one_policy_for_all_gives_the_episodes_of_one_process(
    here: list[EpisodeResult], workers: int
) -> None:
    for mine, theirs in zip(here, run(CENTRAL, JOBS, workers=workers), strict=True):
        same(mine, theirs)
    assert len({result.digest for result in here}) == len(JOBS)
    assert {result.said for result in here} == {"go there", "go left", "go right"}


def test_a_policy_per_worker_gives_them_too(here: list[EpisodeResult]) -> None:
    for mine, theirs in zip(here, run(fakes.make_act, JOBS, workers=2), strict=True):
        same(mine, theirs)


def test_a_history_goes_through_shared_memory() -> None:
    env = fakes.BeadEnv("fast")
    jobs = [EpisodeJob(seed, mode="asynchronous", delay=DelayModel(ticks=2)) for seed in (1, 2)]
    for theirs in run(CENTRAL, jobs, history=3):
        mine = rollout(
            env, fakes.chunk, theirs.seed, None, 4, history=3, mode="asynchronous",
            delay=DelayModel(ticks=2),
        )  # fmt: skip
        same(mine, theirs)


@pytest.mark.parametrize("policy", [CENTRAL, fakes.make_act], ids=["central", "per worker"])
def test_a_crash_a_death_and_a_hang_cost_one_episode_each(policy: Any) -> None:
    seeds = [1, fakes.RAISES, 2, fakes.DIES, 3, fakes.HANGS, 4]
    told: dict[int, EpisodeResult] = {}
    results = run(
        policy, [(seed, None) for seed in seeds], workers=2, timeout_s=2.0,
        on_result=told.__setitem__,
    )  # fmt: skip
    assert [told[i] for i in range(len(seeds))] == results
    errors = {r.seed: r.error for r in results if r.outcome == "crashed"}
    assert set(errors) == {fakes.RAISES, fakes.DIES, fakes.HANGS}
    assert "the simulator diverged" in errors[fakes.RAISES]
    assert "exit code 9" in errors[fakes.DIES]
    assert "no answer for 2 s" in errors[fakes.HANGS]
    env = fakes.BeadEnv("fast")
    for result in results:
        if not result.error:
            same(rollout(env, fakes.chunk, result.seed, None, 4), result)


@pytest.mark.parametrize(
    "policy",
    [Central(fakes.make_faulty_act_batch), fakes.make_faulty_act],
    ids=["central", "per worker"],
)
def test_a_policy_that_raises_fails_the_run(policy: Any) -> None:
    with pytest.raises((RuntimeError, ZeroDivisionError)) as caught:
        run(policy, [(1, None), (2, None)])
    assert "the weights are gone" in "".join(caught.value.args)


def test_batches_have_one_size_and_copies_are_dropped() -> None:
    policy = fakes.make_act_batch()
    rows = [_observation(seed) for seed in range(2)]
    chunks = padded(policy, 5)(rows)
    assert policy.sizes == [5] and len(chunks) == 2
    np.testing.assert_array_equal(chunks[1], fakes.chunk(rows[1]))
    np.testing.assert_array_equal(single(fakes.make_act_batch, 5)(rows[0]), chunks[0])
    with pytest.raises(ValueError, match="1 chunks for 5 observations"):
        padded(lambda observations: [fakes.chunk(observations[0])], 5)(rows)
    with pytest.raises(ValueError, match="batch_size is 0"):
        PolicyDesk(Central(fakes.make_act_batch, batch_size=0), SlotLayout(fakes.BODY))


@pytest.mark.parametrize("history", [1, 2])
def test_a_slot_gives_back_what_was_written(history: int) -> None:
    layout = SlotLayout(fakes.BODY, history, most_rows=16)
    views = layout.views((ctypes.c_uint8 * layout.size)())
    sent = _observation(3, history)
    for seen in (
        sent,
        replace(sent, instruction="geh nach Köln", planned=np.ones((3, 2), np.float32)),
        replace(sent, instruction="", planned=np.zeros((0, 2), np.float32), inference_delay=2),
        sent,
    ):
        write_observation(views, seen)
        got = read_observation(views)
        np.testing.assert_equal(vars(got), vars(seen))
    chunk = np.arange(10, dtype=np.float32).reshape(5, 2)
    write_chunk(views, chunk)
    np.testing.assert_array_equal(read_chunk(views), chunk)
    np.testing.assert_equal(vars(read_observation(views)), vars(sent))  # they do not overlap


def test_what_does_not_fit_a_slot_is_refused() -> None:
    layout = SlotLayout(fakes.BODY, most_rows=16)
    views = layout.views(bytearray(layout.size))
    seen = _observation(0)
    with pytest.raises(ValueError, match="image 'front' is uint8.*the embodiment says"):
        images = {**seen.images, "front": np.zeros((3, 3, 3), np.uint8)}
        write_observation(views, replace(seen, images=images))
    with pytest.raises(ValueError, match=r"cameras \['front'\], its embodiment"):
        write_observation(views, replace(seen, images={"front": seen.images["front"]}))
    with pytest.raises(ValueError, match="3000 bytes; 2048 fit"):
        write_observation(views, replace(seen, instruction="x" * 3000))
    with pytest.raises(ValueError, match=r"chunk of shape \(17, 2\).*at most 16"):
        write_chunk(views, np.zeros((17, 2), np.float32))


def _observation(seed: int, history: int = 1) -> Observation:
    env = fakes.BeadEnv("fast")
    env.reset(seed)
    seen = replace(env.observe(), noise_seed=seed)
    if history == 1:
        return seen
    images = {name: np.stack([frame] * history) for name, frame in seen.images.items()}
    return replace(seen, images=images, state=np.stack([seen.state] * history))
