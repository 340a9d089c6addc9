"""Arms that obey whatever they are sent, for `safety_gate.py`, and the orders that try them.

The joint arm is robosuite's Panda with its own collision meshes, masses and hand, above a table:
a position servo per joint with gravity compensation, one simulation step per servo tick. It is
not the model that the gate looks at (capsules), so the gate's model is tested along.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import robosuite

from ulna.datasets.schema import Embodiment
from ulna.deploy_robot.limits import ArmLimits

SERVO_HZ = 500.0
_SERVO_RAD_S = 150.0
_ROTOR_KG_M2 = 1.0
_DAMPING = 1.5
"""Of the servo, as a part of critical damping: an arm that lags rather than overshoots."""
KINDS = ("random", "step", "flip", "walk", "wild", "sine", "not finite", "stale", "faulty")


class ServoArm:
    """A simulated Panda told where its joints shall be."""

    def __init__(self, start_rad: tuple[float, ...]) -> None:
        assets = Path(robosuite.__file__).parent / "models" / "assets"
        spec = mujoco.MjSpec.from_file(str(assets / "robots" / "panda" / "robot.xml"))
        hand = mujoco.MjSpec.from_file(str(assets / "grippers" / "panda_gripper.xml"))
        for one in (spec, hand):
            for actuator in list(one.actuators):
                one.delete(actuator)
        for sensor in list(hand.sensors):
            hand.delete(sensor)
        for joint in list(hand.joints):
            hand.delete(joint)
        frame = spec.body("right_hand").add_frame()
        frame.attach_body(hand.body("right_gripper"), "hand_", "")
        spec.worldbody.add_geom(
            name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], pos=[0, 0, 0]
        )
        spec.option.timestep = 1.0 / SERVO_HZ
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        for body in spec.bodies:
            body.gravcomp = 1.0
        for joint in spec.joints:
            joint.armature = _ROTOR_KG_M2
            actuator = spec.add_actuator(
                name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT
            )
            # Inertia as seen by a servo: its rotor and about what hangs on it.
            inertia = _ROTOR_KG_M2 + 0.7
            stiffness = inertia * _SERVO_RAD_S**2
            actuator.set_to_position(kp=stiffness, kv=2 * _DAMPING * inertia * _SERVO_RAD_S)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.data.qpos[:] = start_rad
        self.data.ctrl[:] = start_rad
        mujoco.mj_forward(self.model, self.data)
        self.neighbours = {self._pair(i) for i in range(self.data.ncon)}
        self._tool = self.model.site("hand_grip_site").id

    def step(self, joints_rad: np.ndarray) -> None:
        self.data.ctrl[:] = joints_rad
        mujoco.mj_step(self.model, self.data)

    @property
    def position_rad(self) -> np.ndarray:
        return self.data.qpos

    @property
    def velocity_rad_s(self) -> np.ndarray:
        return self.data.qvel

    @property
    def tool_m(self) -> np.ndarray:
        return self.data.site_xpos[self._tool]

    def touching(self) -> tuple[float, tuple[str, str] | None]:
        """Deepest contact (negative distance in metres) and between which bodies."""
        deepest, pair = 0.0, None
        for i in range(self.data.ncon):
            distance = float(self.data.contact[i].dist)
            if distance < deepest and self._pair(i) not in self.neighbours:
                deepest, pair = distance, self._pair(i)
        return deepest, pair

    def _pair(self, contact: int) -> tuple[str, str]:
        first, second = (
            self.model.body(self.model.geom_bodyid[geom]).name
            for geom in self.data.contact[contact].geom
        )
        return (first, second) if first <= second else (second, first)


def joint_embodiment(limits: ArmLimits) -> Embodiment:
    joints = limits.joint_names
    return Embodiment(
        name="panda_joints",
        control_hz=50.0,
        state_names=tuple(f"{name}.pos" for name in joints),
        action_names=tuple(f"{name}.pos" for name in joints),
        action_low=tuple(limits.position_low_rad),
        action_high=tuple(limits.position_high_rad),
        action_meaning="absolute joint positions, rad",
        cameras=(),
        joint_names=joints,
    )


class Orders:
    """A stream of what should never be sent to an arm, and of what may."""

    def __init__(self, seed: int, low: np.ndarray, high: np.ndarray, period_s: float) -> None:
        self._random = np.random.default_rng(seed)
        self._low, self._high = low, high
        self._period_s = period_s
        self.kind = "step"
        self._left = 0
        self._tick = 0
        self._goal = (low + high) / 2

    def next(self) -> tuple[np.ndarray | None, dict[str, Any]]:
        """An action (None: none is due) and the ages and states that come with it."""
        random = self._random
        if self._left == 0:
            self.kind = str(random.choice(KINDS))
            self._left = int(random.integers(20, 400))
            self._goal = random.uniform(self._low, self._high)
            self._other = random.uniform(self._low, self._high)
            self._hz = random.uniform(0.05, 2.0)
        self._left -= 1
        self._tick += 1
        facts: dict[str, Any] = {}
        action: np.ndarray | None = self._goal
        if self.kind == "random":
            action = random.uniform(self._low, self._high)
        elif self.kind == "flip":
            action = self._goal if self._tick % 2 else self._other
        elif self.kind == "walk":
            self._goal = self._goal + random.normal(0, 0.02, len(self._low))
            action = self._goal
        elif self.kind == "wild":
            action = self._goal * 10.0 ** random.integers(0, 30)
        elif self.kind == "sine":
            phase = 2 * np.pi * self._hz * self._tick * self._period_s
            action = self._goal + 0.3 * (self._other - self._goal) * np.sin(phase)
        elif self.kind == "not finite":
            action = self._goal.copy()
            if random.random() < 0.3:
                action[random.integers(len(action))] = random.choice([np.nan, np.inf, -np.inf])
        elif self.kind == "stale" and random.random() < 0.3:
            facts[str(random.choice(["action_age_s", "observation_age_s"]))] = float(
                random.choice([9.0, np.nan, np.inf])
            )
        elif self.kind == "faulty" and random.random() < 0.1:
            fault = random.integers(5)
            if fault == 0:
                facts["policy_silence_s"] = 9.0
            elif fault == 1:
                facts["policy_reachable"] = False
            elif fault == 2:
                facts["policy_dead"] = True
            elif fault == 3:
                action = action[:-1] if action is not None else None
            else:
                action = None
        return action, facts
