"""Frames to chunks and back: pixels, cuts, damage, threads, and what plain zarr makes of them."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
import zarr

from ulna.datasets import zarr_codecs
from ulna.datasets.chunks import DamagedData, build_shard
from ulna.datasets.clip_format import unpack_clip
from ulna.datasets.image_codec import (
    Clip,
    EncodedFrames,
    ImageCodec,
    Jpeg,
    Lossless,
    codec_from_zarr,
    codec_to_zarr,
    decode_frames,
    encode_frames,
    joined,
)
from ulna.datasets.strict_json import decode, encode
from ulna.datasets.video_packets import VideoPackets, packets_to_chunks

LOSSY = [Jpeg(), Jpeg(quality=90, subsampling="444"), Clip(), Clip(codec="hevc"), Clip(codec="av1")]
ALL = [Lossless(), *LOSSY]


@dataclass(frozen=True)
class Holder:
    codec: ImageCodec


def make_frames(count: int, height: int, width: int) -> np.ndarray:
    """A moving pattern of soft colours with sensor noise."""
    y, x, t = np.ogrid[0:height, 0:width, 0:count]
    waves = [np.sin(x / 9 + t / 4), np.cos(y / 7 - t / 5), np.sin((x + y) / 11)]
    frames = np.stack([128 + 60 * wave + 0 * (x + y + t) for wave in waves], -1)
    noise = np.random.default_rng(0).normal(size=frames.shape) * 1.5
    return np.ascontiguousarray((frames + noise).round().astype(np.uint8).transpose(2, 0, 1, 3))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return make_frames(21, 66, 82)


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_frames_survive(codec: ImageCodec, frames: np.ndarray) -> None:
    encoded = EncodedFrames.of(codec, frames)
    decoded = encoded.decode()
    if isinstance(codec, Lossless):
        assert np.array_equal(decoded, frames)
        return
    for channel in range(3):
        assert psnr(frames[..., channel], decoded[..., channel]) > 32
        # No colour shift: the mean stays where it was, to less than a level.
        assert abs(float(decoded[..., channel].mean() - frames[..., channel].mean())) < 0.8


@pytest.mark.parametrize("codec", ALL, ids=str)
@pytest.mark.parametrize("size", [(16, 16), (37, 53), (64, 48)])
def test_any_size(codec: ImageCodec, size: tuple[int, int]) -> None:
    frames = make_frames(codec.frames_per_chunk, *size)
    out = np.empty_like(frames)
    decode_frames(codec, encode_frames(codec, frames), out)
    assert psnr(frames, out) > 30


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_any_part_of_a_chunk_is_the_same_pixels(codec: ImageCodec, frames: np.ndarray) -> None:
    size = codec.frames_per_chunk
    data = memoryview(encode_frames(codec, frames[:size]))
    whole = np.empty((size, *frames.shape[1:]), np.uint8)
    decode_frames(codec, data, whole)
    for first in range(size):
        for count in {1, (size - first + 1) // 2, size - first}:
            part = np.empty((count, *frames.shape[1:]), np.uint8)
            decode_frames(codec, data, part, first)
            assert np.array_equal(part, whole[first : first + count])


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_same_bytes_from_same_frames(codec: ImageCodec, frames: np.ndarray) -> None:
    part = frames[: codec.frames_per_chunk]
    assert encode_frames(codec, part) == encode_frames(codec, part.copy())


def test_threads_get_the_same_pixels(frames: np.ndarray) -> None:
    encoded = [EncodedFrames.of(codec, frames) for codec in ALL] * 6
    alone = [one.decode() for one in encoded[: len(ALL)]] * 6
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(EncodedFrames.decode, encoded), alone, strict=True):
            assert np.array_equal(got, expected)


def colour_error(path: Path, matrix: int, full: bool, said: bool = True) -> int:
    """Largest error of a video of four colours; `said`: it names its matrix and range."""
    colours = np.array([[200, 40, 60], [40, 180, 90], [50, 70, 210], [128, 128, 128]], np.uint8)
    frames = np.tile(colours.repeat(16, 0)[None, None], (4, 64, 1, 1))
    red, green, blue = np.moveaxis(frames[0].astype(float), -1, 0)
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    gain = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    planes = [luma * gain[0] + gain[2]] + [plane[::2, ::2] * gain[1] + 128 for plane in chroma]
    flat = np.concatenate([plane.ravel() for plane in planes]).round().astype(np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 30, options={"crf": "1", "g": "4"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        if said:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full else 1
        for _ in frames:
            picture = av.VideoFrame.from_ndarray(flat.reshape(96, 64), "yuv420p")
            if said:
                picture.colorspace, picture.color_range = matrix, 2 if full else 1
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    chunks = packets_to_chunks(path, 0, 0, 4, 4)
    assert not isinstance(chunks, str)
    decoded = EncodedFrames(Clip(frames=4), 4, 64, 64, tuple(chunks)).decode()
    return int(np.abs(decoded[:, :, 8::16].astype(int) - frames[:, :, 8::16]).max())


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full", [False, True])
def test_colour_is_read_as_the_stream_says(tmp_path: Path, matrix: int, full: bool) -> None:
    assert colour_error(tmp_path / "colour.mp4", matrix, full) <= 3


@pytest.mark.parametrize("before", [(1, False), (5, True)])
def test_a_stream_that_says_nothing_is_not_read_as_the_one_before(
    tmp_path: Path, before: tuple[int, bool]
) -> None:
    colour_error(tmp_path / "before.mp4", *before)
    assert colour_error(tmp_path / "colour.mp4", 5, False, said=False) <= 3


@pytest.mark.parametrize("codec", ALL, ids=str)
def test_cut_and_join_change_no_pixel(codec: ImageCodec, frames: np.ndarray) -> None:
    encoded = EncodedFrames.of(codec, frames)
    decoded = encoded.decode()
    for start, stop in ((0, 16), (16, 21), (0, 3), (16, 17), (0, 21)):
        part = encoded.slice(start, stop)
        assert np.array_equal(part.decode(), decoded[start:stop])
    both = joined([encoded.slice(0, 16), encoded])
    assert np.array_equal(both.decode(), np.concatenate([decoded[:16], decoded]))


def test_lossless_and_jpeg_are_cut_anywhere(frames: np.ndarray) -> None:
    for codec in (Lossless(), Jpeg()):
        encoded = EncodedFrames.of(codec, frames)
        parts = [encoded.slice(0, 5), encoded.slice(5, 19), encoded.slice(19, 21)]
        assert np.array_equal(joined(parts).decode(), encoded.decode())


def test_a_clip_says_when_a_cut_would_cost_quality(frames: np.ndarray) -> None:
    encoded = EncodedFrames.of(Clip(), frames)
    with pytest.raises(ValueError, match="frame 3 is no keyframe.*reencode=True"):
        encoded.slice(3, 9)
    again = encoded.slice(3, 9, reencode=True)
    assert psnr(again.decode(), frames[3:9]) > 33
    with pytest.raises(ValueError, match="frame 8 is no keyframe"):
        joined([encoded.slice(0, 5), encoded])
    assert joined([encoded.slice(0, 5), encoded], reencode=True).steps == 26


def test_a_short_clip_ends_with_its_last_frame_repeated(frames: np.ndarray) -> None:
    data = encode_frames(Clip(), frames[:3])
    out = np.empty((8, *frames.shape[1:]), np.uint8)
    decode_frames(Clip(), data, out)
    assert (out[3:] == out[2]).all() and not (out[2] == out[1]).all()


def test_damage_is_named(frames: np.ndarray) -> None:
    out = np.empty((1, *frames.shape[1:]), np.uint8)
    jpeg = encode_frames(Jpeg(), frames[:1])
    clip = encode_frames(Clip(), frames[:8])
    smaller = np.ascontiguousarray(frames[:1, :64, :64])
    for codec, data in (
        (Jpeg(), jpeg[:100]),
        (Jpeg(), b""),
        (Jpeg(), encode_frames(Jpeg(), smaller)),
        (Clip(), clip[:-1]),
        (Clip(), clip[:7]),
        (Clip(), b"X" + clip[1:]),
        (Clip(), clip[:60] + bytes(len(clip) - 60)),
        (Clip(), encode_frames(Clip(), smaller)),
        (Clip(codec="av1"), clip),
        (Lossless(), jpeg),
    ):
        with pytest.raises(DamagedData):
            decode_frames(codec, data, out)
    decode_frames(Clip(), clip, out)  # The decoder of this thread is still of use.
    assert psnr(out[0], frames[0]) > 33


def test_refusals(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quality 101"):
        Jpeg(quality=101)
    with pytest.raises(ValueError, match="crf 60 for h264; use 0 to 51"):
        Clip(crf=60)
    with pytest.raises(ValueError, match="preset 'fastest' for h264; use one of ultrafast"):
        Clip(preset="fastest")
    with pytest.raises(ValueError, match="give 1 to 8"):
        encode_frames(Clip(), frames[:9])
    with pytest.raises(ValueError, match="1 chunks for 21 steps.*makes 3"):
        EncodedFrames(Clip(), 21, 66, 82, (b"",))
    with pytest.raises(ValueError, match="unknown image codec"):
        codec_from_zarr([{"name": "jpeg2"}])
    with pytest.raises(ValueError, match="expected"):
        codec_from_zarr([{"name": "bytes"}, {"name": "zstd"}, {"name": "crc32c"}])


@pytest.mark.parametrize("codec", [*ALL, Clip(codec="av1", frames=2, crf=30, preset="9")], ids=str)
def test_json_and_zarr_metadata_give_the_codec_back(codec: ImageCodec) -> None:
    assert codec_from_zarr(json.loads(json.dumps(codec_to_zarr(codec)))) == codec
    written = json.loads(json.dumps(encode(Holder(codec))))
    assert decode(Holder, written) == Holder(codec)


# ---- existing video files


def write_video(path: Path, frames: np.ndarray, encoder: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, 30, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))


QUIET = "log-level=none:open-gop=0"
VIDEOS = {
    "lerobot": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1"}, 2),
    "h264": ("libx264", {"g": "2", "crf": "20"}, 2),
    "h264 with B-frames": ("libx264", {"g": "8", "bf": "3", "sc_threshold": "0"}, 8),
    "hevc with B-frames": ("libx265", {"g": "8", "x265-params": f"{QUIET}:scenecut=0"}, 8),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_packets_of_a_video_are_kept(name: str, tmp_path: Path) -> None:
    encoder, options, gop = VIDEOS[name]
    write_video(tmp_path / "video.mp4", make_frames(30, 64, 80), encoder, options)
    file = av.open(str(tmp_path / "video.mp4"))
    packets = {bytes(packet)[-7:] for packet in file.demux(video=0) if packet.size}
    file.seek(0)
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    file.close()
    with VideoPackets(tmp_path / "video.mp4") as video:
        assert (video.problem, video.frames, video.height, video.width) == ("", 30, 64, 80)
        for first, count, per_chunk in ((0, 30, 8), (8, 19, 8), (16, 3, 8), (8, 22, 16)):
            clips = video.clips(first, count, per_chunk)
            assert not isinstance(clips, str)
            ends = {bytes(packet.data)[-7:] for clip in clips for packet in unpack_clip(clip)[0]}
            assert ends <= packets
            encoded = EncodedFrames(Clip(video.codec, per_chunk), count, 64, 80, tuple(clips))
            assert np.array_equal(encoded.decode(), shown[first : first + count])
            one = np.empty((1, 64, 80, 3), np.uint8)
            decode_frames(encoded.codec, encoded.chunks[0], one, min(count, per_chunk) - 1)
            assert np.array_equal(one[0], encoded.decode()[min(count, per_chunk) - 1])
        assert video.clips(3, 8, 8) == "frame 3 is no keyframe, so no clip can begin there"
        assert video.clips(25, 8, 8) == "frames 25 to 33 of a video of 30"
        if gop == 8:
            assert video.clips(8, 8, 2) == "frame 10 is no keyframe, so no clip can begin there"


def test_open_groups_and_other_codecs_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    frames = make_frames(24, 64, 80)
    parameters = "open-gop=1:bframes=3:keyint=8:min-keyint=8:scenecut=0"
    write_video(path, frames, "libx264", {"x264-params": parameters})
    assert packets_to_chunks(path, 0, 0, 8, 8) == "its groups of pictures are open"
    write_video(path, frames, "mpeg4", {})
    reason = packets_to_chunks(path, 0, 0, 8, 8)
    assert reason == "the codec is mpeg4; clips are h264, hevc or av1"


# ---- plain zarr


PIPELINES = ("BatchedCodecPipeline", "FusedCodecPipeline")


def write_array(folder: Path, encoded: EncodedFrames) -> Path:
    """One shard of 32 frames, put together by hand; the file of the shard."""
    size, shape = encoded.codec.frames_per_chunk, [encoded.height, encoded.width, 3]
    sharding = {
        "chunk_shape": [size, *shape],
        "codecs": codec_to_zarr(encoded.codec),
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [encoded.steps, *shape],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [32, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
    }
    (folder / "zarr.json").write_text(json.dumps(metadata))
    shard = folder / "c.0.0.0.0"
    shard.write_bytes(build_shard(encoded.chunks, 32 // size))
    return shard


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("codec", [Lossless(), Jpeg(), Clip(), Clip(codec="av1")], ids=str)
def test_plain_zarr_reads_it(
    codec: ImageCodec, pipeline: str, frames: np.ndarray, tmp_path: Path
) -> None:
    zarr_codecs.register()
    zarr_codecs.register()
    encoded = EncodedFrames.of(codec, frames)
    decoded = encoded.decode()
    shard = write_array(tmp_path, encoded)
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        array = zarr.open_array(tmp_path, mode="r")
        assert np.array_equal(array[:], decoded)
        assert np.array_equal(array[9], decoded[9])
        assert np.array_equal(array[3:18], decoded[3:18])
        written = json.loads(json.dumps(array.metadata.to_dict(), default=str))
        assert written["codecs"][0]["configuration"]["codecs"] == codec_to_zarr(codec)
        data = bytearray(shard.read_bytes())
        data[len(encoded.chunks[0]) // 2] ^= 4
        shard.write_bytes(data)
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_array(tmp_path, mode="r")[0]


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("codec", [Jpeg(), Clip()], ids=str)
def test_plain_zarr_writes_it(
    codec: ImageCodec, pipeline: str, frames: np.ndarray, tmp_path: Path
) -> None:
    zarr_codecs.register()
    encoded = EncodedFrames.of(codec, frames)
    shard = write_array(tmp_path, encoded)
    shard.unlink()
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        array = zarr.open_array(tmp_path, mode="a")
        array[:] = frames
        size = codec.frames_per_chunk
        # Zarr fills the last chunk up before it encodes it.
        whole = slice(0, len(frames) // size * size)
        assert np.array_equal(array[whole], encoded.decode()[whole])


def test_the_jpeg_of_zarr_is_a_plain_jpeg(frames: np.ndarray) -> None:
    reshape, jpeg, checksum = codec_to_zarr(Jpeg(quality=80, subsampling="444"))
    assert (reshape["name"], checksum) == ("reshape", {"name": "crc32c"})
    assert jpeg["configuration"] == {
        "quality": 80,
        "encoded_color_space": "ycbcr",
        "subsampling": [[1, 1], [1, 1], [1, 1]],
    }
    data = encode_frames(Jpeg(quality=80, subsampling="444"), frames[:1])
    assert simplejpeg.decode_jpeg_header(data)[:2] == (66, 82)
    assert simplejpeg.decode_jpeg_header(data)[3] == "444"


def test_reshape_refuses_what_would_transpose() -> None:
    codec = zarr_codecs.ReshapeCodec.from_dict
    good = codec({"name": "reshape", "configuration": {"shape": [[0, 1], 2, -1]}})
    assert good._output_shape((2, 3, 8)) == (6, 2, 4)
    for shape in ([[1], [0]], [[0], [0, 1]], [4, [1]], [[5]], [-1, -1]):
        bad = codec({"name": "reshape", "configuration": {"shape": shape}})
        with pytest.raises(ValueError, match="does not fit"):
            bad._output_shape((2, 3))
