"""MuJoCo's model of an arm, asked without simulating: where is the tool, what would touch what.

Only `mj_kinematics` and `mj_collision` run, on shapes simple enough for a control tick; the model
files shipped here (`panda.xml`, ...) are capsules that enclose the arm's links. Units: metres,
radians, base frame of the model.

MuJoCo is imported here and nowhere else in a control process, and only where limits ask for it.
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from ..datasets.schema import unknown_name
from .limits import ArmLimits


class ArmModel:
    """One arm among fixed obstacles. All arrays it returns are overwritten by the next question."""

    def __init__(
        self,
        path: Path | str,
        joint_names: Sequence[str],
        tool_site: str,
        rest_rad: Sequence[float],
        margin_m: float,
        table_height_m: float = 0.0,
    ) -> None:
        """Joints of the model that are not named stay where the file puts them.

        Links that touch (nearer than `margin_m`) in the rest pose are taken to be neighbours and
        never checked against each other: `excluded` says which. What must not be excluded is
        kept apart by choosing a rest pose that is free.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"model of the arm {path} does not exist; give a MJCF or URDF file")
        try:
            spec = mujoco.MjSpec.from_file(str(path))
            # The neighbourhood is that of the file's own shapes, so a first look has all of them.
            for geom in spec.geoms:
                geom.margin = margin_m
                if geom.name == "table":
                    geom.pos[2] += table_height_m
            model = spec.compile()
        except ValueError as error:
            raise ValueError(f"{path} is not a model that MuJoCo compiles: {error}") from error
        places = _joint_places(model, joint_names, path)
        if len(rest_rad) != len(joint_names):
            raise ValueError(
                f"rest pose has {len(rest_rad)} positions for {len(joint_names)} joints "
                f"({', '.join(joint_names)}); give one each, in radians"
            )
        data = mujoco.MjData(model)
        data.qpos[places] = rest_rad
        self.excluded = _touching(model, data, margin_m)
        """Pairs of bodies that touch in the rest pose."""
        for number, (first, second) in enumerate(self.excluded):
            spec.add_exclude(name=f"rest{number}", bodyname1=first, bodyname2=second)
        self._model = model = spec.compile() if self.excluded else model
        self._data = data = mujoco.MjData(model)
        self._places = _joint_places(model, joint_names, path)
        self._columns = np.array([model.joint(name).dofadr[0] for name in joint_names])
        sites = [model.site(i).name for i in range(model.nsite)]
        if tool_site not in sites:
            raise unknown_name(f"site in {path.name}", tool_site, sites)
        site = sites.index(tool_site)
        self._site = site
        self._tool_m = data.site_xpos[site]
        self._jacobian = np.zeros((6, model.nv))
        self._square, self._weights = np.zeros((6, 6)), np.zeros(6)
        self._units = list(np.eye(6))
        self.margin_m = margin_m
        self.reach_m = _reaches(model, data, self._columns)
        """How far a point of the arm can be from each joint's axis, at most (per joint)."""
        data.qpos[self._places] = rest_rad

    def look(
        self, joint_rad: Float[np.ndarray, " joints"] | list[float], collisions: bool = True
    ) -> tuple[Float[np.ndarray, "3"], float]:
        """Position of the tool, and the smallest distance between what must not touch (negative:
        depth), never more than the margin. Without `collisions` the distance is the margin."""
        data = self._data
        data.qpos[self._places] = joint_rad
        mujoco.mj_kinematics(self._model, data)
        if not collisions:
            return self._tool_m, self.margin_m
        mujoco.mj_collision(self._model, data)
        if data.ncon == 0:
            return self._tool_m, self.margin_m
        return self._tool_m, min(min(data.contact.dist.tolist()), self.margin_m)

    def touching(self, joint_rad: Float[np.ndarray, " joints"]) -> list[tuple[str, str, float]]:
        """What is nearer to each other than the margin, with the distance, nearest first: for
        people, not ticks. Bodies by their names, what stands around the arm by its own."""
        self.look(joint_rad)
        model, data = self._model, self._data
        near: dict[tuple[str, str], float] = {}
        for contact in data.contact[: data.ncon]:
            if contact.dist < self.margin_m:
                pair = _things_of(model, contact)
                near[pair] = min(float(contact.dist), near.get(pair, np.inf))
        return sorted(((*pair, dist) for pair, dist in near.items()), key=lambda found: found[2])

    def jacobian(
        self, joint_rad: Float[np.ndarray, " joints"] | list[float]
    ) -> Float[np.ndarray, "6 joints"]:
        """d(tool position, tool rotation)/d(joints), in the base frame."""
        data = self._data
        data.qpos[self._places] = joint_rad
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_comPos(self._model, data)
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, self._columns]

    def dexterity(self, joint_rad: Float[np.ndarray, " joints"] | list[float]) -> float:
        """1 / sqrt(trace((J J^T)^-1)), at most the smallest singular value of the Jacobian (metres,
        radians): 0 where the tool cannot move some way."""
        jacobian = self.jacobian(joint_rad)
        np.matmul(jacobian, jacobian.T, out=self._square)
        # The diagonal must not vanish in the factor.
        mujoco.mju_cholFactor(self._square, 1e-18)
        total = 0.0
        for axis, unit in enumerate(self._units):
            mujoco.mju_cholSolve(self._weights, self._square, unit)
            total += float(self._weights[axis])
        return 1.0 / math.sqrt(total)

    def joint_motion(
        self,
        joint_rad: Float[np.ndarray, " joints"] | list[float],
        twist: list[float],
        damping: float,
    ) -> list[float]:
        """Joint displacement for a tool displacement (metres, radians): damped least squares."""
        jacobian = self.jacobian(joint_rad)
        square = self._square
        np.matmul(jacobian, jacobian.T, out=square)
        square.flat[::7] += damping * damping
        # MuJoCo's Cholesky factor: of a matrix this small numpy's solver costs ten times as much.
        mujoco.mju_cholFactor(square, 0.0)
        mujoco.mju_cholSolve(self._weights, square, twist)
        return (self._weights @ jacobian).tolist()


def model_of(limits: ArmLimits) -> ArmModel | None:
    """The arm's model, if the limits have one."""
    if not limits.model:
        return None
    return ArmModel(
        limits.model,
        limits.model_joints or limits.joint_names,
        limits.tool_site,
        limits.rest_rad,
        limits.collision_margin_m,
        limits.table_height_m or 0.0,
    )


def _joint_places(model: mujoco.MjModel, names: Sequence[str], path: Path) -> np.ndarray | slice:
    known = [model.joint(i).name for i in range(model.njnt)]
    for name in names:
        if name not in known:
            raise unknown_name(f"joint in {path.name}", name, known)
    places = [int(model.joint(name).qposadr[0]) for name in names]
    first = places[0]
    # In one piece where possible: twice as quick to write.
    whole = places == list(range(first, first + len(places)))
    return slice(first, first + len(places)) if whole else np.array(places)


def _touching(
    model: mujoco.MjModel, data: mujoco.MjData, margin_m: float
) -> tuple[tuple[str, str], ...]:
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    pairs = {
        _bodies_of(model, data.contact[i])
        for i in range(data.ncon)
        if data.contact[i].dist < margin_m
    }
    return tuple(sorted(pairs))


def _bodies_of(model: mujoco.MjModel, contact: Any) -> tuple[str, str]:
    first, second = (model.body(model.geom_bodyid[int(g)]).name for g in contact.geom)
    return (first, second) if first <= second else (second, first)


def _things_of(model: mujoco.MjModel, contact: Any) -> tuple[str, str]:
    names = []
    for geom in (int(g) for g in contact.geom):
        body = int(model.geom_bodyid[geom])
        # The world is no name for a table.
        names.append((body == 0 and model.geom(geom).name) or model.body(body).name)
    return names[0], names[1]


def _reaches(
    model: mujoco.MjModel, data: mujoco.MjData, columns: np.ndarray
) -> Float[np.ndarray, " joints"]:
    """Upper bounds: the way along the links from a joint to the farthest surface behind it."""

    def farthest(body: int) -> float:
        own = [
            float(np.linalg.norm(model.geom_pos[g]) + model.geom_rbound[g])
            for g in range(model.ngeom)
            if model.geom_bodyid[g] == body
        ]
        own += [
            float(np.linalg.norm(model.site_pos[s]))
            for s in range(model.nsite)
            if model.site_bodyid[s] == body
        ]
        behind = [
            float(np.linalg.norm(model.body_pos[child])) + farthest(child)
            for child in range(1, model.nbody)
            if model.body_parentid[child] == body and child != body
        ]
        return max([*own, *behind, 0.0])

    joints = [int(model.dof_jntid[c]) for c in columns]
    # A joint's axis need not pass through the origin of its body.
    return np.array(
        [
            farthest(int(model.jnt_bodyid[joint])) + float(np.linalg.norm(model.jnt_pos[joint]))
            for joint in joints
        ]
    )
