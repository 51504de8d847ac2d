"""What an offline dataset says of its episodes."""

import numpy as np

from sparserl_jax.data import OfflineDataset


def test_episodes_end_where_they_terminate_or_are_cut() -> None:
    terminated = np.array([False, True, False, False, False])
    truncated = np.array([False, False, False, True, True])
    column = np.zeros((5, 1), np.float32)
    made = OfflineDataset(
        column, column, np.array([1, 2, 4, 8, 16], np.float32), column, terminated, truncated
    )
    assert made.ends.tolist() == [False, True, False, True, True]
    assert made.episode.tolist() == [0, 0, 1, 1, 2]
    assert made.returns.tolist() == [3.0, 12.0, 16.0]
