"""Index arithmetic of (episode, step) windows: pure numpy, no data.

Episodes lie one after the other in one long array of rows. A window is one step of one episode;
what it gathers around that step is clamped to its own episode, and said to be padding there.

        rows            0 1 2 3 4 | 5 6 7          episode 0 has 5 steps, episode 1 has 3
        window 3                                   (episode 0, step 3), horizon 4
        gathers         3 4 4 4                    never row 5
        padding         . . P P

Next: `loader.py` (batches through these indices).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Windows:
    """Every step of every episode, as four parallel arrays."""

    episode: Int[np.ndarray, " windows"]
    """Position of the episode in the `lengths` given to `make_windows`."""
    step: Int[np.ndarray, " windows"]
    """Step within the episode."""
    first_row: Int[np.ndarray, " windows"]
    """First row of the episode."""
    last_row: Int[np.ndarray, " windows"]
    """Last row of the episode."""

    def __len__(self) -> int:
        return len(self.step)

    @property
    def row(self) -> Int[np.ndarray, " windows"]:
        """Row of the window's own step."""
        return self.first_row + self.step


def make_windows(lengths: Int[np.ndarray, " episodes"]) -> Windows:
    """One window per step, in order of episode and step."""
    if (lengths < 1).any():
        raise ValueError(f"episode {int(np.argmax(lengths < 1))} has no steps")
    first = np.cumsum(lengths) - lengths
    episode = np.repeat(np.arange(len(lengths)), lengths)
    first_row = first[episode]
    return Windows(
        episode=episode,
        step=np.arange(int(lengths.sum())) - first_row,
        first_row=first_row,
        last_row=first_row + lengths[episode] - 1,
    )


def window_rows(
    windows: Windows,
    index: Int[np.ndarray, " batch"],
    offsets: Int[np.ndarray, " offsets"],
) -> tuple[Int[np.ndarray, "batch offsets"], Bool[np.ndarray, "batch offsets"]]:
    """Rows at `offsets` steps from each window of `index`, and which of them are padding.

    `np.arange(horizon)` gives action chunks, `np.arange(1 - history, 1)` gives histories.
    """
    first, last = windows.first_row[index][:, None], windows.last_row[index][:, None]
    wanted = windows.row[index][:, None] + offsets[None, :]
    rows = np.clip(wanted, first, last)
    return rows, rows != wanted
