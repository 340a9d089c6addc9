"""The command line: every wrong word is answered with what exists, and help costs no imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from policy_helpers import make_store

from ulna.cli import main
from ulna.datasets.store import Store


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and everything printed."""
    try:
        main(words)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


def test_overview_names_every_command(capsys):
    code, text = said([], capsys)
    assert code == 0
    for command in ("demo", "collect", "data info", "train", "evaluate", "run", "doctor"):
        assert f"ulna {command}" in text


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["evaluat"], ["unknown command 'evaluat'", "Did you mean 'evaluate'"]),
        (["data", "inf", "x"], ["unknown data command 'inf'", "Did you mean 'info'"]),
        (["train", "smal"], ["unknown recipe 'smal'", "Did you mean 'small'"]),
        (["train", "--data", "x"], ["expected a recipe before --data", "small"]),
        (["train", "small", "--out", "x"], ["--data"]),
        (["train", "small", "--data", "d", "--out", "o", "--stepz", "3"], ["--steps"]),
        (
            ["train", "small", "--data", "d", "--out", "o", "--policy.execution-horizon", "99"],
            ["execution_horizon 99", "1..horizon"],
        ),
        (["collect", "pick_namd", "--out", "x", "--episodes", "1"], ["'pick_named'"]),
        (["evaluate", "nowhere", "--task", "pick_named"], ["nowhere", "does not exist"]),
        (["run", "nowhere"], ["nowhere", "does not exist"]),
        (["data", "info", "nowhere.zarr"], ["nowhere.zarr"]),
    ],
)
def test_mistakes_are_answered(words, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = said(words, capsys)
    assert code == 2
    assert all(part in text for part in parts), text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_data_info_and_verify(capsys, tmp_path: Path):
    make_store(tmp_path / "store.zarr", episodes=3)
    code, text = said(["data", "info", str(tmp_path / "store.zarr"), "--json"], capsys)
    assert code == 0 and '"episodes": 3' in text
    assert said(["data", "info", str(tmp_path / "store.zarr")], capsys)[0] == 0
    assert said(["data", "verify", str(tmp_path / "store.zarr")], capsys)[0] == 0
    chunk = max((p for p in tmp_path.rglob("c.*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    code, text = said(["data", "verify", str(tmp_path / "store.zarr")], capsys)
    assert code == 1 and "1 error(s)" in text


def test_demonstrations_without_disturbances(capsys, tmp_path: Path):
    store = tmp_path / "smooth.zarr"
    words = ["collect", "lift", "--out", str(store), "--episodes", "1", "--workers", "1"]
    code, text = said([*words, "--undisturbed"], capsys)
    assert code == 0 and "1 episodes" in text
    smooth = Store.open(store)
    np.testing.assert_array_equal(smooth.read("action", 0), smooth.read("action_sent", 0))
    code, _ = said([*words, "--append"], capsys)
    both = Store.open(store)
    assert code == 0 and np.any(both.read("action", 1) != both.read("action_sent", 1))


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from ulna.cli import main; main(['--help']);"
        "print([m for m in ('torch', 'mujoco', 'zarr', 'robosuite') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
