"""`ulna serve`: trained policies, by name, exactly as they act here."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, make_observation, make_policy, make_stats

from ulna.deploy_robot.remote_client import load_remote_act
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.serve import load_served, named_runs, serve, served_act, warm_up
from ulna.envs.rollout import with_history
from ulna.policies.checkpoint import load_act, save_policy
from ulna.policies.policy import Policy

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_policy(folder / "lift" / "policy", make_policy(), make_stats())
    save_policy(folder / "stack", make_policy(wake=False), make_stats())
    return folder


@pytest.fixture(scope="module")
def url(runs):
    policies = {name: load_served(runs / name, threads=1) for name in ("lift", "stack")}
    with PolicyServer(policies, ServerConfig(port=0, token=TOKEN)) as server:
        yield server.url


def test_it_serves_until_it_is_told_to_end(runs):
    """As `ulna serve lift stack` does; a client asks from a thread, then ends it like a shell."""
    said: list[str] = []
    listening = threading.Event()
    chunks = []

    def say(line: str) -> None:
        said.append(line)
        if " at ws://" in line:
            listening.set()

    def ask_and_end() -> None:
        try:
            assert listening.wait(60)
            act = load_remote_act(said[2].split()[-1], TOKEN, policy="stack", timeout_s=20.0)
            chunks.append(act(make_observation()))
            act.close()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=ask_and_end)
    client.start()
    serve([runs / "lift", runs / "stack"], port=0, token=TOKEN, threads=1, say=say)
    client.join(20)
    assert chunks and chunks[0].shape == (CONFIG.horizon, 3)
    # Warm before it listens.
    assert [line.split(":")[0] for line in said[:2]] == ["lift", "stack"]
    assert "for tiny, ready in" in said[0]
    assert said[2].startswith("serving lift, stack at ws://127.0.0.1:")


@pytest.mark.parametrize("realtime", [None, "off", "guided", "identity"])
def test_a_served_policy_acts_as_it_does_here(url, runs, realtime):
    here = load_act(runs / "lift", realtime=realtime)
    there = load_remote_act(
        url, TOKEN, policy="lift", embodiment=EMBODIMENT, realtime=realtime, timeout_s=20.0
    )
    try:
        for seed in range(3):
            seen = make_observation(seed)
            planned = np.clip(np.cumsum(here(seen), 0), -1, 1)[:3]
            seen = replace(seen, planned=planned, inference_delay=2)
            assert np.array_equal(there(seen), here(seen))
    finally:
        there.close()


def test_a_served_policy_that_sees_several_acts_as_it_does_here(tmp_path):
    folder = tmp_path / "two"
    torch.manual_seed(0)
    policy = Policy(replace(CONFIG, history=2), EMBODIMENT, make_stats()).eval()
    for parameter in policy.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    save_policy(folder, policy, make_stats())
    here, served = load_act(folder), load_served(folder, threads=1)
    assert (served.history, served.horizon) == (2, CONFIG.horizon)
    several = [
        with_history([make_observation(seed), make_observation(seed + 1)], 2) for seed in range(2)
    ]
    with PolicyServer({"two": served}, ServerConfig(port=0, token=TOKEN)) as server:
        there = load_remote_act(server.url, TOKEN, embodiment=EMBODIMENT, timeout_s=20.0)
        try:
            for seen in several:
                assert np.array_equal(there(seen), here(seen))
        finally:
            there.close()
    assert not np.array_equal(here(several[0]), here(several[1]))
    # Warmed up with one observation, it names the entry that does not fit.
    with pytest.raises(ValueError, match=r"image 'front': expected \(2, 16, 16, 3\)"):
        warm_up(here, EMBODIMENT)


def test_a_client_must_choose_and_can_choose_only_what_is_served(url):
    for policy in ("", "/etc/passwd", "../stack"):
        with pytest.raises(ValueError, match="Known: lift, stack"):
            load_remote_act(url, TOKEN, policy=policy)


def test_what_cannot_be_served_is_said_before_it_listens(runs, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        serve([tmp_path])
    other = tmp_path / "lift"
    save_policy(other, make_policy(), make_stats())
    with pytest.raises(ValueError, match="both called 'lift'"):
        named_runs([runs / "lift", other])
    with pytest.raises(ValueError, match="token"):
        serve([runs / "lift"], host="0.0.0.0")


def test_a_policy_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        warm_up(lambda seen: np.zeros((4, 2), np.float32), EMBODIMENT)
    act = served_act(lambda seen: np.zeros((4, 3), np.float32), EMBODIMENT)
    assert act.horizon == 4
    with pytest.raises(ValueError, match="guided"):
        act.acting_for(None, "guided")
