"""Ray actors on a cluster of two nodes run the same episodes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_fakes as fakes
import numpy as np
import pytest

from ulna.envs.engine import Central
from ulna.envs.engine_ray import RayCluster
from ulna.envs.parallel import EpisodeJob, run_episodes
from ulna.envs.virtual_clock import DelayModel


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_agent_register_timeout_ms", "100000")  # on a busy machine
        # Actors are started by Ray's own processes, which do not know pytest's paths.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        started = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False},
        )
        started.add_node(num_cpus=1)
        ray.init(address=started.address, include_dashboard=None)
        try:
            assert len([node for node in ray.nodes() if node["Alive"]]) == 2
            yield RayCluster(str(started.address))
        finally:
            ray.shutdown()
            started.shutdown()


def test_the_same_episodes_and_one_crash_costs_one(cluster: RayCluster) -> None:
    delay = DelayModel(ticks=2)
    jobs = [EpisodeJob(seed, mode="asynchronous", delay=delay) for seed in (1, fakes.RAISES, 2, 3)]
    policy = Central(fakes.make_act_batch, batch_size=3)
    settings: Any = {"workers": 2, "execution_horizon": 4, "render_profile": "fast"}
    there = run_episodes(fakes.BEAD, policy, jobs, ray=cluster, **settings)
    here = run_episodes(fakes.BEAD, policy, jobs, **settings)
    assert [r.digest for r in there] == [r.digest for r in here]
    assert [r.outcome == "crashed" for r in there] == [False, True, False, False]
    assert "the simulator diverged" in there[1].error
    np.testing.assert_array_equal(there[3].states, here[3].states)


def test_a_policy_that_raises_fails_the_run(cluster: RayCluster) -> None:
    with pytest.raises(RuntimeError, match="the weights are gone"):
        run_episodes(
            fakes.BEAD, fakes.make_faulty_act, [(1, None)], ray=cluster, execution_horizon=4,
            render_profile="fast",
        )  # fmt: skip


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ulna\[ray\]'"):
        run_episodes(
            fakes.BEAD, fakes.make_act, [(1, None)], ray=RayCluster(), render_profile="fast"
        )
