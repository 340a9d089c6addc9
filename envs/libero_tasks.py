"""LIBERO's 130 tasks in words: `libero/spatial/0` to `libero/90/89`.

LIBERO needs a robosuite that ours cannot live with, so it runs under the interpreter that
`ULNA_LIBERO_PYTHON` names. Names and instructions are read from that interpreter's package without
importing it; where it is not installed the rows are there all the same and say how to get it.

Next: `envs/remote_libero.py` (the far side), `envs/foreign_env.py` (the `Env`).
"""

import ast
import importlib.util
import os
import re
import subprocess
from functools import lru_cache, partial
from pathlib import Path

from ..datasets.schema import Camera, Embodiment, unknown_name
from .foreign_env import ForeignEnv
from .remote_scene import RemoteScene, interpreter_of
from .task import Task

SUITES = {"spatial": 10, "object": 10, "goal": 10, "10": 10, "90": 90}
"""How many tasks a suite has."""
MAX_STEPS = {"spatial": 280, "object": 280, "goal": 300, "10": 520, "90": 400}
"""The longest demonstrations and a little, as LeRobot counts."""
IMAGE_SIZE = 256
INSTALL = (
    "LIBERO is not installed; give it an environment of its own: uv venv -p 3.12 libero && "
    "uv pip install -p libero/bin/python hf-libero==0.1.4 mujoco==3.8.1, then set "
    "ULNA_LIBERO_PYTHON=libero/bin/python (as an absolute path)"
)
NO_ASSETS = (
    "LIBERO's meshes are not in {folder}: hf download lerobot/libero-assets --repo-type dataset "
    "--local-dir {folder} (or name a folder that has them in ULNA_LIBERO_ASSETS)"
)


def libero_folder() -> Path | None:
    """Where the package lies under its interpreter, or None; it is not imported."""
    if not os.environ.get("ULNA_LIBERO_PYTHON"):
        spec = importlib.util.find_spec("libero")
        places = list(spec.submodule_search_locations or ()) if spec else []
        return Path(places[0]) / "libero" if places else None
    return _folder_under(tuple(interpreter_of("libero")))


@lru_cache
def _folder_under(python: tuple[str, ...]) -> Path | None:
    if len(python) == 1:  # an ordinary virtual environment tells without being started
        for found in Path(python[0]).parent.parent.glob("lib/python3*/site-packages/libero/libero"):
            return found
    ask = "import importlib.util as u; print(u.find_spec('libero').submodule_search_locations[0])"
    try:
        said = subprocess.run([*python, "-c", ask], capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return None
    return Path(said.stdout.strip()) / "libero" if said.returncode == 0 else None


@lru_cache
def task_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """The tasks of each suite in LIBERO's order, read from its table."""
    table = folder / "benchmark" / "libero_suite_task_map.py"
    tree = ast.parse(table.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "libero_task_map":
            named = ast.literal_eval(node.value)
            return {suite: tuple(named[f"libero_{suite}"]) for suite in SUITES}
    raise ValueError(
        f"{table} has no libero_task_map; the installed LIBERO is not 0.1.4 of hf-libero"
    )


def instruction_of(name: str) -> str:
    """The words in a task's name: `KITCHEN_SCENE3_turn_on_the_stove` -> `turn on the stove`."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def embodiment_of(render_profile: str = "exact") -> Embodiment:
    """What the Panda arm of every task here senses and obeys."""
    if render_profile != "exact":
        raise unknown_name("render profile", render_profile, ("exact",))
    return Embodiment(
        name="libero_panda_osc_pose",
        control_hz=20.0,
        state_names=(
            *(f"tool_{axis}_m" for axis in "xyz"),
            *(f"tool_turn_{axis}_rad" for axis in "xyz"),
            "finger_left_m",
            "finger_right_m",
        ),
        action_names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
        action_low=(-1.0,) * 7,
        action_high=(1.0,) * 7,
        action_meaning=(
            "OSC_POSE goal relative to the tool's present pose, axes of the world: 1 is 0.05 m (dx "
            "dy dz) or 0.5 rad of axis-angle (drx dry drz); gripper by its sign, > 0 closes; "
            "images are turned by 180 degrees from the renderer's rows, so left is right"
        ),
        cameras=(
            Camera("front", IMAGE_SIZE, IMAGE_SIZE),
            Camera("wrist", IMAGE_SIZE, IMAGE_SIZE),
        ),
        joint_names=tuple(f"panda_joint{i}" for i in range(1, 8)),
        action_frame="base",
        render_profile=render_profile,
    )


def make_libero(suite: str, index: int, instruction: str, render_profile: str) -> ForeignEnv:
    """The environment of a task, in its own process."""
    body = embodiment_of(render_profile)
    far_side = Path(__file__).with_name("remote_libero.py")
    scene = RemoteScene(far_side, f"{suite}/{index}", interpreter_of("libero"))
    name = f"libero/{suite}/{index}"
    return ForeignEnv(name, scene, (instruction,), MAX_STEPS[suite], body, ("exact",))


def missing() -> str:
    """What keeps the suite from running; empty if nothing."""
    folder = libero_folder()
    if folder is None:
        return INSTALL
    assets = Path(os.environ.get("ULNA_LIBERO_ASSETS") or folder / "assets")
    return "" if assets.is_dir() else NO_ASSETS.format(folder=assets)


def libero_tasks() -> dict[str, Task]:
    """The table of these suites; without the package, rows without words."""
    folder = libero_folder()
    named = task_names(folder) if folder else {}
    table = {}
    for suite, count in SUITES.items():
        for index in range(count):
            words = (instruction_of(named[suite][index]),) if named else ()
            table[f"libero/{suite}/{index}"] = Task(
                name=f"libero/{suite}/{index}",
                suite="libero",
                instructions=words,
                max_steps=MAX_STEPS[suite],
                embodiment=embodiment_of,
                make=partial(make_libero, suite, index, words[0] if words else ""),
                profiles=("exact",),
                missing=missing,
            )
    return table
