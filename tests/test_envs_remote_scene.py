"""A scene in another interpreter: the protocol, and what happens when the far side misbehaves."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.schema import Camera, Embodiment
from ulna.envs.check_env import check_env
from ulna.envs.env import Env
from ulna.envs.foreign_env import ForeignEnv, ForeignExpert, Scene
from ulna.envs.remote_scene import WORKER, RemoteScene, RemoteSceneError, interpreter_of
from ulna.envs.remote_worker import HEADER, PROTOCOL, read_message, write_message

SUITE = """
import os, sys, time
import numpy as np
assert "ulna" not in sys.modules
print("a noisy library says hello")          # would break the line if it were stdout
os.write(1, b"and so does its C part\\n")

class Scene:
    def __init__(self, task):
        self.task = task
    def reset(self, seed):
        self.place = np.random.default_rng(seed).uniform(-1, 1, 3)
        self.ticks = 0
    def step(self, action):
        if self.task == "raises" and self.ticks == 1:
            raise KeyError("the cube is gone")
        if self.task == "dies" and self.ticks == 1:
            print("segmentation of the mind", file=sys.stderr, flush=True)
            os._exit(11)
        if self.task == "hangs" and self.ticks == 1:
            time.sleep(60)
        print("step", action)
        self.place = self.place + 0.1 * np.asarray(action)
        self.ticks += 1
    def state(self):
        return self.place
    def joints(self):
        return np.zeros(0)
    def time_s(self):
        return self.ticks / 20
    def success(self):
        return bool(np.all(np.abs(self.place) < 0.05))
    def outcome(self):
        return "there" if self.success() else "none"
    def simulator_state(self):
        return np.array([*self.place, self.ticks])
    def restore(self, state):
        self.place, self.ticks = state[:3].copy(), int(state[3])
    def render(self, camera, height, width, profile):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : width // 2] = np.uint8(100 * (self.place + 1))
        return frame
    def expert_action(self):
        if self.task == "silent":
            raise ValueError("nobody shows this")
        return -self.place * 10
    def close(self):
        pass

def make(task):
    if task == "asks":
        input("which data set? ")
    if task == "broken":
        raise RuntimeError("meshes are missing")
    return Scene(task)
"""
BODY = Embodiment(
    name="point",
    control_hz=20.0,
    state_names=("x", "y", "z"),
    action_names=("dx", "dy", "dz"),
    action_low=(-1.0,) * 3,
    action_high=(1.0,) * 3,
    action_meaning="tenths",
    cameras=(Camera("front", 24, 32),),
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "remote_fake.py"
    path.write_text(SUITE)
    return path


def scene_of(suite: Path, task: str, answer_s: float = 30.0) -> RemoteScene:
    return RemoteScene(suite, task, [sys.executable], answer_s=answer_s)


def env_of(scene: Scene) -> ForeignEnv:
    return ForeignEnv("fake/point", scene, ("go to the middle",), 40, BODY, ("exact",))


def test_a_remote_scene_keeps_the_contract(suite: Path) -> None:
    env = env_of(scene_of(suite, "point"))
    assert isinstance(env, Env) and isinstance(env.scene, Scene)
    check_env(env)
    env.reset(3)
    expert, steps = ForeignExpert(), 0
    while not env.success() and steps < env.max_steps:
        env.step(expert.action(env))
        steps += 1
    assert env.success() and env.outcome() == "there" and env.time_ns() == steps * 50_000_000
    env.close()


def test_here_and_there_give_the_same(suite: Path) -> None:
    namespace: dict = {}
    exec(SUITE.replace('assert "ulna"', '"ulna"'), namespace)
    here, there = env_of(namespace["make"]("point")), env_of(scene_of(suite, "point"))
    rng = np.random.default_rng(0)
    for env_seed in (1, 2):
        here.reset(env_seed)
        there.reset(env_seed)
        for action in rng.uniform(-1, 1, (3, 3)):
            here.step(action)
            there.step(action)
        np.testing.assert_array_equal(here.simulator_state(), there.simulator_state())
        np.testing.assert_array_equal(
            here.observe().images["front"], there.observe().images["front"]
        )
    there.close()


def test_an_error_there_comes_back_with_its_traceback(suite: Path) -> None:
    scene = scene_of(suite, "raises")
    scene.reset(0)
    scene.step(np.zeros(3))
    with pytest.raises(RemoteSceneError, match="the cube is gone") as caught:
        scene.step(np.zeros(3))
    assert 'remote_fake.py", line' in str(caught.value)
    scene.reset(1)  # the worker lives on
    assert scene.time_s() == 0
    scene.close()
    with pytest.raises(RemoteSceneError, match="has been closed"):
        scene.reset(1)


def test_a_refusal_there_is_a_refusal_here(suite: Path) -> None:
    scene = scene_of(suite, "silent")
    scene.reset(0)
    with pytest.raises(ValueError, match="nobody shows this"):
        scene.expert_action()
    scene.close()


def test_a_dead_worker_is_reported_with_its_last_words(suite: Path) -> None:
    scene = scene_of(suite, "dies")
    scene.reset(0)
    scene.step(np.zeros(3))
    with pytest.raises(RemoteSceneError, match="exit code 11") as caught:
        scene.step(np.zeros(3))
    assert "segmentation of the mind" in str(caught.value)
    assert "remote_worker.py" in str(caught.value)


def test_a_hung_worker_is_ended(suite: Path) -> None:
    scene = scene_of(suite, "hangs", answer_s=0.5)
    scene.reset(0)
    scene.step(np.zeros(3))
    start = time.monotonic()
    with pytest.raises(RemoteSceneError, match="more than 0.5 s to step"):
        scene.step(np.zeros(3))
    assert time.monotonic() - start < 10
    assert scene._child.poll() is not None


@pytest.mark.parametrize(
    ("task", "words"), [("broken", "meshes are missing"), ("asks", "EOFError")]
)
def test_a_scene_that_cannot_be_built(suite: Path, task: str, words: str) -> None:
    with pytest.raises(RemoteSceneError, match=f"(?s)could not be built.*{words}"):
        scene_of(suite, task)


def test_an_interpreter_that_is_none(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ULNA_.*_PYTHON"):
        RemoteScene(suite, "point", [str(tmp_path / "python")])
    with pytest.raises(RemoteSceneError, match="ended with exit code 3"):
        RemoteScene(suite, "point", [sys.executable, "-c", "raise SystemExit(3)"])


def test_the_worker_ends_with_its_master(suite: Path) -> None:
    master = (
        "import sys; from ulna.envs.remote_scene import RemoteScene;"
        f"s = RemoteScene({str(suite)!r}, 'point', [sys.executable]); s.reset(0);"
        "print(s._child.pid, flush=True); import os; os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", master], capture_output=True, text=True, check=True, timeout=60
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} outlived its master")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_interpreter_of_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULNA_LIBERO_PYTHON", raising=False)
    assert interpreter_of("libero") == [sys.executable]
    monkeypatch.setenv("ULNA_LIBERO_PYTHON", "docker run -i 'my image' python")
    assert interpreter_of("libero") == ["docker", "run", "-i", "my image", "python"]


def test_messages_go_and_come() -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 2), np.uint8), "c": np.array(3)}
    line = io.BytesIO()
    write_message(line, {"do": "step", "n": 1}, arrays)
    line.seek(0)
    header, back = read_message(line.read)
    assert header == {"do": "step", "n": 1} and set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype and back[name].shape == array.shape


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (HEADER.pack(1 << 31, 0), "something else wrote"),
        (HEADER.pack(29, 0) + b'{"arrays": [["a", "O", [1]]]}', "only plain numbers"),
        (HEADER.pack(15, 3) + b'{"arrays": [] }abc', "announced 0"),
    ],
)
def test_bad_messages_are_refused(message: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_message(io.BytesIO(message).read)


def test_another_protocol_is_refused(suite: Path, tmp_path: Path) -> None:
    other = tmp_path / "old_worker.py"
    other.write_text(WORKER.read_text().replace(f"PROTOCOL = {PROTOCOL}", "PROTOCOL = 99"))
    launcher = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path({!r}, {{}}, '__main__')"
    command = [sys.executable, "-c", launcher.format(str(other))]
    with pytest.raises(RemoteSceneError, match="speaks protocol 99"):
        RemoteScene(suite, "point", command)


def test_the_worker_is_python_3_8() -> None:
    import ast

    for name in (
        "remote_worker.py",
        "remote_painter.py",
        "remote_metaworld.py",
        "remote_libero.py",
    ):
        source = WORKER.with_name(name).read_text()
        ast.parse(source, feature_version=(3, 8))
        assert "from __future__ import annotations" in source, name


def test_a_state_of_another_length_is_refused(suite: Path) -> None:
    from dataclasses import replace

    scene = scene_of(suite, "point")
    with pytest.raises(ValueError, match="state of 3 numbers.*says 2"):
        ForeignEnv(
            "fake/point", scene, ("go",), 40, replace(BODY, state_names=("x", "y")), ("exact",)
        )
    scene.close()


def test_the_far_side_does_not_see_our_packages(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    probe = suite.with_name("probe.py")
    probe.write_text(
        "import os, sys\n"
        "def make(task):\n"
        "    path = os.environ.get('PYTHONPATH')\n"
        "    raise RuntimeError(f'{path} {os.path.dirname(task) in sys.path}')\n"
    )
    with pytest.raises(RemoteSceneError, match="None False"):
        RemoteScene(probe, str(WORKER), [sys.executable])
    assert os.environ["PYTHONPATH"] == "/nowhere"
