"""`ulna data ...` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ulna.cli import main
from ulna.datasets.image_codec import Lossless
from ulna.datasets.store import Store
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

ROBOT = synthetic_embodiment(64, ("front",))


@pytest.fixture
def path(tmp_path: Path) -> str:
    store = Store.create(tmp_path / "s.zarr", ROBOT)
    with Writer(store.path, Lossless()) as writer:
        for seed in range(4):
            writer.add_episode(synthetic_episode(ROBOT, seed, 24))
    return str(store.path)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints; its exit code is checked."""
    capsys.readouterr()
    try:
        main(list(words))
        got = 0
    except SystemExit as stopped:
        got = stopped.code or 0
    out, err = capsys.readouterr()
    assert got == code, out + err
    return out + err


def test_looking(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    facts = json.loads(said(capsys, "data", "info", path, "--json"))
    assert facts["streams"]["images/front"]["codecs"] == [{"type": "lossless"}]
    assert facts["clocks"]["time_ns"]["measured_hz"] == 20
    assert "64 x 64 x 3" in said(capsys, "data", "info", path)
    stats = tmp_path / "norm_stats.json"
    assert "gripper" in said(capsys, "data", "stats", path, "--out", str(stats))
    assert json.loads(stats.read_text())["episodes"] == 4
    page = tmp_path / "episode.html"
    said(capsys, "data", "view", path, "2", "--out", str(page))
    assert "pick up the blue cube" in page.read_text()
    assert "0 error(s)" in said(capsys, "data", "verify", path)


def test_editing(path: str, capsys: pytest.CaptureFixture[str]):
    def seeds() -> list[int]:
        return [record.seed for record in Store.open(path).episodes]

    assert "4 episodes before, 2 now" in said(
        capsys, "data", "edit", "delete", path, "--episodes", "0,2"
    )
    assert "2 episodes before, 4 now" in said(capsys, "data", "edit", "undo", path)
    said(capsys, "data", "edit", "select", path)
    assert seeds() == [0, 1, 2], "the failed one is gone"
    said(capsys, "data", "edit", "split", path, "0", "--at", "10")
    said(capsys, "data", "edit", "join", path, "--episodes", "0-1")
    said(capsys, "data", "edit", "relabel", path, "--episodes", "1", "--success", "no")
    assert [record.success for record in Store.open(path).episodes] == [True, False, True]
    log = said(capsys, "data", "edit", "log", path)
    assert "edit split" in log and "2 delete, 1 add" in log and "undo of 4" in log
    said(capsys, "data", "pack", path)
    assert "would be removed" in said(capsys, "data", "gc", path, "--dry-run", "--grace-hours", "0")
    said(capsys, "data", "gc", path, "--grace-hours", "0", "--forget-deleted")
    assert "0 error(s)" in said(capsys, "data", "verify", path)
    assert seeds() == [0, 1, 2]


def test_merging_and_mistakes(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = str(tmp_path / "all.zarr")
    assert "4 episodes added" in said(capsys, "data", "merge", path, "--out", target)
    assert "0 episodes added" in said(capsys, "data", "merge", path, path, "--out", target)
    for words, message in (
        (("data", "vrify", path), "Did you mean 'verify'"),
        (("data", "edit", "delte", path), "Did you mean 'delete'"),
        (("data", "view", path, "9"), "holds 4 episodes"),
        (("data", "edit", "delete", path, "--episodes", "2-1"), "a range such as 3-5"),
        (("data", "edit", "undo", path), "no edit to undo"),
        (("data", "info", path + "x"), "Stores beside it"),
        (("data", "import", str(tmp_path), "--out", target), "lerobot"),
        (("data", "import", path, "--out", target, "--format", "lerobto"), "Did you mean"),
    ):
        assert message in said(capsys, *words, code=2)


def test_importing_says_what_is_lost_and_what_was_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for number in range(3):
        folder = tmp_path / "rig" / f"episode_{number}"
        (folder / "frames" / "top").mkdir(parents=True)
        rows = ["time_s,state.x,action.dx"] + [f"{i * 0.1},{i},{i * 0.5}" for i in range(5)]
        if number == 1:
            rows[3] = "0.2,two,1.0"
        (folder / "steps.csv").write_text("\n".join(rows))
        for i in range(5):
            Image.fromarray(np.full((16, 16, 3), i * 9, np.uint8)).save(
                folder / "frames" / "top" / f"{i:06d}.png"
            )
    (tmp_path / "rig" / "notes.txt").write_text("battery low")
    words = ("data", "import", str(tmp_path / "rig"), "--out", str(tmp_path / "r.zarr"),
             "--instruction", "push", "--codec", "lossless", "--control-hz", "10")  # fmt: skip
    text = said(capsys, *words, code=1)
    assert "2 episodes (10 steps) imported from images" in text
    assert "skipped episode_1" in text and "two" in text
    (tmp_path / "rig" / "episode_1" / "steps.csv").write_text(
        (tmp_path / "rig" / "episode_0" / "steps.csv").read_text()
    )
    assert "1 episodes (5 steps) imported from images, 2 were there" in said(capsys, *words)
    store = Store.open(tmp_path / "r.zarr")
    assert [len(store.read("images/top", i)) for i in range(3)] == [5, 5, 5]
