"""MetaWorld's fifty tasks in words: `metaworld/reach-v3` and so on.

The sentences are Ulna's own: MetaWorld has none. Each suite row is built in this process where
metaworld is installed, or under the interpreter that `ULNA_METAWORLD_PYTHON` names.

Next: `envs/remote_metaworld.py` (how a task is simulated), `envs/foreign_env.py` (the `Env`).
"""

import importlib.util
import os
from functools import partial
from pathlib import Path

from ..datasets.schema import Camera, Embodiment, unknown_name
from .foreign_env import ForeignEnv, ForeignExpert, Scene
from .remote_scene import RemoteScene, interpreter_of
from .task import Task

INSTRUCTIONS = {
    "assembly-v3": "put the round nut on the peg",
    "basketball-v3": "drop the basketball into the hoop",
    "bin-picking-v3": "move the cube from its bin into the other bin",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button down from above",
    "button-press-v3": "push the button in from the front",
    "button-press-wall-v3": "reach around the wall and push the button in",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the round nut off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door by turning its lock",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door by turning its lock",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "turn the faucet off",
    "faucet-open-v3": "turn the faucet on",
    "hammer-v3": "drive the nail in with the hammer",
    "hand-insert-v3": "push the block down into the hole",
    "handle-press-side-v3": "press the handle down at the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up at the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole in the side of the box",
    "peg-unplug-side-v3": "unplug the peg from the side of the box",
    "pick-out-of-hole-v3": "lift the puck out of the hole",
    "pick-place-v3": "pick up the puck and hold it at the mark",
    "pick-place-wall-v3": "carry the puck over the wall to the mark",
    "plate-slide-back-side-v3": "pull the plate sideways out of the goal",
    "plate-slide-back-v3": "pull the plate back out of the goal",
    "plate-slide-side-v3": "slide the plate sideways into the goal",
    "plate-slide-v3": "slide the plate into the goal",
    "push-back-v3": "pull the block back to the mark",
    "push-v3": "push the puck to the mark",
    "push-wall-v3": "push the puck around the wall to the mark",
    "reach-v3": "move the hand to the mark",
    "reach-wall-v3": "move the hand over the wall to the mark",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the goal",
    "stick-pull-v3": "pull the bottle back with the stick",
    "stick-push-v3": "push the bottle with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "slide the window shut",
    "window-open-v3": "slide the window open",
}
MT10 = (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3",
    "button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3",
)  # fmt: skip
"""The ten that MetaWorld's MT10 has."""
PROFILES = ("exact", "fast")
MAX_STEPS = 500
"""MetaWorld's own horizon."""
IMAGE_SIZE = 84
INSTALL = (
    "metaworld is not installed; it asks for an old mujoco but runs on ours: "
    "uv pip install --no-deps metaworld==3.1.1 imageio (or give it an interpreter of its own: "
    "ULNA_METAWORLD_PYTHON=/path/to/venv/bin/python)"
)


def embodiment_of(render_profile: str = "fast") -> Embodiment:
    """What the Sawyer arm of every task here senses and obeys."""
    if render_profile not in PROFILES:
        raise unknown_name("render profile", render_profile, PROFILES)
    return Embodiment(
        name="sawyer_hand_velocity",
        control_hz=80.0,
        state_names=("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening"),
        action_names=("dx", "dy", "dz", "gripper"),
        action_low=(-1.0,) * 4,
        action_high=(1.0,) * 4,
        action_meaning=(
            "displacement of the hand's goal along the axes of the world, 1 is 0.01 m per tick; "
            "gripper force, > 0 closes, < 0 opens"
        ),
        cameras=(Camera("front", IMAGE_SIZE, IMAGE_SIZE),),
        joint_names=tuple(f"right_j{i}" for i in range(7)),
        action_frame="base",
        render_profile=render_profile,
    )


def make_scene(task: str) -> Scene:
    """The scene of `reach-v3` and so on, here or under its own interpreter."""
    if os.environ.get("ULNA_METAWORLD_PYTHON"):
        suite = Path(__file__).with_name("remote_metaworld.py")
        return RemoteScene(suite, task, interpreter_of("metaworld"))
    from .remote_metaworld import make

    return make(task)


def make_metaworld(task: str, render_profile: str) -> ForeignEnv:
    """The environment of `reach-v3` and so on."""
    return ForeignEnv(
        f"metaworld/{task}",
        make_scene(task),
        (INSTRUCTIONS[task],),
        MAX_STEPS,
        embodiment_of(render_profile),
        PROFILES,
    )


def missing() -> str:
    """What keeps the suite from running; empty if nothing."""
    if os.environ.get("ULNA_METAWORLD_PYTHON") or importlib.util.find_spec("metaworld"):
        return ""
    return INSTALL


def metaworld_tasks() -> dict[str, Task]:
    """The table of this suite."""
    return {
        f"metaworld/{task}": Task(
            name=f"metaworld/{task}",
            suite="metaworld",
            instructions=(words,),
            max_steps=MAX_STEPS,
            embodiment=embodiment_of,
            make=partial(make_metaworld, task),
            expert=ForeignExpert,
            profiles=PROFILES,
            missing=missing,
        )
        for task, words in INSTRUCTIONS.items()
    }
