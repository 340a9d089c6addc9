"""Demonstrations: the expert acts under disturbance, what it wanted is what is remembered.

Noise on the sent action takes the arm to states the expert alone would never visit; the stored
`action` is the expert's noise-free answer there, so that a policy learns to come back.

Next: `envs/experts.py` (the expert), `datasets/writer.py` (where episodes go).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..datasets.image_codec import Lossless
from ..datasets.schema import Episode
from ..datasets.store import Store
from ..datasets.writer import Writer
from .env import Env
from .rollout import SEEDS_PER_RUN
from .task import Expert
from .tasks import find_task, make_env
from .workers import Failure, WorkerPool

HOLD_STEPS = 4
"""Steps recorded after success, so that a policy learns to keep holding."""


@dataclass(frozen=True)
class Noise:
    """Disturbance of the sent action, in units of the action (1 is full speed)."""

    drift: float = 0.25
    """Standard deviation of the slowly changing part of dx dy dz."""
    turn: float = 0.08
    """The same for drx dry drz."""
    correlation: float = 0.8
    """Share of the slow part that stays from one step to the next."""
    push_probability: float = 0.04
    """Chance per step that a push in a random direction begins."""
    push_size: float = 1.0
    push_steps: tuple[int, int] = (3, 6)
    """Shortest and longest push."""
    fumble_probability: float = 0.006
    """Chance per step that the gripper does the opposite for a while."""
    fumble_steps: tuple[int, int] = (3, 5)


@dataclass(frozen=True)
class CollectSummary:
    """What a collection did."""

    episodes: int
    """Stored by this call."""
    failed: int
    steps: int
    """Simulated, failed episodes included."""
    seconds: float


QUIET = Noise(drift=0.0, turn=0.0, push_probability=0.0, fumble_probability=0.0)


class Disturbance:
    """The noise of one episode, a function of its seed."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self._noise = noise
        self._rng = np.random.default_rng([seed, 2])
        self._slow = np.zeros(6)
        self._push = np.zeros(3)
        self._push_left = self._fumble_left = 0

    def apply(self, action: Float[np.ndarray, "7"]) -> Float[np.ndarray, "7"]:
        """The action to send, within the limits."""
        noise, rng = self._noise, self._rng
        keep = noise.correlation
        scale = np.repeat([noise.drift, noise.turn], 3) * np.sqrt(1 - keep**2)
        self._slow = keep * self._slow + scale * rng.normal(size=6)
        if self._push_left == 0 and rng.random() < noise.push_probability:
            self._push_left = int(rng.integers(*noise.push_steps, endpoint=True))
            direction = rng.normal(size=3)
            self._push = noise.push_size * direction / np.linalg.norm(direction)
        if self._fumble_left == 0 and rng.random() < noise.fumble_probability:
            self._fumble_left = int(rng.integers(*noise.fumble_steps, endpoint=True))
        sent = action.copy()
        sent[:6] += self._slow
        if self._push_left > 0:
            self._push_left -= 1
            sent[:3] += self._push
        if self._fumble_left > 0:
            self._fumble_left -= 1
            sent[6] = -sent[6]
        return np.clip(sent, -1.0, 1.0)


def collect_episode(env: Env, expert: Expert, seed: int, noise: Noise) -> Episode:
    """One demonstration; `success` says whether the expert made it within `env.max_steps`."""
    env.reset(seed)
    disturbance = Disturbance(noise, seed)
    images: dict[str, list[np.ndarray]] = {camera.name: [] for camera in env.embodiment.cameras}
    streams: dict[str, list[np.ndarray]] = {}
    held, success = 0, False
    for _ in range(env.max_steps):
        observation = env.observe()
        action = expert.action(env)
        # Rounded as it is stored, so that sending it again repeats the episode exactly.
        sent = disturbance.apply(action).astype(np.float32)
        for name, frame in observation.images.items():
            images[name].append(frame)
        row = {
            "state": observation.state,
            "action": action.astype(np.float32),
            "action_sent": sent,
            "joint_position_rad": env.joint_position_rad().astype(np.float32),
            "simulator_state": env.simulator_state(),
            "time_ns": np.int64(env.time_ns()),
        }
        for name, value in row.items():
            streams.setdefault(name, []).append(np.asarray(value))
        env.step(sent)
        success = env.success()
        held = held + 1 if success else 0
        if held > HOLD_STEPS:
            break
    return Episode(
        images={name: np.stack(frames) for name, frames in images.items()},
        streams={name: np.stack(rows) for name, rows in streams.items()},
        instruction=env.instruction,
        task=env.task,
        seed=seed,
        success=success,
        info={"outcome": env.outcome()},
    )


class _CollectWorker:
    """One environment and one writer, for episode after episode."""

    def __init__(self, task: str, render_profile: str, store_path: Path, noise: Noise) -> None:
        self._env = make_env(task, render_profile)
        self._task = find_task(task)
        self._writer = Writer(store_path, Lossless(), tool="collect")
        self._noise = noise

    def __call__(self, seed: int) -> tuple[bool, int]:
        """Whether the episode of `seed` succeeded (then it is stored), and its steps."""
        assert self._task.expert is not None
        episode = collect_episode(self._env, self._task.expert(), seed, self._noise)
        if episode.success:
            self._writer.add_episode(episode)
        return bool(episode.success), episode.steps

    def close(self) -> None:
        self._writer.close()
        self._env.close()


def collect(
    task: str,
    store_path: Path | str,
    episodes: int,
    seed: int = 0,
    workers: int = 2,
    append: bool = False,
    resume: bool = False,
    noise: Noise | None = None,
    render_profile: str = "",
    progress: bool = True,
) -> CollectSummary:
    """Store `episodes` successful demonstrations of `task`; failed ones are not kept.

    The episodes are the first successes among the seeds `seed * 100000 + 0, 1, 2, ...`, whatever
    the number of workers. A store that exists is refused unless `append` (that many more, from
    the seed after the highest one present) or `resume` (an interrupted collection is completed
    to what it would have been). Ctrl-C ends with every finished episode in the store.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; expected 1 or more")
    if append and resume:
        raise ValueError("got both append and resume; append adds more, resume completes")
    shown = find_task(task)
    if shown.expert is None:
        raise ValueError(f"nobody demonstrates {task}: it has no scripted expert")
    profile = render_profile or shown.profiles[-1]
    store_path, started = Path(store_path), time.monotonic()
    first, present = seed * SEEDS_PER_RUN, set[int]()
    if (append or resume) and store_path.exists():
        store = Store.open(store_path)
        own = range(first, first + SEEDS_PER_RUN)
        present = {r.seed for r in store.episodes if r.task == task and r.seed in own}
        if append:
            first = max(present, default=first - 1) + 1
            present = set()
    else:
        Store.create(store_path, shown.embodiment(profile))
    make_worker = partial(_CollectWorker, task, profile, store_path, noise or Noise())
    stored = failed = steps = attempted = 0
    with (
        WorkerPool(make_worker, workers, timeout_s=120.0) as pool,
        _progress_bar(task, episodes, progress) as advance,
    ):
        while stored + (known := len(present & set(range(first, first + attempted)))) < episodes:
            # In waves of exactly what is missing, so that no seed beyond the last one needed is
            # tried, however many workers there are.
            wave = range(first + attempted, first + attempted + episodes - stored - known)
            attempted += len(wave)
            jobs = [job for job in wave if job not in present]
            advance(len(wave) - len(jobs), failed)
            for index, outcome in pool.run(jobs):
                if isinstance(outcome, Failure):
                    raise RuntimeError(
                        f"collecting stopped at seed {jobs[index]}: {outcome.message}\n"
                        f"{outcome.traceback}The episodes finished before are in {store_path}."
                    )
                success, length = outcome
                stored, failed, steps = stored + success, failed + (not success), steps + length
                advance(int(success), failed)
    return CollectSummary(stored, failed, steps, time.monotonic() - started)


@contextmanager
def _progress_bar(task: str, episodes: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that is told (episodes just finished, episodes failed so far)."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show) as bar:
        row = bar.add_task(f"collect {task}", total=episodes, failed=0)
        yield lambda finished, failed: bar.update(row, advance=finished, failed=failed)
