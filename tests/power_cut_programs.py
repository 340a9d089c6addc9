"""Programs that work on a `SimulatedDisk` and acknowledge what the store holds by then."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from simulated_disk import SimulatedDisk

from ulna.datasets import edit
from ulna.datasets.commits import EpisodeRecord
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.image_codec import Lossless
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
    numbers = {name: episode.streams[name] for name in ("state", "action")}
    return replace(
        episode,
        streams=numbers | {"time_ns": times},
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
    sensors = {"force": Rows("float64", (3,))}
    config = RecorderConfig(coders=1)
    with Writer(disk, CODEC) as writer, Recorder(writer, None, sensors, config) as recorder:
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


@functools.cache
def to_merge() -> list[SimulatedDisk]:
    return [filled(range(30, 31)), filled(range(31, 32))]


def merge_two(disk: SimulatedDisk) -> None:
    merge([Store.on(source) for source in to_merge()], disk)
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


def record_again(disk: SimulatedDisk) -> None:
    with Writer(disk, CODEC) as writer:
        writer.add_episode(an_episode(41))
        disk.acknowledge(state_of(disk))


def fold_and_record(disk: SimulatedDisk) -> None:
    checkpoint(disk, always=True)
    with Writer(disk, CODEC) as writer:
        writer.add_episode(an_episode(40))
        disk.acknowledge(state_of(disk))


def same(store: Store, index: int) -> None:
    """Episode `index` is what `an_episode` made."""
    found, made = store.read_episode(index), an_episode(store.episodes[index].seed)
    for name, rows in {**made.streams, **made.images, **made.depth}.items():
        here = {**found.streams, **found.images, **found.depth}[name]
        np.testing.assert_array_equal(here, rows)
    np.testing.assert_array_equal(found.sensors["force"].values, made.sensors["force"].values)
