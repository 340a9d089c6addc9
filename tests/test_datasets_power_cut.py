"""The power fails after any step of recording, merging, editing, packing, clearing up: what was
acknowledged is there and whole, nothing is there in part, and writing goes on."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from simulated_disk import Acknowledged, Event, Folders, SimulatedDisk, Synced, cuts

from ulna.datasets import commits, durable, edit
from ulna.datasets.commits import EpisodeRecord
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.image_codec import Jpeg, Lossless
from ulna.datasets.merge import merge
from ulna.datasets.pack import pack
from ulna.datasets.recorder import Recorder, RecorderConfig
from ulna.datasets.recorder_form import Rows
from ulna.datasets.schema import Camera, Episode, Sensor
from ulna.datasets.storage import Storage
from ulna.datasets.store import Store
from ulna.datasets.store_header import create_header
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer, checkpoint

ROBOT = replace(synthetic_embodiment(8), cameras=(Camera("front", 8, 8, depth_unit_m=0.001),))
CODEC = Lossless()
STEPS = 6
State = dict[str, tuple[object, ...]]


def an_episode(seed: int) -> Episode:
    generator = np.random.default_rng(seed)
    episode = synthetic_episode(ROBOT, seed, STEPS)
    times = np.arange(STEPS) * 50_000_000 + seed * 10**10
    return replace(
        episode,
        streams=episode.streams | {"time_ns": times},
        depth={"front": generator.integers(0, 2000, (STEPS, 8, 8), np.uint16)},
        sensors={"force": Sensor(times + 1, generator.normal(size=(STEPS, 3)))},
    )


def facts(record: EpisodeRecord) -> tuple[object, ...]:
    """What is known of an episode wherever its arrays lie."""
    content = tuple((name, stream.crc32c) for name, stream in record.streams.items())
    labels = (record.task, record.instruction, record.seed, record.success, record.subgoals)
    return (*labels, record.steps, content)


def state_of(disk: Storage) -> State:
    return {record.uid: facts(record) for record in Store.on(disk).episodes}


def filled(seeds: range) -> SimulatedDisk:
    """A store of some episodes, safely on its disk."""
    disk = SimulatedDisk()
    create_header(disk, ROBOT)
    with Writer(disk, CODEC) as writer:
        for seed in seeds:
            writer.add_episode(an_episode(seed))
    return SimulatedDisk(disk.begin.after(disk.journal))


# Each of these works on a disk and acknowledges what it is done with.


def record_whole(disk: SimulatedDisk) -> None:
    if not disk.exists("zarr.json"):
        create_header(disk, ROBOT)
        disk.acknowledge(state_of(disk))
    with Writer(disk, CODEC) as writer:
        writer.add_episode(an_episode(10))
        disk.acknowledge(state_of(disk))
        writer.add_episodes([(an_episode(11), {}), (an_episode(12), {})])
        disk.acknowledge(state_of(disk))


def record_steps(disk: SimulatedDisk) -> None:
    shapes = {"simulator_state": Rows("float64", (9,))}
    sensors = {"force": Rows("float64", (3,))}
    config = RecorderConfig(coders=1)
    with Writer(disk, CODEC) as writer, Recorder(writer, shapes, sensors, config) as recorder:
        for seed in (20, 21):
            episode = an_episode(seed)
            force = episode.sensors["force"]
            recorder.begin(episode.instruction, episode.task, seed)
            for step in range(STEPS):
                images = {"front": episode.images["front"][step]}
                streams = {name: rows[step] for name, rows in episode.streams.items()}
                assert recorder.add_step(images, streams, {"front": episode.depth["front"][step]})
                assert recorder.add_sample("force", force.time_ns[step], force.values[step])
            recorder.end(success=episode.success).result()
            disk.acknowledge(state_of(disk))


def change(disk: SimulatedDisk) -> None:
    with Writer(disk, CODEC) as writer:
        store = Store.on(disk)
        steps: list[Callable[[], object]] = [
            lambda: edit.relabel(writer, store, [0], success=False),
            lambda: edit.split(writer, store, 1, [2]),
            lambda: edit.join(writer, store, [0, len(store.episodes) - 1]),
            lambda: edit.delete(writer, store, [0]),
            lambda: edit.undo(writer, store),
        ]
        for step in steps:
            step()
            store.refresh()
            disk.acknowledge(state_of(disk))


def pack_all(disk: SimulatedDisk) -> None:
    with Writer(disk) as writer:
        pack(writer, Store.on(disk))
    disk.acknowledge(state_of(disk))


def merge_two(disk: SimulatedDisk) -> None:
    merge([Store.on(filled(range(30, 31))), Store.on(filled(range(31, 32)))], disk)
    disk.acknowledge(state_of(disk))


def clear(disk: SimulatedDisk) -> None:
    """Delete, pack, remove the old files, fold the log."""
    with Writer(disk, CODEC) as writer:
        store = Store.on(disk)
        edit.delete(writer, store, [0])
        store.refresh()
        disk.acknowledge(state_of(disk))
        pack(writer, store)
        collect_garbage(writer, store, forget_deleted=True)
        disk.acknowledge(state_of(disk))
    checkpoint(disk, always=True)
    disk.acknowledge(state_of(disk))


def clear_only(disk: SimulatedDisk) -> None:
    with Writer(disk) as writer:
        collect_garbage(writer, Store.on(disk))
    disk.acknowledge(state_of(disk))


def fold_and_record(disk: SimulatedDisk) -> None:
    checkpoint(disk, always=True)
    with Writer(disk, CODEC) as writer:
        writer.add_episode(an_episode(40))
        disk.acknowledge(state_of(disk))


Work = Callable[[SimulatedDisk], None]
WORK: list[Work] = [record_whole, record_steps, change, pack_all, merge_two, clear]


def check(disk: SimulatedDisk, promised: State | None, possible: Sequence[State]) -> None:
    """A store after a power cut. `promised` was acknowledged (None: not even that there is a
    store); `possible`: what else it may be, because it was being done."""
    if promised is None and not disk.exists("zarr.json"):
        return
    store = Store.on(disk)
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


def choosers(seed: int) -> list[Callable[[int], int]]:
    """Nothing that was not synced arrives; all of it; some of it."""
    generator = random.Random(seed)
    return [
        lambda changes: 0,
        lambda changes: changes,
        lambda changes: generator.choice((0, generator.randint(1, changes))),
    ]


def states(events: Sequence[Event]) -> list[State]:
    """What was acknowledged, in order."""
    found = [event.what for event in events if isinstance(event, Acknowledged)]
    return [state for state in found if isinstance(state, dict)]


def try_cuts(
    disk: SimulatedDisk,
    begin: State | None,
    possible: Sequence[State] = (),
    journal: Sequence[Event] | None = None,
    seed: int = 0,
) -> int:
    """Check every cut of what was done on a disk; gives how many were tried. `begin`: what was
    acknowledged before. `journal`: in place of the disk's own."""
    journal = disk.journal if journal is None else journal
    tried = 0
    for place, folders in cuts(disk.begin, journal, choosers(seed)):
        done = states(journal[:place])
        promised = done[-1] if done else begin
        check(
            SimulatedDisk.of(folders), promised, [*states(journal[place:])[:1], *possible]
        )
        tried += 1
        if tried % 40 == 0:
            goes_on(folders)
    return tried


def goes_on(folders: Folders) -> None:
    """Writing on such a disk works, and what it does is safe."""
    disk = SimulatedDisk.of(folders)
    create_header(disk, ROBOT) if not disk.exists("zarr.json") else None
    with Writer(disk, CODEC) as writer:
        uid = writer.add_episode(an_episode(99))
    left = SimulatedDisk.of(disk.begin.after(disk.journal).safe)
    store = Store.on(left)
    place = store.episodes.index_of(uid)
    assert place is not None
    same(store, place)


def same(store: Store, index: int) -> None:
    """Episode `index` is what `an_episode` made."""
    found, made = store.read_episode(index), an_episode(store.episodes[index].seed)
    for name, rows in {**made.streams, **made.images, **made.depth}.items():
        here = {**found.streams, **found.images, **found.depth}[name]
        np.testing.assert_array_equal(here, rows)
    np.testing.assert_array_equal(found.sensors["force"].values, made.sensors["force"].values)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_a_power_cut_at_any_step(work: Work):
    disk = SimulatedDisk() if work is record_whole else filled(range(3))
    begin = None if work is record_whole else state_of(disk)
    work(disk)
    if work in (record_whole, record_steps, merge_two):
        store = Store.on(disk)
        for index in range(len(store.episodes)):
            same(store, index)
    assert try_cuts(disk, begin) > 60


@pytest.mark.parametrize("then", [clear_only, fold_and_record], ids=lambda work: work.__name__)
@pytest.mark.parametrize("first", [record_whole, change, pack_all], ids=lambda work: work.__name__)
def test_a_killed_program_then_another_one_then_a_power_cut(first: Work, then: Work):
    """What a killed program left is seen by the next one, but need not be on the disk."""
    disk = SimulatedDisk() if first is record_whole else filled(range(3))
    begin = None if first is record_whole else state_of(disk)
    first(disk)
    generator = random.Random(first.__name__ + then.__name__)
    # Most of all where a name that others act upon is not synced yet: before each sync.
    syncs = [k for k, event in enumerate(disk.journal) if isinstance(event, Synced)]
    places = generator.sample(syncs, min(8, len(syncs))) + [syncs[-1]]
    for place in places:
        names = disk.begin.after(disk.journal[:place])
        done = states(disk.journal[:place])
        left = SimulatedDisk(names)
        if not left.exists("zarr.json"):
            continue
        seen = [state_of(left), *states(disk.journal[place:])[:1]]
        then(left)
        try_cuts(left, done[-1] if done else begin, seen, seed=place)


def test_no_sync_is_there_for_nothing():
    """Each sync of recording, left out, loses something in a power cut, and the checks see it."""
    disk = SimulatedDisk()
    record_whole(disk)
    unnoticed = []
    for number, event in enumerate(disk.journal):
        if isinstance(event, Synced):
            journal = disk.journal[:number] + disk.journal[number + 1 :]
            try:
                try_cuts(disk, None, journal=journal)
                unnoticed.append((number, event))
            except (AssertionError, ValueError, OSError):
                continue
    assert unnoticed == []
