"""What a policy server does for one client that was admitted: our protocol, and openpi's.

    event loop                                        policy thread
    serve_ulna    reader --> mailbox, one deep -----> _turn: read, act, pack
                  sender <----------------------------- the answer
    serve_openpi  one request -----------------------> read, act
                  one answer, then the next request

Bytes are looked into in the policy thread only, when their turn has come: what was replaced by
something newer costs nothing.

Next: `remote_messages.py`, `remote_openpi.py` (what is said).
"""

import asyncio
import functools
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from ..datasets.schema import Act, Embodiment, Observation
from ..envs.rollout import noise_seed
from .remote_messages import (
    Ask,
    Chunk,
    Failed,
    Hello,
    Offer,
    Refused,
    Superseded,
    Welcome,
    number_of,
    read,
    write,
)
from .remote_msgpack import packed
from .remote_openpi import (
    OpenPiKeys,
    metadata,
    openpi_keys,
    read_observation,
    write_actions,
)

_POLICY_FAILED = "the policy failed; the server's log says how"


@dataclass(frozen=True)
class ServedPolicy:
    """One policy a server has; called in the policy thread only."""

    embodiments: tuple[Embodiment, ...]
    horizon: int
    acting_for: Callable[[Embodiment | None, str | None], tuple[Embodiment, Act]]
    """The policy for this robot (None: its first) that joins chunks in this way (None: its own).
    Raises ValueError if it was not trained for that."""
    history: int = 1
    """Observations it sees at once."""


async def serve_ulna(
    line: ServerConnection,
    offer: Offer,
    policies: Mapping[str, ServedPolicy],
    named: Callable[[str], str],
    policy_thread: ThreadPoolExecutor,
    idle_s: float,
) -> str:
    """Serve one client in our protocol; returns why it was refused, if it was. Raises ValueError
    for bytes that are no message, TimeoutError if it asks nothing for `idle_s`, and what
    `websockets` raises at the end of a connection."""
    loop = asyncio.get_running_loop()
    await line.send(_joined(offer))
    hello = read(_binary(await _receive(line, idle_s)))
    if not isinstance(hello, Hello):
        raise ValueError(f"expected a hello, got {type(hello).__name__}")
    try:
        name = named(hello.policy)
        choose = functools.partial(policies[name].acting_for, hello.embodiment, hello.realtime)
        robot, act = await loop.run_in_executor(policy_thread, choose)
    except ValueError as error:
        await line.send(_joined(Refused(str(error))))
        return f"refused: {error}"
    policy = policies[name]
    await line.send(_joined(Welcome(name, robot, policy.horizon, policy.history)))

    mailbox: deque[tuple[bytes, float]] = deque()  # the reader replaces, a turn takes
    waiting = asyncio.Event()
    turn = functools.partial(_turn, mailbox, robot, act, policy.history)

    async def answer() -> None:
        while True:
            await waiting.wait()
            waiting.clear()
            reply = await loop.run_in_executor(policy_thread, turn)
            if reply is not None:
                await line.send(reply)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # it goes on for ever, so it failed; the reader shall not wait
            line.transport.abort()

    answering = asyncio.create_task(answer())
    answering.add_done_callback(ended)
    try:
        while True:
            data = _binary(await _receive(line, idle_s))
            try:
                replaced = mailbox.pop()
            except IndexError:
                replaced = None
            mailbox.append((data, time.monotonic()))
            waiting.set()
            if replaced is not None:
                await line.send(_joined(Superseded(number_of(replaced[0]))))
    finally:
        answering.cancel()
        await asyncio.wait((answering,))
        failure = None if answering.cancelled() else answering.exception()
        if failure is not None and not isinstance(failure, ConnectionClosed):
            traceback.print_exception(failure)


async def serve_openpi(
    line: ServerConnection,
    name: str,
    policy: ServedPolicy,
    keys: OpenPiKeys | Mapping[str, str] | None,
    policy_thread: ThreadPoolExecutor,
    idle_s: float,
) -> str:
    """Serve one client of openpi's; returns why it was let go, raises like `serve_ulna`."""
    loop = asyncio.get_running_loop()
    robot, act = await loop.run_in_executor(policy_thread, policy.acting_for, None, None)
    keys = openpi_keys(keys, robot)
    await line.send(packed(metadata(keys, robot, name, policy.horizon)))
    number, before_ms = 0, None
    while True:
        data = await _receive(line, idle_s)
        started = time.perf_counter()
        seed = noise_seed(0, number)  # its clients choose none
        try:
            look = functools.partial(read_observation, _binary(data), keys, robot, seed)
            turn = functools.partial(_act, act, look, robot)
            chunk, act_ms = await loop.run_in_executor(policy_thread, turn)
        except ValueError as error:
            await line.send(f"ValueError: {error}")
            continue
        except Exception:
            traceback.print_exc()
            await line.send(_POLICY_FAILED)
            await line.close(CloseCode.INTERNAL_ERROR, _POLICY_FAILED)
            return "the policy failed"
        timing = {"infer_ms": act_ms}
        if before_ms is not None:
            timing["prev_total_ms"] = before_ms
        await line.send(b"".join(write_actions(chunk, keys, timing)))
        number, before_ms = number + 1, (time.perf_counter() - started) * 1e3


async def _receive(line: ServerConnection, idle_s: float) -> bytes | str:
    async with asyncio.timeout(idle_s):
        return await line.recv()


def _turn(
    mailbox: deque[tuple[bytes, float]], robot: Embodiment, act: Act, history: int
) -> bytes | None:
    """In the policy thread: answer the newest ask, if there is one."""
    try:
        data, came = mailbox.pop()
    except IndexError:
        return None  # it was answered together with the one before
    number = 0
    wait_ms = (time.monotonic() - came) * 1e3
    try:
        number = number_of(data)
        ask = read(data, robot, history)
        if not isinstance(ask, Ask):
            raise ValueError(f"expected an ask, got {type(ask).__name__}")
        chunk, act_ms = _act(act, lambda: ask.observation, robot)
    except ValueError as error:
        return _joined(Failed(number, str(error)[:2000]))
    except Exception:
        traceback.print_exc()
        return _joined(Failed(number, _POLICY_FAILED))
    return _joined(Chunk(number, chunk, act_ms, wait_ms))


def _act(act: Act, look: Callable[[], Observation], robot: Embodiment) -> tuple[np.ndarray, float]:
    observation = look()
    started = time.perf_counter()
    chunk = np.asarray(act(observation), np.float32)
    act_ms = (time.perf_counter() - started) * 1e3
    if chunk.ndim != 2 or chunk.shape[1] != robot.action_dim:
        raise RuntimeError(f"a chunk of shape {chunk.shape} for {robot.action_dim} action entries")
    return chunk, act_ms


def _joined(message: Any) -> bytes:
    return b"".join(write(message))


def _binary(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise ValueError("expected a binary message, got text")
    return data
