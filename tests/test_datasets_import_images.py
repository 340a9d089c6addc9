"""Folders of images with tables: what may vary does, what is wrong is named to the cell."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
import simplejpeg
from PIL import Image

from ulna.datasets.episode_check import check_episode
from ulna.datasets.import_fields import Facts
from ulna.datasets.import_images import ImagesSource, recognise
from ulna.datasets.schema import Subgoal

RANDOM = np.random.default_rng(0)
FACTS = Facts(control_hz=10.0, instruction="wipe the table")


def columns(steps: int) -> dict[str, np.ndarray | list[str]]:
    return {
        "time_s": np.arange(steps) / 10,
        "state.x_m": RANDOM.normal(size=steps),
        "state.y_m": RANDOM.normal(size=steps),
        "action.dx": RANDOM.normal(size=steps).astype(np.float32),
        "action.dy": RANDOM.normal(size=steps).astype(np.float32),
        "torque.0": RANDOM.normal(size=steps),
        "torque.1": RANDOM.normal(size=steps),
        "contact": RANDOM.integers(0, 2, steps),
        "phase": ["reach"] * (steps - 1) + ["done"],
    }


def jpeg() -> bytes:
    return simplejpeg.encode_jpeg(RANDOM.integers(0, 256, (8, 12, 3), np.uint8), 90, "RGB", "420")


def save(path: Path, values: dict[str, np.ndarray | list[str]]) -> None:
    table = pa.table(values)
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pa_parquet.write_table(table, path)


def folder_per_episode(
    root: Path, table: str = "steps.csv"
) -> list[dict[str, np.ndarray | list[str]]]:
    written = []
    for number in range(12):
        episode = root / f"episode_{number}"  # not padded: episode_10 comes after episode_9
        (episode / "frames/front").mkdir(parents=True)
        (episode / "frames/wrist").mkdir()
        values = columns(3 + number)
        save(episode / table, values)
        for step in range(3 + number):
            (episode / f"frames/front/{step}.jpg").write_bytes(jpeg())
            pixels = RANDOM.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(episode / f"frames/wrist/{step}.png")
        written.append(values)
    (root / "episode_2/meta.json").write_text(
        json.dumps({"success": True, "seed": 77, "operator": "ada", "weights": [1, 2]})
    )
    return written


@pytest.mark.parametrize("table", ["steps.csv", "log.parquet"])
def test_a_folder_per_episode(tmp_path: Path, table: str):
    written = folder_per_episode(tmp_path, table)
    facts = {"control_hz": 10, "instruction": "wipe", "action_low": [-4], "action_high": [4]}
    (tmp_path / "ulna_import.json").write_text(json.dumps(facts))
    assert recognise(tmp_path)
    source = ImagesSource(tmp_path, Facts(instruction="wipe the table"))
    robot = source.embodiment
    assert list(source.keys())[-1] == "episode_11"
    assert (robot.state_names, robot.action_names) == (("x_m", "y_m"), ("dx", "dy"))
    assert (robot.action_high, robot.control_hz) == ((4, 4), 10)
    for key, values in zip(source.keys(), written, strict=True):
        episode, encoded = source.episode(key)
        check_episode(episode, robot, encoded)
        front = sorted((tmp_path / key / "frames/front").iterdir(), key=lambda p: int(p.stem))
        assert encoded["front"].chunks == tuple(path.read_bytes() for path in front)
        first = np.asarray(Image.open(tmp_path / key / "frames/wrist/0.png"))
        np.testing.assert_array_equal(episode.images["wrist"][0], first)
        exact = np.stack([values["state.x_m"], values["state.y_m"]], axis=1)
        np.testing.assert_array_equal(episode.streams["source_state"], exact)
        np.testing.assert_array_equal(episode.streams["state"], exact.astype(np.float32))
        action = np.stack([values["action.dx"], values["action.dy"]], axis=1)
        np.testing.assert_array_equal(episode.streams["action"], action.astype(np.float32))
        torque = np.stack([values["torque.0"], values["torque.1"]], axis=1)
        np.testing.assert_array_equal(episode.streams["torque"], torque)
        np.testing.assert_array_equal(episode.streams["contact"], values["contact"])
        np.testing.assert_array_equal(
            episode.streams["time_ns"], np.arange(episode.steps) * 100_000_000
        )
        assert json.loads(str(episode.info["phase"])) == [[0, "reach"], [episode.steps - 1, "done"]]
        assert episode.instruction == "wipe the table"
    episode, _ = source.episode("episode_2")
    assert (episode.success, episode.seed, episode.info["operator"]) == (True, 77, "ada")
    assert episode.info["weights"] == "[1, 2]"


def test_one_table_with_paths_of_images(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    for step in range(9):
        (tmp_path / f"pictures/{step}.jpg").write_bytes(jpeg())
    values = columns(9)
    values["episode"] = np.repeat([4, 2], [5, 4])
    values["image.Front Cam"] = [f"pictures/{8 - step}.jpg" for step in range(9)]
    values["instruction"] = ["reach"] * 7 + ["grasp"] * 2
    save(tmp_path / "steps.parquet", values)
    source = ImagesSource(tmp_path, Facts(control_hz=10.0))
    assert source.keys() == ["4", "2"] and source.losses == ()
    episode, encoded = source.episode("2")
    check_episode(episode, source.embodiment, encoded)
    assert encoded["front_cam"].chunks[0] == (tmp_path / "pictures/3.jpg").read_bytes()
    assert episode.instruction == "reach"
    assert episode.subgoals == (Subgoal(0, 2, "reach"), Subgoal(2, 4, "grasp"))
    np.testing.assert_array_equal(
        episode.streams["action"][:, 0], np.asarray(values["action.dx"])[5:]
    )
    values["episode"] = np.array([4, 4, 2, 2, 4, 4, 4, 4, 4])
    save(tmp_path / "steps.parquet", values)
    with pytest.raises(ValueError, match="episode 4 stand in two places, the second from row 4"):
        ImagesSource(tmp_path, FACTS)


def one_csv(root: Path, text: str) -> ImagesSource:
    (root / "episode_0").mkdir(parents=True)
    (root / "episode_0/steps.csv").write_text(text)
    return ImagesSource(root, FACTS)


def test_errors_name_file_column_and_row(tmp_path: Path):
    bad = one_csv(tmp_path / "word", "state.x,action.dx\n1,2\n1,oops\n")
    with pytest.raises(ValueError, match=r"steps.csv: column 'action.dx' holds 'oops' in line 3"):
        bad.episode("episode_0")
    empty = one_csv(tmp_path / "empty", "state.x,action.dx\n1,2\n,3\n")
    with pytest.raises(ValueError, match=r"column 'state.x' is empty in line 3"):
        empty.episode("episode_0")
    with pytest.raises(ValueError, match=r"no column action.<name>; it has state.x, actoin.dx"):
        one_csv(tmp_path / "name", "state.x,actoin.dx\n1,2\n")
    with pytest.raises(ValueError, match=r"steps.csv cannot be read as a table"):
        one_csv(tmp_path / "ragged", "state.x,action.dx\n1,2\n1,2,3\n")
    frames = one_csv(tmp_path / "count", "state.x,action.dx\n1,2\n1,2\n")
    (tmp_path / "count/episode_0/front").mkdir()
    (tmp_path / "count/episode_0/front/0.jpg").write_bytes(jpeg())
    with pytest.raises(ValueError, match="holds 1 images; steps.csv has 2 rows"):
        frames.episode("episode_0")
    (tmp_path / "count/episode_0/front/1.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(ValueError, match="front, step 1: a damaged JPEG"):
        frames.episode("episode_0")
    gone = one_csv(tmp_path / "gone", "state.x,action.dx,image.front\n1,2,a.jpg\n")
    with pytest.raises(ValueError, match="image of row 0, .*a.jpg, does not exist"):
        gone.episode("episode_0")


def test_what_is_said_about_the_dataset_is_checked(tmp_path: Path):
    with pytest.raises(ValueError, match="--control-hz"):
        one_csv(tmp_path / "rate", "state.x,action.dx\n1,2\n")
        _ = ImagesSource(tmp_path / "rate").embodiment
    (tmp_path / "rate/ulna_import.json").write_text('{"control_hs": 10}')
    with pytest.raises(ValueError, match="Did you mean 'control_hz'"):
        ImagesSource(tmp_path / "rate")
    (tmp_path / "none").mkdir()
    (tmp_path / "none/ulna_import.json").write_text("{}")
    with pytest.raises(ValueError, match="has no table"):
        ImagesSource(tmp_path / "none")
    (tmp_path / "rate/episode_0/more.csv").write_text("a\n1\n")
    (tmp_path / "rate/ulna_import.json").write_text("{}")
    ImagesSource(tmp_path / "rate")  # steps.csv is the one
    (tmp_path / "rate/episode_0/steps.csv").rename(tmp_path / "rate/episode_0/other.csv")
    with pytest.raises(ValueError, match="several tables: more.csv, other.csv"):
        ImagesSource(tmp_path / "rate")
