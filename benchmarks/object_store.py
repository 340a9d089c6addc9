"""Training from a bucket whose server answers after 30 ms: samples per second, requests per sample.

    uv run python benchmarks/object_store.py            about four minutes
    uv run python benchmarks/object_store.py --quick    a few small episodes: a rehearsal

Two cameras of 224 px as JPEG (q95, 4:2:0), a state and chunks of 16 actions, in batches of 64. A
server of the same machine (see `object_store_server.py`, a process of its own) waits 30 ms before
it answers anything; its bandwidth is that of the loopback, and it shares the cores. Compared are
the loader's two orders and zarr-python over obstore, one `oindex` per array and batch, with its
own settings and tuned. Each way
starts with nothing fetched and is measured from its first batch to the end of its first epoch (or
for --seconds); requests and bytes are all of those, from opening the store on.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import zarr
from object_store_server import BUCKET
from record import Benchmark

from ulna.datasets import zarr_codecs
from ulna.datasets.image_codec import Jpeg
from ulna.datasets.loader import WindowLoader, WindowSpec
from ulna.datasets.schema import Embodiment, Episode
from ulna.datasets.storage import ObjectStore
from ulna.datasets.store import Store
from ulna.datasets.store_header import create_header
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

HORIZON = 16
PATCH = 24
"""Pixels; with it and the noise a frame has the 15 kB of a real one at this quality."""
ZARR_SETTINGS: dict[str, dict[str, Any]] = {
    "zarr": {},
    "zarr_tuned": {
        "async.concurrency": 64,
        "codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline",
    },
}
"""As it is installed, and with as many requests at once as we have."""


@dataclass(frozen=True)
class Way:
    """One way to read, measured."""

    samples_per_s: float
    requests_per_sample: float
    kib_per_sample: float
    open_s: float
    first_batch_s: float
    """From the opened store to the first batch."""
    samples: int


class Server:
    """The late server, as its clients see it."""

    def __init__(self, direct: str, late: str) -> None:
        self.direct, self.late = direct, late

    def storage(self, late: bool) -> ObjectStore:
        return ObjectStore(f"s3://{BUCKET}/store.zarr", **self.options(late))

    def options(self, late: bool) -> dict[str, Any]:
        return {
            "endpoint": self.late if late else self.direct,
            "access_key_id": "benchmark",
            "secret_access_key": "benchmark",
            "region": "us-east-1",
            "client_options": {"allow_http": True},
        }

    def counts(self) -> dict[str, int]:
        """Since the last call."""
        with urllib.request.urlopen(f"{self.late}/--counts") as answer:
            return json.load(answer)


def main(
    quick: bool = False,
    episodes: int = 150,
    steps: int = 100,
    seconds: float = 20.0,
    latency_ms: float = 30.0,
    batch_size: int = 64,
    pool: int = 32,
) -> None:
    """Record into the bucket, then read it in each way.

    Args:
        quick: 8 episodes of 20 steps and a second each; writes no result.
        episodes: Episodes in the bucket.
        steps: Steps of each.
        seconds: For which each way is measured.
        latency_ms: Before the server answers a request.
        batch_size: Samples of a batch.
        pool: Shards that are shuffled together in `stream`.
    """
    benchmark = Benchmark("object_store", quick)
    if quick:
        episodes, steps, seconds, batch_size, pool = 8, 20, 1.0, 8, 3
    with late_server(latency_ms / 1e3) as server:
        robot = synthetic_embodiment(64 if quick else 224)
        frame_bytes = record(server.storage(late=False), robot, episodes, steps)
        late = server.storage(late=True)
        with ThreadPoolExecutor(16) as threads:  # the proxy remembers what it has seen once
            list(threads.map(late.read, [file.name for file in late.walk("")]))
        store = Store.on(late)
        loaders: dict[str, Callable[[], WindowLoader]] = {
            mode: lambda mode=mode: WindowLoader(
                Store.on(server.storage(late=True)),
                WindowSpec(HORIZON),
                batch_size,
                seed=0,
                mode=mode,
                cache="none",
                pool=pool,
            )
            for mode in ("random", "stream")
        }
        ways = {
            f"ulna_{mode}": measure(
                server, lambda make=make: Ours(make()), seconds, episodes * steps
            )
            for mode, make in loaders.items()
        }
        for name, settings in ZARR_SETTINGS.items():
            with zarr.config.set(settings):
                ways[name] = measure(
                    server, lambda: ZarrOindex(server, store, batch_size), seconds, episodes * steps
                )
    columns = ["way", "samples/s", "requests/sample", "KiB/sample", "open (s)", "first batch (s)"]
    keys = ["samples_per_s", "requests_per_sample", "kib_per_sample", "open_s", "first_batch_s"]
    rows = [[name, *(getattr(way, key) for key in keys)] for name, way in ways.items()]
    benchmark.table(f"a bucket {latency_ms:g} ms away", columns, rows)
    ratios = {
        f"{name}_over_zarr_tuned": ways[f"ulna_{name}"].samples_per_s
        / ways["zarr_tuned"].samples_per_s
        for name in ("random", "stream")
    }
    figures = {name: asdict(way) for name, way in ways.items()}
    setting = {
        "latency_ms": latency_ms,
        "episodes": episodes,
        "steps": steps,
        "batch_size": batch_size,
        "pool": pool,
        "bytes_per_frame": frame_bytes,
    }
    benchmark.finish(ratios, figures | {"setting": setting})


@contextmanager
def late_server(latency_s: float) -> Iterator[Server]:
    """The server, as long as it is needed."""
    script = Path(__file__).with_name("object_store_server.py")
    process = subprocess.Popen(
        [sys.executable, script, str(latency_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Server(**json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(timeout=10)


def record(storage: ObjectStore, robot: Embodiment, episodes: int, steps: int) -> float:
    """Fill the bucket; gives bytes per frame."""
    create_header(storage, robot)
    with Writer(storage, Jpeg()) as writer:
        for seed in range(episodes):
            writer.add_episode(_episode(robot, seed, steps))
    shards = [file.size for file in storage.walk("segments") if "/images/" in file.name]
    return sum(shards) / (episodes * steps * len(robot.cameras))


def _episode(robot: Embodiment, seed: int, steps: int) -> Episode:
    """Patches of colour that drift, with the noise of a sensor: as many bytes as a real frame."""
    plain = synthetic_episode(robot, seed, steps)
    random = np.random.default_rng(seed)
    for name, frames in plain.images.items():
        size = frames.shape[1]
        coarse = random.integers(0, 256, (size // PATCH + 2, size // PATCH + 2, 3))
        large = np.kron(coarse, np.ones((PATCH, PATCH, 1))).astype(np.int16)
        noise = random.normal(0, 1.2, (8, size, size, 3)).astype(np.int16)
        for step in range(steps):
            shift = step % PATCH
            view = large[shift : shift + size, shift : shift + size]
            plain.images[name][step] = np.clip(view + noise[step % 8], 0, 255).astype(np.uint8)
    return plain


def measure(server: Server, start: Callable[[], Iterator[int]], seconds: float, epoch: int) -> Way:
    """One way, from nothing: open, first batch, then the rate until the time or the epoch is over:
    in a second epoch of so small a store, much would still be at hand."""
    server.counts()
    began = time.perf_counter()
    batches = start()
    opened = time.perf_counter()
    samples = next(batches)
    first = time.perf_counter()
    timed = 0
    while time.perf_counter() - first < seconds and samples + timed + samples <= epoch:
        timed += next(batches)
    elapsed, counts = time.perf_counter() - first, server.counts()
    if isinstance(batches, Ours):
        batches.close()
    samples += timed
    return Way(
        samples_per_s=timed / elapsed,
        requests_per_sample=counts["requests"] / samples,
        kib_per_sample=counts["bytes"] / samples / 1024,
        open_s=opened - began,
        first_batch_s=first - opened,
        samples=samples,
    )


class Ours(Iterator[int]):
    """The loader; gives the size of each batch."""

    def __init__(self, loader: WindowLoader) -> None:
        self._loader = loader

    def __next__(self) -> int:
        return len(next(self._loader).state)

    def close(self) -> None:
        self._loader.close()


class ZarrOindex(Iterator[int]):
    """Plain zarr-python: random rows of every array with one `oindex`, as its manual has it."""

    def __init__(self, server: Server, store: Store, batch_size: int) -> None:
        import obstore.store
        from zarr.storage import ObjectStore as ZarrObjectStore

        zarr_codecs.register()
        from_url: Any = obstore.store.from_url
        remote = from_url(f"s3://{BUCKET}/store.zarr", **server.options(late=True))
        record = store.episodes[0]
        group: Any = zarr.open_group(ZarrObjectStore(remote, read_only=True), mode="r")
        segment = group[f"segments/{record.segment}"]
        self._state, self._action = segment["state"], segment["action"]
        self._images = [segment[f"images/{camera}"] for camera in record.cameras]
        self._starts = np.array([episode.start for episode in store.episodes])
        self._steps = store.episodes.steps
        self._random = np.random.default_rng(0)
        self._batch_size = batch_size

    def __next__(self) -> int:
        episode = np.sort(self._random.integers(0, len(self._starts), self._batch_size))
        step = (self._random.random(self._batch_size) * self._steps[episode]).astype(np.int64)
        rows = self._starts[episode] + step
        ahead = np.minimum(step[:, None] + np.arange(HORIZON), self._steps[episode][:, None] - 1)
        chunk = self._starts[episode][:, None] + ahead
        # Zarr wants them ascending and each once; the batch is put together again in numpy.
        distinct, places = np.unique(rows, return_inverse=True)
        images = [array.oindex[distinct][places] for array in self._images]
        state = self._state.oindex[distinct][places]
        wanted, places = np.unique(chunk, return_inverse=True)
        action = self._action.oindex[wanted][places.reshape(chunk.shape)]
        assert len(images[0]) == len(state) == len(action)
        return self._batch_size


if __name__ == "__main__":
    tyro.cli(main)
