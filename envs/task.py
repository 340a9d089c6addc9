"""What a task is, before anything of it is built: names, words, who can show it.

Every suite (`envs/cube_tasks.py`, `envs/robosuite_tasks.py`, ...) has a table of these, and
`envs/tasks.py` joins the tables. A table costs nothing to read: simulators are imported only by
`make`.

Next: `envs/tasks.py` (all of them by name), `envs/env.py` (what `make` gives).
"""

from collections.abc import Callable
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
    missing: Callable[[], str] = str
    """What is not installed and the command that gets it; empty if the task can be made."""
