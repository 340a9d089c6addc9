"""Demonstrations: the expert acts under disturbance, what it wanted is what is remembered.

Noise on the sent action takes the arm to states the expert alone would never visit; the stored
`action` is the expert's noise-free answer there, so that a policy learns to come back.

        reset(seed) -> expert -> noise -> step ... until success has lasted, or time is up
              pictures at every step ("inline"), or of the stored states when it is known that
              the episode is kept ("afterwards"): the same pixels

Next: `envs/disturbance.py` (the noise), `envs/experts.py` (an expert), `datasets/writer.py` (where
episodes go).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..datasets.image_codec import Lossless
from ..datasets.schema import Embodiment, Episode, unknown_name
from ..datasets.store import Store
from ..datasets.writer import Writer
from .disturbance import Disturbance, Noise
from .env import Env
from .rollout import SEEDS_PER_RUN
from .task import Expert, Task
from .tasks import installed_task
from .workers import Failure, WorkerPool

HOLD_STEPS = 4
"""Steps recorded after success, so that a policy learns to keep holding."""


ImagesWhen = Literal["inline", "afterwards"]


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


def collect_episode(
    env: Env,
    expert: Expert,
    seed: int,
    noise: Noise,
    images: ImagesWhen = "inline",
    keep_failures: bool = True,
) -> Episode:
    """One demonstration; `success` says whether the expert made it within `env.max_steps`.

    `keep_failures` False with `images` "afterwards": a failed episode comes without pictures.
    """
    env.reset(seed)
    disturbance = Disturbance(noise, seed, env.embodiment)
    frames: dict[str, list[np.ndarray]] = {camera.name: [] for camera in env.embodiment.cameras}
    streams: dict[str, list[np.ndarray]] = {}
    held, success = 0, False
    for _ in range(env.max_steps):
        if images == "inline":
            _draw(env, frames)
        action = expert.action(env)
        # Rounded as it is stored, so that sending it again repeats the episode exactly.
        sent = disturbance.apply(action).astype(np.float32)
        row = {
            "state": env.state(),
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
    outcome, instruction = env.outcome(), env.instruction
    if images == "afterwards" and (success or keep_failures):
        for state in streams["simulator_state"]:
            env.restore(state, instruction)
            _draw(env, frames)
    words: dict[str, tuple[str, ...]] = getattr(env, "paraphrases", {})
    return Episode(
        images={name: np.stack(rows) for name, rows in frames.items() if rows},
        streams={name: np.stack(rows) for name, rows in streams.items()},
        instruction=instruction,
        task=env.task,
        seed=seed,
        success=success,
        info={"outcome": outcome},
        paraphrases=words.get(instruction, ()),
    )


def _draw(env: Env, frames: dict[str, list[np.ndarray]]) -> None:
    for camera in env.embodiment.cameras:
        frames[camera.name].append(env.render(camera.name, camera.height, camera.width))


class _CollectWorker:
    """One environment and one writer, for episode after episode."""

    def __init__(
        self,
        task: Task,
        render_profile: str,
        store_path: Path,
        noise: Noise,
        keep_failures: bool,
        images: ImagesWhen,
    ) -> None:
        self._env = task.make(render_profile)
        self._task = task
        self._writer = Writer(store_path, Lossless(), tool="collect")
        self._noise = noise
        self._keep_failures = keep_failures
        self._images: ImagesWhen = images

    def __call__(self, seed: int) -> tuple[bool, int]:
        """Whether the episode of `seed` succeeded, and its steps; stores it if it is to be kept."""
        assert self._task.expert is not None
        episode = collect_episode(
            self._env,
            self._task.expert(),
            seed,
            self._noise,
            self._images,
            self._keep_failures,
        )
        if episode.success or self._keep_failures:
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
    keep_failures: bool = False,
    images: str = "afterwards",
    image_size: int = 0,
) -> CollectSummary:
    """Store `episodes` successful demonstrations of `task`; failed ones only with `keep_failures`,
    besides the successful ones and marked as failed.

    The episodes are the first successes among the seeds `seed * 100000 + 0, 1, 2, ...`, whatever
    the number of workers. A store that exists is refused unless `append` (that many more, from
    the seed after the highest one present) or `resume` (an interrupted collection is completed
    to what it would have been). Ctrl-C ends with every finished episode in the store.

    `image_size`: pixels of a picture's side; 0: those of the store that is added to, or the task's
    own. `noise` None: what the expert says it bears (`noise`), else `Noise()`.

    `images`: "inline" draws while the expert acts, "afterwards" when an episode is known to be
    kept; the pixels are the same, and "afterwards" draws no episode in vain.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; expected 1 or more")
    if append and resume:
        raise ValueError("got both append and resume; append adds more, resume completes")
    if images not in ("inline", "afterwards"):
        raise unknown_name("time of drawing", images, ("inline", "afterwards"))
    shown = installed_task(task).with_image_size(image_size)
    if shown.expert is None:
        raise ValueError(f"nobody demonstrates {task}: it has no scripted expert")
    profile = render_profile or shown.profiles[-1]
    store_path, started = Path(store_path), time.monotonic()
    first, present = seed * SEEDS_PER_RUN, dict[int, bool]()
    if (append or resume) and store_path.exists():
        store = Store.open(store_path)
        shown = shown if image_size else shown.seen_by([store.embodiment])
        if shown.embodiment(profile) != store.embodiment:
            raise ValueError(
                f"{store_path} holds episodes of {_looks(store.embodiment)}, but {task} gives "
                f"{_looks(shown.embodiment(profile))}; use another store, or the same --image-size"
            )
        own = range(first, first + SEEDS_PER_RUN)
        present = {
            r.seed: bool(r.success) for r in store.episodes if r.task == task and r.seed in own
        }
        if append:
            first = max(present, default=first - 1) + 1
            present = {}
    else:
        Store.create(store_path, shown.embodiment(profile))
    assert shown.expert is not None
    make_worker = partial(
        _CollectWorker,
        shown,
        profile,
        store_path,
        noise or getattr(shown.expert(), "noise", Noise()),
        keep_failures,
        cast(ImagesWhen, images),
    )
    stored = failed = steps = attempted = 0
    with (
        WorkerPool(make_worker, workers, timeout_s=120.0) as pool,
        _progress_bar(task, episodes, progress) as advance,
    ):
        while stored + (known := _successes(present, first, attempted)) < episodes:
            # In waves of exactly what is missing, so that no seed beyond the last one needed is
            # tried, however many workers there are.
            wave = range(first + attempted, first + attempted + episodes - stored - known)
            attempted += len(wave)
            jobs = [job for job in wave if job not in present]
            advance(sum(present[job] for job in wave if job in present), failed)
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


def _looks(robot: Embodiment) -> str:
    pictures = ", ".join(
        f"{camera.name} {camera.height}x{camera.width}" for camera in robot.cameras
    )
    return f"{robot.name} ({pictures}; rendered {robot.render_profile!r})"


def _successes(present: dict[int, bool], first: int, count: int) -> int:
    """How many of `count` seeds from `first` on are there already, as successes."""
    return sum(present.get(seed, False) for seed in range(first, first + count))


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
