"""What travels to a remote policy: whole, or refused; never run, and never larger than it says."""

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from remote_fakes import ROBOT, heard, observation, packb, several

from ulna.deploy_robot.remote_messages import (
    Chunk,
    Failed,
    Hello,
    Offer,
    Offered,
    Refused,
    Superseded,
    Welcome,
    number_of,
    read,
    write,
    write_ask,
)
from ulna.deploy_robot.remote_msgpack import (
    DTYPES,
    openpi_array,
    packed,
    pieces,
    read_openpi,
    read_tensor,
    tensor,
    unpack,
)
from ulna.deploy_robot.remote_openpi import (
    OpenPiKeys,
    keys_for,
    read_actions,
    read_observation,
    write_actions,
    write_observation,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=9000),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=25,
)
ARRAYS = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
)


def _bytes(value):
    """Views to bytes, to compare."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _bytes(item) for key, item in value.items()}
    return value


@given(PLAIN)
@settings(max_examples=50, deadline=None)
def test_we_read_and_write_messagepack_as_its_own_package_does(value):
    assert _bytes(unpack(packb(value))) == value
    assert msgpack.unpackb(packed(value), strict_map_key=False) == value


@given(st.binary(max_size=400))
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_read_or_refused(data):
    for reader in (
        unpack,
        read,
        lambda data: read(data, ROBOT),
        lambda data: read_observation(data, keys_for(("front", "wrist")), ROBOT, 0),
        lambda data: read_actions(data, keys_for(("front",))),
    ):
        try:
            reader(data)
        except ValueError:
            pass


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_ask_is_read_or_refused(data):
    history = data.draw(st.sampled_from((1, 2)))
    seen = observation() if history == 1 else several(2)
    whole = bytearray(b"".join(write_ask(3, seen, 90)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(("set", "cut", "insert"))):
            case "set":
                whole[at] = data.draw(st.integers(0, 255))
            case "cut":
                del whole[at : at + data.draw(st.integers(1, 30))]
            case "insert":
                whole[at:at] = data.draw(st.binary(min_size=1, max_size=10))
        if not whole:
            break
    try:
        read(bytes(whole), ROBOT, history)
    except ValueError:
        pass


@given(ARRAYS)
@settings(max_examples=50, deadline=None)
def test_arrays_travel_bit_by_bit(array):
    for back in (
        read_tensor(unpack(packed(tensor(array))), "here"),
        read_openpi(unpack(packed(openpi_array(array)))),
        # as openpi's own packer writes it
        read_openpi(unpack(packb(array, default=_openpi_packer))),
    ):
        assert back.dtype == array.dtype and back.shape == array.shape
        assert back.tobytes() == array.tobytes()


def _openpi_packer(array):
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }


def test_large_tensors_are_not_copied():
    image = np.zeros((480, 640, 3), np.uint8)
    sent = [piece for piece in pieces(tensor(image)) if len(piece) == image.nbytes]
    assert len(sent) == 1 and np.shares_memory(np.frombuffer(sent[0], np.uint8), image)
    data = packed(tensor(image))
    assert np.shares_memory(read_tensor(unpack(data), "it"), np.frombuffer(data, np.uint8))


@given(
    number=st.integers(0, 2**63 - 1),
    state=hnp.arrays(np.float32, 2),
    words=st.text(max_size=100),
    seed=st.integers(0, 2**63 - 1),
    planned=st.none() | hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.just(3))),
    delay=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_an_ask_comes_as_it_was_sent(number, state, words, seed, planned, delay):
    sent = observation(
        state=state, instruction=words, noise_seed=seed, planned=planned, inference_delay=delay
    )
    data = b"".join(write_ask(number, sent))
    got = heard(data, ROBOT)
    assert got.number == number == number_of(data)
    assert (got.observation.instruction, got.observation.noise_seed) == (words, seed)
    assert got.observation.inference_delay == delay
    assert got.observation.state.tobytes() == state.tobytes()
    if planned is None:
        assert got.observation.planned is None
    else:
        assert np.array_equal(got.observation.planned, planned, equal_nan=True)
    for name, image in sent.images.items():
        assert np.array_equal(got.observation.images[name], image)


@pytest.mark.parametrize(
    "message",
    [
        Offer({"lift": Offered((ROBOT,), 8), "stack": Offered((ROBOT,), 8, 3)}, "0.1.0"),
        Hello("lift", ROBOT, "guided"),
        Hello(),
        Welcome("lift", ROBOT, 8, 2),
        Refused("another robot"),
        Superseded(4),
        Failed(5, "too dark"),
    ],
)
def test_plain_messages_come_as_they_were_sent(message):
    assert read(b"".join(write(message))) == message


def test_a_chunk_comes_as_it_was_sent():
    chunk = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
    got = heard(b"".join(write(Chunk(7, chunk, 1.5, 0.25))))
    assert (got.number, got.act_ms, got.wait_ms) == (7, 1.5, 0.25)
    assert np.array_equal(got.actions, chunk)


def test_jpeg_is_smaller_and_nearly_the_same():
    flat = {c.name: np.full((c.height, c.width, 3), 90, np.uint8) for c in ROBOT.cameras}
    raw = b"".join(write_ask(1, observation(images=flat)))
    small = b"".join(write_ask(1, observation(images=flat), 95))
    assert len(small) < len(raw) / 2
    got = heard(small, ROBOT).observation
    for name, image in flat.items():
        assert np.abs(got.images[name].astype(int) - image).max() <= 2


def test_several_observations_come_as_they_were_sent():
    sent = several(3)
    got = heard(b"".join(write_ask(1, sent)), ROBOT, 3).observation
    assert got.state.tobytes() == sent.state.tobytes() and got.state.shape == (3, 2)
    for name, frames in sent.images.items():
        assert np.array_equal(got.images[name], frames)
    smooth = np.stack([np.full((24, 32, 3), value, np.uint8) for value in (30, 120, 210)])
    small = b"".join(write_ask(1, several(3, images={"front": smooth}), 95))
    assert len(small) < smooth.nbytes / 2
    front = heard(small, ROBOT, 3).observation.images["front"]
    assert front.shape == smooth.shape and np.abs(front.astype(int) - smooth).max() <= 2


SMALL = {"front": np.zeros((3, 8, 8, 3), np.uint8)}


@pytest.mark.parametrize(
    ("state", "images", "history", "quality", "complaint"),
    [
        (1, 1, 3, None, r"ask.state: float32 \(2,\); expected .* 2 dimensions"),
        (2, 2, 3, None, "ask.state: 2 observations; this policy sees 3 at once"),
        (3, 3, 1, None, r"ask.state: float32 \(3, 2\); expected .* 1 dimensions"),
        (3, 2, 3, None, r"front: uint8 \(2, 24, 32, 3\); expected uint8 \(3, 24, 32, 3\)"),
        (3, 1, 3, None, r"front: uint8 \(24, 32, 3\); expected uint8 \(3, 24, 32, 3\)"),
        (1, 2, 1, None, r"front: uint8 \(2, 24, 32, 3\); expected uint8 \(24, 32, 3\)"),
        (3, 2, 3, 90, "ask.images.front: jpeg is 2 of them; expected a list of 3 pictures"),
        (3, 1, 3, 90, "ask.images.front: jpeg is .*; expected a list of 3 pictures"),
        (1, 2, 1, 90, r"ask.images.front: jpeg is .*; expected bytes"),
        (3, SMALL, 3, 90, r"ask.images.front: JPEG of 8 x 8; expected \(24, 32\)"),
    ],
)
def test_as_many_observations_as_the_policy_sees(state, images, history, quality, complaint):
    """`state`, `images`: how many observations each of the two holds."""

    def asked(count, **fields) -> dict[str, Any]:
        seen = observation(**fields) if count == 1 else several(count, **fields)
        message = _bytes(unpack(b"".join(write_ask(1, seen, quality))))
        assert isinstance(message, dict)
        return message

    pictures = asked(3, images=images) if isinstance(images, dict) else asked(images)
    with pytest.raises(ValueError, match=complaint):
        read(packb({**asked(state), "images": pictures["images"]}), ROBOT, history)


def _ask(**changes):
    message = _bytes(unpack(b"".join(write_ask(1, observation()))))
    assert isinstance(message, dict)
    return packb({**message, **changes})


def _tensor(dtype, shape, size):
    return {"dtype": dtype, "shape": shape, "data": b"\0" * size}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (_ask(state=_tensor("|O", [2], 16)), "dtype"),
        (_ask(state=_tensor("<U4", [2], 32)), "dtype"),
        (_ask(state=_tensor("|V8", [2], 16)), "dtype"),
        (_ask(state=_tensor(">f4", [2], 8)), "dtype"),
        (_ask(state=_tensor("<f8", [2], 16)), "float32"),
        (_ask(state=_tensor("<f4", [3], 12)), "x_m, y_m"),
        (_ask(state=_tensor("<f4", [1 << 40, 1 << 40], 8)), "dimension"),
        (_ask(state=_tensor("<f4", [-1, 2], 8)), "dimension"),
        (_ask(state=_tensor("<f4", [1] * 6 + [2], 8)), "dimensions"),
        (_ask(state=_tensor("<f4", [1 << 20, 1 << 20], 8)), "bytes"),
        (_ask(state=msgpack.ExtType(5, b"abc")), "extension"),
        (_ask(images={"front": _tensor("|u1", [8, 8, 3], 192)}), "24, 32"),
        (_ask(images={"left": _tensor("|u1", [8, 8, 3], 192)}), "front"),
        (_ask(planned=_tensor("<f4", [2, 4], 32)), "dx, dy, gripper"),
        (_ask(planned=_tensor("<f4", [5000, 3], 60000)), "4096"),
        (_ask(noise_seed=-1), "noise_seed"),
        (_ask(instruction="x" * 5000), "instruction"),
        (_ask(instruction=3), "instruction"),
        (_ask(surprise=1), "expected"),
        (_ask() + b"\0", "after the end"),
        (_ask()[:-1], "too early"),
        (b"\xdd\xff\xff\xff\xff", "4294967295"),
        (b"\x91" * 60, "nested"),
        (packb({"kind": "hello", "policy": 3, "embodiment": None}), "policy"),
        (packb({"kind": "goodbye"}), "goodbye"),
        (b"\x82\xa1a\x01\xa1a\x01", "twice"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_and_named(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(data, ROBOT)


def test_a_picture_of_another_size_is_refused_by_its_header():
    bomb = simplejpeg.encode_jpeg(np.zeros((2000, 3000, 3), np.uint8))
    data = _ask(images={"front": {"jpeg": bomb}})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="2000 x 3000"):
            read(data, ROBOT)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bomb", [b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000, b"\x90" * 10**6])
def test_a_message_of_empty_lists_takes_no_memory(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()


def test_an_ask_before_a_hello_is_refused():
    with pytest.raises(ValueError, match="hello"):
        read(b"".join(write_ask(1, observation())))


def test_objects_cannot_be_sent():
    with pytest.raises(ValueError, match="dtype object"):
        tensor(np.array([print], object))
    with pytest.raises(TypeError, match="set"):
        packed({"names": {1, 2}})


# openpi's words.


@pytest.mark.parametrize("preset", ["libero", "droid", "aloha"])
def test_an_observation_goes_through_openpis_words_and_back(preset):
    keys = keys_for(("front", "wrist"), preset)
    if preset == "droid":
        keys = OpenPiKeys(keys.images, (("observation/joint", 1), ("observation/gripper", 1)))
    sent = observation()
    got = read_observation(b"".join(write_observation(sent, keys)), keys, ROBOT, 5)
    assert (got.instruction, got.noise_seed) == ("lift", 5)
    assert np.array_equal(got.state, sent.state)
    for name, image in sent.images.items():
        assert np.array_equal(got.images[name], image)


def test_the_presets_are_openpis_keys():
    assert keys_for(("agentview", "wrist")).images == {
        "agentview": "observation/image",
        "wrist": "observation/wrist_image",
    }
    assert list(keys_for(("a", "left_wrist"), "droid").images.values()) == [
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
    ]
    assert keys_for(("cam_high",), "aloha").images == {"cam_high": "images.cam_high"}
    with pytest.raises(ValueError, match="aloha"):
        keys_for(("a",), "alhoa")


def test_openpis_answer_is_read_and_its_error_told():
    keys = keys_for(("front",))
    chunk = np.arange(6, dtype=np.float64).reshape(2, 3)
    answer = packb(
        {"actions": _openpi_packer(chunk), "state": _openpi_packer(chunk[0]),
         "server_timing": {"infer_ms": 3.0},
         "step": {b"__npgeneric__": True, b"data": 4, b"dtype": "<i8"}}
    )  # fmt: skip
    assert np.array_equal(read_actions(answer, keys), chunk.astype(np.float32))
    with pytest.raises(ValueError, match="KeyError: 'observation/image'"):
        read_actions("Traceback ...\n  line 3\nKeyError: 'observation/image'\n", keys)
    with pytest.raises(ValueError, match="actions"):
        read_actions(packb({"action": 3}), keys)
    assert read_actions(b"".join(write_actions(chunk, keys, {"infer_ms": 1.0})), keys).shape == (
        2,
        3,
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"observation/image": None}, "front"),
        ({"observation/image": np.zeros((24, 32, 3))}, "float64"),
        ({"observation/wrist_image": np.zeros((8, 8, 3), np.uint8)}, "wrist"),
        ({"observation/state": np.zeros(3)}, "x_m, y_m"),
        ({"observation/state": ["a", "b"]}, "numbers"),
        ({"prompt": 4}, "prompt"),
    ],
)
def test_an_openpi_client_is_told_what_does_not_fit(changes, complaint):
    keys, sent = keys_for(("front", "wrist")), observation()
    plain = {keys.images[name]: image for name, image in sent.images.items()}
    plain |= {"observation/state": sent.state, "prompt": "lift"} | changes
    data = packb(plain, default=_openpi_packer)
    with pytest.raises(ValueError, match=complaint):
        read_observation(data, keys, ROBOT, 0)


def test_a_missing_key_is_named_with_those_there_are():
    data = packb({"observation/images": 1, "prompt": "x"})
    with pytest.raises(ValueError, match="observation/image'; there are 'observation/images'"):
        read_observation(data, keys_for(("front",)), ROBOT, 0)


def test_a_state_that_the_keys_do_not_place_is_refused():
    keys = OpenPiKeys({"front": "a", "wrist": "b"}, (("observation/joint", 1),))
    with pytest.raises(ValueError, match="2 entries"):
        write_observation(observation(), keys)
