"""`ulna serve RUN`: trained policies for arms on other machines.

Loads the runs it was given and no others, warms them up, and only then listens: the first robot to
connect is answered as fast as the last. Clients choose among these by name; none can name a file.

Next: `remote_server.py` (the server), `remote_client.py` (`load_remote_act`).
"""

import asyncio
import functools
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..datasets.schema import Act, Embodiment, Observation, require_same_embodiment, unknown_name
from ..envs.rollout import with_history
from .remote_access import is_loopback, server_tls
from .remote_openpi import OpenPiKeys
from .remote_server import PolicyServer, ServerConfig
from .remote_sessions import ServedPolicy
from .robot import RobotState

_WARM_UP_CALLS = 3
_say = functools.partial(print, flush=True)


def serve(
    runs: Sequence[Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    certificate: Path | None = None,
    key: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    max_clients: int = 8,
    idle_timeout_s: float = 600.0,
    openpi_keys: OpenPiKeys | Mapping[str, str] | None = None,
    say: Callable[[str], None] = _say,
) -> None:
    """Serve the policies in `runs` until Ctrl-C or SIGTERM.

    Args:
        runs: Training runs or policy folders; a policy is called as its run's folder.
        host: Address to listen at; 0.0.0.0 is every one of this machine, which needs a token.
        token: What clients must know (`remote_access.read_token`).
        certificate: In PEM form, with its `key`; then the server is reached by wss:// only.
        threads: Of torch on a CPU; None: as many as it takes by itself.
        openpi_keys: How openpi's clients name cameras and state, also in words
            (`remote_openpi.keys_of_words`); None: as for LIBERO.
        say: Is told where the server listens, and who comes and goes.

    Raises ValueError for what cannot be served, before it listens.
    """
    config = ServerConfig(host, port, token, max_clients, idle_timeout_s, openpi_keys=openpi_keys)
    tls = server_tls(certificate, key)
    folders = named_runs(runs)
    if tls is None and not is_loopback(host):
        say("warning: without --certificate the token and the pictures travel readable")
    with ThreadPoolExecutor(1, "policy") as policy_thread:
        policies = {}
        for name, folder in folders.items():
            started = time.perf_counter()
            load = functools.partial(load_served, folder, device, threads)
            # In the thread that will use them: torch keeps its number of threads per thread.
            policies[name] = policy_thread.submit(load).result()
            robots = ", ".join(robot.name for robot in policies[name].embodiments)
            say(f"{name}: for {robots}, ready in {time.perf_counter() - started:.1f} s")
        asyncio.run(_until_signal(PolicyServer(policies, config, tls, say), policy_thread))


async def _until_signal(server: PolicyServer, policy_thread: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, server.stop)
    await server.run(policy_thread)


def named_runs(runs: Sequence[Path | str]) -> dict[str, Path]:
    """Each run's folder by the name that clients use."""
    found: dict[str, Path] = {}
    for run in map(Path, runs):
        name = run.resolve().name
        if not (run / "config.json").exists() and not (run / "policy" / "config.json").exists():
            raise ValueError(f"{run} holds no policy (no config.json); `ulna train` writes one")
        if name in found:
            raise ValueError(
                f"{found[name]} and {run} are both called {name!r}; serve them under other names, "
                "such as symbolic links"
            )
        found[name] = run
    return found


def load_served(folder: Path, device: str = "cpu", threads: int | None = None) -> ServedPolicy:
    """The policy in `folder`, warm."""
    import torch

    from ..policies.checkpoint import load_policy

    if threads is not None:
        torch.set_num_threads(threads)
    policy = load_policy(folder, device)

    def acting_for(robot: Embodiment | None, realtime: str | None) -> tuple[Embodiment, Act]:
        policy.use(robot or policy.slots.embodiments[0], "this robot")
        policy.use_realtime(policy.config.realtime.mode if realtime is None else realtime)
        slot, joined = policy.slot, policy.realtime

        def act(observation: Observation) -> np.ndarray:
            # Another client's robot or way may have been the last.
            policy.slot, policy.realtime = slot, joined
            return policy.act(observation)

        return policy.embodiment, act

    robots, history = tuple(policy.slots.embodiments), policy.config.history
    horizons = {warm_up(acting_for(robot, None)[1], robot, history) for robot in robots}
    return ServedPolicy(robots, horizons.pop(), acting_for, history)


def served_act(act: Act, embodiment: Embodiment, history: int = 1) -> ServedPolicy:
    """Any function as a policy to serve; it knows no ways of joining chunks. `history`:
    observations it sees at once."""

    def acting_for(robot: Embodiment | None, realtime: str | None) -> tuple[Embodiment, Act]:
        if robot is not None:
            require_same_embodiment(embodiment, robot, "this robot")
        if realtime not in (None, "auto", "off"):
            raise unknown_name("realtime mode of this policy", realtime, ("auto", "off"))
        return embodiment, act

    return ServedPolicy((embodiment,), warm_up(act, embodiment, history), acting_for, history)


def warm_up(act: Act, robot: Embodiment, history: int = 1) -> int:
    """Ask a few times, as the first calls are many times slower; returns the horizon."""
    blank = RobotState.empty(robot)
    observation = with_history([Observation(blank.images, blank.state, "move")], history)
    shape: tuple[int, ...] = ()
    for call in range(_WARM_UP_CALLS):
        shape = np.shape(act(replace(observation, noise_seed=call)))
    if len(shape) != 2 or shape[1] != robot.action_dim:
        raise ValueError(
            f"the policy gave a chunk of shape {shape}; {robot.name} takes (horizon, "
            f"{robot.action_dim})"
        )
    return shape[0]
