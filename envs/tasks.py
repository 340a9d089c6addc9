"""Which tasks exist, by name. Next: `envs/robosuite_env.py` (how such a task is simulated)."""

from ..datasets.schema import unknown_name
from .robosuite_env import CubeTask, RobosuiteEnv
from .robosuite_scene import Cube

RED = Cube("red", (0.85, 0.08, 0.08, 1.0))
GREEN = Cube("green", (0.08, 0.6, 0.12, 1.0))
BLUE = Cube("blue", (0.08, 0.15, 0.85, 1.0))

CUBE_TASKS = {
    task.name: task
    for task in (
        CubeTask(
            name="pick_named",
            cubes=(RED, GREEN, BLUE),
            instructions=(
                "pick up the red cube",
                "pick up the green cube",
                "pick up the blue cube",
            ),
            max_steps=100,
        ),
        CubeTask(name="lift", cubes=(RED,), instructions=("lift the cube",), max_steps=100),
    )
}


def make_env(task: str, render_profile: str = "fast") -> RobosuiteEnv:
    """The environment of a task; costs seconds, so make one per process and reset it."""
    if task not in CUBE_TASKS:
        raise unknown_name("task", task, CUBE_TASKS)
    return RobosuiteEnv(CUBE_TASKS[task], render_profile)


def task_instructions(task: str) -> tuple[str, ...]:
    """Every command the scenes of a task admit; costs nothing."""
    if task not in CUBE_TASKS:
        raise unknown_name("task", task, CUBE_TASKS)
    return CUBE_TASKS[task].instructions
