"""Everything a control tick knew and did, in arrays that exist before the first tick.

One row per tick. The flight recorder writes the same columns into a store after the episode; the
tick itself only assigns numbers.
"""

import numpy as np
from jaxtyping import Float

from .interventions import Intervention
from .orders import TickRecord

_COLUMNS = {
    "tick": np.int64,
    "scheduled_ns": np.int64,
    "woke_ns": np.int64,
    "sent_ns": np.int64,
    "observation_time_ns": np.int64,
    "observation_tick": np.int64,
    "observation_version": np.int64,
    "chunk": np.int32,
    "action_index": np.int32,
    "inference_delay": np.int32,
    "gate": np.int32,
    "source": np.int8,
    "instruction": np.int32,
}


class TickLog:
    """Rows of one episode. Columns by name: `log["lateness_ns"]`, `log["action_sent"]`."""

    def __init__(self, capacity: int, state_dim: int, action_dim: int) -> None:
        self.rows = 0
        self.capacity = capacity
        self._columns = {name: np.zeros(capacity, kind) for name, kind in _COLUMNS.items()}
        self._columns["state"] = np.zeros((capacity, state_dim), np.float32)
        self._columns["action_due"] = np.full((capacity, action_dim), np.nan, np.float32)
        self._columns["action_sent"] = np.zeros((capacity, action_dim), np.float32)
        # Touched now, so that no tick pays for the first use of a page of memory.
        for column in self._columns.values():
            column.fill(column.flat[0])

    def add(self, record: TickRecord, state: Float[np.ndarray, " state_dim"]) -> None:
        """Append a tick. A full log drops it: the control loop ends an episode before that, and an
        arm must not stop for its diary."""
        row = self.rows
        if row == self.capacity:
            return
        columns = self._columns
        for name in _COLUMNS:
            columns[name][row] = getattr(record, name)
        columns["state"][row] = state
        columns["action_due"][row] = record.action_due
        columns["action_sent"][row] = record.action_sent
        self.rows = row + 1

    def __getitem__(self, name: str) -> np.ndarray:
        if name == "lateness_ns":
            return self["woke_ns"] - self["scheduled_ns"]
        if name == "work_ns":
            return self["sent_ns"] - self["woke_ns"]
        return self._columns[name][: self.rows]

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns, cut to the rows that were written."""
        return {name: self[name].copy() for name in self._columns}


def count_interventions(gate: np.ndarray) -> dict[str, int]:
    """How many ticks showed each intervention; those that never happened are listed with 0."""
    return {
        (bit.name or "").lower(): int(np.count_nonzero(gate & bit.value)) for bit in Intervention
    }
