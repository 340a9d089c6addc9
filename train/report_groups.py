"""Episodes of a `results.json`, sorted by the conditions they were run under.

Next: `train/report_judged.py` (how they are shown), `train/compare.py` (how two files are matched).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..envs.intervals import wilson

KINDS = {
    "named": "as the scene asks",
    "paraphrase": "the same, in other words",
    "swapped": "another object named",
    "blank": "nothing said",
    "nonsense": "nonsense said",
}
"""What the policy was told, by `kind` of episode, in the order shown."""


@dataclass(frozen=True, order=True)
class Condition:
    """Everything an episode was run under besides its task and its scene."""

    kind: str = "named"
    perturbation: str = ""
    """Axis of robustness; empty: the world as in the demonstrations."""
    delay: str = "0"
    """Name of the delay model; a constant delay is named by its control ticks."""
    mode: str = "synchronous"
    """What the arm does while the policy thinks."""

    @property
    def timing(self) -> tuple[str, str]:
        return self.delay, self.mode

    @property
    def delay_ticks(self) -> int | None:
        """A constant delay; None for one that varies."""
        return int(self.delay) if self.delay.isdecimal() else None

    def words(self) -> str:
        parts = [] if self.kind == "named" else [KINDS.get(self.kind, self.kind)]
        if self.perturbation:
            parts.append(perturbation_words(self.perturbation))
        if self.timing != PROMPT.timing:
            parts.append(f"{self.mode}, delay {self.delay}")
        return ", ".join(parts) or KINDS["named"]


PROMPT = Condition()
"""The world as in the demonstrations, the scene's own words, answers at once."""


@dataclass(frozen=True)
class Rate:
    """Successes of some episodes, with their 95 % Wilson interval."""

    successes: int
    episodes: int
    crashed: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0


def condition_of(episode: Mapping[str, Any]) -> Condition:
    """Files written before a condition existed do not name it: then it is the plain one."""
    return Condition(
        kind=str(episode.get("kind") or "named"),
        perturbation=str(episode.get("perturbation") or ""),
        delay=str(episode.get("delay") or "0"),
        mode=str(episode.get("mode") or "synchronous"),
    )


def perturbation_words(name: str) -> str:
    """`start_pose:strong` as `start pose, strong`."""
    return name.replace("_", " ").replace(":", ", ")


def words_said(episode: Mapping[str, Any]) -> str:
    """What the policy was told: the scene's instruction unless the file says otherwise."""
    said = episode.get("said")
    return str(episode.get("instruction", "") if said is None else said)


def by_condition(
    episodes: Iterable[Mapping[str, Any]],
) -> dict[Condition, list[Mapping[str, Any]]]:
    """Episodes by condition, in the order in which the conditions first come."""
    groups: dict[Condition, list[Mapping[str, Any]]] = {}
    for episode in episodes:
        groups.setdefault(condition_of(episode), []).append(episode)
    return groups


def by_task(episodes: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Episodes by task, in the order in which the tasks first come."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for episode in episodes:
        tasks.setdefault(str(episode.get("task", "")), []).append(episode)
    return tasks


def rate_of(episodes: Iterable[Mapping[str, Any]]) -> Rate:
    """A crashed episode counts as a failure."""
    listed = list(episodes)
    successes = sum(bool(episode.get("success")) for episode in listed)
    low, high = wilson(successes, len(listed))
    crashed = sum(bool(episode.get("error")) for episode in listed)
    return Rate(successes, len(listed), crashed, low, high)


def plain(groups: Mapping[Condition, Any]) -> Condition:
    """The condition that the others are measured against: the scene's own words, nothing disturbed,
    the shortest delay; in a file without such, the first one there is."""
    named = [c for c in groups if c.kind == "named" and not c.perturbation]
    if not named:
        return next(iter(groups), Condition())

    def lateness(condition: Condition) -> tuple[float, bool]:
        ticks = condition.delay_ticks
        return math.inf if ticks is None else float(ticks), condition.mode != PROMPT.mode

    return min(named, key=lateness)
