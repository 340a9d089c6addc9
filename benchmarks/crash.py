"""Is anything ever lost? Kills, many writers, full disks, flipped bits; LeRobot beside it.

    uv run python benchmarks/crash.py [--kills 1000]
    uv run python benchmarks/crash.py --quick            a rehearsal in miniature

1. kill -9 at random moments of recording (whole episodes and step by step), merging, editing,
   packing and clearing up: nothing acknowledged is lost, nothing is there in part.
2. Sixteen writers at once, and readers who read everything as it appears.
3. A full disk: nothing is lost, and the same command goes on once there is space.
4. Flipped bits over all files of a store: `verify` finds them and names the place.
5. LeRobotDataset killed in the middle of its fifth episode.

Parts: `crash_content.py` (episodes), `crash_workers.py`, `crash_forge.py` (who is killed),
`crash_model.py`, `crash_kills.py` (what must be there), `crash_writers.py`, `crash_disk.py`,
`crash_flips.py`, `crash_lerobot.py`.
"""

import random
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro
from crash_flips import draw, make_store
from crash_forge import Forge
from crash_kills import ACTIVITIES, Tally, kill
from crash_lerobot import kill_lerobot
from crash_writers import write_at_once
from record import Benchmark
from rich.progress import track

TITLES = {
    "writer": "recording episodes",
    "recorder": "recording steps",
    "merge": "merging, recording",
    "edit": "editing",
    "pack": "packing",
    "gc": "gc, checkpoints",
}


def main(
    kills: int = 1000,
    writers: int = 16,
    episodes_each: int = 10,
    full_disks: int = 70,
    flips: int = 1000,
    lerobot_kills: int = 3,
    seed: int | None = None,
    folder: Path | None = None,
    quick: bool = False,
) -> None:
    """Do to a store what life does.

    Args:
        kills: How many workers to kill.
        writers: How many write at once.
        episodes_each: How many episodes each of them adds.
        full_disks: Operations tried on a full disk.
        flips: Bits to flip, one at a time.
        lerobot_kills: Recordings with LeRobotDataset to kill.
        seed: Of all random moments and choices; drawn if not given, and printed.
        folder: Where the stores are made; by default where temporary files go.
        quick: Very few of everything, no LeRobot; writes no result.
    """
    if quick:
        kills, writers, episodes_each = min(kills, 18), min(writers, 3), 2
        full_disks, flips, lerobot_kills = 7, 20, 0
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    benchmark = Benchmark("crash", quick)
    began = time.perf_counter()
    with (
        closing(Forge()) as forge,
        tempfile.TemporaryDirectory(prefix="ulna-crash-", dir=folder) as scratch,
    ):
        steps = iter(track(range(kills), "kill"))
        next(steps)
        tallies = kill(forge, Path(scratch), kills, seed, lambda n: next(steps, None))
        kills_s = time.perf_counter() - began
        crowd = write_at_once(forge, Path(scratch), writers, episodes_each)
        disk = fill_disks(forge, Path(scratch) / "disk", full_disks, seed)
        bits = flip(forge, Path(scratch) / "flips.zarr", flips, seed)
        theirs = kill_lerobot(Path(scratch) / "lerobot", lerobot_kills, seed)
    summarize(benchmark, tallies, crowd, disk, bits, theirs, kills_s)


def fill_disks(forge: Forge, path: Path, operations: int, seed: int) -> dict[str, Any]:
    """`crash_disk.py` in a process of its own."""
    request = {"activity": "full_disk", "path": str(path), "seed": seed, "first": 0}
    told = list(forge.start({**request, "operations": operations}).told())
    if not told or not told[-1].get("finished"):
        raise RuntimeError(f"the full disk: {told[-1:]}")
    done = [said for said in told if "operation" in said]
    refused = Counter(said["operation"] for said in done if said["refused"])
    return {
        "disk": told[0]["disk"],
        "operations": len(done),
        "refused": sum(refused.values()),
        "refused_by_operation": dict(refused),
    }  # a loss ends the process above, and the benchmark


def flip(forge: Forge, path: Path, flips: int, seed: int) -> dict[str, Any]:
    """`crash_flips.py` in processes of its own: a reader that is killed by a bit is counted."""
    make_store(path)
    places = draw(path, flips, seed)
    outcomes: Counter[str] = Counter()
    by_file: Counter[str] = Counter()
    notes: list[str] = []
    done = 0
    while done < flips:
        request = {"activity": "flip_bits", "path": str(path), "seed": seed, "first": 0}
        worker = forge.start({**request, "flips": flips, "begin": done})
        flipped, found = 0, 0
        for said in worker.told():
            if "failed" in said:
                raise RuntimeError(f"bit flips: {said['failed']} at {places[done]}")
            flipped += "flip" in said
            if "outcome" in said:
                found += 1
                outcomes[said["outcome"]] += 1
                by_file[f"{said['kind']} {said['outcome']}"] += 1
                if said["outcome"] != "detected":
                    place = places[done]
                    notes.append(f"{said['outcome']}: {place.file} byte {place.byte}.{place.bit}")
                done += 1
        if flipped > found:  # it died before it could tell
            place = places[done]
            outcomes["crashed"] += 1
            notes.append(f"crashed: {place.file} byte {place.byte}.{place.bit}")
            _mend(path / place.file, place.byte, place.bit)
            done += 1
        elif not found:
            raise RuntimeError("the process that flips bits did nothing")
    kinds = ("detected", "misnamed", "harmless", "unnoticed", "crashed")
    counts = {kind: outcomes[kind] for kind in kinds}
    return {"flips": flips, **counts, "by_file": dict(sorted(by_file.items())), "notes": notes}


def _mend(file: Path, byte: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)


def summarize(
    benchmark: Benchmark,
    tallies: dict[str, Tally],
    crowd: dict[str, Any],
    disk: dict[str, Any],
    bits: dict[str, Any],
    theirs: dict[str, Any],
    kills_s: float,
) -> dict[str, Any]:
    """Print the tables and the result."""
    rows = []
    for activity in ACTIVITIES:
        t = tallies[activity]
        facts = t.kills, t.within, t.acknowledged, t.completed, t.lost, t.partial
        rows.append([TITLES[activity], *facts])
    rows.append(["all", *(sum(row[k] for row in rows) for k in range(1, 7))])
    if theirs["kills"]:
        facts = theirs["kills"], theirs["acknowledged"], "", theirs["lost"], theirs["unreadable"]
        rows.append(["LeRobot recording", theirs["kills"], *facts])
    columns = ["killed while", "kills", "within", "acked", "unsaid", "lost", "bad"]
    benchmark.table("kill -9", columns, rows)
    print(
        "within: in the middle of an operation. acked: operations acknowledged before the kill. "
        "unsaid: had taken effect, was not acknowledged yet. lost: acknowledged and not there. "
        "bad: there in part, or not readable (LeRobot: datasets that do not open)."
    )
    benchmark.table(
        "besides",
        ["what", "value"],
        [[f"writers: {k}", v] for k, v in crowd.items()]
        + [[f"full disk: {k}", v] for k, v in disk.items()]
        + [[f"flipped bits: {k}", v] for k, v in bits.items() if k not in ("notes", "by_file")]
        + [[f"flipped bits: {k}", v] for k, v in bits["by_file"].items()],
    )
    for note in bits["notes"][:20]:
        print(note)
    figures: dict[str, Any] = {
        "kills": {activity: asdict(tally) for activity, tally in tallies.items()},
        "kills_total": sum(tally.kills for tally in tallies.values()),
        "kills_wall_s": kills_s,
        "acknowledged": sum(tally.acknowledged for tally in tallies.values()),
        "lost": sum(tally.lost for tally in tallies.values()),
        "partial": sum(tally.partial for tally in tallies.values()),
        "writers": crowd,
        "full_disk": disk,
        "flipped_bits": bits,
        "lerobot": theirs,
    }
    ratios = {
        "acknowledged_kept": 1 - figures["lost"] / max(1, figures["acknowledged"]),
        "harmful_flips_detected": (bits["detected"] + bits["misnamed"])
        / max(1, bits["flips"] - bits["harmless"]),
        "lerobot_acknowledged_kept": 1 - theirs["lost"] / theirs["acknowledged"]
        if theirs["acknowledged"]
        else None,
    }
    result = benchmark.finish(ratios, figures)
    bad = figures["lost"] + figures["partial"] + crowd["lost"] + crowd["partial"]
    if bad + crowd["reader_errors"] + bits["unnoticed"] + bits["crashed"]:
        raise SystemExit("something was lost or went unnoticed; the notes in the result say what")
    return result


if __name__ == "__main__":
    tyro.cli(main)
