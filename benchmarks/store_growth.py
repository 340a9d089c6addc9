"""What a store costs as it grows: opening, memory, the first batch, up to a million episodes.

    uv run python benchmarks/store_growth.py            100, 10,000 and 1,000,000: minutes, 3 GB
    uv run python benchmarks/store_growth.py --quick    100 and 1,000: a rehearsal

The first 64 episodes are written by the Writer (one 32 px camera, 4 to 8 steps). The others are
further records in the log, each with a uid, a seed and rows of its own; the array files of those
rows are hard links to the files of the 64, so that a million fit on a disk. A segment holds 1,000
episodes and a commit 500. The newest checkpoint lies as far back as the Writer ever lets it: the
reader folds the longest rest of the log that it can meet. Batches are random, so that in a large
store nearly every sample is of an episode (and at first of a segment) that was not touched before:
that is what its batches cost more.

Beside it, where it can be made cheaply: LeRobotDataset with as many episodes of the same steps and
numbers, without images. Every reading is a fresh process with a warm page cache, the median of
several.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from record import Benchmark
from rich.progress import track
from store_growth_lerobot import build_lerobot

from ulna.datasets.commits import Add, EpisodeRecord, append
from ulna.datasets.episode_table import CHECKPOINT_OPS, checkpoint_is_due
from ulna.datasets.image_codec import Jpeg
from ulna.datasets.layout import CHUNK_ROWS
from ulna.datasets.record_reader import RecordReader
from ulna.datasets.schema import Episode
from ulna.datasets.storage import LocalFolder
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer, array_metadata_bytes, checkpoint, new_segment

DISTINCT = 64
PER_SEGMENT = 1000
PER_COMMIT = 500
RARE = 50_000
"""Episodes between checkpoints while the store is built."""
ROBOT = synthetic_embodiment(32, ("front",))
LEROBOT_UP_TO = 10_000
"""Episodes of the largest data set that is also made for LeRobot."""


def main(
    sizes: tuple[int, ...] = (100, 10_000, 1_000_000),
    quick: bool = False,
    repeats: int = 3,
    scratch: Path | None = None,
) -> None:
    """Build stores of growing size and measure a reader of each.

    Args:
        sizes: Episodes of each store.
        quick: 100 and 1,000 episodes, one reading each; writes no result.
        repeats: Readings whose median is told.
        scratch: Where the stores are built (None: the system's temporary folder); removed after.
    """
    benchmark = Benchmark("store_growth", quick)
    sizes, repeats = ((100, 1000), 1) if quick else (sizes, repeats)
    figures: dict[str, Any] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="ulna-growth-", dir=scratch) as folder:
            figures[str(size)] = one_size(Path(folder), size, repeats)
    report(benchmark, figures)


def one_size(folder: Path, size: int, repeats: int) -> dict[str, Any]:
    """Build, measure and forget a store of `size` episodes."""
    found: dict[str, Any] = {"built": build(folder / "growth.zarr", size)}
    found["ulna"] = measured("ulna", folder / "growth.zarr", repeats)
    assert found["ulna"]["episodes"] == size
    shutil.rmtree(folder / "growth.zarr")
    if size <= LEROBOT_UP_TO:
        lengths = [_steps(seed % DISTINCT) for seed in range(size)]
        build_lerobot(folder / "lerobot", lengths, ROBOT)
        found["lerobot"] = measured("lerobot", folder / "lerobot", repeats)
        assert found["lerobot"]["episodes"] == size
    return found


def build(path: Path, size: int) -> dict[str, Any]:
    """A store of `size` episodes, as the module says; gives what it cost."""
    began = time.perf_counter()
    store = Store.create(path, ROBOT)
    with Writer(path, Jpeg()) as writer:
        writer.add_episodes([(_episode(seed), {}) for seed in range(min(size, DISTINCT))])
    store.refresh()
    originals = list(store.episodes)
    behind = max(n for n in range(CHECKPOINT_OPS * 100) if not checkpoint_is_due(n, size))
    # The last checkpoint is made of the one before it and as much as a Writer lets come between.
    # Those before it are rarer than a Writer's: a million episodes would see hundreds.
    cuts = {*range(RARE, size - 3 * behind, RARE), size - 2 * behind - 1, size - behind}
    records: list[EpisodeRecord] = []
    copies: list[EpisodeRecord] = []
    checkpoint_s, checkpoint_mib, number = 0.0, 0.0, 1
    for index in track(range(len(originals), size), f"{size} episodes", disable=size < 10_000):
        if index % PER_SEGMENT == 0 or not copies:
            copies = _segment(store, originals, index)
        records.append(copies[index % PER_SEGMENT])
        if len(records) == PER_COMMIT or index + 1 in cuts or index + 1 == size:
            number = append(store.storage, [Add(record) for record in records], number, "growth")
            records = []
        if index + 1 in cuts:
            start = time.perf_counter()
            checkpoint(store.storage, always=True)
            checkpoint_s = time.perf_counter() - start
            # Of this process so far, the mapped file included.
            checkpoint_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = sorted((path / "checkpoints").glob("*.arrow"))
    return {
        "build_s": time.perf_counter() - began,
        "commits": number + 1,
        "operations_behind_checkpoint": Store.open(path).operations_since_checkpoint,
        "checkpoint_s": checkpoint_s,
        "checkpoint_mib": files[-1].stat().st_size / 2**20 if files else 0.0,
        "checkpoint_peak_mib": checkpoint_mib,
    }


def _segment(store: Store, originals: list[EpisodeRecord], first: int) -> list[EpisodeRecord]:
    """Records of episodes `first, first + 1, ...`, with their array files linked; by their place
    in the segment, those before `first` repeated for nobody to use."""
    storage, reader = store.storage, RecordReader(store.storage)
    assert isinstance(storage, LocalFolder)
    streams = originals[0].streams
    segment = new_segment(storage, ROBOT, streams)
    for stream in streams:
        layout = reader.layout(stream, originals[0])
        folder = f"segments/{segment}/{stream}"
        metadata = array_metadata_bytes(layout, PER_SEGMENT * CHUNK_ROWS)
        storage.write(f"{folder}/zarr.json", metadata)
        sources = [reader.files(stream, record)[0] for record in originals]
        for slot in range(first % PER_SEGMENT, PER_SEGMENT):
            source = sources[(first + slot) % len(originals)]
            storage.link(source, f"{folder}/{layout.file_name(slot * CHUNK_ROWS)}")
    start = first - first % PER_SEGMENT
    return [
        replace(
            originals[(start + slot) % len(originals)],
            uid=f"{originals[(start + slot) % len(originals)].uid[:16]}-{start + slot:08x}",
            seed=start + slot,
            segment=segment,
            start=slot * CHUNK_ROWS,
        )
        for slot in range(PER_SEGMENT)
    ]


def _steps(seed: int) -> int:
    return 4 + seed % 5


def _episode(seed: int) -> Episode:
    episode = synthetic_episode(ROBOT, seed, _steps(seed))
    streams = {name: episode.streams[name] for name in ("state", "action")}
    return replace(episode, streams=streams)


def measured(reader: str, path: Path, repeats: int) -> dict[str, float]:
    """Medians of fresh processes, after one that warms the page cache."""
    probe = Path(__file__).with_name("store_growth_probe.py")
    readings: list[dict[str, float]] = []
    for number in range(repeats + 1):
        run = subprocess.run(
            [sys.executable, probe, reader, path], capture_output=True, text=True, timeout=600
        )
        if run.returncode:
            raise RuntimeError(f"the probe of {reader} failed:\n{run.stderr}")
        if number:
            readings.append(json.loads(run.stdout.splitlines()[-1]))
    return {name: median(reading[name] for reading in readings) for name in readings[0]}


def report(benchmark: Benchmark, figures: dict[str, Any]) -> None:
    """Print and write."""
    columns = ["episodes", "open (ms)", "open (MiB)", "private (MiB)", "first batch (ms)"]
    columns += ["batch (ms)", "in all (MiB)", "private (MiB)"]
    keys = ["open_ms", "open_mib", "open_private_mib", "first_batch_ms", "batch_ms"]
    keys += ["total_mib", "total_private_mib"]
    for reader in ("ulna", "lerobot"):
        rows = [
            [int(found[reader]["episodes"]), *(found[reader][key] for key in keys)]
            for found in figures.values()
            if reader in found
        ]
        benchmark.table(f"{reader}: a fresh process", columns, rows)
    columns = ["episodes", "commits", "behind the checkpoint", "checkpoint (MiB)", "(s)"]
    columns += ["peak (MiB)", "all (s)"]
    keys = ["commits", "operations_behind_checkpoint", "checkpoint_mib", "checkpoint_s"]
    keys += ["checkpoint_peak_mib", "build_s"]
    rows = [[size, *(found["built"][key] for key in keys)] for size, found in figures.items()]
    benchmark.table("built", columns, rows)
    sizes = list(figures)
    both = [size for size in sizes if "lerobot" in figures[size]][-1]
    ratios = {
        # How much more a larger store costs than the one before it; 1 is flat. The smallest has no
        # checkpoint yet, and fewer operations in its log than a reader of the others has to fold.
        f"{key}_{large}_over_{small}": figures[large]["ulna"][f"{key}_ms"]
        / figures[small]["ulna"][f"{key}_ms"]
        for small, large in pairwise(sizes)
        for key in ("open", "first_batch", "batch")
    } | {
        f"lerobot_{key}_over_ours_{both}": figures[both]["lerobot"][f"{key}_ms"]
        / figures[both]["ulna"][f"{key}_ms"]
        for key in ("open", "first_batch", "batch")
    }
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    tyro.cli(main)
