"""`run`: a policy on an arm for some episodes, and what came of it as `results.json`.

This is the supervisor: it starts the control process, waits, draws up the figures. It touches
neither the robot nor the policy, so nothing that happens here can disturb a control tick.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ..datasets.schema import Embodiment
from ..envs.chunk_execution import ExecutionConfig, Mode
from ..envs.rollout import SUCCESS_TICKS, evaluation_seeds
from .control_loop import LoopConfig
from .control_process import ControlPlan, EpisodeReport, Teleoperator, control_process
from .flight_lanes import Flight, FlightConfig
from .inference import MakeAct
from .inference_worker import encode_make_act
from .limits import ArmLimits, SafetyLimits
from .operator_board import OperatorBoard
from .operator_keys import Keyboard
from .policy_units import PolicyUnits, check_policy_units
from .processes import end_process, start_process
from .realtime import RealtimeRights
from .robot import Robot
from .robots import make_robot
from .run_results import episode_entry, results_of, write_results

DELAY_MARGIN = 1
"""Control ticks: an arm's answers are not equally late every time."""
STOP_GRACE_S = 30.0
"""Time for the arm to hold and for all processes to end after Ctrl-C."""


def run(
    make_act: MakeAct,
    robot: str | Callable[[], Robot] = "sim",
    task: str = "pick_named",
    episodes: int = 3,
    seed: int = 0,
    instruction: str | None = None,
    out: Path | str = Path("runs/robot"),
    execution_horizon: int = 8,
    mode: Mode = "asynchronous",
    max_episode_s: float = 8.0,
    control_hz: float | None = None,
    servo_hz: float | None = None,
    limits: SafetyLimits | ArmLimits | None = None,
    dry_run: bool = False,
    max_delay: int | None = None,
    robot_options: Mapping[str, str] | None = None,
    record: FlightConfig | None = None,
    info: Mapping[str, str | int | float | bool] | None = None,
    board: OperatorBoard | None = None,
    keys: bool = False,
    make_teleoperator: Callable[[Embodiment], Teleoperator] | None = None,
    priority: int = 10,
    require_realtime: bool = False,
    video: bool = True,
    on_episode: Callable[[dict[str, Any]], None] | None = None,
    trained_for: Embodiment | None = None,
    policy_units: PolicyUnits | None = None,
    history: int = 1,
) -> dict[str, Any]:
    """Run `episodes` episodes in wall-clock time and write `out/results.json`; returns the same.

    Args:
        make_act: picklable; builds the policy inside the inference process.
        robot: a name of `robots.py`, or a picklable callable that makes a `Robot`.
        robot_options: of the named robot, in words.
        seed: run number; scenes are those of `evaluation_seeds(seed, episodes)`, so the first
            scenes of an evaluation with the same seed, and never those of a collection.
        instruction: command for all episodes; None: each scene's own.
        mode: how chunks are executed (`../envs/chunk_execution.py`); on an arm `synchronous` is
            `hold`: the world does not stand still.
        max_delay: of a policy taught to continue plans: the longest delay it knows, in actions.
        control_hz: None: the embodiment's own rate.
        servo_hz: at which joint positions are sent, a whole multiple of the control rate.
        limits: of the safety gate; None: those of the simulated table, for an arm of tool
            displacements only.
        dry_run: see, think and log everything, and send the arm a hold.
        record: store what the loop saw, decided and sent as episodes; `info` goes with each.
        board: what a program has the operator want; with `keys` the keyboard writes on it too.
        keys: take keys from this terminal (`operator_keys.py`); needs one.
        make_teleoperator: picklable; who can take the arm over.
        priority: of SCHED_FIFO, where the kernel grants it (see `realtime` in the results).
        require_realtime: refuse to move the arm without every real-time right.
        on_episode: called with each episode's entry of the results as it ends.
        trained_for: the policy's embodiment; a robot with another is refused. None: not checked.
        policy_units: what the policy's numbers are, if it was trained on data of another kind than
            this robot's own (`policy_units.py`).
        history: observations the policy is given at once: those of consecutive control ticks.

    `results.json` holds `loop` (tick lateness: how long after its deadline a tick woke; a tick is
    *late* if that exceeded half a period or if its deadline was missed altogether), `inference`
    (delay in control ticks and time per answer), `late_actions` (ticks on which the plan had run
    out), `gate` (ticks per intervention), `safety` (what was checked), `notes` (what the
    robot has to say of itself), `realtime`, `robot`,
    `flights` (what was recorded), `episodes`, `lateness_ms`. Beside it stand `ticks.npz` (the tick
    log), `episode_<n>.npz` (what the robot recorded) and `videos/`.

    Raises ValueError for what cannot be run, RuntimeError if the arm was stopped by a fault, and
    KeyboardInterrupt after Ctrl-C; in the last two cases the results so far are written first.
    """
    out = Path(out)
    make = robot
    check_policy_units(policy_units, robot if isinstance(robot, str) else None)
    if isinstance(make, str):
        make = functools.partial(make_robot, make, task, dict(robot_options or {}), trained_for)
        make()  # a misspelt word is refused here, before anything is started
    if history < 1:
        raise ValueError(f"history {history}; a policy sees 1 observation or more")
    if episodes < 1 or max_episode_s <= 0 or (control_hz is not None and control_hz <= 0):
        raise ValueError(
            f"episodes {episodes}, max_episode_s {max_episode_s}, control_hz {control_hz}: give at "
            "least 1 episode and values greater than 0"
        )
    plan = ControlPlan(
        make_robot=make,
        encoded_make_act=encode_make_act(make_act),
        history=history,
        trained_for=trained_for,
        policy_units=policy_units,
        episodes=tuple((s, instruction) for s in evaluation_seeds(seed, episodes)),
        schedule=ExecutionConfig(
            mode=mode,
            execution_horizon=execution_horizon,
            delay_margin=DELAY_MARGIN,
            max_delay=max_delay,
        ),
        loop=LoopConfig(max_episode_s=max_episode_s, success_ticks=SUCCESS_TICKS),
        limits=limits,
        control_hz=control_hz,
        servo_hz=servo_hz,
        dry_run=dry_run,
        record=record,
        info=dict(info or {}),
        commanded=keys or board is not None,
        make_teleoperator=make_teleoperator,
        priority=priority,
        require_realtime=require_realtime,
        video_folder=out / "videos" if video else None,
    )
    (out / "videos").mkdir(parents=True, exist_ok=True)
    reports: list[EpisodeReport] = []
    flights: list[Flight] = []
    armed: dict[str, Any] = {}

    def hear(kind: str, value: Any) -> None:
        if kind == "armed":
            rights: RealtimeRights = value[0]
            armed["realtime"] = {**rights.as_dict(), "wait": value[1]}
            armed["safety"] = value[2]
            armed["notes"] = value[3]
        elif kind == "episode":
            reports.append(value)
            if on_episode is not None:
                on_episode(episode_entry(value, out))
        elif kind == "flights":
            flights.extend(value)
        elif kind == "refused":
            raise ValueError(value)
        elif kind == "crashed":
            raise RuntimeError(f"the control process crashed:\n{value}")

    if plan.commanded:
        board = board or OperatorBoard()
    interrupted = False
    with ExitStack() as closing:
        if keys:
            assert board is not None
            # Refuses here if there is no terminal; gives it back when all is over.
            closing.enter_context(Keyboard(board, teleoperator=make_teleoperator is not None))
        process, connection = start_process(
            control_process, (plan,), "control", {"OMP_NUM_THREADS": "1"}, has_children=True
        )
        try:
            try:
                if board is not None:
                    board.send(connection)
                _listen(process, connection, hear)
            except KeyboardInterrupt:
                interrupted = True
                process.terminate()  # a flag over there: hold, report, end the children
                _listen(process, connection, hear)
        finally:
            if process.is_alive():
                process.terminate()
            end_process(process, connection, STOP_GRACE_S)
    results = results_of(reports, armed, flights, out)
    if reports:
        write_results(results, reports, out)
    if interrupted:
        raise KeyboardInterrupt
    if stopped := results["stopped"]:
        raise RuntimeError(
            f"the arm was stopped ({stopped['reason']}) in episode {len(reports) - 1} and holds; "
            f"the log is in {out}. {stopped['last_words']}".rstrip()
        )
    if len(reports) < episodes:
        raise RuntimeError(f"the control process was stopped after {len(reports)} episodes")
    return results


def _listen(
    process: SpawnProcess, connection: Connection, hear: Callable[[str, Any], None]
) -> None:
    """Pass messages on until the control process is done."""
    while True:
        alive = process.is_alive()
        if connection.poll(0.1 if alive else 0.0):
            try:
                kind, value = connection.recv()
            except (EOFError, ConnectionResetError):
                kind, value = "ended", None
            hear(kind, value)
            if kind in ("done", "stopped"):
                return
            if kind != "ended":
                continue
            process.join(STOP_GRACE_S)
            alive = False
        if not alive:
            raise RuntimeError(
                f"the control process ended without a word (exit code {process.exitcode}); the "
                "arm holds, as it gets no commands"
            )
