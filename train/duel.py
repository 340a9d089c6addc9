"""Two policies on the same scenes, until it is decided which is better.

    scenes   1 2 3 ... batch | batch | batch ...        after each batch the sequential test looks
    A        o . o           |       |                  at every scene in its order; once it is
    B        o o o           |       |                  decided nothing more is run

Both leave an evaluation each, so that `ulna compare OUT/a OUT/b` and the pages work on them.

Next: `envs/sequential_test.py` (why looking is allowed), `train/compare.py` (what is said then).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from ..envs.parallel import EpisodeJob
from ..envs.rollout import evaluation_seeds
from ..envs.sequential_test import PairedSequentialTest
from ..policies.checkpoint import write_json
from .evaluate import label, summary
from .evaluation_films import Filmed, film_episodes
from .judging import Engine, Judge

BATCH = 16
"""Scenes between two looks: processes are kept busy, and at most so many are run in vain."""


def duel(
    a: Path,
    b: Path,
    task: str,
    episodes: int,
    seed: int,
    out: Path,
    *,
    engine: Engine | None = None,
    confidence: float = 0.95,
    batch: int = BATCH,
    videos: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run at most `episodes` scenes of `task` with both policies and write `out/a/results.json`,
    `out/b/results.json` and `out/duel.json` (the verdict, and after how many scenes it fell).

    The verdict is that of the sequential test planned for `episodes` scenes; equal policies are
    called different in at most 1 - `confidence` of duels. A stopped duel goes on where it was.

    Raises ValueError for less than one scene, the same folder twice, or what `Judge` refuses.
    """
    if episodes < 1 or batch < 1:
        raise ValueError(f"got {episodes} episodes in batches of {batch}; expected 1 or more")
    if a.resolve() == b.resolve():
        raise ValueError(f"A and B are the same folder, {a}; give two policies")
    console = console or Console()
    engine = engine or Engine()
    test = PairedSequentialTest(episodes, confidence)
    scenes = evaluation_seeds(seed, episodes)
    jobs = [EpisodeJob(scene) for scene in scenes]
    judges = {
        name: Judge(run, [task], engine, keep_states=videos, console=console)
        for name, run in (("a", a), ("b", b))
    }
    horizons = {name: judge.execution_horizon for name, judge in judges.items()}
    done: dict[str, list[Filmed]] = {"a": [], "b": []}
    with ExitStack() as open_now:
        for name, judge in judges.items():
            open_now.enter_context(judge)
            open_now.enter_context(judge.logging(out / name))
        for start in range(0, episodes, batch):
            part = jobs[start : start + batch]
            _run(judges, done, task, part)
            for first, second in zip(done["a"][start:], done["b"][start:], strict=True):
                if not test.finished:
                    test.feed(first.result.success, second.result.success)
            if test.finished:
                break
        for name, judge in judges.items():
            if videos:
                film_episodes(judge, done[name], out / name, console)
    for name, judge in judges.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        write_json(out / name / "results.json", summary(judge, done[name], seed))
    result = {
        "task": task,
        "seed": seed,
        "confidence": confidence,
        "planned": episodes,
        "scenes": test.table.scenes,
        "run": len(done["a"]),
        "verdict": test.verdict,
        "table": {
            name: getattr(test.table, name) for name in ("both", "only_a", "only_b", "neither")
        },
        "execution_horizon": horizons,
    }
    write_json(out / "duel.json", result)
    return result


def _run(
    judges: dict[str, Judge],
    done: dict[str, list[Filmed]],
    task: str,
    jobs: Sequence[EpisodeJob],
) -> None:
    for name, judge in judges.items():
        results = judge.roll(task, jobs, label(task, f"policy {name.upper()}", [task]))
        done[name] += [Filmed("named", r, j) for r, j in zip(results, jobs, strict=True)]


def duel_sentence(result: dict[str, Any]) -> str:
    """The verdict in one sentence."""
    table, scenes = result["table"], result["scenes"]
    won = f"A alone succeeded in {table['only_a']} scenes, B alone in {table['only_b']}"
    if result["verdict"] is None:
        return (
            f"Not decided after all {scenes} scenes: {won}, both in {table['both']}. Plan more "
            "scenes if a smaller difference matters."
        )
    return (
        f"{result['verdict'].upper()} is better, decided after {scenes} of {result['planned']} "
        f"planned scenes: {won}, both in {table['both']}."
    )
