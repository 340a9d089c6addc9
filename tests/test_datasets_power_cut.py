"""The power fails after any step of recording, merging, editing, packing, clearing up: what was
acknowledged is there and whole, nothing is there in part, and writing goes on."""

import json
import os
import random
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from power_cut_programs import (
    CODEC,
    ROBOT,
    State,
    an_episode,
    change,
    clear,
    clear_only,
    facts,
    filled,
    fold_and_record,
    merge_two,
    pack_all,
    record_again,
    record_steps,
    record_whole,
    same,
    state_of,
)
from simulated_disk import ROOT, Acknowledged, Event, Folders, SimulatedDisk, Synced, cuts

from ulna.datasets import commits, durable
from ulna.datasets.commits import EpisodeRecord
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.pack import pack
from ulna.datasets.storage import LocalFolder
from ulna.datasets.store import Store
from ulna.datasets.store_header import create_header
from ulna.datasets.writer import Writer

Work = Callable[[SimulatedDisk], None]
WORK: list[Work] = [record_whole, record_steps, change, pack_all, merge_two, clear]


def check(disk: SimulatedDisk, promised: State | None, possible: Sequence[State]) -> None:
    """A store after a power cut. `promised` was acknowledged (None: not even that there is a
    store); `possible`: what else it may be, because it was being done."""
    if promised is None and not disk.exists("zarr.json"):
        return
    store = Store.on(disk)
    assert disk.exists("segments/zarr.json")
    assert not store.damaged_commits
    assert commits.numbers(disk) == list(range(store.last_commit + 1)), "the log has a gap"
    found = {record.uid: facts(record) for record in store.episodes}
    promised = promised or {}
    for uid, known in found.items():
        others = [state.get(uid) for state in possible]
        assert known in (promised.get(uid), *others), f"{uid} is not as anyone wrote it"
    for uid in promised.keys() - found.keys():
        assert any(uid not in state for state in possible), f"{uid} is lost"
    for record in store.episodes:
        for name in record.streams:
            assert_whole(store, disk, name, record)


seen_whole: set[object] = set()
"""The nodes of a disk never change: what was whole once is so wherever the same nodes are."""


def assert_whole(store: Store, disk: SimulatedDisk, name: str, record: EpisodeRecord) -> None:
    metadata = f"segments/{record.segment}/{name}/zarr.json"
    files = [metadata, *store.stream_files(name, record)]
    key = (record.uid, name, *(disk.node(file) for file in files))
    if key not in seen_whole:
        assert store.reader.checksum(name, record) == record.streams[name].crc32c
        length = json.loads(disk.read(metadata))["shape"][0]
        assert sum(record.extent(name)) <= length, "other readers see less"
        seen_whole.add(key)


def some_of(seed: int) -> Callable[[int], int]:
    """Of the changes that were not synced some arrive, drawn by lot."""
    generator = random.Random(seed)
    return lambda changes: generator.choice((0, generator.randint(1, changes)))


NOT_CHOSEN = 1 << 30


def states(events: Sequence[Event]) -> list[State]:
    """What was acknowledged, in order."""
    found = [event.what for event in events if isinstance(event, Acknowledged)]
    return [state for state in found if isinstance(state, dict)]


def try_cuts(
    disk: SimulatedDisk,
    begin: State | None,
    possible: Sequence[State] = (),
    journal: Sequence[Event] | None = None,
    every: int = 2,
) -> int:
    """Check every cut of what was done on a disk; gives how many were tried. `begin`: what was
    acknowledged before. `journal`: in place of the disk's own."""
    journal = disk.journal if journal is None else journal
    tried = 0
    for place, folders in cuts(disk.begin, journal, some_of(len(journal)), every):
        done = states(journal[:place])
        promised = done[-1] if done else begin
        check(SimulatedDisk.of(folders), promised, [*states(journal[place:])[:1], *possible])
        tried += 1
        if tried % 60 == 30:
            goes_on(folders)
    return tried


def goes_on(folders: Folders) -> None:
    """Writing on such a disk works, and what it does is safe."""
    disk = SimulatedDisk.of(folders)
    if not disk.exists("zarr.json"):
        create_header(disk, ROBOT)
    with Writer(disk, CODEC) as writer:
        uid = writer.add_episode(an_episode(99))
    left = SimulatedDisk.of(disk.begin.after(disk.journal).safe)
    store = Store.on(left)
    place = store.episodes.index_of(uid)
    assert place is not None
    same(store, place)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_a_power_cut_at_any_step(work: Work):
    disk = SimulatedDisk() if work is record_whole else filled(range(2))
    begin = None if work is record_whole else state_of(disk)
    work(disk)
    if work in (record_whole, record_steps, merge_two):
        store = Store.on(disk)
        for index in range(len(store.episodes)):
            same(store, index)
    assert try_cuts(disk, begin) > 30


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (record_whole, record_again),
        (record_whole, fold_and_record),
        (change, fold_and_record),
        (change, clear_only),
        (pack_all, clear_only),
        (pack_all, pack_all),
        (merge_two, merge_two),
    ],
    ids=lambda work: work.__name__,
)
def test_a_killed_program_then_another_one_then_a_power_cut(first: Work, then: Work):
    """What a killed program left is seen by the next one, but need not be on the disk."""
    disk = SimulatedDisk() if first is record_whole else filled(range(2))
    begin = None if first is record_whole else state_of(disk)
    first(disk)
    # Killed before the folder is synced: of a commit, then at places drawn by lot.
    syncs = [k for k, event in enumerate(disk.journal) if isinstance(event, Synced)]
    made = disk.journal.index(Acknowledged({})) if first is record_whole else 0
    places = [
        *(k for k in syncs if k < made),
        syncs[-1],
        *random.Random(7).sample(range(made, len(disk.journal)), 1),
    ]
    for place in places:
        left = SimulatedDisk(disk.begin.after(disk.journal[:place]))
        if not left.exists("zarr.json"):
            continue
        done = states(disk.journal[:place])
        possible = [state_of(left), *states(disk.journal[place:])[:1]]
        then(left)
        promised = done[-1] if done else begin
        journal = left.journal
        if then is clear_only:
            # Its writer may be older than the commit that was cut short, and have synced before.
            assert {type(event) for event in journal[:2]} == {Synced}
            journal = journal[2:]
        assert try_cuts(left, promised, possible, journal) > 1


def test_without_any_one_sync_something_is_lost():
    """The checks see what a missing sync does; so no sync of recording is there for nothing."""
    disk = SimulatedDisk()
    create_header(disk, ROBOT)
    disk.acknowledge({})
    with Writer(disk, CODEC) as writer:
        for seed in (10, 11):
            writer.add_episode(an_episode(seed))
            disk.acknowledge(state_of(disk))
    assert try_cuts(disk, None, every=NOT_CHOSEN) > 20
    unnoticed = []
    for number, event in enumerate(disk.journal):
        if isinstance(event, Synced):
            without = disk.journal[:number] + disk.journal[number + 1 :]
            try:
                try_cuts(disk, None, journal=without, every=NOT_CHOSEN)
            except (AssertionError, ValueError, OSError):
                continue
            unnoticed.append(event.folder)
    # A new writer syncs root and log for the case that somebody was killed (see above).
    assert len(unnoticed) == 2 and ROOT in unnoticed


def test_bytes_are_on_the_disk_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What `SimulatedDisk` takes for granted of `durable.py`."""
    done: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)  # type: ignore[call-overload]
            done.append("sync folder" if folder else name)
            return real(*arguments)

        return call

    for name in ("write", "fsync", "rename", "link"):
        monkeypatch.setattr(durable.os, name, noted(name))
    disk = LocalFolder(tmp_path)
    disk.write("a", b"1")
    assert done == ["write", "fsync", "rename"]
    done.clear()
    disk.sync([""])
    assert done == ["sync folder"]
    done.clear()
    assert disk.put_if_absent("b", b"2") and not disk.put_if_absent("b", b"3")
    assert done == ["write", "fsync", "link", "sync folder", "write", "fsync", "link"]


def test_files_of_a_pack_under_way_are_no_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its frames are old files under new names; the names are what counts."""
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, CODEC) as writer:
        writer.add_episode(an_episode(0))
        store.refresh()
        for file in store.path.rglob("c.*"):
            os.utime(file, (0, 0))
        commit = writer.commit

        def clear_first(ops: Sequence[commits.Op]) -> int:
            with Writer(store.path) as other:
                collect_garbage(other, Store.open(store.path), grace_s=3600.0)
            return commit(ops)

        monkeypatch.setattr(writer, "commit", clear_first)
        pack(writer, store)
    store.refresh()
    same(store, 0)
