"""The report page: whole, truthful, closed to scripts and the network."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ulna.train.report import build_report
from ulna.train.report_films import Films
from ulna.train.report_plots import (
    Interval,
    Mark,
    histogram,
    interval_strips,
    log_ticks,
    loss_curves,
    smoothed,
)
from ulna.train.report_text import duration, number, percent

VOID = {"meta", "br", "line", "circle", "rect", "polyline", "img", "input", "link"}
FILM = b"\x00\x00\x00\x18ftypmp42 no real film, but real bytes"


class Page(HTMLParser):
    """Checks that every tag is closed in its turn; keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def episode(seed: int, success: bool, **more: Any) -> dict[str, Any]:
    return {
        "kind": "named", "task": "pick_named", "seed": seed, "steps": 77, "error": "",
        "instruction": "pick up the red cube", "success": success,
        "outcome": "red" if success else "blue", "video": f"videos/{seed}.mp4",
    } | more  # fmt: skip


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """What a demo leaves behind, with numbers that occur once."""
    for folder in ("policy", "evaluate/videos", "robot/videos"):
        (tmp_path / folder).mkdir(parents=True)
    success = {"rate": 0.94, "low": 0.8378, "high": 0.9794, "episodes": 50, "successes": 47}
    swap = {"rate": 0.86, "low": 0.7381, "high": 0.9305, "episodes": 50, "successes": 43}
    loop = {
        "p50_ms": 0.1234, "p99_ms": 1.567, "max_ms": 13.89, "late_ticks": 3, "ticks": 431,
        "control_hz": 20.0,
    }  # fmt: skip
    lateness = [0.1] * 400 + [0.2] * 20 + [1.6] * 10 + [13.89]
    episodes = [episode(501, True), episode(502, False), episode(503, False, kind="swapped")]
    for seed in (501, 502, 503):
        (tmp_path / f"evaluate/videos/{seed}.mp4").write_bytes(FILM)
    write(tmp_path, "report.json", {
        "task": "pick_named", "seed": 4711, "wall_s": 561.2,
        "stages": {"collect": 142.0, "train": 318.4}, "success": success, "language_swap": swap,
        "loop": loop, "late_actions": 19, "gate": {"velocity": 23},
        "versions": {"torch": "2.11.0+test"}, "machine": {"cpu": "Test CPU", "cores": 2},
        "policy": {"parameters": 1351234}, "data": {"episodes": 396, "steps": 16866},
        "commands": {"collect": "ulna collect pick_named --episodes 396"},
    })  # fmt: skip
    write(tmp_path, "evaluate/results.json", {
        "success": success, "language_swap": swap, "episodes": episodes,
        "confusion": {"named": {"pick up the red cube": {"red": 47, "blue": 3}}},
    })  # fmt: skip
    write(tmp_path, "robot/results.json", {
        "loop": loop, "inference": {"p50_ms": 38.21}, "late_actions": 19,
        "gate": {"velocity": 23, "position": 0}, "realtime": {"scheduler": "fifo:17"},
        "lateness_ms": lateness, "episodes": [episode(901, True, seconds=4.3, video=None)],
    })  # fmt: skip
    lines = [{"step": s, "loss": 2 / s, "samples_per_s": 1310.0} for s in range(10, 210, 10)]
    lines[-1]["held_out_loss"] = 0.04321
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "policy/metrics.jsonl").write_text(text)
    return tmp_path


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def change(folder: Path, name: str, **changes: Any) -> None:
    write(folder, name, json.loads((folder / name).read_text()) | changes)


def page_of(folder: Path) -> Page:
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert not page.open, f"never closed: {page.open}"
    page.text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    return page


def test_the_page_holds_every_number_of_the_files(demo):
    text = page_of(demo).text
    for said in (
        "94 %", "83.8 %", "97.9 %", "47 of 50", "86 %", "73.8 %", "43 of 50", "9 min 21 s",
        "2 min 22 s", "5 min 18 s", "1,351,234", "396", "16,866", "4711", "0.1234", "1.567",
        "13.89", "431", "38.21", "fifo:17", "0.04321", "1,310", "2.11.0+test", "Test CPU",
        "seed 501", "seed 502", "taken: blue", "4.3 s", "ulna collect pick_named --episodes 396",
    ):  # fmt: skip
        assert said in text, said
    for name, value in (("velocity", "23"), ("late actions (the plan had run out)", "19")):
        assert f"{name} {value} " in " ".join(text.split()) + " ", name
    assert "is missing" not in text.replace("the film is missing: none was recorded", "")


def test_films_of_every_failure_are_inside_the_page(demo):
    page = page_of(demo)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 3
    for source in sources:
        assert source is not None
        assert base64.b64decode(source.removeprefix("data:video/mp4;base64,")) == FILM


def test_beyond_its_size_films_are_linked_and_said_to_be(demo):
    films = Films(demo, most_bytes=len(FILM))
    shown = films.show([episode(501, False), episode(502, False)], "evaluate")
    assert shown.count("data:video/mp4") == 1
    assert 'src="evaluate/videos/502.mp4"' in shown and "Beside the page" in shown


def test_a_film_that_is_gone_is_said_to_be(demo):
    (demo / "evaluate/videos/502.mp4").unlink()
    text = page_of(demo).text
    assert "evaluate/videos/502.mp4 is missing" in text and "seed 502" in text


def test_nothing_in_the_page_runs_or_reaches_out(demo):
    bad = "<script>alert('x')</script>\"><img src=https://example.org/x onerror=alert(1)>"
    named = episode(502, False, instruction=bad, outcome=bad, error=bad)
    change(demo, "evaluate/results.json", episodes=[named], confusion={bad: {bad: 1}})
    change(demo, "robot/results.json", episodes=[named], gate={bad: 1}, realtime={bad: bad})
    change(demo, "report.json", task=bad, versions={bad: bad}, stages={bad: 1.0},
           commands={bad: bad})  # fmt: skip
    page = page_of(demo)
    assert "script" not in page.tags and "img" not in page.tags and "link" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "href", "poster", "action"):
            assert value is not None and not value.startswith(("http:", "https:", "//"))
    assert bad.split("<img")[0] in page.text
    policy = [value for name, value in page.attributes if name == "content" and value]
    assert any("default-src 'none'" in value for value in policy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("robot/results.json", "robot/results.json is missing: the policy has not been run"),
        ("evaluate/results.json", "evaluate/results.json is missing: the policy has not been"),
        ("policy/metrics.jsonl", "policy/metrics.jsonl is missing: the policy has not been"),
        ("report.json", "report.json is missing"),
    ],
)
def test_what_is_missing_is_said(demo, name, said):
    assert said not in page_of(demo).text
    (demo / name).unlink()
    assert said in page_of(demo).text


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    text = page_of(tmp_path).text
    assert text.count("is missing") >= 6


def test_parts_of_results_may_be_missing(demo):
    change(demo, "evaluate/results.json", language_swap=None, confusion={}, episodes=[])
    change(demo, "robot/results.json", lateness_ms=[], gate=None, episodes=[])
    change(demo, "report.json", commands=None, versions={}, stages={})
    text = page_of(demo).text
    for said in (
        "the language test is missing",
        "gate in robot/results.json is missing",
        "lateness_ms in robot/results.json is missing",
        "commands in report.json is missing",
        "versions in report.json is missing",
        "stages in report.json is missing",
    ):
        assert said in text, said


def test_a_gate_that_did_nothing_is_said(demo):
    change(demo, "robot/results.json", gate={"velocity": 0})
    assert "every command passed unchanged" in page_of(demo).text
    change(demo, "robot/results.json", gate={"velocity": 0, "joint_limit": 4})
    text = " ".join(page_of(demo).text.split())
    assert "joint limit 4 Never: velocity." in text and "passed unchanged" not in text


def test_broken_results_are_refused_with_their_name(demo):
    (demo / "robot/results.json").write_text('{"loop": ')
    with pytest.raises(ValueError, match="robot/results.json is not JSON"):
        build_report(demo)
    (demo / "robot/results.json").write_text("[]")
    with pytest.raises(ValueError, match="expected an object"):
        build_report(demo)


def test_a_line_cut_off_by_a_crash_is_left_out_and_a_broken_one_refused(demo):
    metrics = demo / "policy/metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"step": 999, "lo')
    assert "999" not in page_of(demo).text
    metrics.write_text('{"step": \n' + whole)
    with pytest.raises(ValueError, match="line that is not JSON"):
        build_report(demo)


def test_a_failed_build_keeps_the_page_that_was_there(demo):
    before = build_report(demo).read_bytes()
    (demo / "robot/results.json").write_text("{")
    with pytest.raises(ValueError):
        build_report(demo)
    assert (demo / "report.html").read_bytes() == before


@pytest.mark.parametrize("width", [350, 720])
def test_drawings_stay_within_their_frame(width):
    drawings = [
        loss_curves([(0, 5.0), (10, 1.0), (20, float("nan")), (30, 0.1)], [(30, 0.2)], width),
        loss_curves([(10, 1.0)], [], width),
        interval_strips([Interval("all", 1.0, 0.93, 1.0), Interval("none", 0, 0, 0.07)], width),
        histogram([0.0, 0.1, 0.1, 900.0], [Mark("max", 900.0), Mark("none", 0.0)], "ms", width),
        histogram([3.0], [], "ms", width),
    ]
    for content, height in drawings:
        page = Page(f"<svg>{content}</svg>")
        assert not page.open
        for name, value in page.attributes:
            if name in ("x", "x1", "x2", "cx"):
                assert 0 <= float(value or "nan") <= width
            if name in ("y", "y1", "y2", "cy"):
                assert 0 <= float(value or "nan") <= height
            if name in ("width", "height"):
                assert float(value or "nan") >= 0
        assert "nan" not in content


def test_one_late_tick_among_many_is_drawn():
    often = histogram([0.1] * 10_000, [], "ms", 720)[0].count('class="bar"')
    assert histogram([0.1] * 10_000 + [40.0], [], "ms", 720)[0].count('class="bar"') == often + 1


def test_without_anything_to_draw_the_drawing_says_so():
    assert "no finite loss" in loss_curves([(1, float("nan"))], [], 720)[0]
    assert "no tick" in histogram([], [], "ms", 720)[0]


def test_smoothing_keeps_a_steady_fall_where_it_is():
    falling = [(float(step), 0.97**step) for step in range(200)]
    for (_, was), (_, shown) in zip(falling, smoothed(falling), strict=True):
        assert shown == pytest.approx(was)


@pytest.mark.parametrize(("low", "high"), [(0.02, 1.3), (0.3, 0.5), (1e-4, 9.0), (0.9, 1.1)])
def test_axis_ticks_are_round_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert ticks and all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:g}".replace(".", "").strip("0")) <= 2 for tick in ticks)


def test_words_for_numbers():
    assert [number(v) for v in (3, 1351234, 0.30000001, True, None, float("nan"))] == [
        "3", "1,351,234", "0.3", "yes", "not recorded", "nan",
    ]  # fmt: skip
    assert number("<b>") == "&lt;b&gt;"
    assert [percent(v).replace("\N{NO-BREAK SPACE}", " ") for v in (0.92, 0.8378, 1)] == [
        "92 %",
        "83.8 %",
        "100 %",
    ]
    assert [duration(v) for v in (4.12, 59.96, 561.2, 7322)] == [
        "4.1 s", "60.0 s", "9 min 21 s", "2 h 2 min",
    ]  # fmt: skip
