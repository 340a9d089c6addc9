"""The rule of the house: who may import whom, and what no file may hold.

Each rule is a function from a folder to the complaints it has; the rules run on the repository and,
so that they cannot fall asleep, on a planted house with one violation of each.
"""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "policies", "envs", "train", "deploy_robot")
MAY_IMPORT = {
    "datasets": set(),
    "policies": {"datasets"},
    "envs": {"datasets"},
    "train": {"datasets", "policies", "envs"},
    "deploy_robot": {"datasets", "policies", "envs"},
    ".": set(FOLDERS),
}
MOST_LINES = 400
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {"torch.load", "np.load", "numpy.load"}


def sources(root: Path) -> list[Path]:
    files = [
        path
        for folder in FOLDERS
        for path in (root / folder).rglob("*.py")
        # A folder with a pyproject.toml is a distribution of its own, which imports ours.
        if not (path.parent / "pyproject.toml").exists()
    ]
    return sorted([*files, *root.glob("*.py")])


def module(root: Path, path: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def folder_of(name: tuple[str, ...]) -> str:
    return name[0] if name and name[0] in FOLDERS else "."


def imports(root: Path, path: Path) -> list[tuple[tuple[str, ...], bool]]:
    """Modules of the house that `path` imports, and whether at import time (not in a function)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    known = {module(root, other) for other in sources(root)}
    package = path.relative_to(root).parent.parts
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - (node.level - 1)]
        base += tuple(node.module.split(".")) if node.module else ()
        for alias in node.names:
            name = (*base, alias.name) if (*base, alias.name) in known else base
            found.append((name, id(node) not in lazy))
    return found


def floor_complaints(root: Path) -> list[str]:
    complaints = []
    for path in sources(root):
        here = folder_of(module(root, path))
        for name, _ in imports(root, path):
            there = folder_of(name)
            if name[:1] in (("cli",), ("__main__",)) and path.name != "__main__.py":
                complaints.append(f"{path.relative_to(root)} imports {name[0]}, the top floor")
            elif there != here and there not in MAY_IMPORT[here]:
                complaints.append(f"{path.relative_to(root)} imports {'.'.join(name)}")
    return complaints


def absolute_complaints(root: Path) -> list[str]:
    """Inside the package imports are relative; `import datasets` is Hugging Face's and no one's."""
    complaints = []
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            complaints += [
                f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)} imports {name}"
                for name in names
                if name.split(".")[0] in {"ulna", "policies", "envs", "train", "deploy_robot"}
            ]
    return complaints


def cycle_complaints(root: Path) -> list[str]:
    graph = {
        module(root, path): {name for name, at_import in imports(root, path) if at_import}
        for path in sources(root)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(".".join(name) for name in error.args[1])]
    return []


def data_complaints(root: Path) -> list[str]:
    """Nothing a user hands us may run code: no pickle, no loader that may unpickle."""
    complaints = []
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                safe = call != "torch.load" and "allow_pickle=False" in ast.unparse(node)
                names = [call] if call in FORBIDDEN_CALLS and not safe else []
            complaints += [
                f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)} uses {name}"
                for name in names
                if name in FORBIDDEN_MODULES | FORBIDDEN_CALLS
            ]
    return complaints


def place_complaints(root: Path) -> list[str]:
    complaints = []
    for path in sources(root):
        relative = path.relative_to(root)
        if path.name == "__init__.py":
            if path.parent != root:
                complaints.append(f"{relative}: the folders hold no __init__.py")
            continue
        if path.stem in sys.stdlib_module_names and path.stem != "__main__":
            complaints.append(f"{relative} has the name of a standard module")
        if path.stem in {"utils", "util", "common", "base", "helpers", "misc"}:
            complaints.append(f"{relative} says nothing about its subject")
        if len(relative.parts) > 2:
            complaints.append(f"{relative}: the folders are flat")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            complaints.append(f"{relative} has {lines} lines, more than {MOST_LINES}")
    return complaints


RULES = [
    floor_complaints, absolute_complaints, cycle_complaints, data_complaints, place_complaints,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert len(sources(ROOT)) > 20, "the checker does not see the sources"
    complaints = rule(ROOT)
    assert not complaints, "\n".join(complaints)


def test_tests_and_benchmarks_import_the_package_by_its_name():
    bare = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(set(FOLDERS) - {'datasets'})})\b", re.M)
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    wrong = [path.name for path in files if bare.search(path.read_text(encoding="utf-8"))]
    assert not wrong, f"write `ulna.FOLDER.FILE` in {wrong}"


def house(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SOUND = {
    "__init__.py": "",
    "cli.py": "from .train.loop import train\n",
    "datasets/schema.py": "import numpy\n",
    "datasets/store.py": "from .schema import Episode\n",
    "policies/policy.py": "from ..datasets.schema import Batch\nimport datasets\n",
    "train/loop.py": "def train():\n    from ..policies import policy\n",
}


def test_a_sound_house_is_not_blamed(tmp_path):
    house(tmp_path, SOUND)
    assert [complaint for rule in RULES for complaint in rule(tmp_path)] == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (floor_complaints, "datasets/writer.py", "from ..envs.env import Env\n"),
        (floor_complaints, "policies/strange.py", "from ..envs import env\n"),
        (floor_complaints, "envs/strange.py", "def f():\n    from ..policies.policy import P\n"),
        (floor_complaints, "train/strange.py", "from ..deploy_robot.run import run\n"),
        (floor_complaints, "deploy_robot/strange.py", "from ..train import loop\n"),
        (floor_complaints, "train/top.py", "from ..cli import main\n"),
        (floor_complaints, "train/top.py", "from .. import cli\n"),
        (absolute_complaints, "train/absolute.py", "from ulna.policies.policy import P\n"),
        (absolute_complaints, "train/absolute.py", "import policies.policy\n"),
        (cycle_complaints, "datasets/schema.py", "from .store import Store\n"),
        (data_complaints, "datasets/loads.py", "import pickle\n"),
        (data_complaints, "datasets/loads.py", "import torch\nx = torch.load('a')\n"),
        (data_complaints, "datasets/loads.py", "import numpy as np\nx = np.load('a')\n"),
        (place_complaints, "envs/__init__.py", ""),
        (place_complaints, "envs/queue.py", ""),
        (place_complaints, "envs/utils.py", ""),
        (place_complaints, "envs/deep/file.py", ""),
        (place_complaints, "envs/long.py", "\n" * 401),
    ],
)
def test_a_planted_violation_is_found(tmp_path, rule, name, text):
    house(tmp_path, SOUND | {name: text})
    assert rule(tmp_path), f"{rule.__name__} did not see {name}: {text!r}"
