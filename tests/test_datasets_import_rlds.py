"""TFDS folders made to its layout: serialized by protobuf, framed here, read by our own parser."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import simplejpeg
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from ulna.datasets.episode_check import check_episode
from ulna.datasets.image_codec import Jpeg
from ulna.datasets.import_episodes import import_episodes
from ulna.datasets.import_fields import Facts
from ulna.datasets.import_rlds import RldsSource, recognise
from ulna.datasets.schema import Subgoal
from ulna.datasets.store import Store
from ulna.datasets.tfrecord import RecordFile, parse_example

FACTS = Facts(control_hz=5.0)


def example_class(packed: bool = True) -> Any:
    """tf.train.Example from its public definition."""
    file = descriptor_pb2.FileDescriptorProto(name=f"e{packed}.proto", package="t", syntax="proto3")

    def message(name: str) -> Any:
        made = file.message_type.add()
        made.name = name
        return made

    for name, kind in (("BytesList", 12), ("FloatList", 2), ("Int64List", 3)):
        values = message(name).field.add(name="value", number=1, label=3, type=kind)
        if kind != 12:
            values.options.packed = packed
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        kind = name.title().replace("_", "")
        feature.field.add(
            name=name, number=number, label=1, type=11, type_name=f".t.{kind}", oneof_index=0
        )
    features = message("Features")
    entry = features.nested_type.add()
    entry.name = "FeatureEntry"
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    features.field.add(
        name="feature", number=1, label=3, type=11, type_name=".t.Features.FeatureEntry"
    )
    message("Example").field.add(
        name="features", number=1, label=1, type=11, type_name=".t.Features"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def serialized(values: dict[str, Any], packed: bool = True) -> bytes:
    example = example_class(packed)()
    for name, value in values.items():
        feature = example.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif value.dtype.kind == "f":
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.astype(np.int64).ravel().tolist())
    return example.SerializeToString()


def framed(records: list[bytes]) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)

    lengths = (struct.pack("<Q", len(record)) for record in records)
    pairs = zip(lengths, records, strict=True)
    return b"".join(n + masked(n) + record + masked(record) for n, record in pairs)


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    sides = {"dimensions": [str(side) for side in shape]} if shape else {}
    return {"tensor": {"shape": sides, "dtype": dtype, "encoding": encoding}}


def image(*shape: int, dtype: str = "uint8") -> dict[str, Any]:
    return {"image": {"shape": {"dimensions": [str(s) for s in shape]}, "dtype": dtype}}


def tree(**features: Any) -> dict[str, Any]:
    return {"featuresDict": {"features": features}}


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def episode_values(number: int) -> dict[str, Any]:
    random = np.random.default_rng(number)
    steps = 4 + number
    frames = random.integers(0, 256, (steps, 16, 24, 3), np.uint8)
    depth = random.integers(0, 65536, (steps, 6, 8), np.uint16)
    return {
        "steps/action": random.normal(size=(steps, 7)).astype(np.float32),
        "steps/observation/state": random.normal(size=(steps, 8)).astype(np.float32),
        "steps/observation/joints": random.normal(size=(steps, 2, 3)).astype(np.float32),
        "steps/observation/image": [simplejpeg.encode_jpeg(frame) for frame in frames],
        "steps/observation/wrist": [png(frame[:8, :8]) for frame in frames],
        "steps/observation/depth": [png(frame) for frame in depth],
        "steps/observation/packed": [
            zlib.compress(np.full(5, step / 3).tobytes()) for step in range(steps)
        ],
        "steps/observation/tick": -(2**62) + np.arange(steps) * 2**40,
        "steps/language_instruction": [b"open the drawer"] * (steps - 1) + [b"leave it"],
        "steps/language_instruction_2": ["öffne die Schublade".encode()] * steps,
        "steps/phase": [b"reach"] * 2 + [b"pull"] * (steps - 2),
        "steps/is_terminal": np.arange(steps) == steps - 1,
        "steps/reward": (np.arange(steps) == steps - 1).astype(np.float32),
        "episode_metadata/file_path": [b"run/%d.npy" % number],
        "episode_metadata/score": np.array([0.5], np.float32),
    }


FEATURES = tree(
    steps={
        "sequence": {
            "feature": tree(
                action=tensor("float32", 7),
                observation=tree(
                    state=tensor("float32", 8),
                    joints=tensor("float64", 2, 3),
                    image=image(-1, -1, 3),
                    wrist=image(8, 8, 3),
                    depth=image(6, 8, 1, dtype="uint16"),
                    packed=tensor("float64", 5, encoding="zlib"),
                    tick=tensor("int64"),
                    boxes={"sequence": {"feature": tensor("float32", 4), "length": "-1"}},
                ),
                language_instruction={"text": {}},
                language_instruction_2={"text": {}},
                phase=tensor("string"),
                is_terminal=tensor("bool"),
                reward=tensor("float32"),
            ),
            "length": "-1",
        }
    },
    episode_metadata=tree(file_path={"text": {}}, score=tensor("float32")),
)


def write(folder: Path, shards: tuple[int, ...] = (2, 1), **info: Any) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    episodes = [episode_values(number) for number in range(sum(shards))]
    waiting = iter(episodes)
    for number, records in enumerate(shards):
        data = framed([serialized(next(waiting)) for _ in range(records)])
        (folder / f"toy-train.tfrecord-{number:05d}-of-{len(shards):05d}").write_bytes(data)
    (folder / "features.json").write_text(json.dumps(FEATURES))
    splits = [{"name": "train", "shardLengths": [str(n) for n in shards]}]
    content = {"name": "toy", "fileFormat": "tfrecord", "splits": splits, **info}
    (folder / "dataset_info.json").write_text(json.dumps(content))
    return episodes


def test_episodes_come_in_whole_and_jpeg_byte_for_byte(tmp_path: Path):
    written = write(tmp_path / "toy/1.0.0")
    assert recognise(tmp_path / "toy") and recognise(tmp_path / "toy/1.0.0")
    source = RldsSource(tmp_path / "toy", FACTS)
    robot = source.embodiment
    assert [(c.name, c.height, c.width) for c in robot.cameras] == [
        ("image", 16, 24),
        ("wrist", 8, 8),
    ]
    actions = np.concatenate([values["steps/action"] for values in written])
    np.testing.assert_array_equal(robot.action_low, actions.min(axis=0))
    assert len(source.keys()) == 3
    for key, values in zip(source.keys(), written, strict=True):
        episode, encoded = source.episode(key)
        check_episode(episode, robot, encoded)
        assert list(encoded) == ["image"] and list(episode.images) == ["wrist"]
        assert encoded["image"].chunks == tuple(values["steps/observation/image"])
        assert encoded["image"].codec == Jpeg(subsampling="444")
        pixels = [np.asarray(Image.open(io.BytesIO(d))) for d in values["steps/observation/wrist"]]
        np.testing.assert_array_equal(episode.images["wrist"], np.stack(pixels))
        expected = {
            "action": values["steps/action"],
            "state": values["steps/observation/state"],
            "observation_joints": values["steps/observation/joints"].astype(np.float64),
            "observation_tick": values["steps/observation/tick"],
            "observation_packed": np.repeat(np.arange(episode.steps) / 3, 5).reshape(-1, 5),
            "is_terminal": values["steps/is_terminal"],
            "reward": values["steps/reward"],
        }
        assert set(episode.streams) == {*expected, "observation_depth"}
        for name, rows in expected.items():
            assert episode.streams[name].dtype == rows.dtype, name
            np.testing.assert_array_equal(episode.streams[name], rows)
        assert episode.streams["observation_depth"].dtype == np.uint16
        assert png(episode.streams["observation_depth"][0]) == values["steps/observation/depth"][0]
        last = episode.steps - 1
        assert episode.instruction == "open the drawer"
        assert episode.subgoals == (
            Subgoal(0, last, "open the drawer"),
            Subgoal(last, last + 1, "leave it"),
        )
        assert episode.paraphrases == ("öffne die Schublade",)
        assert json.loads(str(episode.info["phase"])) == [[0, "reach"], [2, "pull"]]
        assert episode.info["episode_metadata/file_path"] == f"run/{last - 3}.npy"
        assert episode.info["episode_metadata/score"] == 0.5
        assert episode.success is None
    assert any("boxes has another length at every step" in loss for loss in source.losses)
    rewarded = RldsSource(tmp_path / "toy", FACTS, success="reward", cameras=("observation/image",))
    assert rewarded.episode(rewarded.keys()[0])[0].success is True
    assert any("left out on request: observation/wrist" in loss for loss in rewarded.losses)


def test_through_the_engine_the_store_holds_the_same_bytes(tmp_path: Path):
    written = write(tmp_path / "toy")
    summary = import_episodes(tmp_path / "toy", tmp_path / "s.zarr", options={"control_hz": 5.0})
    assert (summary.format, summary.imported, summary.complete) == ("rlds", 3, True)
    assert any("boxes" in loss for loss in summary.losses)
    store = Store.open(tmp_path / "s.zarr")
    for index, values in enumerate(written):
        frames = store.read_encoded("image", index)
        assert frames.chunks == tuple(values["steps/observation/image"])
        np.testing.assert_array_equal(store.read("action", index), values["steps/action"])
        assert store.episodes[index].paraphrases == ("öffne die Schublade",)


def test_the_rate_is_asked_for_and_mistakes_are_named(tmp_path: Path):
    write(tmp_path / "toy")
    with pytest.raises(ValueError, match="--control-hz"):
        _ = RldsSource(tmp_path / "toy").embodiment
    with pytest.raises(ValueError, match="unknown split 'trian'. Did you mean 'train'"):
        RldsSource(tmp_path / "toy", split="trian")
    with pytest.raises(ValueError, match="Did you mean 'observation/wrist'"):
        RldsSource(tmp_path / "toy", cameras=("observation/wirst",))
    (tmp_path / "toy/toy-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 2 files"):
        RldsSource(tmp_path / "toy")
    write(tmp_path / "riegeli", fileFormat="riegeli")
    with pytest.raises(ValueError, match="holds riegeli files"):
        RldsSource(tmp_path / "riegeli")


def test_damage_costs_one_record_and_is_found(tmp_path: Path):
    write(tmp_path / "toy", shards=(3,))
    path = tmp_path / "toy/toy-train.tfrecord-00000-of-00001"
    whole = path.read_bytes()
    middle = len(framed([serialized(episode_values(0))])) + 5000
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    source = RldsSource(tmp_path / "toy", FACTS)
    keys = source.keys()
    assert [source.episode(keys[i])[0].steps for i in (0, 2)] == [4, 6]
    with pytest.raises(ValueError, match="checksum of record 1 does not match"):
        source.episode(keys[1])
    path.write_bytes(whole[:-7])
    cut = RldsSource(tmp_path / "toy", FACTS)
    assert cut.episode(keys[1])[0].steps == 5
    with pytest.raises(ValueError, match="record 2 does not exist, it is cut off after 2 records"):
        cut.episode(keys[2])
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ValueError, match="the length at byte 0 is damaged"):
        RecordFile(path).record(0)


@pytest.mark.parametrize("packed", [True, False])
def test_the_parser_agrees_with_protobuf(packed: bool):
    random = np.random.default_rng(7)
    for _ in range(30):
        size = int(random.integers(0, 200))
        bits = random.integers(1, 64, size)
        values: dict[str, Any] = {
            "floats": random.normal(size=size).astype(np.float32),
            "ints": random.integers(-(2**63), 2**63 - 1, size) >> bits,
            "bytes": [random.bytes(int(n)) for n in random.integers(0, 300, size)],
        }
        parsed = parse_example(serialized(values, packed))
        for name in ("floats", "ints"):
            np.testing.assert_array_equal(parsed[name], values[name])
        assert parsed["bytes"] == values["bytes"]
        assert set(parse_example(serialized(values), {"ints"})) == {"ints"}


def test_a_sequence_example_comes_out_joined_along_time():
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    steps = [np.array([1, 2], "<f4"), np.array([3, 4], "<f4")]
    lists = b"".join(field(1, field(2, field(1, step.tobytes()))) for step in steps)
    entry = field(1, field(1, b"x") + field(2, lists))
    context = field(1, field(1, b"id") + field(2, field(3, field(1, b"\x07"))))
    parsed = parse_example(field(1, context) + field(2, entry))
    np.testing.assert_array_equal(parsed["x"], [1, 2, 3, 4])
    np.testing.assert_array_equal(parsed["id"], [7])


def test_what_is_no_example_is_refused():
    for junk in (b"\x0f\x00", b"\x0a\x05ab", b"\xff" * 12):
        with pytest.raises(ValueError, match="not an Example"):
            parse_example(junk)
