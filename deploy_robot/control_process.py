"""The process that owns the arm: it starts the others, runs the episodes, and always ends in hold.

    run.py (supervisor, keyboard)
      +-- control process        this file; real-time; holds the connection to the robot
            +-- inference        the policy, or the connection to a remote one
            +-- simulated arm    or whatever processes the robot needs
            +-- flight recorder  writes what the loop saw, decided and sent
            +-- teleoperator     a leader arm or a gamepad

Ctrl-C and SIGTERM become a flag that the loop sees within one tick. The loop also notices when its
supervisor has vanished. In every case the order is: hold, disconnect, end the children.
"""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from ..envs.chunk_execution import ChunkExecution, ExecutionConfig
from .clock import MonotonicClock, Ticker
from .control_loop import LoopConfig, control_episode
from .flight_lanes import Flight, FlightConfig
from .flight_recorder import FlightRecorder
from .inference_worker import InferenceWorker
from .interpolation import Interpolator, joint_places, servo_steps
from .interventions import Intervention
from .limits import ArmLimits, SafetyLimits
from .operator_board import BoardOperator
from .operator_sources import TeleoperationOperator
from .orders import NO_WATCHER, NOBODY, Operator, Orders
from .policy_units import PolicyUnits, unit_map
from .processes import Stopped, report_crash
from .realtime import prepare_realtime, quiet_collector, wake_collector
from .robot import UNJUDGED, EpisodeEnd, Robot, RobotState
from .safety import SafetyGate
from .tick_log import TickLog

_LOG_SLACK_TICKS = 16
RECORDER_GRACE_S = 20.0
"""For what the recorder has still to write; the arm was let go before."""


class Teleoperator(Protocol):
    """A source of actions in a process of its own, such as `LeRobotTeleoperator`."""

    def connect(self, stopping: Callable[[], bool] = ...) -> None: ...

    def action(self, state: RobotState) -> Float[np.ndarray, " action_dim"] | None: ...

    def disconnect(self) -> None: ...


@dataclass(frozen=True)
class ControlPlan:
    """What the control process is to do; travels to it whole."""

    make_robot: Callable[[], Robot]
    encoded_make_act: bytes
    trained_for: Embodiment | None
    """The policy's embodiment; another robot is refused. None: not checked."""
    policy_units: PolicyUnits | None
    """What the policy's numbers are, where they are not those of this very robot."""
    episodes: tuple[tuple[int, str | None], ...]
    """Seed and instruction of each (None: the scene's own)."""
    schedule: ExecutionConfig
    loop: LoopConfig
    limits: SafetyLimits | ArmLimits | None
    """None: those of the simulated table, for an arm of tool displacements only."""
    control_hz: float | None
    """None: the embodiment's own rate."""
    servo_hz: float | None
    """At which joint positions are sent; None: the control rate."""
    priority: int
    require_realtime: bool
    video_folder: Path | None
    dry_run: bool = False
    """Everything is computed, and the arm is sent a hold."""
    record: FlightConfig | None = None
    info: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Kept with every recorded episode."""
    commanded: bool = False
    """Whether the supervisor sends an operator's board as its first message."""
    make_teleoperator: Callable[[Embodiment], Teleoperator] | None = None
    """Who can take the arm over."""
    history: int = 1
    """Observations the policy sees at once."""


@dataclass(frozen=True)
class EpisodeReport:
    """One finished episode, as the supervisor gets it."""

    seed: int
    instruction: str
    ended: str
    """`success`, `failure` (an operator's verdict), `time` or `stopped`."""
    success: bool
    outcome: str
    control_hz: float
    skipped: int
    """Deadlines the control loop lost."""
    starved: int
    """Ticks without an action although one was due."""
    waited: int
    expired_chunks: int
    outdated_chunks: int
    """Of mode `rtc`: later than the delay they were made for, and left aside."""
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
    """Of what ended the episode: the inference process's traceback, or why the robot's own record
    is missing."""


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


class _Heard:
    """The operator, and what he decided last."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.verdict: str | None = None

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        orders = self._operator.poll(now_ns, state)
        if orders.verdict is not None:
            self.verdict = orders.verdict
        return orders


def _run(connection: Connection, plan: ControlPlan, stopping: Callable[[], bool]) -> None:
    board = BoardOperator.receive(connection) if plan.commanded else None
    inference = InferenceWorker(plan.encoded_make_act, plan.history)
    robot = plan.make_robot()
    with ExitStack() as closing:
        closing.callback(inference.close)
        try:
            inference.start()  # loads while the robot connects
            robot.connect(stopping)
            _fly(connection, plan, stopping, robot, inference, board, closing)
        finally:
            robot.disconnect()  # before anything else is waited for


def _fly(
    connection: Connection,
    plan: ControlPlan,
    stopping: Callable[[], bool],
    robot: Robot,
    inference: InferenceWorker,
    board: BoardOperator | None,
    closing: ExitStack,
) -> None:
    """All episodes, with a robot that is connected; `closing` ends what was started here."""
    embodiment = robot.embodiment
    own_units = getattr(robot, "own_units", None)
    units, said = unit_map(plan.policy_units, plan.trained_for, embodiment, own_units)
    control_hz = plan.control_hz or embodiment.control_hz
    steps = servo_steps(embodiment, control_hz, plan.servo_hz)
    gate = SafetyGate(
        limits_for(plan.limits, embodiment), embodiment, control_hz * steps, plan.dry_run
    )
    operator: Operator = board or NOBODY
    if plan.make_teleoperator is not None:
        teleoperator = plan.make_teleoperator(embodiment)
        closing.callback(teleoperator.disconnect)
        teleoperator.connect(stopping)
        taken_over = None if board is None else lambda: board.taken_over
        operator = TeleoperationOperator(teleoperator, operator, taken_over)
    if units is not None:
        inference.translate(units)
    inference.warm_up(
        embodiment,
        plan.episodes[0][1] or "move",
        stopping=stopping,
        continues=plan.schedule.mode == "rtc",
    )
    plan.schedule.require_horizon(inference.horizon)
    schedule = ChunkExecution(plan.schedule)
    recorder = None
    if plan.record is not None:
        recorder = FlightRecorder(plan.record, embodiment, inference.horizon, control_hz)
        closing.callback(recorder.close)
        operator = recorder.listen(operator)
    heard = _Heard(operator)
    clock = MonotonicClock()
    capacity = round(plan.loop.max_episode_s * control_hz) + _LOG_SLACK_TICKS
    ticker = Ticker(clock, control_hz * steps, capacity * steps)
    interpolator = Interpolator(embodiment, control_hz, control_hz * steps) if steps > 1 else None
    rights = prepare_realtime(plan.priority, plan.require_realtime)
    notes = [*getattr(robot, "notes", ()), *said]
    connection.send(("armed", (rights, clock.wait_method, gate.describe(), notes)))
    for number, (seed, wanted) in enumerate(plan.episodes):
        if stopping():
            raise Stopped(f"stopped before episode {number}")
        log = TickLog(capacity, embodiment.state_dim, embodiment.action_dim)
        instruction = robot.start_episode(seed, wanted)
        gate.begin()
        heard.verdict = None
        if board is not None:
            board.begin_episode()
        if recorder is not None:
            recorder.begin_episode(seed, instruction, plan.info)
        inference.begin_episode(seed, instruction)
        quiet_collector()
        try:
            ended = control_episode(
                robot, inference, ticker, gate, schedule, log, plan.loop, stopping,
                heard, recorder or NO_WATCHER, interpolator,
            )  # fmt: skip
        finally:
            wake_collector()
        folder = None if ended == "stopped" else plan.video_folder
        video = folder and folder / f"robot_{number}_seed{seed}.mp4"
        end, unheard = _finish(robot, video, ended)
        # Lasting success, as the loop judged it (one at the very last moment is none), unless
        # a person said so.
        success = ended == "success" and (end.success or heard.verdict == "success")
        if recorder is not None:
            # A simulator knows that it was not done; of a real arm nobody has said anything.
            unknown = end.outcome == UNJUDGED and heard.verdict is None
            recorder.end_episode(None if unknown else success, end.outcome, {"ended": ended})
        policy_gone = bool(gate.latched & Intervention.POLICY_DEAD)
        connection.send(
            (
                "episode",
                EpisodeReport(
                    seed=seed,
                    instruction=instruction,
                    ended=ended,
                    success=success,
                    outcome=end.outcome,
                    control_hz=control_hz,
                    skipped=ticker.skipped,
                    starved=schedule.starved,
                    waited=schedule.waited,
                    expired_chunks=schedule.expired,
                    outdated_chunks=schedule.outdated,
                    delays=schedule.consumed_delays,
                    inference_s=inference.seconds,
                    counters=end.counters,
                    ticks=log.arrays(),
                    streams=end.streams,
                    video=video if end.video else None,
                    stop_reason=gate.refusal,
                    last_words=inference.last_words() if policy_gone else unheard,
                ),
            )
        )
        if ended == "stopped":
            break
    if recorder is not None:
        robot.disconnect()  # the arm is let go before the disk is waited for
        flights: list[Flight] = recorder.close(RECORDER_GRACE_S)
        connection.send(("flights", flights))


def _finish(robot: Robot, video: Path | None, ended: str) -> tuple[EpisodeEnd, str]:
    """The robot's record of the episode; of a stopped arm that cannot give it any more an empty
    one, and why: what the loop itself has logged must not be lost with the robot."""
    try:
        return robot.finish_episode(video), ""
    except (RuntimeError, TimeoutError) as error:
        if ended != "stopped":
            raise
        return EpisodeEnd(False, UNJUDGED, {}, {}, video=False), str(error)


def limits_for(
    limits: SafetyLimits | ArmLimits | None, embodiment: Embodiment
) -> SafetyLimits | ArmLimits:
    """The limits asked for; without any, those of the simulated table for an arm of tool
    displacements. Limits of an arm that is told displacements are about the joints behind them.
    Raises ValueError for an arm of joint positions without limits."""
    normalised = [name for name in embodiment.action_names if name.endswith(".pos_m100_100")]
    if normalised:
        raise ValueError(
            f"{', '.join(normalised)} are positions in -100 .. 100, for which there are no limits; "
            "drive the arm in degrees (use_degrees=true), and policies that were trained on such "
            "positions with --policy-units lerobot-m100"
        )
    if joint_places(embodiment) is None:
        if isinstance(limits, ArmLimits):
            from .limits_file import renamed

            return SafetyLimits(
                arm=renamed(limits, embodiment.joint_names),
                joint_low_rad=limits.position_low_rad,
                joint_high_rad=limits.position_high_rad,
                joint_margin_rad=limits.position_margin_rad,
            )
        return limits or SafetyLimits()
    if limits is not None:
        return limits
    raise ValueError(
        f"{embodiment.name} is told joint positions and has no limits; give --limits panda, ur5e, "
        "so101 or a file (`deploy_robot/limits_file.py` reads and writes them)"
    )
