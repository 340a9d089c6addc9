"""What some tasks add to the table, as MJCF: distractors, pads, a belt with its tunnel.

Next: `envs/robosuite_scene.py` (the model they go into), `envs/cube_task.py` (what they are).
"""

import xml.etree.ElementTree as ElementTree
from typing import Any

from .cube_task import CUBE_HALF_M, TABLE_HEIGHT_M, Belt, CubeTask, Pad

PAD_HALF_HEIGHT_M = 0.0005
BELT_HALF_LENGTH_M = 0.36
BELT_START_Y_M = 0.18
"""Middle of the belt at the start: after 30 cm it still reaches from one side of the front
camera's view to the tunnel."""
BELT_MASS_KG = 20.0
BELT_GAIN = 5000.0
"""Force per m/s of missing speed: 10 N on a cube slow the belt by 2 mm/s."""
STRIPE_SPACING_M = 0.06
RUBBER = (0.16, 0.16, 0.18, 1.0)
STRIPE = (0.5, 0.5, 0.52, 1.0)
METAL = (0.42, 0.44, 0.48, 1.0)


def add_furniture(arena: Any, task: CubeTask) -> None:
    """Put pads, belt and another friction into robosuite's arena, before it is compiled."""
    for pad in task.pads:
        arena.worldbody.append(_pad(pad))
    if task.belt is not None:
        arena.worldbody.append(_belt(task.belt))
        for part in _tunnel(task.belt):
            arena.worldbody.append(part)
        drive = {"name": "belt", "joint": "belt", "kv": _text(BELT_GAIN)}
        arena.actuator.append(ElementTree.Element("velocity", drive))
    if task.table_friction is not None:
        # MuJoCo takes the larger friction of two geoms unless one has priority.
        arena.table_collision.set("friction", _text(task.table_friction, 0.005, 0.0001))
        arena.table_collision.set("priority", "1")


def distractor_objects(task: CubeTask) -> list[Any]:
    """robosuite's objects for the distractors; the seed colours them (`RobosuiteEnv.reset`)."""
    from robosuite.models.objects import BallObject, BoxObject, CylinderObject

    kinds = {"ball": BallObject, "cylinder": CylinderObject, "box": BoxObject}
    return [
        kinds[thing.shape](
            name=thing.name,
            size=list(thing.size_m),
            rgba=(0.5, 0.5, 0.5, 1.0),
            # Rolling friction keeps a ball where it is put.
            friction=(1.0, 0.01, 0.002) if thing.shape == "ball" else None,
        )
        for thing in task.distractors
    ]


def _pad(pad: Pad) -> ElementTree.Element:
    body = ElementTree.Element("body", {"name": f"pad_{pad.name}", "mocap": "true"})
    body.set("pos", _text(0, 0, TABLE_HEIGHT_M + PAD_HALF_HEIGHT_M))
    size = (pad.half_m, pad.half_m, PAD_HALF_HEIGHT_M)
    body.append(_box(f"pad_{pad.name}", size, (0, 0, 0), pad.rgba, solid=False))
    return body


def _belt(belt: Belt) -> ElementTree.Element:
    half_height = (belt.top_m - 0.002) / 2  # the lower side floats above the table
    middle = TABLE_HEIGHT_M + belt.top_m - half_height
    body = ElementTree.Element("body", {"name": "belt", "pos": _text(0, BELT_START_Y_M, middle)})
    joint = {"name": "belt", "type": "slide", "axis": "0 1 0", "damping": "0"}
    body.append(ElementTree.Element("joint", joint))
    # robosuite's models take no inertia from geoms that are drawn.
    inertia = {"pos": "0 0 0", "mass": _text(BELT_MASS_KG), "diaginertia": "1 1 1"}
    body.append(ElementTree.Element("inertial", inertia))
    size = (belt.half_width_m, BELT_HALF_LENGTH_M, half_height)
    body.append(_box("belt", size, (0, 0, 0), RUBBER))
    count = int(BELT_HALF_LENGTH_M / STRIPE_SPACING_M)
    for i in range(-count, count + 1):  # without stripes nobody could see that it moves
        place = (0.0, i * STRIPE_SPACING_M, half_height)
        stripe = (belt.half_width_m, 0.003, 0.0003)
        body.append(_box(f"belt_stripe{i + count}", stripe, place, STRIPE, solid=False))
    return body


def _tunnel(belt: Belt) -> list[ElementTree.Element]:
    """Two walls and a roof over the belt's end, 13 mm higher than a cube."""
    low, high = belt.tunnel_y_m
    middle, half_length = (low + high) / 2, (high - low) / 2
    roof = belt.top_m + 2 * CUBE_HALF_M + 0.013
    outside = belt.half_width_m + 0.01
    parts = [
        _box(
            f"tunnel_wall{i}",
            (0.008, half_length, roof / 2),
            (side * outside, middle, TABLE_HEIGHT_M + roof / 2),
            METAL,
        )
        for i, side in enumerate((-1, 1))
    ]
    top = (0, middle, TABLE_HEIGHT_M + roof + 0.005)
    parts.append(_box("tunnel_roof", (outside + 0.008, half_length, 0.005), top, METAL))
    return parts


def _box(
    name: str,
    half_size_m: tuple[float, float, float],
    place_m: tuple[float, float, float],
    rgba: tuple[float, float, float, float],
    solid: bool = True,
) -> ElementTree.Element:
    """A box that is drawn (group 1) and, if solid, collides."""
    element = ElementTree.Element("geom", {"name": name, "type": "box", "group": "1"})
    element.set("size", _text(*half_size_m))
    element.set("pos", _text(*place_m))
    element.set("rgba", _text(*rgba))
    if not solid:
        element.set("contype", "0")
        element.set("conaffinity", "0")
    return element


def _text(*numbers: float) -> str:
    return " ".join(f"{number:g}" for number in numbers)
