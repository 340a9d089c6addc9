"""`ulna data ...`: words to functions, nothing else.

Next: `import_episodes.py`, `verify.py`, `view.py`, `edit_cli.py` (the edits).
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .edit_cli import EDIT_COMMANDS
from .episode_list import parse_cameras, parse_episodes
from .schema import unknown_name

StorePath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
"""A folder, or an address such as s3://bucket/path."""
Episodes = Annotated[str | None, tyro.conf.arg(metavar="LIST")]


def data_import(
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")],
    *,
    out: str,
    format: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    limit: int | None = None,
    codec: Literal["jpeg", "lossless", "clip"] = "jpeg",
    quality: int = 95,
    video: Literal["keep", "jpeg", "clip"] | None = None,
    pictures: Literal["keep", "jpeg", "clip"] | None = None,
    joint_unit: Literal["degree"] | None = None,
    robot: str | None = None,
    task: str | None = None,
    instruction: str | None = None,
    control_hz: float | None = None,
    state_keys: tuple[str, ...] | None = None,
    action_keys: tuple[str, ...] | None = None,
    action_low: tuple[float, ...] | None = None,
    action_high: tuple[float, ...] | None = None,
    action_meaning: str | None = None,
    action_frame: str | None = None,
    quaternion_order: Literal["wxyz", "xyzw"] | None = None,
    success: Literal["reward", "unknown"] | None = None,
    split: str | None = None,
    render: tuple[str, ...] = (),
    render_states: tyro.conf.Suppress[Any] = None,
) -> None:
    """Bring a dataset into a store; the format is recognised.

    LeRobotDataset v3, robomimic HDF5, diffusion_policy and UMI Zarr (folder or zip), RLDS/TFRecord,
    folders of images with CSV or Parquet. Stopped, the same command goes on. Says what is left out.

    Args:
        path: The dataset: a folder or a file.
        out: Store to write or to add to.
        format: Say the format instead of having it recognised.
        workers: Processes, or Ray actors.
        ray: Address of a Ray cluster (`auto`, `local` or host:port): then the workers are its.
        limit: Only the first so many episodes.
        codec: How frames are stored that do not come as JPEG or video.
        quality: Of JPEG, 0 to 100.
        video: LeRobot videos: `keep` the packets as they are, or encode anew.
        pictures: LeRobot pictures: `keep` without loss, or encode anew.
        joint_unit: Of joints in LeRobot data; they become rad (ulna run --policy-units robot).
        robot: Name of the embodiment, where the source does not say.
        task: Task of every episode.
        instruction: Command of every episode.
        control_hz: Commands per second.
        state_keys: Arrays joined into the state, in order.
        action_keys: Arrays joined into the action, in order.
        action_low: Smallest action the controller obeys, one per entry or one for all.
        action_high: Largest action, likewise.
        action_meaning: Representation, frame and scale of an action, in words.
        action_frame: Frame of Cartesian actions, such as base or tool.
        quaternion_order: Of quaternions in state and action.
        success: Take success from the reward (robomimic, RLDS), or leave it unknown.
        split: Of an RLDS dataset, such as train.
        render: Draw the states of robomimic files anew, such as agentview:224x224 (WxH).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from .image_codec import Clip, Jpeg, Lossless
    from .import_episodes import Progress, import_episodes

    codecs = {"jpeg": Jpeg(quality), "lossless": Lossless(), "clip": Clip()}
    options = {
        "video": video, "pictures": pictures, "joint_unit": joint_unit, "robot": robot,
        "task": task, "instruction": instruction, "control_hz": control_hz,
        "state_keys": state_keys, "action_keys": action_keys, "action_low": action_low,
        "action_high": action_high, "action_meaning": action_meaning, "split": split,
        "action_frame": action_frame, "quaternion_order": quaternion_order, "success": success,
    }  # fmt: skip
    if render:
        options |= {"cameras": parse_cameras(render), "render": render_states}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns) as bar:
        line = bar.add_task("import", total=None, rate="")

        def advance(progress: Progress) -> None:
            rate = f"{progress.steps / max(progress.seconds, 1e-9):.0f} steps/s"
            bar.update(line, total=progress.total, completed=progress.done, rate=rate)

        summary = import_episodes(
            path, out, format, workers, ray, limit, codecs[codec], options, progress=advance
        )
    print(
        f"{out}: {summary.imported} episodes ({summary.steps} steps) imported from "
        f"{summary.format}, {summary.already_there} were there already"
    )
    for loss in summary.losses:
        print(f"  not carried over: {loss}")
    for skipped in summary.skipped:
        print(f"  skipped {skipped.key}: {skipped.reason}", file=sys.stderr)
    if not summary.complete:
        raise SystemExit(1)


def data_export(
    store: StorePath,
    *,
    out: Path,
    format: Literal["lerobot"] = "lerobot",
    episodes: Episodes = None,
    video: Literal["keep", "encode", "pictures"] = "keep",
    fps: int | None = None,
) -> None:
    """Write a store as a LeRobotDataset v3.

    Args:
        store: Folder or address of the store.
        out: Folder of the dataset; must not exist.
        format: What to write.
        episodes: Which ones, such as 0,3-5; all by default.
        video: `keep` stored video and JPEG as they are, `encode` AV1, or `pictures`.
        fps: What the dataset calls its rate, where the embodiment's is not a whole number.
    """
    from .export_lerobot import export_lerobot
    from .store import Store

    opened = Store.open(store)
    report = export_lerobot(opened, out, parse_episodes(episodes, opened), video, fps)
    print(f"{report.path}: {report.episodes} episodes, {report.frames} frames as {format}")
    for camera, how in report.cameras.items():
        print(f"  {camera}: {how}")
    for loss in report.losses:
        print(f"  not carried over: {loss}")


def data_info(
    store: StorePath,
    *,
    version: int | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Show what a store holds: episodes, tasks, instructions, rates, jitter, sizes.

    Args:
        store: Folder or address of the store.
        version: As it was after this commit (see `ulna data edit log`).
        json_: Print JSON instead of a table.
    """
    from .rates import rates
    from .store import Store
    from .verify import describe

    opened = Store.open(store, version)
    facts, measured = describe(opened), rates(opened)
    for name, stream in measured.pop("streams").items():
        facts["streams"].setdefault(name, {}).update(stream)
    facts.update(measured)
    if json_:
        print(json.dumps(facts, indent=2))
        return
    from .info_tables import print_info

    print_info(facts)


def data_verify(store: StorePath, *, quality: bool = True) -> None:
    """Read everything in a store and name what is wrong; the exit code is 1 if anything is.

    Errors are lost or changed data. Warnings are what a robot should not learn from: frozen
    cameras, saturated actions, idle stretches, irregular times. Notes are space to give back.

    Args:
        store: Folder or address of the store.
        quality: Also look at the contents.
    """
    from .quality import check_quality, check_quality_of_store
    from .store import Store
    from .verify import verify

    opened = Store.open(store)
    problems = verify(opened)
    if quality:
        damaged = {problem.episode for problem in problems if problem.severity == "error"}
        for index in range(len(opened.episodes)):
            if index not in damaged:
                problems += check_quality(opened, index)
        problems += check_quality_of_store(opened)
    for problem in problems:
        print(problem)
    count = {kind: sum(p.severity == kind for p in problems) for kind in ("error", "warning")}
    notes = len(problems) - sum(count.values())
    print(f"{store}: {count['error']} error(s), {count['warning']} warning(s), {notes} note(s)")
    if count["error"]:
        raise SystemExit(1)


def data_view(
    store: StorePath,
    episode: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="EPISODE")],
    *,
    out: Path = Path("episode.html"),
    rerun: bool = False,
    save: Path | None = None,
) -> None:
    """Look at an episode: a page with video, plots and labels, or in rerun.

    Args:
        store: Folder or address of the store.
        episode: Which one, counted from 0 (see `ulna data edit log` for what has changed).
        out: Page to write; it needs no network.
        rerun: Open the rerun viewer instead.
        save: Write a rerun recording (.rrd) instead.
    """
    from .store import Store
    from .view import view_rerun, write_page

    opened = Store.open(store)
    if rerun or save is not None:
        view_rerun(opened, episode, save, spawn=rerun)
        print(f"{save}" if save is not None else "opened in rerun")
    else:
        print(write_page(opened, episode, out))


def data_stats(
    store: StorePath,
    *,
    episodes: Episodes = None,
    streams: tuple[str, ...] = ("state", "action"),
    out: Path | None = None,
) -> None:
    """Mean, deviation, range and quantiles of the numbers in a store, kept there for training.

    Args:
        store: Folder or address of the store.
        episodes: Which ones, such as 0,3-5; all by default.
        streams: Which streams.
        out: Also write them here, as a checkpoint's norm_stats.json.
    """
    from rich.console import Console
    from rich.table import Table

    from .norm_stats import kept_norm_stats
    from .store import Store

    opened = Store.open(store)
    stats = kept_norm_stats(opened, parse_episodes(episodes, opened), streams, keep=True)
    named = {"state": opened.embodiment.state_names, "action": opened.embodiment.action_names}
    for stream, numbers in stats.streams.items():
        table = Table(title=f"{stream}, {numbers.count} rows")
        columns = ("mean", "std", "min", "q01", "q50", "q99", "max")
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for i in range(len(numbers.mean)):
            name = named[stream][i] if stream in named else str(i)
            values: list[Any] = [getattr(numbers, column)[i] for column in columns]
            table.add_row(name, *(f"{value:.3g}" for value in values))
        Console().print(table)
    if out is not None:
        stats.save(out)
        print(out)


def data_merge(
    stores: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STORE")],
    *,
    out: str,
) -> None:
    """Put several stores of one robot together; files are copied, nothing is coded anew.

    Args:
        stores: Folders or addresses.
        out: Store to write or to add to. Stopped, the same command goes on.
    """
    from .merge import merge
    from .store import Store

    if not stores:
        raise ValueError("give the stores to merge: ulna data merge STORE STORE --out STORE")
    opened = [Store.open(store) for store in stores]
    added = merge(opened, out)
    print(f"{out}: {added} episodes added, {sum(len(s.episodes) for s in opened) - added} known")


def data_pack(store: StorePath) -> None:
    """Put the numbers of many episodes into few files; frames keep theirs.

    Args:
        store: Folder or address of the store.
    """
    from .pack import pack
    from .store import Store
    from .writer import Writer

    opened = Store.open(store)
    with Writer(opened.storage, tool="pack") as writer:
        moved = pack(writer, opened)
    print(f"{store}: {moved} episodes packed; `ulna data gc` removes the old files after a day")


def data_gc(
    store: StorePath,
    *,
    forget_deleted: bool = False,
    grace_hours: float = 24.0,
    dry_run: bool = False,
) -> None:
    """Remove files that no episode needs: of killed writers, of what was packed.

    Args:
        store: Folder or address of the store.
        forget_deleted: Also remove deleted episodes for good; that cannot be undone.
        grace_hours: Leave younger files alone: an episode may be being recorded.
        dry_run: Only say what would be removed.
    """
    from .garbage import collect_garbage
    from .store import Store
    from .writer import Writer

    opened = Store.open(store)
    with Writer(opened.storage, tool="gc") as writer:
        freed = collect_garbage(writer, opened, forget_deleted, grace_hours * 3600, dry_run)
    would = "would be " if dry_run else ""
    print(f"{store}: {freed.files} files ({freed.bytes / 1e6:.1f} MB) {would}removed")
    if freed.forgotten:
        print(f"  {freed.forgotten} deleted episodes {would}forgotten for good")


DATA_COMMANDS: dict[str, Callable[..., None]] = {
    "import": data_import,
    "export": data_export,
    "info": data_info,
    "verify": data_verify,
    "view": data_view,
    "stats": data_stats,
    "merge": data_merge,
    "pack": data_pack,
    "gc": data_gc,
}
USAGE = """\
ulna data: bring data in, look at it, trust it

  ulna data import PATH --out STORE     LeRobot v3, robomimic, diffusion_policy/UMI, RLDS, images
  ulna data export STORE --out FOLDER   as a LeRobotDataset v3
  ulna data info STORE                  what it holds: rates, jitter, sizes
  ulna data verify STORE                checksums, times, frozen cameras ...; exit code 1 on errors
  ulna data view STORE EPISODE          a page with video and plots, or rerun
  ulna data edit EDIT STORE ...         delete, split, join, relabel, select; undo, log
  ulna data stats STORE                 mean, deviation, quantiles
  ulna data merge STORE ... --out STORE
  ulna data pack STORE                  fewer, larger files
  ulna data gc STORE                    give back space
"""


def data(words: list[str], render_states: Callable[..., Any]) -> None:
    """`ulna data COMMAND ...`; `render_states` draws simulator states, which this floor cannot."""
    commands, program = DATA_COMMANDS, "ulna data"
    if words[:1] == ["edit"]:
        commands, program, words = EDIT_COMMANDS, "ulna data edit", words[1:]
    if not words or words[0] in ("-h", "--help"):
        edits = "\n".join(f"  ulna data edit {name} STORE ..." for name in EDIT_COMMANDS)
        print(USAGE if commands is DATA_COMMANDS else f"edits of a store, each undoable\n\n{edits}")
        return
    if words[0] not in commands:
        raise unknown_name(
            program.removeprefix("ulna ") + " command",
            words[0],
            [*commands, *(["edit"] if commands is DATA_COMMANDS else [])],
        )
    function = commands[words[0]]
    if function is data_import:
        function = partial(data_import, render_states=render_states)
    tyro.cli(function, prog=f"{program} {words[0]}", args=words[1:])
