"""A MuJoCo arm that lives in wall-clock time, in a process of its own, as a real arm would.

    simulation process, every 1 / control_hz seconds on absolute deadlines:

        deadline n                                              deadline n + 1
        | latch the newest command | render, publish | physics | sleep ...
          (each is obeyed once;      the scene as it   of the
           none, or a stale one:     is at deadline n  period
           hold)                     (capture time)

It waits for nobody. A command that comes late is missed, two that come within one period lose the
older one, and a simulation that cannot keep up says so: all of it is counted. Commands go in and
measurements come out through shared memory; the connection carries `start`, `finish` and `end`.
"""

import functools
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from ..envs.env import Env
from .clock import MonotonicClock, Ticker
from .processes import (
    await_message,
    encode,
    end_process,
    obey_parent_only,
    report_crash,
    start_process,
    tell,
)
from .robot import EpisodeEnd, RobotState
from .shared_record import Field, SharedRecord

COMMAND_TIMEOUT_S = 0.15
"""A command older than this is not obeyed any more."""
WARM_UP_STEPS = 3
VIDEO_SIZE = 256
START_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 300.0


class SimRobot:
    """The simulated arm of `task` as a `Robot`."""

    action_latency_s: float = 0.0

    def __init__(self, task: str, make_env: Callable[[], Env] | None = None) -> None:
        """`make_env`: another way to build the environment in its process; must be picklable."""
        self.task = task
        self._make_env = make_env or functools.partial(_make_task_env, task)
        self._process = None
        self._embodiment: Embodiment | None = None

    @property
    def embodiment(self) -> Embodiment:
        if self._embodiment is None:
            raise RuntimeError(f"the simulated {self.task} is not connected; call connect() first")
        return self._embodiment

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._process, self._connection = start_process(
            _simulate, (self._make_env,), f"simulated {self.task}", {"OMP_NUM_THREADS": "1"}
        )
        try:
            embodiment: Embodiment = self._await("ready", START_TIMEOUT_S, stopping)
            self._measurements = SharedRecord.receive(self._connection)
            self._commands = SharedRecord.receive(self._connection)
        except BaseException:
            self.disconnect()
            raise
        self._embodiment = embodiment
        # A command sent half a period after a deadline is obeyed at the next one.
        self.action_latency_s = 0.5 / embodiment.control_hz
        self._state = RobotState.empty(embodiment)
        self._clocks = {
            "time_ns": np.zeros((), dtype=np.int64),
            "success": np.zeros((), dtype=np.bool_),
        }
        self._arrays = {
            "state": self._state.state,
            "joint_position_rad": self._state.joint_position_rad,
            **{f"image.{name}": image for name, image in self._state.images.items()},
            **self._clocks,
        }

    def start_episode(self, seed: int, instruction: str | None) -> str:
        return self._ask(("start", (seed, instruction)), "started", START_TIMEOUT_S)

    def read(self) -> RobotState:
        state = self._state
        version = self._measurements.read(self._arrays)
        if version > 0:
            state.version = version
            state.time_ns = int(self._clocks["time_ns"])
            state.image_time_ns[:] = state.time_ns
            state.success = bool(self._clocks["success"])
        return state

    def send(self, action: Float[np.ndarray, " action_dim"]) -> None:
        slot = self._commands.begin()
        slot["action"][...] = action
        slot["hold"][...] = False
        slot["sent_ns"][...] = time.monotonic_ns()
        self._commands.commit()

    def hold(self) -> None:
        slot = self._commands.begin()
        slot["hold"][...] = True
        slot["sent_ns"][...] = time.monotonic_ns()
        self._commands.commit()

    def finish_episode(self, video: Path | None) -> EpisodeEnd:
        return self._ask(("finish", video), "finished", FINISH_TIMEOUT_S)

    def disconnect(self) -> None:
        # A dead or never started process holds by itself: nobody steps the physics.
        if self._process is not None:
            end_process(self._process, self._connection)
            self._process = None

    def _ask(self, message: tuple[str, object], expected: str, timeout_s: float):
        if self._process is not None:
            tell(self._connection, encode(message))
        return self._await(expected, timeout_s)

    def _await(self, expected: str, timeout_s: float, stopping=lambda: False):
        if self._process is None:
            raise RuntimeError(f"the simulated {self.task} is not connected; call connect() first")
        return await_message(self._process, self._connection, expected, timeout_s, stopping)


def _make_task_env(task: str) -> Env:
    # Imported in the simulation process only: the control process stays free of MuJoCo.
    from ..envs.tasks import make_env

    return make_env(task, render_profile="fast")


def _simulate(connection: Connection, make_env: Callable[[], Env]) -> None:
    """Main function of the simulation process."""
    obey_parent_only()
    try:
        try:
            env = make_env()
        except ValueError as error:
            connection.send(("refused", str(error)))
            return
        try:
            _Simulation(env, connection).serve()
        finally:
            env.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone: nothing moves any more, nobody is left to tell
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


class _Simulation:
    """The inside of the simulation process."""

    def __init__(self, env: Env, connection: Connection) -> None:
        self.env = env
        self.connection = connection
        self.embodiment = env.embodiment
        self.ticker = Ticker(MonotonicClock(), env.embodiment.control_hz, capacity=1)
        self.commands = SharedRecord(
            (
                Field("action", "float64", (env.embodiment.action_dim,)),
                Field("hold", "bool"),
                Field("sent_ns", "int64"),
            )
        )
        self.command = self.commands.empty()
        self.measurements = SharedRecord(measurement_fields(env.embodiment))
        self.motion = np.array(
            [not name.startswith("gripper") for name in env.embodiment.action_names]
        )
        self.running = False
        # First calls compile, load and allocate; a real arm has done so before it is switched on.
        env.reset(0)
        for _ in range(WARM_UP_STEPS):
            env.observe()
            env.step(np.zeros(env.embodiment.action_dim))
            env.simulator_state()

    def serve(self) -> None:
        """Obey the control process until it says `end`."""
        self.connection.send(("ready", self.embodiment))
        self.measurements.send(self.connection)
        self.commands.send(self.connection)
        while True:
            while self.connection.poll(0 if self.running else None):
                kind, value = self.connection.recv()
                if kind == "end":
                    return
                if kind == "start":
                    self._start(*value)
                elif kind == "finish":
                    self._finish(value)
                else:
                    raise ValueError(f"message {kind!r}; known: start, finish, end")
            self._tick()

    def _start(self, seed: int, instruction: str | None) -> None:
        try:
            self.env.reset(seed, instruction)
        except ValueError as error:
            self.connection.send(("refused", str(error)))
            return
        self.seen_command = self.commands.version
        self.applied = np.zeros(self.embodiment.action_dim, dtype=np.float64)
        self.streams: dict[str, list[np.ndarray]] = {"simulator_state": [], "action_applied": []}
        self.held_ticks = self.dropped_commands = 0
        self.ticker.start(time.monotonic_ns() + self.ticker.period_ns)
        # The scene stands still until the first deadline, so this picture is true then too.
        self._publish(time.monotonic_ns())
        self.running = True
        self.connection.send(("started", self.env.instruction))

    def _tick(self) -> None:
        self.ticker.wait()
        self._latch()
        self._publish(self.ticker.deadline_ns)
        self.streams["simulator_state"].append(np.array(self.env.simulator_state()))
        self.streams["action_applied"].append(self.applied.astype(np.float32))
        self.env.step(self.applied)

    def _latch(self) -> None:
        """Set `applied` to the newest command if it is new and fresh, else to hold."""
        version = self.commands.read(self.command)
        fresh = version > self.seen_command
        if fresh:
            if not self.command["hold"]:  # one that was overtaken by a stop is not lost
                self.dropped_commands += version - self.seen_command - 1
            self.seen_command = version
            age_s = (time.monotonic_ns() - int(self.command["sent_ns"])) * 1e-9
            fresh = age_s <= COMMAND_TIMEOUT_S and not self.command["hold"]
        if fresh:
            self.applied[:] = self.command["action"]
        else:
            self.applied[self.motion] = 0.0
            self.held_ticks += 1

    def _publish(self, time_ns: int) -> None:
        observation = self.env.observe()
        slot = self.measurements.begin()
        slot["state"][...] = observation.state
        slot["joint_position_rad"][...] = self.env.joint_position_rad()
        slot["success"][...] = self.env.success()
        slot["time_ns"][...] = time_ns
        for name, image in observation.images.items():
            slot[f"image.{name}"][...] = image
        self.measurements.commit()

    def _finish(self, video: Path | None) -> None:
        self.running = False
        success, outcome = bool(self.env.success()), self.env.outcome()
        streams = {name: np.array(rows) for name, rows in self.streams.items()}
        counters = {
            "overruns": self.ticker.skipped,
            "held_ticks": self.held_ticks,
            "dropped_commands": self.dropped_commands,
        }
        filmed = video is not None and len(streams["simulator_state"]) > 0
        if video is not None and filmed:
            from ..envs.video import film, write_mp4

            frames = film(
                self.env,
                streams["simulator_state"],
                self.env.instruction,
                [camera.name for camera in self.embodiment.cameras],
                VIDEO_SIZE,
            )
            write_mp4(video, frames, self.embodiment.control_hz)
        self.connection.send(("finished", EpisodeEnd(success, outcome, counters, streams, filmed)))


def measurement_fields(embodiment: Embodiment) -> tuple[Field, ...]:
    """The layout of an observation in shared memory."""
    return (
        Field("state", "float32", (embodiment.state_dim,)),
        Field("joint_position_rad", "float64", (len(embodiment.joint_names),)),
        Field("time_ns", "int64"),
        Field("success", "bool"),
        *(
            Field(f"image.{camera.name}", "uint8", (camera.height, camera.width, 3))
            for camera in embodiment.cameras
        ),
    )
