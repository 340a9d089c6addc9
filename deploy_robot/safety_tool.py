"""What a tool displacement may be: range, change per tick, walls, and the joints behind it.

The robot's own controller turns the displacement into joint motion. With a model of the arm
(`SafetyLimits.arm`) that motion is foreseen by damped least squares: a displacement that would
turn a joint too fast is shortened, one that leads a joint on into its margin or the arm into
itself or the table is not made. Without one, an arm with a joint in its margin holds.

Everything is judged where the arm would come to rest and not where it is (`tool_motion.py`):

    tool, joint --- how far it still goes by its speed ---> + what is asked of it ---> wall, end
        near a wall      everything but the way back slows down, turning too: it drags the tool
        past an end      (joint) hold until it stands, whatever is asked; then only the way back

Next: `tool_motion.py`, `safety.py` (who asks).
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, unknown_name
from .interventions import Intervention
from .limits import ArmLimits, SafetyLimits
from .tool_motion import Speeds, room_share, wall_share

_RANGE = Intervention.RANGE.value
_CHANGE = Intervention.CHANGE.value
_WORKSPACE = Intervention.WORKSPACE.value
_JOINT_LIMIT = Intervention.JOINT_LIMIT.value
_VELOCITY = Intervention.VELOCITY.value
_COLLISION = Intervention.COLLISION.value
_SINGULAR = Intervention.SINGULAR.value
_DAMPING = 0.05
"""Of the least squares, in metres and radians: near a singular pose the joint motion that it
foresees stays finite, as the controller's does."""
_GOAL_PER_WAY = 2.0
"""A goal for one control period carries the tool at most 1 / this of its distance before a hold
stops it (of a critically damped spring a quarter, at 20 Hz and 0.16 s)."""
_WAY_PER_GOAL, _STOPPING = 0.27, 0.22
"""How far a spring of that kind goes on, of one command and of its speed times `displacement_s`."""
_MOVING_RAD = 2e-3
"""A joint that would go on less than this counts as standing."""


class ToolDisplacements:
    """The commanded displacements of one tool."""

    command: Float[np.ndarray, " action_dim"]
    """What to send now; the same array at every tick."""

    def __init__(self, limits: SafetyLimits, embodiment: Embodiment, period_s: float) -> None:
        self.limits = limits
        actions, states = embodiment.action_names, embodiment.state_names
        self._translation = places("action", limits.translation_names, actions)
        gripper = places("action", limits.gripper_names, actions)
        self._grippers = gripper
        self._motion = [entry for entry in range(len(actions)) if entry not in gripper]
        self._others = [entry for entry in self._motion if entry not in self._translation]
        self._tool = places("state", limits.tool_position_names, states)
        self._low = [float(low) for low in embodiment.action_low]
        self._high = [float(high) for high in embodiment.action_high]
        self._change_per_s = limits.max_change * embodiment.control_hz
        self._wall_low, self._wall_high = limits.workspace_low_m, limits.workspace_high_m
        joints = (len(limits.joint_low_rad), len(limits.joint_high_rad))
        if joints != (len(embodiment.joint_names),) * 2:
            raise ValueError(
                f"limits name {joints[0]} lower and {joints[1]} upper joint limits, but "
                f"{embodiment.name} measures {len(embodiment.joint_names)} joints; give one of "
                "each per joint (none for a robot that measures none)"
            )
        self._joint_low = [low + limits.joint_margin_rad for low in limits.joint_low_rad]
        self._joint_high = [high - limits.joint_margin_rad for high in limits.joint_high_rad]
        if np.any(np.array(self._wall_low) >= np.array(self._wall_high)) or np.any(
            np.array(self._joint_low) >= np.array(self._joint_high)
        ):
            raise ValueError(
                f"empty limits: workspace {limits.workspace_low_m} to {limits.workspace_high_m}, "
                f"joints with margin {self._joint_low} to {self._joint_high}; "
                "low must be below high"
            )
        for name in ("max_change", "translation_scale_m", "displacement_s", "wall_zone_m"):
            if not getattr(limits, name) > 0:
                raise ValueError(f"{name} is {getattr(limits, name)}; it must be greater than 0")
        self._model = None
        if limits.arm is not None:
            if limits.arm.joint_names != embodiment.joint_names:
                raise ValueError(
                    f"the arm's limits are for joints {', '.join(limits.arm.joint_names)}, "
                    f"{embodiment.name} measures {', '.join(embodiment.joint_names)}; give limits "
                    "with these names, in this order (limits_file.renamed)"
                )
            from .collision import model_of  # MuJoCo, only where limits ask for it

            self._model = model_of(behind_tool(limits.arm, limits))
            self._checks_collision = "collision" not in limits.arm.unlimited
            fraction = limits.arm.fraction
            self._joint_speed = [speed * fraction for speed in limits.arm.velocity_rad_s]
            self._rotation = places("action", limits.rotation_names, actions)
            self._turns = [*self._translation, *self._rotation]
            self._scales = [limits.translation_scale_m] * len(self._translation)
            self._scales += [limits.rotation_scale_rad] * len(self._rotation)
            if len(self._turns) != 6:
                raise ValueError(
                    f"with `arm`, three translations and three rotations are needed, got "
                    f"{limits.translation_names} and {limits.rotation_names}"
                )
        self.command = np.zeros(len(actions), dtype=np.float64)
        self._refused: list[float] | None = None
        self._no_turn = [0.0] * joints[0]
        self._tool_speeds = Speeds(3, limits.displacement_s, period_s)
        self._joint_speeds = Speeds(joints[0], limits.displacement_s, period_s)
        self.reset()

    def reset(self) -> None:
        # Rest, with the gripper told neither to open nor to close where its range allows.
        self.command[:] = np.clip(0.0, self._low, self._high)
        self._tool_speeds.forget()
        self._joint_speeds.forget()

    def hold(self, dt_s: float) -> None:
        self.command[self._motion] = 0.0
        self._expect([0.0] * 3, self._no_turn)

    def in_the_way(self) -> str:
        """What a refusal for collision was about, in words."""
        if self._model is None or self._refused is None:
            return ""
        near = self._model.touching(np.array(self._refused))
        return ", ".join(f"{one} and {other}" for one, other, _ in near)

    def sees(
        self, state: np.ndarray, joint_position_rad: np.ndarray, elapsed_s: float, age_s: float
    ) -> bool:
        """Whether the measurements that the limits are about are numbers; `elapsed_s` since the
        last call, `age_s` old."""
        tool_m, joint_rad = state[self._tool].tolist(), joint_position_rad.tolist()
        if not all(map(math.isfinite, tool_m)) or not all(map(math.isfinite, joint_rad)):
            return False
        # Of an observation too old only the next one says how fast the arm was.
        fresh = age_s <= self.limits.max_observation_age_s
        self._tool_speeds.see(tool_m, elapsed_s, age_s, fresh)
        self._joint_speeds.see(joint_rad, elapsed_s, age_s, fresh)
        self._tool_m, self._joint_rad, self._age_s = tool_m, joint_rad, age_s
        return True

    def refuses(self) -> int:
        """What forbids any motion whatever."""
        if self._model is not None:
            return 0
        for joint_rad, low, high in zip(
            self._joint_rad, self._joint_low, self._joint_high, strict=True
        ):
            if not low <= joint_rad <= high:
                return _JOINT_LIMIT
        return 0

    def move(self, action: Float[np.ndarray, " action_dim"], dt_s: float) -> int:
        """Set `command` to what of `action` is lawful; returns bits of `Intervention`."""
        bits = 0
        wanted, before = action.tolist(), self.command.tolist()
        change = self._change_per_s * dt_s
        for entry, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            value = wanted[entry]
            if not low <= value <= high:
                wanted[entry], bits = min(max(value, low), high), bits | _RANGE
        for entry in self._motion:
            low, high = before[entry] - change, before[entry] + change
            if not low <= wanted[entry] <= high:
                wanted[entry], bits = min(max(wanted[entry], low), high), bits | _CHANGE
        if self._keep_inside(wanted):
            bits |= _WORKSPACE
        turn = self._no_turn
        if self._model is not None:
            share, reason, turn = self._share(wanted)
            if share == 0.0:
                self.hold(dt_s)
                return bits | reason
            if share < 1.0:
                bits |= reason
                for entry in self._turns:
                    wanted[entry] *= share
        self.command[:] = wanted
        self._expect([wanted[entry] for entry in self._translation], turn)
        return bits

    def _expect(self, translation: list[float], turn_rad: list[float]) -> None:
        scale_m = self.limits.translation_scale_m
        self._tool_speeds.expect([scale_m * part for part in translation])
        self._joint_speeds.expect(turn_rad)

    def _keep_inside(self, command: list[float]) -> bool:
        """Take out of `command` what would carry the tool out of its walls; whether it did."""
        limits, scale_m = self.limits, self.limits.translation_scale_m
        changed, share = False, 1.0
        free = []  # entries that lead back inside
        for axis, entry in enumerate(self._translation):
            place = self._tool_m[axis]
            slowest, fastest = self._tool_speeds.ends(axis)
            stop_s = limits.tool_stopping_s + self._age_s
            low_m, high_m = place - self._wall_low[axis], self._wall_high[axis] - place
            low_rest_m = low_m - limits.wall_inset_m + min(slowest, 0.0) * stop_s
            high_rest_m = high_m - limits.wall_inset_m - max(fastest, 0.0) * stop_s
            lowest = -max(min(low_m, low_rest_m * _GOAL_PER_WAY), 0.0) / scale_m
            highest = max(min(high_m, high_rest_m * _GOAL_PER_WAY), 0.0) / scale_m
            if not lowest <= command[entry] <= highest:
                command[entry], changed = min(max(command[entry], lowest), highest), True
            back = command[entry] > 0 if low_rest_m < high_rest_m else command[entry] < 0
            room = wall_share(min(low_rest_m, high_rest_m), limits.wall_zone_m)
            if room < 1.0 and back:
                free.append(entry)
            share = min(share, room)
        if share < 1.0:
            for entry in self._motion:
                if entry not in free and command[entry] != 0.0:
                    command[entry] *= share
                    changed = True
        return changed

    def _share(self, command: list[float]) -> tuple[float, int, list[float]]:
        """How much of the displacement the joints allow, 0 to 1, what limits it, and the joint
        motion that is left."""
        model = self._model
        assert model is not None
        joint_rad = self._joint_rad
        leads, stop_s = [], self.limits.joint_stopping_s + self._age_s
        held = False
        for joint, (place, low, high) in enumerate(
            zip(joint_rad, self._joint_low, self._joint_high, strict=True)
        ):
            slowest, fastest = self._joint_speeds.ends(joint)
            down, up = min(slowest, 0.0) * stop_s, max(fastest, 0.0) * stop_s
            leads.append((down, up))
            # What least squares foresee is too rough to steer a joint back that still moves on.
            held |= (up > _MOVING_RAD and place + up > high) or (
                down < -_MOVING_RAD and place + down < low
            )
        if held:
            return 0.0, _JOINT_LIMIT, self._no_turn
        twist = [command[e] * scale for e, scale in zip(self._turns, self._scales, strict=True)]
        if not any(twist):
            return 1.0, 0, self._no_turn
        turn = model.joint_motion(joint_rad, twist, _DAMPING)
        share, reason, speed = 1.0, 0, 0.0
        for one, most in zip(turn, self._joint_speed, strict=True):
            speed = max(speed, abs(one) / most)
        speed /= self.limits.displacement_s
        if speed > 1.0:
            share, reason = 1.0 / speed, _VELOCITY
        room = room_share(joint_rad, leads, turn, self._joint_low, self._joint_high)
        if room < share:
            # Part of the way is left: shortened. None: held.
            share, reason = room, _VELOCITY if room > 0.0 else _JOINT_LIMIT
        if share > 0.0 and self._checks_collision:
            # Where a hold at the next tick would stop the arm, which is short of the goal.
            brake = (_STOPPING * self.limits.displacement_s + self._age_s) / stop_s
            end = [
                place + share * one * _WAY_PER_GOAL + brake * (up if one > 0 else down)
                for place, one, (down, up) in zip(joint_rad, turn, leads, strict=True)
            ]
            clearance_m = model.look(end)[1]
            if self._stretches(joint_rad, end):
                return 0.0, _SINGULAR, self._no_turn
            if clearance_m < model.margin_m and clearance_m <= model.look(joint_rad)[1]:
                self._refused = end
                return 0.0, _COLLISION, self._no_turn
        return share, reason, [share * one for one in turn]

    def _stretches(self, joint_rad: list[float], end_rad: list[float]) -> bool:
        """Whether the way leads on into poses in which the tool's motion hardly says anything of
        the joints': there a hold, which stops the tool, lets the joints go on."""
        model = self._model
        assert model is not None
        there = model.dexterity(end_rad)
        return there < self.limits.least_dexterity and there < model.dexterity(joint_rad)


def behind_tool(arm: ArmLimits, limits: SafetyLimits) -> ArmLimits:
    """The arm, with the distance kept behind a tool, and with the table that the tool's walls
    belong to unless it names its own."""
    height_m = arm.table_height_m
    return replace(
        arm,
        collision_margin_m=min(arm.collision_margin_m, limits.collision_margin_m),
        table_height_m=limits.table_height_m if height_m is None else height_m,
    )


def is_finite(values: np.ndarray) -> bool:
    # For a handful of numbers four times quicker than numpy's reduction.
    return all(map(math.isfinite, values.tolist()))


def places(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> np.ndarray:
    """Where the names stand in an action or a state."""
    for name in names:
        if name not in known:
            raise unknown_name(f"{kind} entry in SafetyLimits", name, known)
    return np.array([known.index(name) for name in names], dtype=np.intp)
