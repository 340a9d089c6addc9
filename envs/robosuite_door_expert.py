"""Scripted experts for robosuite's door and table.

    door   over the handle -> down around it -> close -> press it down -> pull along the hinge's arc
    wipe   down onto the nearest mark, and on to the next, pressing

Next: `envs/robosuite_skills.py` (what they are made of).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import numpy as np
from jaxtyping import Float

from .disturbance import Noise
from .robosuite_skills import CLOSED, Wish, easiest, headings, pursue, rotation_of, take
from .robosuite_suite import RobosuiteSuiteEnv


class DoorExpert:
    """Opens the door by its handle."""

    noise = Noise(
        drift=0.12, turn=0.04, push_probability=0.02, push_size=0.7, fumble_probability=0.003
    )
    """What the pinched handle bears without slipping."""
    UNLATCHED_RAD = 0.95
    """Turn of the handle at which the latch is out of the frame."""
    AJAR_RAD = 0.03
    """From this opening on the latch cannot fall back."""
    TURNED_RAD = 1.2
    """Turn at which the handle is held."""
    OPEN_RAD = 0.37
    """Opening at which the door is held; 0.3 is success, 0.4 the stop."""
    PRESS_RAD, PULL_RAD = 0.3, 0.12
    """How far ahead on the arcs of handle and door the hand is drawn."""
    INWARD_M = 0.035
    """From robosuite's mark near the bar's end inward: the hand slips outward as the bar turns."""
    LEAN_RAD = 0.35

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "7"]:
        """The noise-free action for the present state."""
        data = env.data
        bar = data.body("Door_latch").xmat.reshape(3, 3)[:, 0]
        grip = data.site("Door_handle").xpos - self.INWARD_M * bar
        door = data.body("Door_door").xmat.reshape(3, 3)
        opened = float(data.joint("Door_hinge").qpos[0])
        turned = float(data.joint("Door_latch_joint").qpos[0])
        # The fingers close through the bar, along the door's own normal; the palm, wider than the
        # gap, leans away from the door.
        normal = -door[:, 1]
        lean = self.LEAN_RAD * np.cross((0.0, 0.0, 1.0), normal)
        lean_rad = (float(lean[0]), float(lean[1]), float(lean[2]))
        turn = easiest(headings(float(np.arctan2(-door[0, 1], door[1, 1])), np.pi), env)
        if not self._holds(env):
            tolerance = (0.02, 0.025, 0.015)
            return pursue(env, take(env, grip, turn, tolerance, lean_rad=lean_rad))
        goal = about(env, "Door_latch_joint", min(self.PRESS_RAD, self.TURNED_RAD - turned), grip)
        if opened > self.AJAR_RAD or turned > self.UNLATCHED_RAD:
            goal = about(env, "Door_hinge", min(self.PULL_RAD, self.OPEN_RAD - opened), goal)
        return pursue(env, Wish(goal, turn, CLOSED, lean_rad))

    def _holds(self, env: RobosuiteSuiteEnv) -> bool:
        """Whether both fingers press on the bar."""
        bar = env.model.geom("Door_handle").id
        touched = set()
        for one, other in env.data.contact.geom[: env.data.ncon]:
            if bar in (one, other):
                name = env.model.geom(other if one == bar else one).name
                touched |= {finger for finger in ("finger1", "finger2") if finger in name}
        return len(touched) == 2


def about(
    env: RobosuiteSuiteEnv, joint: str, angle_rad: float, point: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """Where a point of the world goes when a hinge turns on."""
    index = env.model.joint(joint).id
    anchor = env.data.xanchor[index]
    return anchor + rotation_of(angle_rad * env.data.xaxis[index]) @ (point - anchor)


class WipeExpert:
    """Goes over the marks with the sponge, always to the nearest one."""

    PRESS_M = 0.01
    """How far below the table top the sponge is drawn."""
    TILT_RAD = 0.12
    """A sponge that stands on its edge by more is lifted to lie down anew: pressed on, it would
    only turn the wrist into its stop."""

    def action(self, env: RobosuiteSuiteEnv) -> Float[np.ndarray, "6"]:
        """The noise-free action for the present state."""
        assert env.facts.markers is not None
        left = [
            env.data.body(name).xpos
            for name, gone in zip(env.facts.markers.bodies, env.markers_wiped(), strict=True)
            if not gone
        ]
        position, rotation = env.tool_world_pose()
        top = env.facts.numbers["table_m"][2]
        if not left:
            return pursue(env, Wish(np.array([*position[:2], top + 0.1]), 0.0, 0.0))
        places = np.stack(left)
        nearest = places[np.argmin(np.linalg.norm(places[:, :2] - position[:2], axis=1))]
        distance = float(np.linalg.norm(nearest[:2] - position[:2]))
        height = top - self.PRESS_M + (0.03 if distance > 0.08 else 0.0)
        if -rotation[2, 2] < np.cos(self.TILT_RAD):
            height = position[2] + 0.04 if position[2] < top + 0.06 else position[2]
        return pursue(env, Wish(np.array([*nearest[:2], height]), 0.0, 0.0))
