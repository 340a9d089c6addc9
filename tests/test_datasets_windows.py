"""Window indices against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulna.datasets.windows import Windows, window_rows


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    before=st.integers(0, 5),
    after=st.integers(0, 20),
)
def test_windows_equal_brute_force(lengths: list[int], before: int, after: int):
    owner = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    windows = Windows(np.array(lengths))
    assert len(windows) == len(owner)
    offsets = np.arange(-before, after + 1)
    index = np.arange(len(windows))[::-1]
    episodes = windows.episodes(index)
    rows, is_pad = window_rows(windows, index, episodes, offsets)
    for place, window in enumerate(index):
        episode, step = owner[window]
        assert episodes[place] == episode
        assert window - windows.first_rows(episodes)[place] == step
        for column, offset in enumerate(offsets):
            nearest = min(max(step + offset, 0), lengths[episode] - 1)
            assert owner[rows[place, column]] == (episode, nearest)
            assert is_pad[place, column] == (nearest != step + offset)


def test_an_empty_episode_is_refused():
    with pytest.raises(ValueError, match="episode 1 has no steps"):
        Windows(np.array([3, 0, 2]))
