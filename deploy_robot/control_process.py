"""The process that owns the arm: it starts the others, runs the episodes, and always ends in hold.

    run.py (supervisor)
      +-- control process        this file; real-time; holds the connection to the robot
            +-- inference        the policy
            +-- simulated arm    or whatever processes the robot needs

Ctrl-C and SIGTERM become a flag that the loop sees within one tick. The loop also notices when its
supervisor has vanished. In every case the order is: hold, disconnect, end the children.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from ..datasets.schema import Embodiment, require_same_embodiment
from .chunk_schedule import ChunkSchedule, ScheduleConfig
from .clock import MonotonicClock, Ticker
from .control_loop import LoopConfig, control_episode
from .inference_worker import InferenceWorker
from .processes import Stopped, report_crash
from .realtime import prepare_realtime, quiet_collector, wake_collector
from .robot import Robot
from .safety import Intervention, SafetyGate, SafetyLimits
from .tick_log import TickLog

_LOG_SLACK_TICKS = 16


@dataclass(frozen=True)
class ControlPlan:
    """What the control process is to do; travels to it whole."""

    make_robot: Callable[[], Robot]
    encoded_make_act: bytes
    trained_for: Embodiment | None
    """The policy's embodiment; another robot is refused. None: not checked."""
    episodes: tuple[tuple[int, str | None], ...]
    """Seed and instruction of each (None: the scene's own)."""
    schedule: ScheduleConfig
    loop: LoopConfig
    limits: SafetyLimits
    control_hz: float | None
    """None: the embodiment's own rate."""
    priority: int
    require_realtime: bool
    video_folder: Path | None


@dataclass(frozen=True)
class EpisodeReport:
    """One finished episode, as the supervisor gets it."""

    seed: int
    instruction: str
    ended: str
    """`success`, `time` or `stopped`."""
    success: bool
    outcome: str
    control_hz: float
    skipped: int
    """Deadlines the control loop lost."""
    starved: int
    """Ticks without an action although one was due."""
    waited: int
    expired_chunks: int
    delays: list[int]
    """Inference delays in consumed actions, first chunk left out."""
    inference_s: list[float]
    counters: dict[str, int]
    ticks: dict[str, np.ndarray]
    """Columns of the tick log."""
    streams: dict[str, np.ndarray]
    video: Path | None
    stop_reason: str
    last_words: str
    """Traceback of the inference process if it died."""


class _Stop:
    """True once the run must end: a signal came, or the supervisor is gone."""

    def __init__(self) -> None:
        self.requested = False
        self._parent = os.getppid()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _request(self, signal_number: int, frame: object) -> None:
        self.requested = True

    @property
    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def __call__(self) -> bool:
        return self.requested or self.orphaned


def control_process(connection: Connection, plan: ControlPlan) -> None:
    """Main function of the control process."""
    stopping = _Stop()
    try:
        _run(connection, plan, stopping)
        connection.send(("done", None))
    except Stopped as stop:
        connection.send(("stopped", str(stop)))
    except ValueError as error:
        connection.send(("refused", str(error)))
    except Exception:
        if not stopping.orphaned:  # else nobody listens; the arm was put to hold on the way here
            report_crash(connection)
        raise SystemExit(1) from None


def _run(connection: Connection, plan: ControlPlan, stopping: Callable[[], bool]) -> None:
    inference = InferenceWorker(plan.encoded_make_act)
    robot = plan.make_robot()
    try:
        inference.start()  # loads while the robot connects
        robot.connect(stopping)
        embodiment = robot.embodiment
        if plan.trained_for is not None:
            require_same_embodiment(plan.trained_for, embodiment, "the robot")
        gate = SafetyGate(plan.limits, embodiment)
        inference.warm_up(embodiment, plan.episodes[0][1] or "move", stopping=stopping)
        schedule = ChunkSchedule(plan.schedule, inference.horizon, embodiment.action_dim)
        clock = MonotonicClock()
        control_hz = plan.control_hz or embodiment.control_hz
        capacity = round(plan.loop.max_episode_s * control_hz) + _LOG_SLACK_TICKS
        ticker = Ticker(clock, control_hz, capacity)
        rights = prepare_realtime(plan.priority, plan.require_realtime)
        connection.send(("armed", (rights, clock.wait_method)))
        for number, (seed, wanted) in enumerate(plan.episodes):
            if stopping():
                raise Stopped(f"stopped before episode {number}")
            log = TickLog(capacity, embodiment.state_dim, embodiment.action_dim)
            instruction = robot.start_episode(seed, wanted)
            inference.begin_episode(seed, instruction)
            quiet_collector()
            try:
                ended = control_episode(
                    robot, inference, ticker, gate, schedule, log, plan.loop, stopping
                )
            finally:
                wake_collector()
            folder = None if ended == "stopped" else plan.video_folder
            video = folder and folder / f"robot_{number}_seed{seed}.mp4"
            end = robot.finish_episode(video)
            policy_gone = bool(gate.latched & Intervention.POLICY_DEAD)
            connection.send(
                (
                    "episode",
                    EpisodeReport(
                        seed=seed,
                        instruction=instruction,
                        ended=ended,
                        # Lasting success, as the loop judged it; a success at the very last
                        # moment is not one.
                        success=ended == "success" and end.success,
                        outcome=end.outcome,
                        control_hz=control_hz,
                        skipped=ticker.skipped,
                        starved=schedule.starved,
                        waited=schedule.waited,
                        expired_chunks=schedule.expired,
                        delays=schedule.delays,
                        inference_s=inference.seconds,
                        counters=end.counters,
                        ticks=log.arrays(),
                        streams=end.streams,
                        video=video if end.video else None,
                        stop_reason=gate.refusal,
                        last_words=inference.last_words() if policy_gone else "",
                    ),
                )
            )
            if ended == "stopped":
                return
    finally:
        robot.disconnect()
        inference.close()
