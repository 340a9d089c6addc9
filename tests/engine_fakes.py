"""A world of one number that is pushed towards a goal: an `Env` without a simulator, and policies
for it. In a file of its own, because worker processes must be able to import it.

The seed places the goal. Seeds 66, 77 and 88 are bad: the environment raises, hangs, or dies.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ulna.datasets.schema import Act, ActBatch, Camera, Embodiment, Observation
from ulna.envs.task import Task

RAISES, HANGS, DIES = 66, 77, 88
BODY = Embodiment(
    name="bead",
    control_hz=10.0,
    state_names=("place", "goal"),
    action_names=("dx", "gripper"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_meaning="dx moves by a tenth of it; the gripper does nothing",
    cameras=(Camera("front", 4, 6), Camera("wrist", 4, 4)),
    joint_names=("bead",),
    render_profile="fast",
)
HORIZON = 12


class BeadEnv:
    """Success is to be near the goal; the goal drifts, so that late actions cost something."""

    task = "bead"
    instructions = ("go left", "go right")
    max_steps = 40

    def __init__(self, profile: str, drift: float = 0.02) -> None:
        self.embodiment = replace(BODY, render_profile=profile)
        self.drift = drift
        self.reset(0)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        self.seed, self.tick = seed, 0
        rng = np.random.default_rng(seed)
        self._instruction = instruction or self.instructions[int(rng.integers(2))]
        side = -1.0 if self._instruction == "go left" else 1.0
        self.place, self.goal = 0.0, side * rng.uniform(0.5, 1.5)

    @property
    def instruction(self) -> str:
        return self._instruction

    def observe(self) -> Observation:
        rng = np.random.default_rng([self.seed, self.tick])
        images = {
            c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8)
            for c in self.embodiment.cameras
        }
        return Observation(images, self.state(), self._instruction)

    def state(self) -> np.ndarray:
        return np.array([self.place, self.goal], np.float32)

    def joint_position_rad(self) -> np.ndarray:
        return np.array([self.place])

    def time_ns(self) -> int:
        return self.tick * 100_000_000

    def step(self, action: np.ndarray) -> None:
        self.tick += 1
        if self.tick == 5:
            if self.seed == RAISES:
                raise RuntimeError("the simulator diverged")
            if self.seed == HANGS:
                time.sleep(600)
            if self.seed == DIES:
                os._exit(9)
        self.place += 0.1 * float(np.clip(action[0], -1, 1))
        self.goal += self.drift * np.sin(self.tick / 3 + self.seed)

    def success(self) -> bool:
        return abs(self.place - self.goal) < 0.06

    def outcome(self) -> str:
        return "there" if self.success() else "none"

    def simulator_state(self) -> np.ndarray:
        return np.array([self.place, self.goal, self.tick, self.seed], np.float64)

    def restore(self, state: np.ndarray, instruction: str) -> None:
        self.place, self.goal, self.tick, self.seed = (
            float(state[0]), float(state[1]), int(state[2]), int(state[3]),
        )  # fmt: skip
        self._instruction = instruction

    def render(self, camera: str, height: int, width: int, profile: str | None = None):
        return np.full((height, width, 3), self.tick, np.uint8)

    def close(self) -> None:
        pass


def bead_embodiment(profile: str) -> Embodiment:
    return replace(BODY, render_profile=profile)


BEAD = Task(
    name="bead",
    suite="fake",
    instructions=BeadEnv.instructions,
    max_steps=BeadEnv.max_steps,
    embodiment=bead_embodiment,
    make=BeadEnv,
    missing=str,  # the default is a lambda, which no process can be sent
)
STILL_BEAD = replace(BEAD, make=partial(BeadEnv, drift=0.0))


def chunk(observation: Observation) -> np.ndarray:
    """Walk to where the goal was seen, then rest; with noise of the observation's seed, and a
    trace of every pixel, word and entry, so that a mistake in the transport changes the result."""
    latest = observation.state.reshape(-1, 2)[-1]
    rest = (float(latest[1]) - float(latest[0])) * 10
    steps = np.clip(rest - np.arange(HORIZON), -1, 1) if rest > 0 else (
        np.clip(rest + np.arange(HORIZON), -1, 1)
    )  # fmt: skip
    steps[np.sign(steps) != np.sign(rest)] = 0
    rng = np.random.default_rng(observation.noise_seed)
    pixels = sum(int(frames.astype(int).sum()) for frames in observation.images.values())
    words = sum(observation.instruction.encode())
    actions = np.stack([steps + rng.normal(size=HORIZON) * 0.05, np.full(HORIZON, 0.5)], axis=1)
    actions[:, 1] += 1e-3 * np.sin(pixels + words)
    return actions.astype(np.float32)


def make_act() -> Act:
    return chunk


class Batched:
    """The policy for batches; `sizes` are those it was asked with."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, observations: Sequence[Observation]) -> list[np.ndarray]:
        self.sizes.append(len(observations))
        return [chunk(observation) for observation in observations]


def make_act_batch() -> Batched:
    return Batched()


def make_faulty_act() -> Act:
    def act(observation: Observation) -> np.ndarray:
        raise ZeroDivisionError("the weights are gone")

    return act


def make_faulty_act_batch() -> ActBatch:
    return lambda observations: [make_faulty_act()(observations[0])]
