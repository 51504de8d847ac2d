"""Schedules give the published event counts and exact integer drop tables."""

import numpy as np
import pytest

from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import schedules

INTERVAL, CRITIC_END, ACTOR_END = 10_000, 2_975_000, 1_487_500


def test_the_published_schedule_has_297_critic_and_148_actor_events():
    critic, actor = schedules.event_ticks(INTERVAL, CRITIC_END), schedules.event_ticks(INTERVAL, ACTOR_END)
    assert (len(critic), len(actor)) == (297, 148)
    assert (critic[0], critic[-1], actor[-1]) == (10_000, 2_970_000, 1_480_000)


def test_critic_and_actor_first_change_together_at_update_20_000():
    critic = schedules.event_ticks(INTERVAL, CRITIC_END)
    actor = 2 * schedules.event_ticks(INTERVAL, ACTOR_END)  # the actor ticks on every second update
    assert np.intersect1d(critic, actor)[0] == 20_000


@pytest.mark.parametrize(
    "interval, end, ticks", [(5, 15, [5, 10]), (5, 16, [5, 10, 15]), (5, 5, []), (5, 0, []), (1, 3, [1, 2])]
)
def test_no_event_falls_on_or_after_the_end(interval, end, ticks):
    assert schedules.event_ticks(interval, end).tolist() == ticks


def test_cosine_runs_from_zeta0_to_zero():
    assert schedules.cosine(0.5, 0, 100) == 0.5
    assert schedules.cosine(0.5, 50, 100) == pytest.approx(0.25)
    assert schedules.cosine(0.5, 100, 100) == 0.0
    assert schedules.cosine(0.5, 150, 100) == 0.0


def test_drop_counts_are_truncated_products_in_float64():
    counts = [1950, 3657, 1536, 0]
    table = schedules.drop_counts(counts, 0.5, INTERVAL, CRITIC_END)
    assert table.shape == (297, 4) and table.dtype == np.int32
    zeta = 0.25 * (1 + np.cos(np.pi * 10_000 * np.arange(1, 298) / CRITIC_END))
    np.testing.assert_array_equal(table, np.floor(np.outer(zeta, counts)))
    assert table[0].tolist() == [974, 1828, 767, 0]
    assert (table[:, 3] == 0).all() and (np.diff(table, axis=0) <= 0).all()


def test_drop_counts_without_events_keep_their_columns():
    assert schedules.drop_counts([3, 4], 0.5, 10, 10).shape == (0, 2)


def test_cubic_meets_both_ends_and_is_flat_outside():
    steps = [0, 200, 500, 800, 1000]
    values = [schedules.cubic(0.95, step, 200, 800) for step in steps]
    assert values == pytest.approx([0, 0, 0.95 * (1 - 0.5**3), 0.95, 0.95])
    assert schedules.cubic(0.9, 0, 10, 20, initial=0.5) == pytest.approx(0.5)


def test_impossible_schedules_are_refused():
    with pytest.raises(UserError, match="interval"):
        schedules.event_ticks(0, 10)
    with pytest.raises(UserError, match="drop fraction"):
        schedules.drop_counts([3], 1.5, 1, 10)
    with pytest.raises(UserError, match="pruning"):
        schedules.cubic(0.9, 0, 10, 10)
