"""The inside of a simulated robot's process: physics, pictures and injected faults, on a clock.

    every 1 / control_hz seconds on absolute deadlines:

        deadline n                                              deadline n + 1
        | latch the newest command | render, publish | physics | sleep ...
          (each is obeyed once;      the scene as it   of the
           none, or a stale one:     is at deadline n  period
           hold)                     (capture time)

It waits for nobody. A command that comes late is missed, two that come within one period lose the
older one, and a simulation that cannot keep up says so: all of it is counted. `sim_robot.py` is
the other end.
"""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from ..datasets.schema import Embodiment
from ..envs.env import Env
from .clock import MonotonicClock, Ticker
from .processes import obey_parent_only, report_crash
from .robot import EpisodeEnd
from .shared_record import Field, SharedRecord
from .sim_faults import CommandLine, FrameLine, SimFaults, follow, require_camera

COMMAND_TIMEOUT_S = 0.15
"""A command older than this is not obeyed any more."""
WARM_UP_STEPS = 3
VIDEO_SIZE = 256


def simulate(connection: Connection, make_env: Callable[[], Env], faults: SimFaults) -> None:
    """Main function of the simulation process."""
    obey_parent_only()
    try:
        try:
            env = make_env()
            require_camera(faults, [camera.name for camera in env.embodiment.cameras])
        except ValueError as error:
            connection.send(("refused", str(error)))
            return
        try:
            _Simulation(env, connection, faults).serve()
        finally:
            env.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone: nothing moves any more, nobody is left to tell
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


class _Simulation:
    """The inside of the simulation process."""

    def __init__(self, env: Env, connection: Connection, faults: SimFaults) -> None:
        self.env = env
        self.faults = faults
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
        cameras = env.embodiment.cameras
        self.measurements = SharedRecord(
            (*measurement_fields(env.embodiment), Field("image_time_ns", "int64", (len(cameras),)))
        )
        self.link = SharedRecord((Field("lost", "bool"),))
        self.command_line = CommandLine(faults)
        self.frames = {
            camera.name: FrameLine(faults, camera.name, number, len(cameras))
            for number, camera in enumerate(cameras)
        }
        self.arrived = {
            camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in cameras
        }
        self.arrived_ns = np.zeros(len(cameras), dtype=np.int64)
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
        self.link.send(self.connection)
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
        self.command_line = CommandLine(self.faults)
        self.applied = np.zeros(self.embodiment.action_dim, dtype=np.float64)
        self.wanted = self.applied.copy()
        self.streams: dict[str, list[np.ndarray]] = {"simulator_state": [], "action_applied": []}
        self.held_ticks = self.dropped_commands = 0
        # The scene stands still until the first deadline, so this picture is true then too; if it
        # comes late, the episode begins when it is there.
        now_ns = time.monotonic_ns()
        self.link_ends_ns = now_ns + min(self.faults.link_loss_s, 1e9) * 1e9
        self._set_link(lost=False)
        for line in self.frames.values():
            line.start(now_ns)
        self._capture(now_ns)
        if self.frames:
            time.sleep(self.faults.camera_delay_s)
        now_ns = time.monotonic_ns()
        self.ticker.start(now_ns + self.ticker.period_ns)
        self._publish(now_ns, now_ns)
        self.running = True
        self.connection.send(("started", self.env.instruction))

    def _tick(self) -> None:
        self.ticker.wait()
        captured_ns = self.ticker.deadline_ns
        if captured_ns < self.link_ends_ns:
            self._latch()
            self._capture(captured_ns)
            self._publish(captured_ns, time.monotonic_ns())
        else:
            self._set_link(lost=True)
            self.wanted[self.motion] = 0.0
            self.held_ticks += 1
        period_s = self.ticker.period_ns * 1e-9
        lagging = follow(self.applied, self.wanted, period_s, self.faults.servo_lag_s)
        self.applied[:] = np.where(self.motion, lagging, self.wanted)
        self.streams["simulator_state"].append(np.array(self.env.simulator_state()))
        self.streams["action_applied"].append(self.applied.astype(np.float32))
        self.env.step(self.applied)

    def _latch(self) -> None:
        """Set `wanted` to the newest command if it is new and fresh, else to hold."""
        version = self.commands.read(self.command)
        now_ns = time.monotonic_ns()
        if version > self.seen_command:
            if not self.command["hold"]:  # one that was overtaken by a stop is not lost
                self.dropped_commands += version - self.seen_command - 1
            self.seen_command = version
            self.command_line.push(
                int(self.command["sent_ns"]), bool(self.command["hold"]), self.command["action"]
            )
        newest = self.command_line.arrived(now_ns)
        if (
            newest is not None
            and not newest[1]
            and (now_ns - newest[0]) * 1e-9 <= COMMAND_TIMEOUT_S
        ):
            self.wanted[:] = newest[2]
        else:
            self.wanted[self.motion] = 0.0
            self.held_ticks += 1

    def _set_link(self, lost: bool) -> None:
        self.link.begin()["lost"][...] = lost
        self.link.commit()

    def _capture(self, time_ns: int) -> None:
        """Look, and put the frames on their way."""
        self.observation = self.env.observe()
        for name, line in self.frames.items():
            line.push(time_ns, self.observation.images[name])

    def _publish(self, time_ns: int, now_ns: int) -> None:
        """Publish the state of `time_ns`, and of each camera the newest frame that is there."""
        for number, (name, line) in enumerate(self.frames.items()):
            frame = line.arrived(now_ns)
            if frame is not None:
                self.arrived_ns[number], self.arrived[name] = frame
        slot = self.measurements.begin()
        slot["state"][...] = self.observation.state
        slot["joint_position_rad"][...] = self.env.joint_position_rad()
        slot["success"][...] = self.env.success()
        slot["time_ns"][...] = time_ns
        slot["image_time_ns"][...] = self.arrived_ns
        for name, image in self.arrived.items():
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
            "dropped_frames": sum(line.dropped for line in self.frames.values()),
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
