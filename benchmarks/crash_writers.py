"""Sixteen writers at once on one store, and readers that look at everything as it appears."""

import random
import threading
import time
from pathlib import Path
from typing import Any

from crash_content import check_content, robot
from crash_forge import Forge
from crash_kills import Checker, Tally
from crash_model import Model
from crash_workers import Tell

from ulna.datasets import commits
from ulna.datasets.store import Store


def write_at_once(
    forge: Forge, folder: Path, writers: int, episodes: int, readers: int = 2
) -> dict[str, Any]:
    """Each of `writers` adds about `episodes` episodes, half of them step by step."""
    path = folder / "writers.zarr"
    Store.create(path, robot())
    watching = [
        forge.start({"activity": "watch", "path": str(path), "seed": 0, "first": 0})
        for _ in range(readers)
    ]
    began = time.perf_counter()
    working = [
        forge.start(
            {
                "activity": "recorder" if number % 2 else "writer",
                "path": str(path),
                "seed": number,
                "first": 1000 * (number + 1),
                "operations": episodes,
            }
        )
        for number in range(writers)
    ]
    heard: list[list[dict[str, Any]]] = [[] for _ in working]

    def listen(number: int) -> None:
        heard[number].extend(working[number].told())

    threads = [threading.Thread(target=listen, args=(k,)) for k in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - began
    time.sleep(0.2)
    seen = [[said for said in watcher.kill() if "looked" in said] for watcher in watching]
    tally, checker = Tally(), Checker(path, random.Random(0))
    for told in heard:
        if not told or not told[-1].get("finished"):
            raise RuntimeError(f"a writer ended early: {told[-1:]}")
    # One after the other here; at once on the disk.
    checker.model = Model()
    checker.settle([said for told in heard for said in told], tally, everything=True)
    return {
        "writers": writers,
        "acknowledged": tally.acknowledged,
        "lost": tally.lost,
        "partial": tally.partial,
        "commits": len(commits.numbers(Store.open(path).storage)),
        "wall_s": wall_s,
        "readers": readers,
        "reader_episodes_checked": sum(said["looked"] for told in seen for said in told),
        "reader_refreshes": sum(len(told) for told in seen),
        "reader_errors": sum(len(said["wrong"]) for told in seen for said in told),
    }


def watch(request: dict[str, Any], tell: Tell) -> None:
    """A reader: all that is new is read whole, at once, for as long as it lives."""
    store = Store.open(Path(request["path"]))
    known: set[str] = set()
    while True:
        store.refresh()
        fresh = [record for record in store.episodes if record.uid not in known]
        wrong = list(store.damaged_commits)
        gone = known - {record.uid for record in store.episodes}
        wrong += [f"{uid} was there before" for uid in gone]
        for record in fresh:
            try:
                check_content(store, record)
            except (ValueError, OSError) as error:
                wrong.append(str(error))
            known.add(record.uid)
        tell(looked=len(fresh), wrong=wrong)
        time.sleep(0.01)
