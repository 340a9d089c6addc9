"""The sides of control_loop.py, each a process that answers orders: one JSON line in, one out.

    ulna          our loop and our inference process, rights as in `ulna run`
    c             control_loop.c, our inference process kept busy beside it
    lerobot_sync  lerobot's BaseStrategy around its SyncInferenceEngine (its default)
    lerobot_rtc   the same around its RTCInferenceEngine (inference in a thread)

LeRobot's strategy, engines and robot wrapper are its own; only the policy and the robot are ours,
and the same on all sides: two cameras of 480x640 whose frames are copied at every look.
"""

import functools
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from control_loop_policy import ACTION_DIM, CAMERAS, CHUNK, HEIGHT, WIDTH, make_act, work

PRIORITY = 10


class Frames:
    """Cameras that always have another picture."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        shape = (4, HEIGHT, WIDTH, 3)
        self._frames = {name: random.integers(0, 255, shape, np.uint8) for name in CAMERAS}
        self._number = 0

    def newest(self) -> dict[str, np.ndarray]:
        self._number += 1
        return {name: frames[self._number % 4] for name, frames in self._frames.items()}


# ------------------------------------------------------------------ ours


def embodiment(hz: float) -> Any:
    from ulna.datasets.schema import Camera
    from ulna.deploy_robot.robot import fake_embodiment

    cameras = tuple(Camera(name, HEIGHT, WIDTH) for name in CAMERAS)
    return replace(fake_embodiment(), control_hz=hz, cameras=cameras)


class OurRobot:
    action_latency_s = 0.0

    def __init__(self, hz: float) -> None:
        from ulna.deploy_robot.robot import RobotState

        self.embodiment = embodiment(hz)
        self.state = RobotState.empty(self.embodiment)
        self.frames = Frames()
        self.sent_ns: list[int] = []

    def connect(self, stopping: Any = None) -> None: ...

    def start_episode(self, seed: int, instruction: str | None) -> str:
        self.sent_ns = []
        return "move"

    def read(self) -> Any:
        state = self.state
        for name, frame in self.frames.newest().items():
            state.images[name][...] = frame
        state.version += 1
        state.time_ns = time.monotonic_ns()
        state.image_time_ns[:] = state.time_ns
        return state

    def send(self, action: np.ndarray) -> None:
        self.sent_ns.append(time.monotonic_ns())

    def hold(self) -> None: ...

    def finish_episode(self, video: Path | None) -> Any: ...

    def disconnect(self) -> None: ...


def start_worker(rounds: int, hz: float) -> Any:
    from ulna.deploy_robot.inference_worker import InferenceWorker, encode_make_act

    worker = InferenceWorker(encode_make_act(functools.partial(make_act, rounds)))
    worker.start()
    worker.warm_up(embodiment(hz), "move")
    return worker


class Ulna:
    def __init__(self, rounds: int, _: Path) -> None:
        from ulna.deploy_robot.realtime import prepare_realtime

        self.worker = start_worker(rounds, 30.0)
        self.rights = prepare_realtime(PRIORITY)

    def run(self, hz: float, seconds: float, execution_horizon: int) -> dict[str, Any]:
        from ulna.deploy_robot.clock import MonotonicClock, Ticker
        from ulna.deploy_robot.control_loop import LoopConfig, control_episode
        from ulna.deploy_robot.realtime import quiet_collector, wake_collector
        from ulna.deploy_robot.safety import SafetyGate, SafetyLimits
        from ulna.deploy_robot.tick_log import TickLog
        from ulna.envs.chunk_execution import ChunkExecution, ExecutionConfig

        robot = OurRobot(hz)
        limits = SafetyLimits(
            translation_scale_m=0.01,
            workspace_low_m=(-2.0, -2.0, -2.0),
            workspace_high_m=(2.0, 2.0, 2.0),
            joint_low_rad=(-2.9,),
            joint_high_rad=(2.9,),
        )
        gate = SafetyGate(limits, robot.embodiment)
        config = ExecutionConfig("asynchronous", execution_horizon, delay_margin=1)
        schedule = ChunkExecution(config)
        ticks = round(hz * seconds) + 16
        ticker = Ticker(MonotonicClock(), hz, ticks)
        log = TickLog(ticks, robot.embodiment.state_dim, ACTION_DIM)
        robot.start_episode(0, None)
        self.worker.begin_episode(0, "move")
        quiet_collector()
        ended = control_episode(
            robot, self.worker, ticker, gate, schedule, log, LoopConfig(seconds)
        )
        wake_collector()
        assert ended == "time", f"the gate stopped it: {gate.refusal}"
        period_ns, tick, woke = ticker.period_ns, log["tick"], log["woke_ns"]
        start_ns = int(log["scheduled_ns"][0] - tick[0] * period_ns)
        # A deadline that was lost was as late as the tick that came instead.
        every = np.arange(tick[-1] + 1)
        came = woke[np.searchsorted(tick, every)]
        return {
            "lateness_ns": (came - start_ns - every * period_ns).tolist(),
            "sent_ns": robot.sent_ns,
            "lost": ticker.skipped,
            "starved": schedule.starved,
            "answers": len(schedule.delays),
            "work_ns": (log["sent_ns"] - log["woke_ns"]).tolist(),
            "rights": self.rights.as_dict(),
        }

    def close(self) -> None:
        self.worker.close()


class C:
    def __init__(self, rounds: int, folder: Path) -> None:
        self.program = folder / "control_loop"
        source = Path(__file__).with_name("control_loop.c")
        subprocess.run(["cc", "-O2", "-o", self.program, source], check=True)
        self.worker = start_worker(rounds, 30.0)
        self.answers = 0

    def run(self, hz: float, seconds: float, execution_horizon: int) -> dict[str, Any]:
        stop = threading.Event()
        keeper = threading.Thread(target=self._keep_busy, args=(stop,))
        keeper.start()
        command = [self.program, str(round(hz)), str(seconds), str(PRIORITY)]
        words = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        stop.set()
        keeper.join()
        return {"lateness_ns": [int(word) for word in words.split()], "answers": self.answers}

    def _keep_busy(self, stop: threading.Event) -> None:
        """Ask as our loop would: again as soon as there is an answer."""
        state, tick = OurRobot(30.0).read(), 0
        self.worker.begin_episode(0, "move")
        self.answers = 0
        self.worker.offer(state, tick)
        while not stop.wait(0.01):
            if self.worker.poll() is not None:
                tick, self.answers = tick + 1, self.answers + 1
                self.worker.offer(state, tick)

    def close(self) -> None:
        self.worker.close()


# ------------------------------------------------------------------ theirs


class LeRobot:
    def __init__(self, rounds: int, _: Path, engine: str) -> None:
        import torch
        from lerobot.robots import Robot, RobotConfig
        from lerobot.utils.feature_utils import hw_to_dataset_features

        self.rounds, self.engine = rounds, engine
        joints = tuple(f"joint_{number}.pos" for number in range(ACTION_DIM))

        class TheirRobot(Robot):
            config_class = RobotConfig
            name = "dummy"

            def __init__(self) -> None:
                self.frames, self.sent_ns = Frames(), []
                self.robot_type, self.id = "dummy", None

            @property
            def observation_features(self) -> dict[str, Any]:
                images = {name: (HEIGHT, WIDTH, 3) for name in CAMERAS}
                return {**dict.fromkeys(joints, float), **images}

            @property
            def action_features(self) -> dict[str, Any]:
                return dict.fromkeys(joints, float)

            @property
            def is_connected(self) -> bool:
                return True

            @property
            def is_calibrated(self) -> bool:
                return True

            def connect(self, calibrate: bool = True) -> None: ...

            def calibrate(self) -> None: ...

            def configure(self) -> None: ...

            def get_observation(self) -> dict[str, Any]:
                images = {name: frame.copy() for name, frame in self.frames.newest().items()}
                return {**dict.fromkeys(joints, 0.0), **images}

            def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
                self.sent_ns.append(time.monotonic_ns())
                return action

            def disconnect(self) -> None: ...

            def __del__(self) -> None: ...

        class TheirPolicy:
            """As their chunking policies: `select_action` thinks when its queue is empty."""

            config = SimpleNamespace(use_amp=False, action_feature_names=None)

            def __init__(self) -> None:
                self.chunk = torch.full((1, CHUNK, ACTION_DIM), 0.1)
                self.queue: list[Any] = []

            def reset(self) -> None:
                self.queue.clear()

            def predict_action_chunk(self, batch: Any, **_: Any) -> Any:
                work(rounds)
                return self.chunk

            def select_action(self, batch: Any) -> Any:
                if not self.queue:
                    self.queue.extend(self.predict_action_chunk(batch)[0][:, None])
                return self.queue.pop(0)

        self.robot, self.policy = TheirRobot(), TheirPolicy()
        self.joints = list(joints)
        self.observation = hw_to_dataset_features(self.robot.observation_features, "observation")
        self.action = hw_to_dataset_features(self.robot.action_features, "action")

    def run(self, hz: float, seconds: float, execution_horizon: int) -> dict[str, Any]:
        from lerobot.policies.rtc.configuration_rtc import RTCConfig
        from lerobot.processor import PolicyProcessorPipeline, make_default_processors
        from lerobot.processor.converters import (
            policy_action_to_transition,
            transition_to_policy_action,
        )
        from lerobot.rollout.configs import BaseStrategyConfig
        from lerobot.rollout.inference.rtc import RTCInferenceEngine
        from lerobot.rollout.inference.sync import SyncInferenceEngine
        from lerobot.rollout.robot_wrapper import ThreadSafeRobot
        from lerobot.rollout.strategies.base import BaseStrategy

        wrapper = ThreadSafeRobot(self.robot)
        shutdown = threading.Event()
        features = {**self.observation, **self.action}
        same = functools.partial(PolicyProcessorPipeline, steps=[])
        actions = same(
            to_transition=policy_action_to_transition, to_output=transition_to_policy_action
        )
        policy: Any = self.policy  # it has what they ask of one, and is no torch module
        if self.engine == "sync":
            engine: Any = SyncInferenceEngine(
                policy, same(), actions, features,
                self.joints, "move", "cpu", "dummy",
            )  # fmt: skip
        else:
            engine = RTCInferenceEngine(
                policy, same(), actions, wrapper,
                RTCConfig(), self.observation, "move", hz, "cpu", shutdown_event=shutdown,
            )  # fmt: skip
        teleop, to_robot, from_robot = make_default_processors()
        runtime = SimpleNamespace(
            fps=hz, duration=seconds, interpolation_multiplier=1, use_torch_compile=False,
            display_data=False, return_to_initial_position=False,
        )  # fmt: skip
        context: Any = SimpleNamespace(
            runtime=SimpleNamespace(cfg=runtime, shutdown_event=shutdown),
            hardware=SimpleNamespace(robot_wrapper=wrapper, teleop=None, initial_position=None),
            policy=SimpleNamespace(inference=engine, policy=self.policy),
            processors=SimpleNamespace(
                teleop_action_processor=teleop,
                robot_action_processor=to_robot,
                robot_observation_processor=from_robot,
            ),
            data=SimpleNamespace(dataset_features=features, ordered_action_keys=self.joints),
        )
        strategy = BaseStrategy(BaseStrategyConfig())
        self.robot.sent_ns = []
        strategy.setup(context)
        strategy.run(context)
        strategy.teardown(context)
        assert not engine.failed, "their engine gave up"
        return {"sent_ns": self.robot.sent_ns}

    def close(self) -> None: ...


ARMS = {
    "ulna": Ulna,
    "c": C,
    "lerobot_sync": functools.partial(LeRobot, engine="sync"),
    "lerobot_rtc": functools.partial(LeRobot, engine="rtc"),
}


def main() -> None:
    name, rounds, folder = sys.argv[1:]
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    arm = ARMS[name](int(rounds), Path(folder))
    for line in sys.stdin:
        order = json.loads(line)
        answer = arm.run(**order) if order else {}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    arm.close()


if __name__ == "__main__":
    main()
