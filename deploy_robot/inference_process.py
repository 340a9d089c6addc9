"""The other end of `inference_worker.py`: the process in which the policy lives.

It is told things over its connection, in the order they were said: `episode`, `instruction`,
`look` (the newest observation is worth an answer), `end`. Observations, chunks and whether a
policy that is elsewhere can be reached are in shared memory.
"""

import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

from ..datasets.schema import Act, Embodiment, Observation
from ..envs.rollout import noise_seed, with_history
from .inference import PolicyUnavailable, Probing
from .policy_units import speaking
from .processes import encode, obey_parent_only, report_crash
from .robot import RobotState
from .shared_record import Field, SharedRecord

WARM_UP_CALLS = 3
LOOK = encode(("look", None))
_IDLE_POLL_S = 0.02


def infer(connection: Connection) -> None:
    """Main function of the inference process."""
    obey_parent_only()
    try:
        try:
            act = connection.recv()()
            torch = sys.modules.get("torch")
            if torch is not None:
                torch.set_num_threads(1)  # the other cores belong to the arm and its cameras
            message = connection.recv()
            if message[0] == "units":
                act = speaking(act, message[1])
                message = connection.recv()
            if message[0] == "end":
                return
            embodiment, history = message[1][0], message[1][3]
            horizon, seconds = _warm_up(act, *message[1])
        except (ValueError, OSError, PolicyUnavailable) as error:
            if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
                raise
            connection.send(("refused", str(error)))
            return
        connection.send(("ready", (horizon, seconds)))
        _Serving(connection, act, embodiment, horizon, history).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the control process is gone: nobody is left to answer
    except Exception:
        report_crash(connection)
        raise SystemExit(1) from None


def _warm_up(
    act: Act, embodiment: Embodiment, instruction: str, continues: bool, history: int
) -> tuple[int, float]:
    state = RobotState.empty(embodiment)
    blank = with_history([Observation(state.images, state.state, instruction)], history)
    shape, seconds, planned = (0, 0), 0.0, None
    for call in range(WARM_UP_CALLS):
        observation = replace(blank, noise_seed=call, planned=planned)
        started = time.perf_counter()
        chunk = act(observation)
        seconds = time.perf_counter() - started
        shape = np.shape(chunk)
        if len(shape) != 2 or shape[1] != embodiment.action_dim:
            raise ValueError(
                f"the policy gave an action chunk of shape {shape}, but {embodiment.name} takes "
                f"(horizon, {embodiment.action_dim}); use a policy trained for this embodiment"
            )
        planned = np.array(chunk, np.float32) if continues else None
    return shape[0], seconds


class _Serving:
    """The inside of the inference process, once the policy is loaded."""

    def __init__(
        self,
        connection: Connection,
        act: Act,
        embodiment: Embodiment,
        horizon: int,
        history: int,
    ) -> None:
        self.connection, self.act = connection, act
        self.shape = (horizon, embodiment.action_dim)
        # Several observations come stacked in one record: by the time the policy looks, those of
        # the ticks before may be gone from anywhere else.
        before = () if history == 1 else (history,)
        self.observations = SharedRecord(
            (
                Field("state", "float32", (*before, embodiment.state_dim)),
                Field("tick", "int64"),
                Field("episode", "int64"),
                Field("planned", "float32", self.shape),
                Field("planned_count", "int64"),
                Field("inference_delay", "int64"),
                *(
                    Field(
                        f"image.{camera.name}", "uint8", (*before, camera.height, camera.width, 3)
                    )
                    for camera in embodiment.cameras
                ),
            )
        )
        self.chunks = SharedRecord(
            (
                Field("chunk", "float32", self.shape),
                Field("tick", "int64"),
                Field("episode", "int64"),
                Field("seconds", "float64"),
                Field("lost", "bool"),
            )
        )
        self.line = SharedRecord((Field("lost", "bool"), Field("crashed", "bool")))
        for record in (self.observations, self.chunks, self.line):
            record.send(connection)
        self.seen = self.observations.empty()
        self.images = {
            camera.name: self.seen[f"image.{camera.name}"] for camera in embodiment.cameras
        }
        self.episode, self.seed, self.instruction = 0, 0, ""
        self.reachable = True

    def serve(self) -> None:
        """Answer until told to end."""
        try:
            self._serve()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            # The arm is to know at once, not when the interpreter has cleaned up behind itself.
            self._say(False, crashed=True)
            raise

    def _serve(self) -> None:
        while True:
            self.chunks.beat()
            if not self.connection.poll(_IDLE_POLL_S):
                if isinstance(self.act, Probing):
                    self._say(self.act.probe())
                continue
            look = False
            while self.connection.poll(0):
                kind, value = self.connection.recv()
                if kind == "end":
                    return
                if kind == "look":
                    look = True
                elif kind == "instruction":
                    self.instruction = value
                else:
                    self.episode, self.seed, self.instruction = value
            if look and self.observations.read(self.seen) and self.seen["episode"] == self.episode:
                self._answer()

    def _answer(self) -> None:
        seen, tick = self.seen, int(self.seen["tick"])
        count = int(seen["planned_count"])
        observation = Observation(
            self.images,
            seen["state"],
            self.instruction,
            noise_seed(self.seed, max(tick, 0)),
            seen["planned"][:count] if count else None,
            int(seen["inference_delay"]),
        )
        started = time.perf_counter()
        try:
            chunk = self.act(observation)
        except PolicyUnavailable:
            chunk = None
        seconds = time.perf_counter() - started
        if chunk is not None and np.shape(chunk) != self.shape:
            raise ValueError(
                f"the policy's chunk changed shape from {self.shape} to {np.shape(chunk)}; a "
                "policy on an arm must keep its horizon"
            )
        self._say(chunk is not None)
        slot = self.chunks.begin()
        if chunk is not None:
            slot["chunk"][...] = chunk
        slot["lost"][...] = chunk is None
        slot["tick"][...] = tick
        slot["episode"][...] = self.episode
        slot["seconds"][...] = seconds
        self.chunks.commit()

    def _say(self, reachable: bool, crashed: bool = False) -> None:
        if reachable != self.reachable or crashed:
            self.reachable = reachable
            slot = self.line.begin()
            slot["lost"][...], slot["crashed"][...] = not reachable, crashed
            self.line.commit()
