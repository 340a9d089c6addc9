"""The whole path on the smallest size: collect, train, evaluate, run, report; stop, and go on."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ulna.datasets.store import Store
from ulna.deploy_robot.run import run as run_on_robot
from ulna.train import demo
from ulna.train.demo import MINIMAL, run_demo


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that crashed when the policy was to be judged, and then went on to its end."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "evaluate", crash)
        with pytest.raises(RuntimeError, match="made-up crash"):
            run_demo(out, 3, MINIMAL, run_on_robot)
    assert json.loads((out / "progress.json").read_text())["finished"] == ["collect", "train"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "collect", crash)  # what is done is not done again
        patch.setattr(demo, "train", crash)
        run_demo(out, 3, MINIMAL, run_on_robot)
    return out


def crash(*arguments: object, **named: object) -> None:
    raise RuntimeError("made-up crash")


def test_every_figure_of_the_report_is_there(finished: Path):
    report = json.loads((finished / "report.json").read_text())
    assert {"rate", "low", "high", "episodes"} <= report["success"].keys()
    assert {"rate", "episodes"} <= report["language_swap"].keys()
    assert {"p50_ms", "p99_ms", "max_ms", "late_ticks"} <= report["loop"].keys()
    assert report["stages"].keys() == {"collect", "train", "evaluate", "run", "report"}
    assert report["wall_s"] == pytest.approx(sum(report["stages"].values()), abs=0.1)
    assert report["seed"] == 3 and "torch" in report["versions"]
    assert report["success"]["episodes"] == report["language_swap"]["episodes"] == MINIMAL.evaluated
    assert report["loop"]["ticks"] > 10
    assert report["commands"]["train"].startswith("ulna train debug --data")


def test_the_page_and_what_it_shows(finished: Path):
    page = (finished / "report.html").read_text()
    assert "data:video/mp4;base64," in page
    results = json.loads((finished / "evaluate" / "results.json").read_text())
    for episode in results["episodes"]:
        assert str(episode["seed"]) in page
        assert episode["success"] or (finished / "evaluate" / episode["video"]).exists()
    kinds = [episode["kind"] for episode in results["episodes"]]
    assert kinds == ["named"] * MINIMAL.evaluated + ["swapped"] * MINIMAL.evaluated
    for named, swapped in zip(
        results["episodes"], results["episodes"][MINIMAL.evaluated :], strict=False
    ):
        assert named["seed"] == swapped["seed"] and named["instruction"] != swapped["instruction"]


def test_the_demonstrations_are_successes_with_the_noise_apart(finished: Path):
    store = Store.open(finished / "store.zarr")
    assert len(store.episodes) == MINIMAL.episodes
    assert all(record.success for record in store.episodes)
    for stream in ("action", "action_sent", "simulator_state", "images/front", "images/wrist"):
        assert len(store.read(stream, 0)) == store.episodes[0].steps


def test_the_benchmark_in_miniature(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """`benchmarks/demo.py --quick`, with the demo of this test in place of another run of it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    spec = importlib.util.find_spec("demo")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    asked: list[list[str]] = []

    def run(words: list[object], check: bool) -> None:
        asked.append([str(word) for word in words][1:])
        shutil.copytree(finished, str(words[words.index("--out") + 1]))

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=run))
    monkeypatch.chdir(tmp_path)
    benchmark.main(seeds=(3,), quick=True)
    assert [words[:3] + words[5:] for words in asked] == [["demo", "--seed", "3", "--minimal"]]
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line.keys() >= {"benchmark", "ratios", "figures", "commit", "machine"}
    success = json.loads((finished / "report.json").read_text())["success"]
    assert line["figures"]["3"]["success"] == success


def test_refusals_lose_nothing(finished: Path, tmp_path: Path):
    before = sorted(path.name for path in finished.iterdir())
    with pytest.raises(ValueError, match="seed 3 in other settings"):
        run_demo(finished, 4, MINIMAL, run_on_robot)
    assert sorted(path.name for path in finished.iterdir()) == before
    (tmp_path / "precious").touch()
    with pytest.raises(ValueError, match="holds no demo, so --fresh does not delete it"):
        run_demo(tmp_path, 0, MINIMAL, run_on_robot, fresh=True)
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        run_demo(tmp_path, 0, MINIMAL, run_on_robot)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
