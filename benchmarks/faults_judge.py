"""What came of a flight of `faults.py`: from the robot's own diary, then from the log.

Held: the tool arm obeys no displacement any more. The joint arm brakes: what it is still told to
travel is no more than a brake from its speed takes, and it ends. Both in the *robot's* diary, as
the time from when the fault was noticeable, in control ticks.

Stopped: the arm stands for good, as the simulator measured it, and the gate is latched.
"""

from dataclasses import dataclass, field

import numpy as np
from faults_flight import Flight
from faults_parts import COMMAND, CONTROL_HZ, MEASURED, limits_of

from ulna.datasets.store import Store
from ulna.deploy_robot.interventions import CORRECTED
from ulna.deploy_robot.limits import ArmLimits
from ulna.envs.rollout import evaluation_seeds

_TICK_NS = 1e9 / CONTROL_HZ
_STILL = {"tool": 0.005, "joints": 0.02}
"""m/s, rad/s: at rest."""
_WINDOW_NS = 60e6
"""Over which the speed before the fault is taken."""


@dataclass
class Verdict:
    """One flight, judged."""

    hold_ticks: float | None
    """None: the arm has nothing to hold for."""
    stop_s: float | None
    wrongs: list[str] = field(default_factory=list)
    """Empty: all as it must be."""
    readable: bool = True
    """The log is there, whole and readable."""
    late_ms: float = 0.0
    """The loop's latest tick before the fault."""


def judge(flight: Flight) -> Verdict:
    fault = flight.fault
    lines = flight.diary.lines()
    notice_ns = flight.fault_ns + fault.notice_s * 1e9
    told, moved = lines[lines[:, 1] == COMMAND], lines[lines[:, 1] == MEASURED]
    columns = 3 if flight.robot == "tool" else 7
    speed = np.abs(moved[:, 2 + columns : 2 + 2 * columns]).max(axis=1)
    if flight.name == "link frozen":
        # The simulated arm stood still with its process and goes on from where it was.
        moved[moved[:, 0] > flight.thawed_ns, 0] -= flight.thawed_ns - flight.fault_ns
    moving = moved[speed > _STILL[flight.robot], 0]
    last_moved_ns = float(moving[-1]) if len(moving) else 0.0
    verdict = Verdict(None, None)
    rows = _log(flight, verdict)
    if fault.goes_on:
        _judge_end(flight, verdict, float(moved[-1, 0]) - last_moved_ns, rows)
        return verdict
    if flight.robot == "tool":
        motion = told[np.abs(told[:, 2:5]).max(axis=1) > 1e-9, 0]
        held_ns = motion[-1] if len(motion) else 0.0
    else:
        held_ns = brake_began_ns(told[:, 0], told[:, 2:9], notice_ns)
    verdict.hold_ticks = max(0.0, float(held_ns - notice_ns) / _TICK_NS)
    if verdict.hold_ticks > 1.0:
        verdict.wrongs.append(f"obeyed {verdict.hold_ticks:.2f} ticks after the notice")
    ends_ns = [last_moved_ns]
    if rows is not None:
        _judge_rows(flight, verdict, rows, notice_ns, ends_ns)
    verdict.stop_s = max(0.0, (max(ends_ns) - flight.fault_ns) * 1e-9)
    if verdict.stop_s > fault.stop_s:
        verdict.wrongs.append(f"stopped after {verdict.stop_s:.2f} s of {fault.stop_s:g} s")
    if flight.left_over:
        verdict.wrongs.append(f"{flight.left_over} processes outlived it")
    return verdict


def brake_began_ns(time_ns: np.ndarray, told_rad: np.ndarray, notice_ns: float) -> float:
    """When the commands after `notice_ns` had no more way before them than a brake takes."""
    limits = limits_of("joints")
    assert isinstance(limits, ArmLimits)
    way = np.abs(np.diff(told_rad, axis=0, prepend=told_rad[:1]))
    window = (time_ns > notice_ns - _WINDOW_NS) & (time_ns <= notice_ns)
    speed = 1.3 * way[window].sum(axis=0) / (_WINDOW_NS * 1e-9) + 0.02
    a, j = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
    brake = speed**2 / (2 * a) + speed * a / (2 * j) + speed / 240
    after = np.flatnonzero(time_ns > notice_ns)
    left = way[after][::-1].cumsum(axis=0)[::-1] - way[after]  # after each command
    too_far = (left > brake).any(axis=1)
    if not too_far.any():
        return notice_ns
    # The first command from which on it is lawful; the last one itself leaves no way.
    return float(time_ns[after[np.flatnonzero(too_far)[-1] + 1]])


def _log(flight: Flight, verdict: Verdict) -> dict[str, np.ndarray] | None:
    """The rows of the flight in the store, compared with the tick log."""
    ticks_file = flight.folder / "out" / "ticks.npz"
    reported = flight.name not in ("supervisor killed", "control killed")
    if reported and not ticks_file.exists():
        verdict.wrongs.append("no tick log")
        verdict.readable = False
    ticks = dict(np.load(ticks_file)) if ticks_file.exists() else None
    store = Store.open(flight.store)
    seed = evaluation_seeds(flight.number, 1)[0]
    found = [index for index, episode in enumerate(store.episodes) if episode.seed == seed]
    if flight.name == "recorder killed":
        # Its episode dies with it; the tick log does not, and says so.
        if found:
            verdict.wrongs.append("a killed recorder's episode is in the store")
        return ticks
    if len(found) != 1:
        verdict.wrongs.append(f"{len(found)} episodes in the store")
        verdict.readable = False
        return ticks
    names = ("tick", "gate", "action_sent", "scheduled_ns", "sent_ns")
    rows = {name: store.read(name, found[0]) for name in names}
    rows["woke_ns"] = store.read("time_ns", found[0])
    info = store.episodes[found[0]].info
    holes = int((np.diff(rows["tick"]) - 1).sum()) + int(info["dropped_ticks"])
    if ticks is not None:
        holes += abs(len(ticks["tick"]) - len(rows["tick"]))
        lost_deadlines = int((np.diff(ticks["tick"]) - 1).sum())
        holes -= lost_deadlines
    if holes:
        verdict.wrongs.append(f"{holes} ticks are missing in the store")
        verdict.readable = False
    if bool(info["interrupted"]) != (flight.name == "control killed"):
        verdict.wrongs.append(f"interrupted: {info['interrupted']}")
    before = rows["woke_ns"] < flight.fault_ns
    late = (rows["woke_ns"] - rows["scheduled_ns"])[before]
    verdict.late_ms = float(late.max()) * 1e-6 if len(late) else 0.0
    return rows


def _judge_rows(
    flight: Flight,
    verdict: Verdict,
    rows: dict[str, np.ndarray],
    notice_ns: float,
    ends_ns: list[float],
) -> None:
    latched_by = flight.fault.latched_by
    if flight.name == "control killed":
        if rows["woke_ns"][-1] < flight.fault_ns - 2 * _TICK_NS:
            verdict.wrongs.append("the last ticks are missing in the store")
            verdict.readable = False
        return
    after = rows["woke_ns"] > notice_ns
    free = int((rows["gate"][after] & ~CORRECTED == 0).sum())
    if free:
        verdict.wrongs.append(f"{free} ticks after the notice that were no hold")
    assert latched_by is not None
    latched = np.flatnonzero(rows["gate"] & latched_by.value)
    if len(latched):
        # A policy that cannot be reached is held for some ticks; the last of them latches.
        ends_ns.append(float(rows["sent_ns"][latched[-1]]))
    else:
        verdict.wrongs.append(f"never latched by {latched_by.name}: {flight.error[:200]}")
    if reason_is_missing(flight):
        verdict.wrongs.append(f"run() said: {flight.error[:300]}")


def reason_is_missing(flight: Flight) -> bool:
    latched_by = flight.fault.latched_by
    if flight.name == "supervisor killed" or latched_by is None:
        return False
    return str(latched_by.name).lower() not in flight.error


def _judge_end(
    flight: Flight, verdict: Verdict, rest_ns: float, rows: dict[str, np.ndarray] | None
) -> None:
    """The arm flew on to its end and rests."""
    if flight.error:
        verdict.wrongs.append(f"run() said: {flight.error[:300]}")
    if rest_ns < 50e6:
        verdict.wrongs.append("did not come to rest")
    if rows is not None:
        after = rows["woke_ns"] > flight.fault_ns
        held = int((rows["gate"][after][:-1] & ~CORRECTED != 0).sum())
        if held:
            verdict.wrongs.append(f"{held} ticks were held though only the recorder was gone")
