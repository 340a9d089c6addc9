"""The axes of `envs/perturbation.py` that change pictures: light, cameras, surfaces, more things.

Each writes into a model that is only drawn, and can put it back.

Next: `envs/perturbation_stage.py` (whose model that is).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from abc import abstractmethod

import mujoco
import numpy as np

from .render_pen import Thing

LIGHT = {"mild": (20.0, (0.75, 1.3), 0.0), "strong": (45.0, (0.45, 1.7), 0.25)}
"""Degrees the lamps are turned, the dim and the bright factor, largest tint."""
CAMERA = {"mild": (0.02, 0.005, 0.05), "strong": (0.04, 0.01, 0.1)}
"""Metres a fixed camera is moved, one on the hand, and share of its field of view it is turned."""
TINT = 0.25
SQUARES = 8
"""Squares along a texture in the strong variant."""
SURFACE_M = 0.3
"""What does not move and has a larger bounding radius is a surface: table, floor, walls."""
THINGS = {"mild": 2, "strong": 5}
THING_HALF_M = (0.012, 0.026)
CLEAR_M = 0.075
"""Things lie at least this far from what the task moves."""
REACH_M = 0.2
"""and at most this far, along x and y, from the middle of it."""
TRIES = 100


class Looks:
    """A change of the model's looks that can be taken back."""

    fields: tuple[str, ...] = ()
    """Arrays of the model it writes."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, strength: str) -> None:
        self.model, self.data, self.strength = model, data, strength
        self.things: tuple[Thing, ...] = ()
        self._before: dict[str, np.ndarray] = {}

    def apply(self, rng: np.random.Generator) -> None:
        """Change the model as `rng` says. Once; then `undo`."""
        self._before = {name: getattr(self.model, name).copy() for name in self.fields}
        self.change(rng)

    def undo(self) -> None:
        for name, values in self._before.items():
            getattr(self.model, name)[:] = values
        self._before, self.things = {}, ()

    @abstractmethod
    def change(self, rng: np.random.Generator) -> None: ...


class Lighting(Looks):
    fields = ("light_dir", "light_diffuse", "light_ambient", "light_specular")

    def apply(self, rng: np.random.Generator) -> None:
        head = self.model.vis.headlight
        self._head = [part.copy() for part in (head.ambient, head.diffuse, head.specular)]
        super().apply(rng)

    def undo(self) -> None:
        if self._before:
            head = self.model.vis.headlight
            head.ambient[:], head.diffuse[:], head.specular[:] = self._head
        super().undo()

    def change(self, rng: np.random.Generator) -> None:
        degrees, factors, tint = LIGHT[self.strength]
        brightness = factors[int(rng.integers(2))]
        colour = brightness * (1 + tint * rng.uniform(-1, 1, 3))
        model, head = self.model, self.model.vis.headlight
        for values in (model.light_diffuse, model.light_ambient, model.light_specular):
            values *= colour
        for part in (head.ambient, head.diffuse, head.specular):
            part[:] = part * colour
        for light in range(model.nlight):
            turned = turn(model.light_dir[light], rng, np.radians(degrees))
            if turned[2] > -0.3:  # a lamp that shines upwards lights nothing
                turned[2] = -0.3
            model.light_dir[light] = turned / np.linalg.norm(turned)


class CameraPose(Looks):
    fields = ("cam_pos", "cam_quat")

    def change(self, rng: np.random.Generator) -> None:
        fixed_m, mounted_m, share = CAMERA[self.strength]
        model = self.model
        for camera in range(model.ncam):
            way = rng.normal(size=3)
            length = fixed_m if model.cam_bodyid[camera] == 0 else mounted_m
            model.cam_pos[camera] += length * way / np.linalg.norm(way)
            axis = rng.normal(size=3)
            quat, turned = np.zeros(4), np.zeros(4)
            angle = share * np.radians(model.cam_fovy[camera])
            mujoco.mju_axisAngle2Quat(quat, axis / np.linalg.norm(axis), angle)
            mujoco.mju_mulQuat(turned, model.cam_quat[camera], quat)
            model.cam_quat[camera] = turned


class Texture(Looks):
    fields = ("tex_data", "mat_rgba", "geom_rgba")

    def change(self, rng: np.random.Generator) -> None:
        model = self.model
        surfaces = [g for g in range(model.ngeom) if _is_surface(model, g)]
        materials = sorted({int(model.geom_matid[g]) for g in surfaces} - {-1})
        textures = sorted({int(t) for m in materials for t in np.ravel(model.mat_texid[m])} - {-1})
        for texture in textures:
            start = model.tex_adr[texture]
            channels = model.tex_nchannel[texture]
            shape = (model.tex_height[texture], model.tex_width[texture], channels)
            image = model.tex_data[start : start + np.prod(shape)].reshape(shape)
            image[..., :3] = self._painted(image[..., :3], rng)
        for material in materials:
            if np.all(np.ravel(model.mat_texid[material]) < 0):
                model.mat_rgba[material, :3] = self._coloured(model.mat_rgba[material, :3], rng)
        for geom in surfaces:
            if model.geom_matid[geom] < 0:
                model.geom_rgba[geom, :3] = self._coloured(model.geom_rgba[geom, :3], rng)

    def _painted(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.strength == "mild":
            factors = 1 + TINT * rng.uniform(-1, 1, 3)
            table = np.clip(np.arange(256)[:, None] * factors, 0, 255).astype(np.uint8)
            return table[image, np.arange(3)]
        one, other = rng.integers(20, 236, (2, 3))
        row = (np.arange(image.shape[0]) * SQUARES // image.shape[0])[:, None]
        column = (np.arange(image.shape[1]) * SQUARES // image.shape[1])[None]
        return np.stack([one, other]).astype(np.uint8)[(row + column) % 2]

    def _coloured(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.strength == "mild":
            return np.clip(rgb * (1 + TINT * rng.uniform(-1, 1, 3)), 0, 1)
        return rng.uniform(0.1, 0.9, 3)


class Distractors(Looks):
    def change(self, rng: np.random.Generator) -> None:
        model, data = self.model, self.data
        objects = data.xpos[
            [model.jnt_bodyid[j] for j in range(model.njnt) if model.jnt_type[j] == 0]
        ].reshape(-1, 3)
        objects = objects[np.abs(objects).max(axis=1) < 5] if len(objects) else objects  # hidden
        middle = objects.mean(axis=0) if len(objects) else self._below_the_hand()
        taken = [place[:2] for place in objects]
        things: list[Thing] = []
        for _ in range(TRIES):
            if len(things) == THINGS[self.strength]:
                break
            place = middle[:2] + rng.uniform(-REACH_M, REACH_M, 2)
            height = self._support(np.array([*place, middle[2] + 0.1]))
            apart = all(np.linalg.norm(place - other) > CLEAR_M for other in taken)
            if height is None or abs(height - middle[2]) > 0.1 or not apart:
                continue
            taken.append(place)
            things.append(_thing(rng, place, height))
        self.things = tuple(things)

    def _support(self, above: np.ndarray) -> float | None:
        """Height of what does not move below a point; None if there is none near."""
        hit = np.zeros(1, np.int32)
        collide = np.array(
            [1, 0, 0, 0, 0, 0], np.uint8
        )  # shapes that touch, not those that are seen
        down = np.array([0.0, 0.0, -1.0])
        distance = mujoco.mj_ray(self.model, self.data, above, down, collide, 1, -1, hit)
        if distance < 0 or self.model.body_weldid[self.model.geom_bodyid[hit[0]]] != 0:
            return None
        return float(above[2] - distance)

    def _below_the_hand(self) -> np.ndarray:
        hands = [b for b in range(self.model.nbody) if "hand" in self.model.body(b).name]
        point = self.data.xpos[hands[0] if hands else self.model.nbody - 1].copy()
        for height in np.arange(point[2], 0.0, -0.05):
            support = self._support(np.array([point[0], point[1], height]))
            if support is not None:
                return np.array([point[0], point[1], support + 0.02])
        return point


def _thing(rng: np.random.Generator, place: np.ndarray, height: float) -> Thing:
    shape = ("box", "cylinder", "ellipsoid")[int(rng.integers(3))]
    half = rng.uniform(*THING_HALF_M, 3)
    if shape == "cylinder":
        half[1] = half[0]
    colour = rng.uniform(0.05, 0.95, 3)
    position = (float(place[0]), float(place[1]), height + float(half[2]))
    return Thing(
        shape, tuple(half.tolist()), position, float(rng.uniform(-np.pi, np.pi)),
        (*colour.tolist(), 1.0),
    )  # fmt: skip


def _is_surface(model: mujoco.MjModel, geom: int) -> bool:
    if model.geom_group[geom] == 0 or model.body_weldid[model.geom_bodyid[geom]] != 0:
        return False
    kind = model.geom_type[geom]
    plane, box = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX
    return bool(kind == plane or (kind == box and model.geom_rbound[geom] > SURFACE_M))


def turn(vector: np.ndarray, rng: np.random.Generator, angle_rad: float) -> np.ndarray:
    """`vector` turned by an angle about a random axis at a right angle to it."""
    axis = np.cross(vector, rng.normal(size=3))
    axis /= np.linalg.norm(axis)
    return vector * np.cos(angle_rad) + np.cross(axis, vector) * np.sin(angle_rad)


LOOKS: dict[str, type[Looks]] = {
    "lighting": Lighting,
    "camera": CameraPose,
    "texture": Texture,
    "distractors": Distractors,
}
