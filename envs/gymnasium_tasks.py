"""gym-aloha and gym-pusht in words: what LeRobot's first policies were judged on.

Next: `envs/aloha_scene.py`, `envs/pusht_scene.py` (how they are simulated).
"""

import importlib.util
from functools import partial

from ..datasets.schema import Camera, Embodiment, unknown_name
from .foreign_env import ForeignEnv
from .task import Task

ALOHA_TASKS = {
    "transfer_cube": "pick up the cube with the right arm and hand it to the left arm",
    "insertion": "pick up the peg and the socket and insert the peg into the socket",
}
ALOHA_PROFILES = ("exact", "fast")
ALOHA_STEPS = 400
"""Horizon under which ACT and LeRobot report on these tasks."""
ARM_LOW_RAD = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158)
ARM_HIGH_RAD = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158)
"""What the position servos of the model obey; gym-aloha's own action space says -1 to 1, which its
start pose is outside of already."""
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
PUSHT_WORDS = "push the T onto its outline"


def aloha_embodiment(render_profile: str = "fast") -> Embodiment:
    """What the two arms sense and obey."""
    if render_profile not in ALOHA_PROFILES:
        raise unknown_name("render profile", render_profile, ALOHA_PROFILES)
    names = tuple(
        f"{arm}_{part}"
        for arm in ("left", "right")
        for part in (*(f"{joint}_rad" for joint in ARM_JOINTS), "gripper_opening")
    )
    return Embodiment(
        name="aloha_viperx_joints",
        control_hz=50.0,
        state_names=names,
        action_names=names,
        action_low=(*ARM_LOW_RAD, 0.0) * 2,
        action_high=(*ARM_HIGH_RAD, 1.0) * 2,
        action_meaning="absolute joint positions of both arms; gripper 0 is closed, 1 open",
        cameras=(Camera("top", 96, 128),),
        joint_names=tuple(f"{arm}_{joint}" for arm in ("left", "right") for joint in ARM_JOINTS),
        joint_low_rad=ARM_LOW_RAD * 2,
        joint_high_rad=ARM_HIGH_RAD * 2,
        render_profile=render_profile,
    )


def pusht_embodiment(render_profile: str = "exact") -> Embodiment:
    """What the disc senses and obeys."""
    if render_profile != "exact":
        raise unknown_name("render profile", render_profile, ("exact",))
    return Embodiment(
        name="pusht_disc",
        control_hz=10.0,
        state_names=("disc_x", "disc_y"),
        action_names=("goal_x", "goal_y"),
        action_low=(0.0, 0.0),
        action_high=(512.0, 512.0),
        action_meaning="where the disc should go, in the unit of the world (0 to 512), y downwards",
        cameras=(Camera("top", 96, 96),),
        render_profile=render_profile,
    )


def make_aloha(task: str, render_profile: str) -> ForeignEnv:
    from .aloha_scene import AlohaScene

    return ForeignEnv(
        f"aloha/{task}",
        AlohaScene(task),
        (ALOHA_TASKS[task],),
        ALOHA_STEPS,
        aloha_embodiment(render_profile),
        ALOHA_PROFILES,
    )


def make_pusht(render_profile: str) -> ForeignEnv:
    from .pusht_scene import MAX_STEPS, PushTScene

    return ForeignEnv(
        "pusht",
        PushTScene(),
        (PUSHT_WORDS,),
        MAX_STEPS,
        pusht_embodiment(render_profile),
        ("exact",),
    )


def _missing(module: str, install: str) -> str:
    return "" if importlib.util.find_spec(module) else f"{module} is not installed: {install}"


def gymnasium_tasks() -> dict[str, Task]:
    """The table of these suites."""
    rows = [
        Task(
            name=f"aloha/{task}",
            suite="aloha",
            instructions=(words,),
            max_steps=ALOHA_STEPS,
            embodiment=aloha_embodiment,
            make=partial(make_aloha, task),
            profiles=ALOHA_PROFILES,
            missing=partial(_missing, "gym_aloha", "uv pip install --no-deps gym-aloha==0.1.5"),
        )
        for task, words in ALOHA_TASKS.items()
    ]
    rows.append(
        Task(
            name="pusht",
            suite="pusht",
            instructions=(PUSHT_WORDS,),
            max_steps=300,
            embodiment=pusht_embodiment,
            make=make_pusht,
            profiles=("exact",),
            missing=partial(_missing, "gym_pusht", "uv pip install gym-pusht==0.1.8"),
        )
    )
    return {row.name: row for row in rows}
