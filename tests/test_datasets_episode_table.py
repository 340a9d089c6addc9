"""The fold of the log: with checkpoints anywhere it says what it says without, at any version."""

import json
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ulna.datasets import commits
from ulna.datasets.checkpoint_file import load_rows
from ulna.datasets.chunks import DamagedData
from ulna.datasets.commits import (
    Add,
    Change,
    Commit,
    Delete,
    EpisodeRecord,
    Forget,
    Move,
    Op,
    StreamRecord,
    Undo,
)
from ulna.datasets.episode_table import (
    CHECKPOINT_OPS,
    EpisodeTable,
    checkpoint_is_due,
    newest_checkpoint,
    undone,
    write_checkpoint,
)
from ulna.datasets.storage import LocalFolder
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment
from ulna.datasets.writer import Writer, checkpoint

ROBOT = synthetic_embodiment()
STREAMS = {"state": StreamRecord("float32", (5,), 7), "touch": StreamRecord("int16", (), 8, 9, 0)}


def record(number: int, task: str = "lift", seed: int | None = None) -> EpisodeRecord:
    return EpisodeRecord(
        uid=f"{number * 2654435761 % 2**32:08x}-{number}",
        task=task,
        instruction=f"do {number} ü",
        seed=number % 5 if seed is None else seed,
        steps=1 + number % 7,
        success=None,
        segment="s",
        start=256 * number,
        streams=STREAMS,
        info={"number": number},
    )


def oracle(log: list[Commit]) -> list[EpisodeRecord]:
    """The rules, as plainly as they can be said."""
    dead: set[int] = set()
    for commit in reversed(log):
        if commit.number not in dead:
            dead |= {op.number for op in commit.ops if isinstance(op, Undo)}
    live: dict[str, EpisodeRecord] = {}
    for commit in log:
        for op in commit.ops:
            if commit.number in dead and not isinstance(op, Move | Forget):
                continue
            if isinstance(op, Add):
                live[op.episode.uid] = op.episode
            elif isinstance(op, Delete):
                live.pop(op.uid, None)
            elif isinstance(op, Forget):
                for uid in op.uids:
                    live.pop(uid, None)
            elif isinstance(op, Change) and op.uid in live:
                old = live[op.uid]
                live[op.uid] = replace(
                    old,
                    task=old.task if op.task is None else op.task,
                    success=old.success if op.success is None else op.success,
                    info={**old.info, **op.info},
                )
            elif isinstance(op, Move) and op.uid in live:
                touch = replace(STREAMS["touch"], start=op.sensor_starts["touch"])
                live[op.uid] = replace(
                    live[op.uid],
                    segment=op.segment,
                    start=op.start,
                    streams=STREAMS | {"touch": touch},
                )
    return sorted(live.values(), key=lambda episode: (episode.task, episode.seed, episode.uid))


def random_log(choose: random.Random, length: int) -> list[Commit]:
    """Commits of every kind, most of them about episodes that exist, some about none."""
    log: list[Commit] = []
    added = 0
    for number in range(length):
        ops: list[Op] = []
        for _ in range(choose.randint(1, 4)):
            kind = choose.choice(
                ["add"] * 4 + ["again", "delete", "change", "move", "undo", "gone"]
            )
            about = record(choose.randrange(added + 1))
            if kind == "add":
                ops.append(Add(record(added, choose.choice(["lift", "drop", "änder"]))))
                added += 1
            elif kind == "again":
                ops.append(Add(replace(about, instruction="again", seed=choose.randrange(5))))
            elif kind == "delete":
                ops.append(Delete(about.uid))
            elif kind == "change":
                task = choose.choice([None, "lift", "zip"])
                success = choose.choice([None, True, False])
                ops.append(Change(about.uid, task, success=success, info={f"c{number}": number}))
            elif kind == "move":
                ops.append(Move(about.uid, f"moved{number}", 256 * number, {"touch": number}))
            elif kind == "gone":
                ops.append(Forget((about.uid, record(choose.randrange(added + 1)).uid)))
            elif number:
                ops.append(Undo(choose.randrange(number)))
        log.append(Commit(number, "", "test", tuple(ops)))
    return log


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: these tests sync some thousand files."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="ulna-test-", dir="/dev/shm") as folder:
        yield Path(folder)


def new_store(path: Path) -> Store:
    shutil.rmtree(path, ignore_errors=True)
    return Store.create(path, ROBOT)


def write(store: Store, commit: Commit) -> None:
    assert commits.append(store.storage, commit.ops, commit.number, "test") == commit.number


def assert_says(table: EpisodeTable, expected: list[EpisodeRecord]) -> None:
    assert list(table) == expected
    assert len(table) == len(expected)
    assert [table[i] for i in range(len(table))] == expected
    assert table.steps.tolist() == [episode.steps for episode in expected]
    for index, episode in enumerate(expected):
        assert table.index_of(episode.uid) == index
    assert table.index_of("nobody") is None


@given(choose=st.randoms(use_true_random=False), length=st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_the_fold_says_what_the_rules_say(choose: random.Random, length: int):
    log = random_log(choose, length)
    assert_says(EpisodeTable().with_commits(log), oracle(log))
    # Their order is in their numbers.
    assert list(EpisodeTable().with_commits(log[::-1])) == oracle(log)


@given(choose=st.randoms(use_true_random=False), length=st.integers(2, 14))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_checkpoints_at_any_place_change_nothing(
    fast_path: Path, choose: random.Random, length: int
):
    log = random_log(choose, length)
    store = new_store(fast_path / "s.zarr")
    places = set(choose.sample(range(length), choose.randint(0, length)))
    early = Store.open(store.path)
    for commit in log:
        write(store, commit)
        if commit.number in places:
            checkpoint(store.storage, always=True)
        if choose.random() < 0.5:
            early.refresh()
            assert list(early.episodes) == oracle(log[: commit.number + 1])
    assert_says(Store.open(store.path).episodes, oracle(log))
    early.refresh()
    assert list(early.episodes) == oracle(log)
    for version in choose.sample(range(length), min(length, 4)):
        # An earlier version knows where the arrays lie now, and what is gone for good.
        physical = [
            replace(c, ops=tuple(op for op in c.ops if isinstance(op, Move | Forget)))
            for c in log[version + 1 :]
        ]
        expected = oracle(log[: version + 1] + physical)
        assert list(Store.open(store.path, version=version).episodes) == expected


@given(choose=st.randoms(use_true_random=False), size=st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_a_table_grown_from_rows_finds_every_episode(choose: random.Random, size: int):
    numbers = choose.sample(range(200), size)
    # Few tasks and seeds: many episodes have the same and their uids decide.
    records = [record(n, choose.choice("abc"), n % choose.choice([1, 3])) for n in numbers]
    log = [Commit(i, "", "", (Add(episode),)) for i, episode in enumerate(records)]
    half = size // 2
    grown = EpisodeTable(EpisodeTable().with_commits(log[:half]).checkpoint_rows())
    removed = choose.sample(records[:half], choose.randint(0, half))
    edit = Commit(size, "", "", tuple(Delete(episode.uid) for episode in removed))
    table = grown.with_commits([*log[half:], edit])
    assert_says(table, oracle([*log, edit]))
    assert all(table.index_of(episode.uid) is None for episode in removed)
    again = EpisodeTable(table.checkpoint_rows())
    assert_says(again, oracle([*log, edit]))


def test_undo_of_an_undo_and_edits_of_what_is_gone():
    one, two = record(1), record(2)
    log = [
        Commit(0, "", "", (Add(one), Add(two))),
        Commit(1, "", "", (Delete(one.uid), Change(two.uid, task="drop"))),
        Commit(2, "", "", (Undo(1),)),
        Commit(3, "", "", (Undo(2),)),
        Commit(4, "", "", (Change(one.uid, task="ghost"),)),
    ]
    drop = replace(two, task="drop")
    assert undone(log[:3]) == {1} and undone(log[:4]) == {2}
    assert list(EpisodeTable().with_commits(log[:1])) == [one, two]
    assert list(EpisodeTable().with_commits(log[:2])) == [drop]
    assert list(EpisodeTable().with_commits(log[:3])) == [one, two]
    assert list(EpisodeTable().with_commits(log[:5])) == [drop]


def test_what_is_forgotten_stays_away_and_may_be_added_anew():
    one = record(1)
    log = [
        Commit(0, "", "", (Add(one),)),
        Commit(1, "", "", (Delete(one.uid),)),
        Commit(2, "", "", (Forget((one.uid,)),)),
        Commit(3, "", "", (Undo(2), Undo(1))),
    ]
    assert list(EpisodeTable().with_commits(log)) == []
    again = Commit(4, "", "", (Add(one),))
    assert list(EpisodeTable().with_commits([*log, again])) == [one]
    # And so from a checkpoint in between.
    folded = EpisodeTable(EpisodeTable().with_commits(log).checkpoint_rows())
    assert list(folded.with_commits([again])) == [one]


def test_indexing_is_that_of_a_sequence():
    records = [record(n, seed=n) for n in range(6)]
    table = EpisodeTable().with_commits([Commit(0, "", "", tuple(Add(r) for r in records))])
    table = EpisodeTable(table.checkpoint_rows())
    assert table[-1] == records[-1] and table[1:5:2] == tuple(records[1:5:2])
    assert records[3] in table
    for outside in (6, -7):
        with pytest.raises(IndexError):
            table[outside]


@pytest.fixture
def store(fast_path: Path) -> Store:
    """Commits 0 to 9 with checkpoints after 4 and 7."""
    store = Store.create(fast_path / "s.zarr", ROBOT)
    for number in range(10):
        write(store, Commit(number, "", "", (Add(record(number)), Add(record(number + 100)))))
        if number in (4, 7):
            checkpoint(store.storage, always=True)
    return store


def expected_of(numbers: range) -> list[EpisodeRecord]:
    ops = tuple(op for n in numbers for op in (Add(record(n)), Add(record(n + 100))))
    return oracle([Commit(0, "", "", ops)])


def checkpoint_files(store: Store) -> list[Path]:
    return sorted((store.path / "checkpoints").iterdir())


def test_the_newest_two_checkpoints_are_kept_and_used(store: Store):
    assert newest_checkpoint(store.storage).number == 7
    assert newest_checkpoint(store.storage, below=7).number == 4
    assert newest_checkpoint(store.storage, below=4).number == -1
    checkpoint(store.storage, always=True)
    assert [path.name for path in checkpoint_files(store)] == [
        "000000000007.arrow",
        "000000000009.arrow",
    ]
    # What is folded is not read again: only a checkpoint knows these commits now.
    for number in range(10):
        (store.path / commits.commit_name(number)).unlink()
    assert list(Store.open(store.path).episodes) == expected_of(range(10))


def test_a_checkpoint_that_cannot_be_read_is_passed_over(store: Store):
    older, newer = checkpoint_files(store)
    newer.write_bytes(newer.read_bytes()[:-100])
    assert newest_checkpoint(store.storage).number == 4
    assert list(Store.open(store.path).episodes) == expected_of(range(10))
    older.write_bytes(b"")
    assert newest_checkpoint(store.storage).number == -1
    assert list(Store.open(store.path).episodes) == expected_of(range(10))
    shutil.rmtree(store.path / "checkpoints")
    assert list(Store.open(store.path).episodes) == expected_of(range(10))


def test_a_flipped_bit_in_a_checkpoint_never_changes_what_is_read(store: Store):
    newer = checkpoint_files(store)[-1]
    data = newer.read_bytes()
    expected = expected_of(range(10))
    choose = random.Random(0)
    told = passed_over = 0
    for _ in range(70):
        bit = choose.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        newer.write_bytes(changed)
        try:
            reader = Store.open(store.path)
            passed_over += newest_checkpoint(store.storage).number != 7
            assert list(reader.episodes) == expected
            assert [reader.episodes.index_of(r.uid) for r in expected] == list(range(20))
            assert reader.episodes.steps.tolist() == [r.steps for r in expected]
        except DamagedData as error:
            assert "delete the folder checkpoints" in str(error)
            told += 1
    assert told > 15 and passed_over > 2


@pytest.mark.parametrize(
    "column", ["uid", "task", "seed", "steps", "uid_hash", "uid_row", "record"]
)
def test_every_column_has_a_checksum(store: Store, column: str):
    file = checkpoint_files(store)[-1]
    rows = load_rows(store.storage, file.name)
    buffers = rows._table.column(column).chunk(0).buffers()
    place = file.read_bytes().index(bytes(memoryview(buffers[-1])))
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedData, match="delete the folder checkpoints"):
        rows = load_rows(store.storage, file.name)
        rows.record(0) if column == "record" else rows._column(column)


def test_a_gap_in_the_log_does_not_hide_what_follows(store: Store):
    (store.path / commits.commit_name(8)).unlink()
    assert commits.numbers(store.storage, after=7) == [9]
    reader = Store.open(store.path)
    assert list(reader.episodes) == oracle(
        [
            Commit(
                0,
                "",
                "",
                tuple(op for n in (*range(8), 9) for op in (Add(record(n)), Add(record(n + 100)))),
            )
        ]
    )
    assert reader.last_commit == 9
    for after in range(-1, 12):
        expected = [n for n in (*range(8), 9) if n > after]
        assert commits.numbers(store.storage, after) == expected


def test_opening_reads_only_what_the_checkpoint_lacks(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    listed: list[str] = []
    plain_read, plain_names = LocalFolder.read, LocalFolder.names

    def counting_read(self: LocalFolder, name: str, *part: int | None) -> bytes:
        read.append(name)
        return plain_read(self, name, *part)  # pyright: ignore[reportArgumentType]

    def counting_names(self: LocalFolder, folder: str, after: str = "") -> list[str]:
        listed.append(folder)
        return plain_names(self, folder, after)

    monkeypatch.setattr(LocalFolder, "read", counting_read)
    monkeypatch.setattr(LocalFolder, "names", counting_names)
    store = Store.open(store.path)
    assert store.operations_since_checkpoint == 4
    assert read == ["zarr.json", commits.commit_name(8), commits.commit_name(9)]
    assert listed == ["checkpoints"]  # never the log itself, whose folder has a million names


def test_a_damaged_commit_is_told_and_no_checkpoint_is_made_of_it(store: Store):
    path = store.path / commits.commit_name(9)
    path.write_bytes(path.read_bytes().replace(b"lift", b"lost", 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reader = Store.open(store.path)
        assert len(reader.damaged_commits) == 1 and len(caught) == 1
        checkpoint(store.storage, always=True)
    assert newest_checkpoint(store.storage).number == 7
    assert list(reader.episodes) == expected_of(range(9))


def test_writers_leave_a_checkpoint_when_it_is_due(fast_path: Path):
    store = Store.create(fast_path / "s.zarr", ROBOT)
    with Writer(store.path) as writer:
        for part in range(3):
            numbers = range(part * 400, (part + 1) * 400)
            writer.commit([Add(record(number, seed=number)) for number in numbers])
    # Three commits only: it is operations that cost time, however many lie in one file.
    assert newest_checkpoint(store.storage).number == 2
    assert Store.open(store.path).operations_since_checkpoint == 0
    with Writer(store.path) as writer:
        assert writer.commit([Delete(record(7).uid)]) == 3
    assert newest_checkpoint(store.storage).number == 2
    assert Store.open(store.path).operations_since_checkpoint == 1
    assert len(Store.open(store.path).episodes) == 1199


def test_the_rest_behind_a_checkpoint_grows_slowly():
    for episodes in (0, 1000, 60_000, 10**6, 10**8):
        due = next(n for n in range(10**6) if checkpoint_is_due(n, episodes))
        assert CHECKPOINT_OPS <= due <= max(CHECKPOINT_OPS, int(np.sqrt(episodes)))


def test_large_and_negative_seeds_keep_their_order():
    seeds = [-(2**63), -1, 0, 2**53 + 1, 2**53 + 2, 2**63 - 1]
    adds = tuple(Add(record(n, seed=seed)) for n, seed in enumerate(reversed(seeds)))
    table = EpisodeTable().with_commits([Commit(0, "", "", adds[:3])])
    table = EpisodeTable(table.checkpoint_rows()).with_commits([Commit(1, "", "", adds[3:])])
    assert [episode.seed for episode in table] == seeds


def test_the_record_is_plain_json_in_the_checkpoint(store: Store):
    rows = load_rows(store.storage, checkpoint_files(store)[-1].name)
    text = rows._table.column("record")[0].as_py()
    assert json.loads(text)["uid"] == rows._table.column("uid")[0].as_py()


def test_write_checkpoint_twice_keeps_the_first(store: Store):
    table = Store.open(store.path).episodes
    write_checkpoint(store.storage, 9, table)
    before = checkpoint_files(store)[-1].read_bytes()
    write_checkpoint(store.storage, 9, EpisodeTable())
    assert checkpoint_files(store)[-1].read_bytes() == before
