"""What a training run is told its actions are: a word, or a file that names entries.

    --actions chunk_relative    joints relative to where they are at the chunk's start, grippers not
    --actions delta             ... relative to the tick before
    --actions hand.toml         any robot; the words are those of `action_parts.py`:

        [[action]]
        kind = "position"
        entries = ["x", "y", "z"]
        mode = "chunk_relative"
        state = ["tool_x_m", "tool_y_m", "tool_z_m"]

        [[state]]
        kind = "hidden"
        entries = ["tool_x_m", "tool_y_m", "tool_z_m"]

What no part names stays as recorded.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .action_parts import GRIPPERS, ActionPart, Gripper, Mode, Slice, StatePart
from .actions import ActionSpace
from .rotations import Rotation
from .schema import Embodiment, unknown_name
from .strict_json import decode

WORDS: tuple[Mode, ...] = ("delta", "chunk_relative")


@dataclass(frozen=True)
class _ActionEntries:
    """An `ActionPart` by names."""

    kind: Literal["position", "rotation", "joints", "gripper", "other"]
    entries: tuple[str, ...]
    mode: Mode = "as_recorded"
    state: tuple[str, ...] = ()
    frame: Literal["base", "tool"] = "tool"
    tool: tuple[str, ...] = ()
    rotation: Rotation | None = None
    network_rotation: Rotation = "rot6d"
    gripper: str | Gripper | None = None


@dataclass(frozen=True)
class _StateEntries:
    """A `StatePart` by names."""

    kind: Literal["rotation", "gripper", "hidden"]
    entries: tuple[str, ...]
    rotation: Rotation | None = None
    network_rotation: Rotation = "rot6d"
    gripper: str | Gripper | None = None


@dataclass(frozen=True)
class _Forms:
    action: tuple[_ActionEntries, ...] = ()
    state: tuple[_StateEntries, ...] = ()


def action_space(actions: str, robot: Embodiment) -> ActionSpace:
    """The space of `robot` that `actions` asks for: empty (all as recorded), a word, or a file.

    Raises ValueError if it does not fit the robot, naming the entries there are.
    """
    if not actions:
        return ActionSpace.of(robot)
    if actions in WORDS:
        return _joints_relative("delta" if actions == "delta" else "chunk_relative", robot)
    path = Path(actions)
    if path.suffix != ".toml":
        raise unknown_name("form of actions", actions, [*WORDS, "FILE.toml"])
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a TOML file, or {' or '.join(WORDS)}")
    try:
        return _read(tomllib.loads(path.read_text()), robot)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}, robot {robot.name}: {error}") from error


def _joints_relative(mode: Mode, robot: Embodiment) -> ActionSpace:
    runs: list[tuple[Slice, Slice]] = []
    for place, name in enumerate(robot.action_names):
        if name not in robot.state_names or "gripper" in name.lower():
            continue
        state = robot.state_names.index(name)
        if runs and (runs[-1][0][1], runs[-1][1][1]) == (place, state):
            action_run, state_run = runs.pop()
            runs.append(((action_run[0], place + 1), (state_run[0], state + 1)))
        else:
            runs.append(((place, place + 1), (state, state + 1)))
    if not runs:
        raise ValueError(
            f"actions {mode!r}: no action of {robot.name} is measured under the same name; its "
            f"actions are {', '.join(robot.action_names)}, its state is "
            f"{', '.join(robot.state_names)}. Actions that are displacements are relative already; "
            "targets with other names are named in a TOML file"
        )
    parts = [ActionPart("joints", action, mode, state) for action, state in runs]
    return ActionSpace.of(robot, _without_gaps(parts, robot))


def _read(values: dict[str, object], robot: Embodiment) -> ActionSpace:
    forms = decode(_Forms, values, "the file")
    names, measured = robot.action_names, robot.state_names
    parts = [
        ActionPart(
            part.kind,
            _run("action", part.entries, names),
            part.mode,
            _run("state", part.state, measured) if part.state else None,
            part.frame,
            _run("action", part.tool, names) if part.tool else None,
            part.rotation,
            part.network_rotation,
            _gripper(part.gripper),
        )
        for part in forms.action
    ]
    state_parts = [
        StatePart(
            part.kind,
            _run("state", part.entries, measured),
            part.rotation,
            part.network_rotation,
            _gripper(part.gripper),
        )
        for part in forms.state
    ]
    state_parts.sort(key=lambda part: part.state)
    return ActionSpace.of(robot, _without_gaps(parts, robot), state_parts)


def _without_gaps(parts: Sequence[ActionPart], robot: Embodiment) -> list[ActionPart]:
    """`parts` in order; entries that none of them has stay as recorded."""
    found: list[ActionPart] = []
    covered = 0
    for part in sorted(parts, key=lambda part: part.action):
        if part.action[0] > covered:
            found.append(ActionPart("other", (covered, part.action[0])))
        found.append(part)
        covered = max(covered, part.action[1])
    if covered < robot.action_dim:
        found.append(ActionPart("other", (covered, robot.action_dim)))
    return found


def _run(what: str, entries: tuple[str, ...], known: tuple[str, ...]) -> Slice:
    for name in entries:
        if name not in known:
            raise unknown_name(f"{what} entry", name, known)
    places = [known.index(name) for name in entries]
    if not places or places != list(range(places[0], places[0] + len(places))):
        raise ValueError(
            f"{what} entries {', '.join(entries) or '(none)'} must follow one another as in the "
            f"data: {', '.join(known)}"
        )
    return places[0], places[-1] + 1


def _gripper(said: str | Gripper | None) -> Gripper | None:
    if not isinstance(said, str):
        return said
    if said not in GRIPPERS:
        raise unknown_name("gripper convention", said, GRIPPERS)
    return GRIPPERS[said]
