"""Which episodes of two evaluations are a pair: the same scene, words and conditions.

Next: `train/compare.py` (what the pairs say).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .report_groups import condition_of, words_said

MAY_DIFFER = ("delay", "mode", "perturbation", "said")
"""What `across` may name."""
SIMULATORS = ("mujoco", "robosuite", "metaworld", "gym_aloha", "gym_pusht", "libero")
"""Another version of one of these is another world: the same seed is not the same scene."""

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The episodes of A and of B."""


def read_results(path: Path) -> dict[str, Any]:
    """What `ulna evaluate` wrote in `path` (the file or its folder, or the run it judged)."""
    tried = [path] if path.is_file() else [path / "results.json", path / "evaluate/results.json"]
    for found in tried:
        if found.is_file():
            break
    else:
        raise FileNotFoundError(
            f"no results in {path}; expected a results.json or a folder with one, "
            "as `ulna evaluate RUN --task TASK` writes it"
        )
    try:
        results = json.loads(found.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{found} is not JSON ({error}); evaluate again") from error
    if not isinstance(results, dict) or not isinstance(results.get("episodes"), list):
        raise ValueError(f"{found} holds no episodes; expected results of `ulna evaluate`")
    return results


def matched(a: Mapping[str, Any], b: Mapping[str, Any], across: Sequence[str] = ()) -> list[Pair]:
    """Episodes of both on the same scene under the same conditions, in the order of A.

    Raises ValueError if there is none, naming what keeps them apart.
    """
    first, second = (_by_key(results, across, label) for results, label in ((a, "A"), (b, "B")))
    pairs = [(episode, second[key]) for key, episode in first.items() if key in second]
    if pairs:
        return pairs
    apart: list[str] = []
    could = False
    for position, name in enumerate(_fields(across)):
        sides = [
            sorted({key[position] for key in keys}, key=lambda value: (str(type(value)), value))
            for keys in (first, second)
        ]
        if not set(sides[0]) & set(sides[1]):
            could |= name in MAY_DIFFER
            apart.append(f"{name}: A has {_some(sides[0])}, B has {_some(sides[1])}")
    raise ValueError(
        "A and B have no scene in common. "
        + ("; ".join(apart) or "Each condition occurs in both, but never on the same scene")
        + ". Evaluate both with the same --task, --seed and conditions"
        + (", or name what may differ with --across" if could else "")
    )


def _fields(across: Sequence[str]) -> list[str]:
    names = ("task", "seed", "instruction", "said", "kind", "perturbation", "delay", "mode")
    return [name for name in names if name not in across]


def _by_key(
    results: Mapping[str, Any], across: Sequence[str], label: str
) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for episode in results["episodes"]:
        values = asdict(condition_of(episode)) | {
            "task": episode.get("task"), "seed": episode.get("seed"),
            "instruction": episode.get("instruction"), "said": words_said(episode),
        }  # fmt: skip
        key = tuple(values[name] for name in _fields(across))
        if key in found:
            facts = ", ".join(f"{n} {v}" for n, v in zip(_fields(across), key, strict=True) if v)
            raise ValueError(
                f"{label} holds two episodes of one scene and condition ({facts}); "
                + ("do not compare across what varies within it" if across else "evaluate it anew")
            )
        found[key] = episode
    return found


def refuse_other_worlds(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    first, second = a.get("versions") or {}, b.get("versions") or {}
    other = [
        f"{name}: A {first[name]}, B {second[name]}"
        for name in SIMULATORS
        if first.get(name) and second.get(name) and first[name] != second[name]
    ]
    if other:
        raise ValueError(
            f"A and B were run in different simulators ({'; '.join(other)}), where the same seed "
            "is not the same scene; evaluate both again with one of them"
        )


def notes(a: Mapping[str, Any], b: Mapping[str, Any], across: Sequence[str] = ()) -> list[str]:
    """What a reader must know of settings that belong to the policy."""
    found = []
    first, second = a.get("policy") or {}, b.get("policy") or {}
    if first.get("sha256") and first.get("sha256") == second.get("sha256"):
        found.append("A and B are the same weights.")
    for name, words in (
        ("render_profile", "render profile"),
        ("execution_horizon", "execution horizon"),
    ):
        if name in first and name in second and first[name] != second[name]:
            found.append(f"Their {words} differs: A {first[name]}, B {second[name]}.")
    for name in across:
        sides = [
            sorted({str(episode.get(name, "")) for episode in results["episodes"]})
            for results in (a, b)
        ]
        found.append(f"Compared across {name}: A {_some(sides[0])}, B {_some(sides[1])}.")
    return found


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:3])
    return shown + (f" and {len(values) - 3} more" if len(values) > 3 else "")
