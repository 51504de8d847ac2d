"""An episode that could not be brought back ends behind its newest row, as a time limit would have ended it."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.replay import cut, init, insert
from sparserl_jax.replay.windows import window_at
from tests.replay.common import experience

ROWS, ENVS = 7, 3


def filled(steps, rows, first):
    replay = init(ROWS, ENVS, 2, 1, 2, False, jnp.asarray(first))
    for t in range(steps):
        replay = insert(replay, t, type(rows)(*(part[t] for part in rows)))
    return replay


@pytest.mark.parametrize("steps", [3, ROWS - 1, ROWS, 2 * ROWS + 3])
def test_cut_is_what_a_truncation_at_that_row_would_have_left(steps):
    first, rows, _ = experience(1, steps, ENVS, terminate=0.0, truncate=0.0)
    replay = filled(steps, rows, first)
    fresh = np.full((ENVS, 2), 9.0, np.float32)
    lost = np.array([True, False, True])
    following = np.where(lost[:, None], fresh, rows.next_obs[-1])
    found = cut(replay, steps, lost, following)

    newest = type(rows)(*(part[-1] for part in rows))._replace(truncated=lost, next_obs=following)
    wanted = insert(filled(steps - 1, rows, first), steps - 1, newest)
    for name, ours, theirs in zip(found._fields, found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_windows_close_at_the_cut_with_the_observation_the_episode_stood_at():
    first, rows, _ = experience(1, 5, ENVS, terminate=0.0, truncate=0.0)
    replay = filled(5, rows, first)
    found = cut(replay, 5, np.array([True, False, False]), np.zeros((ENVS, 2), np.float32))
    window = window_at(found, 5, jnp.array([3]), jnp.array([0]), 2, 2)
    assert (int(window.used[0]), bool(window.truncated[0, 1]), bool(window.valid[0])) == (2, True, True)
    np.testing.assert_array_equal(window.closing_obs[0], rows.final_obs[4, 0])


def test_nothing_lost_changes_nothing_but_the_coming_observation():
    first, rows, _ = experience(1, 5, ENVS)
    replay = filled(5, rows, first)
    found = cut(replay, 5, np.zeros(ENVS, bool), rows.next_obs[-1])
    for name, ours, theirs in zip(found._fields, found, replay, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
