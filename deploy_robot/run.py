"""`run`: a policy on an arm for some episodes, and what came of it as `results.json`.

This is the supervisor: it starts the control process, waits, draws up the figures. It touches
neither the robot nor the policy, so nothing that happens here can disturb a control tick.
"""

import functools
import json
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..datasets.schema import Embodiment, unknown_name
from ..envs.rollout import SUCCESS_TICKS, evaluation_seeds
from .chunk_schedule import ScheduleConfig
from .control_loop import LoopConfig
from .control_process import ControlPlan, EpisodeReport, control_process
from .inference import MakeAct
from .inference_worker import encode_make_act
from .processes import end_process, start_process
from .realtime import RealtimeRights
from .robot import Robot
from .safety import SafetyLimits
from .sim_robot import SimRobot
from .tick_log import count_interventions

ROBOTS: dict[str, Callable[[str], Robot]] = {"sim": SimRobot}
"""Robot by name, from the task it is to do."""
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
    mode: Literal["asynchronous", "synchronous"] = "asynchronous",
    max_episode_s: float = 8.0,
    control_hz: float | None = None,
    limits: SafetyLimits | None = None,
    priority: int = 10,
    require_realtime: bool = False,
    video: bool = True,
    on_episode: Callable[[dict[str, Any]], None] | None = None,
    trained_for: Embodiment | None = None,
) -> dict[str, Any]:
    """Run `episodes` episodes in wall-clock time and write `out/results.json`; returns the same.

    Args:
        make_act: picklable; builds the policy inside the inference process.
        robot: a name in `ROBOTS`, or a picklable callable that makes a `Robot`.
        seed: run number; scenes are those of `evaluation_seeds(seed, episodes)`, so the first
            scenes of an evaluation with the same seed, and never those of a collection.
        instruction: command for all episodes; None: each scene's own.
        control_hz: None: the embodiment's own rate.
        priority: of SCHED_FIFO, where the kernel grants it (see `realtime` in the results).
        require_realtime: refuse to move the arm without every real-time right.
        on_episode: called with each episode's entry of the results as it ends.
        trained_for: the policy's embodiment; a robot with another is refused. None: not checked.

    `results.json` holds `loop` (tick lateness: how long after its deadline a tick woke; a tick is
    *late* if that exceeded half a period or if its deadline was missed altogether), `inference`
    (delay in control ticks and time per answer), `late_actions` (ticks on which the plan had run
    out), `gate` (ticks per intervention), `realtime`, `robot`, `episodes`, `lateness_ms`. Beside it
    stand `ticks.npz` (the tick log), `episode_<n>.npz` (what the robot recorded) and `videos/`.

    Raises ValueError for what cannot be run, RuntimeError if the arm was stopped by a fault, and
    KeyboardInterrupt after Ctrl-C; in the last two cases the results so far are written first.
    """
    out = Path(out)
    make_robot = _robot_maker(robot, task)
    if episodes < 1 or max_episode_s <= 0 or (control_hz is not None and control_hz <= 0):
        raise ValueError(
            f"episodes {episodes}, max_episode_s {max_episode_s}, control_hz {control_hz}: give at "
            "least 1 episode and values greater than 0"
        )
    plan = ControlPlan(
        make_robot=make_robot,
        encoded_make_act=encode_make_act(make_act),
        trained_for=trained_for,
        episodes=tuple((s, instruction) for s in evaluation_seeds(seed, episodes)),
        schedule=ScheduleConfig(mode=mode, execution_horizon=execution_horizon),
        loop=LoopConfig(max_episode_s=max_episode_s, success_ticks=SUCCESS_TICKS),
        limits=limits or SafetyLimits(),
        control_hz=control_hz,
        priority=priority,
        require_realtime=require_realtime,
        video_folder=out / "videos" if video else None,
    )
    (out / "videos").mkdir(parents=True, exist_ok=True)
    reports: list[EpisodeReport] = []
    rights: dict[str, Any] = {}

    def hear(kind: str, value: Any) -> None:
        if kind == "armed":
            granted: RealtimeRights = value[0]
            rights.update(granted.as_dict(), wait=value[1])
        elif kind == "episode":
            reports.append(value)
            if on_episode is not None:
                on_episode(_episode_entry(value, out))
        elif kind == "refused":
            raise ValueError(value)
        elif kind == "crashed":
            raise RuntimeError(f"the control process crashed:\n{value}")

    process, connection = start_process(
        control_process, (plan,), "control", {"OMP_NUM_THREADS": "1"}, has_children=True
    )
    interrupted = False
    try:
        try:
            _listen(process, connection, hear)
        except KeyboardInterrupt:
            interrupted = True
            process.terminate()  # a flag over there: hold, report, end the children
            _listen(process, connection, hear)
    finally:
        if process.is_alive():
            process.terminate()
        end_process(process, connection, STOP_GRACE_S)
    results = _results(reports, rights, out)
    if reports:
        _write(results, reports, out)
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


def _robot_maker(robot: str | Callable[[], Robot], task: str) -> Callable[[], Robot]:
    if not isinstance(robot, str):
        return robot
    if robot not in ROBOTS:
        raise unknown_name("robot", robot, ROBOTS)
    return functools.partial(ROBOTS[robot], task)


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


def _episode_entry(report: EpisodeReport, out: Path) -> dict[str, Any]:
    steps = len(report.ticks["tick"])
    return {
        "seed": report.seed,
        "instruction": report.instruction,
        "success": report.success,
        "outcome": report.outcome,
        "ended": report.ended,
        "steps": steps,
        "seconds": round(steps / report.control_hz, 3),
        "video": None if report.video is None else report.video.relative_to(out).as_posix(),
    }


def _results(reports: list[EpisodeReport], rights: dict[str, Any], out: Path) -> dict[str, Any]:
    def joined(values: list[Any]) -> np.ndarray:
        return np.concatenate([np.asarray(v, dtype=np.float64) for v in values] or [np.zeros(0)])

    lateness_ms = joined([r.ticks["woke_ns"] - r.ticks["scheduled_ns"] for r in reports]) * 1e-6
    work_ms = joined([r.ticks["sent_ns"] - r.ticks["woke_ns"] for r in reports]) * 1e-6
    delays = joined([r.delays for r in reports])
    inference_ms = joined([r.inference_s for r in reports]) * 1e3
    gate = [r.ticks["gate"] for r in reports]
    control_hz = reports[0].control_hz if reports else None
    period_ms = 1e3 / control_hz if control_hz else None
    skipped = sum(r.skipped for r in reports)
    late = skipped + (int(np.count_nonzero(lateness_ms > period_ms / 2)) if period_ms else 0)
    stopped = next((r for r in reports if r.ended == "stopped"), None)
    return {
        "loop": {
            **_spread("", lateness_ms),
            "late_ticks": late,
            "missed_deadlines": skipped,
            "ticks": len(lateness_ms),
            "control_hz": control_hz,
            "period_ms": period_ms,
            **_spread("work_", work_ms),
        },
        "inference": {
            "delay_ticks_mean": float(delays.mean()) if len(delays) else None,
            "delay_ticks_max": int(delays.max()) if len(delays) else None,
            **_spread("", inference_ms),
            "answers": len(inference_ms),
            "expired": sum(r.expired_chunks for r in reports),
        },
        "late_actions": sum(r.starved for r in reports),
        "waiting_ticks": sum(r.waited for r in reports),
        "gate": count_interventions(np.concatenate(gate or [np.zeros(0, np.int32)])),
        "realtime": rights,
        "robot": {
            name: sum(r.counters.get(name, 0) for r in reports)
            for name in sorted({name for r in reports for name in r.counters})
        },
        "episodes": [_episode_entry(report, out) for report in reports],
        "stopped": None
        if stopped is None
        else {"reason": stopped.stop_reason, "last_words": stopped.last_words},
        "lateness_ms": [round(float(value), 4) for value in lateness_ms],
    }


def _spread(prefix: str, values: np.ndarray) -> dict[str, float | None]:
    """Median, 99th percentile and maximum in milliseconds; null where nothing was measured."""
    if len(values) == 0:
        return dict.fromkeys((f"{prefix}p50_ms", f"{prefix}p99_ms", f"{prefix}max_ms"))
    return {
        f"{prefix}p50_ms": float(np.percentile(values, 50)),
        f"{prefix}p99_ms": float(np.percentile(values, 99)),
        f"{prefix}max_ms": float(values.max()),
    }


def _write(results: dict[str, Any], reports: list[EpisodeReport], out: Path) -> None:
    columns: dict[str, Any] = {
        name: np.concatenate([report.ticks[name] for report in reports])
        for name in reports[0].ticks
    }
    counts = [len(report.ticks["tick"]) for report in reports]
    np.savez_compressed(
        out / "ticks.npz", episode=np.repeat(np.arange(len(reports)), counts), **columns
    )
    for number, report in enumerate(reports):
        streams: dict[str, Any] = report.streams
        if streams:
            np.savez_compressed(out / f"episode_{number}.npz", **streams)
    # results.json last and in one step: where it stands, the rest stands too.
    partial = out / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, out / "results.json")
