"""The language tasks: coloured cubes on a table, and a sentence that says what to do with them.

Next: `envs/robosuite_env.py` (how such a task is simulated), `envs/experts.py` (who shows it).
"""

from functools import partial

from .experts import CubeExpert
from .robosuite_env import CubeTask, RobosuiteEnv, embodiment_of
from .robosuite_scene import Cube
from .task import Task

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


def language_tasks() -> dict[str, Task]:
    """The table of this suite."""
    return {
        task.name: Task(
            name=task.name,
            suite="language",
            instructions=task.instructions,
            max_steps=task.max_steps,
            embodiment=embodiment_of,
            make=partial(RobosuiteEnv, task),
            expert=CubeExpert,
        )
        for task in CUBE_TASKS.values()
    }
