"""The policy in a process of its own, and how the control loop talks to it without ever waiting.

    control loop                          inference process
    offer(observation) --shared memory--> act(observation)      may take many ticks
                       --one byte------->
    poll() <-----------shared memory----- chunk, with the tick of its observation
    beats  <---------------------------- heartbeat, between two answers and while idle

The process is started with a *picklable callable that builds the policy*, so weights, GPU contexts
and thread pools come into being where they are used and the control process never imports them.
Arming the arm waits for a warm-up: the first calls of a policy are many times slower.

`inference.py` is the border that the control loop knows.
"""

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from ..datasets.schema import Act, Embodiment, Observation
from ..envs.rollout import noise_seed
from .inference import Answer, MakeAct
from .processes import (
    await_message,
    encode,
    end_process,
    obey_parent_only,
    report_crash,
    start_process,
    tell,
)
from .robot import RobotState
from .shared_record import Field, SharedRecord

WARM_UP_CALLS = 3
_LOOK = encode(("look", None))
_IDLE_POLL_S = 0.02


class InferenceWorker:
    """The policy in its own process, seen from the control process."""

    horizon: int = 0
    """Known from `warm_up` on."""
    seconds: list[float]
    """How long each answer of this episode was computed."""

    def __init__(self, encoded_make_act: bytes) -> None:
        """`encoded_make_act`: from `encode_make_act`; opaque here, since decoding it would import
        the policy's libraries into the control process."""
        self._encoded_make_act = encoded_make_act
        self._process = None
        self._broken = False

    def start(self) -> None:
        """Begin to load the policy; returns at once."""
        self._process, self._connection = start_process(
            _infer, (), "inference", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        )
        tell(self._connection, self._encoded_make_act)

    def warm_up(
        self,
        embodiment: Embodiment,
        instruction: str,
        timeout_s: float = 300.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> float:
        """Wait until the policy is loaded and has answered a few times; returns the seconds its
        last warm-up call took. Raises ValueError if the policy does not fit the embodiment."""
        assert self._process is not None, "warm_up before start"
        tell(self._connection, encode(("warm_up", (embodiment, instruction))))
        self.horizon, seconds = await_message(
            self._process, self._connection, "ready", timeout_s, stopping
        )
        self._observations = SharedRecord.receive(self._connection)
        self._chunks = SharedRecord.receive(self._connection)
        self._answer = self._chunks.empty()
        self._seen = self._beats = 0
        self._heard_ns = time.monotonic_ns()
        self._episode = 0
        self.seconds = []
        return seconds

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None, "not started"
        return self._process.pid

    def begin_episode(self, seed: int, instruction: str) -> None:
        self._episode += 1
        self.seconds = []
        self._heard_ns = time.monotonic_ns()
        self._tell(encode(("episode", (self._episode, seed, instruction))))

    def offer(self, state: RobotState, observation_tick: int) -> None:
        slot = self._observations.begin()
        for name, image in state.images.items():
            slot[f"image.{name}"][...] = image
        slot["state"][...] = state.state
        slot["tick"][...] = observation_tick
        slot["episode"][...] = self._episode
        self._observations.commit()
        self._tell(_LOOK)

    def poll(self) -> Answer | None:
        if self._chunks.version == self._seen:
            return None
        version = self._chunks.read(self._answer)
        if version == 0:
            return None  # overtaken while copying: the next tick reads it
        self._seen = version
        if int(self._answer["episode"]) != self._episode:
            return None
        seconds = float(self._answer["seconds"])
        self.seconds.append(seconds)
        return Answer(int(self._answer["tick"]), self._answer["chunk"], seconds)

    def dead(self) -> bool:
        return self._broken or self._process is None or not self._process.is_alive()

    def silence_s(self, now_ns: int) -> float:
        beats = self._chunks.beats
        if beats != self._beats:
            self._beats, self._heard_ns = beats, now_ns
        return max(0.0, (now_ns - self._heard_ns) * 1e-9)

    def last_words(self) -> str:
        """After `dead()`: the traceback of the process, or how it ended without one."""
        process = self._process
        if process is None:
            return "the inference process was never started"
        process.join(2.0)
        try:
            while self._connection.poll(0):
                kind, value = self._connection.recv()
                if kind == "crashed":
                    return value
        except (EOFError, ConnectionResetError):
            pass  # it said nothing more; its exit code is what is left
        return f"the inference process ended without a traceback (exit code {process.exitcode})"

    def close(self) -> None:
        if self._process is not None:
            # It has no state to save; one that hangs is not waited for.
            end_process(self._process, self._connection, grace_s=1.0)
            self._process = None

    def _tell(self, message: bytes) -> None:
        # At most a few bytes are ever unread at the other end, so this cannot block.
        self._broken = not tell(self._connection, message) or self._broken


def encode_make_act(make_act: MakeAct) -> bytes:
    """`make_act` as bytes for the inference process, refused here if it cannot travel."""
    try:
        return encode(make_act)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"make_act {make_act!r} cannot be sent to the inference process ({error}); give a "
            "module-level function or functools.partial(load_act, folder), not a lambda"
        ) from error


def _infer(connection: Connection) -> None:
    """Main function of the inference process."""
    obey_parent_only()
    try:
        try:
            act = connection.recv()()
            torch = sys.modules.get("torch")
            if torch is not None:
                torch.set_num_threads(1)  # the other cores belong to the arm and its cameras
            message = connection.recv()
            if message[0] == "end":
                return
            embodiment, instruction = message[1]
            horizon, seconds = _warm_up(act, embodiment, instruction)
        except (ValueError, OSError) as error:
            if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
                raise
            connection.send(("refused", str(error)))
            return
        connection.send(("ready", (horizon, seconds)))
        _serve(connection, act, embodiment, horizon)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone: nobody is left to answer
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


def _warm_up(act: Act, embodiment: Embodiment, instruction: str) -> tuple[int, float]:
    blank = RobotState.empty(embodiment)
    shape, seconds = (0, 0), 0.0
    for call in range(WARM_UP_CALLS):
        started = time.perf_counter()
        chunk = act(Observation(blank.images, blank.state, instruction, call))
        seconds = time.perf_counter() - started
        shape = np.shape(chunk)
        if len(shape) != 2 or shape[1] != embodiment.action_dim:
            raise ValueError(
                f"the policy gave an action chunk of shape {shape}, but {embodiment.name} takes "
                f"(horizon, {embodiment.action_dim}); use a policy trained for this embodiment"
            )
    return shape[0], seconds


def _serve(connection: Connection, act: Act, embodiment: Embodiment, horizon: int) -> None:
    observations = SharedRecord(
        (
            Field("state", "float32", (embodiment.state_dim,)),
            Field("tick", "int64"),
            Field("episode", "int64"),
            *(
                Field(f"image.{camera.name}", "uint8", (camera.height, camera.width, 3))
                for camera in embodiment.cameras
            ),
        )
    )
    chunks = SharedRecord(
        (
            Field("chunk", "float32", (horizon, embodiment.action_dim)),
            Field("tick", "int64"),
            Field("episode", "int64"),
            Field("seconds", "float64"),
        )
    )
    observations.send(connection)
    chunks.send(connection)
    seen = observations.empty()
    images = {camera.name: seen[f"image.{camera.name}"] for camera in embodiment.cameras}
    episode, seed, instruction = 0, 0, ""
    while True:
        chunks.beat()
        if not connection.poll(_IDLE_POLL_S):
            continue
        look = False
        while connection.poll(0):
            kind, value = connection.recv()
            if kind == "end":
                return
            if kind == "look":
                look = True
            else:
                episode, seed, instruction = value
        if not look or observations.read(seen) == 0 or int(seen["episode"]) != episode:
            continue
        tick = int(seen["tick"])
        started = time.perf_counter()
        chunk = act(Observation(images, seen["state"], instruction, noise_seed(seed, max(tick, 0))))
        seconds = time.perf_counter() - started
        if np.shape(chunk) != (horizon, embodiment.action_dim):
            raise ValueError(
                f"the policy's chunk changed shape from {(horizon, embodiment.action_dim)} to "
                f"{np.shape(chunk)}; a policy on an arm must keep its horizon"
            )
        slot = chunks.begin()
        slot["chunk"][...] = chunk
        slot["tick"][...] = tick
        slot["episode"][...] = episode
        slot["seconds"][...] = seconds
        chunks.commit()
