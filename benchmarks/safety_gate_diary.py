"""What was commanded to an arm and what it did, held against its limits: for `safety_gate.py`."""

from collections import Counter
from typing import Any

import numpy as np
from safety_gate_arms import SERVO_HZ, ServoArm

from ulna.deploy_robot.limits import ArmLimits

TOLERANCE = 0.02
"""Of measured velocity over the limit: what coupling between joints does to a servo's tracking."""
PERIOD_S = 1.0 / SERVO_HZ


class Diary:
    """Everything that was commanded and measured; judged against the limits afterwards."""

    def __init__(self, limits: ArmLimits, ticks: int) -> None:
        self.limits = limits
        joints = len(limits.joint_names)
        self._command = np.zeros((ticks, joints))
        self._position = np.zeros((ticks, joints))
        self._velocity = np.zeros((ticks, joints))
        self._tool = np.zeros((ticks, 3))
        self._depth = np.zeros(ticks)
        self._anew: list[int] = [0]
        self._touched: Counter[str] = Counter()
        self._ticks = 0

    def begin_anew(self) -> None:
        """The command starts from where the arm is: it is no motion from the one before."""
        self._anew.append(self._ticks)

    def add(self, command: np.ndarray, arm: ServoArm) -> None:
        tick = self._ticks
        self._command[tick] = command
        self._position[tick] = arm.position_rad
        self._velocity[tick] = arm.velocity_rad_s
        self._tool[tick] = arm.tool_m
        if arm.data.ncon:
            depth, pair = arm.touching()
            self._depth[tick] = -depth
            if pair is not None:
                self._touched[" and ".join(pair)] += 1
        self._ticks += 1

    def judged(self) -> dict[str, Any]:
        """The worst of each as a part of its limit, and how many ticks exceeded one."""
        limits, n = self.limits, self._ticks
        velocity = np.array(limits.velocity_rad_s) * limits.fraction
        acceleration = np.array(limits.acceleration_rad_s2) * limits.fraction
        jerk = np.array(limits.jerk_rad_s3) * limits.fraction
        anew = np.zeros(n, dtype=bool)
        anew[[tick for tick in self._anew if tick < n]] = True
        worst: dict[str, float] = {}
        exceeded = 0
        motion, valid = self._command[:n], ~anew
        for order, (name, limit) in enumerate(
            [("velocity", velocity), ("acceleration", acceleration), ("jerk", jerk)]
        ):
            motion = np.diff(motion, axis=0) / PERIOD_S
            shares = (np.abs(motion) / limit).max(axis=1, initial=0)
            # A difference of this order reaches over order + 2 ticks, all after the same start.
            whole = np.ones(len(shares), dtype=bool)
            for back in range(order + 1):
                whole &= valid[order + 1 - back : n - back]
            shares = shares[whole]
            worst[f"commanded_{name}"] = float(shares.max(initial=0))
            exceeded += int((~(shares <= 1 + 1e-6)).sum())
        change = np.abs(np.diff(self._velocity[:n], axis=0)) / PERIOD_S / acceleration
        worst["measured_acceleration"] = float(change.max(initial=0))
        low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
        position, tool = self._position[:n], self._tool[:n]
        for name, values, most in (
            ("measured_velocity", np.abs(self._velocity[:n]) / velocity, 1 + TOLERANCE),
            ("past_range_rad", np.array(limits.position_low_rad) - position, 0.0),
            ("past_range_rad", position - np.array(limits.position_high_rad), 0.0),
            ("tool_outside_m", low - tool, 0.0),
            ("tool_outside_m", tool - high, 0.0),
            ("contact_depth_m", self._depth[:n, None], limits.collision_margin_m),
        ):
            per_tick = values.max(axis=1, initial=-np.inf)
            worst[name] = max(worst.get(name, 0.0), float(per_tick.max(initial=0.0)))
            exceeded += int((~(per_tick <= most)).sum())
        contacts = int((self._depth[:n] > 0).sum())
        return {
            "exceeded": exceeded,
            **worst,
            "ticks_in_contact": contacts,
            "touched": dict(self._touched),
        }
