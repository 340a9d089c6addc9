"""What the recorder process notes about an episode besides its rows: whose hand, which words, what
is missing. It becomes the labels and subgoals in the store.

Next: `flight_process.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from ..datasets.schema import Subgoal
from .orders import SOURCE_OPERATOR

Marks = dict[str, tuple[int, int]]
"""How far each lane was at some moment: records put, records lost."""


@dataclass
class FlightEpisode:
    """The one that is being recorded."""

    seed: int
    instruction: str
    info: dict[str, Any]
    start: Marks
    operator_steps: int = 0
    corrections: list[list[int]] = field(default_factory=list)
    """Stretches `[first step, step after the last]` in which the operator had the arm."""
    changes: list[tuple[int, int]] = field(default_factory=list)
    """Step from which an instruction number held."""
    texts: dict[int, str] = field(default_factory=dict)
    invalid_states: int = 0
    skipped_frames: int = 0
    problem: str = ""

    def note(self, step: int, source: int, instruction: int) -> None:
        """Stretches of the operator's hand and of each instruction."""
        if source == SOURCE_OPERATOR:
            self.operator_steps += 1
            if self.corrections and self.corrections[-1][1] == step:
                self.corrections[-1][1] = step + 1
            else:
                self.corrections.append([step, step + 1])
        if instruction != (self.changes[-1][1] if self.changes else 0):
            self.changes.append((step, instruction))

    def labels(self, end: Marks, interrupted: bool) -> dict[str, Any]:
        """For the `info` of the stored episode."""
        lost = {name: end[name][1] - self.start[name][1] for name in end}
        images = {name: n for name, n in lost.items() if name.startswith("images/")}
        labels: dict[str, Any] = {
            **self.info,
            "dropped_images": sum(images.values()) + self.skipped_frames,
            **{f"dropped_images_{name.removeprefix('images/')}": n for name, n in images.items()},
            "dropped_ticks": lost["rows"],
            "dropped_chunks": lost["chunks"],
            "invalid_states": self.invalid_states,
            "operator_steps": self.operator_steps,
            "interrupted": interrupted,
        }
        if self.corrections:
            labels["corrections"] = ", ".join(f"{a}-{b}" for a, b in self.corrections)
        return labels

    def subgoals(self, steps: int) -> tuple[Subgoal, ...]:
        """What held after the instruction was changed; before that it is the episode's own."""
        stops = [*(step for step, _ in self.changes), steps][1:]
        return tuple(
            Subgoal(start, stop, self.texts.get(number, f"instruction {number}, text not recorded"))
            for (start, number), stop in zip(self.changes, stops, strict=True)
        )
