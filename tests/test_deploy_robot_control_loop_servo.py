"""The loop on an arm that obeys joint positions, at a servo rate above the policy's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.datasets.schema import Camera, Embodiment, Observation
from ulna.deploy_robot.clock import FakeClock, Ticker
from ulna.deploy_robot.control_loop import LoopConfig, control_episode
from ulna.deploy_robot.control_tick import Gate
from ulna.deploy_robot.inference import InlineInference
from ulna.deploy_robot.interpolation import Interpolator
from ulna.deploy_robot.interventions import Intervention
from ulna.deploy_robot.limits import ArmLimits
from ulna.deploy_robot.orders import SOURCE_HOLD, SOURCE_OPERATOR, Orders
from ulna.deploy_robot.robot import EpisodeEnd, RobotState
from ulna.deploy_robot.safety import SafetyGate
from ulna.deploy_robot.tick_log import TickLog
from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig, Mode

CONTROL_HZ, STEPS, HORIZON = 20.0, 5, 12
SERVO_HZ = CONTROL_HZ * STEPS
ARM = Embodiment(
    name="two_joints",
    control_hz=CONTROL_HZ,
    state_names=("shoulder_rad", "elbow_rad", "time_s"),
    action_names=("shoulder", "elbow.pos", "gripper"),
    action_low=(-3.0, -3.0, 0.0),
    action_high=(3.0, 3.0, 1.0),
    action_meaning="absolute joint positions, rad",
    cameras=(Camera("front", 8, 8),),
    joint_names=("shoulder", "elbow"),
)
LIMITS = ArmLimits(
    name="two_joints",
    joint_names=ARM.joint_names,
    position_low_rad=(-2.0, -2.0),
    position_high_rad=(2.0, 2.0),
    velocity_rad_s=(2.0, 2.0),
    acceleration_rad_s2=(10.0, 10.0),
    jerk_rad_s3=(300.0, 300.0),
    unlimited=("workspace", "collision", "tracking"),
)


class JointArm:
    """Is where it was told to be, from the next `read` on."""

    action_latency_s = 0.0
    embodiment = ARM

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.sent: list[np.ndarray] = []
        self.sent_ns: list[int] = []
        self.held_after: list[int] = []
        self._now_ns = now_ns
        self._begin_ns = now_ns()
        self._state = RobotState.empty(ARM)
        self._position = np.array([0.0, 0.5])

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> None: ...

    def start_episode(self, seed: int, instruction: str | None) -> str:
        return instruction or "wave"

    def read(self) -> RobotState:
        state = self._state
        state.version += 1
        state.time_ns = self._now_ns()
        state.image_time_ns[:] = state.time_ns
        state.joint_position_rad[:] = self._position
        state.state[:2], state.state[2] = self._position, (state.time_ns - self._begin_ns) * 1e-9
        return state

    def send(self, action: np.ndarray) -> None:
        self.sent.append(np.array(action))
        self.sent_ns.append(self._now_ns())
        self._position[:] = action[:2]

    def hold(self) -> None:
        self.held_after.append(len(self.sent))

    def finish_episode(self, video: Path | None) -> EpisodeEnd:
        return EpisodeEnd(False, "none", {}, {}, video=False)

    def disconnect(self) -> None: ...


def wave(time_s: np.ndarray) -> np.ndarray:
    return np.stack([0.3 * np.sin(2 * time_s), 0.5 - 0.2 * np.sin(3 * time_s)], axis=-1)


def waving(observation: Observation) -> np.ndarray:
    """Where to be at the ticks from the observation on; the gripper closes after a second."""
    ticks_s = observation.state[2] + np.arange(HORIZON) / CONTROL_HZ
    chunk = np.concatenate([wave(ticks_s), (ticks_s > 1.0)[:, None]], axis=1)
    return chunk.astype(np.float32)


class Script:
    def __init__(self, orders: Callable[[float], Orders]) -> None:
        self.orders = orders

    def poll(self, now_ns: int, state: RobotState) -> Orders:
        return self.orders(float(state.state[2]))


class OpenGate:
    """Lets everything through: what the loop itself makes of a plan."""

    at_rest, latched = True, Intervention(0)

    def __init__(self) -> None:
        self.last = np.zeros(3)

    def stop(self) -> None: ...

    def fail(self, reason: str) -> None: ...

    def check(
        self, action: np.ndarray | None, state: np.ndarray, joint_position_rad: np.ndarray,
        observation_age_s: float, action_age_s: float, policy_silence_s: float,
        policy_dead: bool, policy_reachable: bool = True, dt_s: float | None = None,
    ) -> tuple[np.ndarray, int]:  # fmt: skip
        if action is None:
            return self.last, Intervention.NO_ACTION.value
        self.last[:] = action
        return self.last, 0


class Bench:
    def __init__(
        self, delay: Callable[[], int] = lambda: 2, mode: Mode = "asynchronous",
        oversleep_ns: tuple[int, ...] = (), limits: ArmLimits = LIMITS, gate: Gate | None = None,
    ) -> None:  # fmt: skip
        self.clock = FakeClock(oversleep_ns=oversleep_ns)
        self.robot = JointArm(self.clock.now_ns)
        self.inference = InlineInference(waving, HORIZON, delay)
        self.gate = gate or SafetyGate(limits, ARM, SERVO_HZ)
        self.schedule = ChunkExecution(ExecutionConfig(mode, 4, delay_margin=1))
        self.ticker = Ticker(self.clock, SERVO_HZ, 5000)
        self.log = TickLog(500, ARM.state_dim, ARM.action_dim)

    def run(self, seconds: float = 3.0, **others: Any) -> str:
        self.inference.begin_episode(1, "wave")
        self.robot.start_episode(1, "wave")
        interpolator = Interpolator(ARM, CONTROL_HZ, SERVO_HZ)
        return control_episode(
            self.robot, self.inference, self.ticker, self.gate, self.schedule, self.log,
            LoopConfig(seconds), interpolator=interpolator, **others,
        )  # fmt: skip

    @property
    def path(self) -> np.ndarray:
        return np.array(self.robot.sent)[:, :2]

    def assert_lawful(self) -> None:
        """Every difference of the commands within the limits; jerk as far as a mean over a tick
        can say, and rest in the end."""
        path = np.concatenate([np.tile(self.path[:1], (3, 1)), self.path])
        velocity = np.diff(path, axis=0) * SERVO_HZ
        acceleration = np.diff(velocity, axis=0) * SERVO_HZ
        jerk = np.diff(acceleration, axis=0) * SERVO_HZ
        assert np.abs(velocity).max() <= 2.0 + 1e-6
        assert np.abs(acceleration).max() <= 10.0 + 1e-6
        assert np.abs(jerk).max() <= 300.0 + 1e-3
        assert np.abs(velocity[-1]).max() < 1e-4, "let go of while it moved"


def test_actions_are_met_at_their_ticks_and_the_way_between_is_smooth():
    bench = Bench(gate=OpenGate())
    assert bench.run() == "time"
    log = bench.log
    assert log["tick"].tolist() == list(range(60))
    moving = slice(10, 60)
    assert not log["gate"][moving].any()
    np.testing.assert_allclose(log["action_sent"][moving], log["action_due"][moving], atol=1e-6)
    # Between the actions the arm follows the wave itself, closer than straight lines would.
    times_s = (np.array(bench.robot.sent_ns) - bench.robot._begin_ns) * 1e-9
    within = (times_s > 0.5) & (times_s < 2.9)
    assert np.abs(bench.path - wave(times_s))[within].max() < 2e-3
    gripper = np.array(bench.robot.sent)[:, 2]
    assert set(gripper) == {0.0, 1.0} and np.flatnonzero(gripper)[0] % STEPS == 0
    assert bench.schedule.starved == 0
    # Velocity does not jump at the seams of actions and chunks: no acceleration beyond a few times
    # the wave's own 1.8 rad/s^2; straight lines between actions would have 9 at each of them.
    acceleration = np.diff(bench.path, n=2, axis=0)[60:] * SERVO_HZ**2
    assert np.abs(acceleration).max() < 5.0


def test_the_gate_leaves_a_lawful_plan_alone_once_it_has_caught_up():
    bench = Bench()
    bench.run()
    settled = slice(25, 60)
    assert not bench.log["gate"][settled].any()
    np.testing.assert_allclose(
        bench.log["action_sent"][settled], bench.log["action_due"][settled], atol=1e-6
    )
    bench.assert_lawful()


def test_a_starved_arm_brakes_within_its_limits_and_goes_on():
    delays = iter([2, 2, 2, 40, *[2] * 100])
    bench = Bench(lambda: next(delays))
    bench.run(5.0)
    starved = bench.log["action_index"] == -2
    assert bench.schedule.starved == starved.sum() > 20
    assert (bench.log["gate"][starved] & Intervention.NO_ACTION.value).all()
    bench.assert_lawful()
    # It stands near where the plan ended (at most as far as braking takes it), never at zero.
    last = int(np.flatnonzero(starved)[0]) - 1
    held = bench.log["action_sent"][int(np.flatnonzero(starved)[-1]), :2]
    assert np.abs(held - bench.log["action_due"][last, :2]).max() < 0.1 < np.abs(held).max()
    assert bench.log["source"][-10] == 0, "it moves again"


@pytest.mark.parametrize("servo_tick", [100, 102])
def test_a_stop_is_a_brake_and_the_log_has_its_reason(servo_tick: int):
    bench = Bench()
    ended = bench.run(stopping=lambda: bench.ticker.tick >= servo_tick)
    assert isinstance(bench.gate, SafetyGate)
    assert ended == "stopped" and bench.gate.refusal == "manual_stop"
    assert bench.robot.held_after == [len(bench.robot.sent)], "let go of once, at rest"
    assert 3 < len(bench.robot.sent) - servo_tick < 60
    assert (bench.log["gate"] & Intervention.MANUAL_STOP.value).any()
    assert (bench.log["source"][-1]) == SOURCE_HOLD
    bench.assert_lawful()


def test_the_end_of_an_episode_is_a_brake_too():
    bench = Bench()
    assert bench.run(1.6) == "time"
    assert len(bench.robot.sent) > 32 * STEPS and not bench.gate.latched
    bench.assert_lawful()


def test_a_pause_brakes_and_the_arm_goes_on_from_there():
    bench = Bench()
    bench.run(4.0, operator=Script(lambda t: Orders(paused=1.0 < t < 2.0)))
    paused = bench.log["source"] == SOURCE_HOLD
    assert bench.log["tick"][-1] >= 4.0 * CONTROL_HZ + paused[10:].sum() - 10
    bench.assert_lawful()
    assert bench.schedule.starved == 0 and not bench.gate.latched


def test_a_hand_that_jumps_is_followed_within_the_limits():
    bench = Bench()
    hand = np.array([0.5, -0.4, 1.0], np.float32)
    orders = Script(lambda t: Orders(action=hand if 1.0 < t < 2.5 else None))
    assert bench.run(4.0, operator=orders) == "time"
    by_hand = bench.log["source"] == SOURCE_OPERATOR
    assert by_hand.sum() in (29, 30)
    np.testing.assert_allclose(bench.log["action_sent"][by_hand][-1], hand, atol=1e-4)
    slowed = bench.log["gate"][by_hand] & (
        Intervention.VELOCITY | Intervention.ACCELERATION | Intervention.JERK
    )
    assert slowed.any()
    bench.assert_lawful()


def test_lost_servo_ticks_do_not_lose_the_way():
    late = [0] * 300
    late[120] = late[200] = 23_000_000  # each loses two or three servo ticks
    bench = Bench(oversleep_ns=tuple(late), gate=OpenGate())
    bench.run()
    assert bench.ticker.skipped >= 4
    np.testing.assert_allclose(
        bench.log["action_sent"][50:58], bench.log["action_due"][50:58], atol=1e-6
    )


def test_without_a_servo_rate_the_gate_alone_keeps_the_limits():
    limits = replace(LIMITS, jerk_rad_s3=(), unlimited=(*LIMITS.unlimited, "jerk"))
    bench = Bench(limits=limits)
    bench.gate = SafetyGate(limits, ARM)
    bench.ticker = Ticker(bench.clock, CONTROL_HZ, 500)
    bench.inference.begin_episode(1, "wave")
    ended = control_episode(
        bench.robot, bench.inference, bench.ticker, bench.gate, bench.schedule, bench.log,
        LoopConfig(2.0), stopping=lambda: bench.log.rows >= 30,
    )  # fmt: skip
    assert ended == "stopped" and len(bench.robot.sent) > 31
    assert bench.gate.at_rest and np.abs(np.diff(bench.path, axis=0)[-1]).max() < 1e-3


def test_an_arm_that_was_never_seen_is_told_to_hold_not_to_go_to_nowhere():
    bench = Bench()
    position = bench.robot._position
    seen = position.copy()

    def blind() -> bool:
        position[:] = np.nan if bench.ticker.tick < 30 else seen
        return False

    position[:] = np.nan
    bench.run(1.0, stopping=blind)
    assert np.isfinite(np.array(bench.robot.sent)).all()
    assert len(bench.robot.held_after) > 20 and len(bench.robot.sent) > 10
    assert (bench.log["gate"][:5] & Intervention.OBSERVATION_INVALID.value).all()
