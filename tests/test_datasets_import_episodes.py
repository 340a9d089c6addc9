"""The import engine: recognises, streams, resumes, reports; in one process, several, or Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.import_episodes import Progress, import_episodes, recognise
from ulna.datasets.import_workers import FORMATS
from ulna.datasets.store import Store

OPTIONS = {
    "control_hz": 10.0,
    "instruction": "stack the cups",
    "robot": "arm",
    "action_low": (0.0,),
    "action_high": (9.0,),
    "task": None,
}


def write_episodes(root: Path, episodes: int = 7, steps: int = 6) -> None:
    for number in range(episodes):
        folder = root / f"episode_{number:02d}"
        folder.mkdir(parents=True)
        rows = "".join(f"{number}.5,{step},{number + step}\n" for step in range(steps))
        (folder / "steps.csv").write_text("state.x,action.dx,load\n" + rows)


def states(store: Path) -> dict[str, float]:
    """First state of every episode by the key of its source."""
    opened = Store.open(store)
    return {
        str(record.info["source_key"]): float(opened.read("state", index, 0, 1)[0, 0])
        for index, record in enumerate(opened.episodes)
    }


def expected(numbers: range) -> dict[str, float]:
    return {f"episode_{number:02d}": number + 0.5 for number in numbers}


def test_all_episodes_come_in_and_again_nothing_does(tmp_path: Path):
    write_episodes(tmp_path / "data")
    seen: list[Progress] = []
    summary = import_episodes(
        tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS, progress=seen.append
    )
    assert (summary.format, summary.imported, summary.steps) == ("images", 7, 42)
    assert summary.complete and summary.losses == ()
    assert (seen[-1].done, seen[-1].total, seen[-1].steps) == (7, 7, 42)
    assert states(tmp_path / "s.zarr") == expected(range(7))
    store = Store.open(tmp_path / "s.zarr")
    assert [record.seed for record in store.episodes] == list(range(7))
    np.testing.assert_array_equal(store.read("load", 3), 3 + np.arange(6))
    again = import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    assert (again.imported, again.already_there) == (0, 7)
    write_episodes(tmp_path / "more", 2)
    import_episodes(tmp_path / "more", tmp_path / "s.zarr", options=OPTIONS)
    assert len(Store.open(tmp_path / "s.zarr").episodes) == 9  # another source, same keys


def test_limit_and_a_dataset_that_was_moved(tmp_path: Path):
    write_episodes(tmp_path / "data")
    args = {"options": OPTIONS, "source_name": "cups, 3 March"}
    first = import_episodes(tmp_path / "data", tmp_path / "s.zarr", limit=3, **args)
    assert (first.imported, states(tmp_path / "s.zarr")) == (3, expected(range(3)))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    rest = import_episodes(tmp_path / "elsewhere", tmp_path / "s.zarr", **args)
    assert (rest.imported, rest.already_there) == (4, 3)


def test_bad_episodes_are_reported_and_the_others_come_in(tmp_path: Path):
    write_episodes(tmp_path / "data")
    (tmp_path / "data/episode_02/steps.csv").write_text("state.x,action.dx,load\n1,oops,1\n")
    (tmp_path / "data/episode_04/steps.csv").write_text("state.x,action.dx,load\n1,nan,1\n")
    summary = import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    assert not summary.complete and summary.imported == 5
    assert [skipped.key for skipped in summary.skipped] == ["episode_02", "episode_04"]
    assert "'oops' in line 2" in summary.skipped[0].reason
    assert "NaN" in summary.skipped[1].reason
    (tmp_path / "data/episode_02/steps.csv").write_text("state.x,action.dx,load\n2.5,1,1\n")
    mended = import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    assert (mended.imported, mended.already_there, len(mended.skipped)) == (1, 5, 1)


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path):
    write_episodes(tmp_path / "data")
    store = tmp_path / "s.zarr"

    def refused(match: str, **changes: object) -> None:
        arguments = {"path": tmp_path / "data", "store": store, "options": OPTIONS, **changes}
        with pytest.raises(ValueError, match=match):
            import_episodes(**arguments)  # pyright: ignore[reportArgumentType]

    refused("there is nothing at", path=tmp_path / "dada")
    refused("unknown format 'image'. Did you mean 'images'", format="image")
    refused("Did you mean 'control_hz'", options={"control_hx": 1.0})
    refused("option of the images importer 'split'", options={**OPTIONS, "split": "train"})
    refused("give it with --control-hz", options={})
    refused("0 workers", workers=0)
    assert not store.exists()
    import_episodes(tmp_path / "data", store, options=OPTIONS, limit=1)
    refused("control_hz is 20.0, the store has 10.0", options={**OPTIONS, "control_hz": 20.0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Looked for: robomimic: an HDF5 file") as error:
        recognise(tmp_path / "empty")
    assert all(f"{name}: " in str(error.value) for name in FORMATS)


def test_deleted_on_purpose_stays_away_undone_comes_back(tmp_path: Path):
    from ulna.datasets.commits import Delete, Undo
    from ulna.datasets.writer import Writer

    write_episodes(tmp_path / "data", 2)
    import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    store = Store.open(tmp_path / "s.zarr")
    with Writer(tmp_path / "s.zarr") as writer:
        writer.commit([Delete(store.episodes[0].uid)])
    again = import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    assert (again.imported, again.already_there) == (0, 2)
    added = [c.number for c in Store.open(tmp_path / "s.zarr").log if "import" in c.tool]
    with Writer(tmp_path / "s.zarr") as writer:
        writer.commit([Undo(number) for number in added])
    again = import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    assert (again.imported, again.already_there) == (2, 0)


def test_several_processes_bring_in_the_same(tmp_path: Path):
    write_episodes(tmp_path / "data", 9)
    (tmp_path / "data/episode_05/steps.csv").write_text("state.x,action.dx,load\n1,oops,1\n")
    summary = import_episodes(tmp_path / "data", tmp_path / "s.zarr", workers=2, options=OPTIONS)
    assert (summary.imported, [s.key for s in summary.skipped]) == (8, ["episode_05"])
    assert states(tmp_path / "s.zarr") == {
        key: value for key, value in expected(range(9)).items() if key != "episode_05"
    }


IMPORT = """
import signal
import sys
from pathlib import Path
from ulna.datasets.import_episodes import import_episodes
if __name__ == "__main__":
    # Whoever runs the tests in a shell's background has Ctrl-C ignored, and we inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_episodes(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]),
                    options={"control_hz": 10.0, "instruction": "stack the cups", "robot": "arm",
                             "action_low": (0.0,), "action_high": (9.0,)})
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("stop", "workers"), [(signal.SIGINT, 2), (signal.SIGKILL, 1)])
def test_interrupted_and_run_again_nothing_is_missing_or_twice(
    tmp_path: Path, stop: signal.Signals, workers: int
):
    count = 240  # many batches: some are not begun when the first is committed
    write_episodes(tmp_path / "data", count)
    (tmp_path / "run.py").write_text(IMPORT)
    store = tmp_path / "s.zarr"
    child = subprocess.Popen(
        [
            sys.executable,
            str(tmp_path / "run.py"),
            str(tmp_path / "data"),
            str(store),
            str(workers),
        ],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    wait_for(lambda: len(list(store.glob("commits/*.json"))) >= 1 or child.poll() is not None)
    child.send_signal(stop)
    assert child.wait(60) != 0
    there = len(Store.open(store).episodes)
    assert 0 < there < count
    summary = import_episodes(tmp_path / "data", store, options=OPTIONS)
    assert (summary.imported, summary.already_there) == (count - there, there)
    opened = Store.open(store)
    assert len(opened.episodes) == count
    assert {record.info["source_key"] for record in opened.episodes} == set(expected(range(count)))


def test_ray_actors_bring_in_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    write_episodes(tmp_path / "data", 4)
    summary = import_episodes(
        tmp_path / "data", tmp_path / "s.zarr", workers=1, ray_address="local", options=OPTIONS
    )
    assert summary.imported == 4
    assert states(tmp_path / "s.zarr") == expected(range(4))


def test_without_ray_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_episodes(tmp_path / "data", 1)
    with pytest.raises(ValueError, match=r"pip install 'ulna\[ray\]'"):
        import_episodes(tmp_path / "data", tmp_path / "s.zarr", ray_address="x", options=OPTIONS)


def test_the_order_of_a_store_is_that_of_the_source(tmp_path: Path):
    write_episodes(tmp_path / "data", 5)
    import_episodes(tmp_path / "data", tmp_path / "s.zarr", options=OPTIONS)
    store = Store.open(tmp_path / "s.zarr")
    assert [r.info["source_key"] for r in store.episodes] == list(expected(range(5)))
    episode = store.read_episode(2)
    assert replace(episode, info={}).instruction == "stack the cups"
