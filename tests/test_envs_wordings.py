"""Every instruction can be said otherwise, and no other wording means something else."""

import pytest

from ulna.envs.cube_tasks import CUBE_TASKS
from ulna.envs.robosuite_tasks import ROBOSUITE_TASKS
from ulna.envs.wordings import BLANK, COLOURS, NONSENSE, PARAPHRASES, paraphrases


@pytest.mark.parametrize("name", CUBE_TASKS)
def test_every_instruction_has_five_ways_of_its_own(name: str) -> None:
    task = CUBE_TASKS[name]
    assert set(PARAPHRASES[name]) == set(task.instructions)
    every = [words for said in task.instructions for words in paraphrases(name, said)]
    assert len(set(every)) == len(every) and not set(every) & set(task.instructions)
    for said in task.instructions:
        others = paraphrases(name, said)
        assert len(others) >= 5
        named = {word.strip(",") for word in said.split()} & {*COLOURS, "yellow", "purple"}
        for words in others:
            found = {word.strip(",:?.") for word in words.split()} & {*COLOURS, "yellow", "purple"}
            assert found == named, f"{words!r} names {found}, {said!r} names {named}"


def test_robosuites_tasks_have_other_words_too() -> None:
    for name, task in ROBOSUITE_TASKS.items():
        others = paraphrases(name, task.instruction)
        assert len(others) >= 3 and task.instruction not in others


def test_nonsense_names_nothing_that_could_be_taken() -> None:
    for words in (BLANK, *NONSENSE):
        assert not set(words.split()) & {"cube", "block", "box", "red", "blue", "pick", "lift"}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Did you mean 'pick_named'"):
        paraphrases("pick_name", "pick up the red cube")
    with pytest.raises(ValueError, match="Did you mean 'pick up the red cube'"):
        paraphrases("pick_named", "pick up the red cub")
