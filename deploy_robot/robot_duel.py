"""Two policies on one arm, blind and in turns, until it is decided which is better.

    pair       1       2       3     ...    which of the two goes first is drawn anew for each pair
    episode   A  B    B  A    A  B          and said to nobody: who sets up the scene and who
    judged    s  f    s  s    f  s          judges cannot favour one, and a drifting arm or light
                                            harms both alike

After every pair the sequential test looks (`../envs/sequential_unpaired.py`; in simulation, where
scenes come back, `../envs/sequential_test.py`). All that was judged stands in OUT/duel.json at
once, so that the same command goes on after a stop, a crash or a night.

The protocol is that of STEP (Snyder and others, RSS 2025, arXiv 2503.10966, section V).

Next: `run_cli.py` (`ulna run A --against B`), `run.py` (one episode).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..envs.sequential_test import PairedSequentialTest
from ..envs.sequential_unpaired import UnpairedSequentialTest
from ..policies.checkpoint import write_json
from .robot import UNJUDGED

Side = Literal["a", "b"]
RunEpisode = Callable[[Side, int, Path], dict[str, Any]]
"""Runs one episode of that policy, in the scenes of that seed, into that folder; returns the
results of `run.run`, also those of an arm that was stopped."""
Ask = Callable[[str], bool]


def robot_duel(
    run_episode: RunEpisode,
    policies: Mapping[Side, str],
    episodes: int,
    seed: int,
    out: Path,
    *,
    same_scenes: bool,
    ask: Ask,
    say: Callable[[str], None] = print,
    confidence: float = 0.95,
    settings: Mapping[str, str | int | float | bool] | None = None,
) -> dict[str, Any]:
    """Run at most `episodes` pairs and write `out/duel.json`; returns the same.

    Args:
        policies: what A and B are, for the record.
        same_scenes: both policies of a pair meet the same scene, so that the paired test holds.
        ask: a person, for episodes that nobody judged and arms that were stopped.
        settings: a duel that is gone on with must have the same.

    Equal policies are called different in at most 1 - `confidence` of duels. An arm that is stopped
    ends the command: RuntimeError, after asking whether it counts against the policy.

    Raises ValueError for a folder that holds another duel.
    """
    if policies["a"] == policies["b"]:
        raise ValueError(f"A and B are the same, {policies['a']}; give two policies")
    plan = {
        "policies": dict(policies), "planned": episodes, "seed": seed, "confidence": confidence,
        "same_scenes": same_scenes, "settings": dict(settings or {}),
    }  # fmt: skip
    kind = PairedSequentialTest if same_scenes else UnpairedSequentialTest
    test = kind(episodes, confidence)
    judged = _judged_before(out, plan)
    for first, second in zip(judged[::2], judged[1::2], strict=False):
        _feed(test, first, second)
    while not test.finished:
        pair = len(judged) // 2
        order = _order(seed, pair)
        for place in range(len(judged) % 2, 2):
            number = len(judged)
            say(f"episode {number + 1} of at most {2 * episodes}")
            folder = out / "episodes" / f"{number:04d}"
            results = run_episode(order[place], seed + pair, folder)
            success = _success(results, ask)
            if success is not None:
                judged.append({"policy": order[place], "success": success, "folder": folder.name})
                _write(out, plan, judged, test)
            if stopped := results["stopped"]:
                raise RuntimeError(
                    f"the arm was stopped ({stopped['reason']}) and holds; the log is in {folder}. "
                    "When all is well, the same command goes on with the duel"
                )
        _feed(test, *judged[-2:])
        _write(out, plan, judged, test)
    return _write(out, plan, judged, test)


def duel_on_robot(
    run_some: Callable[[Side, int, int, Path], dict[str, Any]],
    a: str,
    b: str,
    settings: Mapping[str, str | int | float | bool],
    episodes: int,
    seed: int,
    out: Path,
) -> str:
    """What `ulna run A --against B` does: `run_some` runs so many episodes of one of them, from the
    first scene of that seed; robot `sim` alone has scenes that come back. Returns the verdict."""

    def run_episode(side: Side, scene: int, folder: Path) -> dict[str, Any]:
        written = folder / "results.json"
        written.unlink(missing_ok=True)  # of an attempt that did not count
        try:
            return run_some(side, 1, scene, folder)
        except RuntimeError:
            if not written.exists():
                raise
            results = json.loads(written.read_text())
            if not results["stopped"]:
                raise
            return results

    result = robot_duel(
        run_episode, {"a": a, "b": b}, episodes, seed, out,
        same_scenes=settings["robot"] == "sim", ask=ask_on_terminal, settings=settings,
    )  # fmt: skip
    return f"{duel_words(result)}\n{out / 'duel.json'}"


def duel_words(result: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    wins, pairs = result["successes"], result["pairs"]
    count = f"A succeeded in {wins['a']} and B in {wins['b']} of {pairs} episodes each"
    if result["verdict"] is None:
        return f"Not decided after all {pairs} planned pairs: {count}."
    better = result["verdict"].upper()
    return (
        f"{better} ({result['policies'][result['verdict']]}) is better, decided after {pairs} of "
        f"{result['planned']} planned pairs: {count}."
    )


def ask_on_terminal(question: str) -> bool:
    """Yes or no from the terminal; RuntimeError if there is nobody to ask."""
    while True:
        try:
            answer = input(f"{question} [y/n] ").strip().lower()
        except EOFError:
            raise RuntimeError(
                f"nobody answered {question!r}: the input is not a terminal; run it in one, or "
                "with --keys judge while the episode runs"
            ) from None
        if answer in ("y", "yes", "n", "no"):
            return answer.startswith("y")


def _order(seed: int, pair: int) -> tuple[Side, Side]:
    # Of seed and pair alone: a duel that goes on draws the same.
    return ("a", "b") if np.random.default_rng([seed, pair]).random() < 0.5 else ("b", "a")


def _success(results: Mapping[str, Any], ask: Ask) -> bool | None:
    """Of the one episode; None if it does not count."""
    if results["stopped"]:
        reason = results["stopped"]["reason"]
        counts = ask(f"The arm was stopped ({reason}). Was it the policy's fault, a failure?")
        return False if counts else None
    entry = results["episodes"][0]
    if entry["ended"] == "time" and entry["outcome"] == UNJUDGED:
        return ask("Time is up. Did it succeed?")
    return bool(entry["success"])


def _feed(
    test: PairedSequentialTest | UnpairedSequentialTest,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
) -> None:
    outcome = {one["policy"]: one["success"] for one in (first, second)}
    test.feed(outcome["a"], outcome["b"])


def _judged_before(out: Path, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Episodes of the same duel, if it was begun before."""
    try:
        stored = json.loads((out / "duel.json").read_text())
    except FileNotFoundError:
        return []
    for name, now in plan.items():
        if stored.get(name) != now:
            raise ValueError(
                f"{out} holds another duel: {name} was {stored.get(name)}, now {now}; give "
                "another --out, or the words it was begun with"
            )
    return stored["episodes"]


def _write(
    out: Path,
    plan: Mapping[str, Any],
    judged: list[dict[str, Any]],
    test: PairedSequentialTest | UnpairedSequentialTest,
) -> dict[str, Any]:
    whole = judged[: len(judged) // 2 * 2]
    result = {
        **plan,
        "pairs": len(whole) // 2,
        "verdict": test.verdict,
        "successes": {
            side: sum(one["success"] for one in whole if one["policy"] == side) for side in "ab"
        },
        "episodes": judged,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "duel.json", result)
    return result
