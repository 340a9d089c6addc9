"""A MuJoCo arm that lives in wall-clock time, in a process of its own, as a real arm would.

    control process                        simulation process (sim_process.py)
        send  ---> commands (shared memory) --[command_delay]--> arm, --[servo_lag]--> motion
        read  <--- measurements (shared memory) <--[camera_delay, drop]-- cameras, arm
        fault <--- is the process there, is the link whole, is every part fresh

Nobody waits for anybody; the connection carries `start`, `finish` and `end`. What stands in
brackets is only there if `SimFaults` asks for it.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from ..envs.env import Env
from .processes import (
    await_message,
    encode,
    end_process,
    start_process,
    tell,
)
from .robot import EpisodeEnd, RobotState
from .robot_health import LOST_TIMEOUT_S, overdue, require_finite
from .shared_record import SharedRecord
from .sim_faults import SimFaults
from .sim_process import simulate

START_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 300.0
"""Films are drawn meanwhile."""


class SimRobot:
    """The simulated arm of `task` as a `Robot`."""

    action_latency_s: float = 0.0

    def __init__(
        self,
        task: str,
        make_env: Callable[[], Env] | None = None,
        faults: SimFaults = SimFaults(),  # noqa: B008 (frozen)
        trained_for: Embodiment | None = None,
    ) -> None:
        """`make_env`: another way to build the environment in its process; must be picklable.
        `trained_for`: of the policy that is to move it; it gets pictures of the size it knows."""
        self.task = task
        self.faults = faults
        self._make_env = make_env or functools.partial(_make_task_env, task, trained_for)
        self._process = None
        self._embodiment: Embodiment | None = None

    @property
    def embodiment(self) -> Embodiment:
        if self._embodiment is None:
            raise RuntimeError(f"the simulated {self.task} is not connected; call connect() first")
        return self._embodiment

    @property
    def device_pid(self) -> int | None:
        """Of the simulation process."""
        return None if self._process is None else self._process.pid

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._process, self._connection = start_process(
            simulate,
            (self._make_env, self.faults),
            f"simulated {self.task}",
            {"OMP_NUM_THREADS": "1"},
        )
        try:
            embodiment: Embodiment = self._await("ready", START_TIMEOUT_S, stopping)
            self._measurements = SharedRecord.receive(self._connection)
            self._commands = SharedRecord.receive(self._connection)
            self._link = SharedRecord.receive(self._connection)
        except BaseException:
            self.disconnect()
            raise
        self._embodiment = embodiment
        # A command sent half a period after a deadline is obeyed at the next one.
        self.action_latency_s = 0.5 / embodiment.control_hz + self.faults.command_delay_s
        self._state = RobotState.empty(embodiment)
        self._clocks = {
            "time_ns": np.zeros((), dtype=np.int64),
            "success": np.zeros((), dtype=np.bool_),
        }
        self._link_lost = {"lost": np.zeros((), dtype=np.bool_)}
        self._camera_names = [camera.name for camera in embodiment.cameras]
        self._arrays = {
            "state": self._state.state,
            "joint_position_rad": self._state.joint_position_rad,
            **{f"image.{name}": image for name, image in self._state.images.items()},
            "image_time_ns": self._state.image_time_ns,
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
            state.success = bool(self._clocks["success"])
        return state

    def fault(self) -> str:
        """Why the arm cannot be relied on any more; empty while it can. Never waits."""
        if self._process is None or not self._process.is_alive():
            return f"the process of the simulated {self.task} is gone"
        if self._link.read(self._link_lost) and self._link_lost["lost"]:
            return f"the link to the simulated {self.task} is lost"
        return overdue(self._state, self._camera_names, time.monotonic_ns())

    def send(self, action: Float[np.ndarray, " action_dim"]) -> None:
        require_finite(action)
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
        timeout_s = LOST_TIMEOUT_S if self.fault() else FINISH_TIMEOUT_S
        return self._ask(("finish", video), "finished", timeout_s)

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


def _make_task_env(task: str, trained_for: Embodiment | None) -> Env:
    # Imported in the simulation process only: the control process stays free of MuJoCo.
    from ..envs.tasks import installed_task

    found = installed_task(task)
    if trained_for is None:
        return found.make(found.profiles[-1])
    profile = trained_for.render_profile
    known = profile in found.profiles
    return found.seen_by([trained_for]).make(profile if known else found.profiles[-1])
