"""The loader benchmark: what it reads, counts and concludes. No competitor runs here."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LENGTHS = (22, 20, 26)


@pytest.fixture
def script(monkeypatch):
    """Imports a script of the benchmarks folder by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def data(script, tmp_path):
    """Episodes as `make_raw` leaves them; every frame differs from all others."""
    loader_data = script("loader_data")
    steps, size = sum(LENGTHS), loader_data.SIZE
    (tmp_path / "raw").mkdir()
    slope = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None, None] // 3, (size, size, 3))
    for number, camera in enumerate(loader_data.CAMERAS):
        with (tmp_path / "raw" / f"{camera}.u8").open("wb") as file:
            for step in range(steps):
                file.write((slope + np.uint8(step + 90 * number)).tobytes())
    for stream, width in (("state", 11), ("action", 7)):
        rows = np.arange(steps * width, dtype=np.float32) / (steps * width)
        rows.tofile(tmp_path / "raw" / f"{stream}.f32")
    # Sorted by task and seed, as a store does, these episodes stand the other way round.
    raw = loader_data.Raw("", LENGTHS, (5, 3, 1), ("pick", "lift", "lift"), ("do it",) * 3, 11, 7)
    loader_data.write_note(tmp_path / "raw.json", vars(raw))
    return tmp_path


def test_formats_hold_the_raw_frames(script, data):
    formats, measure = script("loader_formats"), script("loader_measure")
    for name in ("ulna_jpeg95", "ulna_lossless", "jpeg95_blobs"):
        assert formats.written(data, name) is None
        assert formats.write_format(data, name).image_bytes_per_frame > 100
        assert formats.written(data, name) is not None
    psnr = {}
    for loader in ("ulna", "ulna_lossless", "ulna_ram", "jpeg_bound", "raw_take"):
        found = measure.measure(measure.Task(loader, str(data), "s2", 2, 0.05, psnr=True))
        assert found.samples_per_s > 0 and found.cpu_ms > 0 and found.memory_mib > 10
        psnr[loader] = found.psnr_db
    # Equal to the last digit: the same JPEGs, and the frames of the same steps.
    assert psnr["ulna"] == psnr["jpeg_bound"] == psnr["ulna_ram"] > 35
    assert psnr["ulna_lossless"] is None and psnr["raw_take"] is None


def test_the_overhead_is_measured_without_decoding(script, data, monkeypatch):
    formats, measure = script("loader_formats"), script("loader_measure")
    formats.write_format(data, "ulna_jpeg95")
    from ulna.datasets import image_codec

    def decode_jpeg(*given, **named):
        raise AssertionError("decoded")

    monkeypatch.setattr(image_codec.simplejpeg, "decode_jpeg", decode_jpeg)
    with pytest.raises(AssertionError, match="decoded"):
        measure.measure(measure.Task("ulna", str(data), "s1", 0, 0.05, psnr=False))
    assert measure.measure(measure.Task("ulna_overhead", str(data), "s1", 0, 0.05, False)).samples


def test_unknown_loader_and_other_data_are_refused(script, data):
    measure, loader_data = script("loader_measure"), script("loader_data")
    with pytest.raises(ValueError, match="unknown loader 'ulma'; known: .*ulna_ram"):
        measure.measure(measure.Task("ulma", str(data), "s1", 0, 0.1, psnr=False))
    with pytest.raises(ValueError, match="holds 3 episodes, 60 were asked for"):
        loader_data.make_raw(data, 60)


def test_cpu_time_of_children_is_counted(script):
    measure = script("loader_measure")
    busy = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(busy, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        # The child's own time cannot be seen in this process's: only its entry in /proc tells.
        own, before = time.process_time(), measure.cpu_s()
        time.sleep(0.5)
        spent = measure.cpu_s() - before - (time.process_time() - own)
        child.kill()
    assert spent > 0.05


def rounds_of(script):
    """Two rounds with numbers chosen by hand; the machine was half as fast in the second."""
    Measured = script("loader_measure").Measured
    cpu = {
        "ulna": 0.4,
        "ulna_jpeg90": 0.35,
        "ulna_jpeg80": 0.3,
        "ulna_ram": 0.05,
        "lerobot_w0": 8.0,
        "lerobot_w2": 7.0,
        "lerobot_ideal": 1.4,
        "jpeg_bound": 0.38,
    }
    psnr = {"ulna_jpeg80": 38.5, "lerobot_ideal": 39.0}
    return [
        {
            (name, sample): Measured(
                1000 / (ms * slow), ms * slow, 100.0, 640, psnr.get(name, 40.0)
            )
            for name, ms in cpu.items()
            for sample in ("s1", "s2")
        }
        for slow in (1, 2)
    ]


def test_ratios_are_of_the_same_round_and_of_the_better_competitor(script):
    ratios = script("loader").ratios(rounds_of(script))
    assert ratios["lerobot_video_s1_w0"] == pytest.approx(20)
    assert ratios["lerobot_video_s1"] == pytest.approx(17.5)
    assert ratios["lerobot_video_s1_wall"] == pytest.approx(17.5)
    assert ratios["lerobot_ideal_s1"] == pytest.approx(4)  # q90: not below LeRobot's 39 dB
    assert ratios["decode_bound"] == pytest.approx(0.95)
    assert ratios["decode_bound_wall"] == pytest.approx(0.95)


def test_what_was_not_run_is_no_number(script, data, tmp_path, capsys, monkeypatch):
    loader, record = script("loader"), script("record")
    monkeypatch.setattr(record, "machine", dict)
    monkeypatch.setattr(record, "commit", str)
    benchmark = record.Benchmark("loader", quick=False, results=tmp_path / "results")
    formats = script("loader_formats")
    for name in ("ulna_jpeg95", "ulna_jpeg90", "ulna_jpeg80", "lerobot", "jpeg95_blobs"):
        script("loader_data").write_note(data / f"{name}.json", {"image_bytes_per_frame": 1234.0})
    assert formats.written(data, "lerobot").image_bytes_per_frame == 1234.0
    loader.summarize(benchmark, rounds_of(script), data)
    found = json.loads((tmp_path / "results" / "loader.json").read_text())
    assert found["ratios"]["diffusion_policy_w0"] is None and found["ratios"]["cache_ram"] is None
    assert found["figures"]["diffusion_policy"] == "not run"
    assert "diffusion_policy_w0_s1" not in found["figures"]
    assert found["figures"]["ulna_s1"]["bytes_per_frame"] == 1234.0
    assert "not run" in capsys.readouterr().out


def test_competitors_get_their_libraries(script, tmp_path):
    environment = script("competitor_environment").environment
    folder = Path(environment("lerobot_ideal", tmp_path, None)["LD_LIBRARY_PATH"])
    assert (folder / "libavcodec.so.61").resolve().name.startswith("libavcodec-")
    with pytest.raises(ValueError, match="is no checkout of real-stanford/diffusion_policy"):
        environment("diffusion_policy", tmp_path, tmp_path)
    assert "LD_LIBRARY_PATH" not in environment("ulna", tmp_path, None) or folder.is_dir()


def test_recording_compares_with_ulna_in_the_same_round(script, tmp_path, monkeypatch):
    recording, record = script("recording"), script("record")
    monkeypatch.setattr(record, "machine", dict)
    monkeypatch.setattr(record, "commit", str)
    Recorded = script("recording_writers").Recorded
    rounds = [
        {
            "ulna": Recorded(1000 / slow, slow, 12000.0),
            "lerobot": Recorded(20 / slow, 30 * slow, 1300.0),
        }
        for slow in (1.0, 3.0)
    ]
    benchmark = record.Benchmark("recording", quick=True, results=tmp_path)
    found = recording.summarize(benchmark, rounds, None)
    assert found["ratios"]["lerobot_recording"] == pytest.approx(50)
    assert found["ratios"]["lerobot_recording_cpu"] == pytest.approx(30)
    assert found["ratios"]["diffusion_policy_recording"] is None
    assert found["figures"]["live"] == "not run" and not list(tmp_path.iterdir())
