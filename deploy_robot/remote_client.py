"""A policy on another machine, as a function: `load_remote_act(url)` gives an `Act`.

    inference process                                   policy server
    act(observation) -- deadline timeout_s -- Link -->  ours, or one of openpi's
         |                                  ^
         +- PolicyUnavailable               |  a thread: connects again with back-off,
                                            +- pings while nothing is asked

Whatever happens to the server or the network, a call ends within its time-out: by a chunk, or by
PolicyUnavailable, upon which the control loop holds the arm. Which protocol is spoken is settled by
the subprotocol of the connection: a server that does not know ours is taken for openpi's.

Next: `remote_link.py` (one connection), `remote_server.py` (the other end).
"""

import random
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment, Observation, require_same_embodiment, unknown_name
from .inference import PolicyUnavailable
from .remote_access import check_token, client_tls
from .remote_config import RemoteConfig
from .remote_link import Link, LinkLost, LinkRefused
from .remote_messages import (
    SUBPROTOCOL,
    Chunk,
    Failed,
    Hello,
    Offer,
    Offered,
    Refused,
    Superseded,
    Welcome,
    read,
    write,
    write_ask,
)
from .remote_msgpack import read_openpi, unpack
from .remote_openpi import OpenPiKeys, keys_of_words, read_actions, write_observation

_TEND_S = 0.1
_BUSY_S = 0.01


def load_remote_act(url: str, token: str = "", **options: Any) -> "RemoteAct":
    """The policy at `url` as an `Act`; `options` are the fields of `RemoteConfig`.

    Raises ValueError if no server is there within `connect_s`, or if it refuses: a wrong token,
    another protocol version, no such policy, a policy for another robot.
    """
    return RemoteAct(RemoteConfig(url, token=token, **options))


def policies_at(
    url: str, token: str = "", authority: Path | None = None, connect_s: float = 10.0
) -> dict[str, Offered]:
    """What the server at `url` has, by name: horizon, and the robots it was trained for. Empty for
    a server of openpi's, which does not say. Raises ValueError if no server answers or admits."""
    tls, deadline = client_tls(url, authority), time.monotonic() + connect_s
    try:
        link = Link(url, (SUBPROTOCOL,), check_token(token), tls, deadline)
        try:
            if link.subprotocol is None:
                return {}
            data = link.receive(deadline)
        finally:
            link.close()
    except LinkLost as error:
        raise ValueError(str(error)) from error
    offer = read(data) if isinstance(data, bytes) else None
    if not isinstance(offer, Offer):
        raise ValueError(f"{url} began with something else than an offer")
    return offer.policies


class RemoteAct:
    """An `Act` whose policy is elsewhere. One thread calls it; `close` ends its own thread."""

    horizon: int | None
    """Of the chunks; None before the first answer of a server of openpi's."""
    history: int
    """Observations the policy sees at once; 1 at a server of openpi's."""
    embodiment: Embodiment | None
    """The robot that the policy acts for; None: unknown, as with openpi's servers."""
    policy: str
    openpi: bool
    """The server is one of openpi's: no names to compare, no plan to join, no chosen noise."""
    metadata: dict[str, Any]
    """What a server of openpi's says about itself."""
    reconnected: int
    """How often the connection was made anew."""
    act_ms: float
    """The policy's own time for the last chunk, as the server measured it (ours only)."""

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self.horizon, self.embodiment, self.policy = None, config.embodiment, config.policy
        self.history = 1
        self.openpi, self.metadata = False, {}
        self.reconnected, self.act_ms = 0, 0.0
        self._tls: ssl.SSLContext | None = client_tls(config.url, config.authority)
        self._keys, self._jpeg_quality = config.openpi_keys, config.jpeg_quality()
        self._link: Link | None = None
        self._using = threading.Lock()
        self._closing = threading.Event()
        self._why = "not connected yet"
        self._number = 0
        self._answered = False
        self._used_at = time.monotonic()
        self._connect_at_first()
        self._thread = threading.Thread(target=self._keep, name="remote policy", daemon=True)
        self._thread.start()

    def __call__(self, observation: Observation) -> Float[np.ndarray, "horizon action_dim"]:
        """The chunk, or PolicyUnavailable within `timeout_s`; ValueError for an observation that
        this policy cannot be given."""
        patient = self.openpi and not self._answered
        limit = self.config.first_timeout_s if patient else self.config.timeout_s
        deadline = time.monotonic() + limit
        if not self._using.acquire(timeout=limit):
            raise PolicyUnavailable("the policy server is being looked for")
        try:
            if self._link is None:
                raise PolicyUnavailable(self._why)
            self._check_history(observation)
            ask = self._ask_openpi if self.openpi else self._ask_ulna
            chunk = ask(self._link, observation, deadline)
            self._used_at = time.monotonic()
        except LinkLost as error:
            self._drop(str(error))
            raise PolicyUnavailable(str(error)) from error
        finally:
            self._using.release()
        self._answered, self.horizon = True, len(chunk)
        return chunk

    def probe(self) -> bool:
        """Whether the server is there now: connected, and alive when last looked at."""
        return self._link is not None

    def close(self) -> None:
        self._closing.set()
        self._thread.join(self.config.timeout_s + 1.0)
        with self._using:
            self._drop("closed")

    # Asking.

    def _ask_ulna(self, link: Link, observation: Observation, deadline: float) -> np.ndarray:
        self._number += 1
        link.send(write_ask(self._number, observation, self._jpeg_quality), deadline)
        while True:
            answer = self._read(link.receive(deadline))
            if isinstance(answer, Chunk) and answer.number == self._number:
                self.act_ms = answer.act_ms
                return answer.actions
            if isinstance(answer, Failed | Superseded) and answer.number == self._number:
                reason = answer.reason if isinstance(answer, Failed) else "asked twice"
                raise PolicyUnavailable(f"the policy server could not answer: {reason}")

    def _check_history(self, observation: Observation) -> None:
        """Here, not at the server: it is the caller's mistake, and asking again cannot help."""
        shape = observation.state.shape
        if shape[:-1] == (() if self.history == 1 else (self.history,)):
            return
        if self.openpi:
            raise ValueError(
                f"state: shape {shape}, which is several observations; openpi's protocol has room "
                "for one. Serve a policy that sees several by `ulna serve`"
            )
        raise ValueError(
            f"state: shape {shape}; the policy {self.policy} sees {self.history} at once, oldest "
            f"first: run it with history={self.history}"
        )

    def _ask_openpi(self, link: Link, observation: Observation, deadline: float) -> np.ndarray:
        if observation.planned is not None and len(observation.planned):
            raise ValueError(
                "a policy server of openpi's cannot be told the plan under way; use another mode "
                "than rtc, or `ulna serve`"
            )
        if not isinstance(self._keys, OpenPiKeys):
            self._keys = keys_of_words(self._keys or {}, tuple(observation.images))
        link.send(write_observation(observation, self._keys), deadline)
        try:
            return read_actions(link.receive(deadline), self._keys)
        except ValueError as error:
            # Its server hangs up after an error, and what it says is for people to read.
            raise LinkLost(str(error)) from error

    def _read(self, data: bytes | str) -> Any:
        try:
            if isinstance(data, str):
                raise ValueError(f"text: {data[:200]}")
            return read(data)
        except ValueError as error:
            raise LinkLost(f"{self.config.url} does not speak our protocol: {error}") from error

    # Being connected.

    def _connect_at_first(self) -> None:
        deadline = time.monotonic() + self.config.connect_s
        for pause in self._pauses():
            try:
                self._link = self._connect(deadline)
                return
            except LinkLost as error:
                if time.monotonic() + pause >= deadline:
                    raise ValueError(
                        f"{error} (tried for {self.config.connect_s:g} s); start one there with "
                        "`ulna serve RUN`"
                    ) from error
                time.sleep(pause)

    def _connect(self, deadline: float) -> Link:
        """A connection on which observations may be sent."""
        config = self.config
        link = Link(config.url, (SUBPROTOCOL,), config.token, self._tls, deadline)
        try:
            self.openpi = link.subprotocol is None
            if self.openpi:
                self._greet_openpi(link, deadline)
            else:
                self._greet_ulna(link, deadline)
        except (LinkLost, ValueError):
            link.close()
            raise
        self._used_at = time.monotonic()
        return link

    def _greet_ulna(self, link: Link, deadline: float) -> None:
        offer = self._read(link.receive(deadline))
        if not isinstance(offer, Offer):
            raise LinkLost(f"{self.config.url} began with {type(offer).__name__}, not an offer")
        if self.config.policy and self.config.policy not in offer.policies:
            raise unknown_name("policy of this server", self.config.policy, offer.policies)
        hello = Hello(self.config.policy, self.embodiment, self.config.realtime)
        link.send(write(hello), deadline)
        answer = self._read(link.receive(deadline))
        if isinstance(answer, Refused):
            raise LinkRefused(f"{self.config.url} refuses: {answer.reason}")
        if not isinstance(answer, Welcome):
            raise LinkLost(f"{self.config.url} answered a hello by {type(answer).__name__}")
        if self.embodiment is not None:
            require_same_embodiment(answer.embodiment, self.embodiment, "this robot")
        if self.horizon is not None and answer.horizon != self.horizon:
            raise LinkRefused(
                f"{self.config.url} has another policy now: a horizon of {answer.horizon}, it was "
                f"{self.horizon}"
            )
        if self.horizon is not None and answer.history != self.history:
            raise LinkRefused(
                f"{self.config.url} has another policy now: it sees {answer.history} observations "
                f"at once, the one before {self.history}"
            )
        self.embodiment, self.horizon = answer.embodiment, answer.horizon
        self.policy, self.history = answer.policy, answer.history

    def _greet_openpi(self, link: Link, deadline: float) -> None:
        first = link.receive(deadline)
        try:
            found = read_openpi(unpack(first)) if isinstance(first, bytes) else None
        except ValueError as error:
            raise LinkRefused(f"{self.config.url} is no policy server: {error}") from error
        if not isinstance(found, dict):
            raise LinkRefused(
                f"{self.config.url} is no policy server: it began with {first[:80]!r}"
            )
        self.metadata = found

    def _drop(self, why: str) -> None:
        link, self._link, self._why = self._link, None, why
        if link is not None:
            link.close()

    def _keep(self) -> None:
        """The thread: connects again when the connection is lost, and sees at once that it is."""
        while not self._closing.is_set():
            link = self._link
            if link is None:
                self._reconnect()
                continue
            link.await_data(_TEND_S)
            if self._using.acquire(blocking=False):
                try:
                    self._tend()
                finally:
                    self._using.release()
            else:
                self._closing.wait(_BUSY_S)  # a call is under way and looks itself

    def _tend(self) -> None:
        if self._link is None:
            return
        try:
            self._link.tend()
            now = time.monotonic()
            if now - self._used_at > self.config.ping_s:
                self._link.ping(now + self.config.timeout_s)
                self._used_at = time.monotonic()
        except LinkLost as error:
            self._drop(str(error))

    def _reconnect(self) -> None:
        pauses = self._pauses()
        while not self._closing.is_set():
            try:
                link = self._connect(time.monotonic() + self.config.connect_s)
            except (LinkLost, ValueError) as error:
                # A refusal too: the server may be started again with the right policy.
                self._why = str(error)
                self._closing.wait(next(pauses))
                continue
            with self._using:
                self._link = link
                self.reconnected += 1
            return

    def _pauses(self) -> Iterator[float]:
        pause, longest = self.config.back_off_s
        while True:
            yield pause * random.uniform(0.8, 1.2)  # a room of robots does not knock at once
            pause = min(2 * pause, longest)
