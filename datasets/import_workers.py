"""The workers of an import: one source and one writer each, in processes or as Ray actors.

Next: `import_episodes.py`, which gives them work.
"""

import inspect
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from multiprocessing import get_context, parent_process
from os import _exit
from pathlib import Path
from typing import Any

from .episode_check import check_episode
from .image_codec import EncodedFrames, ImageCodec
from .import_fields import FACT_NAMES, Facts, Source
from .schema import Episode, unknown_name
from .writer import Writer

FORMATS = {
    "robomimic": ("import_robomimic", "RobomimicSource"),
    "diffusion_policy": ("import_diffusion_policy", "DiffusionPolicySource"),
    "rlds": ("import_rlds", "RldsSource"),
    "images": ("import_images", "ImagesSource"),
    "lerobot": ("import_lerobot", "LeRobotSource"),
}
"""Module and class of every importer; a module is imported when it is needed."""

BATCH_EPISODES = 16
_BATCH_BYTES = 256 << 20
"""One commit takes this many episodes or bytes: syncing costs more than writing a small episode."""


@dataclass(frozen=True)
class Skipped:
    """An episode that could not be imported."""

    key: str
    reason: str


@dataclass(frozen=True)
class Work:
    """What a worker needs to open the source and the store for itself."""

    format: str
    path: Path
    options: Mapping[str, Any]
    store: str
    source: str
    image_codec: ImageCodec | Mapping[str, ImageCodec]


@dataclass
class Result:
    """What a worker made of a batch of keys."""

    steps: dict[str, int] = field(default_factory=dict)
    """Of every imported episode, by key."""
    skipped: list[Skipped] = field(default_factory=list)
    losses: tuple[str, ...] = ()


def open_source(format: str, path: Path, options: Mapping[str, Any]) -> Source:
    """The source at `path`; `options` by name, those of `Facts` beside the importer's own."""
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    module, class_name = FORMATS[format]
    kind = getattr(importer(module), class_name)
    own = [name for name in inspect.signature(kind).parameters if name not in ("path", "facts")]
    takes_facts = "facts" in inspect.signature(kind).parameters
    facts = {name: value for name, value in options.items() if name in FACT_NAMES and takes_facts}
    rest = {name: value for name, value in options.items() if name not in facts}
    for name in rest:
        if name not in own:
            known = [*own, *(f.name for f in fields(Facts))] if takes_facts else own
            raise unknown_name(f"option of the {format} importer", name, known)
    return kind(path, **({"facts": Facts(**facts)} if takes_facts else {}), **rest)


def importer(module: str) -> Any:
    return import_module(f".{module}", __package__)


class Worker:
    """Imports batches of keys; one per process, with a source and a writer of its own."""

    def __init__(self, work: Work, source: Source | None = None) -> None:
        self._source_name = work.source
        self._source = source or open_source(work.format, work.path, work.options)
        self._writer = Writer(work.store, work.image_codec, tool=f"import {work.format}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def run(self, keys: Sequence[str]) -> Result:
        """All of a batch as one result."""
        total = Result()
        for result in self.results(keys):
            total.steps.update(result.steps)
            total.skipped += result.skipped
            total.losses = result.losses
        return total

    def results(self, keys: Sequence[str]) -> Iterator[Result]:
        """One result per commit: a batch of long episodes is several."""
        waiting: list[tuple[str, Episode, dict[str, EncodedFrames]]] = []
        skipped: list[Skipped] = []
        size = 0
        for key in keys:
            try:
                episode, encoded = self._source.episode(key)
                check_episode(episode, self._writer.embodiment, encoded)
            except Exception as error:  # whatever is wrong with one episode, the others go on
                skipped.append(Skipped(key, _reason(error)))
                continue
            info = {**episode.info, "source": self._source_name, "source_key": key}
            waiting.append((key, replace(episode, info=info), encoded))
            size += _bytes(episode, encoded)
            if size > _BATCH_BYTES:
                yield self._commit(waiting, skipped)
                waiting, skipped, size = [], [], 0
        if waiting or skipped:
            yield self._commit(waiting, skipped)

    def _commit(
        self,
        waiting: Sequence[tuple[str, Episode, dict[str, EncodedFrames]]],
        skipped: list[Skipped],
    ) -> Result:
        self._writer.add_episodes((episode, encoded) for _, episode, encoded in waiting)
        steps = {key: episode.steps for key, episode, _ in waiting}
        return Result(steps, skipped, tuple(self._source.losses))


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _bytes(episode: Episode, encoded: Mapping[str, EncodedFrames]) -> int:
    arrays = (*episode.images.values(), *episode.streams.values(), *episode.depth.values())
    chunks = sum(len(chunk) for frames in encoded.values() for chunk in frames.chunks)
    return chunks + sum(array.nbytes for array in arrays)


_worker: Worker | None = None


def _start_worker(work: Work) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops the work
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = Worker(work)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        _exit(1)  # at any moment: the store takes no harm


def _run_in_worker(keys: Sequence[str]) -> Result:
    assert _worker is not None
    return _worker.run(keys)


@contextmanager
def _pool(work: Work, workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (work,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died while importing (out of memory, or killed). What was committed "
            "is safe: run the same command again, with fewer --workers"
        ) from error
    finally:
        # After Ctrl-C the batches at hand are finished, no others begun.
        pool.shutdown(wait=True, cancel_futures=True)


def run_in_processes(
    work: Work, batches: Sequence[Sequence[str]], workers: int
) -> Iterator[Result]:
    with _pool(work, min(workers, max(1, len(batches)))) as pool:
        waiting = iter(batches)
        running: set[Future[Result]] = set()
        while True:
            # Few at a time: a million futures would be a list of a million in memory.
            while len(running) < 2 * workers and (batch := next(waiting, None)) is not None:
                running.add(pool.submit(_run_in_worker, batch))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()


def run_on_ray(
    work: Work, batches: Sequence[Sequence[str]], workers: int, address: str
) -> Iterator[Result]:
    """One actor per worker, each with its own source and writer; `address` as `ray.init` takes it.

    The dataset and the store must lie where every machine of the cluster reaches them by the same
    path or address.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("importing with Ray needs it: pip install 'ulna[ray]'") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=address, include_dashboard=False if address == "local" else None)
    actors: list[Any] = []
    try:
        remote: Any = ray.remote(num_cpus=1)(Worker)
        actors = [remote.remote(work) for _ in range(min(workers, max(1, len(batches))))]
        waiting = iter(batches)
        running = {}
        for actor in actors:
            if (batch := next(waiting, None)) is not None:
                running[actor.run.remote(batch)] = actor
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready[0])
            if (batch := next(waiting, None)) is not None:
                running[actor.run.remote(batch)] = actor
            yield ray.get(ready[0])
    finally:
        for actor in actors:
            ray.kill(actor)
        if started_here:
            ray.shutdown()
