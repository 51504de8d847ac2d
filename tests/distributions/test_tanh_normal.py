"""The tanh-squashed normal has the density it says, also where the squash saturates and in other boxes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl_jax.distributions import TanhNormal, bounded_log_std, rescaled


def by_hand(before: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Log density of tanh(before) in double precision, the squash by log cosh: -log(1 - tanh^2) = 2 log cosh."""
    before, mean, log_std = (np.asarray(x, np.float64) for x in (before, mean, log_std))
    normal = -0.5 * ((before - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return (normal + 2 * (np.logaddexp(before, -before) - math.log(2))).sum(axis=-1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-5, 2), st.floats(-4, 4)), min_size=1, max_size=4),
)
def test_density_of_a_draw_is_that_of_the_formula_in_double_precision(parts):
    mean, log_std, noise = np.array(parts, np.float32).T
    action, found = TanhNormal(mean, log_std).at(noise)
    before = mean.astype(np.float64) + np.exp(log_std.astype(np.float64)) * noise
    expected = by_hand(before, mean, log_std)
    np.testing.assert_allclose(action, np.tanh(before), atol=1e-5)
    assert abs(float(found) - expected) <= 1e-4 * (1 + abs(expected))


@pytest.mark.parametrize("mean, log_std", [(0.0, -1.0), (0.8, 0.3), (-2.0, -2.5), (1.5, 1.0)])
@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (-2.0, 2.0), (0.0, 0.5)])
def test_density_integrates_to_the_mass_of_the_normal_over_the_box(mean, log_std, low, high):
    """Trapezoids over a = tanh(u), |u| <= 6: the density of `log_density`, shifted by `rescaled`, over [low, high]."""

    def below(u: float) -> float:
        return 0.5 * (1 + math.erf((u - mean) / (math.exp(log_std) * math.sqrt(2))))

    before = np.linspace(-6, 6, 20_001)
    action = np.tanh(before)
    known = TanhNormal(jnp.full((1,), mean), jnp.full((1,), log_std))
    log_density = jax.vmap(lambda a: rescaled(known.log_density(a[None]), [low], [high]))(action)
    scaled = low + (action + 1) * (high - low) / 2
    mass = np.exp(np.asarray(log_density, np.float64))
    assert np.trapezoid(mass, scaled) == pytest.approx(below(6) - below(-6), abs=2e-3)
    # Half the mass lies below what `mode` says, which is the median whatever the spread.
    lower = scaled <= low + (float(known.mode[0]) + 1) * (high - low) / 2
    assert np.trapezoid(mass[lower], scaled[lower]) == pytest.approx(0.5 - below(-6), abs=5e-3)


def test_draws_follow_the_density():
    """Shares of a million draws in twenty bins against the integral of the density over each."""
    known = TanhNormal(jnp.array([0.4]), jnp.array([-0.2]))
    wide = TanhNormal(*(jnp.broadcast_to(x, (1_000_000, 1)) for x in known))
    action, log_density = jax.jit(lambda key: wide.sample(key))(jax.random.key(0))
    edges = np.linspace(-1, 1, 21)
    share = np.histogram(action, edges)[0] / len(action)
    quantile = [
        0.5 * (1 + math.erf((math.atanh(edge) - 0.4) / (math.exp(-0.2) * math.sqrt(2))))
        for edge in edges[1:-1]
    ]
    np.testing.assert_allclose(share, np.diff([0.0, *quantile, 1.0]), atol=2e-3)
    inside = np.abs(action[:, 0]) < 0.999
    np.testing.assert_allclose(
        log_density[inside], jax.vmap(known.log_density)(action[inside]), rtol=1e-3, atol=1e-3
    )


def test_saturated_actions_have_finite_densities_and_gradients():
    """Where tanh(u) is exactly 1 in single precision, 1 - tanh(u)^2 would be 0 and its logarithm infinite."""
    mean = jnp.array([[30.0], [-30.0], [9.5], [0.0]])
    noise = jnp.array([[0.5], [-0.5], [2.0], [0.0]])

    def total(mean: jax.Array, log_std: jax.Array) -> jax.Array:
        return jnp.sum(TanhNormal(mean, log_std).at(noise)[1])

    log_std = jnp.zeros_like(mean)
    action, found = TanhNormal(mean, log_std).at(noise)
    assert np.all(np.abs(action[:3]) == 1.0)
    np.testing.assert_allclose(found, by_hand(mean + noise, mean, log_std), rtol=1e-5)
    for gradient in jax.grad(total, argnums=(0, 1))(mean, log_std):
        assert np.all(np.isfinite(gradient))
    assert np.all(np.isfinite(TanhNormal(mean, log_std).log_density(action)))


def test_gradients_are_those_of_finite_differences():
    mean, log_std, noise = np.array([0.3, -1.2]), np.array([-0.5, 0.4]), np.array([0.7, -1.1])

    def density(mean: np.ndarray, log_std: np.ndarray) -> float:
        return float(by_hand(mean + np.exp(log_std) * noise, mean, log_std))

    found = jax.grad(lambda m, s: TanhNormal(m, s).at(noise.astype(np.float32))[1], argnums=(0, 1))(
        mean.astype(np.float32), log_std.astype(np.float32)
    )
    for place in range(2):
        step = np.eye(2)[place] * 1e-5
        by_mean = (density(mean + step, log_std) - density(mean - step, log_std)) / 2e-5
        by_std = (density(mean, log_std + step) - density(mean, log_std - step)) / 2e-5
        assert (float(found[0][place]), float(found[1][place])) == pytest.approx((by_mean, by_std), rel=1e-3)


def test_log_standard_deviations_lie_within_their_bounds():
    raw = jnp.array([-1e6, -1.0, 0.0, 1.0, 1e6])
    found = np.asarray(bounded_log_std(raw))
    np.testing.assert_allclose(found, -5 + 3.5 * (np.tanh(np.asarray(raw)) + 1), atol=1e-6)
    assert (found[0], found[2], found[-1]) == (-5.0, -1.5, 2.0) and np.all(np.diff(found) > 0)
