"""Which tasks exist, by name, in all suites. Next: `envs/task.py` (what a task says of itself)."""

from ..datasets.schema import unknown_name
from .cube_tasks import language_tasks
from .env import Env
from .gymnasium_tasks import gymnasium_tasks
from .libero_tasks import libero_tasks
from .metaworld_tasks import metaworld_tasks
from .robosuite_tasks import robosuite_tasks
from .task import Task

SUITES = (
    language_tasks,
    robosuite_tasks,
    metaworld_tasks,
    gymnasium_tasks,
    libero_tasks,
)
"""Each gives the table of one suite."""


def all_tasks() -> dict[str, Task]:
    """Every task by name, installed or not."""
    return {name: task for suite in SUITES for name, task in suite().items()}


def find_task(name: str) -> Task:
    """The task called `name`; ValueError names the nearest one that exists."""
    tasks = all_tasks()
    if name not in tasks:
        # Our own, and those of the suite that seems to be meant: there are hundreds in all.
        suite = name.partition("/")[0]
        near = [known for known in tasks if known.partition("/")[0] in (known, suite)]
        error = unknown_name("task", name, near)
        raise ValueError(f"{error}; `ulna envs` lists all {len(tasks)}")
    return tasks[name]


def make_env(task: str, render_profile: str = "") -> Env:
    """The environment of a task under a render profile (empty: the task's own choice); costs
    seconds, so make one per process and reset it.

    Raises ValueError for an unknown task or profile, and for one whose packages are missing.
    """
    found = installed_task(task)
    profile = render_profile or found.profiles[-1]
    if profile not in found.profiles:
        raise unknown_name("render profile", profile, found.profiles)
    return found.make(profile)


def installed_task(name: str) -> Task:
    """As `find_task`; ValueError with the command to run if packages of it are missing here."""
    found = find_task(name)
    missing = found.missing()
    if missing:
        raise ValueError(f"task {name} cannot run here: {missing}")
    return found
