"""The crash benchmark: it runs in miniature, and each of its checks can fail."""

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.store import Store
from ulna.datasets.writer import Writer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of the benchmarks folder by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


def test_in_miniature():
    command = [sys.executable, BENCHMARKS / "crash.py", "--quick", "--kills", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert (figures["kills_total"], figures["lost"], figures["partial"]) == (6, 0, 0)
    assert figures["writers"]["acknowledged"] == 6 and figures["writers"]["reader_errors"] == 0
    assert figures["full_disk"]["operations"] == 7
    assert figures["flipped_bits"]["detected"] + figures["flipped_bits"]["harmless"] == 20


@pytest.fixture
def recorded(script, tmp_path: Path):
    """A checker, its tally, and what a worker said that added the seeds 1 and 2."""
    content, kills = script("crash_content"), script("crash_kills")
    path = tmp_path / "s.zarr"
    Store.create(path, content.robot())
    told = []
    with Writer(path, content.CODECS) as writer:
        for seed in (1, 2):
            episode = content.made(seed)
            writer.add_episode(episode)
            whole = [[seed, 0, episode.steps]]
            told += [{"does": {"add": [(whole, content.labels_of(episode))]}}, {"did": 0.1}]
    return kills.Checker(path, random.Random(0)), kills.Tally(), told


def test_an_acknowledged_episode_that_is_gone_counts_as_lost(recorded):
    checker, tally, told = recorded
    (checker.path / "commits" / "000000000001.json").unlink()
    checker.settle(told, tally)
    assert (tally.acknowledged, tally.lost, tally.partial) == (2, 1, 0)
    checker.settle([], tally)
    assert tally.lost == 1, "counted once"


def test_the_last_operation_may_be_there_or_not(recorded):
    checker, tally, told = recorded
    checker.settle(told[:-1], tally)
    assert (tally.within, tally.completed, tally.acknowledged, tally.lost) == (1, 1, 1, 0)
    checker.settle([{"does": {"add": [([[9, 0, 5]], ["crash", "", None])]}}], tally)
    assert (tally.within, tally.completed, tally.lost) == (2, 1, 0)


def test_an_episode_with_other_rows_counts_as_partial(recorded, script):
    checker, tally, told = recorded
    store = Store.open(checker.path)
    record = store.record(1)
    wrong = np.zeros((record.steps, 2), np.float32)
    layout = store.layout("action", record)
    file = checker.path / store.stream_files("action", record)[0]
    file.write_bytes(layout.files([layout.encode(wrong)])[0])  # its own checksums are right
    checker.settle(told, tally)
    assert tally.partial == 1 and "action is not what was recorded" in tally.notes[0]


def test_undo_takes_the_last_edit_back_and_no_recording(script):
    model = script("crash_model")
    labels = ("crash", "do it", True)
    one, two, half, rest = (((1, 0, 4),), ((2, 0, 4),), ((1, 0, 2),), ((1, 2, 4),))

    def told(**what):
        return model.Operation.told(what)

    state = model.Model().after(told(add=[(one, labels)]))
    split = told(remove=[one], add=[(half, labels), (rest, labels)], edit=True)
    state = state.after(split).after(told(add=[(two, labels)]))
    assert set(state.state()) == {half, rest, two}
    assert set(state.after(told(undo=True)).state()) == {one, two}


def test_flipped_bits_are_told_apart(script, tmp_path: Path):
    flips = script("crash_flips")
    store = flips.make_store(tmp_path / "s.zarr")
    record = store.episodes[4]
    state = store.stream_files("state", record)[0]
    owners = flips._owners(store)
    whole = flips._read(store.path)
    place = flips.Place(state, 3, 0)
    assert flips._outcome(store.path, place, owners, whole) == "harmless"
    file = store.path / state
    intact = file.read_bytes()
    file.write_bytes(intact[:3] + bytes([intact[3] ^ 1]) + intact[4:])
    assert flips._outcome(store.path, place, owners, whole) == "detected"
    other = flips.Place(store.stream_files("state", store.episodes[5])[0], 3, 0)
    assert flips._outcome(store.path, other, owners, whole) == "misnamed"
    file.write_bytes(intact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "verify", lambda store: [])
        patch.setattr(flips, "_read", lambda path: "other rows")
        assert flips._outcome(store.path, place, owners, whole) == "unnoticed"
