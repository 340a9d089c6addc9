"""Where the seed puts things on the table, and what else it draws: pure functions of the seed.

The draws of cubes come first and alone from the seed's own generator, so that a task that adds
something else keeps its scenes.

Next: `envs/robosuite_env.py` (who writes them into a state).
"""

import colorsys

import numpy as np
from jaxtyping import Float

from .cube_task import Kick

HUES = ((0.09, 0.17), (0.46, 0.55), (0.73, 0.92))
"""Orange to yellow, turquoise, violet to pink: hues far from the cubes' red, green and blue."""
GRAVITY_M_S2 = 9.81


def place_apart(
    rng: np.random.Generator, count: int, half_m: tuple[float, float], spacing_m: float
) -> Float[np.ndarray, "count 2"]:
    """`count` places uniform in a rectangle around the origin, no two nearer than `spacing_m`."""
    for _ in range(10_000):
        places = rng.uniform(-1.0, 1.0, (count, 2)) * half_m
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if np.all(gaps[np.triu_indices(count, 1)] >= spacing_m):
            return places
    raise ValueError(
        f"found no places for {count} cubes {spacing_m} m apart within +-{half_m} m; "
        "use a larger region or a smaller spacing"
    )


def draw_colours(seed: int, count: int) -> Float[np.ndarray, "count 3"]:
    """A colour for each distractor, between 0 and 1; none is red, green or blue."""
    rng = np.random.default_rng([seed, 3])
    colours = []
    for low, high in rng.permutation(HUES)[np.arange(count) % len(HUES)]:
        hue, saturation, value = rng.uniform((low, 0.35, 0.45), (high, 0.95, 0.95))
        colours.append(colorsys.hsv_to_rgb(hue, saturation, value))
    return np.array(colours).reshape(count, 3)


def draw_kick(
    seed: int, kick: Kick, places: Float[np.ndarray, "cubes 2"], friction: float
) -> tuple[int, Float[np.ndarray, "cubes 2"]]:
    """The control tick of the kick and the velocity (m/s) each cube is given if it is the named
    one, so that it slides the drawn distance against `friction` without meeting another cube."""
    rng = np.random.default_rng([seed, 4])
    tick = int(rng.integers(*kick.tick, endpoint=True))
    velocities = np.zeros((len(places), 2))
    for cube, start in enumerate(places):
        distance = rng.uniform(*kick.distance_m)
        headings = rng.uniform(0, 2 * np.pi) + np.arange(24) * (2 * np.pi / 24)
        ways = np.stack([np.cos(headings), np.sin(headings)], axis=1)
        others = np.delete(places, cube, axis=0) - start
        room = np.array([_clearance(distance * way, others) for way in ways])
        # Any free way, and towards the middle: the cube must stay on the table and in view.
        inwards = ways @ -start > -0.2 * np.linalg.norm(start)
        free = np.flatnonzero((room >= kick.clearance_m) & inwards)
        chosen = rng.choice(free) if len(free) else int(room.argmax())
        # Sliding friction takes v^2 / 2 = friction * g * distance.
        velocities[cube] = ways[chosen] * np.sqrt(2 * friction * GRAVITY_M_S2 * distance)
    return tick, velocities


def _clearance(way: np.ndarray, others: np.ndarray) -> float:
    """Smallest distance between the segment from the origin to `way` and the points `others`."""
    if len(others) == 0:
        return np.inf
    along = np.clip(others @ way / (way @ way), 0.0, 1.0)
    return float(np.linalg.norm(others - along[:, None] * way, axis=1).min())
