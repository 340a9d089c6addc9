"""Instructions and sub-goals as the tasks of a LeRobotDataset: one text per step, by number."""

from collections.abc import Iterator, Sequence

from .commits import EpisodeRecord
from .lerobot_format import Notes


def task_stretches(record: EpisodeRecord) -> Iterator[tuple[int, int, str]]:
    """The text LeRobot gets for each stretch of an episode: of the sub-goal, or the instruction
    where there is none."""
    reached = 0
    for subgoal in record.subgoals:
        if reached < subgoal.start:
            yield reached, subgoal.start, record.instruction
        yield subgoal.start, subgoal.stop, subgoal.instruction
        reached = subgoal.stop
    if reached < record.steps:
        yield reached, record.steps, record.instruction


def task_order(
    records: Sequence[EpisodeRecord], every: Sequence[Notes], losses: list[str]
) -> tuple[str, ...]:
    """Texts by `task_index`: as they were in LeRobot if that still fits, else as they come."""
    texts = dict.fromkeys(text for record in records for *_, text in task_stretches(record))
    known: dict[str, set[int]] = {}
    for notes in every:
        for text, number in notes.tasks.items():
            known.setdefault(text, set()).add(number)
    numbers = [known.get(text, set()) for text in texts]
    if all(len(found) == 1 for found in numbers):
        order = [next(iter(found)) for found in numbers]
        if sorted(order) == list(range(len(order))):
            return tuple(text for _, text in sorted(zip(order, texts, strict=True)))
    if known:
        losses.append("the numbers of the tasks: they are counted anew")
    return tuple(texts)
