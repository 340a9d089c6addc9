"""What the attributes of a robomimic file tell about robot, controller and cameras.

Next: `import_robomimic.py`.
"""

import json
import re
from typing import Any

import numpy as np

_POSE_ACTION = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")


def robot_name(env_args: dict[str, Any]) -> str:
    """Such as `panda_osc_pose`."""
    robots = env_args.get("env_kwargs", {}).get("robots", "robot")
    robot = "_".join(robots) if isinstance(robots, list) else str(robots)
    return f"{robot}_{controller_of(env_args).get('type', '')}".lower().strip("_")


def controller_of(env_args: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the (first) arm's controller; empty if the file does not say."""
    controller = env_args.get("env_kwargs", {}).get("controller_configs") or {}
    return controller[0] if isinstance(controller, list) else controller


def action_names(controller: dict[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the entries of an action; `columns` where the controller is not one of ours."""
    if "osc_pose" not in json.dumps(controller).lower() or len(columns) % len(_POSE_ACTION):
        return columns
    arms = len(columns) // len(_POSE_ACTION)
    suffixes = [""] if arms == 1 else [f"_{arm}" for arm in range(arms)]
    return tuple(name + suffix for suffix in suffixes for name in _POSE_ACTION)


def controller_limits(controller: dict[str, Any]) -> tuple[list[float], list[float]] | None:
    """What robosuite's controller obeys, if that is -1 to 1 throughout; else None."""
    text = json.dumps(controller)
    bounds = {
        side: {float(number) for number in re.findall(rf'"input_{side}": (-?[\d.]+)', text)}
        for side in ("min", "max")
    }
    absolute = '"control_delta": false' in text or '"input_type": "absolute"' in text
    whole = bounds == {"min": {-1.0}, "max": {1.0}} and not absolute
    return ([-1.0], [1.0]) if whole else None


def json_attribute(group: Any, name: str) -> dict[str, Any]:
    text = group.attrs.get(name)
    content = json.loads(str(text)) if text is not None else {}
    if not isinstance(content, dict):
        raise ValueError(f"attribute {name!r} of data/ is not a JSON object: {text!r}")
    return content


def is_image(key: str, array: Any) -> bool:
    if array.dtype != np.uint8:
        return False
    flat = array.ndim == 2 and key.endswith(("_image", "_rgb"))
    return flat or (array.ndim == 4 and array.shape[-1] == 3)


def camera_name(key: str) -> str:
    return re.sub(r"_(image|rgb)$", "", key)


def image_size(env_args: dict[str, Any], key: str, array: Any) -> tuple[int, int]:
    """Height and width; of images stored flat by what env_args says."""
    if array.ndim == 4:
        return int(array.shape[1]), int(array.shape[2])
    arguments = env_args.get("env_kwargs", {})
    size = []
    for side in ("camera_heights", "camera_widths"):
        value = arguments.get(side)
        names = arguments.get("camera_names", [])
        if isinstance(value, list):
            value = value[names.index(camera_name(key))] if camera_name(key) in names else None
        size.append(int(value or 0))
    if size[0] * size[1] * 3 != array.shape[1]:
        raise ValueError(
            f"obs/{key} holds flat images of {array.shape[1]} bytes; env_args says {size[0]} x "
            f"{size[1]} pixels, which is {size[0] * size[1] * 3}"
        )
    return size[0], size[1]
