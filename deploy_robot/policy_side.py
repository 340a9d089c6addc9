"""The control loop's conversation with the policy: what came, what is asked, what was said.

Joins `inference.py` (who never waits) to `../envs/chunk_execution.py` (which action is due).
"""

from ..envs.chunk_execution import ChunkExecution
from .inference import Inference
from .orders import LoopWatcher
from .robot import RobotState

_RETRY_S = 0.1
"""A lost question is not repeated sooner: every one copies the images."""


class PolicySide:
    """One episode's conversation. All methods from the control loop."""

    plan_time_ns: int
    """Capture of the observation that the present plan was made from."""

    def __init__(
        self,
        inference: Inference,
        schedule: ChunkExecution,
        watcher: LoopWatcher,
        control_hz: float,
    ) -> None:
        self._inference, self._schedule, self._watcher = inference, schedule, watcher
        self._retry_ticks = max(1, round(_RETRY_S * control_hz))
        self._not_before = 0
        self._asked_time_ns = 0
        self.plan_time_ns = 0

    def told(self, instruction: str) -> None:
        """The policy gets another command. Its plan runs on until an answer to that came."""
        self._inference.set_instruction(instruction)
        self._schedule.ask_anew()

    def see(self, tick: int, state: RobotState) -> None:
        """What the robot says at this control tick: each one counts for a policy that sees several
        at once, also while it is not asked or others have the arm."""
        self._inference.see(tick, state)

    def hush(self) -> None:
        """Others have the arm: whatever the policy still says is about another time."""
        self._inference.poll()

    def hear(self, tick: int) -> None:
        """Take the chunk that came, if one did."""
        answer = self._inference.poll()
        schedule = self._schedule
        if answer is None or not schedule.expects(answer.observation_tick):
            return
        if answer.chunk is None:
            schedule.lost(answer.observation_tick)
            self._not_before = tick + self._retry_ticks
            return
        number = schedule.chunk_number
        schedule.arrived(tick, answer.observation_tick, answer.chunk)
        if schedule.chunk_number != number:
            self.plan_time_ns = self._asked_time_ns
        self._watcher.chunk(tick, answer.observation_tick, answer.chunk)

    def look(self, tick: int, state: RobotState, observation_tick: int) -> None:
        """Give the policy the present observation, if it is time for one."""
        if tick < self._not_before or not self._schedule.wants_observation(tick, observation_tick):
            return
        planned, delay = self._schedule.requested(tick, observation_tick)
        self._inference.offer(state, observation_tick, planned, delay)
        self._asked_time_ns = state.observation_time_ns
