"""The episodes the benchmarks of loading and recording work on, simulated once and kept raw.

        raw/front.u8, wrist.u8, state.f32, action.f32    every step of every episode, end to end
        raw.json                                         lengths, tasks, instructions

Next: `loader_formats.py` (the same in everybody's format), `loader.py` (the comparison).
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

SIZE = 224
CONTROL_HZ = 20
SENSOR_NOISE = 1.5
"""Standard deviation in grey levels: rendered pictures without it are unfairly easy to compress."""
CAMERAS = ("front", "wrist")
TASKS = ("pick_named", "lift")


@dataclass(frozen=True)
class Raw:
    """The frames and numbers of all episodes, one after the other."""

    folder: str
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    state_dim: int
    action_dim: int

    @property
    def steps(self) -> int:
        return sum(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *self.lengths])[:-1]

    def frames(self, camera: str) -> np.ndarray:
        shape = (self.steps, SIZE, SIZE, 3)
        return np.memmap(Path(self.folder) / f"{camera}.u8", np.uint8, "r", shape=shape)

    def numbers(self, stream: str) -> np.ndarray:
        width = self.state_dim if stream == "state" else self.action_dim
        rows = np.fromfile(Path(self.folder) / f"{stream}.f32", np.float32, self.steps * width)
        return rows.reshape(self.steps, width)

    def first(self, episodes: int, steps: int | None = None) -> "Raw":
        """The first episodes, or the first `steps` of the first one."""
        lengths = self.lengths[:episodes] if steps is None else (steps,)
        return replace(self, lengths=lengths)


def default_folder() -> Path:
    """In Ulna's cache folder."""
    from ulna.envs.cache import cache_folder

    return cache_folder() / "benchmarks" / "loader"


def read_raw(data: Path) -> Raw:
    found: dict[str, Any] = json.loads((data / "raw.json").read_text())
    found = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
    return Raw(**{**found, "folder": str(data / "raw")})


def make_raw(data: Path, episodes: int, steps: tuple[int, int] = (80, 120)) -> Raw:
    """Simulate the episodes, unless they are there. `steps`: of the shortest and longest."""
    if (data / "raw.json").exists():
        raw = read_raw(data)
        if len(raw.lengths) != episodes:
            raise ValueError(
                f"{data} holds {len(raw.lengths)} episodes, {episodes} were asked for; use another "
                "--data or the same --episodes"
            )
        return raw
    folder = data / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts: list[tuple[int, int, str, str]] = []
    state = action = np.empty((0, 0), np.float32)
    files = {name: (folder / name).open("wb") for name in _raw_files()}
    jobs = _simulated(episodes, steps)
    for seed, task, instruction, frames, state, action in track(jobs, "simulate", total=episodes):
        for camera, rows in frames.items():
            files[f"{camera}.u8"].write(rows.tobytes())
        files["state.f32"].write(state.tobytes())
        files["action.f32"].write(action.tobytes())
        facts.append((len(action), seed, task, instruction))
    for file in files.values():
        file.close()
    lengths, seeds, tasks, instructions = zip(*facts, strict=True)
    raw = Raw(str(folder), lengths, seeds, tasks, instructions, state.shape[1], action.shape[1])
    write_note(data / "raw.json", asdict(raw))
    return raw


Simulated = tuple[int, str, str, dict[str, np.ndarray], np.ndarray, np.ndarray]


def _simulated(episodes: int, steps: tuple[int, int]) -> Iterator[Simulated]:
    """Episodes of the disturbed expert, as `ulna collect` makes them but of a fixed length."""
    from ulna.envs.collect import Disturbance, Noise
    from ulna.envs.cube_tasks import CUBE_TASKS
    from ulna.envs.experts import CubeExpert
    from ulna.envs.robosuite_env import RobosuiteEnv

    for number, task in enumerate(TASKS):
        env = RobosuiteEnv(CUBE_TASKS[task], "near", image_size=SIZE)
        for seed in range(number, episodes, len(TASKS)):
            rng = np.random.default_rng([seed, 99])
            env.reset(seed)
            expert, disturbance = CubeExpert(), Disturbance(Noise(), seed, env.embodiment)
            frames: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
            states, actions = [], []
            for _ in range(rng.integers(*steps, endpoint=True)):
                observation = env.observe()
                action = disturbance.apply(expert.action(env)).astype(np.float32)
                for camera, frame in observation.images.items():
                    frames[camera].append(noisy(frame, rng))
                states.append(observation.state)
                actions.append(action)
                env.step(action)
            stacked = {camera: np.stack(rows) for camera, rows in frames.items()}
            yield seed, task, env.instruction, stacked, np.stack(states), np.stack(actions)
        env.close()


def noisy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(frame.shape, np.float32) * SENSOR_NOISE
    return np.clip(frame + noise + 0.5, 0, 255).astype(np.uint8)


def _raw_files() -> list[str]:
    return [*(f"{camera}.u8" for camera in CAMERAS), "state.f32", "action.f32"]


def write_note(path: Path, content: dict) -> None:
    """Last of all: what is half written has no note."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
