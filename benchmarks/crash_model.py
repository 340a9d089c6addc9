"""What a store must hold, from what its workers said: no uid, no file, no code of ours.

An operation is what it removes and adds: contents (`crash_content.py`) with their labels. Undoing
the last edit plays all operations again without it.
"""

from dataclasses import dataclass, field
from typing import Any

from crash_content import Content, Labels

State = dict[Content, Labels]


@dataclass(frozen=True)
class Operation:
    """One commit, or several that are one to the user."""

    remove: tuple[Content, ...]
    add: tuple[tuple[Content, Labels], ...]
    edit: bool
    """Whether `undo` takes it back."""
    undo: bool
    source: str = ""
    """The store that was merged."""

    @staticmethod
    def told(what: dict[str, Any]) -> "Operation":
        return Operation(
            remove=tuple(content(c) for c in what.get("remove", ())),
            add=tuple(
                (content(c), (labels[0], labels[1], labels[2])) for c, labels in what.get("add", ())
            ),
            edit=bool(what.get("edit")),
            undo=bool(what.get("undo")),
            source=str(what.get("source", "")),
        )


def content(told: Any) -> Content:
    return tuple((int(seed), int(start), int(stop)) for seed, start, stop in told)


@dataclass
class Model:
    """The operations that count, in order."""

    operations: list[Operation] = field(default_factory=list)

    def after(self, operation: Operation) -> "Model":
        """With one more operation."""
        if not operation.undo:
            return Model([*self.operations, operation])
        edits = [place for place, known in enumerate(self.operations) if known.edit]
        if not edits:
            return Model(list(self.operations))
        return Model([*self.operations[: edits[-1]], *self.operations[edits[-1] + 1 :]])

    def state(self) -> State:
        found: State = {}
        for operation in self.operations:
            for gone in operation.remove:
                found.pop(gone, None)
            found.update(operation.add)
        return found

    def merged(self) -> set[str]:
        """Sources that are merged already."""
        return {operation.source for operation in self.operations}
