"""The control loop with everything it needs on one fake clock; not a test itself."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ulna.datasets.schema import Observation
from ulna.deploy_robot.clock import FakeClock, Ticker
from ulna.deploy_robot.control_loop import LoopConfig, control_episode
from ulna.deploy_robot.inference import InlineInference
from ulna.deploy_robot.orders import Orders, TickRecord
from ulna.deploy_robot.robot import FakeRobot, RobotState
from ulna.deploy_robot.safety import SafetyGate, SafetyLimits
from ulna.deploy_robot.tick_log import TickLog
from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig, Mode

LIMITS = SafetyLimits(
    translation_scale_m=0.01,
    workspace_low_m=(-2.0, -2.0, -2.0),
    workspace_high_m=(2.0, 2.0, 2.0),
    joint_low_rad=(-2.9,),
    joint_high_rad=(2.9,),
)
PERIOD_NS = 50_000_000


class Bench:
    """Everything `control_episode` needs, on one fake clock."""

    def __init__(
        self,
        act: Callable[[Observation], np.ndarray] = lambda _: np.full((8, 4), 0.25, np.float32),
        delay: int = 1,
        mode: Mode = "asynchronous",
        success_after: int | None = None,
        oversleep_ns: tuple[int, ...] = (),
    ) -> None:
        self.clock = FakeClock(oversleep_ns=oversleep_ns)
        self.robot = FakeRobot(self.clock.now_ns, success_after)
        self.inference = InlineInference(act, 8, lambda: delay)
        self.gate = SafetyGate(LIMITS, self.robot.embodiment)
        self.schedule = ChunkExecution(ExecutionConfig(mode, 4, delay_margin=1))
        self.ticker = Ticker(self.clock, 20.0, 500)
        self.log = TickLog(500, 4, 4)
        self.robot.connect()

    def run(
        self,
        max_episode_s: float = 5.0,
        stopping: Callable[[], bool] = lambda: False,
        **others: Any,
    ) -> str:
        self.robot.start_episode(1, "move")
        self.inference.begin_episode(1, "move")
        return control_episode(
            self.robot,
            self.inference,
            self.ticker,
            self.gate,
            self.schedule,
            self.log,
            LoopConfig(max_episode_s),
            stopping,
            **others,
        )

    def after(self, ticks: int, happen: Callable[[], None]) -> Callable[[], bool]:
        """A `stopping` that never stops but lets something happen at a tick."""

        def hook() -> bool:
            if self.log.rows == ticks:
                happen()
            return False

        return hook


class Script:
    """An operator who does what a table says, by the number of the poll."""

    def __init__(self, table: dict[int, Orders]) -> None:
        self.table = table
        self.polls = 0

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        self.polls += 1
        return self.table.get(self.polls - 1, Orders())


class Witness:
    def __init__(self) -> None:
        self.ticks: list[int] = []
        self.sources: list[int] = []
        self.chunks: list[tuple[int, int, float]] = []

    def tick(self, record: TickRecord, state: RobotState) -> None:
        self.ticks.append(record.tick)
        self.sources.append(record.source)

    def chunk(self, tick: int, observation_tick: int, chunk: np.ndarray) -> None:
        self.chunks.append((tick, observation_tick, float(chunk[0, 0])))
