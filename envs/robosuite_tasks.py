"""robosuite's own tasks, each with a sentence that says what to do.

Next: `envs/robosuite_suite.py` (how they are simulated), `envs/robosuite_experts.py` (who shows
them).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..datasets.schema import Embodiment
from .env import Env
from .panda import embodiment_of
from .task import Expert, Task

IMAGE_SIZE = 84
"""Of robomimic's datasets of these tasks."""
CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our word for a camera -> robosuite's."""
PARAPHRASES = {
    "lift the cube": ("pick up the cube", "raise the red cube off the table", "grab the block"),
    "stack the red cube on the green cube": (
        "put the red cube on top of the green one",
        "place the red block on the green block",
        "pile the small red cube onto the green cube",
    ),
    "put the can in its bin": (
        "pick up the can and place it in the right compartment",
        "drop the red can where cans belong",
        "sort the can into its compartment",
    ),
    "put the milk in its bin": (
        "pick up the milk carton and place it in the right compartment",
        "drop the milk where milk belongs",
        "sort the carton of milk into its compartment",
    ),
    "put the bread in its bin": (
        "pick up the bread and place it in the right compartment",
        "drop the loaf where bread belongs",
        "sort the bread into its compartment",
    ),
    "put the cereal in its bin": (
        "pick up the cereal box and place it in the right compartment",
        "drop the cereal where cereal belongs",
        "sort the box of cereal into its compartment",
    ),
    "put the square nut on the square peg": (
        "place the square nut over its peg",
        "fit the square ring onto the square peg",
        "slide the square nut down the square post",
    ),
    "put the round nut on the round peg": (
        "place the round nut over its peg",
        "fit the round ring onto the round peg",
        "slide the round nut down the round post",
    ),
    "open the door": (
        "turn the handle and pull the door open",
        "unlatch the door and open it",
        "get the door open",
    ),
    "wipe the table": (
        "clean the dirt off the table",
        "wipe away all the marks",
        "rub the table clean",
    ),
}
"""Other words for each instruction."""


@dataclass(frozen=True)
class RobosuiteTask:
    """One of robosuite's tasks."""

    name: str
    stock_name: str
    """robosuite's word for it, such as `PickPlaceCan`."""
    instruction: str
    max_steps: int
    judge: str
    """Which of `envs/robosuite_judges.py` says whether it is done."""
    expert: str
    """Which of `envs/robosuite_experts.py` shows it."""
    fingers: bool = True
    """Whether the hand has any; Wipe has a sponge."""

    @property
    def paraphrases(self) -> tuple[str, ...]:
        return PARAPHRASES[self.instruction]


def _pick_place(stock_name: str, word: str) -> RobosuiteTask:
    name, instruction = f"robosuite/pick_place_{word}", f"put the {word} in its bin"
    return RobosuiteTask(name, stock_name, instruction, 300, "in_bin", "pick_place")


def _nut(stock_name: str, word: str) -> RobosuiteTask:
    name = f"robosuite/nut_assembly_{word}"
    instruction = f"put the {word} nut on the {word} peg"
    return RobosuiteTask(name, stock_name, instruction, 400, "on_peg", "nut")


ROBOSUITE_TASKS = {
    task.name: task
    for task in (
        RobosuiteTask("robosuite/lift", "Lift", "lift the cube", 100, "lifted", "lift"),
        RobosuiteTask(
            "robosuite/stack", "Stack", "stack the red cube on the green cube", 200,
            "stacked", "stack",
        ),
        _pick_place("PickPlaceCan", "can"),
        _pick_place("PickPlaceMilk", "milk"),
        _pick_place("PickPlaceBread", "bread"),
        _pick_place("PickPlaceCereal", "cereal"),
        _nut("NutAssemblySquare", "square"),
        _nut("NutAssemblyRound", "round"),
        RobosuiteTask("robosuite/door", "Door", "open the door", 400, "opened", "door"),
        RobosuiteTask(
            "robosuite/wipe", "Wipe", "wipe the table", 500, "wiped", "wipe", fingers=False
        ),
    )
}  # fmt: skip


def embodiment_of_task(
    task: RobosuiteTask, render_profile: str = "fast", image_size: int = IMAGE_SIZE
) -> Embodiment:
    """The Panda of the table tasks with larger pictures; with a sponge it has no fingers."""
    panda = embodiment_of(render_profile, image_size)
    if task.fingers:
        return panda
    return replace(
        panda,
        name="panda_sponge_osc_pose",
        state_names=panda.state_names[:-2],
        action_names=panda.action_names[:-1],
        action_low=panda.action_low[:-1],
        action_high=panda.action_high[:-1],
        action_meaning=panda.action_meaning.split("; gripper")[0],
    )


def robosuite_tasks() -> dict[str, Task]:
    """The table of this suite."""
    return {task.name: _row(task) for task in ROBOSUITE_TASKS.values()}


def _row(task: RobosuiteTask, image_size: int = IMAGE_SIZE) -> Task:
    return Task(
        name=task.name,
        suite="robosuite",
        instructions=(task.instruction,),
        max_steps=task.max_steps,
        embodiment=partial(embodiment_of_task, task, image_size=image_size),
        make=partial(_make, task, image_size),
        expert=partial(_expert, task.expert),
        sized=partial(_row, task),
    )


def _make(task: RobosuiteTask, image_size: int, render_profile: str) -> Env:
    from .robosuite_suite import RobosuiteSuiteEnv

    return RobosuiteSuiteEnv(task, render_profile, image_size=image_size)


def _expert(name: str) -> Expert:
    from .robosuite_experts import EXPERTS

    expert: Callable[[], Any] = EXPERTS[name]
    return expert()
