"""The simulated table of a `CubeTask`: laying it out by a seed, and measuring what lies where.

Next: `envs/robosuite_env.py` (time, actions and pictures around it), `envs/cube_placement.py`
(what the seed draws), `envs/cube_goals.py` (who asks for these measurements).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import mujoco
import numpy as np
from jaxtyping import Float

from .cube_placement import draw_colours, draw_kick, place_apart
from .cube_task import CUBE_HALF_M, TABLE_HEIGHT_M, CubeTask, Distractor
from .panda import CAMERAS
from .robosuite_arm import RobosuiteArm
from .robosuite_furniture import PAD_HALF_HEIGHT_M
from .robosuite_scene import ARM_HOME_RAD

PARKING_M = (0.0, 0.25)
"""On the floor below the table: where distractors lie that a seed leaves out."""
GAP_M = 0.01
"""Distances from the gripper are measured up to here."""


class CubeTable(RobosuiteArm):
    """Arm, table and things in one MuJoCo model; positions are in the robot base unless said."""

    def __init__(self, task: CubeTask, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        super().__init__(model, data, CAMERAS)
        self.cube_task = task
        self.cube_half_m = CUBE_HALF_M
        things = [thing.name for thing in (*task.cubes, *task.distractors)]
        self._thing_qpos = self._qpos_addresses([f"{name}_joint0" for name in things])
        self._thing_qvel = [int(model.joint(f"{name}_joint0").dofadr[0]) for name in things]
        self._thing_bodies = [model.body(f"{name}_main").id for name in things]
        self._cube_bodies = self._thing_bodies[: len(task.cubes)]
        self._cube_geoms = [model.geom(f"{cube.name}_g0").id for cube in task.cubes]
        self._pad_mocaps = [model.body(f"pad_{pad.name}").mocapid[0] for pad in task.pads]
        self._gripper_geoms = [
            geom
            for geom in range(model.ngeom)
            if model.geom(geom).name.startswith("gripper0") and model.geom_contype[geom]
        ]
        self._memory = {name: np.zeros(size) for name, size in task.memory.items()}

    def lay_out(self, seed: int) -> None:
        """Write the start of the episode of `seed` into positions, velocities and memory."""
        rng, task, qpos = np.random.default_rng(seed), self.cube_task, self.data.qpos
        mujoco.mj_resetData(self.model, self.data)
        noise = np.clip(rng.normal(size=7), -2, 2) * task.arm_noise_rad
        qpos[self._arm_qpos] = np.array(ARM_HOME_RAD) + noise
        qpos[self._finger_qpos] = (0.020833, -0.020833)
        cubes, things = len(task.cubes), len(self._thing_bodies)
        places = place_apart(rng, things + len(task.pads), task.region_half_m, task.spacing_m)
        places = places + task.region_middle_m
        ground = TABLE_HEIGHT_M + (task.belt.top_m if task.belt else 0.0)
        heights = [CUBE_HALF_M] * cubes + [thing.half_height_m for thing in task.distractors]
        for address, place, height in zip(self._thing_qpos, places, heights, strict=False):
            yaw = rng.uniform(-np.pi, np.pi)
            qpos[address : address + 3] = (*place, ground + height)
            qpos[address + 3 : address + 7] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        for values in self._memory.values():
            values[:] = 0
        if task.distractors:
            present = rng.integers(*task.distractor_count, endpoint=True)
            for absent in rng.permutation(np.arange(cubes, things))[present:]:
                address = self._thing_qpos[absent]
                spot = (PARKING_M[0], PARKING_M[1] * (absent - cubes - 1), heights[absent])
                qpos[address : address + 3] = spot
            self._memory["colours"][:] = draw_colours(seed, len(task.distractors)).ravel()
        if task.pads:
            self._memory["pads"][:] = places[things:].ravel()
        if task.belt is not None:
            speed = -np.random.default_rng([seed, 2]).uniform(*task.belt.speed_m_s)
            self.data.joint("belt").qvel[0] = speed
            self.data.actuator("belt").ctrl[0] = speed
            for address in self._thing_qvel:
                self.data.qvel[address + 1] = speed
        if task.kick is not None:
            assert task.table_friction is not None
            tick, velocities = draw_kick(seed, task.kick, places[:cubes], task.table_friction)
            self._memory["kick"][:] = (tick, *velocities.ravel())

    def _lay_pads(self) -> None:
        """Move the pads to where the memory has them."""
        places = self._memory.get("pads", np.zeros(0)).reshape(-1, 2)
        for mocap, (x, y) in zip(self._pad_mocaps, places, strict=True):
            self.data.mocap_pos[mocap] = (x, y, TABLE_HEIGHT_M + PAD_HALF_HEIGHT_M)

    def _paint_distractors(self) -> bool:
        """Give the distractors the colours of the memory; whether any changed."""
        colours = self._memory.get("colours", np.zeros(0)).reshape(-1, 3).astype(np.float32)
        changed = False
        for thing, colour in zip(self.cube_task.distractors, colours, strict=True):
            rgba = self.model.geom(f"{thing.name}_g0_vis").rgba
            changed |= not np.array_equal(rgba[:3], colour)
            rgba[:3] = colour
        return changed

    def cube_pose(self, cube: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Position (m) and rotation of a cube."""
        body = self._cube_bodies[cube]
        return self._in_base(self.data.xpos[body], self.data.xmat[body])

    def cube_velocity_m_s(self, cube: int) -> Float[np.ndarray, "3"]:
        """How fast a cube's centre moves."""
        address = self._thing_qvel[cube]
        base = self.data.site_xmat[self._base_site].reshape(3, 3)
        return base.T @ self.data.qvel[address : address + 3]

    def cube_names(self) -> tuple[str, ...]:
        """The words of the cubes, by index."""
        return tuple(cube.name for cube in self.cube_task.cubes)

    def pads(self) -> list[tuple[str, Float[np.ndarray, "2"], float]]:
        """Name, place and half side of each pad."""
        found = []
        for pad, mocap in zip(self.cube_task.pads, self._pad_mocaps, strict=True):
            place, _ = self._in_base(self.data.mocap_pos[mocap], np.eye(3))
            found.append((pad.name, place[:2], pad.half_m))
        return found

    def table_height_m(self) -> float:
        """Height of the table top."""
        return TABLE_HEIGHT_M - float(self.data.site_xpos[self._base_site][2])

    def finger_opening_m(self) -> float:
        """Distance between the finger pads, 0 to 0.08."""
        left, right = self.data.qpos[self._finger_qpos]
        return float(left - right)

    def airborne(self) -> list[str]:
        """Names of the things whose lowest point is higher than `lift_m` above the table."""
        things = (*self.cube_task.cubes, *self.cube_task.distractors)
        high = TABLE_HEIGHT_M + self.cube_task.lift_m
        found = []
        for thing, body in zip(things, self._thing_bodies, strict=True):
            up = np.abs(self.data.xmat[body].reshape(3, 3)[2])
            reach = _reach_m(thing, up) if isinstance(thing, Distractor) else CUBE_HALF_M * up.sum()
            if self.data.xpos[body][2] - reach > high:
                found.append(thing.name)
        return found

    def gripper_gap_m(self, cube: int) -> float:
        """Distance from the nearest part of the gripper to a cube, cut off at a centimetre."""
        line, geom = np.zeros(6), self._cube_geoms[cube]
        return min(
            mujoco.mj_geomDistance(self.model, self.data, part, geom, GAP_M, line)
            for part in self._gripper_geoms
        )


def _reach_m(thing: Distractor, up: np.ndarray) -> float:
    """From the centre down to the lowest point, with `up` the |cosine| of each axis to upright."""
    match thing.shape:
        case "ball":
            return thing.size_m[0]
        case "cylinder":
            radius, half = thing.size_m
            return half * up[2] + radius * float(np.sqrt(max(0.0, 1 - up[2] ** 2)))
        case "box":
            return float(np.dot(thing.size_m, up))
