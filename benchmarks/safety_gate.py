"""Whether anything gets through the safety gate: orders of all kinds onto simulated arms.

    python benchmarks/safety_gate.py [--quick] [--ticks 1000000] [--tool-ticks 20000]

A Panda told joint positions (a servo per joint at 500 Hz, robosuite's meshes and masses, a table)
gets random goals, steps, goals that flip every tick, random walks, numbers up to 1e30, sines, NaN
and infinity, stale ages, dead and unreachable policies, wrong shapes. What is judged is the motion
that was *measured*, against the gate's own limits, and the motion that was commanded. Every latched
stop is released again as soon as the arm rests. Beside it, in the same run and on the same arm,
the cap on relative goals that lerobot offers, with the same orders.

The arm of `envs` told tool displacements gets the same kinds, at its own rate.
"""

import argparse
import gc
import logging
import math
import os
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from record import Benchmark
from safety_gate_arms import SERVO_HZ, Orders, ServoArm, joint_embodiment
from safety_gate_diary import PERIOD_S, Diary

from ulna.deploy_robot.interventions import Intervention
from ulna.deploy_robot.limits import ArmLimits, SafetyLimits
from ulna.deploy_robot.limits_file import renamed, shipped_limits
from ulna.deploy_robot.safety import SafetyGate

_TOOL_MARGIN_RAD = 0.25
"""Of the tool arm's joints: what the controller's own posture may turn them on while it holds."""
_TOOL_FRACTION = 0.8
"""Of the data sheet's velocity, that the gate allows the joints behind the tool: what they do is
foreseen, not commanded. Measured against the data sheet."""
QUIET = {"observation_age_s": 0.01, "action_age_s": 0.1, "policy_silence_s": 0.0}
COLUMNS = ("", "gate", "lerobot cap")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few thousand ticks")
    parser.add_argument("--ticks", type=int, default=1_000_000, help="servo ticks of the joint arm")
    parser.add_argument("--tool-ticks", type=int, default=20_000, help="ticks of the tool arm")
    parser.add_argument("--lerobot-ticks", type=int, default=40_000)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.ticks, chosen.tool_ticks, chosen.lerobot_ticks = 3000, 60, 1000
    benchmark = Benchmark("safety_gate", chosen.quick)
    limits = shipped_limits("panda")
    gate = gated(limits, chosen.ticks, seed=0)
    cap = capped(limits, chosen.lerobot_ticks, seed=0)
    tool = tool_arm(chosen.tool_ticks, seed=0)
    rows = [(name, gate[name], cap.get(name, "")) for name in gate if name != "interventions"]
    benchmark.table("a Panda told joint positions", COLUMNS, rows)
    benchmark.table(
        "the arm of envs told tool displacements",
        ("", ""),
        [(name, value) for name, value in tool.items() if name != "interventions"],
    )
    benchmark.finish(
        ratios={
            "exceeded_limits": gate["exceeded"] + tool["exceeded"],
            "check_p99_us": gate["check_cpu_p99_us"],
            "max_measured_velocity_vs_limit": gate["measured_velocity"],
            "max_commanded_jerk_vs_limit": gate["commanded_jerk"],
            "lerobot_max_commanded_acceleration_vs_limit": cap["commanded_acceleration"],
        },
        figures={"gate": gate, "lerobot": cap, "tool": tool, "load_at_end": os.getloadavg()[0]},
    )


def gated(limits: ArmLimits, ticks: int, seed: int) -> dict[str, Any]:
    """All kinds of orders through the gate onto the servo arm."""
    arm, diary = ServoArm(limits.rest_rad), Diary(limits, ticks)
    gate = SafetyGate(limits, joint_embodiment(limits), servo_hz=SERVO_HZ)
    orders = Orders(seed, *_beyond(limits), PERIOD_S)
    state = np.zeros(len(limits.joint_names))
    wall_us, cpu_us = np.zeros(ticks), np.zeros(ticks)
    found: Counter[int] = Counter()
    stops = 0
    gc.collect()
    gc.freeze()
    for tick in range(ticks):
        if gate.latched and gate.at_rest and np.abs(arm.velocity_rad_s).max() < 1e-3:
            stops += 1
            gate.reset()
            diary.begin_anew()
        action, facts = orders.next()
        values: dict[str, Any] = {"policy_dead": False, **QUIET, **facts}
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        command, bits = gate.check(action, state, arm.position_rad, dt_s=PERIOD_S, **values)
        cpu_us[tick] = (time.thread_time_ns() - cpu) * 1e-3
        wall_us[tick] = (time.perf_counter_ns() - wall) * 1e-3
        found[bits] += 1
        arm.step(command)
        diary.add(command, arm)
    gc.unfreeze()
    return {
        "ticks": ticks,
        **diary.judged(),
        "not_finite_sent": 0 if math.isfinite(float(arm.position_rad.sum())) else 1,
        "latched_and_released": stops,
        "check_p50_us": float(np.percentile(wall_us, 50)),
        "check_p99_us": float(np.percentile(wall_us, 99)),
        "check_cpu_p50_us": float(np.percentile(cpu_us, 50)),
        "check_cpu_p99_us": float(np.percentile(cpu_us, 99)),
        "interventions": counted(found),
    }


def capped(limits: ArmLimits, ticks: int, seed: int) -> dict[str, Any]:
    """The same orders with what lerobot has: no goal farther from the present position than a
    joint may move in one tick."""
    from lerobot.robots.utils import ensure_safe_goal_position

    logging.disable(logging.WARNING)  # it warns at every clamp
    arm, diary = ServoArm(limits.rest_rad), Diary(limits, ticks)
    orders = Orders(seed, *_beyond(limits), PERIOD_S)
    names = limits.joint_names
    # The servo's own lag has to fit under the cap, or the arm could not reach its speed.
    cap = {
        name: speed * limits.fraction * 0.02
        for name, speed in zip(names, limits.velocity_rad_s, strict=True)
    }
    not_finite = broken = 0
    cpu_us = []
    for _ in range(ticks):
        action, _facts = orders.next()
        if action is None or len(action) != len(names):
            continue  # nothing of the kind is looked at
        pairs = {
            name: (float(goal), float(present))
            for name, goal, present in zip(names, action, arm.position_rad, strict=True)
        }
        cpu = time.thread_time_ns()
        safe = ensure_safe_goal_position(pairs, cap)
        cpu_us.append((time.thread_time_ns() - cpu) * 1e-3)
        goal = np.array([safe[name] for name in names])
        if not np.isfinite(goal).all():
            not_finite += 1
            continue  # a simulator would not survive it either; counted, not sent
        arm.step(goal)
        if not np.isfinite(arm.position_rad).all():
            broken += 1
            arm = ServoArm(limits.rest_rad)
            diary.begin_anew()
            continue
        diary.add(goal, arm)
    logging.disable(logging.NOTSET)
    return {
        "ticks": ticks,
        **diary.judged(),
        "not_finite_sent": not_finite,
        "simulations_broken": broken,
        "check_cpu_p50_us": float(np.percentile(cpu_us, 50)),
        "check_cpu_p99_us": float(np.percentile(cpu_us, 99)),
    }


def tool_arm(ticks: int, seed: int) -> dict[str, Any]:
    """All kinds of orders onto the arm of envs, which is told tool displacements."""
    from ulna.envs.tasks import make_env

    env = make_env("pick_named", render_profile="fast")
    embodiment = env.embodiment
    env.reset(seed)
    arm = renamed(shipped_limits("panda"), embodiment.joint_names)
    limits = SafetyLimits(
        arm=replace(arm, fraction=_TOOL_FRACTION), joint_margin_rad=_TOOL_MARGIN_RAD
    )
    gate = SafetyGate(limits, embodiment)
    low, high = np.full(embodiment.action_dim, -1.5), np.full(embodiment.action_dim, 1.5)
    orders = Orders(seed, low, high, 1 / embodiment.control_hz)
    wall_low, wall_high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    speed = np.array(arm.velocity_rad_s)
    before = env.joint_position_rad().copy()
    outside_m = past_rad = fastest = 0.0
    stops = moved = 0
    cpu_us = []
    found: Counter[int] = Counter()
    tool = [embodiment.state_names.index(name) for name in limits.tool_position_names]
    for tick in range(ticks):
        if tick % 2000 == 1999:
            env.reset(seed + tick)
            before = env.joint_position_rad().copy()
        if gate.latched:
            stops += 1
            gate.reset()
        action, facts = orders.next()
        values: dict[str, Any] = {"policy_dead": False, **QUIET, **facts}
        state = env.state()
        joints = env.joint_position_rad()
        cpu = time.thread_time_ns()
        command, bits = gate.check(action, state, joints, **values)
        cpu_us.append((time.thread_time_ns() - cpu) * 1e-3)
        moved += bool(command[:6].any())
        found[bits] += 1
        env.step(command.copy())
        joints = env.joint_position_rad()
        tool_m = np.asarray(env.state())[tool]
        outside_m = max(outside_m, float(np.maximum(wall_low - tool_m, tool_m - wall_high).max()))
        past = np.maximum(
            np.array(limits.joint_low_rad) - joints, joints - np.array(limits.joint_high_rad)
        )
        past_rad = max(past_rad, float(past.max()))
        turned = np.abs(joints - before) * embodiment.control_hz / speed
        fastest, before = max(fastest, float(turned.max())), joints.copy()
    env.close()
    return {
        "ticks": ticks,
        "ticks_that_moved": moved,
        "exceeded": int(past_rad > 0) + int(fastest > 1) + int(outside_m > 0),
        "tool_outside_m": outside_m,
        "joint_past_range_rad": past_rad,
        "joint_velocity": fastest,
        "latched_and_released": stops,
        "check_cpu_p50_us": float(np.percentile(cpu_us, 50)),
        "check_cpu_p99_us": float(np.percentile(cpu_us, 99)),
        "interventions": counted(found),
    }


def counted(found: Counter[int]) -> dict[str, int]:
    """Ticks per intervention."""
    return {
        (bit.name or "").lower(): sum(n for bits, n in found.items() if bits & bit.value)
        for bit in Intervention
    }


def _beyond(limits: ArmLimits) -> tuple[np.ndarray, np.ndarray]:
    """Goals half as wide again as the joints' ranges."""
    low, high = np.array(limits.position_low_rad), np.array(limits.position_high_rad)
    wide = (high - low) / 4
    return low - wide, high + wide


if __name__ == "__main__":
    main()
