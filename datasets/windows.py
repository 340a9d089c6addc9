"""Index arithmetic of (episode, step) windows: pure numpy, no data.

Episodes lie one after the other in one long array of rows. A window is one step of one episode;
what it gathers around that step is clamped to its own episode, and said to be padding there.

        rows            0 1 2 3 4 | 5 6 7          episode 0 has 5 steps, episode 1 has 3
        window 3                                   (episode 0, step 3), horizon 4
        gathers         3 4 4 4                    never row 5
        padding         . . P P

Next: `shuffle.py` (in which order), `loader.py` (batches through these indices).
"""

import numpy as np
from jaxtyping import Bool, Int64


class Windows:
    """Every step of every episode; window `i` is row `i`. Holds 8 bytes per episode."""

    def __init__(self, lengths: Int64[np.ndarray, " episodes"]) -> None:
        """`lengths`: steps of each episode."""
        if (lengths < 1).any():
            raise ValueError(f"episode {int(np.argmax(lengths < 1))} has no steps")
        self.ends: Int64[np.ndarray, " episodes"] = np.cumsum(lengths)
        """Row after the last one, per episode."""

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def first_rows(self, episode: Int64[np.ndarray, " *batch"]) -> Int64[np.ndarray, " *batch"]:
        """First row of each of these episodes (positions in `lengths`)."""
        return np.where(episode > 0, self.ends[episode - 1], 0)

    def episodes(self, index: Int64[np.ndarray, " batch"]) -> Int64[np.ndarray, " batch"]:
        """Position in `lengths` of the episode of each window."""
        return np.searchsorted(self.ends, index, side="right")


def window_rows(
    windows: Windows,
    index: Int64[np.ndarray, " batch"],
    episode: Int64[np.ndarray, " batch"],
    offsets: Int64[np.ndarray, " offsets"],
) -> tuple[Int64[np.ndarray, "batch offsets"], Bool[np.ndarray, "batch offsets"]]:
    """Rows at `offsets` steps from each window of `index`, and which of them are padding.

    `episode` is `windows.episodes(index)`. `np.arange(horizon)` gives action chunks,
    `np.arange(1 - history, 1)` gives histories.
    """
    first = windows.first_rows(episode)[:, None]
    last = windows.ends[episode][:, None] - 1
    wanted = index[:, None] + offsets[None, :]
    rows = np.clip(wanted, first, last)
    return rows, rows != wanted
