"""What does it cost the control loop to hand an observation over to the policy's process?

    uv run python benchmarks/handover.py            the table; a minute
    uv run python benchmarks/handover.py --quick    a rehearsal

Two cameras of 480x640 and a state go to another process, in three ways, in turns:

    shared   our SharedRecord and a doorbell of a few bytes, as `inference_worker.py` does it
    pipe     multiprocessing.Pipe: the arrays are pickled
    queue    multiprocessing.Queue: pickled by a thread of the giver, which shares its interpreter

`there`: from the giver's first instruction until the taker, which has all arrays in memory of its
own, has said so (by one byte, in all ways). `giver`: processor time the giving process spends on
one hand-over, all its threads, that is, what a control tick loses.
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from record import Benchmark

from ulna.deploy_robot.shared_record import Field, SharedRecord

WAYS = ("shared", "pipe", "queue")
SHAPE = (480, 640, 3)
CAMERAS = ("front", "wrist")
FIELDS = (
    Field("state", "float32", (14,)),
    *(Field(f"image.{name}", "uint8", SHAPE) for name in CAMERAS),
)
BELL = b"look"


def take(way: str, connection: Connection, queue: Any) -> None:
    """The policy's side: has the arrays, says so, until told to end."""
    if way == "shared":
        record = SharedRecord.receive(connection)
        seen = record.empty()
        while connection.recv_bytes() != b"end":
            record.read(seen)
            connection.send_bytes(bytes([seen["image.front"][0, 0, 0]]))
        return
    while (found := connection.recv() if way == "pipe" else queue.get()) is not None:
        connection.send_bytes(bytes([found["image.front"][0, 0, 0]]))


class Way:
    """One way, with a taking process of its own."""

    def __init__(self, way: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.way = way
        self.ours, theirs = context.Pipe(duplex=True)
        self.queue = context.Queue() if way == "queue" else None
        self.process = context.Process(target=take, args=(way, theirs, self.queue), daemon=True)
        self.process.start()
        theirs.close()
        if way == "shared":
            self.record = SharedRecord(FIELDS)
            self.record.send(self.ours)

    def give(self, observation: dict[str, np.ndarray], mark: int) -> tuple[int, int]:
        """Nanoseconds until the taker has it, and of the giver's processor."""
        observation["image.front"][0, 0, 0] = mark
        busy_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
        if self.way == "shared":
            slot = self.record.begin()
            for name, array in observation.items():
                slot[name][...] = array
            self.record.commit()
            self.ours.send_bytes(BELL)
        elif self.queue is not None:
            self.queue.put(observation)
        else:
            self.ours.send(observation)
        answer = self.ours.recv_bytes()
        there_ns = time.perf_counter_ns() - start_ns
        busy_ns = time.process_time_ns() - busy_ns
        assert answer == bytes([mark]), f"{self.way} gave another observation"
        return there_ns, busy_ns

    def close(self) -> None:
        if self.way == "shared":
            self.ours.send_bytes(b"end")
        elif self.queue is not None:
            self.queue.put(None)
        else:
            self.ours.send(None)
        self.process.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description="What does it cost to hand an observation over?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=100)
    options = parser.parse_args()
    turns, each = (3, 10) if options.quick else (options.turns, 30)
    random = np.random.default_rng(0)
    observation = {
        field.name: random.integers(0, 255, field.shape).astype(field.dtype) for field in FIELDS
    }
    ways = {way: Way(way) for way in WAYS}
    there: dict[str, list[int]] = {way: [] for way in WAYS}
    giver: dict[str, list[int]] = {way: [] for way in WAYS}
    for turn in range(turns + 1):
        for way, side in ways.items():
            for number in range(each):
                there_ns, busy_ns = side.give(observation, (turn * each + number) % 256)
                if turn:  # the first turn warms up
                    there[way].append(there_ns)
                    giver[way].append(busy_ns)
    for side in ways.values():
        side.close()
    benchmark = Benchmark("handover", options.quick)

    def spread(values: dict[str, list[int]], way: str) -> tuple[float, float]:
        return tuple(float(np.percentile(values[way], q)) / 1e3 for q in (50, 99))  # type: ignore[return-value]

    rows = [[way, *spread(there, way), *spread(giver, way)] for way in WAYS]
    columns = ["way", "there p50 us", "there p99 us", "giver p50 us", "giver p99 us"]
    size = sum(array.nbytes for array in observation.values())
    benchmark.table(f"handing over {size / 1e6:.2f} MB, {len(there['pipe'])} times", columns, rows)
    ratios = {
        f"{way}_over_shared_{what}_{name}": spread(values, way)[q] / spread(values, "shared")[q]
        for way in WAYS[1:]
        for what, values in (("there", there), ("giver", giver))
        for q, name in enumerate(("p50", "p99"))
    }
    benchmark.table("ratios", ["what", "times"], list(ratios.items()))
    figures = {
        row[0]: dict(
            zip([column.replace(" ", "_") for column in columns[1:]], row[1:], strict=True)
        )
        for row in rows
    }
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    main()
