"""Processes that work on a store until they are killed, and say what they do as they do it.

        {"does": {...}}    what is about to be done      {"did": seconds}    it is acknowledged

What is done is told as what it removes and adds, see `crash_model.py`.
Next: `crash_forge.py` (how they are started and killed).
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crash_content import CODECS, SENSORS, STREAMS, content_of, labels_of, made

from ulna.datasets import edit
from ulna.datasets.commits import EpisodeRecord
from ulna.datasets.garbage import collect_garbage
from ulna.datasets.merge import merge
from ulna.datasets.pack import pack
from ulna.datasets.recorder import Recorder, RecorderConfig
from ulna.datasets.schema import Episode
from ulna.datasets.store import Store
from ulna.datasets.writer import Writer, checkpoint

Tell = Callable[..., None]


class Worker:
    """One process at work on one store."""

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self.path = Path(request["path"])
        self.request = request
        self.random = random.Random(request["seed"])
        self.next_seed = int(request["first"])
        self.left = int(request.get("operations", 1 << 30))
        self._pipe = pipe

    def tell(self, **what: Any) -> None:
        os.write(self._pipe, json.dumps(what).encode() + b"\n")

    def do(self, work: Callable[[], object], **what: Any) -> None:
        """Announce, do, acknowledge."""
        self.tell(does=what)
        began = time.perf_counter()
        try:
            work()
        except ValueError as error:
            if "undo" not in str(error):
                raise
            self.tell(refused=str(error))  # there was nothing to undo
            return
        self.tell(did=time.perf_counter() - began)
        self.left -= 1

    def run(self) -> None:
        self.tell(ready=os.getpid())
        getattr(self, self.request["activity"])()
        self.tell(finished=True)

    def writer(self) -> None:
        with Writer(self.path, CODECS) as writer:
            while self.left > 0:
                count = self.random.choice((1, 1, 1, 2))  # sometimes two with one commit
                episodes = [self._fresh() for _ in range(count)]
                self.do(
                    lambda episodes=episodes: writer.add_episodes([(e, {}) for e in episodes]),
                    add=[_described(episode) for episode in episodes],
                )

    def recorder(self) -> None:
        with (
            Writer(self.path, CODECS) as writer,
            Recorder(writer, STREAMS, SENSORS, RecorderConfig(coders=1)) as recorder,
        ):
            while self.left > 0:
                if self.random.random() < 0.1:
                    _begin(recorder, self._fresh(), upto=2)
                    recorder.abort()
                episode = self._fresh()
                self.do(lambda e=episode: record(recorder, e), add=[_described(episode)])

    def merge(self) -> None:
        for source in self.request["sources"]:
            self._merge(Store.open(source))
        self.recorder()

    def _merge(self, source: Store) -> None:
        add = [(content_of(source, record), labels_of(record)) for record in source.episodes]
        self.do(lambda: merge([source], self.path), add=add, source=source.location)

    def edit(self) -> None:
        with Writer(self.path, CODECS) as writer:
            while self.left > 0:
                store = Store.open(self.path)
                if len(store.episodes) < 4:
                    self._add(writer)
                else:
                    self._edit(writer, store)

    def _edit(self, writer: Writer, store: Store) -> None:
        kind = self.random.choice(("delete", "relabel", "split", "join", "undo"))
        chosen = sorted(self.random.sample(range(len(store.episodes)), 2))
        records = [store.record(index) for index in chosen]
        contents = [content_of(store, record) for record in records]
        if kind == "join":
            (first, _), (second, _) = sorted(zip(contents, chosen, strict=True))
            # Times must run on, and parts of one seed in their order.
            chosen = [index for _, index in sorted(zip(contents, chosen, strict=True))]
            records = [store.record(index) for index in chosen]
            if first[-1] >= second[0]:
                return
            task, instruction, _ = labels_of(records[0])
            joined = ((*_fused(first, second),), (task, instruction, labels_of(records[1])[2]))
            self.do(
                lambda: edit.join(writer, store, chosen),
                remove=[first, second],
                add=[joined],
                edit=True,
            )
        elif kind == "delete":
            self._delete(writer, store, chosen[0])
        elif kind == "relabel":
            text = f"label {self.random.getrandbits(40)}"
            self.do(
                lambda: edit.relabel(writer, store, chosen, instruction=text, success=False),
                remove=contents,
                add=[(c, (r.task, text, False)) for c, r in zip(contents, records, strict=True)],
                edit=True,
            )
        elif kind == "split" and records[0].steps > 1:
            at = self.random.randrange(1, records[0].steps)
            parts = _cut(contents[0], at)
            self.do(
                lambda: edit.split(writer, store, chosen[0], [at]),
                remove=contents[:1],
                add=[(part, labels_of(records[0])) for part in parts],
                edit=True,
            )
        elif kind == "undo":
            self.do(lambda: edit.undo(writer, store), undo=True)

    def pack(self) -> None:
        with Writer(self.path, CODECS) as writer:
            while self.left > 0:
                store = Store.open(self.path)
                fresh = [i for i, record in enumerate(store.episodes) if not _packed(store, record)]
                if len(fresh) < 2:
                    self._add(writer)
                    continue
                chosen = self.random.sample(fresh, self.random.randint(1, min(6, len(fresh))))
                self.do(lambda s=store, c=chosen: pack(writer, s, c))

    def gc(self) -> None:
        with Writer(self.path, CODECS) as writer:
            while self.left > 0:
                store = Store.open(self.path)
                kind = self.random.choice(("gc", "gc", "forget", "checkpoint", "add", "delete"))
                if kind == "checkpoint":
                    self.do(lambda: checkpoint(writer.storage, always=True))
                elif kind == "add":
                    self._add(writer)
                elif kind == "delete" and len(store.episodes) > 4:
                    self._delete(writer, store, self.random.randrange(len(store.episodes)))
                else:
                    self.do(lambda s=store, f=kind == "forget": collect_garbage(writer, s, f, 0.0))

    def _delete(self, writer: Writer, store: Store, index: int) -> None:
        gone = content_of(store, store.record(index))
        self.do(lambda: edit.delete(writer, store, [index]), remove=[gone], edit=True)

    def _add(self, writer: Writer) -> None:
        episode = self._fresh()
        self.do(lambda: writer.add_episode(episode), add=[_described(episode)])

    def _fresh(self) -> Episode:
        self.next_seed += 1
        return made(self.next_seed)


def record(recorder: Recorder, episode: Episode) -> None:
    """Record an episode step by step, and wait until it is on the disk."""
    _begin(recorder, episode, episode.steps)
    recorder.end(episode.success).result()


def _begin(recorder: Recorder, episode: Episode, upto: int) -> None:
    recorder.begin(episode.instruction, episode.task, episode.seed)
    force = episode.sensors["force"]
    each = len(force.time_ns) // episode.steps
    for step in range(upto):
        images = {name: frames[step] for name, frames in episode.images.items()}
        streams = {name: rows[step] for name, rows in episode.streams.items()}
        if not recorder.add_step(images, streams, {"front": episode.depth["front"][step]}):
            raise RuntimeError("the queue is full")
        for sample in range(step * each, (step + 1) * each):
            recorder.add_sample("force", force.time_ns[sample], force.values[sample])


def _described(episode: Episode) -> tuple[Any, Any]:
    return ((episode.seed, 0, episode.steps),), labels_of(episode)


def _packed(store: Store, record: EpisodeRecord) -> bool:
    return store.layout("state", record).sharded


def _cut(content: Any, at: int) -> list[list[Any]]:
    """The content of the steps before `at` and from there on."""
    parts: list[list[Any]] = [[], []]
    for seed, start, stop in content:
        middle = min(max(start + at, start), stop)
        if start < middle:
            parts[0].append((seed, start, middle))
        if middle < stop:
            parts[1].append((seed, middle, stop))
        at -= stop - start
    return parts


def _fused(first: Any, second: Any) -> list[Any]:
    """Content of two episodes, one after the other; what follows itself is one part."""
    found = [*first]
    for seed, start, stop in second:
        if found[-1][0] == seed and found[-1][2] == start:
            found[-1] = (seed, found[-1][1], stop)
        else:
            found.append((seed, start, stop))
    return found
