"""The same commands in other words, and words that command nothing: for the language test.

An environment knows its own instructions only (`Env.reset` refuses others); what a policy is *told*
is the business of whoever runs it. So the scene keeps its goal while the words change.

Next: `envs/cube_tasks.py` (the instructions).
"""

from itertools import permutations

from ..datasets.schema import unknown_name
from .robosuite_tasks import PARAPHRASES as ROBOSUITE_PARAPHRASES
from .robosuite_tasks import ROBOSUITE_TASKS

BLANK = ""
"""Nothing is said."""
NONSENSE = (
    "the sky is green on tuesdays",
    "yesterday was made of warm glass",
    "blorp the fizzle wug",
    "seven times eight",
    "what is the capital of portugal?",
    "asdf qwer zxcv",
)
"""Names nothing that could be done on the table."""
COLOURS = ("red", "green", "blue")
PICK = (
    "grab the {0} block",
    "take the {0} cube in your hand",
    "lift the {0} box off the table",
    "could you get me the {0} one?",
    "raise the cube that is {0}",
    "I want the {0} block in the air",
)
STACK = (
    "place the {0} block on top of the {1} block",
    "stack the {0} cube onto the {1} one",
    "set the {0} box down on the {1} box",
    "the {0} cube belongs on the {1} cube, please",
    "build a tower: {1} below, {0} on top",
    "move the {0} cube so that it rests on the {1} cube",
)
PLACE = (
    "move the {0} block onto the {1} square",
    "set the {0} cube down on the {1} patch",
    "the {0} cube belongs on the {1} area, please",
    "bring the {0} box to the {1} field",
    "lay the {0} cube on the {1} mat",
    "drop the {0} one off at the {1} pad",
)
TWO_SKILL = (
    "put the {0} block on the {1} one and after that raise the {2} block",
    "first stack {0} on {1}, second pick up {2}",
    "once the {0} cube rests on the {1} cube, take the {2} cube",
    "build a tower with {0} on {1}, then grab the {2} block",
    "before you lift the {2} cube, set the {0} cube on the {1} cube",
)
LIFT = (
    "pick up the cube",
    "grab the block",
    "take the cube in your hand",
    "raise the box off the table",
    "I want the cube in the air",
    "get the block up",
)


def paraphrases(task: str, instruction: str) -> tuple[str, ...]:
    """Other ways to say an instruction of a language, dynamic or robosuite task, in a fixed order.

    Raises ValueError for a task without a table of them, or an instruction it does not have.
    """
    tables = PARAPHRASES | {
        name: {task.instruction: ROBOSUITE_PARAPHRASES[task.instruction]}
        for name, task in ROBOSUITE_TASKS.items()
    }
    if task not in tables:
        raise unknown_name("task with paraphrases", task, tables)
    table = tables[task]
    if instruction not in table:
        raise unknown_name(f"instruction of task {task}", instruction, table)
    return table[instruction]


def _filled(patterns: tuple[str, ...], *words: str) -> tuple[str, ...]:
    return tuple(pattern.format(*words) for pattern in patterns)


_PICK = {f"pick up the {colour} cube": _filled(PICK, colour) for colour in COLOURS}
PARAPHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "lift": {"lift the cube": LIFT},
    "pick_named": _PICK,
    "pick_named_distractors": _PICK,
    "conveyor_pick": _PICK,
    "pick_kicked": _PICK,
    "stack_named": {
        f"put the {top} cube on the {base} cube": _filled(STACK, top, base)
        for top, base in permutations(COLOURS, 2)
    },
    "place_named": {
        f"put the {cube} cube on the {pad} pad": _filled(PLACE, cube, pad)
        for cube in COLOURS
        for pad in ("yellow", "purple")
    },
    "two_skill": {
        f"stack the {a} cube on the {b} cube, then lift the {c} cube": _filled(TWO_SKILL, a, b, c)
        for a, b, c in permutations(COLOURS, 3)
    },
}
"""By task and instruction."""
