"""Which geoms a picture needs, so that the others are not drawn: never a pixel changes.

A geom is needed if one of these may touch the picture: the geom itself, its mirror image in the one
surface that MuJoCo lets reflect, its shadow. Each is tested as an oriented box against the camera's
pyramid, and those behind a table top are hidden by it. In doubt a geom is needed:

        camera  o                      the side faces of the pyramid and the plane of the lens;
               /|\\                     a box is outside if it is wholly beyond one of them
              / | \\
        _____/__|__\\____ table top     covers what lies behind it if all four corners of the
            /   |   \\                  box's outline on the screen meet it first
        ~~~/~~~~|~~~~\\~~ floor         mirror images are below it, seen past the table only

Next: `envs/view_pyramid.py` (boxes against the pyramid), `envs/renderer.py` (who draws).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool

from .view_pyramid import Boxes, Faces, View

MARGIN_M = 1e-3
"""Boxes are taken this much larger: rounding must not decide."""
COVER_AREA_M2 = 0.04
"""A face smaller than this covers too little to be asked."""
DEAR_FACES = 500
"""Drawing a smaller mesh costs less than asking whether a table hides it."""
RAYS = 8
"""Rays along each side of the picture that ask how much of it a mirror takes."""
SHADOW_REACH = 1e3
"""Shadows are followed this many metres (or times the distance from the lamp)."""
OPAQUE_ALPHA = 0.995
"""MuJoCo's own border between opaque and transparent."""


@dataclass(frozen=True)
class Needed:
    """What one picture needs."""

    geoms: Bool[np.ndarray, " geoms"]
    mirror: bool
    """Whether anything is reflected in view; if not, reflection may be switched off."""


class Culler:
    """Decides for one model as it is drawn; poses come with each call."""

    def __init__(
        self,
        model: mujoco.MjModel,
        drawn: Bool[np.ndarray, " geoms"],
        whole: mujoco.MjModel | None = None,
    ) -> None:
        """`drawn`: geoms of the groups that are shown at all. `whole`: the model that `model` was
        copied from, for rays; what is drawn moves geoms out of its groups."""
        self._model, self._whole = model, whole or model
        self._ids = np.flatnonzero(drawn)
        boxes = np.array([_local_box(model, int(geom)) for geom in self._ids]).reshape(-1, 6)
        self._center, self._half = boxes[:, :3], boxes[:, 3:] + MARGIN_M
        kind = model.geom_type[self._ids]
        endless = [int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD)]
        self._unbounded = np.isin(kind, endless) | ~np.any(boxes[:, 3:], axis=1)
        solid = opaque(model)[self._ids]
        meshes = np.append(model.mesh_facenum, 0)[np.maximum(model.geom_dataid[self._ids], -1)]
        self._dear = (kind == mujoco.mjtGeom.mjGEOM_MESH) & (meshes > DEAR_FACES)
        sides = np.sort(boxes[:, 3:], axis=1)
        large = 4 * sides[:, 1] * sides[:, 2] > COVER_AREA_M2
        self._covers = np.flatnonzero((kind == mujoco.mjtGeom.mjGEOM_BOX) & large & solid)
        flat = np.isin(kind, [int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_BOX)])
        material = model.geom_matid[self._ids]
        # One more at the end, for index -1: no material.
        reflectance = np.append(model.mat_reflectance, 0.0)[material]
        self._mirrors = np.flatnonzero(flat & solid & (reflectance > 0))

    def needed(
        self,
        data: mujoco.MjData,
        camera_id: int,
        aspect: float,
        reflection: bool = False,
        shadows: bool = False,
        covered: bool = True,
    ) -> Needed:
        """What the picture needs; `covered` also leaves out what is hidden behind large boxes."""
        model = self._model
        everything = np.ones(model.ngeom, bool)
        if _unusual_camera(model, camera_id):
            return Needed(everything, reflection)
        view = View(model, data, camera_id, aspect)
        rotation = data.geom_xmat[self._ids].reshape(-1, 3, 3)
        center = data.geom_xpos[self._ids] + (rotation * self._center[:, None]).sum(axis=2)
        boxes = Boxes(center, rotation, self._half)
        faces = self._faces(data, view) if covered else None
        keep = self._unbounded | view.sees(boxes, faces, self._dear)
        mirrored = False
        mirror = self._mirror(data, view) if reflection else None
        if mirror is not None:
            index, point, normal = mirror
            images, in_front = boxes.mirrored(point, normal)
            others = self._faces(data, view, but=index) if covered else None
            seen = in_front & (self._unbounded | view.sees(images, others))
            seen[index] = False
            mirrored = bool(seen.any())
            keep |= seen
            keep[index] = True
        if shadows:
            keep |= self._shadows_seen(data, view, boxes)
        needed = np.zeros(model.ngeom, bool)
        needed[self._ids] = keep
        return Needed(needed, mirrored)

    def _mirror(self, data: mujoco.MjData, view: View) -> tuple[int, np.ndarray, np.ndarray] | None:
        """The surface that MuJoCo reflects in, the first that it can: index, point, normal."""
        for index in self._mirrors:
            geom = self._ids[index]
            normal = data.geom_xmat[geom].reshape(3, 3)[:, 2]
            point = data.geom_xpos[geom].copy()
            plane = self._model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE
            if not plane:
                point += normal * self._model.geom_size[geom][2]
            behind = float((view.position - point) @ normal) < 0
            if behind and plane:
                continue  # seen from behind it is transparent, and the next one reflects
            return int(index), point, normal
        return None

    def mirror_share(self, data: mujoco.MjData, camera_id: int, aspect: float) -> float:
        """Share of the picture that the mirror takes, from a grid of rays."""
        view = View(self._model, data, camera_id, aspect)
        mirror = self._mirror(data, view)
        if mirror is None:
            return 0.0
        rays = view.rays(RAYS)
        hit, distance = np.zeros(len(rays), np.int32), np.zeros(len(rays))
        groups = np.zeros(6, np.uint8)
        groups[np.unique(self._whole.geom_group[self._ids])] = 1
        mujoco.mj_multiRay(
            self._whole, data, view.position, rays.ravel(), groups, 1, -1, hit, distance, None,
            len(rays), mujoco.mjMAXVAL,
        )  # fmt: skip
        return float(np.mean(hit == self._ids[mirror[0]]))

    def _faces(self, data: mujoco.MjData, view: View, but: int = -1) -> Faces | None:
        """The faces of large opaque boxes that look at the camera; a mirror hides no image."""
        rows = []
        for index in self._covers:
            if index == but:
                continue
            geom = self._ids[index]
            axes = data.geom_xmat[geom].reshape(3, 3).T
            half = self._model.geom_size[geom]
            for axis in range(3):
                first, second = (axis + 1) % 3, (axis + 2) % 3
                if 4 * half[first] * half[second] < COVER_AREA_M2:
                    continue
                towards = view.position - data.geom_xpos[geom]
                side = 1.0 if towards @ axes[axis] > 0 else -1.0
                normal = side * axes[axis]
                if towards @ normal > half[axis] + MARGIN_M:
                    point = data.geom_xpos[geom] + half[axis] * normal
                    rows.append((point, normal, axes[first] / half[first],
                                 axes[second] / half[second]))  # fmt: skip
        return Faces(*map(np.array, zip(*rows, strict=True))) if rows else None

    def _shadows_seen(self, data: mujoco.MjData, view: View, boxes: Boxes) -> np.ndarray:
        """Whether the space a geom shades may touch the pyramid, for any light with shadows."""
        model, seen = self._model, self._unbounded.copy()
        for light in shadow_lights(model):
            if model.light_type[light] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
                ends, scale = boxes.center + SHADOW_REACH * data.light_xdir[light], 1.0
            elif model.light_type[light] == mujoco.mjtLightType.mjLIGHT_SPOT:
                lamp = data.light_xpos[light]
                ends, scale = lamp + SHADOW_REACH * (boxes.center - lamp), SHADOW_REACH
            else:
                return np.ones_like(seen)
            far = Boxes(ends, boxes.rotation, boxes.half * scale)
            # Outside only if both ends of the shade are beyond the same face of the pyramid.
            seen |= np.all(view.inside(boxes) | view.inside(far), axis=1)
        return seen


def shadow_lights(model: mujoco.MjModel) -> list[int]:
    """Lights that cast shadows."""
    return [i for i in range(model.nlight) if model.light_castshadow[i] and model.light_active[i]]


def _local_box(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Middle and half sides in the geom's frame; of a mesh, those of the faces it has now."""
    mesh = model.geom_dataid[geom]
    if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_MESH or mesh < 0:
        return model.geom_aabb[geom]
    start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    corners = model.mesh_face[start : start + count].ravel() + model.mesh_vertadr[mesh]
    vertices = model.mesh_vert[np.unique(corners)]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return np.concatenate([(low + high) / 2, (high - low) / 2])


def opaque(model: mujoco.MjModel) -> Bool[np.ndarray, " geoms"]:
    """Which geoms hide what is behind them. A geom has its material's alpha unless its own colour
    was changed from MuJoCo's default."""
    material, own = model.geom_matid, model.geom_rgba
    changed = np.any(own != np.array([0.5, 0.5, 0.5, 1.0], np.float32), axis=1)
    # One more at the end, for index -1: no material.
    from_material = np.append(model.mat_rgba[:, 3], 1.0)[material]
    return np.where((material < 0) | changed, own[:, 3], from_material) >= OPAQUE_ALPHA


def _unusual_camera(model: mujoco.MjModel, camera_id: int) -> bool:
    """Orthographic, or with intrinsics of its own: the pyramid is another one."""
    # MuJoCo before 3.4 calls it otherwise.
    projection = getattr(model, "cam_projection", getattr(model, "cam_orthographic", None))
    assert projection is not None
    return bool(np.any(model.cam_sensorsize[camera_id])) or bool(projection[camera_id])
