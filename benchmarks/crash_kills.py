"""Kill whoever works on a store at a random moment, a thousand times, and look at what is left.

After each kill the store is opened anew: the log has no gaps, what was acknowledged is in effect,
of the operation that was cut short all or nothing is there, and every episode that is new or moved
is compared with what was recorded, byte by byte; now and then everything is, and `verify` runs.
"""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from crash_content import CODECS, Content, Labels, check_content, labels_of, made, robot
from crash_forge import Forge
from crash_model import Model, Operation

from ulna.datasets import commits
from ulna.datasets.store import Store
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer

ACTIVITIES = ("writer", "recorder", "merge", "edit", "pack", "gc")
SOURCES = 6
"""Stores to merge, of three episodes each."""


@dataclass
class Tally:
    """What became of the kills of one activity."""

    kills: int = 0
    within: int = 0
    """Kills in the middle of an operation; the others came between two."""
    acknowledged: int = 0
    """Operations that were acknowledged before a kill."""
    completed: int = 0
    """Of the kills within an operation: it had taken effect and was not acknowledged yet. (Packing
    and clearing up show no effect and are not counted.)"""
    lost: int = 0
    """Acknowledged operations that are not in effect, and episodes that nobody wrote."""
    partial: int = 0
    """Episodes that are there and not whole."""
    notes: list[str] = field(default_factory=list)


class Checker:
    """Looks at one store again and again."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path = path
        self.model = Model()
        self._chance = chance
        self._known: dict[tuple[str, str, int], Content] = {}
        """Episodes that were read whole, by uid and place."""

    def look(self, everything: bool = False) -> tuple[dict[Content, Labels], list[str]]:
        """The episodes that are there; what is wrong with any."""
        store = Store.open(self.path)
        numbers = commits.numbers(store.storage)
        wrong = list(store.damaged_commits)
        if numbers != list(range(len(numbers))):
            wrong.append(f"the log has gaps: {numbers}")
        keys = {(r.uid, r.segment, r.start) for r in store.episodes}
        again = [key for key in self._known if key in keys]
        for key in self._chance.sample(again, min(2, len(again))):
            del self._known[key]  # a few of the old ones are read again each time
        found: dict[Content, Labels] = {}
        for record in store.episodes:
            key = (record.uid, record.segment, record.start)
            try:
                if everything or key not in self._known:
                    self._known[key] = check_content(store, record)
            except (ValueError, OSError) as error:
                wrong.append(str(error))
                continue
            if self._known[key] in found:
                wrong.append(f"{record.uid} is there twice")
            found[self._known[key]] = labels_of(record)
        if everything:
            wrong += [str(p) for p in verify(store) if p.severity == "error"]
        return found, wrong

    def settle(self, told: list[dict[str, Any]], tally: Tally, everything: bool = False) -> None:
        """Compare the store with what a worker said before it died."""
        doing: Operation | None = None
        for said in told:
            if "failed" in said:
                raise RuntimeError(f"a worker failed by itself: {said['failed']}")
            if "does" in said:
                doing = Operation.told(said["does"])
            elif "refused" in said:
                doing = None
            elif "did" in said and doing is not None:
                self.model, doing = self.model.after(doing), None
                tally.acknowledged += 1
        found, wrong = self.look(everything)
        tally.partial += len(wrong)
        tally.notes += wrong
        if doing is not None:
            tally.within += 1
            completed = self.model.after(doing)
            if found == completed.state():
                tally.completed += found != self.model.state()
                self.model = completed
                return
        expected = self.model.state()
        if found != expected:
            differing = {*found.items()} ^ {*expected.items()}
            tally.lost += len(differing)
            tally.notes.append(f"not as acknowledged: {sorted(map(str, differing))}")
            # Go on from what is there, so that each loss is counted once.
            self.model = Model([Operation((), tuple(found.items()), edit=False, undo=False)])


def kill(
    forge: Forge, folder: Path, kills: int, seed: int, advance: Any = lambda n: None
) -> dict[str, Tally]:
    """Kill `kills` workers, the activities in turn, on stores in `folder`."""
    chance = random.Random(seed)
    tallies = {activity: Tally() for activity in ACTIVITIES}
    window_s = dict.fromkeys(ACTIVITIES, 0.2)
    first_seeds = count(1000, 1000)
    sources = [str(path) for path in _make_sources(folder)]
    stores = count()
    checker = _fresh(folder, next(stores), chance)
    for number in range(kills):
        activity = ACTIVITIES[number % len(ACTIVITIES)]
        tally = tallies[activity]
        merged = checker.model.merged()
        worker = forge.start(
            {
                "activity": activity,
                "path": str(checker.path),
                "seed": chance.getrandbits(32),
                "first": next(first_seeds),
                "sources": [source for source in sources if source not in merged],
            }
        )
        time.sleep(chance.uniform(0, window_s[activity]))
        told = worker.kill()
        # So long that there are two operations before a kill, in the median.
        done = sum("did" in said for said in told)
        window_s[activity] *= 1.05 if done < 2 else 0.95
        tally.kills += 1
        last = number == kills - 1
        full = len(checker.model.operations) > 80 or last
        checker.settle(told, tally, everything=full)
        if full and not last:
            shutil.rmtree(checker.path)
            checker = _fresh(folder, next(stores), chance)
        advance(1)
    return tallies


def _fresh(folder: Path, number: int, chance: random.Random) -> Checker:
    path = folder / f"kills_{number}.zarr"
    Store.create(path, robot())
    return Checker(path, chance)


def _make_sources(folder: Path) -> Iterator[Path]:
    for number in range(SOURCES):
        path = folder / f"source_{number}.zarr"
        Store.create(path, robot())
        with Writer(path, CODECS) as writer:
            for seed in range(10 * number, 10 * number + 3):
                writer.add_episode(made(seed))
        yield path
