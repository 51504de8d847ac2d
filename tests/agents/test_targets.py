"""Multi-step targets equal their re-statement, whatever ends inside the window."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sparserl_jax.agents.targets import LONGEST, discounts, entropy_discounts, n_step_return
from tests.reference import conformance
from tests.reference.nstep import n_step

GAMMA = 0.9


def window(rewards, terminated=None, truncated=None):
    """One window of three rows; `terminated` and `truncated` name the row that ends the episode."""
    used = 1 + min(row for row in (terminated, truncated, 2) if row is not None)
    place = np.arange(3)
    return SimpleNamespace(
        rewards=np.where(place < used, np.float32(rewards), 0)[None],
        terminated=(place == terminated)[None] & (place < used),
        truncated=(place == truncated)[None] & (place < used),
        used=np.array([used], np.int32),
    )


@pytest.mark.parametrize(
    "ends, total, discount",
    [
        ({}, 1 + 0.9 * 2 + 0.81 * 4, 0.729),  # the episode goes on: bootstrap after three rows
        ({"terminated": 0}, 1, 0),
        ({"terminated": 1}, 1 + 0.9 * 2, 0),
        ({"terminated": 2}, 1 + 0.9 * 2 + 0.81 * 4, 0),
        ({"truncated": 0}, 1, 0.9),  # a time limit bootstraps from where it cut
        ({"truncated": 1}, 1 + 0.9 * 2, 0.81),
        ({"truncated": 2}, 1 + 0.9 * 2 + 0.81 * 4, 0.729),
        ({"truncated": 0, "terminated": 1}, 1, 0.9),  # the next episode's terminal is none of ours
        ({"terminated": 0, "truncated": 1}, 1, 0),
    ],
)
def test_windows_worked_out_by_hand(ends, total, discount):
    found = n_step_return(window([1, 2, 4], **ends), GAMMA)
    np.testing.assert_allclose([x[0] for x in found], [total, discount], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_traced_table_of_discounts_gives_what_a_constant_gives(steps):
    batch = conformance.batch(12, 50, steps)
    constant = jax.jit(n_step_return, static_argnums=1)(batch, GAMMA)
    traced = jax.jit(n_step_return)(batch, discounts(GAMMA))
    for one, other in zip(constant, traced, strict=True):
        np.testing.assert_allclose(
            one, other, rtol=2e-6, atol=1e-6
        )  # XLA may fuse one sum otherwise than the other


def test_discounts_are_computed_in_double_precision():
    table = discounts(0.99)
    assert table.dtype == np.float32 and table.shape == (LONGEST + 1,)
    np.testing.assert_array_equal(table, (np.float64(0.99) ** np.arange(LONGEST + 1)).astype(np.float32))
    assert (discounts(1) == 1).all()


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_every_window_equals_the_restatement(steps):
    batch = conformance.batch(11, 400, steps)
    total, discount = jax.jit(n_step_return, static_argnums=1)(batch, GAMMA)
    kinds = set()
    for i in range(400):
        rewards, terminated, truncated = batch.rewards[i], batch.terminated[i], batch.truncated[i]
        expected = n_step(rewards, ~terminated, truncated, GAMMA)
        np.testing.assert_allclose((total[i], discount[i]), expected[:2], atol=1e-5)
        kinds.add((int(batch.used[i]), bool(terminated.any()), bool(truncated.any())))
    assert len(kinds) == 2 * steps + 1  # both ends on every row, and windows without an end


def test_results_are_single_precision_rows():
    total, discount = n_step_return(conformance.batch(1, 6, 3), GAMMA)
    assert total.shape == discount.shape == (6,) and total.dtype == discount.dtype == np.float32


# ---- entropy along windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends, path, bootstrap",
    [
        ({}, [0.9, 0.81, 0.729], [0, 0, 0.729]),
        ({"terminated": 0}, [0, 0, 0], [0, 0, 0]),  # nobody acts in a terminal state
        ({"terminated": 1}, [0.9, 0, 0], [0, 0, 0]),
        ({"terminated": 2}, [0.9, 0.81, 0], [0, 0, 0]),
        ({"truncated": 0}, [0.9, 0, 0], [0.9, 0, 0]),  # but somebody would have acted behind a time limit
        ({"truncated": 1}, [0.9, 0.81, 0], [0, 0.81, 0]),
        ({"truncated": 2}, [0.9, 0.81, 0.729], [0, 0, 0.729]),
    ],
)
def test_entropies_of_windows_worked_out_by_hand(ends, path, bootstrap):
    batch = window([1, 2, 4], **ends)
    for flag, expected in ((True, path), (False, bootstrap)):
        np.testing.assert_allclose(entropy_discounts(batch, GAMMA, flag)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_last_entropy_of_a_window_counts_as_much_as_the_value_it_belongs_to(steps):
    """And in windows of one step there is no other: both targets are the standard one."""
    batch = conformance.batch(13, 100, steps)
    _, discount = n_step_return(batch, GAMMA)
    both = [np.asarray(entropy_discounts(batch, GAMMA, flag)) for flag in (True, False)]
    for found in both:
        last = np.take_along_axis(found, batch.used[:, None] - 1, axis=1)[:, 0]
        np.testing.assert_allclose(last, discount, rtol=1e-6)
    assert np.array_equal(*both) == (steps == 1)
    np.testing.assert_allclose(both[1].sum(axis=1), discount, rtol=1e-6)
