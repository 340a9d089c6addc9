"""Shared memory between two processes: whole records only, newest first, nothing left behind."""

import importlib
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ulna.deploy_robot.processes import start_process
from ulna.deploy_robot.shared_record import Field, SharedRecord

FIELDS = (
    Field("low", "int64", (4096,)),
    Field("image", "uint8", (5, 7, 3)),
    Field("one", "float64"),
)


def write(record: SharedRecord, number: int) -> int:
    slot = record.begin()
    slot["low"][...] = number
    slot["image"][...] = number % 256
    slot["one"][...] = number / 2
    return record.commit()


def test_the_newest_record_is_read_and_earlier_ones_are_gone():
    record = SharedRecord(FIELDS)
    into = record.empty()
    assert record.read(into) == 0 and record.version == 0
    for number in range(1, 6):
        assert write(record, number) == number
    assert record.read(into) == 5
    assert (into["low"] == 5).all() and (into["image"] == 5).all() and into["one"] == 2.5
    assert record.read({"one": into["one"]}) == 5, "a part may be read alone"


def test_a_record_being_written_is_never_given_out():
    record = SharedRecord(FIELDS)
    write(record, 1)
    slot = record.begin()
    slot["low"][:100] = 99  # half written
    into = record.empty()
    assert record.read(into) == 1 and (into["low"] == 1).all()
    record.commit()
    assert record.read(into) == 2


def test_a_reader_overtaken_in_the_middle_of_its_copy_copies_again():
    record = SharedRecord((Field("low", "int64", (8,)), Field("high", "int64", (8,))))

    def publish(number: int) -> None:
        slot = record.begin()
        slot["low"][...] = slot["high"][...] = number
        record.commit()

    class Interrupted(dict):
        """Lets the writer publish twice between the copies of two fields, once."""

        pending = True

        def items(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            for name in ("low", "high"):
                yield name, self[name]
                if self.pending:
                    self.pending = False
                    publish(2)
                    publish(3)

    publish(1)
    into = Interrupted(record.empty())
    assert record.read(into) == 3
    assert (into["low"] == 3).all() and (into["high"] == 3).all()


def test_no_torn_record_between_two_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    fakes = importlib.import_module("deploy_robot_fakes")
    record = SharedRecord((Field("low", "int64", (4096,)), Field("high", "int64", (4096,))))
    process, connection = start_process(fakes.write_forever, (), "writer")
    record.send(connection)
    into = record.empty()
    while record.version == 0:
        time.sleep(0.01)
    versions, deadline = set(), time.monotonic() + 10.0
    while len(versions) < 300 and time.monotonic() < deadline:
        version = record.read(into)
        if version:
            versions.add(version)
            assert (into["low"] == version).all() and (into["high"] == version).all()
    connection.send("stop")
    assert connection.poll(10)
    assert connection.recv() == record.version
    process.join(10)
    assert len(versions) == 300, "reader and writer hardly met"


def test_the_heartbeat_tells_its_time_without_a_record():
    record = SharedRecord(FIELDS)
    assert record.beat_ns == 0
    before_ns = time.monotonic_ns()
    record.beat()
    assert before_ns <= record.beat_ns <= time.monotonic_ns() and record.version == 0


def test_the_memory_has_no_name_and_goes_with_its_owners():
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, named = descriptors(), set(os.listdir("/dev/shm"))
    ours, theirs = multiprocessing.Pipe(duplex=True)
    record = SharedRecord(FIELDS)
    record.send(ours)
    other = SharedRecord.receive(theirs)
    write(record, 7)
    into = other.empty()
    assert other.read(into) == 1 and (into["low"] == 7).all()
    assert set(os.listdir("/dev/shm")) <= named
    other.close()
    record.close()
    record.close()
    ours.close()
    theirs.close()
    assert descriptors() <= before


def test_arrays_do_not_share_a_cache_line():
    record = SharedRecord(FIELDS)
    slot = record.begin()
    starts = [array.__array_interface__["data"][0] for array in slot.values()]
    assert all(start % 64 == 0 for start in starts)
    assert np.ptp(starts) > 0
