"""The control loop with its policy elsewhere: the server goes, the arm holds, then stops."""

import functools
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from remote_fakes import TOKEN, serve_pushing

from ulna.datasets.schema import Observation
from ulna.deploy_robot.clock import FakeClock, MonotonicClock, Ticker
from ulna.deploy_robot.control_loop import LoopConfig, control_episode
from ulna.deploy_robot.inference import InlineInference
from ulna.deploy_robot.inference_worker import InferenceWorker, encode_make_act
from ulna.deploy_robot.remote_client import RemoteAct, load_remote_act
from ulna.deploy_robot.remote_config import RemoteConfig
from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
from ulna.deploy_robot.robot import FakeRobot, fake_embodiment
from ulna.deploy_robot.safety import Intervention, SafetyGate, SafetyLimits
from ulna.deploy_robot.serve import served_act
from ulna.deploy_robot.tick_log import TickLog
from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig

LIMITS = SafetyLimits(
    translation_scale_m=0.01,
    workspace_low_m=(-2.0, -2.0, -2.0),
    workspace_high_m=(2.0, 2.0, 2.0),
    joint_low_rad=(-2.9,),
    joint_high_rad=(2.9,),
    max_policy_silence_s=1.0,
)
UNREACHABLE = Intervention.POLICY_UNREACHABLE.value


def push(observation: Observation) -> np.ndarray:
    return np.full((8, 4), 0.25, np.float32)


def serve_here(port: int = 0) -> PolicyServer:
    return PolicyServer(
        {"push": served_act(push, fake_embodiment())}, ServerConfig(port=port, token=TOKEN)
    )


def run(clock, hz: float, inference, happen: Callable[[int], None], limit_s: float = 4.0):
    """An episode of a fake robot; `happen` is told the number of every tick."""
    robot = FakeRobot(clock.now_ns)
    robot.connect()
    log = TickLog(500, 4, 4)

    def stopping() -> bool:
        happen(log.rows)
        return False

    robot.start_episode(1, "move")
    inference.begin_episode(1, "move")
    gate = SafetyGate(LIMITS, robot.embodiment)
    ended = control_episode(
        robot,
        inference,
        Ticker(clock, hz, 500),
        gate,
        ChunkExecution(ExecutionConfig("asynchronous", 4, delay_margin=1)),
        log,
        LoopConfig(limit_s),
        stopping,
    )
    return ended, gate, log


def test_a_lost_server_is_a_hold_and_then_a_stop():
    server = serve_here()
    server.__enter__()
    act = load_remote_act(server.url, TOKEN, embodiment=fake_embodiment())

    def happen(tick: int) -> None:
        if tick == 20:
            server.__exit__()

    ended, gate, log = run(FakeClock(), 20.0, InlineInference(act, 8), happen)
    act.close()
    lost = np.flatnonzero(log["gate"] & UNREACHABLE)
    assert ended == "stopped" and gate.latched & Intervention.POLICY_UNREACHABLE
    # Asked every 4 ticks, and the answer (none) is heard a tick later.
    assert 20 <= lost[0] <= 26
    assert lost.tolist() == list(range(lost[0], log.rows))
    assert not np.any(log["action_sent"][lost, :3])
    assert abs(len(lost) - LIMITS.max_policy_silence_s * 20) <= 2


def test_a_server_that_comes_back_in_time_moves_the_arm_again():
    servers = [serve_here()]
    servers[0].__enter__()
    port = int(servers[0].url.rsplit(":", 1)[1])
    act = RemoteAct(
        RemoteConfig(servers[0].url, token=TOKEN, back_off_s=(0.02, 0.05), timeout_s=5.0)
    )

    def happen(tick: int) -> None:
        if tick == 20:
            servers[0].__exit__()
        if tick == 32:  # of the fake clock, which stands still meanwhile
            servers.append(serve_here(port))
            servers[1].__enter__()
            while not act.probe():
                time.sleep(0.01)

    ended, gate, log = run(FakeClock(), 20.0, InlineInference(act, 8), happen)
    act.close()
    servers[1].__exit__()
    moving = np.any(log["action_sent"][:, :3] != 0, axis=1)
    assert ended == "time" and not gate.latched
    assert not moving[27:32].any() and moving[36:].all()


def test_a_killed_server_stops_a_real_loop_within_a_tick():
    """The whole chain in wall-clock time: server process, inference process, control loop."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_pushing, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(60)
    make_act = functools.partial(load_remote_act, ours.recv(), TOKEN)
    worker = InferenceWorker(encode_make_act(make_act))
    killed_ns = []

    def happen(tick: int) -> None:
        if tick == 12 and not killed_ns:
            process.kill()
            process.join()
            killed_ns.append(time.monotonic_ns())

    try:
        worker.start()
        worker.warm_up(fake_embodiment(), "move")
        ended, _, log = run(MonotonicClock(), 20.0, worker, happen)
    finally:
        worker.close()
    lost = np.flatnonzero(log["gate"] & UNREACHABLE)
    assert ended == "stopped"
    first_tick_after = np.flatnonzero(log["woke_ns"] > killed_ns[0])[0]
    assert lost[0] <= first_tick_after + 1
    assert not np.any(log["action_sent"][lost, :3])
    stopped_s = (log["sent_ns"][-1] - killed_ns[0]) * 1e-9
    assert stopped_s < LIMITS.max_policy_silence_s + 0.5


def test_the_client_does_without_torch_and_mujoco():
    """It lives on the robot, in a process that must start at once."""
    code = (
        "import sys, ulna.deploy_robot.remote_client; "
        "print(sorted({'torch', 'mujoco', 'zarr', 'pickle5'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
