"""The memory between loop and recorder: what is put comes out, a full lane refuses and counts."""

import multiprocessing
import threading
import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulna.deploy_robot.flight_ring import FlightRing, LaneForm
from ulna.deploy_robot.shared_record import Field

NUMBERS = (Field("number", "int64"), Field("row", "float32", (3,)))


def make_ring(capacity: int = 4) -> FlightRing:
    frame = (Field("frame", "uint8", (5, 7, 3)),)
    return FlightRing((LaneForm("rows", capacity, NUMBERS), LaneForm("images/front", 2, frame)))


def put(lane, number: int) -> bool:
    slot = lane.claim()
    if slot < 0:
        return False
    lane.arrays["number"][slot] = number
    lane.arrays["row"][slot] = number, number + 0.5, -number
    lane.publish()
    return True


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_lane_is_a_queue_that_refuses_when_full(puts: list[bool], capacity: int) -> None:
    lane = make_ring(capacity).lanes["rows"]
    model: deque[int] = deque()
    lost = 0
    for number, is_put in enumerate(puts):
        if is_put:
            kept = put(lane, number)
            assert kept == (len(model) < capacity)
            lost += not kept
            if kept:
                model.append(number)
        elif model:
            slot = lane.slot(lane.taken + 1)
            expected = model.popleft()
            assert int(lane.arrays["number"][slot]) == expected
            np.testing.assert_array_equal(
                lane.arrays["row"][slot],
                np.array([expected, expected + 0.5, -expected], np.float32),
            )
            lane.release(lane.taken + 1)
        assert lane.waiting == len(model)
    assert lane.lost == lost


def test_a_claimed_record_is_not_there_before_it_is_published() -> None:
    lane = make_ring().lanes["rows"]
    slot = lane.claim()
    lane.arrays["number"][slot] = 5
    assert lane.waiting == 0
    assert lane.claim() == slot, "what was not published is claimed again"
    assert lane.publish() == 1 and lane.waiting == 1


def test_full_lane_of_frames_leaves_room_for_rows() -> None:
    lanes = make_ring(64).lanes
    for _ in range(5):
        if lanes["images/front"].claim() >= 0:
            lanes["images/front"].publish()
    assert lanes["images/front"].lost == 3
    assert all(put(lanes["rows"], number) for number in range(64))


def test_lanes_do_not_overlap() -> None:
    lanes = make_ring().lanes
    for number in range(4):
        put(lanes["rows"], number)
    for _ in range(2):
        lanes["images/front"].arrays["frame"][lanes["images/front"].claim()] = 255
        lanes["images/front"].publish()
    assert lanes["rows"].arrays["number"].tolist() == [0, 1, 2, 3]
    assert (lanes["images/front"].arrays["frame"] == 255).all()
    assert lanes["rows"].put == 4 and lanes["rows"].taken == 0


def test_a_reader_beside_the_writer_sees_every_whole_record() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=True)
    ring = make_ring(8)
    sender = threading.Thread(target=ring.send, args=(ours,))
    sender.start()
    other = FlightRing.receive(theirs).lanes["rows"]
    sender.join()
    lane = ring.lanes["rows"]
    seen: list[int] = []

    def read() -> None:
        while len(seen) < 500:
            for number in range(other.taken + 1, other.taken + other.waiting + 1):
                slot = other.slot(number)
                row = other.arrays["row"][slot]
                assert row[0] == other.arrays["number"][slot] and row[2] == -row[0]
                seen.append(int(row[0]))
                other.release(number)
            time.sleep(0)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(500):
        while not put(lane, number):
            time.sleep(0)
    reader.join(20.0)
    assert seen == list(range(500))


def test_a_lane_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FlightRing((LaneForm("rows", 0, NUMBERS),))
