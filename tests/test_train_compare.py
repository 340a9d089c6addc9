"""Comparing two results files: what is a pair, what is refused, and what is said."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_train_report import FILM, Page

from ulna.envs.comparison import PairedTable, mcnemar, tango
from ulna.train import report_films
from ulna.train.compare import compare, print_comparison
from ulna.train.compare_words import p_words, percent, points
from ulna.train.report_actions import write_actions
from ulna.train.report_comparison import build_comparison_page
from ulna.train.report_evaluation import build_evaluation_page

COLORS = ("red", "green", "blue")


def episode(seed: int, success: bool, **more: Any) -> dict[str, Any]:
    color = COLORS[seed % 3]
    words = f"pick up the {color} cube"
    return {
        "kind": "named", "task": "pick_named", "seed": seed, "instruction": words, "said": words,
        "success": success, "steps": 40 + seed if success else 100, "error": "", "video": None,
        "outcome": color if success else "none", "mode": "synchronous", "delay": "0",
        "perturbation": "", "actions": None,
    } | more  # fmt: skip


def save(folder: Path, episodes: list[dict[str, Any]], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    named = [e["success"] for e in episodes if e["kind"] == "named"]
    results = {
        "task": "pick_named", "seed": 3, "episodes": episodes, "language_swap": None,
        "success": {"rate": float(np.mean(named)), "low": 0.1, "high": 0.9, "episodes": len(named)},
        "policy": {"sha256": folder.name * 8}, "versions": {"mujoco": "3.9.0"},
    } | more  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """50 scenes: both solve 30, only A 2, only B 12, neither 6."""
    a = [True] * 30 + [True] * 2 + [False] * 12 + [False] * 6
    b = [True] * 30 + [False] * 2 + [True] * 12 + [False] * 6
    return (
        save(tmp_path / "old", [episode(s, ok) for s, ok in enumerate(a)]),
        save(tmp_path / "new", [episode(s, ok) for s, ok in enumerate(b)]),
    )


def test_the_numbers_are_those_of_the_statistics(two):
    found = compare(*two)
    row, table = found["overall"], PairedTable(30, 2, 12, 6)
    assert row["table"] == {"both": 30, "only_a": 2, "only_b": 12, "neither": 6}
    assert row["p"] == mcnemar(table) and row["verdict"] == "b"
    assert row["difference"]["low"] == tango(table).low
    assert row["rate_a"]["rate"] == 0.64 and row["rate_b"]["rate"] == 0.84
    assert row["odds_b_over_a"]["value"] == 6
    assert row["p"] < row["p_anytime"] < 0.2
    assert found["steps_where_both_succeed"] == {"scenes": 30, "a": 54.5, "b": 54.5}
    assert (found["a"]["name"], found["b"]["name"]) == ("old", "new")
    assert [scene["seed"] for scene in found["differing"]] == list(range(30, 44))
    json.dumps(found, allow_nan=False)


def test_it_says_who_is_better(two):
    words = compare(*two)["words"][0]
    assert words.startswith("B is better: A solved 32 and B 42 of 50 scenes (64 % and 84 %).")
    assert "14 scenes came out differently and B won 12 of them" in words
    assert "p = 0.013" in words and "+20 points (95 %: +6.1 to +34.5)" in words
    backward = compare(two[1], two[0])["words"][0]
    assert backward.startswith("A is better") and "-20 points (95 %: -34.5 to -6.1)" in backward


def test_it_says_what_would_settle_it(tmp_path):
    a = save(tmp_path / "a", [episode(s, s % 5 != 0) for s in range(50)])
    b = save(tmp_path / "b", [episode(s, s % 5 != 0 or s < 11) for s in range(50)])
    found = compare(a, b)
    words = found["words"][0]
    assert words.startswith("A and B cannot be told apart: A solved 40 and B 43 of 50 scenes")
    assert "3 of the 50 scenes came out differently, 3 for B and 0 for A" in words
    needed = found["overall"]["scenes_needed"]
    assert needed > 50 and f"about {needed - 50} more scenes would be needed" in words
    shown = re.search(r"show a difference of ([\d.]+) points or more in 4 of 5", words)
    assert shown and 10 < float(shown[1]) < 25
    same = compare(a, a / "results.json")
    assert "No scene came out differently." in same["words"][0]
    assert same["overall"]["p"] == 1 and same["overall"]["scenes_needed"] is None
    assert "A and B are the same weights." in same["notes"]


def test_a_few_scenes_are_said_to_be_too_few(tmp_path):
    a, b = (save(tmp_path / name, [episode(s, True) for s in range(3)]) for name in "ab")
    assert "3 scenes are too few to show any difference reliably." in compare(a, b)["words"][0]


def test_looking_after_every_scene_would_have_saved_some(two, tmp_path):
    a = save(tmp_path / "a", [episode(s, False) for s in range(50)])
    b = save(tmp_path / "b", [episode(s, True) for s in range(50)])
    found = compare(a, b)["sequential"]
    assert found["verdict"] == "b" and found["decided_after"] < 15
    assert len(found["lead"]) == 50 and len(found["frontier"]) == found["decided_after"]
    assert any("would have stopped after" in words for words in compare(a, b)["words"])
    never = compare(two[0], two[0])["sequential"]
    assert never["decided_after"] is None and len(never["frontier"]) == 50


def test_conditions_are_compared_apart_and_corrected(tmp_path):
    def rows(better: bool) -> list[dict[str, Any]]:
        named = [episode(s, True) for s in range(40)]
        dark = [episode(s, better or s >= 12, perturbation="lighting:strong") for s in range(40)]
        told = [episode(s, better or s >= 6, kind="blank", said="") for s in range(40)]
        stack = [episode(s, better or s >= 5, task="stack_named") for s in range(40)]
        return [*named, *dark, *told, *stack]

    found = compare(save(tmp_path / "a", rows(False)), save(tmp_path / "b", rows(True)))
    assert found["condition"] == "as the scene asks" and found["overall"]["scenes"] == 80
    assert found["conditions"].keys() == {"lighting, strong", "nothing said"}
    assert found["conditions"]["nothing said"]["p"] == pytest.approx(2 / 2**6)
    assert found["conditions"]["nothing said"]["p_holm"] == pytest.approx(2 / 2**6)
    dark = found["conditions"]["lighting, strong"]
    assert dark["p_holm"] == pytest.approx(2 * 2 / 2**12) and dark["verdict"] == "b"
    assert found["tasks"]["stack_named"]["verdict"] is None  # 0.0625, and twice that corrected
    assert found["tasks"]["stack_named"]["p_holm"] == pytest.approx(2 * 2 / 2**5)
    assert found["macro_difference"]["value"] == pytest.approx((0 + 5 / 40) / 2)
    assert any(w.startswith("Lighting, strong: B is better (40 scenes") for w in found["words"])
    console = Console(record=True, width=100)
    print_comparison(found, console)
    text = console.export_text()
    assert "lighting, strong" in text and "0 : 12" in text and "B is better" in text


def test_only_the_same_scenes_are_compared(two, tmp_path):
    more = save(tmp_path / "more", [episode(s, True) for s in range(40, 90)])
    found = compare(two[0], more)
    assert found["overall"]["scenes"] == 10 and found["unmatched"] == {"a": 40, "b": 40}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 999}, r"seed: A has 0, 1, 2 and 47 more, B has 999"),
        ({"task": "lift"}, "task: A has 'pick_named', B has 'lift'"),
        ({"mode": "hold"}, "mode: A has 'synchronous', B has 'hold'"),
        ({"delay": "4"}, "delay: A has '0', B has '4'"),
        ({"perturbation": "camera:mild"}, "perturbation: A has '', B has 'camera:mild'"),
        ({"said": "grab it"}, "said: A has 'pick up the blue cube', 'pick"),
    ],
)
def test_other_settings_are_refused_and_named(two, tmp_path, change, said):
    other = save(tmp_path / "other", [episode(7, True) | change])
    with pytest.raises(ValueError, match=f"no scene in common. {said}"):
        compare(two[0], other)


def test_two_modes_are_compared_across_their_difference(two, tmp_path):
    late = save(tmp_path / "late", [episode(s, s < 20, mode="hold", delay="4") for s in range(50)])
    with pytest.raises(ValueError, match="name what may differ with --across"):
        compare(two[0], late)
    found = compare(two[0], late, across=("mode", "delay"))
    assert found["overall"]["scenes"] == 50 and found["overall"]["verdict"] == "a"
    assert "Compared across mode: A 'synchronous', B 'hold'." in found["notes"]
    with pytest.raises(ValueError, match="unknown condition to compare across 'moed'"):
        compare(two[0], late, across=("moed",))
    both = save(tmp_path / "both", [episode(0, True), episode(0, True, mode="hold", delay="4")])
    with pytest.raises(ValueError, match="B holds two episodes of one scene"):
        compare(two[0], both, across=("mode", "delay"))


def test_refusals(two, tmp_path):
    other = save(tmp_path / "x", [episode(0, True)], versions={"mujoco": "3.10.0"})
    with pytest.raises(ValueError, match=r"different simulators \(mujoco: A 3.9.0, B 3.10.0\)"):
        compare(two[0], other)
    with pytest.raises(FileNotFoundError, match="no results in .*nowhere; expected"):
        compare(two[0], tmp_path / "nowhere")
    (tmp_path / "results.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        compare(two[0], tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no episodes"):
        compare(two[0], tmp_path)
    doubled = save(tmp_path / "twice", [episode(1, True), episode(1, False)])
    with pytest.raises(ValueError, match="B holds two episodes of one scene and condition"):
        compare(two[0], doubled)


def test_words_for_numbers():
    assert [points(v, sign=True) for v in (0.1, -0.034, 0.0, 0.01)] == [
        "+10 points", "-3.4 points", "0 points", "+1 point",
    ]  # fmt: skip
    assert [percent(v) for v in (0.5, 0.867)] == ["50 %", "86.7 %"]
    assert [p_words(p) for p in (0.0213, 0.5, 1.0, 0.00051, 1e-9)] == [
        "0.021", "0.5", "1", "0.0005", "below 0.0001",
    ]  # fmt: skip


def full(folder: Path, lift: float) -> Path:
    """An evaluation with everything a page can show, films and actions of some failures."""
    rng = np.random.default_rng(5)
    luck = rng.random(24)

    def solved(seed: int, rate: float) -> bool:
        return bool(luck[seed] < rate + lift)

    rows = [
        episode(s, solved(s, p), task=task)
        for task, p in (("pick_named", 0.8), ("stack_named", 0.5))
        for s in range(24)
    ]
    for s in range(24):
        rows += [
            episode(s, solved(s, 0.7), kind="paraphrase", said=f"grab the {COLORS[s % 3]} one")
        ]
        rows += [episode(s, solved(s, 0.3), kind="blank", said="")]
        rows += [episode(s, solved(s, 0.4), perturbation="camera:strong")]
        rows += [
            episode(s, solved(s, 0.8 - 0.06 * d), mode=mode, delay=str(d))
            for mode in ("hold", "rtc:guided")
            for d in (0, 2, 8)
        ]
    (folder / "videos").mkdir(parents=True)
    for row in rows[:24]:
        if not row["success"]:
            name = f"videos/{row['seed']}"
            (folder / f"{name}.mp4").write_bytes(FILM)
            write_actions(folder / f"{name}.json", rng.normal(size=(30, 2)), ["dx", "grip"], 20.0)
            row |= {"video": f"{name}.mp4", "actions": f"{name}.json"}
    table = {"pick up the red cube": {"red": 7, "none": 1}}
    return save(folder, rows, confusion={"named": table, "blank": {"": {"blue": 4}}})


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open, f"never closed: {page.open}"
    page.text = " ".join(page.text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "poster", "action"):
            assert value is not None and not value.startswith(("http:", "https:", "//"))
    return page


def test_the_page_of_an_evaluation(tmp_path):
    folder = full(tmp_path / "run", 0.0)
    page = read(build_evaluation_page(folder))
    for said in (
        "Task by task", "stack_named", "Does it listen?", "the same, in other words",
        "What does it withstand?", "camera, strong", "What does a late answer cost?",
        "rtc:guided", "delay in control ticks", "Made with", "runrunrun",
    ):  # fmt: skip
        assert said in page.text, said
    results = json.loads((folder / "results.json").read_text())
    rows = [e for e in results["episodes"] if e["task"] == "pick_named"]
    plain = [e for e in rows if e["kind"] == "named" and not e["perturbation"]]
    plain = [e for e in plain if e["mode"] == "synchronous"]
    solved = sum(e["success"] for e in plain)
    assert f"pick_named {solved} of 24" in page.text
    # Against the same scenes of the same task, not against the mean of two tasks.
    assert f"undisturbed {solved} of 24" in page.text
    failed = [e for e in plain if not e["success"]]
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == len(failed) > 0 and page.text.count("grip") == len(failed)
    for e in failed:
        assert f"seed {e['seed']} " in page.text


def test_the_page_of_a_comparison(tmp_path):
    a, b = full(tmp_path / "a", 0.0), full(tmp_path / "b", 0.25)
    found = compare(a, b)
    page = read(build_comparison_page(found, a, b, tmp_path / "page" / "compare.html"))
    assert found["words"][0] in page.text and "B is better" in page.text
    table = found["overall"]["table"]
    assert f"{table['only_a']} : {table['only_b']}" in page.text
    assert "When was it clear?" in page.text and "Where they part" in page.text
    sources = [value for name, value in page.attributes if name == "src"]
    parted = [s for s in found["differing"] if s["a"]["video"] or s["b"]["video"]]
    assert len(parted) == len(sources) > 0
    for scene in found["differing"]:
        if scene["condition"] == found["condition"]:
            assert f"{scene['task']}, seed {scene['seed']}" in page.text


def test_films_beyond_the_size_of_a_page_are_linked_from_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(report_films, "FILMS_BYTES", 0)
    a, b = full(tmp_path / "a", 0.0), full(tmp_path / "b", 0.25)
    page = read(build_comparison_page(compare(a, b), a, b, tmp_path / "page" / "c.html"))
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources and all(s and s.startswith("../a/videos/") for s in sources)
    assert all((tmp_path / "page" / str(s)).is_file() for s in sources)


def test_results_from_elsewhere_cannot_show_files_of_this_machine(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(FILM)
    for name in ("video", "actions"):
        folder = save(tmp_path / "run", [episode(0, False, **{name: "../secret.mp4"})])
        with pytest.raises(ValueError, match="lies outside of their folder"):
            build_evaluation_page(folder)


def test_what_is_not_there_is_not_shown(tmp_path):
    page = read(build_evaluation_page(save(tmp_path / "run", [episode(0, True)])))
    for title in ("Task by task", "What does it withstand?", "What does a late answer cost?"):
        assert title not in page.text
    old = {k: v for k, v in episode(0, False, video="a.mp4").items()
           if k not in ("said", "mode", "delay", "perturbation", "actions")}  # fmt: skip
    (tmp_path / "run" / "a.mp4").write_bytes(FILM)
    page = read(build_evaluation_page(save(tmp_path / "run", [old])))
    assert "the plots of actions is missing" in page.text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.timeout(300)  # seconds on a quiet machine, a minute on a crowded one
def test_in_a_browser_nothing_is_wider_than_a_phone(tmp_path):
    a, b = full(tmp_path / "a", 0.0), full(tmp_path / "b", 0.25)
    build_evaluation_page(a)
    build_comparison_page(compare(a, b), a, b, tmp_path / "compare.html")
    pages = ("a/report.html", "compare.html")
    frames = "".join(
        f'<iframe src="{page}" width="{width}" height="800"></iframe>'
        for page in pages
        for width in (400, 1280)
    )
    # The page forbids itself scripts, so that one around it has to measure.
    measure = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(f => "
        "f.contentDocument.documentElement.scrollWidth).join(' '); }"
    )
    (tmp_path / "frame.html").write_text(
        f"<html><head></head><body>{frames}<script>{measure}</script></body></html>"
    )
    assert CHROMIUM is not None
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-web-security",
         "--allow-file-access-from-files", "--no-first-run", "--disable-background-networking",
         "--disable-extensions", "--disable-component-update", "--mute-audio",
          f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True, text=True, timeout=280,
    ).stdout  # fmt: skip
    title = re.search(r"<title>([\d ]+)</title>", shown)
    assert title, shown[:500]
    narrow, wide, narrow_b, wide_b = map(int, title[1].split())
    assert max(narrow, narrow_b) <= 400 and max(wide, wide_b) <= 1280
