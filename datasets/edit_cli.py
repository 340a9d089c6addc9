"""`ulna data edit ...`: words to functions, nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .episode_list import parse_episodes

if TYPE_CHECKING:
    from .store import Store
    from .writer import Writer

StorePath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
Episodes = Annotated[str, tyro.conf.arg(metavar="LIST")]


@contextmanager
def _editing(location: str, tool: str) -> "Iterator[tuple[Writer, Store]]":
    from .store import Store
    from .writer import Writer

    store = Store.open(location)
    with Writer(store.storage, tool=f"edit {tool}") as writer:
        yield writer, store
    before = len(store.episodes)
    store.refresh()
    print(
        f"{location}: {before} episodes before, {len(store.episodes)} now; take it back with "
        f"ulna data edit undo {location}"
    )


def edit_delete(store: StorePath, *, episodes: Episodes) -> None:
    """Take episodes out of a store; their data stay until `ulna data gc --forget-deleted`.

    Args:
        store: Folder or address of the store.
        episodes: Which ones, such as 0,3-5.
    """
    from .edit import delete

    with _editing(store, "delete") as (writer, opened):
        delete(writer, opened, parse_episodes(episodes, opened) or [])


def edit_split(
    store: StorePath,
    episode: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="EPISODE")],
    *,
    at: tuple[int, ...],
) -> None:
    """Cut an episode into parts; nothing is copied.

    Args:
        store: Folder or address of the store.
        episode: Which one.
        at: Steps at which the next part begins.
    """
    from .edit import split

    with _editing(store, "split") as (writer, opened):
        split(writer, opened, episode, at)


def edit_join(store: StorePath, *, episodes: Episodes, reencode: bool = False) -> None:
    """Make one episode of several, in the order given.

    Args:
        store: Folder or address of the store.
        episodes: Which ones, such as 4,2 or 3-5.
        reencode: Allow video to be coded once more where its clips do not fit together.
    """
    from .edit import join

    with _editing(store, "join") as (writer, opened):
        join(writer, opened, parse_episodes(episodes, opened) or [], reencode)


def edit_relabel(
    store: StorePath,
    *,
    episodes: Episodes,
    instruction: str | None = None,
    task: str | None = None,
    success: Literal["yes", "no"] | None = None,
    paraphrases: tuple[str, ...] | None = None,
) -> None:
    """Give episodes other labels.

    Args:
        store: Folder or address of the store.
        episodes: Which ones, such as 0,3-5.
        instruction: New command.
        task: New task.
        success: Whether the episodes succeeded.
        paraphrases: Other commands that mean the same.
    """
    from .edit import relabel

    succeeded = None if success is None else success == "yes"
    with _editing(store, "relabel") as (writer, opened):
        chosen = parse_episodes(episodes, opened) or []
        relabel(writer, opened, chosen, instruction, task, succeeded, paraphrases)


def edit_select(store: StorePath, *, success: Literal["yes", "labelled"] = "yes") -> None:
    """Keep only some episodes, by their labels; the others are deleted.

    Args:
        store: Folder or address of the store.
        success: `yes` keeps the successful ones, `labelled` all whose outcome is known.
    """
    from .edit import select

    with _editing(store, "select") as (writer, opened):
        if success == "yes":
            select(writer, opened, lambda record: record.success is True)
        else:
            select(writer, opened, lambda record: record.success is not None)


def edit_undo(store: StorePath, *, number: int | None = None) -> None:
    """Take back an edit; an undo can be undone too.

    Args:
        store: Folder or address of the store.
        number: Commit to take back (see `ulna data edit log`); by default the last edit.
    """
    from .edit import undo

    with _editing(store, "undo") as (writer, opened):
        undo(writer, opened, number)


def edit_log(store: StorePath, *, last: int = 20) -> None:
    """What was done to a store, newest last.

    Args:
        store: Folder or address of the store.
        last: How many commits to show.
    """
    from collections import Counter

    from .commits import Undo
    from .store import Store

    for commit in Store.open(store).log[-last:]:
        done = ", ".join(f"{n} {op}" for op, n in Counter(op.op for op in commit.ops).items())
        of = " ".join(f"of {op.number}" for op in commit.ops if isinstance(op, Undo))
        print(f"{commit.number:6d}  {commit.time}  {commit.tool:28s} {done} {of}".rstrip())


EDIT_COMMANDS: dict[str, Callable[..., None]] = {
    "delete": edit_delete,
    "split": edit_split,
    "join": edit_join,
    "relabel": edit_relabel,
    "select": edit_select,
    "undo": edit_undo,
    "log": edit_log,
}
