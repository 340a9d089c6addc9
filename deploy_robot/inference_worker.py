"""The policy in a process of its own, and how the control loop talks to it without ever waiting.

    control loop                          inference process
    see(state)         every tick, kept here for policies that see several (observation_ring.py)
    offer(state) --------shared memory--> act(observation)      may take many ticks
                       --one byte------->
    poll() <-----------shared memory----- chunk, with the tick of its observation
    beats  <---------------------------- heartbeat, between two answers and while idle
    reachable() <--shared memory-------- whether a policy that is elsewhere can be asked

The process is started with a *picklable callable that builds the policy*, so weights, GPU contexts
and thread pools come into being where they are used and the control process never imports them.
Arming the arm waits for a warm-up: the first calls of a policy are many times slower.

`inference.py` is the border that the control loop knows, `inference_process.py` the other end.
"""

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .inference import Answer, MakeAct
from .inference_process import LOOK, infer
from .observation_ring import ObservationRing
from .policy_units import UnitMap
from .processes import await_message, encode, end_process, start_process, tell
from .robot import RobotState
from .shared_record import SharedRecord


class InferenceWorker:
    """The policy in its own process, seen from the control process."""

    horizon: int = 0
    """Known from `warm_up` on."""
    seconds: list[float]
    """How long each answer of this episode was computed."""

    def __init__(self, encoded_make_act: bytes, history: int = 1) -> None:
        """`encoded_make_act`: from `encode_make_act`; opaque here, since decoding it would import
        the policy's libraries into the control process. `history`: observations the policy sees at
        once, those of consecutive control ticks."""
        self._encoded_make_act = encoded_make_act
        self._history = history
        self._ring: ObservationRing | None = None
        self._process = None
        self._broken = False

    def start(self) -> None:
        """Begin to load the policy; returns at once."""
        self._process, self._connection = start_process(
            infer, (), "inference", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        )
        tell(self._connection, self._encoded_make_act)

    def translate(self, units: UnitMap) -> None:
        """Before `warm_up`: the policy's numbers are not the robot's, it is asked in its own."""
        tell(self._connection, encode(("units", units)))

    def warm_up(
        self,
        embodiment: Embodiment,
        instruction: str,
        timeout_s: float = 300.0,
        stopping: Callable[[], bool] = lambda: False,
        continues: bool = False,
    ) -> float:
        """Wait until the policy is loaded and has answered a few times; returns the seconds its
        last warm-up call took. `continues`: it will be told what is planned (mode `rtc`), and is
        in the last of these calls too. Raises ValueError if it does not fit the embodiment."""
        assert self._process is not None, "warm_up before start"
        asked = (embodiment, instruction, continues, self._history)
        tell(self._connection, encode(("warm_up", asked)))
        self.horizon, seconds = await_message(
            self._process, self._connection, "ready", timeout_s, stopping
        )
        self._observations = SharedRecord.receive(self._connection)
        self._chunks = SharedRecord.receive(self._connection)
        self._line = SharedRecord.receive(self._connection)
        if self._history > 1:
            self._ring = ObservationRing(self._history, RobotState.empty(embodiment))
        self._line_state = self._line.empty()
        self._answer = self._chunks.empty()
        self._seen = 0
        self._begun_ns = time.monotonic_ns()
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
        self._begun_ns = time.monotonic_ns()
        if self._ring is not None:
            self._ring.clear()
        self._tell(encode(("episode", (self._episode, seed, instruction))))

    def set_instruction(self, instruction: str) -> None:
        self._tell(encode(("instruction", instruction)))

    def see(self, tick: int, state: RobotState) -> None:
        if self._ring is not None:
            self._ring.see(tick, state)

    def offer(
        self,
        state: RobotState,
        observation_tick: int,
        planned: Float[np.ndarray, "planned action_dim"] | None = None,
        inference_delay: int = 0,
    ) -> None:
        slot = self._observations.begin()
        if self._ring is None:
            for name, image in state.images.items():
                slot[f"image.{name}"][...] = image
            slot["state"][...] = state.state
        else:
            places = {name: slot[f"image.{name}"] for name in state.images}
            self._ring.write(slot["state"], places)
        slot["tick"][...] = observation_tick
        slot["episode"][...] = self._episode
        count = 0 if planned is None else min(len(planned), self.horizon)
        if planned is not None:
            slot["planned"][:count] = planned[:count]
        slot["planned_count"][...] = count
        slot["inference_delay"][...] = min(inference_delay, count)
        self._observations.commit()
        self._tell(LOOK)

    def poll(self) -> Answer | None:
        if self._chunks.version == self._seen:
            return None
        version = self._chunks.read(self._answer)
        if version == 0:
            return None  # overtaken while copying: the next tick reads it
        self._seen = version
        if int(self._answer["episode"]) != self._episode:
            return None
        if self._answer["lost"]:
            return Answer(int(self._answer["tick"]), None, 0.0)
        seconds = float(self._answer["seconds"])
        self.seconds.append(seconds)
        return Answer(int(self._answer["tick"]), self._answer["chunk"], seconds)

    def dead(self) -> bool:
        if self._broken or self._process is None or not self._process.is_alive():
            return True
        return bool(self._read_line()["crashed"])

    def reachable(self) -> bool:
        return not self._read_line()["lost"]

    def _read_line(self) -> dict[str, np.ndarray]:
        # Overtaken while reading: what was true at the last tick still is, as far as we know.
        self._line.read(self._line_state)
        return self._line_state

    def silence_s(self, now_ns: int) -> float:
        # Its own time, not when the loop looked: else a tick or two would be forgiven.
        return max(0.0, (now_ns - max(self._chunks.beat_ns, self._begun_ns)) * 1e-9)

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
