"""What can be simulated here: every task with whether it is installed. The table of `ulna envs`.

Next: `envs/tasks.py` (where the rows come from).
"""

from dataclasses import dataclass

from ..datasets.schema import unknown_name
from .tasks import all_tasks


@dataclass(frozen=True)
class EnvRow:
    """One task, as it is listed."""

    suite: str
    task: str
    installed: bool
    missing: str
    """What is not installed and the command that gets it; empty if it can run."""
    expert: bool
    """Whether somebody demonstrates it (`ulna collect`)."""
    instructions: int
    max_steps: int
    robot: str
    profiles: tuple[str, ...]


def list_envs(suite: str = "") -> list[EnvRow]:
    """All tasks, or those of one suite, in the order of the tables; builds none of them.

    Raises ValueError for a suite that does not exist.
    """
    tasks = list(all_tasks().values())
    suites = {task.suite for task in tasks}
    if suite and suite not in suites:
        raise unknown_name("suite", suite, suites)
    return [
        EnvRow(
            suite=task.suite,
            task=task.name,
            installed=not (missing := task.missing()),
            missing=missing,
            expert=task.expert is not None,
            instructions=len(task.instructions),
            max_steps=task.max_steps,
            robot=task.embodiment(task.profiles[-1]).name,
            profiles=task.profiles,
        )
        for task in tasks
        if not suite or task.suite == suite
    ]
