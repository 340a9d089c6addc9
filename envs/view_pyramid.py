"""Boxes against what a camera sees: inside its pyramid, and not covered by a face before them.

Next: `envs/culling.py` (what follows from it).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import math
from dataclasses import dataclass

import mujoco
import numpy as np

SCREEN_MARGIN = 0.004
"""Share of the picture by which an outline is taken larger before it counts as covered."""
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


@dataclass(frozen=True)
class Boxes:
    center: np.ndarray  # (boxes, 3)
    rotation: np.ndarray  # (boxes, 3, 3)
    half: np.ndarray  # (boxes, 3)

    def corners(self) -> np.ndarray:
        """(boxes, 8, 3)"""
        return self.center[:, None] + np.einsum(
            "gij,gkj->gki", self.rotation, CORNERS * self.half[:, None]
        )

    def mirrored(self, point: np.ndarray, normal: np.ndarray) -> tuple["Boxes", np.ndarray]:
        """Images in a plane, and which boxes are at least partly before it."""
        height = (self.center - point) @ normal
        reach = np.abs(np.einsum("i,gij->gj", normal, self.rotation)) * self.half
        center = self.center - 2 * height[:, None] * normal
        turned = self.rotation - 2 * np.einsum(
            "i,gj->gij", normal, np.einsum("i,gij->gj", normal, self.rotation)
        )
        return Boxes(center, turned, self.half), height + reach.sum(axis=1) > 0


@dataclass(frozen=True)
class Faces:
    point: np.ndarray  # (faces, 3), the middle
    normal: np.ndarray  # (faces, 3), towards the camera
    first: np.ndarray  # (faces, 3), along an edge, divided by half its length
    second: np.ndarray  # (faces, 3)


class View:
    """A camera's pyramid."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, aspect: float
    ) -> None:
        self.position = data.cam_xpos[camera_id]
        self._rotation = data.cam_xmat[camera_id].reshape(3, 3)
        slope_up = math.tan(math.radians(model.cam_fovy[camera_id]) / 2)
        slope_right = slope_up * aspect
        self._slopes = np.array([slope_right, slope_up])
        # Outward normals (right, up, backward). A side face of slope s: (x + s * backward) /
        # sqrt(1 + s^2).
        x, y = 1 / math.hypot(1, slope_right), 1 / math.hypot(1, slope_up)
        x_back, y_back = slope_right * x, slope_up * y
        local = ((x, 0, x_back), (-x, 0, x_back), (0, y, y_back), (0, -y, y_back), (0, 0, 1))
        self._normals = np.array(local) @ self._rotation.T
        self._offsets = self._normals @ self.position
        self._near = model.vis.map.znear * model.stat.extent

    def rays(self, count: int) -> np.ndarray:
        """(count * count, 3): directions through the middles of so many cells of the picture."""
        steps = (np.arange(count) + 0.5) / count * 2 - 1
        right, up = np.meshgrid(steps * self._slopes[0], steps * self._slopes[1])
        local = np.stack([right, up, -np.ones_like(right)], axis=-1).reshape(-1, 3)
        return local @ self._rotation.T

    def inside(self, boxes: Boxes) -> np.ndarray:
        """(boxes, 5): whether a box reaches the inner side of each face."""
        distance = boxes.center @ self._normals.T - self._offsets
        # One product for all boxes: many small ones cost more than the arithmetic.
        axes = self._normals @ boxes.rotation.transpose(1, 0, 2).reshape(3, -1)
        reach = (np.abs(axes).reshape(len(axes), -1, 3) * boxes.half).sum(axis=2)
        return distance < reach.T

    def sees(
        self, boxes: Boxes, faces: Faces | None, asked: np.ndarray | None = None
    ) -> np.ndarray:
        """(boxes): which are in the pyramid and not covered by one of `faces`; only of those
        `asked` for is it asked whether they are covered."""
        seen = np.all(self.inside(boxes), axis=1)
        some = np.flatnonzero(seen if asked is None else seen & asked)
        if faces is not None and len(some):
            part = Boxes(boxes.center[some], boxes.rotation[some], boxes.half[some])
            seen[some] = ~self._covered(part, faces)
        return seen

    def _covered(self, boxes: Boxes, faces: Faces) -> np.ndarray:
        corners = boxes.corners()
        local = (corners - self.position) @ self._rotation  # right, up, backward
        depth = -local[..., 2]
        screen = local[..., :2] / np.maximum(depth, 1e-9)[..., None]
        slack = SCREEN_MARGIN * self._slopes
        low = np.maximum(screen.min(axis=1) - slack, -self._slopes - slack)
        high = np.minimum(screen.max(axis=1) + slack, self._slopes + slack)
        x, y = np.stack([low[:, 0], high[:, 0]], 1), np.stack([low[:, 1], high[:, 1]], 1)
        rays = (
            np.stack([x[:, [0, 0, 1, 1]], y[:, [0, 1, 0, 1]], -np.ones((len(x), 4))], axis=-1)
            @ self._rotation.T
        )  # (boxes, 4, 3)
        towards = np.einsum("fi,fi->f", self.position - faces.point, faces.normal)
        slope = np.einsum("gki,fi->gkf", rays, faces.normal)
        # A ray's third coordinate is -1 in the camera's frame, so `reached` is a depth.
        reached = -towards / np.where(slope < 0, slope, np.nan)
        meets = reached > 2 * self._near  # nan compares as False
        offset = self.position - faces.point
        for edge in (faces.first, faces.second):
            start = np.einsum("fi,fi->f", offset, edge)
            place = start + reached * np.einsum("gki,fi->gkf", rays, edge)
            meets &= np.abs(place) < 1
        above = np.einsum("gki,fi->gkf", corners, faces.normal)
        behind = above.max(axis=1) < np.einsum("fi,fi->f", faces.point, faces.normal)
        whole = (depth.min(axis=1) > 2 * self._near)[:, None]
        return np.any(meets.all(axis=1) & behind & whole, axis=1)
