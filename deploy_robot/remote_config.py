"""Where a remote policy is and how it is spoken to. Next: `remote_client.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..datasets.schema import Embodiment, unknown_name
from .remote_access import check_token, is_loopback
from .remote_openpi import OpenPiKeys

IMAGES = ("auto", "raw", "jpeg")


@dataclass(frozen=True)
class RemoteConfig:
    """Where the policy is and how it is spoken to."""

    url: str
    """`ws://host:port`, or `wss://` with TLS."""
    policy: str = ""
    """Which of the server's policies; empty: the only one."""
    embodiment: Embodiment | None = None
    """The robot; a policy trained for another is refused. None: whatever it was trained for."""
    realtime: str | None = None
    """How the policy joins chunks (`Policy.use_realtime`); None: as its config says."""
    token: str = ""
    authority: Path | None = None
    """Certificate to trust, in PEM form; None: those of the system."""
    timeout_s: float = 0.8
    """A call ends within it. Below the gate's `max_policy_silence_s`, which would stop the arm."""
    first_timeout_s: float = 120.0
    """The same for the very first answer of a server of openpi's, which compiles meanwhile."""
    connect_s: float = 10.0
    """How long a server may take to be there at first."""
    images: Literal["auto", "raw", "jpeg"] = "auto"
    """How pictures travel to our servers (openpi's take raw ones): `auto` is raw on this machine,
    where copying is cheaper than encoding, and JPEG over a network."""
    quality: int = 95
    """Of JPEG, 0 to 100."""
    openpi_keys: OpenPiKeys | Mapping[str, str] | None = None
    """For a server of openpi's, also in words (`keys_of_words`); None: those of its LIBERO
    policies."""
    back_off_s: tuple[float, float] = (0.1, 2.0)
    """First and longest pause between two attempts to connect."""
    ping_s: float = 1.0
    """A server that is silent for so long is pinged; one that does not answer is gone."""

    def __post_init__(self) -> None:
        check_token(self.token)
        if self.images not in IMAGES:
            raise unknown_name("way of sending images", self.images, IMAGES)
        if not 0 <= self.quality <= 100:
            raise ValueError(f"JPEG quality {self.quality} is not within 0 to 100")
        if min(self.timeout_s, self.first_timeout_s, self.connect_s, self.ping_s) <= 0:
            raise ValueError("the time-outs of a remote policy must be greater than 0")

    def jpeg_quality(self) -> int | None:
        """None: pictures travel raw."""
        host = self.url.split("://")[-1].split("/")[0].rsplit(":", 1)[0]
        near = self.images == "auto" and is_loopback(host)
        return None if near or self.images == "raw" else self.quality
