"""Small environments and policies that spawned processes can import (`deploy_robot_fakes.NAME`).

Not a test itself: test modules are not importable by name in a child process, this file is once
its folder stands in `sys.path`, which a spawned child inherits.
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from ulna.datasets.schema import Observation
from ulna.deploy_robot.inference import PolicyUnavailable
from ulna.deploy_robot.robot import fake_embodiment
from ulna.deploy_robot.run import run
from ulna.deploy_robot.safety import SafetyLimits
from ulna.deploy_robot.shared_record import SharedRecord
from ulna.deploy_robot.sim_robot import SimRobot

LIMITS = SafetyLimits(
    translation_scale_m=0.01,
    workspace_low_m=(-1.0, -1.0, -1.0),
    workspace_high_m=(1.0, 1.0, 1.0),
    joint_low_rad=(-2.0,),
    joint_high_rad=(2.0,),
    max_policy_silence_s=0.3,
)
GOAL_M = 0.1


class GantryEnv:
    """A point that moves by the action; the goal is 0.1 m away along x."""

    task = "gantry"
    instructions: tuple[str, ...] = ("move forward",)
    max_steps = 100

    def __init__(self, step_s: float = 0.0) -> None:
        self.embodiment = fake_embodiment()
        self._step_s = step_s
        self.reset(0)

    def reset(self, seed: int, instruction: str | None = None) -> None:
        if instruction not in (None, *self.instructions):
            raise ValueError(f"unknown instruction {instruction!r}. Known: move forward")
        self._state = np.array([0.0, 0.0, float(seed % 7) * 0.01, 0.0])
        self._steps = 0

    @property
    def instruction(self) -> str:
        return self.instructions[0]

    def observe(self) -> Observation:
        image = np.full((8, 8, 3), self._steps % 256, dtype=np.uint8)
        return Observation({"front": image}, self.state(), self.instruction)

    def state(self) -> np.ndarray:
        return self._state.astype(np.float32)

    def joint_position_rad(self) -> np.ndarray:
        return np.zeros(1)

    def time_ns(self) -> int:
        return round(self._steps * 1e9 / self.embodiment.control_hz)

    def step(self, action: np.ndarray) -> None:
        time.sleep(self._step_s)
        self._state[:3] += 0.01 * action[:3]
        self._state[3] = action[3]
        self._steps += 1

    def success(self) -> bool:
        return bool(self._state[0] >= GOAL_M - 1e-9)

    def outcome(self) -> str:
        return "arrived" if self.success() else "none"

    def simulator_state(self) -> np.ndarray:
        return self._state.copy()

    def restore(self, state: np.ndarray, instruction: str) -> None:
        self._state = state.copy()

    def render(self, camera: str, height: int, width: int, profile: str | None = None):
        return np.zeros((height, width, 3), dtype=np.uint8)

    def close(self) -> None:
        pass


def make_env() -> GantryEnv:
    return GantryEnv()


def make_marking_env(path: str) -> GantryEnv:
    """Writes a file once it is well into an episode."""

    class Marking(GantryEnv):
        def step(self, action: np.ndarray) -> None:
            super().step(action)
            if self._steps == 10:
                Path(path).touch()

    return Marking()


def make_dying_env() -> GantryEnv:
    """Its process is killed in the middle of an episode, as nothing else can tell."""

    class Dying(GantryEnv):
        def step(self, action: np.ndarray) -> None:
            super().step(action)
            if self._steps == 10:
                os.kill(os.getpid(), signal.SIGKILL)

    return Dying()


def make_slow_env() -> GantryEnv:
    return GantryEnv(step_s=0.08)


def make_broken_env() -> GantryEnv:
    raise RuntimeError("the gantry is bent")


def gantry() -> SimRobot:
    return SimRobot("gantry", make_env)


def chunk(x: float, steps: int = 8) -> np.ndarray:
    actions = np.zeros((steps, 4), dtype=np.float32)
    actions[:, 0] = x
    return actions


def make_forward():
    return lambda observation: chunk(0.5)


def make_still():
    return lambda observation: chunk(0.0)


def make_echo():
    """Says in its chunk what it was told: row 0 has the count of planned actions, the delay and
    the first letter of the instruction, the others are the planned actions."""

    def act(observation: Observation) -> np.ndarray:
        actions = chunk(0.0)
        planned = observation.planned
        if planned is not None:
            actions[1 : len(planned)] = planned[1:]
        count = 0 if planned is None else len(planned)
        actions[0] = count, observation.inference_delay, ord(observation.instruction[0]), 0
        return actions

    return act


def make_remembering():
    """Says in its chunk what it saw: of each of its three observations the brightness of the
    picture and the state's first entry. Takes its time if told to
    think."""

    def act(observation: Observation) -> np.ndarray:
        actions, frames = chunk(0.0), observation.images["front"]
        assert frames.shape == (3, 8, 8, 3) and observation.state.shape == (3, 4)
        actions[:3, 0] = frames[:, 0, 0, 0]
        actions[:3, 1] = observation.state[:, 0]
        if observation.instruction == "think":
            time.sleep(0.3)
        return actions

    return act


class Elsewhere:
    """A policy behind a network that is down while a file stands."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def __call__(self, observation: Observation) -> np.ndarray:
        if self.path.exists():
            raise PolicyUnavailable("no route to the policy")
        return chunk(0.1)

    def probe(self) -> bool:
        return not self.path.exists()


def make_wrong_shape():
    return lambda observation: np.zeros((8, 3), dtype=np.float32)


def make_broken():
    raise RuntimeError("no such weights")


def make_crashing():
    """Answers while it warms up and twice more, then raises."""
    calls = []

    def act(observation: Observation) -> np.ndarray:
        calls.append(1)
        if len(calls) > 5:
            raise FloatingPointError("the seventh layer overflowed")
        return chunk(0.1)

    return act


def make_hanging():
    """Answers while it warms up and twice more, then never again."""
    calls = []

    def act(observation: Observation) -> np.ndarray:
        calls.append(1)
        if len(calls) > 5:
            time.sleep(1000)
        return chunk(0.1)

    return act


def write_forever(connection) -> None:
    """Child: publish records whose two arrays are full of the same number."""
    record = SharedRecord.receive(connection)
    number = 0
    while not connection.poll(0):
        number += 1
        slot = record.begin()
        slot["low"][...] = number
        slot["high"][...] = number
        record.commit()
    connection.send(number)


def main(out: str) -> None:
    """A run that lasts until it is interrupted."""
    run(
        make_still,
        functools.partial(
            SimRobot, "gantry", functools.partial(make_marking_env, f"{out}/running")
        ),
        out=Path(out),
        max_episode_s=600,
        limits=LIMITS,
        video=False,
        execution_horizon=4,
    )


if __name__ == "__main__":
    # By its importable name, so that children find the same objects.
    import deploy_robot_fakes

    # Whoever runs the tests in a shell's background has Ctrl-C ignored, and we inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    deploy_robot_fakes.main(sys.argv[1])
