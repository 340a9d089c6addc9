"""What the arm of the table tasks senses and obeys, in words: no simulator is imported here.

Next: `envs/robosuite_env.py` (the arm itself).
"""

from ..datasets.schema import Camera, Embodiment, unknown_name

CONTROL_HZ = 20
IMAGE_SIZE = 64
"""Pixels of the table tasks' pictures where nothing else is asked for."""
STATE_NAMES = (
    *(f"tool_{axis}_m" for axis in "xyz"),
    *(f"tool_rotation_{row}{column}" for column in "xy" for row in "xyz"),
    "finger_left_m",
    "finger_right_m",
)
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
CAMERAS = {"front": "front", "wrist": "robot0_eye_in_hand"}
"""Our word for a camera -> its name in the model."""
RENDER_PROFILES = ("exact", "near", "fast")
"""The names of `envs/renderer.py`, which says what they mean; a test holds the two together."""


def embodiment_of(render_profile: str = "fast", image_size: int = IMAGE_SIZE) -> Embodiment:
    """What the arm of every table task senses and obeys."""
    if render_profile not in RENDER_PROFILES:
        raise unknown_name("render profile", render_profile, RENDER_PROFILES)
    return Embodiment(
        name="panda_osc_pose",
        control_hz=float(CONTROL_HZ),
        state_names=STATE_NAMES,
        action_names=ACTION_NAMES,
        action_low=(-1.0,) * 7,
        action_high=(1.0,) * 7,
        action_meaning=(
            "OSC_POSE goal relative to the tool's present pose, axes of the robot base: 1 is "
            "0.05 m (dx dy dz) or 0.5 rad of axis-angle (drx dry drz); gripper by its sign, "
            "> 0 closes, < 0 opens"
        ),
        cameras=tuple(Camera(name, image_size, image_size) for name in CAMERAS),
        joint_names=tuple(f"panda_joint{i}" for i in range(1, 8)),
        render_profile=render_profile,
    )
