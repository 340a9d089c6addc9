"""The language tasks: coloured cubes on a table, and a sentence that says what to do with them.

Reading the table imports no simulator. Next: `envs/cube_task.py` (what a task consists of),
`envs/robosuite_env.py` (how it is simulated), `envs/cube_experts.py` (who shows it),
`envs/wordings.py` (the same in other words).
"""

from functools import partial
from itertools import permutations

from .cube_goals import Lift, Place, Stack, Then
from .cube_task import Belt, Cube, CubeTask, Distractor, Kick, Pad
from .env import Env
from .panda import IMAGE_SIZE, embodiment_of
from .task import Expert, Task

RED = Cube("red", (0.85, 0.08, 0.08, 1.0))
GREEN = Cube("green", (0.08, 0.6, 0.12, 1.0))
BLUE = Cube("blue", (0.08, 0.15, 0.85, 1.0))
CUBES = (RED, GREEN, BLUE)
YELLOW = Pad("yellow", (0.95, 0.75, 0.05, 1.0))
PURPLE = Pad("purple", (0.45, 0.1, 0.6, 1.0))
PICK = tuple(f"pick up the {cube.name} cube" for cube in CUBES)
LIFT_EACH = tuple(Lift(cube) for cube in range(3))
PAIRS = tuple(permutations(range(3), 2))
PLACES = tuple((cube, pad) for cube in range(3) for pad in range(2))


def _stack(cube: int, base: int) -> str:
    return f"the {CUBES[cube].name} cube on the {CUBES[base].name} cube"


TASKS = (
    CubeTask("pick_named", CUBES, PICK, LIFT_EACH, max_steps=100),
    CubeTask("lift", (RED,), ("lift the cube",), (Lift(0),), max_steps=100),
    CubeTask(
        "pick_named_distractors",
        CUBES,
        PICK,
        LIFT_EACH,
        max_steps=100,
        region_half_m=(0.13, 0.16),
        distractors=(
            Distractor("ball", "ball", (0.022,)),
            Distractor("cylinder", "cylinder", (0.018, 0.03)),
            Distractor("box", "box", (0.035, 0.014, 0.012)),
        ),
        distractor_count=(2, 3),
    ),
    CubeTask(
        "stack_named",
        CUBES,
        tuple(f"put {_stack(*pair)}" for pair in PAIRS),
        tuple(Stack(*pair) for pair in PAIRS),
        max_steps=200,
        spacing_m=0.095,
    ),
    CubeTask(
        "place_named",
        CUBES,
        tuple(
            f"put the {CUBES[c].name} cube on the {(YELLOW, PURPLE)[p].name} pad" for c, p in PLACES
        ),
        tuple(Place(*place) for place in PLACES),
        max_steps=180,
        region_half_m=(0.12, 0.16),
        spacing_m=0.09,
        pads=(YELLOW, PURPLE),
    ),
    CubeTask(
        "two_skill",
        CUBES,
        tuple(
            f"stack {_stack(a, b)}, then lift the {CUBES[3 - a - b].name} cube" for a, b in PAIRS
        ),
        tuple(Then(Stack(a, b), Lift(3 - a - b)) for a, b in PAIRS),
        max_steps=320,
        spacing_m=0.095,
    ),
    CubeTask(
        "conveyor_pick",
        CUBES,
        PICK,
        LIFT_EACH,
        max_steps=70,
        suite="dynamic",
        region_half_m=(0.065, 0.09),
        region_middle_m=(0.0, 0.06),
        belt=Belt(),
        lift_m=0.055,
    ),
    CubeTask(
        "pick_kicked",
        CUBES,
        PICK,
        LIFT_EACH,
        max_steps=70,
        suite="dynamic",
        region_half_m=(0.10, 0.13),
        kick=Kick(tick=(8, 20)),
        table_friction=0.3,
    ),
)
CUBE_TASKS = {task.name: task for task in TASKS}


def language_tasks() -> dict[str, Task]:
    """The table of this suite and of the dynamic tasks."""
    return {task.name: _row(task) for task in TASKS}


def _row(task: CubeTask, image_size: int = IMAGE_SIZE) -> Task:
    return Task(
        name=task.name,
        suite=task.suite,
        instructions=task.instructions,
        max_steps=task.max_steps,
        embodiment=partial(embodiment_of, image_size=image_size),
        make=partial(_make, task, image_size),
        expert=partial(_expert, task),
        sized=partial(_row, task),
    )


def _make(task: CubeTask, image_size: int, render_profile: str) -> Env:
    from .robosuite_env import RobosuiteEnv

    return RobosuiteEnv(task, render_profile, image_size=image_size)


def _expert(task: CubeTask) -> Expert:
    from .cube_experts import expert_of

    return expert_of(task)
