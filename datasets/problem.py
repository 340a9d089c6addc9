"""What a check found: `verify.py` (is it as it was written?), `quality.py` (is it worth learning
from?)."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One thing that a check found."""

    severity: Severity
    """error: data is lost or changed. warning: readable, but not what a robot should learn from.
    note: nothing wrong, but worth knowing."""
    message: str
    episode: int | None = None
    """Index into `store.episodes`; None if it concerns the store."""
    uid: str | None = None
    stream: str | None = None
    start: int | None = None
    """First step that it concerns; None: the whole episode."""
    stop: int | None = None
    """Step after the last one."""

    def __str__(self) -> str:
        if self.episode is None:
            return f"{self.severity}: {self.message}"
        stream = f", stream {self.stream!r}" if self.stream else ""
        return f"{self.severity}: episode {self.episode} (uid {self.uid}{stream}): {self.message}"
