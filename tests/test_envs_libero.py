"""LIBERO's table and the messages of what is missing; and a task, where an interpreter has it.

With `ULNA_LIBERO_PYTHON` (and its meshes) the last test runs a real task; else it is skipped.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ulna.envs.catalogue import list_envs
from ulna.envs.check_env import check_env
from ulna.envs.libero_tasks import (
    SUITES,
    instruction_of,
    libero_folder,
    libero_tasks,
    missing,
)
from ulna.envs.remote_libero import axis_angle, make, write_config
from ulna.envs.tasks import find_task, make_env


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment whose package has LIBERO's table and no meshes."""
    folder = tmp_path / "lib/python3.10/site-packages/libero/libero"
    (folder / "benchmark").mkdir(parents=True)
    named = {
        f"libero_{suite}": [f"{suite}_task_{index}" for index in range(count)]
        for suite, count in SUITES.items()
    }
    named["libero_10"][2] = "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"
    table = folder / "benchmark" / "libero_suite_task_map.py"
    table.write_text(f"import nothing_that_exists\nlibero_task_map = {named!r}\n")
    monkeypatch.setenv("ULNA_LIBERO_PYTHON", str(tmp_path / "bin" / "python"))
    monkeypatch.delenv("ULNA_LIBERO_ASSETS", raising=False)
    return folder


def test_the_table_is_read_without_importing(package: Path) -> None:
    table = libero_tasks()
    assert len(table) == 130 and libero_folder() == package
    assert table["libero/10/2"].instructions == ("turn on the stove and put the moka pot on it",)
    assert table["libero/spatial/0"].max_steps == 280
    assert "libero" not in sys.modules


def test_missing_meshes_are_named_with_the_command(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"--local-dir {package / 'assets'}" in missing()
    with pytest.raises(ValueError, match="libero/spatial/0 cannot run here.*hf download"):
        make_env("libero/spatial/0")
    monkeypatch.setenv("ULNA_LIBERO_ASSETS", str(package))
    assert missing() == ""


def test_without_the_package_rows_say_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULNA_LIBERO_PYTHON", str(tmp_path / "none" / "python"))
    row = find_task("libero/90/89")
    assert row.instructions == () and "uv pip install" in row.missing()
    listed = {row.task: row for row in list_envs("libero")}
    assert len(listed) == 130 and not listed["libero/90/89"].installed


def test_a_table_of_another_version_is_refused(package: Path) -> None:
    (package / "benchmark" / "libero_suite_task_map.py").write_text("tasks = {}\n")
    with pytest.raises(ValueError, match="not 0.1.4"):
        libero_tasks()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("put_the_bowl_on_the_stove", "put the bowl on the stove"),
        (
            "LIVING_ROOM_SCENE5_put_the_red_mug_on_the_left_plate",
            "put the red mug on the left plate",
        ),
        ("KITCHEN_SCENE10_close_the_top_drawer", "close the top drawer"),
    ],
)
def test_words_of_a_name(name: str, words: str) -> None:
    assert instruction_of(name) == words


def test_the_far_side_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="pip install hf-libero"):
        make("spatial/0")
    (tmp_path / "libero").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("ULNA_LIBERO_ASSETS", raising=False)
    with pytest.raises(ValueError, match="hf download lerobot/libero-assets"):
        make("spatial/0")


def test_the_question_of_liberos_import_is_answered_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "config"))
    write_config("/package", "/meshes")
    config = tmp_path / "config" / "config.yaml"
    written = dict(line.split(": ") for line in config.read_text().splitlines())
    assert set(written) == {"benchmark_root", "bddl_files", "init_states", "datasets", "assets"}
    assert written["assets"] == '"/meshes"'
    config.write_text("mine: 1\n")
    write_config("/package", "/meshes")  # what a user wrote stays
    assert config.read_text() == "mine: 1\n"


def test_axis_angle_keeps_the_sign_of_the_quaternion() -> None:
    half = 0.3
    quat = np.array([np.sin(half), 0.0, 0.0, np.cos(half)])
    np.testing.assert_allclose(axis_angle(quat), [2 * half, 0, 0])
    np.testing.assert_allclose(axis_angle(-quat), [-(2 * np.pi - 2 * half), 0, 0])
    np.testing.assert_array_equal(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))


def test_every_row_of_the_catalogue_is_filled() -> None:
    rows = list_envs()
    assert {"language", "metaworld", "aloha", "pusht", "libero"} <= {row.suite for row in rows}
    assert all(row.robot and row.max_steps > 0 and row.profiles for row in rows)
    assert all(row.instructions > 0 for row in rows if row.installed)
    assert all(bool(row.missing) != row.installed for row in rows)
    with pytest.raises(ValueError, match="suite 'metawrld'.*Did you mean 'metaworld'"):
        list_envs("metawrld")


@pytest.mark.skipif(
    not os.environ.get("ULNA_LIBERO_PYTHON") or bool(missing()),
    reason="no interpreter with LIBERO and its meshes (ULNA_LIBERO_PYTHON)",
)
def test_a_real_task() -> None:
    env = make_env("libero/spatial/0")
    check_env(env)
    env.close()
