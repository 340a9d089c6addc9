"""Where robosuite puts objects, drawn from a generator of one's own.

robosuite 1.5.1 draws from numpy's global generator, so that an episode would depend on whatever ran
before it. The same draws in the same order, from a generator of the episode's own seed, give the
same distribution of scenes; a test holds them to robosuite's with its generator replaced.

Next: `envs/robosuite_suite.py` (who resets).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

TRIES = 5000


@dataclass(frozen=True)
class Placement:
    """Where one object may stand."""

    body: str
    joint: str
    """Its free joint; empty for a body that is fixed in the world (a door, a target)."""
    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    yaw_range_rad: tuple[float, ...]
    """Two numbers: drawn between them; one: always this."""
    inside: bool
    """Keep the whole object within the ranges, not only its centre."""
    apart: bool
    """Draw again until it overlaps none that stands already."""
    reference_m: tuple[float, float, float]
    """Point of the world that the ranges are relative to."""
    rise_m: float
    """Gap below the object when it is let go."""
    radius_m: float
    bottom_m: float
    """Lowest point below the object's centre; negative."""
    top_m: float

    @classmethod
    def of(cls, sampler: Any, model: Any) -> "Placement":
        """From robosuite's uniform sampler. Raises ValueError for kinds of it not used here."""
        if sampler.rotation_axis != "z" or hasattr(model, "init_quat"):
            raise ValueError(
                f"placement of {model.name} turns about {sampler.rotation_axis} or from a pose of "
                "its own; only turns about z are known"
            )
        turn = sampler.rotation
        if turn is None:
            yaw: tuple[float, ...] = (0.0, 2 * math.pi)
        else:
            yaw = (float(min(turn)), float(max(turn))) if np.ndim(turn) else (float(turn),)
        # robosuite calls the one joint of an object that can be carried away `..._joint0`.
        free = len(model.joints) == 1 and model.joints[0].endswith("_joint0")
        return cls(
            body=model.root_body,
            joint=model.joints[0] if free else "",
            x_range_m=(float(sampler.x_range[0]), float(sampler.x_range[1])),
            y_range_m=(float(sampler.y_range[0]), float(sampler.y_range[1])),
            yaw_range_rad=yaw,
            inside=bool(sampler.ensure_object_boundary_in_range),
            apart=bool(sampler.ensure_valid_placement),
            reference_m=(
                float(sampler.reference_pos[0]),
                float(sampler.reference_pos[1]),
                float(sampler.reference_pos[2]),
            ),
            rise_m=float(sampler.z_offset),
            radius_m=float(model.horizontal_radius),
            bottom_m=float(model.bottom_offset[-1]),
            top_m=float(model.top_offset[-1]),
        )

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Placement":
        return cls(**with_tuples(row))

    @property
    def varies(self) -> bool:
        """Whether two episodes can have it in different places."""
        moves = self.x_range_m[0] != self.x_range_m[1] or self.y_range_m[0] != self.y_range_m[1]
        return moves or len(self.yaw_range_rad) == 2


def with_tuples(row: dict[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples they were."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def place(
    placements: Sequence[Placement], rng: np.random.Generator
) -> Float[np.ndarray, "placements 7"]:
    """Position (m, world) and quaternion (wxyz) of each, in robosuite's order of drawing."""
    poses: list[np.ndarray] = []
    for row in placements:
        margin = row.radius_m if row.inside else 0.0
        for _ in range(TRIES):
            x = rng.uniform(row.x_range_m[0] + margin, row.x_range_m[1] - margin)
            y = rng.uniform(row.y_range_m[0] + margin, row.y_range_m[1] - margin)
            x, y = x + row.reference_m[0], y + row.reference_m[1]
            z = row.rise_m + row.reference_m[2] - row.bottom_m
            if not row.apart or not any(
                np.linalg.norm((x - pose[0], y - pose[1])) <= other.radius_m + row.radius_m
                and z - pose[2] <= other.top_m - row.bottom_m
                for pose, other in zip(poses, placements, strict=False)
            ):
                break
        else:
            raise ValueError(f"found no place for {row.body} in {TRIES} tries; use another seed")
        turn = row.yaw_range_rad
        yaw = rng.uniform(*turn) if len(turn) == 2 else turn[0]
        poses.append(np.array([x, y, z, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]))
    return np.stack(poses) if poses else np.zeros((0, 7))


@dataclass(frozen=True)
class Markers:
    """The dirt of Wipe: discs along a line that wanders over the table."""

    bodies: tuple[str, ...]
    geoms: tuple[str, ...]
    half_m: tuple[float, float]
    """Their centres stay within this of the table's middle."""
    height_m: float
    """Above the table body's centre."""
    spacing_m: float = 0.005

    @classmethod
    def of(cls, stock: Any) -> "Markers":
        arena = stock.model.mujoco_arena
        half = np.array(arena.table_half_size[:2]) * arena.coverage_factor - arena.line_width / 2
        return cls(
            bodies=tuple(marker.root_body for marker in arena.markers),
            geoms=tuple(marker.visual_geoms[0] for marker in arena.markers),
            half_m=(float(half[0]), float(half[1])),
            height_m=float(arena.table_half_size[2]),
        )

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Markers":
        return cls(**with_tuples(row))

    def scatter(self, rng: np.random.Generator) -> Float[np.ndarray, "markers 3"]:
        """Places relative to the table body, in robosuite's order of drawing."""
        direction = rng.uniform(-np.pi, np.pi)
        x, y = (rng.uniform(-half, half) for half in self.half_m)
        places = []
        for _ in self.bodies:
            places.append((x, y, self.height_m))
            if rng.uniform(0, 1) > 0.7:
                direction += rng.normal(0, 0.5)
            while True:
                further = x + self.spacing_m * np.sin(direction)
                aside = y + self.spacing_m * np.cos(direction)
                if abs(further) < self.half_m[0] and abs(aside) < self.half_m[1]:
                    break
                direction += rng.normal(0, 0.5)
            x, y = further, aside
        return np.array(places)
