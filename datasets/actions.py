"""What an action *is* for the network, and back: per part of its vector, invertibly.

Data holds commands as a robot takes them. A network learns some forms more easily: relative to
where the arm is, rotations without jumps, grippers that all open the same way round.

    recorded chunk, state --ActionSpace.to_network--> what the network predicts
                   ^                                           |
                   +------------ ActionSpace.from_network -----+

    absolute         delta            chunk_relative         s: state, 1..4: targets
    s 1 2 3 4        s->1->2->3->4    s->1 s->2 s->3 s->4    arrow: what is predicted

Every tick depends on ticks before it only, so padding at a chunk's end disturbs nothing. Units stay
those of the data; statistics of the network's form come from `action_stats.py`. The words are in
`action_parts.py`, what a rotation is in `rotations.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from .action_parts import (
    ActionPart,
    Slice,
    StatePart,
    check_action_parts,
    check_state_parts,
    described,
)
from .action_turns import before, origins, turns_from_network, turns_to_network, written
from .rotations import (
    ENTRIES,
    Rotation,
    from_matrix,
    require_rotations,
    to_matrix,
)
from .schema import Embodiment

Turns = dict[Slice, tuple[np.ndarray, np.ndarray]]
"""Per rotation part: orientation in the state (batch, 3, 3) and targets (batch, horizon, 3, 3)."""


@dataclass(frozen=True)
class ActionSpace:
    """Actions and states of one robot, and their forms for the network."""

    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    parts: tuple[ActionPart, ...]
    """Together every action entry once, in order."""
    state_parts: tuple[StatePart, ...] = ()
    """What of the state the network sees in another form, in order; all else as recorded."""

    @staticmethod
    def of(
        embodiment: Embodiment,
        parts: Sequence[ActionPart] = (),
        state_parts: Sequence[StatePart] = (),
    ) -> "ActionSpace":
        """The space of a robot; without `parts` all of its action stays as recorded."""
        whole = ActionPart("other", (0, embodiment.action_dim))
        space = ActionSpace(
            embodiment.action_names,
            embodiment.state_names,
            tuple(parts) or (whole,),
            tuple(state_parts),
        )
        order = embodiment.quaternion_order
        for rotation in {part.rotation for part in (*space.parts, *space.state_parts)}:
            if order and rotation in {"quat_wxyz", "quat_xyzw"} - {f"quat_{order}"}:
                raise ValueError(
                    f"a part says {rotation}, but quaternions of {embodiment.name} are in the "
                    f"order {order}; correct the part or the embodiment"
                )
        return space

    def __post_init__(self) -> None:
        check_state_parts(self.state_parts, self.state_names)
        check_action_parts(self.parts, self.action_names, self.state_names)
        if not self.state_slices:
            raise ValueError(
                "every state entry is hidden; show one, or leave the state out of the policy"
            )
        for part in self.parts:
            if part.turns and part.state is not None:
                self._measured(part)
            if part.is_in_tool_frame:
                self._tool_of(part)

    @property
    def is_as_recorded(self) -> bool:
        """True if the network sees all as it is recorded."""
        return not self.state_parts and all(part.mode == "as_recorded" for part in self.parts)

    @cached_property
    def network_slices(self) -> tuple[Slice, ...]:
        """Where each part lies in the network's action."""
        slices, stop = [], 0
        for part in self.parts:
            start, stop = (
                stop,
                stop + (ENTRIES[part.network_rotation] if part.turns else part.width),
            )
            slices.append((start, stop))
        return tuple(slices)

    @cached_property
    def state_slices(self) -> tuple[tuple[StatePart | None, Slice, Slice], ...]:
        """Part (None: as recorded), place in the state, place in the network's state."""
        rows, done, stop = [], 0, 0
        end = len(self.state_names)
        for part in (*self.state_parts, None):
            begin = part.state[0] if part else end
            if begin > done:
                rows.append((None, (done, begin), (stop, stop + begin - done)))
                stop += begin - done
            if part is not None:
                done = part.state[1]
            if part is not None and part.kind != "hidden":
                width = ENTRIES[part.network_rotation] if part.rotation else done - begin
                rows.append((part, part.state, (stop, stop + width)))
                stop += width
        return tuple(rows)

    @property
    def network_dim(self) -> int:
        """Entries of an action as the network sees it."""
        return self.network_slices[-1][1]

    @property
    def network_state_dim(self) -> int:
        return self.state_slices[-1][2][1]

    @property
    def network_names(self) -> tuple[str, ...]:
        """A name for every entry of the network's action."""
        names = []
        for part, (start, stop) in zip(self.parts, self.network_slices, strict=True):
            own = self.action_names[slice(*part.action)]
            turned = [f"{own[0]}:{part.network_rotation}[{i}]" for i in range(stop - start)]
            names += turned if part.turns else own
        return tuple(names)

    def to_network(
        self,
        chunk: Float32[np.ndarray, "batch horizon action_dim"],
        state: Float32[np.ndarray, "batch state_dim"],
    ) -> Float32[np.ndarray, "batch horizon network_dim"]:
        """Recorded chunks as the network is to predict them; `state` is that at their start."""
        self._check_shapes(chunk, state, self.action_names)
        out = np.empty((*chunk.shape[:2], self.network_dim), np.float32)
        turns: Turns = {}
        for part, place in self._turning_first():
            values, to = chunk[..., slice(*part.action)], out[..., slice(*place)]
            if part.turns:
                target = self._recorded(values, part.rotation, "action", part.action)
                turns[part.action] = self._start(part, state), target
                to[:] = turns_to_network(part, *turns[part.action])
            elif part.is_relative:
                start, target = self._origin(part, state), values.astype(np.float64)
                step = target - (before(start, target) if part.mode == "delta" else start)
                if part.is_in_tool_frame:
                    axes = origins(part, *turns[self._tool_of(part)])
                    step = (np.swapaxes(axes, -1, -2) @ step[..., None])[..., 0]
                to[:] = step
            elif part.mode == "absolute" and part.gripper is not None:
                what = described("action", part.action, self.action_names)
                to[:] = part.gripper.to_network(values, what)
            else:
                to[:] = values
        return out

    def from_network(
        self,
        chunk: Float32[np.ndarray, "batch horizon network_dim"],
        state: Float32[np.ndarray, "batch state_dim"],
    ) -> Float32[np.ndarray, "batch horizon action_dim"]:
        """Commands from what the network predicted: the inverse of `to_network`.

        A rotation comes back the same, written as `from_matrix` does; quaternions with the sign
        nearest to the state's. Nothing is cut to a range but grippers that say so.
        """
        self._check_shapes(chunk, state, self.network_names)
        out = np.empty((*chunk.shape[:2], len(self.action_names)), np.float32)
        turns: Turns = {}
        for part, place in self._turning_first():
            values, to = chunk[..., slice(*place)], out[..., slice(*part.action)]
            if part.turns:
                start = self._start(part, state)
                target = turns_from_network(part, start, values)
                turns[part.action] = start, target
                measured = (
                    (self._measured(part), state[:, slice(*part.state)]) if part.state else None
                )
                to[:] = written(part, target, measured)
            elif part.is_relative:
                step = values.astype(np.float64)
                if part.is_in_tool_frame:
                    axes = origins(part, *turns[self._tool_of(part)])
                    step = (axes @ step[..., None])[..., 0]
                moved = np.cumsum(step, axis=1) if part.mode == "delta" else step
                to[:] = self._origin(part, state) + moved
            elif part.mode == "absolute" and part.gripper is not None:
                to[:] = part.gripper.from_network(values)
            else:
                to[:] = values
        return out

    def state_to_network(
        self, state: Float32[np.ndarray, "*batch state_dim"]
    ) -> Float32[np.ndarray, "*batch network_state_dim"]:
        """The state, or a history of them, as the network sees it."""
        if state.shape[-1] != len(self.state_names):
            raise _wrong_shape("state", self.state_names, state)
        out = np.empty((*state.shape[:-1], self.network_state_dim), np.float32)
        for part, place, to in self.state_slices:
            values = state[..., slice(*place)]
            if part is not None and part.rotation is not None:
                matrices = self._recorded(values, part.rotation, "state", place)
                values = from_matrix(matrices, part.network_rotation)
            elif part is not None and part.gripper is not None:
                values = part.gripper.to_network(
                    values, described("state", place, self.state_names)
                )
            out[..., slice(*to)] = values
        return out

    # ------------------------------------------------------------------ inside

    def _turning_first(self) -> list[tuple[ActionPart, Slice]]:
        """Parts and their places; rotations first, for positions may be in their frame."""
        pairs = zip(self.parts, self.network_slices, strict=True)
        return sorted(pairs, key=lambda pair: not pair[0].turns)

    def _origin(self, part: ActionPart, state: np.ndarray) -> np.ndarray:
        assert part.state is not None
        return state[:, None, slice(*part.state)].astype(np.float64)

    def _start(self, part: ActionPart, state: np.ndarray) -> np.ndarray:
        """Orientation in the state, (batch, 3, 3); the unit matrix where none is measured."""
        if part.state is None:
            return np.broadcast_to(np.eye(3), (len(state), 3, 3))
        values = state[:, slice(*part.state)]
        return self._recorded(values, self._measured(part), "state", part.state)

    def _recorded(
        self, values: np.ndarray, rotation: Rotation | None, what: str, entries: Slice
    ) -> np.ndarray:
        assert rotation is not None
        names = self.state_names if what == "state" else self.action_names
        require_rotations(values, rotation, described(what, entries, names))
        return to_matrix(values, rotation)

    def _measured(self, part: ActionPart) -> Rotation:
        """How the state records the rotation that `part` commands."""
        for measured in self.state_parts:
            if measured.state == part.state and measured.rotation is not None:
                return measured.rotation
        raise ValueError(
            f"{described('action', part.action, self.action_names)}: nothing says how the state "
            f"entries {part.state} record a rotation; add a StatePart of kind 'rotation' (or "
            "'hidden') with these entries and rotation=..."
        )

    def _tool_of(self, part: ActionPart) -> Slice:
        """Action entries of the rotation whose frame a position is given in."""
        turning = [o.action for o in self.parts if o.turns and o.state is not None]
        wanted = turning if part.tool is None else [t for t in turning if t == part.tool]
        if len(wanted) == 1 and part.width == 3:
            return wanted[0]
        raise ValueError(
            f"{described('action', part.action, self.action_names)}: a position in the frame "
            "'tool' has 3 entries and turns with one rotation part (not as_recorded, with its "
            f"state); there are {', '.join(str(t) for t in turning) or 'none'} and "
            f"tool={part.tool}. Set tool=... or frame='base'"
        )

    def _check_shapes(self, chunk: np.ndarray, state: np.ndarray, names: tuple[str, ...]) -> None:
        if chunk.shape[-1] != len(names):
            raise _wrong_shape("action", names, chunk)
        if state.shape != (len(chunk), len(self.state_names)):
            raise _wrong_shape(f"state for {len(chunk)} chunks", self.state_names, state)


def _wrong_shape(what: str, names: tuple[str, ...], got: np.ndarray) -> ValueError:
    return ValueError(
        f"{what}: expected {len(names)} entries ({', '.join(names)}), got shape {got.shape}; use "
        "data of the robot this space was made for"
    )
