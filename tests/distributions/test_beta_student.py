"""Beta and Student's t are scipy's: densities, draws, entropies; and their gradients are finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sparserl_jax.distributions import Beta, Student

DRAWS = 40_000
ALPHA, BETA = np.array([1.0, 2.5, 7.0, 40.0]), np.array([1.0, 1.2, 3.0, 900.0])
DOF = np.array([0.4, 1.0, 2.5, 200.0])


def wide(parameter: np.ndarray) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(parameter, jnp.float32), (DRAWS, len(parameter)))


def test_beta_is_scipys_stretched_to_the_box():
    known = Beta(jnp.array(ALPHA, jnp.float32), jnp.array(BETA, jnp.float32))
    theirs = stats.beta(ALPHA, BETA, loc=-1, scale=2)
    action = theirs.ppf(np.array([[0.02], [0.3], [0.5], [0.9]]))
    np.testing.assert_allclose(known.log_density(action), theirs.logpdf(action).sum(1), rtol=1e-3)
    np.testing.assert_allclose(known.entropy, theirs.entropy().sum(), rtol=1e-3)
    found = jax.jit(lambda key: Beta(wide(ALPHA), wide(BETA)).sample(key))(jax.random.key(0))
    assert np.all(np.abs(found) <= 1.0)
    for place in range(4):
        one = stats.beta(ALPHA[place], BETA[place], loc=-1, scale=2)
        assert stats.kstest(np.asarray(found[:, place], np.float64), one.cdf).pvalue > 1e-3
    grid = np.linspace(-1, 1, 20_001)
    best = [grid[np.argmax(stats.beta(a, b, loc=-1, scale=2).pdf(grid))] for a, b in zip(ALPHA[1:], BETA[1:])]
    np.testing.assert_allclose(known.mode, [0.0, *best], atol=2e-4)
    np.testing.assert_array_equal(known.support, [-np.ones(4), np.ones(4)])


def test_beta_has_finite_densities_and_gradients_at_its_bounds():
    def total(alpha, beta):
        return jnp.sum(Beta(alpha, beta).log_density(jnp.array([[-1.0], [0.0], [1.0]])))

    for alpha, beta in ((1.0, 1.0), (1.0 + 1e-6, 50.0), (300.0, 2.0)):
        value, slopes = jax.value_and_grad(total, (0, 1))(jnp.array([alpha]), jnp.array([beta]))
        assert np.isfinite(value) and np.all(np.isfinite(slopes))


def test_draws_of_beta_move_with_its_parameters():
    """The mean of draws is 2 alpha / (alpha + beta) - 1, and so is the mean of their derivatives its derivative."""

    def middle(alpha, beta):
        return jnp.mean(Beta(*(jnp.full((4_000, 1), x) for x in (alpha, beta))).sample(jax.random.key(3)))

    value, slopes = jax.jit(jax.value_and_grad(middle, (0, 1)))(3.0, 2.0)
    assert float(value) == pytest.approx(0.2, abs=2e-2)
    np.testing.assert_allclose(slopes, [2 * 2 / 25, -2 * 3 / 25], atol=1e-2)


def test_student_is_scipys_and_the_normal_where_its_tails_are_thin():
    mean, scale = np.array([0.0, -0.5, 2.0, 0.1]), np.array([1.0, 0.2, 3.0, 0.5])
    known = Student(*(jnp.array(x, jnp.float32) for x in (mean, np.log(scale), DOF)))
    theirs = stats.t(DOF, mean, scale)
    action = np.concatenate(
        [theirs.ppf(np.array([[0.02], [0.3], [0.5], [0.9]])), [[50.0, -50.0, 50.0, -3.0]]]
    )
    np.testing.assert_allclose(known.log_density(action), theirs.logpdf(action).sum(1), rtol=1e-3)
    np.testing.assert_allclose(known.entropy, theirs.entropy().sum(), rtol=1e-3)
    found = jax.jit(lambda key: Student(wide(mean), wide(np.log(scale)), wide(DOF)).sample(key))(
        jax.random.key(0)
    )
    for place in range(4):
        one = stats.t(DOF[place], mean[place], scale[place])
        assert stats.kstest(np.asarray(found[:, place], np.float64), one.cdf).pvalue > 1e-3
    assert np.all(np.isposinf(known.support[1])) and np.all(np.isneginf(known.support[0]))
    np.testing.assert_array_equal(known.mode, known.mean)
    many = Student(jnp.zeros(4), jnp.zeros(4), 1e6)
    inside = np.array([0.0, -1.0, 2.0, 0.3])
    np.testing.assert_allclose(many.log_density(inside), stats.norm.logpdf(inside).sum(), rtol=1e-3)
    np.testing.assert_allclose(many.entropy, 4 * stats.norm.entropy(), rtol=1e-3)


@pytest.mark.parametrize("dof", [0.7, 3.0, 30.0])
def test_student_draws_and_densities_have_the_gradients_of_finite_differences(dof):
    @jax.jit
    def both(mean, log_scale, log_dof):
        known = Student(jnp.full(8, mean), jnp.full(8, log_scale), jnp.exp(log_dof))
        return jnp.append(known.sample(jax.random.key(2)), known.log_density(jnp.linspace(-2.0, 3.0, 8)))

    at = jnp.array([0.3, -0.5, np.log(dof)])
    slopes = jax.jacobian(lambda at: both(*at))(at)
    assert np.all(np.isfinite(slopes))
    for place in range(3):
        way = jnp.zeros(3).at[place].set(4e-3)
        expected = (both(*(at + way)) - both(*(at - way))) / 8e-3
        np.testing.assert_allclose(slopes[:, place], expected, rtol=2e-2, atol=5e-3)


def test_draws_of_the_heaviest_tails_are_numbers_with_finite_densities():
    """With 0.05 degrees of freedom most lengths have no square in single precision, if none were held."""
    known = Student(jnp.zeros((20_000, 1)), jnp.zeros((20_000, 1)), 0.05)
    found = jax.jit(lambda key: known.sample(key))(jax.random.key(0))
    assert np.all(np.isfinite(found)) and np.max(np.abs(found)) > 1e15
    assert np.all(np.isfinite(known.log_density(found)))
