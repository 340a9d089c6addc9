"""What a task is, before anything of it is built: names, words, who can show it.

Every suite (`envs/cube_tasks.py`, `envs/robosuite_tasks.py`, ...) has a table of these, and
`envs/tasks.py` joins the tables. A table costs nothing to read: simulators are imported only by
`make`.

Next: `envs/tasks.py` (all of them by name), `envs/env.py` (what `make` gives).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .env import Env


@runtime_checkable
class Expert(Protocol):
    """Shows how a task is done, from what the simulator knows. One per episode."""

    def action(self, env: Any) -> Float[np.ndarray, " action_dim"]:
        """The noise-free action for the present state of an environment of its own task."""
        ...


@dataclass(frozen=True)
class Task:
    """One row of a suite's table."""

    name: str
    """Such as `pick_named` or `metaworld/reach-v3`."""
    suite: str
    """Such as `language`; `ulna envs` groups by it."""
    instructions: tuple[str, ...]
    """Every command the scenes of the task admit."""
    max_steps: int
    """Control ticks after which an episode counts as failed."""
    embodiment: Callable[[str], Embodiment]
    """The robot under a render profile; imports no simulator."""
    make: Callable[[str], Env]
    """The environment under a render profile; costs seconds, so make one per process."""
    expert: Callable[[], Expert] | None = None
    """Who demonstrates; None: nobody."""
    profiles: tuple[str, ...] = ("exact", "near", "fast")
    """Render profiles it offers; the last one is what `ulna collect` takes."""
    sized: "Callable[[int], Task] | None" = None
    """The same task with square pictures of so many pixels; None: its pictures are as they are."""
    missing: Callable[[], str] = str
    """What is not installed and the command that gets it; empty if the task can be made."""

    def with_image_size(self, image_size: int) -> "Task":
        """This task with pictures of `image_size` x `image_size`; 0: as it is.

        Raises ValueError where the simulator draws one size only.
        """
        if image_size == 0:
            return self
        if self.sized is None:
            raise ValueError(
                f"the pictures of {self.name} have one size; leave image_size out for this task"
            )
        if image_size < 16:
            raise ValueError(f"image_size is {image_size}; expected 16 or more pixels")
        return self.sized(image_size)

    def seen_by(self, robots: Iterable[Embodiment]) -> "Task":
        """This task with the pictures of that one of `robots` it can be for, else as it is.

        A policy or a store knows its embodiments; the simulator draws whatever size they have.
        """
        for robot in robots:
            sizes = {side for camera in robot.cameras for side in (camera.height, camera.width)}
            if self.sized is None or len(sizes) != 1 or robot.render_profile not in self.profiles:
                continue
            task = self.with_image_size(sizes.pop())
            if task.embodiment(robot.render_profile) == robot:
                return task
        return self
