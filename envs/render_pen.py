"""What one render profile draws of a model: reduced meshes, a scene to fill, the GL side of both.

Next: `envs/renderer.py` (who chooses the profile and reads the pixels).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import copy
from dataclasses import dataclass

import mujoco
import numpy as np

from .culling import Culler, shadow_lights
from .mesh_decimation import decimate_meshes

HIDDEN_GROUP = 5
"""A geom group that is never drawn; culled geoms are moved into it."""


@dataclass(frozen=True)
class Profile:
    """What a picture may cost."""

    mirror_share: float
    """Reflect only where the mirror takes more than this share of the picture. A floor of 1 %
    reflectance still shows the gloss of the walls undimmed, which is up to 15 of 255."""
    samples: int
    """Antialiasing samples per pixel; 0 is off."""
    mesh_fraction: float
    """Share of the faces of visual meshes that is kept."""
    shadow_share: float
    """Width of the shadow map as a share of the model's own; 0: no shadows."""
    near_first: bool
    """Draw table, floor and walls after what stands before them: what they would show there is not
    computed. Only where two surfaces lie in one plane could that change a pixel."""


PROFILES = {
    "exact": Profile(0.0, samples=4, mesh_fraction=1.0, shadow_share=1.0, near_first=False),
    "near": Profile(0.13, samples=4, mesh_fraction=1.0, shadow_share=0.25, near_first=False),
    "fast": Profile(1.0, samples=0, mesh_fraction=0.1, shadow_share=0.0, near_first=True),
}
STEEPER = 2.0
"""A camera that moves with the hand looks down on the floor, where it mirrors less: it may take so
much more of its picture."""
SKY_PICTURES = 50
"""After a picture that shows the sky, so many of that camera are drawn with it at once."""
FURNITURE_M = 0.3
"""Fixed geoms with a larger bounding radius are drawn after the rest,"""
ROOM_M = 1.0
"""and those larger than this, floor and walls, last."""

SHAPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
PAINT = (
    "geom_rgba",
    "mat_rgba",
    "mat_emission",
    "mat_specular",
    "mat_shininess",
    "light_active",
    "light_ambient",
    "light_diffuse",
    "light_specular",
)
"""Arrays of a model that say how it looks and may change between pictures."""


@dataclass(frozen=True)
class Thing:
    """Something that is drawn and nothing else: physics knows nothing of it."""

    shape: str
    """`box`, `cylinder` or `ellipsoid`, standing upright."""
    half_m: tuple[float, float, float]
    position_m: tuple[float, float, float]
    yaw_rad: float
    rgba: tuple[float, float, float, float]


_UNTOUCHED = mujoco.MjvPerturb()


class Pen:
    """A model as one profile draws it: its meshes on the GL side and a scene to fill."""

    def __init__(self, model: mujoco.MjModel, profile: Profile) -> None:
        self.profile = profile
        self.model = copy.copy(model)
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = 64
        self.model.vis.quality.offsamples = profile.samples
        if profile.mesh_fraction < 1.0:
            decimate_meshes(self.model, profile.mesh_fraction)
        if profile.mirror_share == 1.0 or (profile.mirror_share > 0 and not _gloss(model)):
            self.model.mat_reflectance[:] = 0.0
        self.shadows = profile.shadow_share > 0 and bool(shadow_lights(model))
        # A map that nothing is written to would still take its memory, 64 MB at MuJoCo's default.
        share = profile.shadow_share if self.shadows else 0.0
        self.model.vis.quality.shadowsize = round(model.vis.quality.shadowsize * share)
        self.geom_group = self.model.geom_group.copy()
        self.scene = mujoco.MjvScene(self.model, maxgeom=4 * self.model.ngeom + 200)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.shadows
        self.option = mujoco.MjvOption()
        self.option.geomgroup[0] = 0  # collision shapes
        self.option.sitegroup[:] = 0
        self.more = mujoco.MjvOption()  # geoms alone: the rest is in the scene already
        self.more.geomgroup[:] = self.option.geomgroup
        for name in ("site", "joint", "tendon", "actuator", "flex", "skin"):
            getattr(self.more, f"{name}group")[:] = 0
        self.whole = model
        self.shown = self.option.geomgroup[self.geom_group] > 0
        self.culler = Culler(self.model, self.shown, self.whole)
        self.layers = _layers(self.model) if profile.near_first else []
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        # Antialiasing could hide that it is missed; endless floors fade into it.
        self._needs_sky = profile.samples > 0 or not _sky_apart(self.model)
        self._with_sky: dict[int, int] = {}  # by camera: pictures until the sky is left out again

    def wants_sky(self, camera_id: int) -> bool:
        """Whether the sky has to be drawn; False: leave it out and look whether it is missed."""
        if self._needs_sky:
            return True
        left = self._with_sky.get(camera_id, 0)
        self._with_sky[camera_id] = max(0, left - 1)
        return left > 0

    def showed_sky(self, camera_id: int) -> None:
        """It was missed, so it will be for a while."""
        self._with_sky[camera_id] = SKY_PICTURES

    def draw(self, viewport: mujoco.MjrRect, frame: np.ndarray, sky: bool) -> None:
        """The scene as it is filled, bottom row first."""
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = sky
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(frame, None, viewport, self.context)

    def fill(self, data: mujoco.MjData, camera: mujoco.MjvCamera, aspect: float) -> None:
        """Put into the scene what the camera needs."""
        model, profile = self.model, self.profile
        needed = self.culler.needed(
            data,
            camera.fixedcamid,
            aspect,
            self._reflects(data, camera.fixedcamid, aspect),
            self.shadows,
            covered=profile.mesh_fraction == 1.0,  # with small meshes asking costs more
        )
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = needed.mirror
        every = mujoco.mjtCatBit.mjCAT_ALL
        layers = self.layers or [needed.geoms]
        for depth, layer in enumerate(layers):
            model.geom_group[:] = np.where(needed.geoms & layer, self.geom_group, HIDDEN_GROUP)
            if depth == 0:
                mujoco.mjv_updateScene(model, data, self.option, None, camera, every, self.scene)
            else:
                mujoco.mjv_addGeoms(model, data, self.more, _UNTOUCHED, every, self.scene)

    def _reflects(self, data: mujoco.MjData, camera_id: int, aspect: float) -> bool:
        """Whether this picture shows reflections, from the poses alone."""
        enough = self.profile.mirror_share
        if enough == 0 or not np.any(self.model.mat_reflectance):
            return bool(np.any(self.model.mat_reflectance))
        if self.model.body_weldid[self.model.cam_bodyid[camera_id]] != 0:
            enough *= STEEPER
        return self.culler.mirror_share(data, camera_id, aspect) > enough

    def add(self, thing: Thing) -> None:
        """Draw something more, until the scene is filled anew."""
        cos, sin = np.cos(thing.yaw_rad), np.sin(thing.yaw_rad)
        turned = np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 1], np.float64)
        mujoco.mjv_initGeom(
            self.scene.geoms[self.scene.ngeom],
            SHAPES[thing.shape],
            np.array(thing.half_m),
            np.array(thing.position_m),
            turned,
            np.array(thing.rgba, np.float32),
        )
        self.scene.ngeom += 1

    def repaint(self, model: mujoco.MjModel) -> None:
        """Take over the looks of `model`; textures are sent to the GL side if they changed."""
        see_through = self.model.geom_rgba[:, 3].copy(), self.model.mat_rgba[:, 3].copy()
        for name in PAINT:
            getattr(self.model, name)[:] = getattr(model, name)
        for part in ("ambient", "diffuse", "specular"):
            getattr(self.model.vis.headlight, part)[:] = getattr(model.vis.headlight, part)
        after = self.model.geom_rgba[:, 3], self.model.mat_rgba[:, 3]
        if not all(map(np.array_equal, see_through, after)):
            self.culler = Culler(self.model, self.shown, self.whole)
        for texture in range(model.ntex):
            start = model.tex_adr[texture]
            size = model.tex_height[texture] * model.tex_width[texture]
            part = slice(start, start + size * model.tex_nchannel[texture])
            if not np.array_equal(self.model.tex_data[part], model.tex_data[part]):
                self.model.tex_data[part] = model.tex_data[part]
                mujoco.mjr_uploadTexture(self.model, self.context, texture)


def _gloss(model: mujoco.MjModel) -> bool:
    """Whether any light makes a highlight; without, an image in a dull floor is too dim to see."""
    head = model.vis.headlight
    active = model.light_active.astype(bool)
    return bool((head.active and np.any(head.specular)) or np.any(model.light_specular[active]))


def _sky_apart(model: mujoco.MjModel) -> bool:
    """Whether there is a sky, and all that it changes are the pixels that nothing else covers."""
    skies = model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX
    planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    endless = planes & ~np.all(model.geom_size[:, :2] > 0, axis=1)
    return bool(skies.any() and not endless.any())


def _layers(model: mujoco.MjModel) -> list[np.ndarray]:
    """Geoms in the order they are drawn: what moves and what is small, furniture, the room."""
    radius = model.geom_rbound
    fixed = model.body_weldid[model.geom_bodyid] == 0
    plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    room = plane | (fixed & (radius > ROOM_M))
    box = model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
    furniture = fixed & box & (radius > FURNITURE_M) & ~room
    return [~room & ~furniture, furniture, room]
