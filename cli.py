"""Words to functions, nothing else: `ulna COMMAND ...`.

Nothing heavy is imported before a command is chosen, so that `--help` answers at once.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .datasets.schema import unknown_name
from .deploy_robot.run_cli import run, serve
from .train.judging_cli import compare, cores, duel, envs, evaluate

OVERVIEW = """\
ulna: from demonstrations to a moving arm

  ulna demo                                   all of the below on a small task, and a report

  ulna collect TASK --out STORE --episodes N  demonstrations by a scripted expert
  ulna data import PATH --out STORE           LeRobot, robomimic, diffusion_policy, RLDS, images
  ulna data info|verify|view|edit STORE ...   look at data, trust it, change it (ulna data --help)
  ulna train RECIPE --data STORE --out RUN    teach a policy
  ulna envs                                   the tasks there are, and which are installed
  ulna evaluate RUN --task TASK               success rate with its interval, language test
  ulna compare A B                            whether two evaluations differ, in words
  ulna duel A B --task NAME --out DIR         run two policies until it is decided which is better
  ulna run RUN --robot sim                    the real-time control loop
  ulna serve RUN                              a policy for control loops elsewhere
  ulna serve-vla-eval RUN                     a policy for the benchmarks of the vla-eval harness
  ulna doctor                                 what this machine can and cannot do

Every command explains itself with --help. Set ULNA_TRACEBACK=1 to see where an error came from.
"""

Name = Annotated[str, tyro.conf.arg(metavar="NAME")]


def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    minimal: bool = False,
    fresh: bool = False,
) -> None:
    """From nothing to a moving arm: collect, train, evaluate, run, report.

    A run that was stopped continues at the stage it had reached.

    Args:
        out: Folder for the store, the policy, the results and report.html.
        seed: Seeds the demonstrations, the training and the evaluation.
        minimal: Every stage in its smallest size: seconds, and a policy that learned nothing.
            For trying the installation.
        fresh: Delete what an earlier demo left in OUT first.
    """
    _rendering()
    from .deploy_robot.run import run as run_on_robot
    from .train.demo import FULL, MINIMAL, run_demo

    run_demo(out, seed, MINIMAL if minimal else FULL, run_on_robot, fresh=fresh)


def collect(
    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")],
    *,
    out: Path,
    episodes: int,
    seed: int = 0,
    workers: int = 0,
    append: bool = False,
    resume: bool = False,
    keep_failures: bool = False,
    images: Literal["afterwards", "inline"] = "afterwards",
    image_size: int = 0,
    undisturbed: bool = False,
) -> None:
    """Collect demonstrations of a task by its scripted expert.

    Noise is added to what the arm is sent, so that recoveries are seen; the expert's noise-free
    action is what is stored. Ctrl-C keeps every finished episode.

    Args:
        task: Task name, such as pick_named.
        out: Store to write; an existing one is refused without --append.
        episodes: Successful episodes to store.
        seed: Which run of scenes; different seeds never share a scene, nor does evaluation.
        workers: Processes; 0 takes one per core. The episodes do not depend on it.
        append: Add to a store that exists.
        resume: Complete an interrupted collection to what it would have been.
        keep_failures: Store failed attempts too, marked as such, besides EPISODES successes.
        images: Draw pictures from the states of a finished episode, or at every step; the same
            pixels, and failed attempts cost no pictures.
        image_size: Pixels of a picture's side; 0: those of the store, or the task's own choice.
            Policies are evaluated with the pictures they were taught with.
        undisturbed: Send the arm what the expert wants and nothing else: smooth, and without a
            single recovery to learn from.
    """
    _rendering()
    from .envs.collect import QUIET
    from .envs.collect import collect as collect_episodes

    summary = collect_episodes(
        task, out, episodes, seed=seed, workers=workers or cores(), append=append, resume=resume,
        keep_failures=keep_failures, images=images, image_size=image_size,
        noise=QUIET if undisturbed else None,
    )  # fmt: skip
    print(
        f"{out}: {summary.episodes} episodes ({summary.steps} steps) stored, {summary.failed} "
        f"attempts failed, {summary.seconds:.0f} s"
    )


def train(words: Sequence[str]) -> None:
    """`train RECIPE --data STORE --out RUN`: the recipe's own numbers become flags."""
    from .train.config import TrainConfig
    from .train.loop import train as train_policy
    from .train.recipes import RECIPES, recipe

    names = ", ".join(sorted(RECIPES))
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: ulna train RECIPE --data STORE --out RUN [flags]\n\nrecipes: {names}\n")
        for name, function in RECIPES.items():
            print(f"  {name:10s} {(function.__doc__ or '').strip()}")
        print("\n`ulna train RECIPE --help` lists every flag with the recipe's value.")
        return
    if words[0].startswith("-"):
        raise ValueError(f"expected a recipe before {words[0]}; recipes: {names}")
    chosen = recipe(words[0])

    def command(
        *,
        data: tuple[Path, ...],
        out: Path,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Teach a policy from a store of demonstrations.

        Stopped by Ctrl-C or a crash, the same command goes on where it was.

        Args:
            data: Store of demonstrations (`ulna collect`, or imported), or several, also of
                different robots.
            out: Folder of the run: config, curves, the policy, resume point.
            config: The recipe's numbers.
        """
        print(f"policy: {train_policy(config, data, out)}")

    tyro.cli(
        command,
        prog=f"ulna train {words[0]}",
        args=list(words[1:]),
        config=(tyro.conf.AvoidSubcommands,),
    )


def serve_vla_eval(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    cameras: tuple[Annotated[str, tyro.conf.arg(metavar="OURS=THEIRS")], ...] = (
        "front=agentview",
        "wrist=wrist",
    ),
    state_key: str = "states",
    execution_horizon: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    device: str = "cpu",
) -> None:
    """Let the vla-eval harness judge a policy on its benchmarks: serves RUN as its model server.

    Args:
        run: Training run or policy folder.
        cameras: The policy's cameras by the benchmark's names; the default is its LIBERO's.
        state_key: What the benchmark calls the state.
        execution_horizon: Actions executed per chunk; by default the policy's own.
        host: Address to listen at; any other than this machine's own needs a token.
        port: Port to listen at; 0 takes a free one.
        token_file: Holds the token, by default the environment's ULNA_TOKEN; the harness then
            connects to ws://HOST:PORT/TOKEN.
        device: Where the policy computes.
    """
    from .deploy_robot.remote_access import read_token
    from .deploy_robot.run_cli import pairs
    from .envs.vla_eval_server import VlaEvalConfig, VlaEvalServer
    from .policies.checkpoint import load_policy

    policy = load_policy(run, device)
    server = VlaEvalServer(
        policy.act,
        policy.embodiment,
        VlaEvalConfig(
            cameras=pairs(cameras),
            state_key=state_key,
            execution_horizon=execution_horizon or policy.config.execution_horizon,
            history=policy.config.history,
            host=host,
            port=port,
            token=read_token(token_file),
        ),
    )
    print(f"serving vla-eval at {server.url}", flush=True)
    server.serve_forever()


def doctor() -> None:
    """Check this machine: Python, torch, MuJoCo and its renderers, real-time rights."""
    from .deploy_robot.doctor import print_check_up

    raise SystemExit(print_check_up())


def _rendered(command: Callable[..., None]) -> Callable[..., None]:
    """The command, once it is known that pictures can be drawn."""

    @functools.wraps(command)
    def checked(*arguments: Any, **flags: Any) -> None:
        _rendering()
        command(*arguments, **flags)

    return checked


def _rendering() -> None:
    """Say what is missing for headless rendering before anything else is begun."""
    from .deploy_robot.doctor import require_rendering

    require_rendering()


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "collect": collect,
    "train": train,
    "evaluate": _rendered(evaluate),
    "compare": compare,
    "duel": duel,
    "envs": envs,
    "run": run,
    "serve": serve,
    "serve-vla-eval": serve_vla_eval,
    "doctor": doctor,
}


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the `ulna` command. Exit code 2: the user's mistake, said in one message."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        _dispatch(words)
    except (ValueError, FileNotFoundError, FileExistsError, PermissionError) as error:
        if os.environ.get("ULNA_TRACEBACK"):
            traceback.print_exc()
        print(f"ulna: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "\nulna: stopped; what was finished is kept, the same command goes on", file=sys.stderr
        )
        raise SystemExit(130) from None


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW)
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS and name != "data":
        raise unknown_name("command", name, [*COMMANDS, "data"])
    if name == "train":
        train(rest)
        return
    if name == "data":
        from .datasets.data_cli import data

        data(rest, _render_states)
        return
    tyro.cli(COMMANDS[name], prog=f"ulna {name}", args=rest)


def _render_states(*arguments: Any) -> Any:
    """`envs.render_states`, imported when something is drawn; picklable for the workers."""
    from .envs.render_states import render_states

    return render_states(*arguments)


if __name__ == "__main__":
    main()
