"""The commands that judge, and their flags: `ulna evaluate`, `ulna compare`, `ulna envs`.

Nothing heavy is imported before a command runs, so that `--help` answers at once.

Next: `train/evaluate.py`, `train/delay_sweep.py`, `train/compare.py` (which do it).
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Words = Annotated[str, tyro.conf.arg(metavar="WORD[,WORD]")]


def evaluate(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    task: Annotated[str, tyro.conf.arg(metavar="NAME[,NAME]")],
    episodes: int = 50,
    seed: int = 0,
    workers: int = 0,
    out: Path | None = None,
    language_swap: bool = True,
    language: Words = "",
    axes: Words = "",
    strength: Literal["mild", "strong"] = "mild",
    delay: Words = "",
    mode: Words = "",
    execution_horizon: int | None = None,
    realtime: Literal["auto", "off", "trained", "guided", "identity"] | None = None,
    batch: int = 0,
    device: str = "cpu",
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None,
    videos: bool = True,
) -> None:
    """Judge a policy: success rate with its 95 % Wilson interval, and whether it listens.

    The same seed gives the same outcome whatever the number of workers. A stopped evaluation goes
    on where it was. Results go to OUT/results.json, the page to OUT/report.html.

    Args:
        run: Training run or policy folder.
        task: Task name, such as pick_named, or several, separated by commas.
        episodes: Scenes per task, one per seed.
        seed: Which run of scenes; none of them is ever used for demonstrations.
        workers: Processes; 0 takes one per core.
        out: Folder for results.json, the page and videos; RUN/evaluate by default.
        language_swap: Also run the same scenes with the instruction naming another object.
        language: Further language tests: paraphrase, blank, nonsense, or all.
        axes: Robustness: lighting, camera, rendering and others, or all; the same scenes with that
            changed.
        strength: How much the axes change.
        delay: Inference delays in control ticks (0,1,2,4,8), the same scenes at each; also other
            laws, see `envs/virtual_clock.py`.
        mode: How chunks are executed: synchronous, hold, asynchronous, ensemble, rtc (rtc:guided);
            several only with --delay.
        execution_horizon: Actions executed per chunk; by default the policy's own.
        realtime: How the policy joins a new chunk to the plan under way, in mode rtc.
        batch: Batch size of one policy for all workers; 0 gives each worker its own policy.
        device: Where that one policy computes.
        ray: Run the episodes on this Ray cluster (`auto`, or its address).
        videos: Film three successes and every failure.
    """
    from ..envs.perturbation import AXES
    from .evaluate import LANGUAGE, print_results
    from .evaluate import evaluate as evaluate_policy
    from .judging import Engine
    from .report_evaluation import build_evaluation_page

    out, tasks, modes = out or run / "evaluate", words_in(task), words_in(mode)
    cluster = None
    if ray is not None:
        from ..envs.engine_ray import RayCluster

        cluster = RayCluster(ray)
    engine = Engine(workers or cores(), batch, device, ray=cluster)
    shared: dict[str, Any] = {
        "execution_horizon": execution_horizon, "realtime": realtime, "engine": engine,
        "videos": videos,
    }  # fmt: skip
    if delay:
        from ..envs.virtual_clock import parse_delay
        from .delay_sweep import print_sweep, sweep

        shared["delays"] = [parse_delay(text) for text in words_in(delay)]
        if modes:
            shared["modes"] = modes
        print_sweep(sweep(run, tasks, episodes, seed, engine.workers, out, **shared))
    else:
        if len(modes) > 1:
            raise ValueError(f"--mode {mode} names several modes; compare them with --delay 0,2,4")
        if modes:
            from ..envs.chunk_execution import mode_named

            shared["mode"] = mode_named(modes[0])
        results = evaluate_policy(
            run, tasks, episodes, seed, engine.workers, out, language_swap=language_swap,
            language=LANGUAGE if language == "all" else words_in(language),
            axes=tuple(AXES) if axes == "all" else words_in(axes), strength=strength, **shared,
        )  # fmt: skip
        print_results(results)
    print(f"page: {build_evaluation_page(out)}")


def compare(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    *,
    out: Path | None = None,
    across: Words = "",
    confidence: float = 0.95,
) -> None:
    """Say whether two evaluations differ: paired by scene, exact McNemar, interval of the gain.

    Args:
        a: Folder of an evaluation (or its results.json).
        b: The other one, of the same scenes under the same settings.
        out: HTML page to write, with both films of every scene that differs.
        across: Settings that may differ because they are what is compared: mode, delay.
        confidence: Of the intervals.
    """
    from .compare import compare as compare_results
    from .compare import print_comparison

    result = compare_results(a, b, confidence, words_in(across))
    print_comparison(result)
    if out is not None:
        from .report_comparison import build_comparison_page

        print(f"page: {build_comparison_page(result, a, b, out)}")


def duel(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    *,
    task: Annotated[str, tyro.conf.arg(metavar="NAME")],
    out: Path,
    episodes: int = 300,
    seed: int = 0,
    workers: int = 0,
    confidence: float = 0.95,
    device: str = "cpu",
    batch: int = 0,
    videos: bool = False,
) -> None:
    """Run two policies on the same scenes until it is decided which is better.

    A sequential test looks after every scene and stays valid under looking, so clear differences
    cost few scenes. OUT/a and OUT/b are evaluations; `ulna compare OUT/a OUT/b` says the rest.

    Args:
        a: Training run or policy folder.
        b: The other one.
        task: Task name, such as pick_named.
        out: Folder for both evaluations and duel.json; a stopped duel goes on where it was.
        episodes: Most scenes to run.
        seed: Which run of scenes.
        workers: Processes; 0 takes one per core.
        confidence: Equal policies are called different in at most 1 - CONFIDENCE of duels.
        device: Where the policies compute.
        batch: One policy for all workers, asked in batches of this size; 0: one per worker.
        videos: Film the failures.
    """
    from .duel import duel as run_duel
    from .duel import duel_sentence
    from .judging import Engine

    engine = Engine(workers=workers or cores(), batch_size=batch, device=device)
    result = run_duel(
        a, b, task, episodes, seed, out, engine=engine, confidence=confidence, videos=videos
    )
    print(duel_sentence(result))


def envs(suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")] = "") -> None:
    """List the tasks: which are installed, who demonstrates them, how many instructions.

    Args:
        suite: Only this suite, such as language or metaworld.
    """
    from rich.console import Console
    from rich.table import Table

    from ..envs.catalogue import list_envs

    rows = list_envs(suite)
    # A task's name cut short cannot be typed, so the table must do with 80 columns.
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(
        "task", no_wrap=True, min_width=max((len(row.task) for row in rows), default=0)
    )
    for column in ("robot", "expert", "commands", "state"):
        table.add_column(column, no_wrap=True)
    for position, row in enumerate(rows):
        if position == 0 or rows[position - 1].suite != row.suite:
            table.add_row(f"[bold]{row.suite}[/bold]")
        state = "ready" if row.installed else "missing"
        expert = "yes" if row.expert else "-"
        table.add_row(row.task, row.robot, expert, str(row.instructions or "-"), state)
    console = Console()
    console.print(table)
    for missing in dict.fromkeys(row.missing for row in rows if row.missing):
        console.print(f"{missing}", highlight=False)


def words_in(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
