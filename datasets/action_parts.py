"""The words in which `actions.py` is told what an action is: parts of its vector, of the state's.

action of a UMI-like arm     x y z | rx ry rz | gripper
parts                     position | rotation | gripper
                     each with its place, what it is relative to, how the network sees it
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from .rotations import ENTRIES, Rotation
from .schema import unknown_name

Slice = tuple[int, int]
"""First entry and the one after the last."""
Mode = Literal["as_recorded", "absolute", "delta", "chunk_relative"]


@dataclass(frozen=True)
class Gripper:
    """How one robot counts its gripper. The network always sees **1 = open, 0 = closed**."""

    open_at: float
    """Value that opens it, or at which it is open."""
    closed_at: float
    binary: bool = False
    """Only these two values are recorded (others are refused) and sent: the nearer one."""
    clip: bool = False
    """Commands are cut to the range between the two values. A binary one needs none."""

    def __post_init__(self) -> None:
        if self.open_at == self.closed_at:
            raise ValueError(f"gripper: open and closed are both {self.open_at}; they must differ")

    def to_network(
        self, values: Float[np.ndarray, "*rows entries"], what: str
    ) -> Float[np.ndarray, "*rows entries"]:
        openness = (values.astype(np.float64) - self.closed_at) / (self.open_at - self.closed_at)
        if self.binary:
            off = ~(np.minimum(np.abs(openness), np.abs(openness - 1)) <= 1e-3)
            if off.any():
                raise ValueError(
                    f"{what}: a binary gripper is recorded as {self.open_at} or {self.closed_at}, "
                    f"got {float(values[off][0])}; correct the data, or say binary=False"
                )
        return openness

    def from_network(
        self, openness: Float[np.ndarray, "*rows entries"]
    ) -> Float[np.ndarray, "*rows entries"]:
        openness = openness.astype(np.float64)
        if self.binary:
            openness = np.where(np.isnan(openness), openness, openness > 0.5)
        elif self.clip:
            openness = openness.clip(0, 1)
        return self.closed_at + openness * (self.open_at - self.closed_at)


GRIPPERS = {
    "robosuite": Gripper(open_at=-1.0, closed_at=1.0),  # and robomimic, LIBERO
    "unit_open_high": Gripper(open_at=1.0, closed_at=0.0),  # ALOHA, Open X-Embodiment
    "unit_closed_high": Gripper(open_at=0.0, closed_at=1.0),  # DROID
    "percent_open_high": Gripper(open_at=100.0, closed_at=0.0),  # LeRobot's SO-100 and SO-101
}
"""The conventions met most. A gripper recorded in metres states its own two values."""


@dataclass(frozen=True)
class ActionPart:
    """A run of action entries and what the network makes of it."""

    kind: Literal["position", "rotation", "joints", "gripper", "other"]
    action: Slice
    mode: Mode = "as_recorded"
    """`as_recorded`: untouched, whatever it means. For the others the data holds absolute targets
    and the network sees
    `absolute`        them (rotations in `network_rotation`, grippers as 1 = open, 0 = closed);
    `delta`           each relative to the tick before, the first relative to the state. Errors of
                      a chunk add up;
    `chunk_relative`  each relative to the state at the chunk's start (pi0's and openpi's "delta
                      actions", LeRobot's "relative actions", UMI)."""
    state: Slice | None = None
    """The state entries that measure the same; needed to be relative. For a rotation these must be
    a `StatePart`, which says how they are recorded."""
    frame: Literal["base", "tool"] = "tool"
    """Axes of relative positions (R^T (p' - p) in `tool`, as UMI; p' - p in `base`) and rotations
    (R^T R' in `tool`, R' R^T in `base`). Joints and others are only subtracted."""
    tool: Slice | None = None
    """For a position relative in the frame `tool`: the action entries of the rotation that turns
    that frame. None: there is one rotation only."""
    rotation: Rotation | None = None
    """How a rotation is recorded (`rotations.py`); needed unless `as_recorded`."""
    network_rotation: Rotation = "rot6d"
    gripper: Gripper | None = None
    """Its convention; needed unless `as_recorded`."""

    @property
    def width(self) -> int:
        return self.action[1] - self.action[0]

    @property
    def is_relative(self) -> bool:
        return self.mode in ("delta", "chunk_relative")

    @property
    def turns(self) -> bool:
        """A rotation that the network sees in another form than the data's."""
        return self.kind == "rotation" and self.mode != "as_recorded"

    @property
    def is_in_tool_frame(self) -> bool:
        """A position whose form depends on a rotation."""
        return self.kind == "position" and self.is_relative and self.frame == "tool"


@dataclass(frozen=True)
class StatePart:
    """A run of state entries that the network sees differently from how they are recorded."""

    kind: Literal["rotation", "gripper", "hidden"]
    """`hidden`: measured and needed for relative actions, but not shown to the network (UMI hides
    where the tool is, so that the policy does not depend on where the base stands)."""
    state: Slice
    rotation: Rotation | None = None
    """How a rotation is recorded. May be given for a hidden one, which actions are relative to."""
    network_rotation: Rotation = "rot6d"
    gripper: Gripper | None = None


def check_action_parts(
    parts: tuple[ActionPart, ...], action_names: tuple[str, ...], state_names: tuple[str, ...]
) -> None:
    """Refuse parts that overlap, leave a gap or contradict themselves."""
    covered = 0
    for part in parts:
        _check_place(part.action, covered, action_names, "action")
        if part.action[0] > covered:
            raise _gap((covered, part.action[0]), action_names)
        covered = part.action[1]
        _check_action_part(part, described("action", part.action, action_names), state_names)
    if covered < len(action_names):
        raise _gap((covered, len(action_names)), action_names)


def check_state_parts(parts: tuple[StatePart, ...], state_names: tuple[str, ...]) -> None:
    """The same of the state, whose entries may be in no part."""
    covered = 0
    for part in parts:
        _check_place(part.state, covered, state_names, "state")
        covered = part.state[1]
        what = described("state", part.state, state_names)
        kind = "rotation" if part.kind == "hidden" and part.rotation else part.kind
        _check_forms(kind, part.rotation, part.gripper, part.state[1] - part.state[0], what)
        if part.kind == "rotation" and part.rotation is None:
            raise _rotation_unsaid(what)
        if part.kind == "gripper" and part.gripper is None:
            raise _gripper_unsaid(what)


def described(what: str, entries: Slice, names: tuple[str, ...]) -> str:
    """`entries` for a message, such as: action entries (3, 4) (gripper)."""
    return f"{what} entries {entries} ({', '.join(names[slice(*entries)])})"


def _check_action_part(part: ActionPart, what: str, state_names: tuple[str, ...]) -> None:
    if part.mode not in get_args(Mode):
        raise unknown_name(f"mode of {what}", part.mode, get_args(Mode))
    _check_forms(part.kind, part.rotation, part.gripper, part.width, what)
    if part.turns and part.rotation is None:
        raise _rotation_unsaid(what)
    if part.kind == "gripper" and part.is_relative:
        raise ValueError(f"{what}: a gripper is as_recorded or absolute, got {part.mode}")
    if part.kind == "gripper" and part.mode == "absolute" and part.gripper is None:
        raise _gripper_unsaid(what)
    if part.state is None:
        if part.is_relative:
            raise ValueError(
                f"{what}: {part.mode} needs the state entries it is relative to, state=(start, "
                f"stop). The state has {len(state_names)}: {', '.join(state_names)}"
            )
        return
    _check_place(part.state, 0, state_names, f"{what}: state")
    measured = part.state[1] - part.state[0]
    if part.kind != "rotation" and measured != part.width:
        raise ValueError(
            f"{what}: {part.width} entries, but {measured} of the state "
            f"({', '.join(state_names[slice(*part.state)])}); they must measure the same"
        )


def _check_forms(
    kind: str, rotation: Rotation | None, gripper: Gripper | None, width: int, what: str
) -> None:
    if gripper is not None and kind != "gripper":
        raise ValueError(f"{what}: a gripper convention is given, but its kind is {kind!r}")
    if rotation is not None and kind != "rotation":
        raise ValueError(f"{what}: rotation={rotation!r} is given, but its kind is {kind!r}")
    if rotation is not None and width != ENTRIES[rotation]:
        raise ValueError(
            f"{what}: a rotation as {rotation} has {ENTRIES[rotation]} entries, these are {width}"
        )


def _check_place(entries: Slice, covered: int, names: tuple[str, ...], what: str) -> None:
    start, stop = entries
    if not 0 <= start < stop <= len(names):
        raise ValueError(
            f"{what} entries {entries} do not exist; there are {len(names)}: {', '.join(names)}"
        )
    if start < covered:
        twice = described(what, (start, max(start + 1, min(covered, stop))), names)
        raise ValueError(
            f"{twice} are in two parts, or parts are not in order; give every entry once, first to "
            "last"
        )


def _gap(entries: Slice, names: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"{described('action', entries, names)} are in no part; add ActionPart('other', {entries}) "
        "to leave them as recorded"
    )


def _rotation_unsaid(what: str) -> ValueError:
    return ValueError(
        f"{what}: say how this rotation is recorded, rotation=... Known: {', '.join(ENTRIES)}"
    )


def _gripper_unsaid(what: str) -> ValueError:
    return ValueError(
        f"{what}: say which values open and close it, gripper=Gripper(open_at, closed_at) or one "
        f"of GRIPPERS ({', '.join(GRIPPERS)})"
    )
